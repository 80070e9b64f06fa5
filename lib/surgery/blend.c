/*
 * Blends as changes of an encoding step: the table of methods, what they may
 * be given, and how a unit is gone over.
 *
 *     unit   [ base | W_1 | W_2 ... ] as read, 64 Ki elements of each or more
 *     tile   2,048 elements of each, widened --> gather, or emit into x
 *
 * The first input of the step is the base, or the first model if there is
 * none; the others are cut as it is.  Where a method looks at rows, a tile is
 * a row.
 */
#include "blend_internal.h"

#include <math.h>
#include <string.h>

#define UNIT_SUM  65536u  /* elements; x of so many stays near */
#define UNIT_TASK 131072u /* what is counted is added up a unit at a time */

/* ---- checks ------------------------------------------------------------ */

static int check_range(const struct pq_blend *b, unsigned takes,
                       const char *name, double v, double least, double most,
                       struct pq_error *e)
{
    if (!(b->method->takes & takes) || (v >= least && v <= most))
        return 0;
    if (isnan(v))
        return pq_fail(e, PQ_EARG, "%s needs %s", b->method->name, name);
    return pq_fail(e, PQ_EARG, "%s: %s %g is not between %g and %g",
                   b->method->name, name, v, least, most);
}

static int check_model(const struct pq_blend *b, const struct pq_blend_input *i,
                       struct pq_error *e)
{
    if (check_range(b, PQ_TAKES_WEIGHT, "weight", i->weight, -1e6, 1e6, e) ||
        check_range(b, PQ_TAKES_DENSITY, "density", i->density, 0, 1, e) ||
        check_range(b, PQ_TAKES_EPSILON, "epsilon", i->epsilon, 0, 0.5, e) ||
        check_range(b, PQ_TAKES_GAMMA, "gamma", i->gamma, 0, 1, e))
        return -1;
    if (b->method->takes & PQ_TAKES_EPSILON && i->density > 0 &&
        i->density < 1 &&
        (i->density - i->epsilon <= 0 || i->density + i->epsilon >= 1))
        return pq_fail(e, PQ_EARG,
                       "%s: density %g and epsilon %g: their sum and their "
                       "difference must be between 0 and 1",
                       b->method->name, i->density, i->epsilon);
    if (i->stream >= PQ_STREAMS)
        return pq_fail(e, PQ_ELIMIT, "%s: more than %u models", b->method->name,
                       PQ_STREAMS);
    return 0;
}

static int check_weights(const struct pq_blend *b, struct pq_error *e)
{
    double sum = 0;

    if (!(b->method->takes & PQ_TAKES_NORMALIZE) || !b->normalize)
        return 0;
    for (size_t i = 0; i < b->n; i++)
        sum += b->in[i].weight;
    return fabs(sum) < 1e-8 ? pq_fail(e, PQ_EARG,
                                      "%s: the weights sum to 0 and are to be "
                                      "normalized",
                                      b->method->name)
                            : 0;
}

static bool same_shape(const struct pq_tensor *a, const struct pq_tensor *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 || memcmp(a->shape, b->shape,
                                   (size_t)a->rank * sizeof *a->shape) == 0);
}

static int check_shape(const struct pq_tensor *first,
                       const struct pq_blend_input *in, struct pq_error *e)
{
    char is[96], should[96];

    if (same_shape(first, in->tensor))
        return 0;
    pq_shape_text(in->tensor->shape, in->tensor->rank, is, sizeof is);
    pq_shape_text(first->shape, first->rank, should, sizeof should);
    return pq_fail(e, PQ_EARG, "%s: tensor %s %s does not fit %s",
                   in->source->name, in->tensor->name, is, should);
}

int pq_blend_check(const struct pq_blend *b, struct pq_error *e)
{
    const struct pq_method *m = b->method;

    if (m->base != PQ_BASE_NONE && !b->base)
        return pq_fail(e, PQ_EARG, "%s needs a base model", m->name);
    if (b->n < m->least || b->n > m->most)
        return pq_fail(e, PQ_EARG, "%s: %zu models%s, but it takes %s%u",
                       m->name, b->n, b->base ? " beside the base" : "",
                       m->least == m->most ? "" : "at least ", m->least);
    if (check_range(b, PQ_TAKES_T, "t", b->t, 0, 1, e) ||
        check_range(b, PQ_TAKES_LAMBDA, "lambda", b->lambda, -1e6, 1e6, e) ||
        check_range(b, PQ_TAKES_SCALE, "scale", b->scale, -1e6, 1e6, e) ||
        check_weights(b, e))
        return -1;
    const struct pq_tensor *first = b->base ? b->base : b->in[0].tensor;
    for (size_t i = 0; i < b->n; i++)
        if (check_model(b, &b->in[i], e) || check_shape(first, &b->in[i], e))
            return -1;
    return 0;
}

/* ---- going over a unit ------------------------------------------------- */

static bool base_is_read(const struct pq_blend *b)
{
    return b->method->base != PQ_BASE_NONE;
}

/* Array i of the step: its tensor, its source. */
static const struct pq_tensor *array_tensor(const struct pq_blend *b, size_t i)
{
    if (!base_is_read(b))
        return b->in[i].tensor;
    return i ? b->in[i - 1].tensor : b->base;
}

static struct pq_source *array_source(const struct pq_blend *b, size_t i)
{
    if (!base_is_read(b))
        return b->in[i].source;
    return i ? b->in[i - 1].source : b->base_source;
}

static size_t element_size(const struct pq_tensor *t)
{
    return pq_dtype_bits(t->dtype) / 8;
}

/* How many floats of a unit are one array. */
static uint64_t unit_floats(const struct pq_rows *r)
{
    return r->count * r->columns;
}

/* [n_arrays][count][columns], behind what tiles are worked on in. */
static float *turned_arrays(const struct pq_blender *m, const struct pq_rows *r)
{
    return r->scratch + m->n_arrays * m->stride + m->local_floats;
}

/* Widens and turns whole arrays: what is read is [columns][count]. */
static void turn(const struct pq_blender *m, const struct pq_rows *r)
{
    const uint64_t n = unit_floats(r);
    float *to = turned_arrays(m, r), *straight = to + m->n_arrays * n;

    for (size_t i = 0; i < m->n_arrays; i++, to += n) {
        pq_load_f32(r->kernels, array_tensor(m->b, i)->dtype,
                    i ? r->in[i - 1] : r->raw, n, straight);
        r->kernels->transpose(straight, to, r->columns, r->count, sizeof *to);
    }
}

/* Elements [at, at + n) of the unit of every array. */
static void load(const struct pq_blender *m, const struct pq_rows *r,
                 uint64_t at, uint64_t n, float *all)
{
    for (size_t i = 0; i < m->n_arrays; i++, all += m->stride) {
        const struct pq_tensor *t = array_tensor(m->b, i);
        const unsigned char *raw = i ? r->in[i - 1] : r->raw;
        if (m->transpose)
            memcpy(all, turned_arrays(m, r) + i * unit_floats(r) + at,
                   n * sizeof *all);
        else
            pq_load_f32(r->kernels, t->dtype, raw + at * element_size(t), n,
                        all);
    }
}

/* A method may drop a NaN, and the result would not show it. */
static int refuse_nan(const struct pq_tile *t, struct pq_error *e)
{
    for (size_t i = 0; i < t->m->n_arrays; i++) {
        const float *x = t->all + i * t->m->stride;
        if (t->r->kernels->absmax_bits(x, t->n) <= PQ_ABS_INF)
            continue;
        uint64_t at = 0;
        while (!isnan(x[at]))
            at++;
        return pq_fail(e, PQ_EVALUE, "element %llu of %s in %s is NaN",
                       (unsigned long long)(t->first + at),
                       array_tensor(t->m->b, i)->name,
                       array_source(t->m->b, i)->name);
    }
    return 0;
}

static int apply(const struct pq_change *c, const struct pq_rows *r,
                 struct pq_error *e)
{
    const struct pq_blender *m = c->params;
    const uint64_t n = unit_floats(r);
    struct pq_tile t = {.m = m, .r = r, .all = r->scratch};

    t.x = t.all + (m->n_arrays - m->b->n) * m->stride;
    t.base = t.x == t.all ? NULL : t.all;
    t.room = t.all + m->n_arrays * m->stride;
    if (m->transpose)
        turn(m, r);
    for (uint64_t at = 0; at < n; at += t.n, t.number++) {
        const uint64_t tile = m->by_row ? r->columns : PQ_TILE;
        t.n = n - at < tile ? n - at : tile;
        t.first = r->first * r->columns + at;
        t.out = r->x + at;
        load(m, r, at, t.n, t.all);
        if (r->partial)
            m->row->gather(&t);
        else if (!r->allow_nonfinite && refuse_nan(&t, e))
            return -1;
        else
            m->row->emit(&t);
    }
    return 0;
}

/* ---- making the step --------------------------------------------------- */

static int set_inputs(struct pq_blender *m, struct pq_plan *p)
{
    struct pq_input *in = pq_arena_alloc(&p->arena, m->n_arrays, sizeof *in);

    if (!in)
        return -1;
    for (size_t i = 1; i < m->n_arrays; i++) {
        const struct pq_tensor *t = array_tensor(m->b, i);
        in[i - 1] = (struct pq_input){
            .source = array_source(m->b, i),
            .part = &t->parts[0],
            .access = m->transpose ? PQ_COLUMNS : PQ_RANGE,
            .item_bits = m->change.columns * pq_dtype_bits(t->dtype),
            .item_columns = 1,
        };
    }
    m->change.in = in;
    m->change.n_in = m->n_arrays - 1;
    return 0;
}

static int set_weights(struct pq_blender *m, struct pq_plan *p)
{
    const struct pq_blend *b = m->b;
    double sum = 0;

    m->w = pq_arena_alloc(&p->arena, b->n, sizeof *m->w);
    if (!m->w)
        return -1;
    for (size_t i = 0; i < b->n; i++) {
        m->w[i] = (float)b->in[i].weight;
        sum += (double)m->w[i];
    }
    m->divisor =
        b->method->takes & PQ_TAKES_NORMALIZE && b->normalize ? (float)sum : 1;
    return 0;
}

/* Rows where the method looks at them; else any run of elements will do. */
static void set_columns(struct pq_blender *m, const struct pq_tensor *out)
{
    const bool vector = out->rank < 2 || out->shape[0] == 0;
    const uint64_t row =
        vector ? out->n_elements : out->n_elements / out->shape[0];

    m->by_row = m->row->sparse == PQ_SPARSE_RANKED || m->b->by_row;
    m->change.columns = m->by_row || m->transpose ? row : 1;
    m->stride = m->by_row && row > PQ_TILE ? row : PQ_TILE;
}

static void set_change(struct pq_blender *m)
{
    struct pq_change *c = &m->change;

    c->unit_elements = m->row->sparse == PQ_SPARSE_NONE ? UNIT_SUM : UNIT_TASK;
    c->fresh = true;
    c->apply = apply;
    c->combine = m->row->combine;
    c->settle = m->row->settle;
    c->params = m;
    m->row->plan(m, c);
    c->fixed_floats = m->n_arrays * m->stride + m->local_floats;
    if (m->transpose)
        c->row_floats = (m->n_arrays + 1) * c->columns;
}

static struct pq_blender *make_blender(struct pq_plan *p,
                                       const struct pq_blend *b,
                                       const struct pq_tensor *out,
                                       bool transpose)
{
    struct pq_blender *m = pq_arena_alloc(&p->arena, 1, sizeof *m);

    if (!m)
        return NULL;
    m->b = b;
    m->row = pq_method_row(b->method);
    m->elements = out->n_elements;
    m->n_arrays = b->n + base_is_read(b);
    m->transpose = transpose;
    pq_rng_init(&m->rng, b->seed, out->name);
    set_columns(m, out);
    if (set_weights(m, p) || set_inputs(m, p))
        return NULL;
    set_change(m);
    return m;
}

struct pq_step *pq_step_blend(struct pq_plan *p, const struct pq_blend *b,
                              const struct pq_catalog *out, size_t tensor,
                              const struct pq_spec *spec, bool transpose,
                              const struct pq_quant *q, struct pq_error *e)
{
    const struct pq_tensor *t = &out->tensors[tensor];
    struct pq_blender *m = make_blender(p, b, t, transpose);

    if (!m) {
        pq_fail_nomem(e);
        return NULL;
    }
    struct pq_step *s =
        pq_step_change(p, array_source(b, 0), array_tensor(b, 0), out, tensor,
                       spec, transpose, &m->change, q, e);
    if (s)
        s->name = t->name;
    return s;
}
