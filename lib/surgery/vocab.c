/*
 * A model with another vocabulary; see pq_vocab.h.
 *
 * Its address space is the model's, with the new tables behind it:
 *
 *     | model's parts ................ | table 0 | table 1 |
 *     0                            tables[0].at
 */
#include "pq_vocab.h"

#include "pq_quant.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 1024u /* elements converted at a time */

struct table {
    const struct pq_tensor *const *from; /* [n_models] */
    enum pq_dtype dtype;
    uint64_t at, bytes; /* in the view's address space */
    uint64_t columns;   /* elements of a row */
    size_t item;        /* bytes of an element */
};

struct vocab {
    struct pq_source base;
    struct pq_catalog catalog;
    struct pq_source *const *models; /* [n_models] */
    size_t n_models;
    struct pq_source *inner;
    const struct pq_row_map *map;
    const struct pq_kernels *kernels;
    struct table *tables; /* [n_tables] */
    size_t n_tables;
    uint64_t limit; /* where the tables begin */
};

/* ---- one row ----------------------------------------------------------- */

/* Elements [first, +n) of a row of a model, n <= CHUNK, widened. */
static int load(const struct vocab *v, const struct table *t,
                struct pq_row row, uint64_t first, size_t n, float *x,
                struct pq_error *e)
{
    const struct pq_tensor *from = t->from[row.model];
    const size_t item = pq_dtype_bits(from->dtype) / 8;
    unsigned char raw[CHUNK * sizeof(float)];
    const uint64_t at = (row.number * t->columns + first) * item;

    if (pq_source_read(v->models[row.model], &from->parts[0], at, raw,
                       n * item, e))
        return -1;
    pq_load_f32(v->kernels, from->dtype, raw, n, x);
    return 0;
}

static int load_mean(const struct vocab *v, const struct table *t,
                     const struct pq_row_mean *m, uint64_t first, size_t n,
                     float *x, struct pq_error *e)
{
    double sum[CHUNK] = {0};

    for (size_t i = 0; i < m->n; i++) {
        if (load(v, t, m->of[i], first, n, x, e))
            return -1;
        for (size_t k = 0; k < n; k++)
            sum[k] += (double)x[k];
    }
    for (size_t k = 0; k < n; k++)
        x[k] = (float)(sum[k] / (double)m->n);
    return 0;
}

/* Elements [first, +n) of row `number` of the view, as the table has them. */
static int make(const struct vocab *v, const struct table *t, uint64_t number,
                uint64_t first, size_t n, unsigned char *out,
                struct pq_error *e)
{
    const struct pq_row row = v->map->rows[number];
    float x[CHUNK];

    if (row.model == PQ_ROW_ZERO) {
        memset(out, 0, n * t->item);
        return 0;
    }
    if (row.model == PQ_ROW_MEAN
            ? load_mean(v, t, &v->map->means[row.number], first, n, x, e)
            : load(v, t, row, first, n, x, e))
        return -1;
    pq_store_f32(v->kernels, t->dtype, x, n, out);
    return 0;
}

/* Bytes [skip, +n) of a row, which need not begin with an element. */
static int make_bytes(const struct vocab *v, const struct table *t,
                      uint64_t number, uint64_t skip, unsigned char *buf,
                      size_t n, struct pq_error *e)
{
    unsigned char out[CHUNK * sizeof(float)];

    while (n > 0) {
        const uint64_t first = skip / t->item;
        const size_t inside = (size_t)(skip % t->item);
        const size_t want = (n + inside + t->item - 1) / t->item;
        const size_t count = want < CHUNK ? want : CHUNK;
        const size_t have = count * t->item - inside;
        const size_t k = have < n ? have : n;
        if (make(v, t, number, first, count, out, e))
            return -1;
        memcpy(buf, out + inside, k);
        buf += k;
        skip += k;
        n -= k;
    }
    return 0;
}

/* ---- reading ----------------------------------------------------------- */

/* Rows from `number` on that lie one behind the other in one model, as is. */
static uint64_t run_length(const struct vocab *v, const struct table *t,
                           uint64_t number, uint64_t most)
{
    const struct pq_row *r = &v->map->rows[number];
    uint64_t n = 1;

    if (r->model >= v->n_models || t->from[r->model]->dtype != t->dtype)
        return 0;
    while (n < most && number + n < v->map->n_rows &&
           r[n].model == r->model && r[n].number == r->number + n)
        n++;
    return n;
}

static int read_table(const struct vocab *v, const struct table *t,
                      uint64_t offset, unsigned char *buf, size_t n,
                      struct pq_error *e)
{
    const uint64_t bytes = t->columns * t->item;

    while (n > 0) {
        const uint64_t number = offset / bytes, skip = offset % bytes;
        const struct pq_row *r = &v->map->rows[number];
        const uint64_t run = run_length(v, t, number, n / bytes + 2);
        const uint64_t have = (run ? run : 1) * bytes - skip;
        const size_t k = have < n ? (size_t)have : n;
        if (run ? pq_source_read(v->models[r->model],
                                 &t->from[r->model]->parts[0],
                                 r->number * bytes + skip, buf, k, e)
                : make_bytes(v, t, number, skip, buf, k, e))
            return -1;
        buf += k;
        offset += k;
        n -= k;
    }
    return 0;
}

static int vocab_read(struct pq_source *base, uint64_t offset, void *buf,
                      size_t n, struct pq_error *e)
{
    struct vocab *v = (struct vocab *)base;

    if (offset < v->limit)
        return v->inner->ops->read(v->inner, offset, buf, n, e);
    for (size_t i = 0; i < v->n_tables; i++) {
        const struct table *t = &v->tables[i];
        if (offset >= t->at && offset - t->at <= t->bytes &&
            n <= t->bytes - (offset - t->at))
            return read_table(v, t, offset - t->at, buf, n, e);
    }
    return pq_fail(e, PQ_EARG, "read beyond the end");
}

static void vocab_free(struct pq_source *base)
{
    struct vocab *v = (struct vocab *)base;

    pq_catalog_release(&v->catalog);
    free(v->tables);
    free(v);
}

static const struct pq_source_ops vocab_ops = {vocab_read, NULL, vocab_free};

/* ---- checks ------------------------------------------------------------ */

static int check_shape(const struct pq_tensor *a, const struct pq_tensor *b,
                       struct pq_error *e)
{
    bool same = a->rank == b->rank && a->rank > 0;

    for (int i = 1; same && i < a->rank; i++)
        same = a->shape[i] == b->shape[i];
    if (!same)
        return pq_fail(e, PQ_EARG,
                       "tensor %s: its rows are not as long in all models",
                       a->name);
    if (b->codec.encoding != PQ_PLAIN ||
        (b->dtype != PQ_F32 && b->dtype != PQ_F16 && b->dtype != PQ_BF16))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is %s; rows are F32, F16 or BF16", b->name,
                       pq_dtype_name(b->dtype));
    return 0;
}

static int check_row(const struct vocab *v, const struct table *t,
                     struct pq_row row, const char *name, struct pq_error *e)
{
    const struct pq_tensor *from =
        row.model < v->n_models ? t->from[row.model] : NULL;

    if (!from || row.number >= from->shape[0])
        return pq_fail(e, PQ_EARG, "tensor %s: there is no row %u in %s", name,
                       row.number,
                       row.model < v->n_models ? v->models[row.model]->name
                                               : "any model");
    return 0;
}

static int check_rows(const struct vocab *v, const struct table *t,
                      const char *name, struct pq_error *e)
{
    const struct pq_row_map *m = v->map;

    for (uint64_t i = 0; i < m->n_rows; i++) {
        const struct pq_row row = m->rows[i];
        if (row.model == PQ_ROW_ZERO)
            continue;
        if (row.model != PQ_ROW_MEAN) {
            if (check_row(v, t, row, name, e))
                return -1;
            continue;
        }
        if (row.number >= m->n_means)
            return pq_fail(e, PQ_EARG, "tensor %s: there is no mean %u", name,
                           row.number);
        for (size_t k = 0; k < m->means[row.number].n; k++)
            if (check_row(v, t, m->means[row.number].of[k], name, e))
                return -1;
    }
    return 0;
}

/* ---- making it --------------------------------------------------------- */

/* The table takes the place of the tensor in the view's catalogue. */
static int add_table(struct vocab *v, const struct pq_vocab_table *in,
                     uint64_t *end, struct pq_error *e)
{
    struct pq_tensor *to = &v->catalog.tensors[in->tensor];
    struct table *t = &v->tables[v->n_tables];
    uint64_t *shape = pq_arena_alloc(&v->catalog.arena, (size_t)to->rank + 1,
                                     sizeof *shape);

    if (!shape)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < v->n_models; i++)
        if (in->from[i] && check_shape(to, in->from[i], e))
            return -1;
    if (check_shape(to, to, e))
        return -1;
    *t = (struct table){in->from, to->dtype, *end, 0, 0,
                        pq_dtype_bits(to->dtype) / 8};
    for (int i = 0; i < to->rank; i++)
        shape[i] = i ? to->shape[i] : v->map->n_rows;
    if (pq_shape_bytes(shape, to->rank, to->dtype, &t->bytes, e))
        return pq_error_in(e, "tensor %s", to->name);
    to->n_elements = t->bytes / t->item;
    t->columns = v->map->n_rows ? to->n_elements / v->map->n_rows : 0;
    to->shape = to->parts[0].shape = shape;
    to->parts[0].bytes = t->bytes;
    to->parts[0].offset = *end;
    if (!pq_add(*end, t->bytes, end))
        return pq_fail(e, PQ_ELIMIT, "the model is too large");
    v->n_tables++;
    return check_rows(v, t, to->name, e);
}

static int copy_catalog(struct vocab *v, struct pq_error *e)
{
    const struct pq_catalog *in = v->inner->catalog;

    for (size_t i = 0; i < in->n_tensors; i++) {
        if (!pq_tensor_copy(&v->catalog, &in->tensors[i], e))
            return -1;
        for (size_t k = 0; k < in->tensors[i].n_parts; k++) {
            const struct pq_part *p = &in->tensors[i].parts[k];
            if (p->offset + p->bytes > v->limit)
                v->limit = p->offset + p->bytes;
        }
    }
    return pq_catalog_copy_meta(&v->catalog, in, e);
}

static int fill(struct vocab *v, const struct pq_vocab_table *tables,
                size_t n_tables, struct pq_error *e)
{
    for (size_t i = 0; i < v->n_models; i++)
        if (v->models[i]->sequential)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: the vocabulary of a .pq stream cannot be "
                           "changed; convert it to a directory first",
                           v->models[i]->name);
    v->tables = pq_zalloc(n_tables, sizeof *v->tables);
    if (!v->tables)
        return pq_fail_nomem(e);
    if (copy_catalog(v, e))
        return -1;
    uint64_t end = v->limit;
    for (size_t i = 0; i < n_tables; i++)
        if (add_table(v, &tables[i], &end, e))
            return -1;
    return 0;
}

int pq_vocab_new(struct pq_source *const *models, size_t n_models, size_t self,
                 const struct pq_row_map *map,
                 const struct pq_vocab_table *tables, size_t n_tables,
                 const struct pq_kernels *k, struct pq_source **s,
                 struct pq_error *e)
{
    struct vocab *v = pq_zalloc(1, sizeof *v);

    if (!v)
        return pq_fail_nomem(e);
    pq_catalog_init(&v->catalog);
    v->models = models;
    v->n_models = n_models;
    v->inner = models[self];
    v->map = map;
    v->kernels = k;
    v->base = *v->inner;
    v->base.ops = &vocab_ops;
    v->base.catalog = &v->catalog;
    v->base.hold = NULL;
    if (fill(v, tables, n_tables, e)) {
        vocab_free(&v->base);
        return -1;
    }
    *s = &v->base;
    return 0;
}
