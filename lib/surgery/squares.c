/*
 * Sums of squares of the rows or of the columns of a matrix, as a step.
 *
 *     rows      of each unit the sums of its rows, put one behind the other
 *     columns   of each unit the sums of its columns, added up unit by unit
 *
 * Units depend on the shape alone and are combined in order, and a row is
 * summed in the fixed lanes of the kernels: the same bits at any number of
 * threads and on any CPU.
 */
#include "pq_quant.h"
#include "pq_shrink.h"

#include <string.h>

#define UNIT 65536u /* elements, about */

struct squares {
    const struct pq_kernels *kernels;
    const struct pq_tensor *t;
    bool by_column;
    double *sums; /* [rows] or [columns] */
};

/* A partial: of how many rows, and their sums or those of the columns. */
struct share {
    uint64_t count;
    double x[];
};

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct squares *p = s->params;
    const uint64_t cols = p->t->shape[1];
    struct share *share = u->partial;
    float *x = u->scratch;

    (void)pass;
    (void)state;
    pq_load_f32(p->kernels, p->t->dtype, u->in[0], (size_t)(u->count * cols),
                x);
    if (p->kernels->absmax_bits(x, (size_t)(u->count * cols)) >= PQ_ABS_INF)
        return pq_fail(e, PQ_EVALUE,
                       "tensor %s: is NaN or infinite in rows from %llu",
                       s->name, (unsigned long long)u->first);
    share->count = u->count;
    for (uint64_t i = 0; i < u->count; i++, x += cols) {
        struct pq_moments m;
        if (!p->by_column) {
            p->kernels->moments(x, (size_t)cols, &m);
            share->x[i] = m.sum_sq;
            continue;
        }
        for (uint64_t k = 0; k < cols; k++)
            share->x[k] += (double)x[k] * (double)x[k];
    }
    return 0;
}

/* The state is the number of rows so far. */
static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct squares *p = s->params;
    const struct share *share = partial;
    uint64_t *rows = state;

    (void)pass;
    (void)e;
    if (p->by_column)
        for (uint64_t k = 0; k < p->t->shape[1]; k++)
            p->sums[k] += share->x[k];
    else
        memcpy(p->sums + *rows, share->x,
               (size_t)share->count * sizeof *share->x);
    *rows += share->count;
    return 0;
}

static int begin(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct squares *p = s->params;

    (void)state;
    (void)e;
    memset(p->sums, 0,
           (size_t)p->t->shape[p->by_column] * sizeof *p->sums);
    return 0;
}

struct pq_step *pq_step_squares(struct pq_plan *p, struct pq_source *src,
                                const struct pq_tensor *t, bool by_column,
                                const struct pq_kernels *kernels, double *sums,
                                struct pq_error *e)
{
    if (t->rank != 2 || t->n_elements == 0 || !pq_dtype_is_float(t->dtype) ||
        t->codec.encoding != PQ_PLAIN) {
        pq_fail(e, PQ_EARG, "tensor %s: is no plain matrix of numbers",
                t->name);
        return NULL;
    }
    struct pq_step *s = pq_plan_step(p, 1, 0, e);
    struct squares *q = pq_arena_alloc(&p->arena, 1, sizeof *q);
    if (!s || !q) {
        pq_fail_nomem(e);
        return NULL;
    }
    const uint64_t cols = t->shape[1];
    *q = (struct squares){kernels, t, by_column, sums};
    s->name = t->name;
    s->params = q;
    s->in[0].source = src;
    s->in[0].part = &t->parts[0];
    s->in[0].access = PQ_RANGE;
    s->in[0].item_bits = cols * pq_dtype_bits(t->dtype);
    s->items = t->shape[0];
    s->unit_items = UNIT / cols ? UNIT / cols : 1;
    s->scratch_bytes = (size_t)(s->unit_items * cols) * sizeof(float);
    s->partial_bytes =
        sizeof(struct share) +
        (size_t)(by_column ? cols : s->unit_items) * sizeof(double);
    s->state_bytes = sizeof(uint64_t);
    s->n_gather = 1;
    s->begin = begin;
    s->gather = gather;
    s->combine = combine;
    return s;
}
