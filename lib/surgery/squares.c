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
    int (*found)(const struct pq_step *s, const double *sums,
                 struct pq_error *e);
};

/* A partial, and the state: of how many rows, their sums or the columns'. */
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

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct squares *p = s->params;
    const struct share *share = partial;
    struct share *all = state;

    (void)pass;
    (void)e;
    if (p->by_column)
        for (uint64_t k = 0; k < p->t->shape[1]; k++)
            all->x[k] += share->x[k];
    else
        memcpy(all->x + all->count, share->x,
               (size_t)share->count * sizeof *share->x);
    all->count += share->count;
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct squares *p = s->params;

    return p->found(s, ((struct share *)state)->x, e);
}

static void set_sizes(struct pq_step *s, const struct squares *p)
{
    const uint64_t rows = p->t->shape[0], cols = p->t->shape[1];
    const uint64_t unit = UNIT / cols ? UNIT / cols : 1;

    s->items = rows;
    s->unit_items = unit;
    s->in[0].item_bits = cols * pq_dtype_bits(p->t->dtype);
    s->scratch_bytes = (size_t)(unit * cols) * sizeof(float);
    s->partial_bytes = sizeof(struct share) +
                       (size_t)(p->by_column ? cols : unit) * sizeof(double);
    s->state_bytes = sizeof(struct share) +
                     (size_t)(p->by_column ? cols : rows) * sizeof(double);
}

struct pq_step *pq_step_squares(struct pq_plan *p, struct pq_source *src,
                                const struct pq_tensor *t, bool by_column,
                                const struct pq_kernels *kernels,
                                int (*found)(const struct pq_step *s,
                                             const double *sums,
                                             struct pq_error *e),
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
    *q = (struct squares){kernels, t, by_column, found};
    s->name = t->name;
    s->params = q;
    s->in[0].source = src;
    s->in[0].part = &t->parts[0];
    s->in[0].access = PQ_RANGE;
    s->n_gather = 1;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
    set_sizes(s, q);
    return s;
}
