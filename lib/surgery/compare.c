/*
 * How far two tensors are apart: sums over their elements, in double.
 *
 *   relative = sqrt(sum (b - a)^2 / sum a^2)
 *   cosine   = sum a b / sqrt(sum a^2 sum b^2)
 *
 * Types that have values (floats, integers, booleans; complex numbers as
 * pairs) are widened to double, so that any two of them can be compared.
 * The others have bytes only.  Sums are taken over units of 65,536 elements,
 * which are added in their order: threads do not change them.
 */
#include "pq_diff.h"
#include "pq_quant.h"

#include <math.h>
#include <string.h>

#define UNIT  65536u
#define CHUNK 4096u /* elements widened at a time */

struct scratch {
    double a[CHUNK], b[CHUNK];
    float f[CHUNK];
};

struct pair {
    const struct pq_kernels *kernels;
    enum pq_dtype a, b;
    bool numeric;
    struct pq_figures *result;
};

double pq_figures_relative(const struct pq_figures *f)
{
    if (f->diff_sq == 0)
        return 0;
    return f->a_sq > 0 ? sqrt(f->diff_sq / f->a_sq) : (double)INFINITY;
}

double pq_figures_cosine(const struct pq_figures *f)
{
    const double norms = sqrt(f->a_sq) * sqrt(f->b_sq);

    if (f->diff_sq == 0)
        return 1;
    if (norms == 0)
        return 0;
    const double c = f->dot / norms;
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

double pq_figures_changed(const struct pq_figures *f)
{
    return f->n ? (double)f->changed / (double)f->n : 0;
}

void pq_figures_add(struct pq_figures *a, const struct pq_figures *b)
{
    a->numeric = a->numeric || b->numeric;
    a->n += b->n;
    a->changed += b->changed;
    if (b->max_abs > a->max_abs)
        a->max_abs = b->max_abs;
    a->diff_sq += b->diff_sq;
    a->a_sq += b->a_sq;
    a->b_sq += b->b_sq;
    a->dot += b->dot;
}

/* ---- values ------------------------------------------------------------ */

static bool is_integer(enum pq_dtype t)
{
    return t == PQ_U64 || t == PQ_I64 || t == PQ_U32 || t == PQ_I32 ||
           t == PQ_U16 || t == PQ_I16 || t == PQ_U8 || t == PQ_I8 ||
           t == PQ_BOOL;
}

static bool has_values(enum pq_dtype t)
{
    return pq_dtype_is_float(t) || is_integer(t);
}

bool pq_compare_fits(enum pq_dtype a, enum pq_dtype b)
{
    return a == b || (has_values(a) && has_values(b));
}

static double integer(enum pq_dtype t, const void *p, size_t i)
{
    switch (t) {
    case PQ_U64: return (double)((const uint64_t *)p)[i];
    case PQ_I64: return (double)((const int64_t *)p)[i];
    case PQ_U32: return ((const uint32_t *)p)[i];
    case PQ_I32: return ((const int32_t *)p)[i];
    case PQ_U16: return ((const uint16_t *)p)[i];
    case PQ_I16: return ((const int16_t *)p)[i];
    case PQ_I8:  return ((const int8_t *)p)[i];
    default:     return ((const uint8_t *)p)[i];
    }
}

static void widen(const struct pair *q, enum pq_dtype t, const void *in,
                  size_t n, float *f, double *out)
{
    if (t == PQ_F64) {
        memcpy(out, in, n * sizeof *out);
    } else if (is_integer(t)) {
        for (size_t i = 0; i < n; i++)
            out[i] = integer(t, in, i);
    } else {
        pq_load_f32(q->kernels, t, in, n, f);
        for (size_t i = 0; i < n; i++)
            out[i] = (double)f[i];
    }
}

/* ---- sums -------------------------------------------------------------- */

static void add_finite(double x, double y, struct pq_figures *r)
{
    const double d = y - x, size = fabs(d);

    r->changed += x != y;
    r->max_abs = size > r->max_abs ? size : r->max_abs;
    r->diff_sq += d * d;
    r->a_sq += x * x;
    r->b_sq += y * y;
    r->dot += x * y;
}

static void add_values(const double *a, const double *b, size_t n,
                       struct pq_figures *r)
{
    for (size_t i = 0; i < n; i++) {
        if (isfinite(a[i]) && isfinite(b[i])) {
            add_finite(a[i], b[i], r);
        } else if (memcmp(&a[i], &b[i], sizeof *a) != 0) {
            r->changed++;
            r->max_abs = r->diff_sq = (double)INFINITY;
        }
    }
}

/* Integers beyond 2^53 may widen to the same double: their bits decide. */
static uint64_t differing(const unsigned char *a, const unsigned char *b,
                          size_t n, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += memcmp(a + i * size, b + i * size, size) != 0;
    return sum;
}

static void add_chunk(const struct pair *q, const unsigned char *a,
                      const unsigned char *b, size_t n, struct scratch *s,
                      struct pq_figures *r)
{
    const uint64_t before = r->changed;
    const size_t size = pq_dtype_bits(q->a) / 8;
    const bool equal = q->a == q->b && memcmp(a, b, n * size) == 0;

    widen(q, q->a, a, n, s->f, s->a);
    if (!equal)
        widen(q, q->b, b, n, s->f, s->b);
    add_values(s->a, equal ? s->a : s->b, n, r);
    if (!equal && q->a == q->b && is_integer(q->a))
        r->changed = before + differing(a, b, n, size);
}

static int gather_compare(const struct pq_step *step, unsigned pass,
                          const struct pq_unit *u, const void *state,
                          struct pq_error *e)
{
    const struct pair *q = step->params;
    const unsigned char *a = u->in[0], *b = u->in[1];
    struct pq_figures *r = u->partial;

    (void)pass;
    (void)state;
    (void)e;
    r->n = u->count;
    r->numeric = q->numeric;
    if (!q->numeric) {
        r->changed = memcmp(a, b, (size_t)u->count) == 0
                         ? 0
                         : differing(a, b, (size_t)u->count, 1);
        return 0;
    }
    for (uint64_t at = 0; at < u->count; at += CHUNK) {
        const size_t n =
            u->count - at < CHUNK ? (size_t)(u->count - at) : CHUNK;
        add_chunk(q, a + at * pq_dtype_bits(q->a) / 8,
                  b + at * pq_dtype_bits(q->b) / 8, n, u->scratch, r);
    }
    return 0;
}

static int combine_compare(const struct pq_step *s, unsigned pass, void *state,
                           const void *partial, struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)e;
    pq_figures_add(state, partial);
    return 0;
}

static int compare_done(const struct pq_step *s, void *state,
                        struct pq_error *e)
{
    const struct pair *q = s->params;

    (void)e;
    *q->result = *(const struct pq_figures *)state;
    q->result->numeric = q->numeric;
    return 0;
}

/* ---- the step ---------------------------------------------------------- */

/* What a type is worked on as: a complex number is two floats. */
static enum pq_dtype element(enum pq_dtype t)
{
    return t == PQ_C64 ? PQ_F32 : t;
}

struct pq_step *pq_step_compare(struct pq_plan *p, const struct pq_kernels *k,
                                struct pq_source *a, const struct pq_tensor *ta,
                                struct pq_source *b, const struct pq_tensor *tb,
                                struct pq_figures *result, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, 2, 0, e);
    struct pair *q = pq_arena_alloc(&p->arena, 1, sizeof *q);

    if (!s || !q) {
        pq_fail_nomem(e);
        return NULL;
    }
    q->kernels = k;
    q->a = element(ta->parts[0].dtype);
    q->b = element(tb->parts[0].dtype);
    q->numeric = has_values(q->a) && has_values(q->b);
    q->result = result;
    s->name = ta->name;
    s->params = q;
    s->in[0] = (struct pq_input){.source = a, .part = &ta->parts[0]};
    s->in[1] = (struct pq_input){.source = b, .part = &tb->parts[0]};
    s->in[0].item_bits = q->numeric ? pq_dtype_bits(q->a) : 8;
    s->in[1].item_bits = q->numeric ? pq_dtype_bits(q->b) : 8;
    s->items = ta->parts[0].bytes * 8 / s->in[0].item_bits;
    s->unit_items = UNIT;
    s->scratch_bytes = sizeof(struct scratch);
    s->partial_bytes = s->state_bytes = sizeof(struct pq_figures);
    s->n_gather = 1;
    s->gather = gather_compare;
    s->combine = combine_compare;
    s->done = compare_done;
    return s;
}
