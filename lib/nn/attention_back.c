/*
 * Attention backwards.  s is the score of attention.c (scaled, capped), P =
 * e^(s - lse):
 *
 *   D    = sum over d of dO o                       of a query and head
 *   dS   = P (dO v^T - D),  with a cap times 1 - (s / cap)^2
 *   dq   = scale dS k
 *   dk   = scale dS^T q,  dv = P^T dO               summed over the n heads
 *                                                   of a kv head
 *
 * A task is one kv head of one sequence: its heads, and 64 of its queries at
 * a time, add to dk and dv in a fixed order.  P and dS are [64][keys].
 */
#include "backward.h"

#include <string.h>

struct job {
    float *dq, *dk, *dv;
    const float *dO, *q, *k, *v, *o, *lse;
    const struct nn_attention *a;
    const struct nn_sequence *s;
    size_t n_sequences;
};

/* Queries [first, first + n) of a head, keys [lo, hi). */
struct tile {
    const struct nn_sequence *s;
    size_t head, kv_head, first, n, lo, hi;
    size_t q, kv;         /* where they begin in their arrays */
    size_t q_row, kv_row; /* floats */
    float *p, *ds;        /* [n][hi - lo] */
};

size_t nn_attention_back_spare(size_t keys)
{
    return 2 * NN_QUERIES * keys;
}

/* A row of scores to P; ds holds dO v^T and becomes dS. */
static void back_row(const struct job *j, const struct nn_kernels *nn,
                     const struct tile *t, size_t i)
{
    const struct nn_attention *a = j->a;
    const size_t at = t->first + i, keys = t->hi - t->lo, n = at + 1 - t->lo;
    const size_t from = nn_first_key(a, at);
    float *p = t->p + i * keys, *ds = t->ds + i * keys;
    const float *dO = j->dO + t->q + i * t->q_row;
    const float D = nn->dot(dO, j->o + t->q + i * t->q_row, a->d);
    const float lse = j->lse[(t->s->q + at) * a->heads + t->head];
    const size_t skip = from > t->lo ? from - t->lo : 0;

    for (size_t x = 0; x < n; x++)
        ds[x] -= D;
    if (a->cap > 0) {
        nn->scale(p, p, a->scale / a->cap, n);
        nn->tanh(p, p, n);
        for (size_t x = 0; x < n; x++)
            ds[x] *= 1.0f - p[x] * p[x];
        nn->scale(p, p, a->cap, n);
    } else {
        nn->scale(p, p, a->scale, n);
    }
    nn->exp_sum(p, n, lse);
    for (size_t x = 0; x < n; x++)
        ds[x] *= p[x];
    memset(p, 0, skip * sizeof *p);
    memset(ds, 0, skip * sizeof *ds);
    memset(p + n, 0, (keys - n) * sizeof *p);
    memset(ds + n, 0, (keys - n) * sizeof *ds);
    nn->scale(ds, ds, a->scale, n);
}

/* c [n][keys] = rows of x times rows of y */
static void by_keys(const struct job *j, struct nn_worker *w,
                    const struct tile *t, const float *x, const float *y,
                    float *c)
{
    const size_t keys = t->hi - t->lo;
    const struct nn_mat b = nn_mat_f32(y + t->kv, keys, j->a->d, t->kv_row);
    const struct nn_product p = {.m = t->n,
                                 .n = keys,
                                 .k = j->a->d,
                                 .a = x + t->q,
                                 .a_row = t->q_row,
                                 .a_col = 1,
                                 .b = &b,
                                 .c = c,
                                 .c_row = keys,
                                 .shape = NN_C_LOWER,
                                 .shift = t->first - t->lo};

    nn_multiply_here(w, &p);
}

/* c [keys][d] += s^T x */
static void to_keys(const struct job *j, struct nn_worker *w,
                    const struct tile *t, const float *s, const float *x,
                    float *c)
{
    const size_t keys = t->hi - t->lo;
    const struct nn_mat b = nn_mat_f32(x + t->q, t->n, j->a->d, t->q_row);
    const struct nn_product p = {.m = keys,
                                 .n = j->a->d,
                                 .k = t->n,
                                 .a = s,
                                 .a_row = 1,
                                 .a_col = keys,
                                 .b = &b,
                                 .b_by_k = true,
                                 .c = c + t->kv,
                                 .c_row = t->kv_row,
                                 .add = true,
                                 .shape = NN_A_UPPER,
                                 .shift = t->first - t->lo};

    nn_multiply_here(w, &p);
}

static void back_tile(const struct job *j, struct nn_worker *w,
                      const struct tile *t)
{
    const size_t keys = t->hi - t->lo;
    const struct nn_mat k = nn_mat_f32(j->k + t->kv, keys, j->a->d, t->kv_row);

    by_keys(j, w, t, j->q, j->k, t->p);
    by_keys(j, w, t, j->dO, j->v, t->ds);
    for (size_t i = 0; i < t->n; i++)
        back_row(j, w->nn, t, i);
    to_keys(j, w, t, t->p, j->dO, j->dv);
    to_keys(j, w, t, t->ds, j->q, j->dk);
    const struct nn_product dq = {.m = t->n,
                                  .n = j->a->d,
                                  .k = keys,
                                  .a = t->ds,
                                  .a_row = keys,
                                  .a_col = 1,
                                  .b = &k,
                                  .b_by_k = true,
                                  .c = j->dq + t->q,
                                  .c_row = t->q_row,
                                  .shape = NN_A_LOWER,
                                  .shift = t->first - t->lo};
    nn_multiply_here(w, &dq);
}

/* The tile of a head that begins at query `first`. */
static struct tile tile_of(const struct job *j, const struct nn_worker *w,
                           const struct nn_sequence *s, size_t head,
                           size_t first)
{
    const struct nn_attention *a = j->a;
    struct tile t = {.s = s, .head = head, .first = first};

    t.kv_head = head / (a->heads / a->kv_heads);
    t.n = s->n - first < NN_QUERIES ? s->n - first : NN_QUERIES;
    t.hi = first + t.n;
    t.lo = nn_first_key(a, first);
    t.lo -= t.lo % NN_BLOCK_K;
    t.q_row = a->heads * a->d;
    t.kv_row = a->kv_heads * a->d;
    t.q = (s->q + first) * t.q_row + head * a->d;
    t.kv = (s->q + t.lo) * t.kv_row + t.kv_head * a->d;
    t.p = w->spare;
    t.ds = w->spare + NN_QUERIES * (t.hi - t.lo);
    return t;
}

static void back_head(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_attention *a = j->a;
    const struct nn_sequence *s = &j->s[task / a->kv_heads];
    const size_t kv_head = task % a->kv_heads, group = a->heads / a->kv_heads;
    const size_t kv_row = a->kv_heads * a->d;

    for (size_t i = 0; i < s->n; i++) {
        const size_t at = (s->q + i) * kv_row + kv_head * a->d;
        memset(j->dk + at, 0, a->d * sizeof *j->dk);
        memset(j->dv + at, 0, a->d * sizeof *j->dv);
    }
    for (size_t h = kv_head * group; h < (kv_head + 1) * group; h++)
        for (size_t first = 0; first < s->n; first += NN_QUERIES) {
            const struct tile t = tile_of(j, w, s, h, first);
            back_tile(j, w, &t);
        }
}

void nn_attention_back(struct nn_pool *pool, float *dq, float *dk, float *dv,
                       const float *dO, const float *q, const float *k,
                       const float *v, const float *o, const float *lse,
                       const struct nn_attention *a,
                       const struct nn_sequence *s, size_t n_sequences)
{
    struct job j = {dq, dk, dv, dO, q, k, v, o, lse, a, s, n_sequences};

    nn_pool_run(pool, back_head, &j, n_sequences * a->kv_heads);
}
