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
 * finds all absmax first, after those of the change if it has any.  A change
 * works on whole rows.
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

/* The unit, before anything is done; returns what is left of scratch. */
static unsigned char *begin(const struct pq_step *s, const struct pq_unit *u,
                            struct work *w)
{
    const struct pq_quant_step *p = w->p = s->params;

    w->k = p->quant->kernels;
    w->n = u->in_bytes[0] / (pq_dtype_bits(p->in->dtype) / 8);
    w->first = elements_before(s, p, u->first);
    w->y = (float *)u->scratch;
    return (unsigned char *)u->scratch + p->unit_elements * sizeof(float);
}

/* Widens, and turns [rows][columns] to [columns][rows] before it. */
static unsigned char *widen(const struct pq_unit *u, unsigned char *scratch,
                            struct work *w)
{
    const struct pq_quant_step *p = w->p;
    const size_t size = pq_dtype_bits(p->in->dtype) / 8;
    const void *raw = u->in[0];

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

/* Of all blocks; behind the state of the change. */
static float *absmax_of(const struct pq_quant_step *p,
                        struct pq_encode_state *st)
{
    const size_t before = p->change ? p->change->state_bytes : 0;

    return (float *)(void *)((unsigned char *)(st + 1) + before);
}

/* The change's turn, at x [n] with scratch behind it. */
static int apply_change(unsigned pass, const struct pq_unit *u,
                        const struct pq_encode_state *st,
                        struct work *w, float *x, struct pq_error *e)
{
    const struct pq_change *c = w->p->change;
    const uint64_t row = w->p->columns;
    const struct pq_rows rows = {
        .kernels = w->k,
        .allow_nonfinite = w->p->quant->allow_nonfinite,
        .first = w->first / row,
        .count = w->n / row,
        .columns = row,
        .raw = u->in[0],
        .base = w->base,
        .x = x,
        .in = u->in + 1,
        .scratch = x + w->p->unit_elements,
        .pass = pass < c->n_gather ? pass : c->n_gather,
        .state = st + 1,
        .partial = pass < c->n_gather
                       ? (void *)((struct pq_quality *)u->partial + 1)
                       : NULL,
    };

    w->x = x;
    return c->apply(c, &rows, e);
}

/* The unit's elements as they are to be encoded. */
static int prepare(const struct pq_step *s, unsigned pass,
                   const struct pq_unit *u, const void *state, struct work *w,
                   struct pq_error *e)
{
    unsigned char *scratch = begin(s, u, w);
    const struct pq_change *c = w->p->change;

    if (!c || !c->fresh)
        scratch = widen(u, scratch, w);
    if (!c || w->n == 0)
        return 0;
    float *x = (float *)(void *)scratch;
    if (!c->fresh) {
        w->base = w->x;
        memcpy(x, w->x, w->n * sizeof *x);
    }
    return apply_change(pass, u, state, w, x, e);
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
    return p->quant->measure || (p->change && !p->change->fresh);
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
    if (w.p->in->dtype == w.p->spec.dtype && !w.p->transpose && !w.p->change)
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

/* What a reader will see for each block after double quantization. */
static const float *stored_absmax(const struct pq_quant_step *p,
                                  const void *state)
{
    const size_t change = p->change ? p->change->state_bytes : 0;
    const unsigned char *behind = (const unsigned char *)state +
                                  sizeof(struct pq_encode_state) + change;

    return (const float *)(const void *)behind +
           blocks_of(p, p->in->n_elements);
}

static int emit_blocks(const struct pq_step *s, const struct pq_unit *u,
                       const void *state, struct pq_error *e)
{
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
        absmax = stored_absmax(w.p, state) + w.first / w.p->spec.block;
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

/* The change's own pass, or the one that finds all absmax. */
static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    struct work w = {0};
    struct pq_quality *q = u->partial;

    if (!p->change || pass >= p->change->n_gather)
        return gather_absmax(s, pass, u, state, e);
    if (prepare(s, pass, u, state, &w, e))
        return -1;
    q->n = w.n;
    return 0;
}

static void combine_change(const struct pq_quant_step *p, unsigned pass,
                           struct pq_encode_state *st,
                           const struct pq_quality *q)
{
    const struct pq_change *c = p->change;

    if (q->n == 0)
        return;
    c->combine(c, pass, st->n_gathered / p->columns, st + 1, q + 1);
    st->n_gathered += q->n;
    if (st->n_gathered < p->in->n_elements)
        return;
    st->n_gathered = 0;
    if (c->settle)
        c->settle(c, pass, st + 1);
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
    if (p->change && pass < p->change->n_gather) {
        combine_change(p, pass, st, q);
        return 0;
    }
    const uint64_t blocks = blocks_of(p, p->in->n_elements);
    float *absmax = absmax_of(p, st);
    memcpy(absmax + st->n_gathered, q + 1, q->n * sizeof(float));
    st->n_gathered += q->n;
    if (st->n_gathered == blocks)
        pq_nested_round_trip(p, absmax, blocks, absmax + blocks);
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
    const uint64_t row = p->transpose ? p->row : p->columns;
    return row ? row / gcd(row, block) * block : block; /* rows and blocks */
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

/* About so many elements are worked on at a time. */
static uint64_t wanted_elements(const struct pq_quant_step *p)
{
    const uint64_t flat = !p->change                ? PQ_UNIT_ELEMENTS
                          : p->change->unit_elements ? p->change->unit_elements
                                                     : CHANGE_ELEMENTS;

    /* columns are read in pieces: wider units make them longer */
    return p->transpose && p->in->n_elements && flat / 64 < p->row
               ? 64 * p->row
               : flat;
}

static size_t scratch_bytes(const struct pq_quant_step *p)
{
    const struct pq_change *c = p->change;
    const size_t fresh = c && c->fresh ? 0 : p->unit_elements;
    size_t floats = p->unit_elements + fresh, bytes = 0;

    if (p->transpose)
        bytes = fresh * (pq_dtype_bits(p->in->dtype) / 8);
    if (c)
        floats += p->unit_elements + c->fixed_floats +
                  c->row_floats *
                      (p->columns ? p->unit_elements / p->columns : 0);
    bytes += floats * sizeof(float);
    return p->spec.optimize && p->quant->measure ? bytes + plain_bytes(p)
                                                 : bytes;
}

static void set_units(struct pq_step *s, struct pq_quant_step *p, uint64_t item)
{
    const uint64_t want = wanted_elements(p);

    s->items = count_items(p, item);
    s->unit_items = item && want / item ? want / item : 1;
    p->unit_elements = s->unit_items * item;
    s->in[0].part = &p->in->parts[0];
    s->in[0].access = p->transpose ? PQ_COLUMNS : PQ_RANGE;
    s->in[0].item_bits = item * pq_dtype_bits(p->in->dtype);
    s->in[0].item_columns = p->row ? item / p->row : 1;
    if (p->change)
        set_change_inputs(s, p, p->columns ? item / p->columns : 1);
    s->scratch_bytes = scratch_bytes(p);
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
    if (p->change) {
        s->n_gather = p->change->n_gather;
        s->partial_bytes += p->change->partial_bytes;
        s->state_bytes += p->change->state_bytes;
    }
    s->gather = gather;
    if (!c->double_quant)
        return;
    s->finish = pq_nested_finish;
    if (!measured(p) || s->items == 0)
        return;
    s->n_gather++;
    const size_t found = blocks_of(p, p->unit_elements) * sizeof(float);
    if (s->partial_bytes < sizeof(struct pq_quality) + found)
        s->partial_bytes = sizeof(struct pq_quality) + found;
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
    c->columns = !change ? 0 : change->columns ? change->columns : c->row;
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
