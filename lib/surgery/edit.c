/*
 * Edits as changes of an encoding step.
 *
 * The rows of a unit need the same rows of one factor (or, turned, columns),
 * and all of the other, which goes by in tiles of columns:
 *
 *     x [rows][columns] += s * left [rows][rank] * right [rank][columns]
 *
 *     straight   left = rows of B            right = A
 *     turned     left = columns of A, ^T     right = B^T
 *
 * A stack of products (the experts of a layer) goes the straight way: the
 * rows of a unit lie in one matrix of the stack or in several, and each run
 * of them has the A of its own matrix.
 */
#include "pq_kernels.h"
#include "pq_surgery.h"

#include <math.h>
#include <string.h>

#define TILE 512u /* columns of the right factor made ready at a time */

/* An edit and the inputs that it has, by number. */
struct op {
    const struct pq_edit *edit;
    size_t in;       /* the first of its inputs */
    unsigned gather; /* the pass that sums its norms, if it needs one */
};

struct ops {
    size_t n;
    struct op op[];
};

enum { LEFT, RIGHT, MAGNITUDE }; /* of a product */

static enum pq_dtype dtype_of(const struct pq_tensor *t)
{
    return t->parts[0].dtype;
}

static size_t size_of(const struct pq_tensor *t)
{
    return pq_dtype_bits(dtype_of(t)) / 8;
}

static uint64_t rank_of(const struct pq_edit *d)
{
    return d->a->shape[0] / (d->stack ? d->stack : 1);
}

/* ---- the product ------------------------------------------------------- */

/* [count][rank] floats of the left factor into scratch; returns the rest. */
static float *load_left(const struct pq_edit *d, const struct pq_rows *r,
                        const void *in)
{
    const uint64_t rank = rank_of(d), n = r->count * rank;

    if (!d->turned) {
        pq_load_f32(r->kernels, dtype_of(d->b), in, n, r->scratch);
    } else {
        pq_load_f32(r->kernels, dtype_of(d->a), in, n, r->scratch + n);
        r->kernels->transpose(r->scratch + n, r->scratch, rank, r->count,
                              sizeof(float));
    }
    return r->scratch + n;
}

/* Columns [from, from + n) of the right factor; *stride apart. */
static const float *load_right(const struct pq_edit *d, const struct pq_rows *r,
                               const unsigned char *in, uint64_t from,
                               uint64_t n, float *room, uint64_t *stride)
{
    const uint64_t rank = rank_of(d);

    *stride = n;
    if (d->turned) {
        float *const straight = room + rank * TILE;
        pq_load_f32(r->kernels, dtype_of(d->b),
                    in + from * rank * size_of(d->b), n * rank, straight);
        r->kernels->transpose(straight, room, n, rank, sizeof(float));
        return room;
    }
    if (dtype_of(d->a) == PQ_F32) {
        *stride = r->columns;
        return (const float *)(const void *)in + from;
    }
    for (uint64_t k = 0; k < rank; k++)
        pq_load_f32(r->kernels, dtype_of(d->a),
                    in + (k * r->columns + from) * size_of(d->a), n,
                    room + k * n);
    return room;
}

static void add_product(const struct pq_edit *d, const struct pq_rows *r,
                        const void *const *in, double scale)
{
    const uint64_t rank = rank_of(d);
    float *const room = load_left(d, r, in[LEFT]);

    for (uint64_t from = 0; from < r->columns; from += TILE) {
        const uint64_t rest = r->columns - from, n = rest < TILE ? rest : TILE;
        uint64_t stride;
        const float *right =
            load_right(d, r, in[RIGHT], from, n, room, &stride);
        r->kernels->add_product(r->scratch, r->count, rank, right, stride, n,
                                (float)scale, r->x + from, r->columns);
    }
}

/* The rows of each matrix of the stack for themselves. */
static void add_products(const struct pq_edit *d, const struct pq_rows *r,
                         const void *const *in, double scale)
{
    const uint64_t rank = rank_of(d), rows = d->b->shape[0] / d->stack;
    const unsigned char *left = in[LEFT], *right = in[RIGHT];
    struct pq_rows part = *r;

    for (uint64_t at = 0; at < r->count; at += part.count) {
        const uint64_t matrix = (r->first + at) / rows;
        const uint64_t rest = (matrix + 1) * rows - (r->first + at);
        part.count = rest < r->count - at ? rest : r->count - at;
        part.x = r->x + at * r->columns;
        const void *const one[] = {
            left + at * rank * size_of(d->b),
            right + matrix * rank * r->columns * size_of(d->a)};
        add_product(d, &part, one, scale);
    }
}

/* ---- DoRA -------------------------------------------------------------- */

/* m / norm for each row: a row is an output, and all of it is here. */
static void scale_rows(const struct pq_rows *r, const float *m)
{
    for (uint64_t i = 0; i < r->count; i++) {
        float *x = r->x + i * r->columns;
        struct pq_moments norm;
        r->kernels->moments(x, r->columns, &norm);
        const float f = m[r->first + i] / (float)sqrt(norm.sum_sq);
        for (uint64_t j = 0; j < r->columns; j++)
            x[j] *= f;
    }
}

static void scale_columns(const struct pq_rows *r, const float *m,
                          const double *sums)
{
    for (uint64_t i = 0; i < r->count; i++)
        for (uint64_t j = 0; j < r->columns; j++)
            r->x[i * r->columns + j] *= m[j] / (float)sqrt(sums[j]);
}

static void sum_columns(const struct pq_rows *r, double *sums)
{
    for (uint64_t i = 0; i < r->count; i++)
        for (uint64_t j = 0; j < r->columns; j++) {
            const double v = r->x[i * r->columns + j];
            sums[j] += v * v;
        }
}

/* The state has [n_gather][columns] sums, the partial those of one pass. */
static void add_columns(const struct pq_change *c, unsigned pass,
                        uint64_t before, void *state, const void *partial)
{
    const size_t columns = c->partial_bytes / sizeof(double);
    double *sums = (double *)state + pass * columns;

    (void)before;
    for (size_t i = 0; i < columns; i++)
        sums[i] += ((const double *)partial)[i];
}

/* false: this was the pass that gathers its norms, go no further. */
static bool apply_dora(const struct op *o, const struct pq_rows *r)
{
    const struct pq_edit *d = o->edit;
    const void *const *in = r->in + o->in;
    const uint64_t n = r->count * r->columns, outs = d->magnitude->n_elements;
    const size_t spare =
        r->count * 2 * d->a->shape[0] + 2 * TILE * d->a->shape[0];
    float *m = r->scratch + spare, *old = m + outs;
    const float w = (float)d->weight;

    memcpy(old, r->x, n * sizeof *old);
    add_product(d, r, in, d->scale);
    if (r->partial && d->turned && o->gather == r->pass) {
        sum_columns(r, r->partial);
        return false;
    }
    pq_load_f32(r->kernels, dtype_of(d->magnitude), in[MAGNITUDE], outs, m);
    if (d->turned)
        scale_columns(r, m, (const double *)r->state + o->gather * r->columns);
    else
        scale_rows(r, m);
    for (uint64_t i = 0; i < n && w != 1; i++)
        r->x[i] = old[i] + w * (r->x[i] - old[i]);
    return true;
}

/* ---- the other kinds --------------------------------------------------- */

static void add_vector(const struct pq_edit *d, const struct pq_rows *r,
                       const void *in)
{
    const uint64_t n = r->count * r->columns;
    const float c = (float)(d->weight * d->scale);

    pq_load_f32(r->kernels, dtype_of(d->value), in, n, r->scratch);
    for (uint64_t i = 0; i < n; i++)
        r->x[i] += c * r->scratch[i];
}

/* Exactly the new value where nothing else was done to x. */
static void put(float *x, const float *base, const float *v, uint64_t n,
                float w)
{
    for (uint64_t i = 0; i < n; i++)
        x[i] = w == 1 && memcmp(&x[i], &base[i], sizeof *x) == 0
                   ? v[i]
                   : x[i] + w * (v[i] - base[i]);
}

static void replace(const struct pq_edit *d, const struct pq_rows *r,
                    const void *in)
{
    const uint64_t n = r->count * r->columns;

    pq_load_f32(r->kernels, dtype_of(d->value), in, n, r->scratch);
    put(r->x, r->base, r->scratch, n, (float)d->weight);
}

static void replace_rows(const struct pq_edit *d, const struct pq_rows *r,
                         const unsigned char *in)
{
    const uint64_t cols = r->columns;

    for (uint64_t k = 0; k < d->value->shape[0]; k++) {
        const uint64_t row = d->rows[k] - r->first;
        if (d->rows[k] < r->first || row >= r->count)
            continue;
        pq_load_f32(r->kernels, dtype_of(d->value),
                    in + k * cols * size_of(d->value), cols, r->scratch);
        put(r->x + row * cols, r->base + row * cols, r->scratch, cols,
            (float)d->weight);
    }
}

static int apply(const struct pq_change *c, const struct pq_rows *r,
                 struct pq_error *e)
{
    const struct ops *ops = c->params;

    (void)e;
    for (size_t i = 0; i < ops->n; i++) {
        const struct op *o = &ops->op[i];
        const struct pq_edit *d = o->edit;
        const void *const *in = r->in + o->in;
        if (d->kind == PQ_EDIT_ADD)
            add_vector(d, r, in[0]);
        else if (d->kind == PQ_EDIT_REPLACE)
            replace(d, r, in[0]);
        else if (d->kind == PQ_EDIT_ROWS)
            replace_rows(d, r, in[0]);
        else if (d->stack)
            add_products(d, r, in, d->scale * d->weight);
        else if (!d->magnitude)
            add_product(d, r, in, d->scale * d->weight);
        else if (!apply_dora(o, r))
            return 0;
    }
    return 0;
}

/* ---- shapes ------------------------------------------------------------ */

static int mismatch(const struct pq_tensor *t, const uint64_t *shape, int rank,
                    struct pq_error *e)
{
    char a[96], b[96];

    pq_shape_text(t->shape, t->rank, a, sizeof a);
    pq_shape_text(shape, rank, b, sizeof b);
    return pq_fail(e, PQ_EARG, "%s %s does not fit a tensor %s", t->name, a,
                   b);
}

/* A is [rank][in...], B is [out][rank, 1...]. */
static int check_product(const struct pq_edit *d, const uint64_t *shape,
                         int rank, struct pq_error *e)
{
    const struct pq_tensor *a = d->a, *b = d->b, *m = d->magnitude;
    uint64_t columns;

    if (rank < 2 || a->rank < 2 || b->rank < 2 || a->shape[0] == 0 ||
        (d->turned && (rank != 2 || a->rank != 2 || b->rank != 2)) ||
        pq_shape_elements(shape + 1, rank - 1, &columns, NULL))
        return mismatch(a, shape, rank, e);
    const uint64_t r = a->shape[0], in = a->n_elements / r;
    const uint64_t out = b->shape[0];
    if (b->n_elements != out * r)
        return mismatch(b, a->shape, a->rank, e);
    if (in != (d->turned ? shape[0] : columns))
        return mismatch(a, shape, rank, e);
    if (out != (d->turned ? columns : shape[0]))
        return mismatch(b, shape, rank, e);
    if (m && m->n_elements != out)
        return mismatch(m, shape, rank, e);
    return 0;
}

static int check_stack(const struct pq_edit *d, const uint64_t *shape,
                       int rank, struct pq_error *e)
{
    const struct pq_tensor *a = d->a, *b = d->b;
    uint64_t rows;

    if (rank != 3 || shape[0] != d->stack || a->rank != 2 ||
        a->shape[0] == 0 || a->shape[0] % d->stack || a->shape[1] != shape[2])
        return mismatch(a, shape, rank, e);
    if (!pq_mul(shape[0], shape[1], &rows) || b->rank != 2 ||
        b->shape[0] != rows || b->shape[1] != rank_of(d))
        return mismatch(b, shape, rank, e);
    return d->magnitude ? mismatch(d->magnitude, shape, rank, e) : 0;
}

int pq_edit_check(const struct pq_edit *d, const uint64_t *shape, int rank,
                  struct pq_error *e)
{
    const struct pq_tensor *v = d->value;

    if (d->kind == PQ_EDIT_PRODUCT)
        return d->stack ? check_stack(d, shape, rank, e)
                        : check_product(d, shape, rank, e);
    if (v->rank != rank || (rank == 0))
        return mismatch(v, shape, rank, e);
    for (int i = 0; i < rank; i++)
        if (v->shape[i] != shape[i] && !(d->kind == PQ_EDIT_ROWS && i == 0))
            return mismatch(v, shape, rank, e);
    for (uint64_t k = 0; d->kind == PQ_EDIT_ROWS && k < v->shape[0]; k++)
        if (d->rows[k] >= shape[0])
            return pq_fail(e, PQ_EARG, "%s: row %llu of %llu", v->name,
                           (unsigned long long)d->rows[k],
                           (unsigned long long)shape[0]);
    return 0;
}

/* ---- making the step --------------------------------------------------- */

static struct pq_input *input(const struct pq_edit *d,
                              const struct pq_tensor *t,
                              enum pq_access access, uint64_t row_elements,
                              struct pq_input *in)
{
    in->source = t == d->a && d->source_a ? d->source_a : d->source;
    in->part = &t->parts[0];
    in->access = access;
    in->item_bits = row_elements * pq_dtype_bits(dtype_of(t));
    in->item_columns = access == PQ_COLUMNS ? 1 : 0;
    return in + 1;
}

/* The inputs of an edit, and the scratch that it takes; returns the next. */
static struct pq_input *add_inputs(const struct pq_edit *d, uint64_t columns,
                                   struct pq_change *c, struct pq_input *in)
{
    size_t row = columns, fixed = columns;

    if (d->kind == PQ_EDIT_ROWS) {
        in = input(d, d->value, PQ_WHOLE, 0, in);
    } else if (d->kind != PQ_EDIT_PRODUCT) {
        in = input(d, d->value, PQ_RANGE, columns, in);
    } else {
        const uint64_t rank = rank_of(d);
        row = 2 * rank;
        fixed = 2 * TILE * rank;
        in = d->turned ? input(d, d->a, PQ_COLUMNS, 0, in)
                       : input(d, d->b, PQ_RANGE, rank, in);
        in = input(d, d->turned ? d->b : d->a, PQ_WHOLE, 0, in);
        if (d->magnitude) {
            in = input(d, d->magnitude, PQ_WHOLE, 0, in);
            row += columns;
            fixed += d->magnitude->n_elements;
        }
    }
    c->row_floats = row > c->row_floats ? row : c->row_floats;
    c->fixed_floats = fixed > c->fixed_floats ? fixed : c->fixed_floats;
    return in;
}

/* The length of a row for these edits: of the last dimension in a stack. */
static uint64_t columns_of(const struct pq_tensor *t,
                           const struct pq_edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (edits[i].stack)
            return t->shape[t->rank - 1];
    return t->rank > 1 && t->shape[0] ? t->n_elements / t->shape[0] : 1;
}

static struct pq_change *make_change(struct pq_plan *p,
                                     const struct pq_edit *edits, size_t n,
                                     uint64_t columns)
{
    struct pq_change *c = pq_arena_alloc(&p->arena, 1, sizeof *c);
    struct ops *ops =
        pq_arena_alloc(&p->arena, 1, sizeof *ops + n * sizeof *ops->op);
    struct pq_input *in = pq_arena_alloc(&p->arena, 3 * n, sizeof *in);

    if (!c || !ops || !in)
        return NULL;
    c->in = in;
    c->columns = columns;
    c->apply = apply;
    c->params = ops;
    ops->n = n;
    for (size_t i = 0; i < n; i++) {
        struct op *o = &ops->op[i];
        o->edit = &edits[i];
        o->in = (size_t)(in - c->in);
        o->gather = c->n_gather;
        if (edits[i].magnitude && edits[i].turned)
            c->n_gather++;
        in = add_inputs(&edits[i], columns, c, in);
    }
    c->n_in = (size_t)(in - c->in);
    if (c->n_gather) {
        c->partial_bytes = columns * sizeof(double);
        c->state_bytes = c->n_gather * c->partial_bytes;
        c->combine = add_columns;
    }
    return c;
}

struct pq_step *pq_step_edit(struct pq_plan *p, struct pq_source *src,
                             const struct pq_tensor *in,
                             const struct pq_catalog *out, size_t tensor,
                             const struct pq_spec *spec, bool transpose,
                             const struct pq_edit *edits, size_t n_edits,
                             const struct pq_quant *q, struct pq_error *e)
{
    const struct pq_tensor *t = &out->tensors[tensor];
    const uint64_t columns = columns_of(t, edits, n_edits);

    for (size_t i = 0; i < n_edits; i++)
        if (edits[i].kind == PQ_EDIT_PRODUCT && !edits[i].stack &&
            t->rank > 2 && columns != t->n_elements / t->shape[0]) {
            pq_fail(e, PQ_EUNSUPPORTED,
                    "tensor %s: a product of its experts and one of the whole "
                    "cannot be merged together",
                    in->name);
            return NULL;
        }
    struct pq_change *c = make_change(p, edits, n_edits, columns);

    if (!c) {
        pq_fail_nomem(e);
        return NULL;
    }
    return pq_step_change(p, src, in, out, tensor, spec, transpose, c, q, e);
}

double pq_retained(const struct pq_quality *q)
{
    const double norms = sqrt(q->wanted) * sqrt(q->applied);

    if (q->wanted == 0)
        return q->applied == 0 ? 1 : 0;
    return norms > 0 ? q->both / norms : 0;
}
