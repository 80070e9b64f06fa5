/*
 * Tokenizers: byte-pair encoding of a word.
 *
 * The word begins as one symbol a character (or a byte).  Again and again the
 * adjacent pair of the lowest rank merges, the leftmost of equals, until none
 * merges:
 *
 *     t h e   ranks: h+e 0, t+h 7, t+he 9
 *     t he    -> the
 *
 * Short words look for the lowest each time; long ones keep the pairs in a
 * heap, n log n.  Words that were met before come out of a cache.
 */
#include "token.h"

#include <string.h>
#include <xxhash.h>

#define SMALL 48 /* symbols of a word that needs no heap */

/* ---- few symbols --------------------------------------------------------- */

struct small {
    const struct tok_merges *merges;
    uint32_t ids[SMALL], rank[SMALL], id[SMALL]; /* of the pair at i, i + 1 */
    size_t n;
};

static void look(struct small *s, size_t i)
{
    const struct tok_merge *const x =
        i + 1 < s->n ? tok_merges_find(s->merges, s->ids[i], s->ids[i + 1])
                     : NULL;
    s->rank[i] = x ? x->rank : NONE;
    s->id[i] = x ? x->id : NONE;
}

static void drop(uint32_t *list, size_t i, size_t n)
{
    memmove(list + i, list + i + 1, (n - i - 1) * sizeof *list);
}

static void merge_small(struct small *s)
{
    for (size_t i = 0; i < s->n; i++)
        look(s, i);
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < s->n; i++)
            if (s->rank[i] < s->rank[best])
                best = i;
        if (s->n < 2 || s->rank[best] == NONE)
            return;
        s->ids[best] = s->id[best];
        drop(s->ids, best + 1, s->n);
        drop(s->rank, best, s->n);
        drop(s->id, best, s->n);
        s->n--;
        look(s, best);
        if (best > 0)
            look(s, best - 1);
    }
}

/* ---- many ---------------------------------------------------------------- */

static bool before(const struct tok_pair *a, const struct tok_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_up(struct tok_pair *h, size_t i)
{
    const struct tok_pair x = h[i];
    for (; i > 0 && before(&x, &h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static void sift_down(struct tok_pair *h, size_t i, size_t n)
{
    const struct tok_pair x = h[i];
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        kid += kid + 1 < n && before(&h[kid + 1], &h[kid]);
        if (!before(&h[kid], &x))
            break;
        h[i] = h[kid];
    }
    h[i] = x;
}

/* The pair of symbol `at` and the next, if it merges. */
static int push_pair(struct tok_run *r, uint32_t at)
{
    const struct tok_symbol *const s = r->symbols;
    if (at == NONE || s[at].next == NONE)
        return 0;
    const uint32_t left = s[at].id, right = s[s[at].next].id;
    const struct tok_merge *const x =
        tok_merges_find(&r->t->merges, left, right);
    if (x == NULL)
        return 0;
    struct tok_pair *const h =
        tok_room(r->heap, r->heap_n + 1, &r->heap_cap, sizeof *h);
    if (h == NULL)
        return pq_fail_nomem(r->e);
    r->heap = h;
    h[r->heap_n] = (struct tok_pair){x->rank, at, left, right, x->id};
    sift_up(h, r->heap_n++);
    return 0;
}

/* A symbol that was merged into the one before has the id NONE. */
static int merge_pair(struct tok_run *r, const struct tok_pair *x)
{
    struct tok_symbol *const s = r->symbols;
    const uint32_t next = s[x->at].next;
    if (s[x->at].id != x->left || next == NONE || s[next].id != x->right)
        return 0; /* one of the two is another symbol by now */
    s[x->at].id = x->id;
    s[x->at].next = s[next].next;
    s[next].id = NONE;
    if (s[next].next != NONE)
        s[s[next].next].prev = x->at;
    if (push_pair(r, s[x->at].prev) != 0)
        return -1;
    return push_pair(r, x->at);
}

static int merge_many(struct tok_run *r, size_t n)
{
    r->heap_n = 0;
    for (size_t i = 0; i < n; i++)
        if (push_pair(r, (uint32_t)i) != 0)
            return -1;
    while (r->heap_n > 0) {
        const struct tok_pair top = r->heap[0];
        r->heap[0] = r->heap[--r->heap_n];
        if (r->heap_n > 0)
            sift_down(r->heap, 0, r->heap_n);
        if (merge_pair(r, &top) != 0)
            return -1;
    }
    for (uint32_t i = 0; i != NONE; i = r->symbols[i].next)
        if (tok_put_id(r, r->symbols[i].id) != 0)
            return -1;
    return 0;
}

/* ---- symbols ------------------------------------------------------------- */

static int put_symbol(struct tok_run *r, size_t *n, uint32_t id)
{
    struct tok_symbol *const s =
        tok_room(r->symbols, *n + 1, &r->symbols_cap, sizeof *s);
    if (s == NULL)
        return pq_fail_nomem(r->e);
    if (*n >= NONE - 1)
        return pq_fail(r->e, PQ_ELIMIT, "text: a word of 4 billion symbols");
    r->symbols = s;
    s[*n].id = id;
    (*n)++;
    return 0;
}

/* The bytes of a character as <0xHH>; 0 when one of them has no token. */
static int put_bytes(struct tok_run *r, size_t *n, struct tok_text c)
{
    for (size_t i = 0; i < c.n; i++)
        if (r->t->byte_ids[(unsigned char)c.s[i]] == NONE)
            return 0;
    for (size_t i = 0; i < c.n; i++)
        if (put_symbol(r, n, r->t->byte_ids[(unsigned char)c.s[i]]) != 0)
            return -1;
    return 1;
}

/*
 * The symbols of a word.  An unknown one waits for the next known one, into
 * which a run of them is fused where the model says so; bytes do not end the
 * wait, so they come before it (as in `tokenizers`).
 */
static int put_symbols(struct tok_run *r, struct tok_text w, size_t *n)
{
    const struct pq_tokenizer *const t = r->t;
    bool unknown = false;
    for (size_t i = 0, k; i < w.n; i += k) {
        const unsigned char byte = (unsigned char)w.s[i];
        k = t->byte_level ? 1 : tok_char_length(w.s[i]);
        const uint32_t id = t->byte_level
                                ? t->byte_ids[byte]
                                : tok_vocab_find(&t->vocab, w.s + i, k);
        if (id == NONE && t->byte_fallback && !t->byte_level) {
            const struct tok_text c = {w.s + i, k};
            const int rc = put_bytes(r, n, c);
            if (rc < 0)
                return -1;
            if (rc > 0)
                continue;
        }
        if (id == NONE && (t->unk == NONE || (unknown && t->fuse_unk)))
            continue;
        if (unknown && put_symbol(r, n, t->unk) != 0)
            return -1;
        unknown = id == NONE;
        if (!unknown && put_symbol(r, n, id) != 0)
            return -1;
    }
    return unknown ? put_symbol(r, n, t->unk) : 0;
}

static int put_small(struct tok_run *r, size_t n)
{
    struct small s = {.merges = &r->t->merges, .n = n};
    for (size_t i = 0; i < n; i++)
        s.ids[i] = r->symbols[i].id;
    merge_small(&s);
    for (size_t i = 0; i < s.n; i++)
        if (tok_put_id(r, s.ids[i]) != 0)
            return -1;
    return 0;
}

static int encode_word(struct tok_run *r, struct tok_text w)
{
    if (r->t->ignore_merges) {
        const uint32_t id = tok_vocab_find(&r->t->vocab, w.s, w.n);
        if (id != NONE)
            return tok_put_id(r, id);
    }
    size_t n = 0;
    if (put_symbols(r, w, &n) != 0)
        return -1;
    if (n <= SMALL)
        return put_small(r, n);
    for (size_t i = 0; i < n; i++) {
        r->symbols[i].prev = i > 0 ? (uint32_t)i - 1 : NONE;
        r->symbols[i].next = i + 1 < n ? (uint32_t)i + 1 : NONE;
    }
    return merge_many(r, n);
}

/* ---- words met before ---------------------------------------------------- */

static int cached_word(struct tok_run *r, struct tok_text w)
{
    if (w.n > TOK_CACHED_BYTES || r->n_cache == 0)
        return encode_word(r, w);
    const uint64_t h = XXH3_64bits(w.s, w.n) | 1;
    struct tok_cached *const c = &r->cache[(h >> 8) & (r->n_cache - 1)];
    if (c->hash == h && c->n_bytes == w.n && memcmp(c->bytes, w.s, w.n) == 0) {
        for (size_t i = 0; i < c->n_ids; i++)
            if (tok_put_id(r, c->ids[i]) != 0)
                return -1;
        return 0;
    }
    const size_t start = r->ids->n;
    if (encode_word(r, w) != 0)
        return -1;
    const size_t n = r->ids->n - start;
    if (n > TOK_CACHED_IDS)
        return 0;
    c->hash = h;
    c->n_bytes = (uint8_t)w.n;
    c->n_ids = (uint8_t)n;
    memcpy(c->bytes, w.s, w.n);
    if (n > 0)
        memcpy(c->ids, r->ids->list + start, n * sizeof *c->ids);
    return 0;
}

/* The end of the part that begins at `from`: before a U+2581 that follows
 * something else. */
static size_t cut_at(struct tok_text w, size_t from)
{
    bool other = false;
    for (size_t i = from; i < w.n;) {
        if (w.n - i >= TOK_MARK_BYTES &&
            memcmp(w.s + i, TOK_MARK, TOK_MARK_BYTES) == 0) {
            if (other)
                return i;
            i += TOK_MARK_BYTES;
        } else {
            other = true;
            i++;
        }
    }
    return w.n;
}

int tok_bpe(struct tok_run *r, struct tok_text word)
{
    if (!r->t->cut)
        return cached_word(r, word);
    for (size_t i = 0, to; i < word.n; i = to) {
        to = cut_at(word, i);
        const struct tok_text part = {word.s + i, to - i};
        if (cached_word(r, part) != 0)
            return -1;
    }
    return 0;
}
