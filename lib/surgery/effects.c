/*
 * A source of effects: products of factors, multiplied out as they are read.
 *
 *   read [offset, +n) of the view
 *     -> which effect, which rows
 *     -> rows of one factor, all of the other, some rows at a time
 *     -> with a magnitude: rows of the base, norms of its outputs
 *
 *     straight   rows [count][rank] of B          times A   [rank][in]
 *     turned     columns [count][rank] of A, ^T   times B^T [rank][out]
 *
 * Norms are of outputs.  Those of rows are at hand; those of columns take a
 * reading of the whole tensor, once, by whoever comes first.
 */
#include "pq_kernels.h"
#include "pq_surgery.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 262144u /* elements computed at a time, in whole rows */
#define PIECE 65536u  /* elements read at a time */

struct effect {
    struct pq_edit edit;
    struct pq_source *base;
    const struct pq_tensor *w;
    uint64_t rows, cols, rank;
    double *norms; /* [cols] squares, of a turned one; NULL: not yet */
};

struct view {
    struct pq_source source;
    struct pq_catalog catalog;
    const struct pq_kernels *kernels;
    struct effect *effects; /* one for each tensor of the catalogue */
    pthread_mutex_t norming;
};

/* Buffers for some rows; made for each read, so that threads do not share. */
struct work {
    void *raw;           /* PIECE elements as they are stored */
    float *left, *right; /* [count][rank], [rank][cols] */
    float *turning;      /* [count or cols][rank], before it is turned */
    float *x, *base;     /* [count][cols] */
    float *m;            /* [out] */
    uint64_t rows;       /* room for so many */
};

/* The last three are used with `turned`, or with a magnitude. */
static int work_init(struct work *w, const struct effect *d, uint64_t rows,
                     struct pq_error *e)
{
    const size_t rank = (size_t)d->rank * sizeof(float);
    const size_t row = (size_t)d->cols * sizeof(float);
    const uint64_t most = d->rows > d->cols ? d->rows : d->cols;
    const uint64_t side = rows > d->cols ? rows : d->cols;

    w->rows = rows;
    w->raw = pq_alloc(PIECE, sizeof(double));
    w->left = pq_alloc((size_t)rows, rank);
    w->right = pq_alloc((size_t)d->cols, rank);
    w->turning = pq_alloc(d->edit.turned ? (size_t)side : 0, rank);
    w->x = pq_alloc((size_t)rows, row);
    w->base = pq_alloc(d->w ? (size_t)rows : 0, row);
    w->m = pq_alloc(d->w ? (size_t)most : 0, sizeof *w->m);
    return w->raw && w->left && w->right && w->turning && w->x && w->base &&
                   w->m
               ? 0
               : pq_fail_nomem(e);
}

static void work_release(struct work *w)
{
    free(w->raw);
    free(w->left);
    free(w->right);
    free(w->turning);
    free(w->x);
    free(w->base);
    free(w->m);
}

/* ---- reading factors --------------------------------------------------- */

/* Elements [first, +n) of a plain tensor as floats. */
static int load(const struct view *v, struct pq_source *s,
                const struct pq_tensor *t, uint64_t first, uint64_t n,
                void *raw, float *x, struct pq_error *e)
{
    const size_t size = pq_dtype_bits(t->dtype) / 8;

    for (uint64_t at = 0; at < n; at += PIECE) {
        const size_t k = n - at < PIECE ? (size_t)(n - at) : PIECE;
        if (pq_source_read(s, &t->parts[0], (first + at) * size, raw, k * size,
                           e))
            return -1;
        pq_load_f32(v->kernels, t->dtype, raw, k, x + at);
    }
    return 0;
}

/* Columns [first, +n) of a [rank][width], turned: x [n][rank]. */
static int load_columns(const struct view *v, const struct effect *d,
                        uint64_t first, uint64_t n, struct work *w, float *x,
                        struct pq_error *e)
{
    for (uint64_t k = 0; k < d->rank; k++)
        if (load(v, d->edit.source, d->edit.a, k * d->rows + first, n, w->raw,
                 w->turning + k * n, e))
            return -1;
    v->kernels->transpose(w->turning, x, d->rank, n, sizeof *x);
    return 0;
}

static int load_left(const struct view *v, const struct effect *d,
                     uint64_t first, uint64_t n, struct work *w,
                     struct pq_error *e)
{
    return d->edit.turned
               ? load_columns(v, d, first, n, w, w->left, e)
               : load(v, d->edit.source, d->edit.b, first * d->rank,
                      n * d->rank, w->raw, w->left, e);
}

static int load_right(const struct view *v, const struct effect *d,
                      struct work *w, struct pq_error *e)
{
    const struct pq_edit *p = &d->edit;
    const uint64_t n = d->rank * d->cols;

    if (!p->turned)
        return load(v, p->source, p->a, 0, n, w->raw, w->right, e);
    if (load(v, p->source, p->b, 0, n, w->raw, w->turning, e))
        return -1;
    v->kernels->transpose(w->turning, w->right, d->cols, d->rank,
                          sizeof *w->right);
    return 0;
}

/* x = s B A of some rows, and with a magnitude W + that; W stays in base. */
static int multiply(const struct view *v, const struct effect *d,
                    uint64_t first, uint64_t n, double scale, struct work *w,
                    struct pq_error *e)
{
    memset(w->x, 0, (size_t)(n * d->cols) * sizeof *w->x);
    if (d->w) {
        if (load(v, d->base, d->w, first * d->cols, n * d->cols, w->raw,
                 w->base, e))
            return -1;
        memcpy(w->x, w->base, (size_t)(n * d->cols) * sizeof *w->x);
    }
    if (load_left(v, d, first, n, w, e))
        return -1;
    v->kernels->add_product(w->left, n, d->rank, w->right, d->cols, d->cols,
                            (float)scale, w->x, d->cols);
    return 0;
}

/* ---- DoRA -------------------------------------------------------------- */

static void add_squares(const struct effect *d, const struct work *w,
                        uint64_t n, double *sums)
{
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < d->cols; k++) {
            const double x = (double)w->x[i * d->cols + k];
            sums[k] += x * x;
        }
}

static int sum_columns(const struct view *v, struct effect *d, struct work *w,
                       struct pq_error *e)
{
    double *sums = pq_zalloc((size_t)d->cols, sizeof *sums);
    int rc = sums ? 0 : pq_fail_nomem(e);

    for (uint64_t at = 0; !rc && at < d->rows; at += w->rows) {
        const uint64_t left = d->rows - at;
        const uint64_t n = left < w->rows ? left : w->rows;
        rc = multiply(v, d, at, n, d->edit.scale, w, e);
        if (!rc)
            add_squares(d, w, n, sums);
    }
    if (!rc)
        d->norms = sums;
    else
        free(sums);
    return rc;
}

static int find_norms(struct view *v, struct effect *d, struct work *w,
                      struct pq_error *e)
{
    int rc = 0;

    pthread_mutex_lock(&v->norming);
    if (!d->norms)
        rc = sum_columns(v, d, w, e);
    pthread_mutex_unlock(&v->norming);
    return rc;
}

/* x from W + s B A to w (m/norm x - W). */
static void scale_to(const struct view *v, const struct effect *d,
                     uint64_t first, uint64_t n, struct work *w)
{
    const float weight = (float)d->edit.weight;

    for (uint64_t i = 0; i < n; i++) {
        float *x = w->x + i * d->cols;
        const float *base = w->base + i * d->cols;
        struct pq_moments norm;
        if (!d->edit.turned)
            v->kernels->moments(x, d->cols, &norm);
        for (uint64_t k = 0; k < d->cols; k++) {
            const double square =
                d->edit.turned ? d->norms[k] : norm.sum_sq;
            const float m = w->m[d->edit.turned ? k : first + i];
            x[k] = weight * (x[k] * (m / (float)sqrt(square)) - base[k]);
        }
    }
}

/* ---- reading ----------------------------------------------------------- */

/* What all rows of a reading share. */
static int prepare(struct view *v, struct effect *d, struct work *w,
                   struct pq_error *e)
{
    const struct pq_tensor *m = d->edit.magnitude;

    if (load_right(v, d, w, e))
        return -1;
    if (!m)
        return 0;
    if (load(v, d->edit.source, m, 0, m->n_elements, w->raw, w->m, e))
        return -1;
    return d->edit.turned ? find_norms(v, d, w, e) : 0;
}

static int compute(const struct view *v, const struct effect *d,
                   uint64_t first, uint64_t n, struct work *w,
                   struct pq_error *e)
{
    const struct pq_edit *p = &d->edit;

    if (multiply(v, d, first, n, d->w ? p->scale : p->scale * p->weight, w, e))
        return -1;
    if (d->w)
        scale_to(v, d, first, n, w);
    return 0;
}

/* Bytes [offset, +n) of one effect, in chunks of whole rows. */
static int read_effect(struct view *v, struct effect *d, uint64_t offset,
                      unsigned char *buf, uint64_t n, struct pq_error *e)
{
    if (!d->w && d->edit.scale * d->edit.weight == 0) {
        memset(buf, 0, (size_t)n);
        return 0;
    }
    const uint64_t row = d->cols * sizeof(float);
    const uint64_t last = (offset + n - 1) / row;
    const uint64_t need = last - offset / row + 1;
    const uint64_t fit = CHUNK / d->cols ? CHUNK / d->cols : 1;
    struct work w = {0};
    int rc = work_init(&w, d, need < fit ? need : fit, e);

    if (!rc)
        rc = prepare(v, d, &w, e);
    while (!rc && n > 0) {
        const uint64_t first = offset / row, rest = last - first + 1;
        const uint64_t count = rest < w.rows ? rest : w.rows;
        const uint64_t skip = offset - first * row;
        const uint64_t have = count * row - skip, k = have < n ? have : n;
        rc = compute(v, d, first, count, &w, e);
        if (!rc)
            memcpy(buf, (const unsigned char *)w.x + skip, (size_t)k);
        buf += k;
        offset += k;
        n -= k;
    }
    work_release(&w);
    return rc;
}

/* Ranges lie in one part: sources are read by parts. */
static int view_read(struct pq_source *s, uint64_t offset, void *buf,
                     size_t n, struct pq_error *e)
{
    struct view *v = (struct view *)(void *)s;

    if (n == 0)
        return 0;
    const size_t i = pq_catalog_tensor_at(&v->catalog, offset);
    return read_effect(v, &v->effects[i],
                      offset - v->catalog.tensors[i].parts[0].offset, buf, n,
                      e);
}

static void view_free(struct pq_source *s)
{
    struct view *v = (struct view *)(void *)s;

    for (size_t i = 0; v->effects && i < v->catalog.n_tensors; i++)
        free(v->effects[i].norms);
    free(v->effects);
    pthread_mutex_destroy(&v->norming);
    pq_catalog_release(&v->catalog);
    free(v);
}

static const struct pq_source_ops view_ops = {view_read, NULL, view_free};

/* ---- making it --------------------------------------------------------- */

static int measure(struct effect *d, const struct pq_effect *from,
                   struct pq_error *e)
{
    const struct pq_tensor *a = from->edit.a, *b = from->edit.b;

    d->edit = from->edit;
    d->base = from->base;
    d->w = from->edit.magnitude ? from->w : NULL;
    if (a->rank < 2 || b->rank < 2 || a->shape[0] == 0 ||
        b->n_elements != b->shape[0] * a->shape[0])
        return pq_fail(e, PQ_EARG, "%s and %s are no product", a->name,
                       b->name);
    d->rank = a->shape[0];
    const uint64_t in = a->n_elements / d->rank, out = b->shape[0];
    const uint64_t shape[2] = {from->edit.turned ? in : out,
                               from->edit.turned ? out : in};
    d->rows = shape[0];
    d->cols = shape[1];
    return d->w ? pq_edit_check(&from->edit, d->w->shape, d->w->rank, e) : 0;
}

static int add_effect(struct view *v, const struct pq_effect *from,
                     uint64_t *at, struct pq_error *e)
{
    const struct pq_spec f32 = {.dtype = PQ_F32};
    struct effect *d = &v->effects[v->catalog.n_tensors];
    struct pq_part one_file = {0};
    struct pq_tensor like = {.name = from->name, .dtype = PQ_F32, .rank = 2,
                             .parts = &one_file, .n_parts = 1};

    if (measure(d, from, e))
        return -1;
    const uint64_t shape[2] = {d->rows, d->cols};
    like.shape = shape;
    if (pq_shape_elements(shape, 2, &like.n_elements, e))
        return -1;
    struct pq_tensor *t = pq_quant_declare(&v->catalog, &like, &f32, false, e);
    if (!t)
        return -1;
    t->parts[0].offset = *at;
    return pq_add(*at, t->parts[0].bytes, at)
               ? 0
               : pq_fail(e, PQ_ELIMIT, "the effects are too large");
}

int pq_effects_new(const char *name, const struct pq_effect *effects,
                   size_t n, const struct pq_kernels *k, struct pq_source **s,
                   struct pq_error *e)
{
    struct view *v = pq_zalloc(1, sizeof *v);
    uint64_t at = 0;

    if (!v)
        return pq_fail_nomem(e);
    pq_catalog_init(&v->catalog);
    pthread_mutex_init(&v->norming, NULL);
    v->source.ops = &view_ops;
    v->source.catalog = &v->catalog;
    v->source.name = name;
    v->source.format = "effects";
    v->kernels = k;
    v->effects = pq_zalloc(n, sizeof *v->effects);
    int rc = v->effects ? 0 : pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < n; i++)
        rc = add_effect(v, &effects[i], &at, e);
    if (rc) {
        view_free(&v->source);
        return -1;
    }
    *s = &v->source;
    return 0;
}
