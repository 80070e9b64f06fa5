/*
 * The one matrix product (mat.h says what it computes).
 *
 *     for each block of k                          256
 *       pack b: up to 16 panels of 16 columns      256 KiB, stays in L2
 *       for each 6 rows of a                       read where they are, or
 *         for each panel: a tile of 6 x 16         48 of them packed, too
 *
 * Rows of a that are columns in memory (dw = dy^T x) are packed, as each
 * element of such a row is in another line of the cache.
 *
 * A single row of a is multiplied straight from the rows of b, if the
 * encoding and the shape allow it, which saves packing what is used once.
 *
 * Packing decodes, so a weight stays encoded in memory and costs its decoding
 * once for all rows of a.  Tasks are rectangles of c.  How c is cut changes
 * the time, never the bits.
 */
#include "mat.h"

#include <string.h>

#define COLS NN_TILE_COLS
#define MIN_ROWS                                                               \
    96 /* of a task; with fewer, packing b again costs too much                \
        */

struct range {
    size_t from, to;
};

/* Of column j, counted from the first that is packed. */
static float *panel_of(const struct nn_worker *w, size_t j)
{
    return w->panels + j / COLS * NN_PANEL;
}

/* Panel [kn][16] of columns j .. of a matrix that is stored by columns of c. */
static void pack_rows(const struct nn_product *p, struct nn_worker *w,
                      struct range j, struct range k, float *panel)
{
    const struct nn_mat *b = p->b;
    const size_t kn = k.to - k.from, n = j.to - j.from;
    const float *in = nn_mat_floats(b, j.from, k.from);

    if (in && n == COLS) {
        w->nn->turn(in, b->row, kn, panel);
        return;
    }
    for (size_t i = 0; i < n; i++)
        nn_mat_decode(b, w->kernels, j.from + i, k.from, kn,
                      w->rows + i * NN_BLOCK_K);
    if (n < COLS)
        memset(w->rows + n * NN_BLOCK_K, 0,
               (COLS - n) * NN_BLOCK_K * sizeof *w->rows);
    w->nn->turn(w->rows, NN_BLOCK_K, kn, panel);
}

/* Fetches floats that are copied soon: a run is too short to be foreseen. */
static void fetch(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 16)
        __builtin_prefetch(x + i);
}

#define AHEAD 4 /* rows */

/* All panels of columns j of a matrix that is stored by k. */
static void pack_by_k(const struct nn_product *p, struct nn_worker *w,
                      struct range j, struct range k)
{
    const size_t n = j.to - j.from, whole = n - n % COLS;

    for (size_t i = 0; i < k.to - k.from; i++) {
        const float *in = nn_mat_floats(p->b, k.from + i, j.from);
        float *out = w->panels + i * COLS;
        if (!in) {
            nn_mat_decode(p->b, w->kernels, k.from + i, j.from, n, w->rows);
            in = w->rows;
        } else if (k.from + i + AHEAD < p->k) {
            fetch(in + AHEAD * p->b->row, n);
        }
        for (size_t c = 0; c < whole; c += COLS, out += NN_PANEL)
            memcpy(out, in + c, COLS * sizeof *out);
        if (whole < n) {
            memset(out, 0, COLS * sizeof *out);
            memcpy(out, in + whole, (n - whole) * sizeof *out);
        }
    }
}

static void pack(const struct nn_product *p, struct nn_worker *w,
                 struct range j, struct range k)
{
    if (p->b_by_k) {
        pack_by_k(p, w, j, k);
        return;
    }
    for (size_t c = j.from; c < j.to; c += COLS) {
        const struct range cols = {c, c + COLS < j.to ? c + COLS : j.to};
        pack_rows(p, w, cols, k, panel_of(w, c - j.from));
    }
}

/* Rows [r, r + n) of a, which are side by side, as strips [kn][6]. */
static void pack_strips(const struct nn_product *p, struct nn_worker *w,
                        size_t r, size_t n, struct range k)
{
    const size_t kn = k.to - k.from, whole = n - n % NN_TILE_ROWS;
    const float *in = p->a + r + k.from * p->a_col;
    float *out = w->strips;

    for (size_t i = 0; i < kn; i++, in += p->a_col, out += NN_TILE_ROWS) {
        for (size_t s = 0; s < whole; s += NN_TILE_ROWS)
            memcpy(out + s * kn, in + s, NN_TILE_ROWS * sizeof *out);
        for (size_t s = whole; s < n; s++)
            out[whole * kn + s - whole] = in[s];
    }
}

/* The terms of a block of k that rows [r, r + n) have. */
static struct range terms_of(const struct nn_product *p, size_t r, size_t n,
                             struct range k)
{
    const size_t last = p->shift + r + n;

    if (p->shape == NN_A_LOWER && k.to > last)
        k.to = last > k.from ? last : k.from;
    if (p->shape == NN_A_UPPER && r > p->shift && k.from < r - p->shift)
        k.from = r - p->shift < k.to ? r - p->shift : k.to;
    return k;
}

/* One block of k for rows i and columns j, which fit the panels. */
static void block(const struct nn_product *p, struct nn_worker *w,
                  struct range i, struct range j, struct range k)
{
    const bool add = p->add || k.from > 0, packed = p->a_row == 1;
    const size_t a_row = packed ? 1 : p->a_row;
    const size_t a_col = packed ? NN_TILE_ROWS : p->a_col;
    const size_t step = NN_STRIPS * NN_TILE_ROWS;

    for (size_t r = i.from; r < i.to; r += NN_TILE_ROWS) {
        const size_t rows = i.to - r < NN_TILE_ROWS ? i.to - r : NN_TILE_ROWS;
        const size_t at = (r - i.from) % step, last = p->shift + r + rows;
        const size_t end = p->shape == NN_C_LOWER && last < j.to ? last : j.to;
        const struct range t = terms_of(p, r, rows, k);
        const size_t skip = t.from - k.from;
        if (packed && at == 0)
            pack_strips(p, w, r, i.to - r < step ? i.to - r : step, k);
        const float *a = packed ? w->strips + at * (k.to - k.from)
                                : p->a + r * p->a_row + k.from * p->a_col;
        for (size_t c = j.from; c < end; c += COLS)
            w->nn->tile(rows, j.to - c < COLS ? j.to - c : COLS, t.to - t.from,
                        a + skip * a_col, a_row, a_col,
                        panel_of(w, c - j.from) + skip * COLS,
                        p->c + r * p->c_row + c, p->c_row, add);
    }
}

/* ---- one row ------------------------------------------------------------ */

/* How the rows of b are read without packing; false: they cannot be. */
static bool kind_of(const struct nn_mat *b, struct nn_rows *r)
{
    const enum pq_encoding e = b->codec.encoding;
    const bool codes = e == PQ_NF4 || e == PQ_FP4, plain = e == PQ_PLAIN;

    r->kind = codes                          ? NN_ROWS_CODES
              : e == PQ_INT8                 ? NN_ROWS_INT8
              : plain && b->dtype == PQ_F16  ? NN_ROWS_F16
              : plain && b->dtype == PQ_BF16 ? NN_ROWS_BF16
                                             : NN_ROWS_F32;
    r->bits = codes ? 4 : e == PQ_INT8 ? 8 : pq_dtype_bits(b->dtype);
    return codes || e == PQ_INT8 ||
           (plain && (r->kind != NN_ROWS_F32 || b->dtype == PQ_F32));
}

/* Can the kernels do this product row by row of b, for one row of a? */
static bool describe_rows(const struct nn_product *p,
                          const struct nn_kernels *nn, struct nn_rows *r)
{
    const struct nn_mat *b = p->b;
    const size_t block = b->codec.block;

    if (!nn->rows || p->m != 1 || p->b_by_k || p->a_col != 1 || p->k == 0 ||
        !kind_of(b, r) || p->k % (256 / r->bits))
        return false;
    r->row_bytes = b->row * r->bits / 8;
    r->map = b->map;
    r->block = block;
    r->scale_row = 1;
    if (r->kind != NN_ROWS_CODES)
        return true;
    r->scale_row = b->row / block;
    return block % 64 == 0 && b->row % block == 0 && b->col0 % block == 0 &&
           (NN_BLOCK_K % block == 0 || block % NN_BLOCK_K == 0);
}

/* The whole panel of columns from j on, by all of k. */
static void row_of_panel(const struct nn_product *p, struct nn_worker *w,
                         struct nn_rows *r, size_t j)
{
    const struct nn_mat *b = p->b;
    const size_t row = b->row0 + j;

    for (size_t k = 0; k < p->k; k += NN_BLOCK_K) {
        const size_t at = b->col0 + k;
        r->kn = p->k - k < NN_BLOCK_K ? p->k - k : NN_BLOCK_K;
        r->a = p->a + k;
        r->w = (const uint8_t *)b->data + row * r->row_bytes + at * r->bits / 8;
        if (r->kind == NN_ROWS_INT8)
            r->scale = b->scale + row;
        else if (r->kind == NN_ROWS_CODES)
            r->scale = b->scale + row * r->scale_row + at / r->block;
        w->nn->rows(r, p->c + j, p->add || k > 0);
    }
}

static void add_bias(const struct nn_product *p, struct nn_worker *w,
                     struct range i, struct range j)
{
    for (size_t r = i.from; r < i.to; r++) {
        float *c = p->c + r * p->c_row + j.from;
        w->nn->add(c, c, p->bias + j.from, j.to - j.from);
    }
}

/* Rows i and columns j of c, j at most NN_PANELS panels. */
static void rectangle(const struct nn_product *p, struct nn_worker *w,
                      struct range i, struct range j)
{
    struct range k = {0, 0}, rest = j;
    struct nn_rows r;

    if (describe_rows(p, w->nn, &r))
        for (; rest.to - rest.from >= COLS; rest.from += COLS)
            row_of_panel(p, w, &r, rest.from);
    if (rest.from < rest.to)
        do {
            k.from = k.to;
            k.to = p->k - k.from < NN_BLOCK_K ? p->k : k.from + NN_BLOCK_K;
            pack(p, w, rest, k);
            block(p, w, i, rest, k);
        } while (k.to < p->k);
    if (p->bias)
        add_bias(p, w, i, j);
}

void nn_multiply_here(struct nn_worker *w, const struct nn_product *p)
{
    const struct range i = {0, p->m};

    for (size_t c = 0; c < p->n; c += NN_PANELS * COLS) {
        const size_t end = c + NN_PANELS * COLS;
        const struct range j = {c, end < p->n ? end : p->n};
        rectangle(p, w, i, j);
    }
}

/* How c is cut: tasks of row_step x col_step. */
struct cut {
    const struct nn_product *p;
    size_t row_step, col_step, across;
};

static void cut_task(void *arg, struct nn_worker *w, size_t task)
{
    const struct cut *c = arg;
    const struct nn_product *p = c->p;
    const size_t r = task / c->across * c->row_step;
    const size_t q = task % c->across * c->col_step;
    const struct range i = {r, r + c->row_step < p->m ? r + c->row_step : p->m};
    const struct range j = {q, q + c->col_step < p->n ? q + c->col_step : p->n};

    rectangle(p, w, i, j);
}

/* About two tasks a thread, or more where panels are full. */
static void cut_evenly(struct cut *c, size_t threads)
{
    const size_t panels = (c->p->n + COLS - 1) / COLS;
    const size_t least = (panels + NN_PANELS - 1) / NN_PANELS;
    const size_t wanted = threads > 1 ? 2 * threads : 1;
    const size_t rooms = c->p->m < MIN_ROWS ? 1 : c->p->m / MIN_ROWS;
    size_t down = (wanted + least - 1) / least;

    down = down < rooms ? down : rooms;
    size_t across = (wanted + down - 1) / down;
    across = across < panels ? across : panels;
    across = across > least ? across : least;
    if (across > wanted && across % threads)
        across += threads - across % threads;
    const size_t per = (panels + across - 1) / across;
    c->col_step = per * COLS;
    c->across = (panels + per - 1) / per;
    const size_t rows = (c->p->m + down - 1) / down;
    c->row_step = (rows + NN_TILE_ROWS - 1) / NN_TILE_ROWS * NN_TILE_ROWS;
}

void nn_multiply(struct nn_pool *pool, const struct nn_product *p)
{
    struct cut c = {.p = p};

    if (p->m == 0 || p->n == 0)
        return;
    cut_evenly(&c, nn_pool_threads(pool));
    nn_pool_run(pool, cut_task, &c,
                c.across * ((p->m + c.row_step - 1) / c.row_step));
}
