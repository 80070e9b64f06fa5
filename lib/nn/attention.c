/*
 * Causal attention with grouped heads: head g has kv head g / (heads /
 * kv_heads).  For query i of a sequence, at key index p = past + i, and the
 * visible keys j, p - window < j <= p:
 *
 *   s[j]   = scale (q k[j]),  then cap tanh(s / cap)
 *   lse    = log sum e^s[j]
 *   o      = (sum e^(s[j] - max) v[j]) / sum e^(s[j] - max)
 *
 * A task is 64 queries of one head; it holds all scores of its queries,
 * [64][keys] floats, so that the softmax is done in the plain order.  Keys
 * keep their index: sums over keys run in lanes of j % 8 and in blocks of 256
 * counted from key 0, whatever the first visible one is.  A query therefore
 * gets the same bits alone, behind a cache, as among others.
 */
#include "nn.h"

#include <math.h>

#include "elementary.h"

struct job {
    float *o, *lse;
    const float *q, *k, *v;
    const struct nn_attention *a;
    const struct nn_sequence *s;
    size_t n_sequences;
};

/* What a task works on. */
struct tile {
    const struct nn_sequence *s;
    size_t head, first, n; /* queries of the sequence */
    size_t lo, hi;         /* keys, lo at a block's start */
};

size_t nn_attention_spare(size_t keys)
{
    return NN_QUERIES * (keys + 1);
}

static size_t tiles_of(const struct nn_sequence *s)
{
    return (s->n + NN_QUERIES - 1) / NN_QUERIES;
}

static struct tile tile_of(const struct job *j, size_t task)
{
    const struct nn_sequence *s = j->s;
    struct tile t = {.head = task % j->a->heads};
    size_t i = task / j->a->heads;

    for (; i >= tiles_of(s); s++)
        i -= tiles_of(s);
    t.s = s;
    t.first = i * NN_QUERIES;
    t.n = s->n - t.first < NN_QUERIES ? s->n - t.first : NN_QUERIES;
    t.hi = s->past + t.first + t.n;
    t.lo = nn_first_key(j->a, s->past + t.first);
    t.lo -= t.lo % NN_BLOCK_K;
    return t;
}

/* Scores of a query to e^(score - max), 0 where it does not see. */
static float soften(const struct job *j, const struct nn_kernels *nn,
                    const struct tile *t, size_t i, float *s)
{
    const struct nn_attention *a = j->a;
    const size_t p = t->s->past + t->first + i, n = p + 1 - t->lo;
    const size_t from = nn_first_key(a, p);

    if (a->cap > 0) {
        nn->scale(s, s, a->scale / a->cap, n);
        nn->tanh(s, s, n);
        nn->scale(s, s, a->cap, n);
    } else {
        nn->scale(s, s, a->scale, n);
    }
    for (size_t key = t->lo; key < from; key++)
        s[key - t->lo] = -INFINITY;
    const float max = nn->max(s, n), sum = nn->exp_sum(s, n, max);
    for (size_t key = p + 1; key < t->hi; key++)
        s[key - t->lo] = 0;
    if (j->lse)
        j->lse[(t->s->q + t->first + i) * a->heads + t->head] =
            (float)(max + nn_log(sum));
    return sum;
}

static void attend(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_attention *a = j->a;
    const struct tile t = tile_of(j, task);
    const size_t keys = t.hi - t.lo, kv_row = a->kv_heads * a->d;
    const size_t kv =
        (t.s->kv + t.lo) * kv_row + t.head / (a->heads / a->kv_heads) * a->d;
    const size_t q_row = a->heads * a->d;
    const size_t q = (t.s->q + t.first) * q_row + t.head * a->d;
    const struct nn_mat k = nn_mat_f32(j->k + kv, keys, a->d, kv_row);
    const struct nn_mat v = nn_mat_f32(j->v + kv, keys, a->d, kv_row);
    const size_t past = t.s->past + t.first - t.lo;
    float *s = w->spare, sum[NN_QUERIES];

    const struct nn_product scores = {.m = t.n,
                                      .n = keys,
                                      .k = a->d,
                                      .a = j->q + q,
                                      .a_row = q_row,
                                      .a_col = 1,
                                      .b = &k,
                                      .c = s,
                                      .c_row = keys,
                                      .shape = NN_C_LOWER,
                                      .shift = past};
    nn_multiply_here(w, &scores);
    for (size_t i = 0; i < t.n; i++)
        sum[i] = soften(j, w->nn, &t, i, s + i * keys);
    const struct nn_product mix = {.m = t.n,
                                   .n = a->d,
                                   .k = keys,
                                   .a = s,
                                   .a_row = keys,
                                   .a_col = 1,
                                   .b = &v,
                                   .b_by_k = true,
                                   .c = j->o + q,
                                   .c_row = q_row,
                                   .shape = NN_A_LOWER,
                                   .shift = past};
    nn_multiply_here(w, &mix);
    for (size_t i = 0; i < t.n; i++)
        w->nn->scale(j->o + q + i * q_row, j->o + q + i * q_row, 1.0f / sum[i],
                     a->d);
}

void nn_attention(struct nn_pool *pool, float *o, float *lse, const float *q,
                  const float *k, const float *v, const struct nn_attention *a,
                  const struct nn_sequence *s, size_t n_sequences)
{
    struct job j = {o, lse, q, k, v, a, s, n_sequences};
    size_t tiles = 0;

    for (size_t i = 0; i < n_sequences; i++)
        tiles += tiles_of(&s[i]);
    nn_pool_run(pool, attend, &j, tiles * a->heads);
}
