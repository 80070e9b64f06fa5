/*
 * The largest singular values of a matrix in bounded memory: subspace
 * iteration as passes of a step.  Formulas and source: pq_lowrank.h.
 *
 * An item is a row of the stored matrix T [m][n]; l is the width.
 *
 *     state     Q [n][l], then the sum of the pass: Z [n][l] or Y [m][l]
 *     partial   of rows [i, i + r): Z = T_i^T (T_i Q) [n][l], or Y = T_i Q
 *
 * From Y = q r and r = a diag(s) b^T:  T ~ (q a) diag(s) (Q b)^T.  For a
 * turned matrix D = T^T the two factors change places.
 */
#include "pq_lowrank.h"
#include "pq_quant.h"
#include "rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_FLOATS (1u << 18) /* of T in a unit, about */
#define UNIT_ROWS   64u        /* at least: else sums cost more than products */
#define LANES       8u         /* widths are multiples of this */
#define CHUNK       4096u      /* elements that are subtracted at a time */
#define BLOCK       256u       /* rows that are multiplied in place at a time */

struct lowrank {
    struct pq_lowrank_how how;
    enum pq_dtype a, b; /* of the tensors; one input: only b */
    uint64_t m, n;      /* of T */
    size_t l, rank;     /* width; singular values to report */
    bool whole_rows;    /* n <= l: Q is the identity, no iterations */
};

struct kept {
    double norm_sq;
    uint64_t rows; /* of Y that are there */
    float floats[]; /* Q, sum */
};

struct part {
    double norm_sq;
    uint64_t rows;
    float floats[]; /* [n][l] or [rows][l] */
};

static float *sum_of(const struct lowrank *p, struct kept *k)
{
    return k->floats + p->n * p->l;
}

static bool is_last(const struct pq_step *s, unsigned pass)
{
    return pass + 1 == s->n_gather;
}

/* ---- the passes -------------------------------------------------------- */

static int begin(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct lowrank *p = s->params;
    struct kept *k = state;
    const uint64_t count = p->n * p->l;
    struct pq_rng rng;

    (void)e;
    if (p->whole_rows) {
        for (uint64_t i = 0; i < p->n; i++)
            k->floats[i * p->l + i] = 1;
        return 0;
    }
    pq_rng_init(&rng, p->how.seed, s->name);
    pq_rng_uniform(&rng, 0, k->floats, count);
    for (uint64_t i = 0; i < count; i++)
        k->floats[i] -= 0.5f;
    return 0;
}

/* The unit's rows of T as floats, at the start of its scratch. */
static void load(const struct pq_step *s, const struct pq_unit *u)
{
    const struct lowrank *p = s->params;
    const uint64_t count = u->count * p->n;
    const size_t size = pq_dtype_bits(p->a) / 8;
    float *const x = u->scratch, *const base = x + count;

    pq_load_f32(p->how.kernels, p->b, u->in[0], count, x);
    for (uint64_t at = 0; s->n_in > 1 && at < count; at += CHUNK) {
        const size_t n = count - at < CHUNK ? (size_t)(count - at) : CHUNK;
        pq_load_f32(p->how.kernels, p->a,
                    (const char *)u->in[1] + at * size, n, base);
        for (size_t i = 0; i < n; i++)
            x[at + i] -= base[i];
    }
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct lowrank *p = s->params;
    const struct kept *k = state;
    struct part *r = u->partial;
    const bool last = is_last(s, pass), hopeless = isinf(k->norm_sq);
    const float *const q = k->floats, *const x = u->scratch;
    float *const y = last ? r->floats : (float *)u->scratch + u->count * p->n;

    r->rows = u->count;
    if (hopeless)
        return 0;
    load(s, u);
    if (pass == 0) {
        struct pq_moments all;
        p->how.kernels->moments(x, u->count * p->n, &all);
        if (all.nans + all.infs && p->how.allow_nonfinite) {
            r->norm_sq = (double)INFINITY;
            return 0;
        }
        if (all.nans + all.infs)
            return pq_fail(e, PQ_EVALUE, "rows %llu to %llu have NaN or "
                           "infinities",
                           (unsigned long long)u->first,
                           (unsigned long long)(u->first + u->count - 1));
        r->norm_sq = all.sum_sq;
    }
    if (pq_gemm_f32(x, 0, q, 0, u->count, p->n, p->l, 0, y, e))
        return -1;
    return last ? 0
                : pq_gemm_f32(x, 1, y, 0, p->n, u->count, p->l, 0, r->floats,
                              e);
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct lowrank *p = s->params;
    const struct part *r = partial;
    struct kept *k = state;
    float *const sum = sum_of(p, k);
    const uint64_t count = p->n * p->l;

    k->norm_sq += r->norm_sq;
    if (is_last(s, pass)) {
        memcpy(sum + k->rows * p->l, r->floats,
               r->rows * p->l * sizeof *sum);
        k->rows += r->rows;
        return 0;
    }
    if (k->rows == 0)
        memset(sum, 0, count * sizeof *sum);
    for (uint64_t i = 0; i < count; i++)
        sum[i] += r->floats[i];
    k->rows += r->rows;
    if (k->rows < p->m)
        return 0;
    k->rows = 0;
    if (isinf(k->norm_sq))
        return 0;
    memcpy(k->floats, sum, count * sizeof *sum);
    return pq_qr_f32(k->floats, p->n, p->l, NULL, e);
}

/* ---- the result -------------------------------------------------------- */

/* x [rows][l] becomes x c [rows][rank], in place. */
static int multiply(float *x, uint64_t rows, const struct lowrank *p,
                    const float *c /* [l][rank] */, struct pq_error *e)
{
    float *room = pq_alloc(BLOCK * p->rank, sizeof *room);
    int rc = room ? 0 : pq_fail_nomem(e);

    for (uint64_t at = 0; !rc && at < rows; at += BLOCK) {
        const size_t n = rows - at < BLOCK ? (size_t)(rows - at) : BLOCK;
        rc = pq_gemm_f32(x + at * p->l, 0, c, 0, n, p->l, p->rank, 0, room, e);
        if (!rc)
            memcpy(x + at * p->rank, room, n * p->rank * sizeof *room);
    }
    free(room);
    return rc;
}

/* The first `rank` columns, of x or of its transpose, as floats. */
static void narrow(const double *x, bool turn, const struct lowrank *p,
                   float *y)
{
    for (size_t i = 0; i < p->l; i++)
        for (size_t j = 0; j < p->rank; j++)
            y[i * p->rank + j] =
                (float)(turn ? x[j * p->l + i] : x[i * p->l + j]);
}

/* Y -> left [m][rank], Q -> right [n][rank], s */
static int factor(const struct lowrank *p, struct kept *k, double *s,
                  struct pq_error *e)
{
    const size_t core = p->l * p->l;
    float *r = pq_alloc(core, sizeof *r);
    double *a = pq_alloc(3 * core, sizeof *a);
    int rc = r && a ? 0 : pq_fail_nomem(e);

    if (!rc)
        rc = pq_qr_f32(sum_of(p, k), p->m, p->l, r, e);
    for (size_t i = 0; !rc && i < core; i++)
        a[2 * core + i] = (double)r[i];
    if (!rc)
        rc = pq_svd_f64(a + 2 * core, p->l, p->l, a, s, a + core, e);
    if (!rc) {
        narrow(a, false, p, r);
        rc = multiply(sum_of(p, k), p->m, p, r, e);
    }
    if (!rc) {
        narrow(a + core, true, p, r);
        rc = multiply(k->floats, p->n, p, r, e);
    }
    free(a);
    free(r);
    return rc;
}

static int report(const struct pq_step *s, struct kept *k, struct pq_error *e)
{
    const struct lowrank *p = s->params;
    const bool turned = p->how.turned;
    struct pq_lowrank r = {.rows = turned ? p->n : p->m,
                           .cols = turned ? p->m : p->n,
                           .rank = p->rank,
                           .norm_sq = k->norm_sq};
    double *values = pq_alloc(p->l, sizeof *values);
    float *vt = pq_alloc((size_t)r.cols * p->rank, sizeof *vt);
    int rc = values && vt ? factor(p, k, values, e) : pq_fail_nomem(e);

    if (!rc) {
        float *const left = sum_of(p, k), *const right = k->floats;
        p->how.kernels->transpose(turned ? left : right, vt, (size_t)r.cols,
                                  p->rank, sizeof *vt);
        r.u = turned ? right : left;
        r.s = values;
        r.vt = vt;
        rc = p->how.found(s, &r, e);
    }
    free(vt);
    free(values);
    return rc;
}

/* A matrix without elements, or with others than numbers, has no values. */
static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct lowrank *p = s->params;
    struct kept *k = state;
    const bool none = s->items == 0 || isinf(k->norm_sq);
    const struct pq_lowrank nothing = {
        .rows = p->how.turned ? p->n : p->m,
        .cols = p->how.turned ? p->m : p->n,
        .norm_sq = s->items ? k->norm_sq : 0};
    const int rc = none ? p->how.found(s, &nothing, e) : report(s, k, e);

    return rc ? pq_error_in(e, "tensor %s", s->name) : 0;
}

/* ---- the step ---------------------------------------------------------- */

static int check(const struct pq_tensor *a, const struct pq_tensor *b,
                 struct pq_error *e)
{
    if (b->codec.encoding != PQ_PLAIN || !pq_dtype_is_float(b->dtype) ||
        (a && (a->codec.encoding != PQ_PLAIN || !pq_dtype_is_float(a->dtype))))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: has no floating-point numbers", b->name);
    if (b->rank < 2)
        return pq_fail(e, PQ_EARG, "tensor %s: is no matrix", b->name);
    for (int i = 0; a && i < b->rank; i++)
        if (a->rank != b->rank || a->shape[i] != b->shape[i])
            return pq_fail(e, PQ_EARG, "tensor %s: the shapes differ",
                           b->name);
    return 0;
}

/* Width, rank and whether there is anything to iterate. */
static void measure(struct lowrank *p)
{
    const uint64_t least = p->m < p->n ? p->m : p->n;
    const uint64_t asked = (uint64_t)p->how.rank + p->how.oversample;
    const uint64_t wide = (asked + LANES - 1) / LANES * LANES;

    p->l = (size_t)(wide < least ? wide : least);
    p->rank = asked >= least ? p->l : p->how.rank;
    p->whole_rows = p->n <= p->l;
}

/* Bytes of state and buffers of a unit; false: beyond what can be counted. */
static bool size_up(const struct lowrank *p, struct pq_step *s)
{
    const uint64_t most = p->m > p->n ? p->m : p->n;
    const uint64_t rows = UNIT_FLOATS / p->n;
    uint64_t width, state, floats, part;

    s->unit_items = rows > UNIT_ROWS ? rows : UNIT_ROWS;
    if (s->unit_items > p->m)
        s->unit_items = p->m;
    const uint64_t part_rows =
        p->n > s->unit_items && !p->whole_rows ? p->n : s->unit_items;
    if (!pq_mul(p->l, sizeof(float), &width) ||
        !pq_mul(width, p->n + most, &state) ||
        !pq_mul(s->unit_items, p->n + p->l, &floats) ||
        !pq_mul(floats + CHUNK, sizeof(float), &floats) ||
        !pq_mul(width, part_rows, &part) || state > SIZE_MAX / 2 ||
        floats > SIZE_MAX / 2 || part > SIZE_MAX / 2)
        return false;
    s->state_bytes = (size_t)state + sizeof(struct kept);
    s->scratch_bytes = (size_t)floats + PQ_LINALG_BYTES;
    s->partial_bytes = (size_t)part + sizeof(struct part);
    return true;
}

static void add_input(struct pq_step *s, size_t i, struct pq_source *source,
                      const struct pq_tensor *t, uint64_t columns)
{
    s->in[i] = (struct pq_input){.source = source, .part = &t->parts[0],
                                 .access = PQ_RANGE};
    s->in[i].item_bits = columns * pq_dtype_bits(t->dtype);
}

struct pq_step *pq_step_lowrank(struct pq_plan *plan, const char *name,
                                struct pq_source *sa, const struct pq_tensor *a,
                                struct pq_source *sb, const struct pq_tensor *b,
                                const struct pq_lowrank_how *how,
                                struct pq_error *e)
{
    if (check(a, b, e))
        return NULL;
    struct pq_step *s = pq_plan_step(plan, a ? 2 : 1, 0, e);
    struct lowrank *p = pq_arena_alloc(&plan->arena, 1, sizeof *p);
    if (!s || !p) {
        pq_fail_nomem(e);
        return NULL;
    }
    p->how = *how;
    p->m = b->n_elements ? b->shape[0] : 0;
    p->n = p->m ? b->n_elements / p->m : 0;
    p->b = b->dtype;
    p->a = a ? a->dtype : b->dtype;
    s->name = name;
    s->params = p;
    s->items = p->m;
    s->unit_items = 1;
    add_input(s, 0, sb, b, p->n);
    if (a)
        add_input(s, 1, sa, a, p->n);
    s->n_gather = 1;
    s->done = done;
    if (p->m == 0)
        return s;
    measure(p);
    if (!size_up(p, s)) {
        pq_fail(e, PQ_ELIMIT, "tensor %s: is too large", name);
        return NULL;
    }
    s->n_gather = p->whole_rows ? 1 : how->iterations + 1;
    s->begin = begin;
    s->gather = gather;
    s->combine = combine;
    return s;
}

size_t pq_rank_for_energy(const double *s, size_t n, double energy,
                          double norm_sq)
{
    double sum = 0;

    for (size_t k = 0; k < n; k++) {
        if (sum >= energy * norm_sq)
            return k;
        sum += s[k] * s[k];
    }
    return n;
}
