/*
 * Tokenizers: Unigram, the row of pieces with the largest sum of scores.
 *
 *     best(0) = 0
 *     best(to) = max over pieces [from, to) of best(from) + score(piece)
 *
 * in double (sentencepiece: float), from left to right; the first of equals
 * stays.  A character
 * that no piece of one character covers may be unknown, for 10 less than the
 * lowest score.  Unknown characters in a row are one, and become bytes where
 * the model falls back to them.
 */
#include "token.h"

static void offer(const struct pq_tokenizer *t, struct tok_path *p,
                  double score, uint32_t id, size_t from)
{
    if (t->single)
        score = (double)(float)score;
    if (p->from == NONE || score > p->score)
        *p = (struct tok_path){score, id, (uint32_t)from, 0};
}

/* All pieces that begin at `from`. */
static void look_from(struct tok_run *r, struct tok_text w, size_t from)
{
    const struct pq_tokenizer *const t = r->t;
    const double here = r->paths[from].score;
    const size_t one = tok_char_length(w.s[from]);
    bool single = false;
    uint32_t node = 0;
    for (size_t i = from; i < w.n; i++) {
        node = tok_trie_step(&t->pieces, node, (unsigned char)w.s[i]);
        if (node == 0)
            break;
        const uint32_t id = t->pieces.values[node];
        if (id == NONE)
            continue;
        offer(t, &r->paths[i + 1], here + t->scores[id], id, from);
        single = single || i + 1 - from == one;
    }
    if (!single)
        offer(t, &r->paths[from + one], here + t->unk_score, t->unk, from);
}

static int put_unknown(struct tok_run *r, struct tok_text s)
{
    const struct pq_tokenizer *const t = r->t;
    const uint32_t id = tok_vocab_find(&t->vocab, s.s, s.n);
    bool bytes = t->byte_fallback && id == NONE;
    for (size_t i = 0; bytes && i < s.n; i++)
        bytes = t->byte_ids[(unsigned char)s.s[i]] != NONE;
    if (!bytes)
        return tok_put_id(r, id != NONE ? id : t->unk);
    for (size_t i = 0; i < s.n; i++)
        if (tok_put_id(r, t->byte_ids[(unsigned char)s.s[i]]) != 0)
            return -1;
    return 0;
}

/* The pieces along the path, which is followed from its end first. */
static int put_path(struct tok_run *r, struct tok_text w)
{
    struct tok_path *const p = r->paths;
    const uint32_t n = (uint32_t)w.n, unk = r->t->unk;

    for (uint32_t to = n; to > 0; to = p[to].from)
        p[p[to].from].next = to;
    for (uint32_t at = 0, to; at < n; at = to) {
        to = p[at].next;
        const uint32_t id = p[to].id;
        while (id == unk && to < n && p[p[to].next].id == unk)
            to = p[to].next;
        const struct tok_text s = {w.s + at, to - at};
        if (id == NONE)
            return pq_fail(r->e, PQ_EVALUE,
                           "text: the tokenizer has no token for \"%.*s\"",
                           (int)(s.n < 40 ? s.n : 40), s.s);
        if ((id == unk ? put_unknown(r, s) : tok_put_id(r, id)) != 0)
            return -1;
    }
    return 0;
}

int tok_unigram(struct tok_run *r, struct tok_text w)
{
    if (w.n >= NONE - 1)
        return pq_fail(r->e, PQ_ELIMIT, "text: a word of 4 GB");
    struct tok_path *const p =
        tok_room(r->paths, w.n + 1, &r->paths_cap, sizeof *p);
    if (p == NULL)
        return pq_fail_nomem(r->e);
    r->paths = p;
    p[0] = (struct tok_path){0, NONE, NONE, 0};
    for (size_t i = 1; i <= w.n; i++)
        p[i].from = NONE;
    for (size_t i = 0; i < w.n; i += tok_char_length(w.s[i]))
        look_from(r, w, i);
    return put_path(r, w);
}
