/*
 * Tokenizers: the merges of a tokenizer.json, their rank is their place.
 *
 *     "merges": ["a b", "ab c"] or [["a", "b"], ["ab", "c"]]
 */
#include "token_json.h"

#include <stdlib.h>
#include <string.h>

bool tok_key_of(const struct file *f, struct tok_text *text, struct pq_buf *b)
{
    if (!f->t->byte_level)
        return true;
    b->n = 0;
    if (!tok_unmap_bytes(*text, b))
        return false;
    *text = (struct tok_text){b->s ? b->s : "", b->n};
    return true;
}

struct merging {
    struct tok_merge *list; /* [n] */
    size_t n, cap;
    struct pq_buf left, right, both;
};

static int add_merge(struct file *f, struct merging *m, struct tok_text left,
                     struct tok_text right, uint32_t rank)
{
    const struct tok_vocab *const v = &f->t->vocab;
    if (!tok_key_of(f, &left, &m->left) || !tok_key_of(f, &right, &m->right))
        return 0; /* no text has it */
    m->both.n = 0;
    pq_buf_add(&m->both, left.s, left.n);
    pq_buf_add(&m->both, right.s, right.n);
    struct tok_merge *const list =
        pq_grow(m->list, m->n, &m->cap, sizeof *list);
    if (list == NULL || m->both.failed || m->left.failed || m->right.failed)
        return pq_fail_nomem(f->e);
    m->list = list;
    const struct tok_merge x = {
        tok_vocab_find(v, left.s, left.n), tok_vocab_find(v, right.s, right.n),
        rank, tok_vocab_find(v, m->both.s ? m->both.s : "", m->both.n)};
    if (x.left == NONE || x.right == NONE || x.id == NONE)
        return pq_fail(f->e, PQ_EFORMAT,
                       "merge %u: not all of its tokens are in the vocabulary",
                       rank);
    list[m->n++] = x;
    tok_watch_cut(f->t, left, right);
    return 0;
}

/* "a b" or ["a", "b"]. */
static int read_merge(struct file *f, struct merging *m, struct pq_json *j,
                      enum pq_json_type k, struct pq_arena *a, uint32_t rank)
{
    struct tok_text left, right;
    if (k == PQ_JSON_ARRAY) {
        if (pq_json_next(j) != PQ_JSON_STRING ||
            pq_json_string(j, a, &left.s, &left.n) != 0 ||
            pq_json_next(j) != PQ_JSON_STRING ||
            pq_json_string(j, a, &right.s, &right.n) != 0 ||
            pq_json_next(j) != PQ_JSON_ARRAY_END)
            return wrong(f, "merges");
        return add_merge(f, m, left, right, rank);
    }
    if (k != PQ_JSON_STRING)
        return wrong(f, "merges");
    if (pq_json_string(j, a, &left.s, &left.n) != 0)
        return -1;
    const char *const space = memchr(left.s, ' ', left.n);
    if (space == NULL)
        return wrong(f, "merges");
    right.s = space + 1;
    right.n = left.n - (size_t)(right.s - left.s);
    left.n = (size_t)(space - left.s);
    if (memchr(right.s, ' ', right.n) != NULL)
        return wrong(f, "merges");
    return add_merge(f, m, left, right, rank);
}

static int read_merge_list(struct file *f, struct merging *m)
{
    struct pq_arena a = {0};
    struct pq_json j;
    enum pq_json_type k;
    int rc = 0;
    start(f, f->keys[MERGES], &j);
    if (pq_json_next(&j) != PQ_JSON_ARRAY)
        return wrong(f, "merges");
    for (uint32_t rank = 0; rc == 0; rank++) {
        k = pq_json_next(&j);
        if (k == PQ_JSON_ARRAY_END)
            break;
        rc = rank == NONE ? wrong(f, "merges")
                          : read_merge(f, m, &j, k, &a, rank);
        pq_arena_release(&a);
    }
    return rc;
}

int tok_read_merges(struct file *f)
{
    struct merging m = {.list = NULL};
    int rc = f->keys[MERGES].to ? read_merge_list(f, &m) : wrong(f, "merges");
    if (rc == 0)
        rc = tok_merges_room(&f->t->merges, m.n, f->e);
    for (size_t i = 0; rc == 0 && i < m.n; i++)
        tok_merges_put(&f->t->merges, &m.list[i]);
    free(m.list);
    pq_buf_release(&m.left);
    pq_buf_release(&m.right);
    pq_buf_release(&m.both);
    return rc;
}
