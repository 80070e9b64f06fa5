/*
 * Weighted sums:
 *
 *   linear        sum w_i W_i  / sum w_i when normalised        2203.05482
 *   passthrough   scale W
 *   slerp         sin((1-t)a)/sin a  base + sin(ta)/sin a  W    Shoemake 1985
 *                 cos a = base.W / |base||W|; where |cos a| > 0.9995
 *                 (1-t) base + t W
 *   model_stock   t mean(W) + (1-t) base                        2403.19522
 *                 t = N c / (1 + (N-1) c), c the mean over the pairs of
 *                 d_i.d_j / |d_i||d_j|; 0 where that has no value
 *
 * The limits (0.9995, 1e-8 and 1e-6 for norms) are mergekit's.  Dots are
 * gathered over the tensor in double, or for model_stock by row in each row.
 */
#include "blend_internal.h"

#include <math.h>
#include <string.h>

/* ---- plain sums -------------------------------------------------------- */

void pq_sum_plan(struct pq_blender *m, struct pq_change *c)
{
    (void)c;
    m->local_floats = m->n_arrays;
}

void pq_sum_emit(const struct pq_tile *t)
{
    const struct pq_blender *m = t->m;

    if (t->number == 0 || m->b->by_row)
        m->row->weights(t, t->room);
    t->r->kernels->weighted_sum(t->all, m->stride, t->room, m->n_arrays,
                                m->divisor, t->n, t->out);
}

void pq_sum_plain_weights(const struct pq_tile *t, float *w)
{
    const struct pq_blend *b = t->m->b;

    memcpy(w, t->m->w, b->n * sizeof *w);
    if (b->method->takes & PQ_TAKES_SCALE)
        w[0] = (float)b->scale;
}

/* ---- angles ------------------------------------------------------------ */

/* sum a^2, sum b^2, sum ab for a pair. */
struct dots {
    double aa, bb, ab;
};

static size_t count_pairs(size_t n)
{
    return n > 1 ? n * (n - 1) / 2 : 1;
}

/* Differences from the base of each pair; of slerp, base and model. */
static void add_dots(const struct pq_tile *t, struct dots *dots)
{
    const struct pq_kernels *k = t->r->kernels;
    const struct pq_blend *b = t->m->b;
    const size_t stride = t->m->stride;
    double s[3];

    if (b->n == 1) {
        k->change_stats(t->room, t->base, t->x, t->n, s); /* room is 0 */
        dots->aa += s[0];
        dots->bb += s[1];
        dots->ab += s[2];
        return;
    }
    for (size_t i = 0; i < b->n; i++)
        for (size_t j = i + 1; j < b->n; j++, dots++) {
            k->change_stats(t->base, t->x + i * stride, t->x + j * stride, t->n,
                            s);
            dots->aa += s[0];
            dots->bb += s[1];
            dots->ab += s[2];
        }
}

void pq_angle_plan(struct pq_blender *m, struct pq_change *c)
{
    const size_t bytes = count_pairs(m->b->n) * sizeof(struct dots);

    m->local_floats = m->n_arrays > m->stride ? m->n_arrays : m->stride;
    if (m->b->by_row) {
        m->local_floats = m->n_arrays + 1 + bytes / sizeof(float);
        return;
    }
    c->n_gather = 1;
    c->partial_bytes = c->state_bytes = bytes;
}

void pq_angle_gather(const struct pq_tile *t)
{
    if (t->number == 0)
        memset(t->room, 0, t->m->stride * sizeof *t->room);
    add_dots(t, t->r->partial);
}

void pq_angle_combine(const struct pq_change *c, unsigned pass, uint64_t before,
                      void *state, const void *partial)
{
    double *sums = state;
    const double *add = partial;

    (void)pass;
    (void)before;
    for (size_t i = 0; i < c->partial_bytes / sizeof *sums; i++)
        sums[i] += add[i];
}

static double clamp_cosine(double c)
{
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

void pq_slerp_weights(const struct pq_tile *t, float *w)
{
    const struct dots *d = t->r->state;
    const double at = t->m->b->t, a = sqrt(d->aa), b = sqrt(d->bb);
    const double c =
        clamp_cosine(d->ab / (a > 1e-8 ? a : 1) / (b > 1e-8 ? b : 1));
    const double angle = acos(c);

    if (fabs(c) > 0.9995) {
        w[0] = (float)(1 - at);
        w[1] = (float)at;
    } else {
        w[0] = (float)(sin((1 - at) * angle) / sin(angle));
        w[1] = (float)(sin(at * angle) / sin(angle));
    }
}

/* t of the formula above. */
static double stock_share(const struct dots *d, size_t n)
{
    const size_t pairs = count_pairs(n);
    double c = 0;

    for (size_t i = 0; i < pairs; i++) {
        const double norms = sqrt(d[i].aa) * sqrt(d[i].bb);
        c += clamp_cosine(d[i].ab / (norms > 1e-6 ? norms : 1e-6));
    }
    c /= (double)pairs;
    const double below = 1 + (double)(n - 1) * c;
    return fabs(below) < 1e-6 ? 0 : (double)n * c / below;
}

void pq_stock_weights(const struct pq_tile *t, float *w)
{
    const struct pq_blend *b = t->m->b;
    const struct dots *d = t->r->state;

    if (b->by_row) {
        /* behind the weights, which end anywhere */
        struct dots *own =
            (struct dots *)(void *)(w + t->m->n_arrays +
                                    ((uintptr_t)(w + t->m->n_arrays) % 8 ? 1
                                                                         : 0));
        memset(own, 0, count_pairs(b->n) * sizeof *own);
        add_dots(t, own);
        d = own;
    }
    const double share = stock_share(d, b->n);
    w[0] = (float)(1 - share);
    for (size_t i = 0; i < b->n; i++)
        w[1 + i] = (float)(share / (double)b->n);
}
