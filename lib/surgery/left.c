/*
 * What factors leave of a matrix, rounded as they are written: pq_ranks.h.
 *
 * Of the stored matrix T = b - a [m][n], the units are rows:
 *
 *     straight   T = B A        left = columns of B^T    right = A
 *     turned     T = (B A)^T    left = columns of A      right = B^T
 *
 * and what is left is |T - left^T right|^2.
 */
#include "pq_linalg.h"
#include "pq_quant.h"
#include "pq_ranks.h"

#include <math.h>
#include <string.h>

#define UNIT_FLOATS (1u << 18) /* in a unit, about */
#define UNIT_ROWS   64u        /* at least */
#define CHUNK       4096u      /* elements converted at a time */

enum { TUNED, BASE, LEFT, RIGHT, N_INPUTS };

struct measure {
    const struct pq_kernels *kernels;
    enum pq_dtype a, b, dtype;
    uint64_t m, n; /* of T */
    size_t rank;
    struct pq_left *result;
};

static uint64_t unit_rows(const struct measure *q)
{
    uint64_t n = q->n ? UNIT_FLOATS / q->n : UNIT_FLOATS;

    if (n < UNIT_ROWS)
        n = UNIT_ROWS;
    return n < q->m ? n : q->m ? q->m : 1;
}

/* Rounds x to the type that is written and back. */
static void round_all(const struct measure *q, float *x, uint64_t n,
                      float *room /* [CHUNK] */)
{
    for (uint64_t at = 0; q->dtype != PQ_F32 && at < n; at += CHUNK) {
        const size_t k = n - at < CHUNK ? (size_t)(n - at) : CHUNK;
        pq_store_f32(q->kernels, q->dtype, x + at, k, room);
        pq_load_f32(q->kernels, q->dtype, room, k, x + at);
    }
}

/* The rows of T. */
static void load(const struct measure *q, const struct pq_unit *u, float *x,
                 float *room)
{
    const uint64_t count = u->count * q->n;
    const size_t size = pq_dtype_bits(q->a) / 8;

    pq_load_f32(q->kernels, q->b, u->in[TUNED], count, x);
    for (uint64_t at = 0; at < count; at += CHUNK) {
        const size_t n = count - at < CHUNK ? (size_t)(count - at) : CHUNK;
        pq_load_f32(q->kernels, q->a,
                    (const char *)u->in[BASE] + at * size, n, room);
        for (size_t i = 0; i < n; i++)
            x[at + i] -= room[i];
    }
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct measure *q = s->params;
    const uint64_t count = u->count * q->n;
    struct pq_left *r = u->partial;
    struct pq_moments all;
    const uint64_t n_left = u->count * q->rank, n_right = q->n * q->rank;
    float *x = u->scratch, *room = x + count, *left = room + CHUNK;
    float *right = left + n_left;

    (void)pass;
    (void)state;
    load(q, u, x, room);
    q->kernels->moments(x, count, &all);
    r->norm_sq = all.sum_sq;
    memcpy(left, u->in[LEFT], n_left * sizeof *left);
    memcpy(right, u->in[RIGHT], n_right * sizeof *right);
    round_all(q, left, n_left, room);
    round_all(q, right, n_right, room);
    for (uint64_t i = 0; i < n_left; i++)
        left[i] = -left[i];
    if (pq_gemm_f32(left, 1, right, 0, u->count, q->rank, q->n, 1, x, e))
        return -1;
    q->kernels->moments(x, count, &all);
    r->left_sq = all.nans + all.infs ? (double)INFINITY : all.sum_sq;
    return 0;
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct pq_left *r = partial;
    struct pq_left *sum = state;

    (void)s;
    (void)pass;
    (void)e;
    sum->norm_sq += r->norm_sq;
    sum->left_sq += r->left_sq;
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct measure *q = s->params;

    (void)e;
    *q->result = *(const struct pq_left *)state;
    return 0;
}

struct pq_step *pq_step_left(struct pq_plan *p, const char *name,
                             struct pq_source *sa, const struct pq_tensor *ta,
                             struct pq_source *sb, const struct pq_tensor *tb,
                             bool turned, struct pq_source *made,
                             const struct pq_ranked *f, enum pq_dtype dtype,
                             const struct pq_kernels *k,
                             struct pq_left *result, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, N_INPUTS, 0, e);
    struct measure *q = pq_arena_alloc(&p->arena, 1, sizeof *q);
    const struct pq_tensor *left = pq_ranked_rows(f, !turned, name, &p->arena);
    const struct pq_tensor *right = pq_ranked_rows(f, turned, name, &p->arena);

    if (!s || !q || !left || !right) {
        pq_fail_nomem(e);
        return NULL;
    }
    *q = (struct measure){.kernels = k, .a = ta->dtype, .b = tb->dtype,
                          .dtype = dtype, .m = left->shape[1],
                          .n = right->shape[1], .rank = f->rank,
                          .result = result};
    s->name = name;
    s->params = q;
    s->in[TUNED] = (struct pq_input){.source = sb, .part = &tb->parts[0],
                                     .item_bits = q->n * pq_dtype_bits(q->b)};
    s->in[BASE] = (struct pq_input){.source = sa, .part = &ta->parts[0],
                                    .item_bits = q->n * pq_dtype_bits(q->a)};
    s->in[LEFT] = (struct pq_input){.source = made, .part = &left->parts[0],
                                    .access = PQ_COLUMNS, .item_columns = 1};
    s->in[RIGHT] = (struct pq_input){.source = made, .part = &right->parts[0],
                                     .access = PQ_WHOLE};
    s->items = q->m;
    s->unit_items = unit_rows(q);
    s->scratch_bytes = sizeof(float) * (s->unit_items * (q->n + q->rank) +
                                        CHUNK + q->n * q->rank) +
                       PQ_LINALG_BYTES;
    s->partial_bytes = s->state_bytes = sizeof(struct pq_left);
    s->n_gather = 1;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
    return s;
}
