/*
 * The part of a matrix in the span of its first columns.
 *
 *     pass 0   the first n columns, all rows     then  Q = qr(them)
 *     pass 1   Z += Q[rows]^T W[rows]            a run of rows at a time
 *
 * Q is that of the QR of all of W, but for signs that Q Q^T does not have:
 * the first n columns of Q depend on the first n columns of W alone.
 */
#include "pq_linalg.h"
#include "pq_surgery.h"

#include <string.h>

#define UNIT 65536u /* elements, about */

struct leading {
    const struct pq_kernels *kernels;
    const struct pq_tensor *t;
    size_t n;
    int (*found)(const struct pq_step *s, const struct pq_leading *l,
                 struct pq_error *e);
};

/* The state: q [rows][n], z [n][cols] behind it. */
struct sums {
    uint64_t filled; /* rows of q */
    double q[];
};

/* A partial: columns of some rows, or a share of z. */
struct share {
    uint64_t count;
    double x[];
};

static double *z_of(const struct leading *p, struct sums *s)
{
    return s->q + p->t->shape[0] * p->n;
}

static int load(const struct leading *p, const struct pq_unit *u, float *x,
                struct pq_error *e)
{
    const uint64_t n = u->count * p->t->shape[1];

    pq_load_f32(p->kernels, p->t->dtype, u->in[0], n, x);
    return p->kernels->absmax_bits(x, n) < PQ_ABS_INF
               ? 0
               : pq_fail(e, PQ_EVALUE, "is NaN or infinite in rows from %llu",
                         (unsigned long long)u->first);
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct leading *p = s->params;
    const uint64_t cols = p->t->shape[1];
    struct share *share = u->partial;
    double *wide = u->scratch;
    float *x = (float *)(wide + s->unit_items * cols);

    if (load(p, u, x, e))
        return pq_error_in(e, "tensor %s", s->name);
    share->count = u->count;
    if (pass == 0) {
        for (uint64_t i = 0; i < u->count; i++)
            for (size_t k = 0; k < p->n; k++)
                share->x[i * p->n + k] = (double)x[i * cols + k];
        return 0;
    }
    for (uint64_t i = 0; i < u->count * cols; i++)
        wide[i] = (double)x[i];
    return pq_gemm_f64(((const struct sums *)state)->q + u->first * p->n, 1,
                       wide, 0, p->n, (size_t)u->count, (size_t)cols, 0,
                       share->x, e);
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct leading *p = s->params;
    const struct share *share = partial;
    struct sums *sums = state;
    double *z = z_of(p, sums);

    if (pass == 1) {
        for (uint64_t i = 0; i < p->n * p->t->shape[1]; i++)
            z[i] += share->x[i];
        return 0;
    }
    memcpy(sums->q + sums->filled * p->n, share->x,
           share->count * p->n * sizeof(double));
    sums->filled += share->count;
    return sums->filled == p->t->shape[0]
               ? pq_qr_f64(sums->q, (size_t)sums->filled, p->n, NULL, e)
               : 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct leading *p = s->params;
    struct sums *sums = state;
    const struct pq_leading l = {.rows = p->t->shape[0],
                                 .cols = p->t->shape[1],
                                 .n = p->n,
                                 .q = sums->q,
                                 .q_t_w = z_of(p, sums)};

    return p->found(s, &l, e);
}

/* Bytes of a head and so many doubles. */
static int bytes_of(uint64_t rows, uint64_t cols, size_t *bytes,
                    struct pq_error *e)
{
    uint64_t n;

    if (!pq_mul(rows, cols, &n) || !pq_mul(n, sizeof(double), &n) ||
        !pq_add(n, sizeof(uint64_t), &n) || n > SIZE_MAX)
        return pq_fail(e, PQ_ELIMIT, "a matrix too large");
    *bytes = (size_t)n;
    return 0;
}

static int set_sizes(struct pq_step *s, const struct leading *p,
                     struct pq_error *e)
{
    const uint64_t rows = p->t->shape[0], cols = p->t->shape[1];
    const uint64_t unit = UNIT / cols ? UNIT / cols : 1;
    const uint64_t widest = unit > cols ? unit : cols;

    s->items = rows;
    s->unit_items = unit;
    s->in[0].item_bits = cols * pq_dtype_bits(p->t->dtype);
    s->scratch_bytes = (size_t)(unit * cols * (sizeof(double) + sizeof(float)));
    /* of a pass, either `unit` rows of n, or n rows of cols */
    return bytes_of(p->n, rows + cols, &s->state_bytes, e) ||
                   bytes_of(p->n, widest, &s->partial_bytes, e)
               ? -1
               : 0;
}

struct pq_step *pq_step_leading(struct pq_plan *p, struct pq_source *src,
                                const struct pq_tensor *t, size_t n,
                                const struct pq_kernels *kernels,
                                int (*found)(const struct pq_step *s,
                                             const struct pq_leading *l,
                                             struct pq_error *e),
                                struct pq_error *e)
{
    if (t->rank != 2 || n == 0 || n > t->shape[0] || n > t->shape[1] ||
        !pq_dtype_is_float(t->dtype) || t->codec.encoding != PQ_PLAIN) {
        pq_fail(e, PQ_EARG, "tensor %s: is no plain matrix of %zu columns",
                t->name, n);
        return NULL;
    }
    struct pq_step *s = pq_plan_step(p, 1, 0, e);
    struct leading *l = pq_arena_alloc(&p->arena, 1, sizeof *l);
    if (!s || !l) {
        pq_fail_nomem(e);
        return NULL;
    }
    *l = (struct leading){kernels, t, n, found};
    s->name = t->name;
    s->params = l;
    s->in[0].source = src;
    s->in[0].part = &t->parts[0];
    s->in[0].access = PQ_RANGE;
    s->n_gather = 2;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
    return set_sizes(s, l, e) ? NULL : s;
}
