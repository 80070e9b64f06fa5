/*
 * Factors of what was found of a matrix: writing them, and measuring what
 * they leave.  Formulas: pq_lowrank.h.
 *
 * Of the stored matrix T = b - a [m][n], the units are rows:
 *
 *     straight   T = B A        left = rows of B         right = A
 *     turned     T = (B A)^T    left = columns of A, ^T  right = B^T
 *
 * and what is left is |T - left right|^2.
 */
#include "pq_lowrank.h"
#include "pq_quant.h"

#include <math.h>
#include <string.h>

#define UNIT_FLOATS (1u << 18) /* in a unit, about */
#define UNIT_ROWS   64u        /* at least */
#define CHUNK       4096u      /* elements converted at a time */

static uint64_t rows_for(uint64_t row_floats, uint64_t items)
{
    const uint64_t n = row_floats ? UNIT_FLOATS / row_floats : UNIT_FLOATS;

    return n > items ? (items ? items : 1) : n ? n : 1;
}

static uint64_t outputs(const struct pq_factors *f)
{
    return f->u->shape[0];
}

static uint64_t inputs(const struct pq_factors *f)
{
    return f->vt->shape[1];
}

static size_t found(const struct pq_factors *f)
{
    return (size_t)f->vt->shape[0];
}

/* Rows of U, cut to the rank, times the roots of s: rows of B. */
static void rows_of_b(const struct pq_factors *f, const float *u,
                      uint64_t count, float *to /* [count][rank] */)
{
    const size_t n = found(f);

    for (uint64_t i = 0; i < count; i++)
        for (size_t k = 0; k < f->rank; k++)
            to[i * f->rank + k] = u[i * n + k] * (float)sqrt(f->s[k]);
}

/* Rows of V^T from number `first` on, times the roots of s: rows of A. */
static void rows_of_a(const struct pq_factors *f, const float *vt,
                      uint64_t first, uint64_t count, uint64_t cols,
                      float *to /* [count][cols] */)
{
    for (uint64_t k = 0; k < count; k++) {
        const float root = (float)sqrt(f->s[first + k]);
        for (uint64_t j = 0; j < cols; j++)
            to[k * cols + j] = vt[k * cols + j] * root;
    }
}

/* ---- writing ----------------------------------------------------------- */

struct writer {
    struct pq_factors f;
    const struct pq_kernels *kernels;
    enum pq_dtype dtype;
    bool b;
};

static int emit(const struct pq_step *s, const struct pq_unit *u,
                const void *state, struct pq_error *e)
{
    const struct writer *w = s->params;
    const uint64_t columns = w->b ? w->f.rank : inputs(&w->f);
    const uint64_t n = u->count * columns;
    float *x = u->scratch;

    (void)state;
    if (w->b)
        rows_of_b(&w->f, u->in[0], u->count, x);
    else
        rows_of_a(&w->f, u->in[0], u->first, u->count, columns, x);
    if (w->dtype == PQ_F16 && w->kernels->count_f16_overflow(x, n))
        return pq_fail(e, PQ_EVALUE, "a factor is out of range of F16");
    pq_store_f32(w->kernels, w->dtype, x, n, u->out[0]);
    return 0;
}

struct pq_step *pq_step_factor(struct pq_plan *p, const struct pq_factors *f,
                               bool b, const struct pq_catalog *out,
                               size_t tensor, const struct pq_kernels *k,
                               struct pq_error *e)
{
    const struct pq_tensor *t = &out->tensors[tensor];
    struct pq_step *s = pq_plan_step(p, 1, 1, e);
    struct writer *w = pq_arena_alloc(&p->arena, 1, sizeof *w);

    if (!s || !w) {
        pq_fail_nomem(e);
        return NULL;
    }
    *w = (struct writer){*f, k, t->dtype, b};
    const uint64_t in = b ? found(f) : inputs(f);
    const uint64_t columns = b ? f->rank : inputs(f);
    s->name = t->name;
    s->tensor = tensor;
    s->params = w;
    s->in[0] = (struct pq_input){.source = f->source,
                                 .part = b ? &f->u->parts[0]
                                           : &f->vt->parts[0],
                                 .access = PQ_RANGE,
                                 .item_bits = in * 32};
    s->out[0].item_bits = columns * pq_dtype_bits(t->dtype);
    s->items = b ? outputs(f) : f->rank;
    s->unit_items = rows_for(columns, s->items);
    s->scratch_bytes = s->unit_items * columns * sizeof(float);
    s->emit = emit;
    return s;
}

/* ---- what is left ------------------------------------------------------ */

enum { TUNED, BASE, LEFT, RIGHT, N_INPUTS };

struct measure {
    struct pq_factors f;
    const struct pq_kernels *kernels;
    enum pq_dtype a, b, dtype;
    bool turned;
    uint64_t m, n; /* of T */
    struct pq_left *result;
};

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

/* left: rows of B, or with `turned` columns of A [rank][count], negated. */
static void load_left(const struct measure *q, const struct pq_unit *u,
                      float *left, float *room)
{
    const uint64_t n = u->count * q->f.rank;

    if (q->turned)
        rows_of_a(&q->f, u->in[LEFT], 0, q->f.rank, u->count, left);
    else
        rows_of_b(&q->f, u->in[LEFT], u->count, left);
    round_all(q, left, n, room);
    for (uint64_t i = 0; i < n; i++)
        left[i] = -left[i];
}

/* right: A, or with `turned` B [n][rank]. */
static void load_right(const struct measure *q, const struct pq_unit *u,
                       float *right, float *room)
{
    if (q->turned)
        rows_of_b(&q->f, u->in[RIGHT], q->n, right);
    else
        rows_of_a(&q->f, u->in[RIGHT], 0, q->f.rank, q->n, right);
    round_all(q, right, q->n * q->f.rank, room);
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct measure *q = s->params;
    const uint64_t count = u->count * q->n;
    struct pq_left *r = u->partial;
    struct pq_moments all;
    float *x = u->scratch, *room = x + count, *left = room + CHUNK;
    float *right = left + u->count * q->f.rank;

    (void)pass;
    (void)state;
    load(q, u, x, room);
    q->kernels->moments(x, count, &all);
    r->norm_sq = all.sum_sq;
    load_left(q, u, left, room);
    load_right(q, u, right, room);
    if (pq_gemm_f32(left, q->turned, right, q->turned, u->count, q->f.rank,
                    q->n, 1, x, e))
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

static void set_inputs(struct pq_step *s, const struct measure *q,
                       struct pq_source *sa, const struct pq_tensor *ta,
                       struct pq_source *sb, const struct pq_tensor *tb)
{
    struct pq_input *in = s->in;
    const struct pq_part *u = &q->f.u->parts[0], *vt = &q->f.vt->parts[0];

    in[TUNED] = (struct pq_input){.source = sb, .part = &tb->parts[0]};
    in[TUNED].item_bits = q->n * pq_dtype_bits(q->b);
    in[BASE] = (struct pq_input){.source = sa, .part = &ta->parts[0]};
    in[BASE].item_bits = q->n * pq_dtype_bits(q->a);
    in[LEFT].source = in[RIGHT].source = q->f.source;
    in[LEFT].part = q->turned ? vt : u;
    in[LEFT].access = q->turned ? PQ_COLUMNS : PQ_RANGE;
    in[LEFT].item_columns = 1;
    in[LEFT].item_bits = found(&q->f) * 32;
    in[RIGHT].part = q->turned ? u : vt;
    in[RIGHT].access = PQ_WHOLE;
}

struct pq_step *pq_step_left(struct pq_plan *p, const char *name,
                             struct pq_source *sa, const struct pq_tensor *ta,
                             struct pq_source *sb, const struct pq_tensor *tb,
                             bool turned, const struct pq_factors *f,
                             enum pq_dtype dtype, const struct pq_kernels *k,
                             struct pq_left *result, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, N_INPUTS, 0, e);
    struct measure *q = pq_arena_alloc(&p->arena, 1, sizeof *q);

    if (!s || !q) {
        pq_fail_nomem(e);
        return NULL;
    }
    *q = (struct measure){.f = *f, .kernels = k, .a = ta->dtype,
                          .b = tb->dtype, .dtype = dtype, .turned = turned,
                          .result = result};
    q->m = turned ? inputs(f) : outputs(f);
    q->n = turned ? outputs(f) : inputs(f);
    set_inputs(s, q, sa, ta, sb, tb);
    s->name = name;
    s->params = q;
    s->items = q->m;
    s->unit_items = rows_for(q->n, q->m);
    if (s->unit_items < UNIT_ROWS)
        s->unit_items = q->m < UNIT_ROWS ? (q->m ? q->m : 1) : UNIT_ROWS;
    s->scratch_bytes =
        sizeof(float) * (s->unit_items * (q->n + f->rank) + CHUNK +
                         q->n * f->rank) +
        PQ_LINALG_BYTES;
    s->partial_bytes = s->state_bytes = sizeof(struct pq_left);
    s->n_gather = 1;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
    return s;
}
