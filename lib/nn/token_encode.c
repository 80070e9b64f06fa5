/*
 * Tokenizers: encoding.
 *
 *     raw text -- tokens that are not normalized --> pieces between them
 *     piece -- normalizers, then tokens that are normalized --> smaller ones
 *     smaller piece -- pre-tokenizers --> words -- model --> ids
 *
 * Added tokens match leftmost and longest, without overlap; only then is
 * single_word looked at, and what lstrip and rstrip swallow.
 */
#include "token.h"

#include <stdlib.h>
#include <string.h>

int tok_put_id(struct tok_run *r, uint32_t id)
{
    struct pq_ids *const ids = r->ids;
    uint32_t *const list = pq_grow(ids->list, ids->n, &ids->cap, sizeof *list);
    if (list == NULL)
        return pq_fail_nomem(r->e);
    ids->list = list;
    list[ids->n++] = id;
    return 0;
}

void *tok_room(void *p, size_t n, size_t *cap, size_t size)
{
    if (n <= *cap && p != NULL)
        return p;
    const size_t want = n < 32 ? 64 : n > SIZE_MAX / 2 ? n : n + n / 2;
    void *const q = pq_resize(p, want, size);
    if (q != NULL)
        *cap = want;
    return q;
}

/* ---- added tokens -------------------------------------------------------- */

/* What is between and in the added tokens of a piece. */
struct cutter {
    struct tok_run *r;
    bool normal; /* by which of the two tries */
    bool first;  /* the piece begins the text */
    struct tok_text in;
    size_t done;
};

static int put_normal(struct tok_run *r, struct tok_text in, bool first);

static int put_between(struct cutter *c, size_t from, size_t to)
{
    const struct tok_text part = {c->in.s + from, to - from};
    const bool first = c->first && from == 0;
    return c->normal ? tok_split(c->r, part, first)
                     : put_normal(c->r, part, first);
}

/* Are there letters right before `from` or behind `to`? */
static bool within_word(struct tok_text in, size_t from, size_t to)
{
    size_t k;
    return (from > 0 && tok_is_word(tok_char_last(in.s, from, &k))) ||
           (to < in.n && tok_is_word(tok_char(in.s + to, in.n - to, &k)));
}

static void swallow_spaces(const struct tok_added *x, struct cutter *c,
                           size_t *from, size_t *to)
{
    const struct tok_text in = c->in;
    size_t k;
    while (x->lstrip && *from > c->done &&
           tok_is_space(tok_char_last(in.s, *from, &k)))
        *from -= k;
    while (x->rstrip && *to < in.n &&
           tok_is_space(tok_char(in.s + *to, in.n - *to, &k)))
        *to += k;
}

static int put_added(struct cutter *c, const struct tok_added *x, size_t from,
                     size_t to)
{
    if ((x->special && c->r->plain) ||
        (x->single_word && within_word(c->in, from, to)))
        return 0;
    swallow_spaces(x, c, &from, &to);
    if (from > c->done && put_between(c, c->done, from) != 0)
        return -1;
    c->done = to;
    return tok_put_id(c->r, x->id);
}

static int cut(struct tok_run *r, struct tok_text in, bool first, bool normal)
{
    const struct tok_trie *const trie = normal ? &r->t->normal : &r->t->raw;
    struct cutter c = {r, normal, first, in, 0};
    for (size_t i = 0, k; trie->n_nodes > 0 && i < in.n;) {
        const uint32_t v = tok_trie_longest(trie, in.s + i, in.n - i, &k);
        if (v == NONE) {
            i++;
            continue;
        }
        if (put_added(&c, &r->t->added[v], i, i + k) != 0)
            return -1;
        i += k;
    }
    return c.done < in.n ? put_between(&c, c.done, in.n) : 0;
}

static int put_normal(struct tok_run *r, struct tok_text in, bool first)
{
    struct tok_text out;
    if (tok_normalize(r, in, &first, &out) != 0)
        return -1;
    return cut(r, out, first, true);
}

/* ---- a text -------------------------------------------------------------- */

/* A cache is worth its zeros when the text is long. */
static int start_run(struct tok_run *r, size_t n)
{
    if (r->t->unigram || n < 512)
        return 0;
    for (r->n_cache = 64; r->n_cache < n / 16 && r->n_cache < 8192;)
        r->n_cache *= 2;
    r->cache = pq_zalloc(r->n_cache, sizeof *r->cache);
    return r->cache ? 0 : pq_fail_nomem(r->e);
}

static void end_run(struct tok_run *r)
{
    tok_matcher_free(r->matcher);
    for (size_t i = 0; i < 2; i++)
        pq_buf_release(&r->normal[i]);
    for (size_t i = 0; i < TOK_STEPS; i++)
        pq_buf_release(&r->words[i]);
    free(r->symbols);
    free(r->heap);
    free(r->paths);
    free(r->cache);
}

static int put_all(struct tok_run *r, const uint32_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (tok_put_id(r, list[i]) != 0)
            return -1;
    return 0;
}

int pq_tokenizer_encode(const struct pq_tokenizer *t, const char *text,
                        size_t n, unsigned flags, struct pq_ids *ids,
                        struct pq_error *e)
{
    struct tok_run r = {
        .t = t, .ids = ids, .e = e, .plain = (flags & PQ_ENCODE_PLAIN) != 0};
    const struct tok_text in = {n ? text : "", n};
    const bool bounds = (flags & PQ_ENCODE_BOUNDS) != 0;
    const size_t before = ids->n, valid = pq_utf8_prefix(in.s, n);

    if (valid < n)
        return pq_fail(e, PQ_EVALUE, "text: byte %zu is not UTF-8", valid);
    int rc = start_run(&r, n);
    if (rc == 0 && bounds)
        rc = put_all(&r, t->before, t->n_before);
    if (rc == 0)
        rc = cut(&r, in, true, false);
    if (rc == 0 && bounds)
        rc = put_all(&r, t->after, t->n_after);
    end_run(&r);
    if (rc != 0)
        ids->n = before;
    return rc;
}
