/*
 * A source of what cuts leave of another: tensors, rows, columns.
 *
 *   read [offset, +n) of the view
 *     -> which part; what is whole is read as it is
 *     -> runs of bytes that lie side by side in the inner part too:
 *        some rows, or a few columns of one row
 *     -> long runs are read where they go, short ones come out of a window
 *        that reaches from the first to the last byte that is needed
 *
 * A part [R][C] of elements of E bytes, cut; without a cut of its columns a
 * row is one column of C E bytes.
 *
 * A pipe is read through its hold.  Cut parts are read onwards only, so that
 * what lies between their runs need not be kept.
 */
#include "pq_hold.h"
#include "pq_quant.h"
#include "pq_shrink.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW 262144u /* bytes */
#define LONG   16384u  /* runs of so many bytes need no window */

/* A part of the view. */
struct piece {
    const struct pq_part *from; /* of the inner source */
    uint64_t end;               /* of it in the view */
    bool cut;
    struct pq_spans rows, columns;
    uint64_t stride; /* bytes of an inner row */
    uint64_t width;  /* bytes of a row of the view */
    uint64_t item;   /* bytes of a column */
    struct pq_span all[2]; /* what rows, columns point to when uncut */
};

struct view {
    struct pq_source base;
    struct pq_catalog catalog;
    struct pq_source *inner;
    struct piece *pieces; /* [n], in the order of the view */
    size_t n;
};

uint64_t pq_spans_count(const struct pq_spans *s)
{
    uint64_t count = 0;

    for (size_t i = 0; s && i < s->n; i++)
        count += s->list[i].count;
    return count;
}

/* ---- walking over a piece ---------------------------------------------- */

/* Where we are: a row of a span of rows, a byte of a span of columns. */
struct place {
    size_t row_span, column_span;
    uint64_t row, byte;
};

static struct place place_of(const struct piece *p, uint64_t offset)
{
    struct place at = {0, 0, offset / p->width, offset % p->width};

    while (at.row >= p->rows.list[at.row_span].count)
        at.row -= p->rows.list[at.row_span++].count;
    while (at.byte >= p->columns.list[at.column_span].count * p->item)
        at.byte -= p->columns.list[at.column_span++].count * p->item;
    return at;
}

static bool whole_rows(const struct piece *p)
{
    return p->width == p->stride;
}

/* The bytes from here on that lie side by side; *from: the first of them. */
static uint64_t run_at(const struct piece *p, const struct place *at,
                       uint64_t *from)
{
    const struct pq_span rows = p->rows.list[at->row_span];
    const struct pq_span columns = p->columns.list[at->column_span];

    *from = (rows.first + at->row) * p->stride + columns.first * p->item +
            at->byte;
    return whole_rows(p) ? (rows.count - at->row) * p->width - at->byte
                         : columns.count * p->item - at->byte;
}

static void next_row(const struct piece *p, struct place *at, uint64_t rows)
{
    at->row += rows;
    if (at->row == p->rows.list[at->row_span].count) {
        at->row = 0;
        at->row_span++;
    }
}

/* Goes on by n bytes, at most the rest of the run. */
static void advance(const struct piece *p, struct place *at, uint64_t n)
{
    at->byte += n;
    if (whole_rows(p)) {
        const uint64_t rows = at->byte / p->width;
        at->byte %= p->width;
        next_row(p, at, rows);
    } else if (at->byte == p->columns.list[at->column_span].count * p->item) {
        at->byte = 0;
        if (++at->column_span == p->columns.n) {
            at->column_span = 0;
            next_row(p, at, 1);
        }
    }
}

/* ---- reading ----------------------------------------------------------- */

static int inner_read(struct view *v, const struct pq_part *p, uint64_t offset,
                      void *buf, uint64_t n, struct pq_error *e)
{
    return pq_source_reach(v->inner, p, offset, buf, (size_t)n, e);
}

/* Bytes [from, end) of the inner part; made for each read. */
struct window {
    unsigned char *bytes; /* [WINDOW], or NULL: none was needed yet */
    uint64_t from, end;
};

/* Up to n bytes from `from` on; the last that is asked for is before `last`. */
static int read_run(struct view *v, const struct piece *p, struct window *w,
                    uint64_t from, uint64_t last, unsigned char *to,
                    uint64_t *n, struct pq_error *e)
{
    if (from >= w->end && *n >= LONG)
        return inner_read(v, p->from, from, to, *n, e);
    if (from >= w->end) {
        if (!w->bytes)
            w->bytes = pq_alloc(WINDOW, 1);
        if (!w->bytes)
            return pq_fail_nomem(e);
        w->from = from;
        w->end = last - from < WINDOW ? last : from + WINDOW;
        if (inner_read(v, p->from, from, w->bytes, w->end - from, e))
            return -1;
    }
    if (*n > w->end - from)
        *n = w->end - from;
    memcpy(to, w->bytes + (from - w->from), (size_t)*n);
    return 0;
}

static int read_cut(struct view *v, const struct piece *p, uint64_t offset,
                    unsigned char *to, uint64_t n, struct pq_error *e)
{
    struct place at = place_of(p, offset + n - 1);
    struct window w = {0};
    uint64_t from, last;
    int rc = 0;

    run_at(p, &at, &last);
    at = place_of(p, offset);
    while (!rc && n > 0) {
        const uint64_t run = run_at(p, &at, &from);
        uint64_t k = run < n ? run : n;
        rc = read_run(v, p, &w, from, last + 1, to, &k, e);
        advance(p, &at, k);
        to += k;
        n -= k;
    }
    free(w.bytes);
    return rc;
}

/* The first piece that ends behind the offset. */
static size_t find(const struct view *v, uint64_t offset)
{
    size_t low = 0, high = v->n;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (v->pieces[middle].end <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int view_read(struct pq_source *base, uint64_t offset, void *buf,
                     size_t n, struct pq_error *e)
{
    struct view *v = (struct view *)base;
    unsigned char *to = buf;

    for (size_t i = find(v, offset); n > 0; i++) {
        if (i >= v->n)
            return pq_fail(e, PQ_EARG, "read beyond the end");
        const struct piece *p = &v->pieces[i];
        const uint64_t at = offset - (i ? v->pieces[i - 1].end : 0);
        const uint64_t have = p->end - offset;
        const size_t k = have < n ? (size_t)have : n;
        if (k == 0)
            continue;
        if (p->cut ? read_cut(v, p, at, to, k, e)
                   : inner_read(v, p->from, at, to, k, e))
            return -1;
        to += k;
        offset += k;
        n -= k;
    }
    return 0;
}

static void view_free(struct pq_source *base)
{
    struct view *v = (struct view *)base;

    pq_catalog_release(&v->catalog);
    free(v->pieces);
    free(v);
}

static const struct pq_source_ops view_ops = {view_read, NULL, view_free};

/* ---- declaring it ------------------------------------------------------ */

static int check_spans(const struct pq_spans *s, uint64_t size,
                       const struct pq_tensor *t, struct pq_error *e)
{
    uint64_t at = 0;

    for (size_t i = 0; i < s->n; i++) {
        const struct pq_span x = s->list[i];
        if (x.count == 0 || x.first < at || x.first > size ||
            x.count > size - x.first)
            return pq_fail(e, PQ_EARG,
                           "tensor %s: rows or columns that it does not have",
                           t->name);
        at = x.first + x.count;
    }
    return s->n ? 0 : pq_fail(e, PQ_EARG, "tensor %s: nothing is left of it",
                              t->name);
}

static int check_cut(const struct pq_tensor *t, const struct pq_cut *c,
                     struct pq_error *e)
{
    if (t->codec.encoding != PQ_PLAIN || pq_dtype_bits(t->dtype) % 8)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is encoded, so that rows and columns "
                       "cannot be taken out: dequantize it first",
                       t->name);
    if (t->rank < 1 + (c->columns != NULL))
        return pq_fail(e, PQ_EARG, "tensor %s: has no %s", t->name,
                       t->rank ? "columns" : "rows");
    return (c->rows && check_spans(c->rows, t->shape[0], t, e)) ||
                   (c->columns && check_spans(c->columns, t->shape[1], t, e))
               ? -1
               : 0;
}

/* The lengths of a piece that is cut; its tensor was checked. */
static void measure(struct piece *p, const struct pq_tensor *t,
                    const struct pq_cut *c)
{
    const uint64_t row = t->shape[0] ? t->parts[0].bytes / t->shape[0] : 0;
    const uint64_t columns = c->columns ? t->shape[1] : 1;

    p->cut = true;
    p->stride = row;
    p->item = columns ? row / columns : 0;
    p->all[0] = (struct pq_span){0, t->shape[0]};
    p->all[1] = (struct pq_span){0, columns};
    p->rows = c->rows ? *c->rows : (struct pq_spans){&p->all[0], 1};
    p->columns = c->columns ? *c->columns : (struct pq_spans){&p->all[1], 1};
    p->width = pq_spans_count(&p->columns) * p->item;
}

/* The tensor of the view, of the shape that the cut leaves. */
static struct pq_tensor *declare_cut(struct view *v, const struct pq_tensor *t,
                                     const struct pq_cut *c,
                                     struct pq_error *e)
{
    struct pq_tensor *to = pq_tensor_copy(&v->catalog, t, e);
    uint64_t *shape =
        to ? pq_arena_alloc(&v->catalog.arena, (size_t)t->rank, sizeof *shape)
           : NULL;

    if (!shape) {
        pq_fail_nomem(e);
        return NULL;
    }
    memcpy(shape, t->shape, (size_t)t->rank * sizeof *shape);
    if (c->rows)
        shape[0] = pq_spans_count(c->rows);
    if (c->columns)
        shape[1] = pq_spans_count(c->columns);
    to->shape = to->parts[0].shape = shape;
    return pq_shape_elements(shape, t->rank, &to->n_elements, e) ||
                   pq_shape_bytes(shape, t->rank, t->dtype,
                                  &to->parts[0].bytes, e)
               ? NULL
               : to;
}

static int add_pieces(struct view *v, const struct pq_tensor *t,
                      const struct pq_cut *c, struct pq_error *e)
{
    const bool cut = c->rows || c->columns;
    uint64_t at = v->n ? v->pieces[v->n - 1].end : 0;

    if (cut && check_cut(t, c, e))
        return -1;
    struct pq_tensor *to =
        cut ? declare_cut(v, t, c, e) : pq_tensor_copy(&v->catalog, t, e);
    if (!to)
        return -1;
    for (size_t i = 0; i < t->n_parts; i++) {
        struct piece *p = &v->pieces[v->n];
        p->from = &t->parts[i];
        if (cut)
            measure(p, t, c);
        to->parts[i].offset = at;
        if (!pq_add(at, to->parts[i].bytes, &at))
            return pq_fail(e, PQ_ELIMIT, "the model is too large");
        p->end = at;
        v->n++;
    }
    return 0;
}

/* Shards of which nothing is left are taken from the list. */
static int drop_files(struct pq_catalog *c, struct pq_error *e)
{
    uint32_t *number = pq_zalloc(c->n_files, sizeof *number);
    uint32_t n = 0;

    if (!number)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++)
            if (c->tensors[i].parts[k].file < c->n_files)
                number[c->tensors[i].parts[k].file] = 1;
    for (size_t i = 0; i < c->n_files; i++)
        if (number[i]) {
            c->files[n] = c->files[i];
            number[i] = n++;
        }
    for (size_t i = 0; i < c->n_tensors && c->n_files; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++)
            c->tensors[i].parts[k].file = number[c->tensors[i].parts[k].file];
    c->n_files = n;
    free(number);
    return 0;
}

static int declare(struct view *v, const struct pq_cut *cuts, size_t n,
                   struct pq_error *e)
{
    const struct pq_catalog *in = v->inner->catalog;
    size_t parts = 0;

    for (size_t i = 0; i < n; i++) {
        if (cuts[i].tensor >= in->n_tensors ||
            (i && cuts[i].tensor <= cuts[i - 1].tensor))
            return pq_fail(e, PQ_EARG, "cuts that are out of order");
        parts += in->tensors[cuts[i].tensor].n_parts;
    }
    v->pieces = pq_zalloc(parts, sizeof *v->pieces);
    if (!v->pieces)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++)
        if (add_pieces(v, &in->tensors[cuts[i].tensor], &cuts[i], e))
            return -1;
    return pq_catalog_copy_meta(&v->catalog, in, e) ||
                   drop_files(&v->catalog, e)
               ? -1
               : 0;
}

/*
 * Of a pipe: what is whole may be needed later, what is cut is passed once; a
 * hold that was there may have passed it already.
 */
static int expect_parts(struct view *v, uint64_t memory, const char *tmpdir,
                        struct pq_error *e)
{
    struct pq_source *in = v->inner;
    const bool fresh = !in->hold;

    if (pq_source_hold(in, memory, tmpdir, e))
        return -1;
    size_t next = 0; /* piece; they are in the order of the tensors */
    for (size_t i = 0; i < in->catalog->n_tensors; i++)
        for (size_t k = 0; k < in->catalog->tensors[i].n_parts; k++) {
            const struct pq_part *p = &in->catalog->tensors[i].parts[k];
            const bool there = next < v->n && v->pieces[next].from == p;
            pq_hold_expect(in->hold, p,
                           there && !(fresh && v->pieces[next].cut));
            next += there;
        }
    return 0;
}

int pq_shrunk_new(struct pq_source *inner, const struct pq_cut *cuts, size_t n,
                  uint64_t memory, const char *tmpdir, struct pq_source **s,
                  struct pq_error *e)
{
    struct view *v = pq_zalloc(1, sizeof *v);

    if (!v)
        return pq_fail_nomem(e);
    pq_catalog_init(&v->catalog);
    v->inner = inner;
    v->base = *inner;
    v->base.ops = &view_ops;
    v->base.catalog = &v->catalog;
    v->base.hold = NULL;
    v->base.skips = true;
    if (declare(v, cuts, n, e) ||
        (inner->sequential && expect_parts(v, memory, tmpdir, e))) {
        view_free(&v->base);
        return -1;
    }
    *s = &v->base;
    return 0;
}
