/*
 * Tokenizers: the vocabulary, both ways, and the pairs of tokens that merge.
 * Two hash tables with open addressing, at most half full.
 */
#include "token.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static size_t slots_for(size_t n)
{
    size_t slots = 16;
    while (slots < n * 2)
        slots *= 2;
    return slots;
}

static uint32_t *find_slot(const struct tok_vocab *v, const char *s, size_t n)
{
    const size_t mask = v->n_slots - 1;
    size_t i = (size_t)XXH3_64bits(s, n) & mask;
    while (v->slots[i] != NONE) {
        const struct tok_text *const k = &v->key[v->slots[i]];
        if (k->n == n && memcmp(k->s, s, n) == 0)
            break;
        i = (i + 1) & mask;
    }
    return &v->slots[i];
}

uint32_t tok_vocab_find(const struct tok_vocab *v, const char *s, size_t n)
{
    return v->n_slots ? *find_slot(v, s, n) : NONE;
}

static int make_key(struct tok_text text, struct tok_text *key,
                    struct pq_buf *b, struct pq_arena *a, struct pq_error *e)
{
    b->n = 0;
    if (!tok_unmap_bytes(text, b))
        return 0;
    key->n = b->n;
    key->s = b->failed ? NULL : pq_arena_strndup(a, b->s, b->n);
    return key->s ? 0 : pq_fail_nomem(e);
}

static int put(struct tok_vocab *v, const struct tok_entry *x, bool byte_level,
               struct pq_buf *b, struct pq_arena *a, struct pq_error *e)
{
    if (x->text.n > PQ_TOKEN_BYTES)
        return pq_fail(e, PQ_ELIMIT, "token %llu is longer than %u bytes",
                       (unsigned long long)x->id, PQ_TOKEN_BYTES);
    if (v->text[x->id].s != NULL)
        return pq_fail(e, PQ_EFORMAT, "two tokens with the id %llu",
                       (unsigned long long)x->id);
    struct tok_text *const key = &v->key[x->id];
    v->text[x->id] = x->text;
    if (!byte_level)
        *key = x->text;
    else if (make_key(x->text, key, b, a, e) != 0)
        return -1;
    if (key->s == NULL)
        return 0;
    uint32_t *const slot = find_slot(v, key->s, key->n);
    if (*slot != NONE)
        return pq_fail(e, PQ_EFORMAT, "token %llu is the same as token %u",
                       (unsigned long long)x->id, *slot);
    *slot = (uint32_t)x->id;
    return 0;
}

int tok_vocab_fill(struct tok_vocab *v, const struct tok_entry *list, size_t n,
                   uint64_t top, bool byte_level, struct pq_arena *a,
                   struct pq_error *e)
{
    if (top > PQ_TOKEN_IDS)
        return pq_fail(e, PQ_ELIMIT, "token id %llu is not below %u",
                       (unsigned long long)top - 1, PQ_TOKEN_IDS);
    v->top = (uint32_t)top;
    v->text = pq_zalloc(v->top, sizeof *v->text);
    v->key = pq_zalloc(v->top, sizeof *v->key);
    v->n_slots = slots_for(n);
    v->slots = pq_alloc(v->n_slots, sizeof *v->slots);
    if (v->text == NULL || v->key == NULL || v->slots == NULL)
        return pq_fail_nomem(e);
    memset(v->slots, 0xff, v->n_slots * sizeof *v->slots);

    struct pq_buf b = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = put(v, &list[i], byte_level, &b, a, e);
    pq_buf_release(&b);
    return rc;
}

void tok_vocab_release(struct tok_vocab *v)
{
    free(v->text);
    free(v->key);
    free(v->slots);
    *v = (struct tok_vocab){0};
}

/* ---- merges -------------------------------------------------------------- */

int tok_merges_room(struct tok_merges *m, size_t n, struct pq_error *e)
{
    m->n_slots = slots_for(n);
    m->slots = pq_alloc(m->n_slots, sizeof *m->slots);
    if (m->slots == NULL)
        return pq_fail_nomem(e);
    memset(m->slots, 0xff, m->n_slots * sizeof *m->slots);
    return 0;
}

static struct tok_merge *merge_slot(const struct tok_merges *m, uint32_t left,
                                    uint32_t right)
{
    const size_t mask = m->n_slots - 1;
    const uint64_t h =
        ((uint64_t)left << 32 | right) * (uint64_t)0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h >> 30) & mask;
    while (m->slots[i].left != NONE &&
           (m->slots[i].left != left || m->slots[i].right != right))
        i = (i + 1) & mask;
    return &m->slots[i];
}

void tok_merges_put(struct tok_merges *m, const struct tok_merge *x)
{
    struct tok_merge *const slot = merge_slot(m, x->left, x->right);
    m->n += slot->left == NONE;
    *slot = *x;
}

const struct tok_merge *tok_merges_find(const struct tok_merges *m,
                                        uint32_t left, uint32_t right)
{
    const struct tok_merge *const x = merge_slot(m, left, right);
    return x->left == NONE ? NULL : x;
}
