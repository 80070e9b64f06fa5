/*
 * SparseGPT, one tensor a step and a unit.  Formulas and source:
 * pq_sparsegpt.h.
 *
 * The scratch of a unit, for a block of `width` columns:
 *
 *     u      f32 [in][in]      the hessian, then the factor of its inverse
 *     w      f32 [out][in]     the weights
 *     err    f32 [out][width]  the scores of a block, then its errors
 *     gone   u8  [out][width]  1: the weight goes
 *
 * Inside a block the rows are worked on one after the other, each through
 * all columns; what a block does to the columns behind it is one product.
 */
#include "pq_sparsegpt.h"
#include "pq_linalg.h"
#include "prune_internal.h"
#include "pq_quant.h"

#include <string.h>

#define WIDTH   128u /* columns of a block */
#define DAMPING 0.01f
#define CHUNK   4096u  /* elements that are compared at a time */

struct sparsegpt {
    struct pq_sparsegpt how;
    const struct pq_pruning *q;
    enum pq_dtype dtype;
    size_t rows, cols, width;
};

/* A unit at work. */
struct work {
    const struct sparsegpt *p;
    float *u, *w, *err;
    unsigned char *gone;
    struct pq_pruned *done;
};

static void set_work(struct work *x, const struct sparsegpt *p,
                     const struct pq_unit *unit)
{
    x->p = p;
    x->done = unit->partial;
    x->done->n = p->rows * p->cols;
    x->u = unit->scratch;
    x->w = x->u + p->cols * p->cols;
    x->err = x->w + p->rows * p->cols;
    x->gone = (unsigned char *)(x->err + p->rows * p->width);
}

/* ---- what comes in and goes out ----------------------------------------- */

/* `room`: of the size of the weights as they are stored. */
static int load_weights(const struct work *x, const void *raw, void *room,
                        struct pq_error *e)
{
    const struct sparsegpt *p = x->p;
    const struct pq_kernels *k = p->q->kernels;
    const size_t n = p->rows * p->cols;

    if (p->how.transpose) {
        k->transpose(raw, room, p->cols, p->rows, pq_dtype_bits(p->dtype) / 8);
        raw = room;
    }
    pq_load_f32(k, p->dtype, raw, n, x->w);
    return k->count_nonfinite(x->w, n)
               ? pq_fail(e, PQ_EVALUE, "has NaN or infinite elements")
               : 0;
}

/* The factor into x->u; inputs that are always 0 lose their weights. */
static int load_hessian(const struct work *x, const float *raw,
                        struct pq_error *e)
{
    const struct sparsegpt *p = x->p;
    const size_t n = p->cols;
    double sum = 0;

    if (p->q->kernels->count_nonfinite(raw, n * n))
        return pq_fail(e, PQ_EVALUE, "has NaN or infinite elements");
    memcpy(x->u, raw, n * n * sizeof *raw);
    for (size_t i = 0; i < n; i++) {
        float *const diagonal = &x->u[i * n + i];
        for (size_t r = 0; *diagonal == 0 && r < p->rows; r++)
            x->w[r * n + i] = 0;
        if (*diagonal == 0)
            *diagonal = 1;
        sum += (double)*diagonal;
    }
    const float damp = DAMPING * (float)(sum / (double)n);
    for (size_t i = 0; i < n; i++)
        x->u[i * n + i] += damp;
    return pq_inverse_factor_f32(x->u, n, e);
}

static int store_weights(const struct work *x, void *out, struct pq_error *e)
{
    const struct sparsegpt *p = x->p;
    const struct pq_kernels *k = p->q->kernels;
    const size_t size = pq_dtype_bits(p->dtype) / 8;

    if (k->count_nonfinite(x->w, p->rows * p->cols) ||
        (p->dtype == PQ_F16 && k->count_f16_overflow(x->w, p->rows * p->cols)))
        return pq_fail(e, PQ_EVALUE, "would be out of range after the update");
    if (!p->how.transpose) {
        pq_store_f32(k, p->dtype, x->w, p->rows * p->cols, out);
        return 0;
    }
    for (size_t i = 0; i < p->cols; i++) {
        for (size_t r = 0; r < p->rows; r++)
            x->err[r] = x->w[r * p->cols + i];
        pq_store_f32(k, p->dtype, x->err, p->rows,
                     (char *)out + i * p->rows * size);
    }
    return 0;
}

/* What became of them. */
static void measure(const struct work *x, const void *in, const void *out,
                    struct pq_pruned *q)
{
    static const float nothing[CHUNK];
    const struct sparsegpt *p = x->p;
    const struct pq_kernels *k = p->q->kernels;
    const size_t n = p->rows * p->cols, size = pq_dtype_bits(p->dtype) / 8;
    float was[CHUNK], is[CHUNK], worst = 0;

    for (size_t at = 0; at < n; at += CHUNK) {
        const size_t count = n - at < CHUNK ? n - at : CHUNK;
        pq_load_f32(k, p->dtype, (const char *)in + at * size, count, was);
        pq_load_f32(k, p->dtype, (const char *)out + at * size, count, is);
        q->zeros += k->count_equal(is, nothing, count, 0);
        k->error_stats(was, is, count, &q->signal, &q->noise, &worst);
    }
}

/* ---- what goes --------------------------------------------------------- */

/* w^2 / d^2, d = u[col][col]; never negative, so in the order of its bits. */
static float score(const struct work *x, size_t row, size_t col)
{
    const float w = x->w[row * x->p->cols + col];
    const float d = x->u[col * x->p->cols + col];

    return w * w / (d * d);
}

/* How many go of n. */
static size_t how_many(const struct sparsegpt *p, size_t n)
{
    const double s = p->how.sparsity;

    return s <= 0 ? 0 : s >= 1 ? n : (size_t)((double)n * s) + 1;
}

/* Marks the weights that go of columns [from, from + n). */
static void mark(const struct work *x, size_t from, size_t n)
{
    const size_t all = x->p->rows * n;
    const size_t k = how_many(x->p, all);
    struct pq_prune_cut last;

    memset(x->gone, 0, all);
    if (k == 0)
        return;
    for (size_t r = 0; r < x->p->rows; r++)
        for (size_t i = 0; i < n; i++)
            x->err[r * n + i] = score(x, r, from + i);
    pq_prune_select(x->err, all, k, &last);
    for (size_t i = 0; i < all; i++) {
        const uint32_t bits = pq_abs_bits(x->err[i]);
        const bool tie = bits == last.bits && last.left > 0;
        x->gone[i] = bits < last.bits || tie;
        last.left -= tie;
    }
}

/* The same for a group of a pattern in one row, gone [of]. */
static void mark_group(const struct work *x, size_t row, size_t from,
                       unsigned char *gone)
{
    const uint32_t of = x->p->how.of;

    memset(gone, 0, of);
    for (uint32_t left = of; left > x->p->how.keep; left--) {
        uint32_t least = of;
        for (uint32_t i = 0; i < of; i++)
            if (!gone[i] && (least == of || score(x, row, from + i) <
                                                score(x, row, from + least)))
                least = i;
        gone[least] = 1;
    }
}

/* ---- the update -------------------------------------------------------- */

/* One row of a block: columns [from, from + n); its errors [n]. */
static void sweep_row(const struct work *x, size_t row, size_t from, size_t n,
                      unsigned char *gone, float *err)
{
    const size_t cols = x->p->cols;
    float *const w = x->w + row * cols + from;

    for (size_t i = 0; i < n; i++) {
        const float *const u = x->u + (from + i) * cols + from;
        if (x->p->how.of && i % x->p->how.of == 0)
            mark_group(x, row, from + i, gone + i);
        err[i] = gone[i] ? w[i] / u[i] : 0;
        if (!gone[i])
            continue;
        x->done->pruned++;
        for (size_t j = i + 1; err[i] != 0 && j < n; j++)
            w[j] -= err[i] * u[j];
        w[i] = 0;
    }
}

static int sweep(const struct work *x, struct pq_error *e)
{
    const size_t rows = x->p->rows, cols = x->p->cols;
    int rc = 0;

    for (size_t at = 0; !rc && at < cols; at += x->p->width) {
        const size_t n = cols - at < x->p->width ? cols - at : x->p->width;
        const size_t end = at + n;
        if (!x->p->how.of)
            mark(x, at, n);
        for (size_t r = 0; r < rows; r++)
            sweep_row(x, r, at, n, x->gone + r * n, x->err + r * n);
        rc = pq_gemm_less_f32(x->err, n, x->u + at * cols + end, cols, rows, n,
                              cols - end, x->w + end, cols, e);
    }
    return rc;
}

/* ---- the step ---------------------------------------------------------- */

static int emit(const struct pq_step *s, const struct pq_unit *unit,
                const void *state, struct pq_error *e)
{
    const struct sparsegpt *p = s->params;
    struct work x;

    (void)state;
    set_work(&x, p, unit);
    if (load_weights(&x, unit->in[0], unit->out[0], e))
        return -1;
    if (load_hessian(&x, unit->in[1], e))
        return pq_error_in(e, "its hessian in %s", p->how.source->name);
    if (sweep(&x, e) || store_weights(&x, unit->out[0], e))
        return -1;
    if (p->q->measure)
        measure(&x, unit->in[0], unit->out[0], x.done);
    if (p->how.beside.sink)
        pq_mask_of(p->q->kernels, p->dtype, unit->out[0], p->rows * p->cols,
                   p->how.transpose ? p->rows : p->cols, x.w, unit->out[1]);
    return 0;
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)e;
    memcpy(state, partial, sizeof(struct pq_pruned));
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct sparsegpt *p = s->params;

    return p->q->report ? p->q->report(s, state, e) : 0;
}

/* Columns of a block: whole groups of a pattern. */
static uint64_t width_of(const struct pq_sparsegpt *g)
{
    return g->of > WIDTH ? g->of : g->of ? WIDTH / g->of * g->of : WIDTH;
}

static bool scratch_bytes(uint64_t rows, uint64_t cols, uint64_t width,
                         uint64_t *bytes)
{
    uint64_t u, w, block;

    return pq_mul(cols, cols, &u) && pq_mul(rows, cols, &w) &&
           pq_mul(rows, width, &block) && pq_add(u, w, &u) &&
           pq_add(u, block, &u) && pq_mul(u, 4, &u) &&
           pq_add(u, block, bytes) &&
           *bytes <= SIZE_MAX / 16;
}

int pq_sparsegpt_check(const struct pq_sparsegpt *g, const struct pq_tensor *t,
                       uint64_t *bytes, struct pq_error *e)
{
    const struct pq_tensor *h = g->hessian;
    uint64_t scratch, twice;

    if (t->rank != 2 || !pq_dtype_is_float(t->dtype) ||
        t->codec.encoding != PQ_PLAIN || t->n_elements == 0)
        return pq_fail(e, PQ_EARG, "is no plain matrix, so it has no inputs");
    if (pq_dtype_bits(t->dtype) < 16)
        return pq_fail(e, PQ_EARG,
                       "is %s, too coarse for an update: cast it first",
                       pq_dtype_name(t->dtype));
    const uint64_t rows = t->shape[g->transpose];
    const uint64_t cols = t->shape[!g->transpose];
    if (h->rank != 2 || h->dtype != PQ_F32 || h->codec.encoding != PQ_PLAIN ||
        h->shape[0] != cols || h->shape[1] != cols)
        return pq_fail(e, PQ_EARG,
                       "has %llu inputs; its hessian in %s is not F32 [%llu, "
                       "%llu]",
                       (unsigned long long)cols, g->source->name,
                       (unsigned long long)cols, (unsigned long long)cols);
    if (g->of && cols % g->of)
        return pq_fail(e, PQ_EARG, "rows of %llu do not divide into groups of "
                                   "%u",
                       (unsigned long long)cols, g->of);
    if (!scratch_bytes(rows, cols, width_of(g), &scratch) ||
        !pq_mul(t->parts[0].bytes, 2, &twice) ||
        !pq_add(scratch, twice, bytes) ||
        !pq_add(*bytes, h->parts[0].bytes + PQ_LINALG_BYTES, bytes))
        return pq_fail(e, PQ_ELIMIT, "is too large");
    return 0;
}

struct pq_step *pq_step_sparsegpt(struct pq_plan *plan, struct pq_source *src,
                                  const struct pq_tensor *in, size_t tensor,
                                  const struct pq_sparsegpt *g,
                                  const struct pq_pruning *q,
                                  struct pq_error *e)
{
    const struct pq_part *parts[2] = {&in->parts[0], &g->hessian->parts[0]};
    uint64_t bytes = 0;
    struct pq_step *s = pq_plan_step(plan, 2, g->beside.sink ? 2 : 1, e);
    struct sparsegpt *p = pq_arena_alloc(&plan->arena, 1, sizeof *p);

    if (!s || !p) {
        pq_fail_nomem(e);
        return NULL;
    }
    *p = (struct sparsegpt){.how = *g, .q = q, .dtype = in->dtype,
                            .rows = (size_t)in->shape[g->transpose],
                            .cols = (size_t)in->shape[!g->transpose],
                            .width = (size_t)width_of(g)};
    if (!scratch_bytes(p->rows, p->cols, p->width, &bytes)) {
        pq_fail(e, PQ_ELIMIT, "tensor %s: is too large", in->name);
        return NULL;
    }
    s->name = in->name;
    s->tensor = tensor;
    s->params = p;
    s->items = s->unit_items = 1;
    for (size_t i = 0; i < 2; i++)
        s->in[i] = (struct pq_input){.source = i ? g->source : src,
                                     .part = parts[i],
                                     .item_bits = parts[i]->bytes * 8};
    s->out[0].item_bits = parts[0]->bytes * 8;
    if (g->beside.sink)
        s->out[1] = (struct pq_output){
            .sink = g->beside.sink,
            .tensor = g->beside.tensor,
            .item_bits = pq_mask_item_bits(in->n_elements, in->shape[1])};
    s->scratch_bytes = (size_t)bytes + PQ_LINALG_BYTES;
    s->partial_bytes = s->state_bytes = sizeof(struct pq_pruned);
    s->emit = emit;
    s->combine = combine;
    s->done = done;
    return s;
}
