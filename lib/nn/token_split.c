/*
 * Tokenizers: pre-tokenizers, which cut a piece of text into words.
 *
 * Each step cuts the piece it gets and hands every part to the next step;
 * behind the last one is the model.  A splitting step sees a row of parts
 * that match and parts that do not, and joins neighbours as its behavior
 * says ("a-b" at "-"):
 *
 *     removed  a b     isolated  a - b     with previous  a- b
 *     with next  a -b  contiguous: isolated, but matches in a row are one
 */
#include "token.h"

#include <string.h>

static int next_step(struct tok_run *r, size_t step, struct tok_text in,
                     bool first);

/* Joins the parts of one piece. */
struct joiner {
    struct tok_run *r;
    const struct tok_step *x;
    size_t step;
    const char *base;
    size_t from, to; /* the part that waits */
    bool waits, matched;
    bool first; /* the part that waits begins the text */
};

static int flush(struct joiner *j)
{
    if (!j->waits)
        return 0;
    const struct tok_text part = {j->base + j->from, j->to - j->from};
    const bool first = j->first && j->from == 0;
    j->waits = false;
    return part.n ? next_step(j->r, j->step + 1, part, first) : 0;
}

static bool joins(const struct joiner *j, bool match)
{
    switch (j->x->behavior) {
    case TOK_WITH_PREVIOUS:
        return match && !j->matched;
    case TOK_WITH_NEXT:
        return !match && j->matched;
    case TOK_CONTIGUOUS:
        return match == j->matched;
    default:
        return false;
    }
}

static int add_part(struct joiner *j, size_t from, size_t to, bool match)
{
    match = match != j->x->invert;
    if (j->waits && joins(j, match)) {
        j->to = to;
    } else {
        if (flush(j) != 0)
            return -1;
        j->waits = !(match && j->x->behavior == TOK_REMOVED);
        j->from = from;
        j->to = to;
    }
    j->matched = match;
    return 0;
}

static struct joiner join_parts(struct tok_run *r, size_t step,
                                struct tok_text in, bool first)
{
    return (struct joiner){.r = r,
                           .x = &r->t->splits.list[step],
                           .step = step,
                           .base = in.s,
                           .first = first};
}

/* At a pattern. */
static int split(struct tok_run *r, size_t step, struct tok_text in, bool first)
{
    struct joiner j = join_parts(r, step, in, first);
    struct tok_find f = tok_find_start(j.x, in, &r->matcher);
    size_t done = 0, from, to;
    int rc;
    while ((rc = tok_find_next(&f, &from, &to, r->e)) == 1) {
        if (from > done && add_part(&j, done, from, false) != 0)
            return -1;
        if (add_part(&j, from, to, true) != 0)
            return -1;
        done = to;
    }
    if (rc != 0 || (done < in.n && add_part(&j, done, in.n, false) != 0))
        return -1;
    return flush(&j);
}

static bool char_matches(enum tok_kind kind, uint32_t c)
{
    return kind == TOK_DIGITS        ? tok_is_numeric(c)
           : kind == TOK_PUNCTUATION ? tok_is_punctuation(c)
                                     : tok_is_space(c);
}

/* At characters of a kind, each a match of its own. */
static int split_chars(struct tok_run *r, size_t step, struct tok_text in,
                       bool first)
{
    struct joiner j = join_parts(r, step, in, first);
    size_t done = 0, k;
    for (size_t i = 0; i < in.n; i += k) {
        if (!char_matches(j.x->kind, tok_char(in.s + i, in.n - i, &k)))
            continue;
        if (i > done && add_part(&j, done, i, false) != 0)
            return -1;
        if (add_part(&j, i, i + k, true) != 0)
            return -1;
        done = i + k;
    }
    if (done < in.n && add_part(&j, done, in.n, false) != 0)
        return -1;
    return flush(&j);
}

/* Spaces become the replacement, one is put before, words begin with it. */
static int metaspace(struct tok_run *r, size_t step, struct tok_text in,
                     bool first)
{
    const struct tok_step *const x = &r->t->splits.list[step];
    const bool has = (in.n > 0 && in.s[0] == ' ') || tok_starts(in, x->content);
    struct pq_buf *const b = &r->words[step];

    b->n = 0;
    if (!has &&
        (x->prepend == TOK_ALWAYS || (x->prepend == TOK_FIRST && first)))
        pq_buf_add(b, x->content.s, x->content.n);
    for (size_t i = 0; i < in.n;) {
        const char *const p = memchr(in.s + i, ' ', in.n - i);
        const size_t to = p ? (size_t)(p - in.s) : in.n;
        pq_buf_add(b, in.s + i, to - i);
        if (p)
            pq_buf_add(b, x->content.s, x->content.n);
        i = to + (p != NULL);
    }
    if (b->failed)
        return pq_fail_nomem(r->e);
    const struct tok_text text = {b->s ? b->s : "", b->n};
    return x->left ? split(r, step, text, first)
                   : next_step(r, step + 1, text, first);
}

/* The words stay bytes: the model knows what stands for them. */
static int byte_level(struct tok_run *r, size_t step, struct tok_text in,
                      bool first)
{
    const struct tok_step *const x = &r->t->splits.list[step];
    if (x->left && in.n > 0 && in.s[0] != ' ') {
        struct pq_buf *const b = &r->words[step];
        b->n = 0;
        pq_buf_puts(b, " ");
        pq_buf_add(b, in.s, in.n);
        if (b->failed)
            return pq_fail_nomem(r->e);
        in = (struct tok_text){b->s, b->n};
    }
    return x->re ? split(r, step, in, first)
                 : next_step(r, step + 1, in, first);
}

static int next_step(struct tok_run *r, size_t step, struct tok_text in,
                     bool first)
{
    if (in.n == 0)
        return 0;
    if (step == r->t->splits.n)
        return r->t->unigram ? tok_unigram(r, in) : tok_bpe(r, in);
    switch (r->t->splits.list[step].kind) {
    case TOK_BYTE_LEVEL:
        return byte_level(r, step, in, first);
    case TOK_METASPACE:
        return metaspace(r, step, in, first);
    case TOK_SPLIT:
    case TOK_DELIMITER:
        return split(r, step, in, first);
    default:
        return split_chars(r, step, in, first);
    }
}

int tok_split(struct tok_run *r, struct tok_text in, bool first)
{
    return next_step(r, 0, in, first);
}
