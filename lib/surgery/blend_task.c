/*
 * Sums of changes to a base, d_i = W_i - base:
 *
 *     base + lambda  (sum of w_i d'_i)  / sum w_i when normalised
 *
 * where d' is what is left of d after some was dropped, times what makes up
 * for it (PQ_RESCALE_NORM: sum |d| / sum |d'|, over the tensor; not where
 * one of them is below 1e-7, as in mergekit).  With an election (TIES,
 * 2306.01708, section 3) the sign of sum w_i d'_i is that of the element, and
 * only those w_i d'_i count that have it.
 */
#include "blend_internal.h"

#include <limits.h>
#include <math.h>

static bool trims(const struct pq_blender *m)
{
    return m->row->sparse == PQ_SPARSE_LARGEST ||
           m->row->sparse == PQ_SPARSE_MIDDLE;
}

/* Is anything dropped at all? */
static bool drops(const struct pq_blender *m)
{
    for (size_t i = 0; i < m->b->n && m->row->sparse != PQ_SPARSE_NONE; i++)
        if (m->b->in[i].density < 1)
            return true;
    return false;
}

/* Arrays for d', what went by of each cut, and what drawing lots takes. */
void pq_task_plan(struct pq_blender *m, struct pq_change *c)
{
    const size_t n = m->b->n;

    m->local_floats = n * m->stride + 2 * n + pq_lots_room(m);
    m->norm_pass = UINT_MAX;
    if (!drops(m))
        return;
    c->state_bytes = n * sizeof(struct pq_blend_kept);
    if (trims(m)) {
        c->n_gather = PQ_TRIM_PASSES;
        c->partial_bytes = pq_trim_partial_bytes(n);
        c->state_bytes += pq_trim_state_bytes(n);
    }
    if (m->b->rescale == PQ_RESCALE_NORM) {
        m->norm_pass = c->n_gather++;
        if (c->partial_bytes < 2 * n * sizeof(double))
            c->partial_bytes = 2 * n * sizeof(double);
    }
}

/* ---- what is left of the changes --------------------------------------- */

static float *left_of(const struct pq_tile *t, size_t i)
{
    return t->room + i * t->m->stride;
}

static uint32_t *taken_of(const struct pq_tile *t, size_t i)
{
    return (uint32_t *)(void *)left_of(t, t->m->b->n) + 2 * i;
}

static float *lots_room(const struct pq_tile *t)
{
    return left_of(t, t->m->b->n) + 2 * t->m->b->n;
}

/* d of model i, without what is dropped. */
static void leave(const struct pq_tile *t, size_t i)
{
    const struct pq_blender *m = t->m;
    const float *x = t->x + i * m->stride;
    const struct pq_blend_kept *kept = t->r->state;
    float *d = left_of(t, i);

    if (t->number == 0)
        taken_of(t, i)[0] = taken_of(t, i)[1] = 0;
    if (trims(m) && m->b->in[i].density < 1) {
        pq_trim_tile(t, i, &kept[i], taken_of(t, i), d);
        return;
    }
    t->r->kernels->trim(x, t->base, t->n, 0, UINT32_MAX, d);
    if (m->row->sparse != PQ_SPARSE_NONE && m->b->in[i].density < 1)
        pq_lots_tile(t, i, lots_room(t), d);
}

static float make_up(const struct pq_blender *m, const struct pq_blend_kept *k)
{
    if (m->norm_pass == UINT_MAX || k->before < 1e-7 || k->after < 1e-7)
        return 1;
    return (float)(k->before / k->after);
}

void pq_task_emit(const struct pq_tile *t)
{
    const struct pq_blender *m = t->m;
    const struct pq_blend_kept *kept = t->r->state;
    const struct pq_task_sum sum = {m->w,          m->b->n,
                                    m->row->elect, m->b->normalize,
                                    m->divisor,    (float)m->b->lambda};

    for (size_t i = 0; i < m->b->n; i++) {
        float *d = left_of(t, i);
        leave(t, i);
        const float f = make_up(m, &kept[i]);
        for (uint64_t j = 0; f != 1 && j < t->n; j++)
            d[j] *= f;
    }
    t->r->kernels->task_sum(&sum, t->base, left_of(t, 0), m->stride, t->n,
                            t->out);
}

/* ---- gathering --------------------------------------------------------- */

static void add_norms(const struct pq_tile *t)
{
    const struct pq_kernels *k = t->r->kernels;
    const struct pq_blender *m = t->m;
    double *sums = t->r->partial; /* [n][before, after] */

    for (size_t i = 0; i < m->b->n; i++) {
        float *d = left_of(t, i);
        k->trim(t->x + i * m->stride, t->base, t->n, 0, UINT32_MAX, d);
        sums[2 * i] += k->abs_sum(d, t->n);
        leave(t, i);
        sums[2 * i + 1] += k->abs_sum(d, t->n);
    }
}

void pq_task_gather(const struct pq_tile *t)
{
    if (t->r->pass == t->m->norm_pass)
        add_norms(t);
    else
        pq_trim_gather(t);
}

void pq_task_combine(const struct pq_change *c, unsigned pass, uint64_t before,
                     void *state, const void *partial)
{
    const struct pq_blender *m = c->params;
    struct pq_blend_kept *kept = state;
    const double *sums = partial;

    if (pass != m->norm_pass) {
        pq_trim_combine(m, pass, before * m->change.columns, kept, partial);
        return;
    }
    for (size_t i = 0; i < m->b->n; i++) {
        kept[i].before += sums[2 * i];
        kept[i].after += sums[2 * i + 1];
    }
}

void pq_task_settle(const struct pq_change *c, unsigned pass, void *state)
{
    const struct pq_blender *m = c->params;

    if (pass != m->norm_pass)
        pq_trim_settle(m, pass, state);
}
