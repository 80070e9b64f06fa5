/*
 * Encoding steps: casts, 4-bit and 8-bit blocks, LLM.int8() rows.
 *
 *   read W --> widen to float --> [transpose] --> [change] --> kernel
 *                                                                 |
 *       [decode again, measure the error] <-- codes, absmax <-----+
 *
 * A unit is 65,536 elements in whole blocks or whole rows; a transposed one
 * is a run of columns whose blocks come out whole.  With double quantization
 * the measured error needs the absmax that a reader will see: a gather pass
 * finds all absmax first.  A change works on whole rows; its own gather
 * passes, if any, sum over columns.
 */
#include "quant_internal.h"

#include <string.h>

/* A unit with a change is larger: what its rows share is made for each. */
#define CHANGE_ELEMENTS (4 * PQ_UNIT_ELEMENTS)

/* The error of a unit's own copy, in scratch behind what prepare() uses. */
struct work {
    const struct pq_quant_step *p;
    const struct pq_kernels *k;
    const float *x; /* [n] the unit's elements, transposed and changed */
    const float *base; /* [n] the same before the change, if there is one */
    float *y;       /* [n] for the decoded copy */
    uint64_t n;
    uint64_t first; /* element number of x[0] in the output tensor */
};

static uint64_t elements_before(const struct pq_step *s,
                                const struct pq_quant_step *p, uint64_t item)
{
    if (p->transpose)
        return item * s->in[0].item_columns * p->row;
    return item * (s->in[0].item_bits / pq_dtype_bits(p->in->dtype));
}

/* Widens, and turns [rows][columns] to [columns][rows] before it. */
static unsigned char *widen(const struct pq_step *s, const struct pq_unit *u,
                            struct work *w)
{
    const struct pq_quant_step *p = w->p = s->params;
    const size_t size = pq_dtype_bits(p->in->dtype) / 8;
    unsigned char *scratch = u->scratch;
    const void *raw = u->in[0];

    w->k = p->quant->kernels;
    w->n = u->in_bytes[0] / size;
    w->first = elements_before(s, p, u->first);
    w->y = (float *)u->scratch;
    scratch += p->unit_elements * sizeof(float);
    if (p->transpose && w->n) {
        w->k->transpose(raw, scratch, p->row, w->n / p->row, size);
        raw = scratch;
        scratch += p->unit_elements * size;
    }
    w->x = raw;
    if (p->in->dtype == PQ_F32)
        return scratch;
    pq_load_f32(w->k, p->in->dtype, raw, w->n, (float *)scratch);
    w->x = (const float *)scratch;
    return scratch + p->unit_elements * sizeof(float);
}

/* The unit's elements as they are to be encoded. */
static int prepare(const struct pq_step *s, unsigned pass,
                   const struct pq_unit *u, const void *state, struct work *w,
                   struct pq_error *e)
{
    const struct pq_encode_state *st = state;
    float *x = (float *)(void *)widen(s, u, w);
    const struct pq_quant_step *p = w->p;

    if (!p->change || w->n == 0)
        return 0;
    w->base = w->x;
    w->x = memcpy(x, w->x, w->n * sizeof *x);
    const struct pq_rows rows = {
        .kernels = w->k,
        .first = w->first / p->row,
        .count = w->n / p->row,
        .columns = p->row,
        .base = w->base,
        .x = x,
        .in = u->in + 1,
        .scratch = x + p->unit_elements,
        .pass = pass,
        .sums = (const double *)(const void *)st->absmax,
        .gather = pass < p->change->n_gather
                      ? (double *)((struct pq_quality *)u->partial + 1)
                      : NULL,
    };
    return p->change->apply(p->change, &rows, e);
}

/* Compares with the numbers that a reader will see, which are in w->y. */
static void measure(const struct work *w, struct pq_quality *q)
{
    double sums[3];

    if (w->p->quant->measure)
        pq_measure(w->p, w->x, w->y, w->n, q);
    if (!w->base)
        return;
    w->k->change_stats(w->base, w->x, w->y, w->n, sums);
    q->wanted = sums[0];
    q->applied = sums[1];
    q->both = sums[2];
}

static bool measured(const struct pq_quant_step *p)
{
    return p->quant->measure || p->change;
}

static int check(const struct work *w, uint32_t found, uint32_t limit,
                 struct pq_quality *q, struct pq_error *e)
{
    q->n = w->n;
    if (found < limit)
        return 0;
    return pq_check_values(w->p, w->x, w->n, w->first, limit, q, e);
}

static int emit_cast(const struct pq_step *s, const struct pq_unit *u,
                     const void *state, struct pq_error *e)
{
    struct work w = {0};
    struct pq_quality *q = u->partial;

    if (prepare(s, s->n_gather, u, state, &w, e))
        return -1;
    if (check(&w, w.k->absmax_bits(w.x, w.n),
              pq_overflow_bits(w.p->spec.dtype), q, e))
        return -1;
    if (w.p->in->dtype == w.p->spec.dtype && !w.p->transpose && !w.base)
        memcpy(u->out[0], u->in[0], u->out_bytes[0]);
    else
        pq_store_f32(w.k, w.p->spec.dtype, w.x, w.n, u->out[0]);
    if (measured(w.p)) {
        pq_load_f32(w.k, w.p->spec.dtype, u->out[0], w.n, w.y);
        measure(&w, q);
    }
    return 0;
}

static int emit_rows(const struct pq_step *s, const struct pq_unit *u,
                     const void *state, struct pq_error *e)
{
    struct work w = {0};
    struct pq_quality *q = u->partial;

    if (prepare(s, s->n_gather, u, state, &w, e))
        return -1;
    const uint64_t row = w.p->row, rows = u->count; /* row may be 0 */
    const uint32_t found =
        w.k->int8_rows_encode(w.x, rows, row, u->out[0], u->out[1]);
    if (check(&w, found, PQ_ABS_INF, q, e) ||
        (found >= PQ_ABS_INF && check(&w, PQ_ABS_INF,
                                      pq_overflow_bits(PQ_F16), q, e)))
        return -1;
    if (measured(w.p)) {
        w.k->int8_rows_decode(u->out[0], u->out[1], rows, row, w.y);
        measure(&w, q);
    }
    return 0;
}

/* Codes and absmax of a unit; returns its absmax bits. */
static uint32_t encode_blocks(const struct work *w, const struct pq_spec *s,
                              uint8_t *codes, float *absmax)
{
    const bool both = !s->double_quant;

    switch (s->encoding) {
    case PQ_NF4:
        return s->optimize ? w->k->nf4_search(w->x, w->n, s->block, both, codes,
                                              absmax)
                           : w->k->nf4_encode(w->x, w->n, s->block, codes,
                                              absmax);
    case PQ_FP4:
        return s->optimize ? w->k->fp4_search(w->x, w->n, s->block, both, codes,
                                              absmax)
                           : w->k->fp4_encode(w->x, w->n, s->block, codes,
                                              absmax);
    default:
        return s->optimize
                   ? w->k->dyn8_encode_exact(w->x, w->n, s->block, codes,
                                             absmax)
                   : w->k->dyn8_encode(w->x, w->n, s->block, codes, absmax);
    }
}

static void decode_blocks(const struct work *w, const uint8_t *codes,
                          const float *absmax)
{
    const struct pq_spec *s = &w->p->spec;

    if (s->encoding == PQ_NF4)
        w->k->nf4_decode(codes, absmax, w->n, s->block, w->y);
    else if (s->encoding == PQ_FP4)
        w->k->fp4_decode(codes, absmax, w->n, s->block, w->y);
    else
        w->k->dyn8_decode(codes, absmax, w->n, s->block, w->y);
}

static uint64_t blocks_of(const struct pq_quant_step *p, uint64_t n)
{
    return pq_blocks_of(n, p->spec.block);
}

/* Scratch for codes and absmax of a second encoding of a unit. */
static size_t plain_bytes(const struct pq_quant_step *p)
{
    return (blocks_of(p, p->unit_elements) * sizeof(float) + p->unit_elements +
            63) / 64 * 64;
}

/* What the error would be without the search, for comparison. */
static void measure_plain(const struct work *w, unsigned char *end,
                          struct pq_quality *q)
{
    struct pq_spec plain = w->p->spec;
    float *absmax = (float *)(end - plain_bytes(w->p));
    uint8_t *codes = (uint8_t *)(absmax + blocks_of(w->p, w->n));
    struct pq_quality as_plain = {0};

    plain.optimize = false;
    encode_blocks(w, &plain, codes, absmax);
    decode_blocks(w, codes, absmax);
    pq_measure(w->p, w->x, w->y, w->n, &as_plain);
    q->plain_noise = as_plain.noise;
}

static int emit_blocks(const struct pq_step *s, const struct pq_unit *u,
                       const void *state, struct pq_error *e)
{
    const struct pq_encode_state *st = state;
    struct work w = {0};
    struct pq_quality *q = u->partial;

    if (prepare(s, s->n_gather, u, state, &w, e))
        return -1;
    const uint32_t found = encode_blocks(&w, &w.p->spec, u->out[0], u->out[1]);
    if (check(&w, found, PQ_ABS_INF, q, e))
        return -1;
    if (!measured(w.p))
        return 0;
    const float *absmax = u->out[1];
    if (w.p->spec.double_quant)
        absmax = st->absmax + blocks_of(w.p, w.p->in->n_elements) +
                 w.first / w.p->spec.block;
    decode_blocks(&w, u->out[0], absmax);
    measure(&w, q);
    if (w.p->spec.optimize && w.p->quant->measure)
        measure_plain(&w, (unsigned char *)u->scratch + s->scratch_bytes, q);
    return 0;
}

/*
 * The absmax of all blocks.  With --optimize they are the searched scales,
 * so the codes must be found too; they land in the scratch for the copy.
 */
static int gather_absmax(const struct pq_step *s, unsigned pass,
                         const struct pq_unit *u, const void *state,
                         struct pq_error *e)
{
    struct work w = {0};
    struct pq_quality *q = u->partial;

    if (prepare(s, pass, u, state, &w, e))
        return -1;
    q->n = blocks_of(w.p, w.n);
    const uint32_t found =
        encode_blocks(&w, &w.p->spec, (uint8_t *)w.y, (float *)(q + 1));
    return check(&w, found, PQ_ABS_INF, &(struct pq_quality){0}, e);
}

/* Sums over columns for the change; it stops where it needs them. */
static int gather_columns(const struct pq_step *s, unsigned pass,
                          const struct pq_unit *u, const void *state,
                          struct pq_error *e)
{
    struct work w = {0};

    return prepare(s, pass, u, state, &w, e);
}

static void add_columns(const struct pq_quant_step *p, unsigned pass,
                        struct pq_encode_state *st, const double *partial)
{
    double *sums = (double *)(void *)st->absmax + pass * p->row;

    for (uint64_t i = 0; i < p->row; i++)
        sums[i] += partial[i];
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    struct pq_encode_state *st = state;
    const struct pq_quality *q = partial;

    (void)e;
    if (pass == s->n_gather) {
        pq_quality_add(&st->quality, q);
        return 0;
    }
    if (p->change && p->change->n_gather) {
        add_columns(p, pass, st, (const double *)(q + 1));
        return 0;
    }
    const uint64_t blocks = blocks_of(p, p->in->n_elements);
    memcpy(st->absmax + st->n_absmax, q + 1, q->n * sizeof(float));
    st->n_absmax += q->n;
    if (st->n_absmax == blocks)
        pq_nested_round_trip(p, st->absmax, blocks, st->absmax + blocks);
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    const struct pq_encode_state *st = state;

    return p->quant->report ? p->quant->report(s, &st->quality, e) : 0;
}

/* ---- making the step --------------------------------------------------- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Elements of one item: what may not be cut. */
static uint64_t item_elements(const struct pq_quant_step *p)
{
    const uint64_t block = p->spec.block ? p->spec.block : 1;

    if (p->spec.encoding == PQ_INT8)
        return p->row;
    if ((!p->transpose && !p->change) || p->row == 0)
        return block;
    return p->row / gcd(p->row, block) * block; /* whole rows and blocks */
}

/* What the change reads, from so many bits or columns a row to an item. */
static void set_change_inputs(struct pq_step *s, const struct pq_quant_step *p,
                              uint64_t rows)
{
    for (size_t i = 0; i < p->change->n_in; i++) {
        struct pq_input *in = &s->in[1 + i];
        *in = p->change->in[i];
        in->item_bits *= rows;
        in->item_columns *= rows;
    }
}

/* Rows without elements are items too: they have a scale. */
static uint64_t count_items(const struct pq_quant_step *p, uint64_t item)
{
    const uint64_t n = p->in->n_elements;

    if (p->spec.encoding == PQ_INT8)
        return p->in->shape[p->transpose ? 1 : 0];
    return n / item + (n % item > 0);
}

static void set_units(struct pq_step *s, struct pq_quant_step *p, uint64_t item)
{
    const unsigned bits = pq_dtype_bits(p->in->dtype);
    /* columns are read in pieces: wider units make them longer */
    const uint64_t flat = p->change ? CHANGE_ELEMENTS : PQ_UNIT_ELEMENTS;
    const uint64_t want =
        p->transpose && p->in->n_elements && flat / 64 < p->row ? 64 * p->row
                                                                : flat;

    s->items = count_items(p, item);
    s->unit_items = item && want / item ? want / item : 1;
    p->unit_elements = s->unit_items * item;
    s->in[0].part = &p->in->parts[0];
    s->in[0].access = p->transpose ? PQ_COLUMNS : PQ_RANGE;
    s->in[0].item_bits = item * bits;
    s->in[0].item_columns = p->row ? item / p->row : 1;
    if (p->change)
        set_change_inputs(s, p, p->row ? item / p->row : 1);
    s->scratch_bytes =
        p->unit_elements *
        (2 * sizeof(float) + (p->transpose ? bits / 8 : 0));
    if (p->change)
        s->scratch_bytes +=
            sizeof(float) * (p->unit_elements + p->change->fixed_floats +
                             p->change->row_floats *
                                 (p->row ? p->unit_elements / p->row : 0));
    if (p->spec.optimize && p->quant->measure)
        s->scratch_bytes += plain_bytes(p);
}

static void set_outputs(struct pq_step *s, const struct pq_quant_step *p,
                        uint64_t item)
{
    const struct pq_spec *c = &p->spec;
    const bool four = c->encoding == PQ_NF4 || c->encoding == PQ_FP4;

    s->out[0].part = 0;
    s->out[0].item_bits =
        item * (four ? 4 : c->encoding == PQ_PLAIN ? pq_dtype_bits(c->dtype)
                                                   : 8);
    if (c->encoding == PQ_PLAIN)
        return;
    const bool rows = c->encoding == PQ_INT8;
    s->out[1].part = pq_part_number(p->out, rows ? PQ_ROLE_SCB
                                                 : PQ_ROLE_ABSMAX);
    s->out[1].item_bits = 32 * (rows ? 1 : item / c->block);
    s->out[1].trail = true;
}

static void set_functions(struct pq_step *s, const struct pq_quant_step *p)
{
    const struct pq_spec *c = &p->spec;

    s->emit = c->encoding == PQ_PLAIN  ? emit_cast
              : c->encoding == PQ_INT8 ? emit_rows
                                       : emit_blocks;
    s->combine = combine;
    s->done = done;
    s->partial_bytes = sizeof(struct pq_quality);
    s->state_bytes = sizeof(struct pq_encode_state);
    if (p->change && p->change->n_gather) {
        s->n_gather = p->change->n_gather;
        s->gather = gather_columns;
        s->partial_bytes += p->row * sizeof(double);
        s->state_bytes += s->n_gather * p->row * sizeof(double);
    }
    if (!c->double_quant)
        return;
    s->finish = pq_nested_finish;
    if (!measured(p) || s->items == 0)
        return;
    s->n_gather = 1;
    s->gather = gather_absmax;
    s->partial_bytes += blocks_of(p, p->unit_elements) * sizeof(float);
    s->state_bytes += 2 * blocks_of(p, p->in->n_elements) * sizeof(float);
}

/* Elements that belong together in the output, or with a change in a row. */
static uint64_t row_elements(const struct pq_quant_step *p)
{
    const struct pq_tensor *t = p->in;

    if (t->rank == 2)
        return t->shape[p->transpose ? 0 : 1];
    if (!p->change)
        return 0;
    return t->rank > 2 && t->shape[0] ? t->n_elements / t->shape[0] : 1;
}

struct pq_step *pq_step_change(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_spec *spec, bool transpose,
                               const struct pq_change *change,
                               const struct pq_quant *q, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, 1 + (change ? change->n_in : 0),
                                     spec->encoding == PQ_PLAIN ? 1 : 2, e);
    struct pq_quant_step *c = pq_arena_alloc(&p->arena, 1, sizeof *c);

    if (!s)
        return NULL;
    if (!c) {
        pq_fail_nomem(e);
        return NULL;
    }
    c->quant = q;
    c->in = in;
    c->out = &out->tensors[tensor];
    c->spec = *spec;
    c->transpose = transpose;
    c->change = change;
    c->row = row_elements(c);
    s->name = in->name;
    s->tensor = tensor;
    s->params = c;
    s->in[0].source = src;
    const uint64_t item = item_elements(c);
    set_units(s, c, item);
    set_outputs(s, c, item);
    set_functions(s, c);
    return s;
}

struct pq_step *pq_step_encode(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_spec *spec, bool transpose,
                               const struct pq_quant *q, struct pq_error *e)
{
    return pq_step_change(p, src, in, out, tensor, spec, transpose, NULL, q, e);
}
