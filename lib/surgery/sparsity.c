/*
 * Counting zeros: which elements are not zero is told by bits, and what is
 * counted is bits.
 *
 *     elements --> bits, 8 a byte --> histogram of the bytes --> groups
 *                                 --> zeros of each row      --> deciles
 *
 * A unit is flat and may begin and end within a row: its partial result has
 * the zeros of each row that it touches, and the state adds up those of the
 * row that is not complete.  Of a turned tensor the unit is whole rows of the
 * file, eight of which, transposed, are one byte of each output.
 *
 * How many rows have how many zeros is kept, not the rows: 512 KiB at most.
 */
#include "pq_sparsity.h"

#include "pq_mask.h"
#include "pq_mem.h"
#include "pq_quant.h"

#include <string.h>

#define UNIT 131072u /* elements, a multiple of TILE */
#define TILE 4096u   /* elements that stay near the processor */
#define BINS 65535u  /* most columns that are told apart */

struct counter {
    const struct pq_kernels *kernels;
    enum pq_dtype dtype;
    bool turned, mask; /* mask: the input is one, bits already */
    uint64_t mask_cols; /* elements of its rows; 0: one run of bits */
    uint64_t in_rows, in_cols; /* as the file has it */
    uint64_t rows, cols;       /* outputs, inputs */
    uint64_t bins;
    struct pq_sparsity *result;
};

/* A unit's: rows [row, ...) touched by elements [first, first + n). */
struct part {
    uint64_t first, n;
    uint64_t byte[256];   /* groups of 8 by their bits */
    uint64_t nibble[16];  /* and one of 4 at the end */
    uint32_t row_zeros[]; /* [rows that it touches], turned: [rows] */
};

struct state {
    uint64_t byte[256], nibble[16];
    uint64_t row, zeros; /* the row that is not complete, and its zeros yet */
    uint64_t least, most;
    uint64_t count[]; /* [bins + 1] rows by their zeros; turned: then [rows] */
};

double pq_sparsity_part(const struct pq_sparsity *s)
{
    return s->n ? (double)s->zeros / (double)s->n : 0;
}

unsigned pq_sparsity_pattern(const struct pq_sparsity *s, unsigned m)
{
    const uint64_t *groups = m == 4 ? s->groups_of_4 : s->groups_of_8;
    uint64_t all = 0;
    unsigned most = 0;

    for (unsigned i = 0; i <= m; i++) {
        all += groups[i];
        most = groups[i] ? i : most;
    }
    return all ? most : m;
}

/* ---- bits ---------------------------------------------------------------- */

/* double would round to 0 as a float. */
static void nonzero_f64(const unsigned char *in, size_t n, uint8_t *bits)
{
    for (size_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, in + i * sizeof v, sizeof v);
        bits[i / 8] |= (uint8_t)((v != 0) << i % 8);
    }
}

void pq_nonzero_bits(const struct pq_kernels *k, enum pq_dtype dtype,
                     const void *in, size_t n, float *room, uint8_t *bits)
{
    const float *x = in;

    if (dtype == PQ_F64) {
        memset(bits, 0, (n + 7) / 8);
        nonzero_f64(in, n, bits);
        return;
    }
    if (dtype != PQ_F32) {
        pq_load_f32(k, dtype, in, n, room);
        x = room;
    }
    k->keep_from(x, n, 1, bits);
}

/* How many of bits [from, to) are 1. */
static uint64_t ones(const uint8_t *bits, uint64_t from, uint64_t to)
{
    uint64_t sum = 0, word;

    for (; from < to && from % 8; from++)
        sum += bits[from / 8] >> from % 8 & 1;
    for (; from + 64 <= to; from += 64) {
        memcpy(&word, bits + from / 8, sizeof word);
        sum += (unsigned)__builtin_popcountll(word);
    }
    for (; from < to; from++)
        sum += bits[from / 8] >> from % 8 & 1;
    return sum;
}

/* Bits [at, at + n) as a number, n <= 8. */
static unsigned bits_at(const uint8_t *bits, uint64_t at, unsigned n)
{
    const unsigned shift = at % 8;
    unsigned v = bits[at / 8];

    if (shift + n > 8)
        v |= (unsigned)bits[at / 8 + 1] << 8;
    return v >> shift & ((1u << n) - 1);
}

/* ---- counting ------------------------------------------------------------ */

static void count_groups(const uint8_t *bits, uint64_t n, struct part *r)
{
    for (uint64_t i = 0; i < n / 8; i++)
        r->byte[bits[i]]++;
    if (n % 8 == 4)
        r->nibble[bits[n / 8] & 15]++;
}

/* The unit's elements, some rows and pieces of rows, by their bits. */
static void count_rows(const struct counter *c, const uint8_t *bits,
                       struct part *r)
{
    const uint64_t first = r->first, end = first + r->n;

    for (uint64_t at = first, i = 0; at < end; i++) {
        const uint64_t row_end = (at / c->cols + 1) * c->cols;
        const uint64_t to = row_end < end ? row_end : end;
        r->row_zeros[i] =
            (uint32_t)(to - at - ones(bits, at - first, to - first));
        at = to;
    }
}

static void count_bits(const struct counter *c, uint64_t first, uint64_t n,
                       const uint8_t *bits, struct part *r)
{
    r->first = first;
    r->n = n;
    count_groups(bits, n, r);
    count_rows(c, bits, r);
}

static void count_mask(const struct counter *c, const struct pq_unit *u,
                       struct part *r)
{
    if (c->mask_cols == 0) {
        count_bits(c, u->first, u->count, u->in[0], r);
        return;
    }
    pq_mask_get(u->in[0], c->cols, 0, (size_t)(u->count * c->cols),
                u->scratch);
    count_bits(c, u->first * c->cols, u->count * c->cols, u->scratch, r);
}

static void count_flat(const struct counter *c, const struct pq_unit *u,
                       struct part *r)
{
    const size_t size = pq_dtype_bits(c->dtype) / 8;
    float *room = u->scratch;
    uint8_t *bits = (uint8_t *)(room + TILE);

    for (uint64_t at = 0; at < u->count; at += TILE)
        pq_nonzero_bits(c->kernels, c->dtype,
                        (const unsigned char *)u->in[0] + at * size,
                        (size_t)(u->count - at < TILE ? u->count - at : TILE),
                        room, bits + at / 8);
    count_bits(c, u->first, u->count, bits, r);
}

/* Some bits of an output: n of its elements, 8 but at the end. */
static void count_output(unsigned v, unsigned n, size_t output, struct part *r)
{
    r->row_zeros[output] += n - (unsigned)__builtin_popcount(v);
    if (n == 8)
        r->byte[v]++;
    else if (n == 4)
        r->nibble[v]++;
}

/* Up to eight rows of the file: as many bits of each output. */
static void count_strip(const struct counter *c, const void *in, unsigned n,
                        float *room, struct part *r)
{
    const size_t size = pq_dtype_bits(c->dtype) / 8, cols = (size_t)c->in_cols;
    unsigned char *columns = (unsigned char *)(room + 8 * cols);
    uint8_t *bits = columns + 8 * cols * size;

    c->kernels->transpose(in, columns, n, cols, size);
    pq_nonzero_bits(c->kernels, c->dtype, columns, n * cols, room, bits);
    for (size_t i = 0; i < cols; i++)
        count_output(bits_at(bits, (uint64_t)i * n, n), n, i, r);
}

static void count_mask_strip(const struct counter *c, const uint8_t *in,
                             unsigned n, struct part *r)
{
    const size_t row = (size_t)pq_mask_row(c->in_cols);

    for (size_t i = 0; i < c->in_cols; i++) {
        unsigned v = 0;
        for (unsigned k = 0; k < n; k++)
            v |= (in[k * row + i / 8] >> i % 8 & 1u) << k;
        count_output(v, n, i, r);
    }
}

static void count_turned(const struct counter *c, const struct pq_unit *u,
                         struct part *r)
{
    const size_t row = c->mask ? (size_t)pq_mask_row(c->in_cols)
                               : (size_t)c->in_cols *
                                     (pq_dtype_bits(c->dtype) / 8);

    for (uint64_t i = 0; i < u->count; i += 8) {
        const unsigned n = u->count - i < 8 ? (unsigned)(u->count - i) : 8;
        const unsigned char *in = (const unsigned char *)u->in[0] + i * row;
        if (c->mask)
            count_mask_strip(c, in, n, r);
        else
            count_strip(c, in, n, u->scratch, r);
    }
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct counter *c = s->params;

    (void)pass;
    (void)state;
    (void)e;
    if (c->turned)
        count_turned(c, u, u->partial);
    else if (c->mask)
        count_mask(c, u, u->partial);
    else
        count_flat(c, u, u->partial);
    return 0;
}

/* ---- adding up ----------------------------------------------------------- */

static void add_row(const struct counter *c, struct state *a, uint64_t zeros)
{
    const uint64_t bin =
        c->cols <= BINS ? zeros
                        : (uint64_t)((double)zeros / (double)c->cols * BINS);

    a->count[bin]++;
    a->least = zeros < a->least ? zeros : a->least;
    a->most = zeros > a->most ? zeros : a->most;
    if (zeros == c->cols)
        c->result->zero_rows++;
    c->result->zeros += zeros;
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct counter *c = s->params;
    const struct part *r = partial;
    struct state *a = state;
    uint64_t *outputs = a->count + c->bins + 1;

    (void)pass;
    (void)e;
    for (size_t i = 0; i < 256; i++)
        a->byte[i] += r->byte[i];
    for (size_t i = 0; i < 16; i++)
        a->nibble[i] += r->nibble[i];
    for (uint64_t i = 0; c->turned && i < c->rows; i++)
        outputs[i] += r->row_zeros[i];
    for (uint64_t at = r->first, i = 0; at < r->first + r->n; i++) {
        at = (a->row + 1) * c->cols;
        a->zeros += r->row_zeros[i];
        if (at > r->first + r->n)
            break; /* the next unit has the rest of it */
        add_row(c, a, a->zeros);
        a->zeros = 0;
        a->row++;
    }
    return 0;
}

static int begin(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct counter *c = s->params;
    struct state *a = state;

    (void)e;
    a->least = UINT64_MAX;
    *c->result = (struct pq_sparsity){
        .n = c->rows * c->cols, .rows = c->rows, .cols = c->cols};
    return 0;
}

static void put_groups(const struct counter *c, const struct state *a)
{
    struct pq_sparsity *r = c->result;

    for (unsigned v = 0; v < 256 && c->cols % 4 == 0; v++) {
        r->groups_of_4[__builtin_popcount(v & 15)] += a->byte[v];
        r->groups_of_4[__builtin_popcount(v >> 4)] += a->byte[v];
        if (c->cols % 8 == 0)
            r->groups_of_8[__builtin_popcount(v)] += a->byte[v];
    }
    for (unsigned v = 0; v < 16 && c->cols % 4 == 0; v++)
        r->groups_of_4[__builtin_popcount(v)] += a->nibble[v];
}

/* The zeros of the row at that place of the order. */
static uint64_t zeros_at(const struct counter *c, const struct state *a,
                         uint64_t place)
{
    uint64_t before = 0, bin = 0;

    while (before + a->count[bin] <= place)
        before += a->count[bin++];
    return c->cols <= BINS
               ? bin
               : (uint64_t)((double)bin / BINS * (double)c->cols);
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct counter *c = s->params;
    struct state *a = state;
    struct pq_sparsity *r = c->result;

    (void)e;
    r->valid = true;
    if (r->n == 0)
        return 0;
    for (uint64_t i = 0; c->turned && i < c->rows; i++)
        add_row(c, a, a->count[c->bins + 1 + i]);
    for (uint64_t i = 1; i < PQ_DECILES - 1; i++)
        r->deciles[i] =
            zeros_at(c, a, (c->rows - 1) / 10 * i + (c->rows - 1) % 10 * i / 10);
    r->deciles[0] = a->least;
    r->deciles[PQ_DECILES - 1] = a->most;
    put_groups(c, a);
    return 0;
}

/* ---- the step ------------------------------------------------------------ */

/* Partial results of units of at most n elements. */
static size_t part_bytes(const struct counter *c, uint64_t n)
{
    return sizeof(struct part) +
           (c->cols ? (size_t)(n / c->cols) + 2 : 0) * sizeof(uint32_t);
}

static void fill_flat(struct pq_step *s, const struct counter *c)
{
    s->items = c->rows * c->cols;
    s->unit_items = UNIT;
    s->in[0].item_bits = c->mask ? 1 : pq_dtype_bits(c->dtype);
    s->scratch_bytes = c->mask ? 0 : TILE * sizeof(float) + UNIT / 8;
    s->partial_bytes = part_bytes(c, UNIT);
}

/* A mask whose rows are no whole bytes of bits: those begin anew. */
static void fill_rows(struct pq_step *s, const struct counter *c)
{
    s->items = c->rows;
    s->unit_items = c->cols < UNIT ? UNIT / c->cols : 1;
    s->in[0].item_bits = pq_mask_row(c->cols) * 8;
    s->scratch_bytes = (size_t)(s->unit_items * c->cols / 8 + 1);
    s->partial_bytes = part_bytes(c, s->unit_items * c->cols);
}

static void fill_turned(struct pq_step *s, const struct counter *c)
{
    const size_t cols = (size_t)c->in_cols;

    s->items = c->in_rows;
    s->unit_items = cols < UNIT / 8 ? UNIT / cols / 8 * 8 : 8;
    s->in[0].item_bits = c->mask ? pq_mask_row(c->in_cols) * 8
                                 : c->in_cols * pq_dtype_bits(c->dtype);
    s->scratch_bytes =
        c->mask ? 0
                : 8 * cols * (sizeof(float) + pq_dtype_bits(c->dtype) / 8) +
                      cols;
    s->partial_bytes = sizeof(struct part) + cols * sizeof(uint32_t);
}

/* Rows and columns of the matrix, as the file has it and as it is counted. */
static void see_matrix(struct counter *c, const uint64_t *shape, int rank,
                       uint64_t n, bool turned)
{
    c->turned = turned && rank == 2 && n > 0;
    c->in_cols = rank ? shape[rank - 1] : 1;
    c->in_rows = c->in_cols ? n / c->in_cols : 0;
    c->rows = c->turned ? c->in_cols : c->in_rows;
    c->cols = c->turned ? c->in_rows : c->in_cols;
    c->bins = c->cols < BINS ? c->cols : BINS;
    if (c->mask && rank > 1 && c->in_cols % 8)
        c->mask_cols = c->in_cols;
}

/* Fills in the step whose counter sees its matrix. */
static void fill(struct pq_step *s, const struct counter *c)
{
    if (c->turned)
        fill_turned(s, c);
    else if (c->mask_cols)
        fill_rows(s, c);
    else
        fill_flat(s, c);
    s->state_bytes =
        sizeof(struct state) +
        (size_t)(c->bins + 1 + (c->turned ? c->rows : 0)) * sizeof(uint64_t);
    s->params = c;
    s->n_gather = 1;
    s->begin = begin;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
}

/* A step that reads t, and its counter in *c. */
static struct pq_step *add_step(struct pq_plan *p, struct pq_source *s,
                                const struct pq_tensor *t, struct counter **c,
                                struct pq_error *e)
{
    struct pq_step *step = pq_plan_step(p, 1, 0, e);

    *c = pq_arena_alloc(&p->arena, 1, sizeof **c);
    if (!step || !*c) {
        pq_fail_nomem(e);
        return NULL;
    }
    step->name = t->name;
    step->in[0].source = s;
    step->in[0].part = &t->parts[0];
    return step;
}

struct pq_step *pq_step_sparsity(struct pq_plan *p, const struct pq_kernels *k,
                                 struct pq_source *s,
                                 const struct pq_tensor *t, bool turned,
                                 struct pq_sparsity *result,
                                 struct pq_error *e)
{
    struct counter *c;
    struct pq_step *step = add_step(p, s, t, &c, e);

    if (!step)
        return NULL;
    c->kernels = k;
    c->dtype = t->dtype;
    c->result = result;
    see_matrix(c, t->shape, t->rank, t->n_elements, turned);
    fill(step, c);
    return step;
}

struct pq_step *pq_step_mask_sparsity(struct pq_plan *p, const struct pq_mask *m,
                                      size_t tensor, bool turned,
                                      struct pq_sparsity *result,
                                      struct pq_error *e)
{
    const struct pq_masked *w = &m->weights[tensor];
    struct counter *c;
    struct pq_step *step =
        add_step(p, m->source, &m->source->catalog->tensors[tensor], &c, e);

    if (!step)
        return NULL;
    c->mask = true;
    c->result = result;
    see_matrix(c, w->shape, w->rank, w->n_elements, turned);
    fill(step, c);
    return step;
}
