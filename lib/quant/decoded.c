/*
 * A source that decodes: encoded tensors of another source as plain ones.
 *
 *   read [offset, +n) of the view
 *     -> which tensor, which elements
 *     -> the whole blocks that hold them, a chunk at a time
 *     -> codes and scales of the inner source, decoded, copied out
 *
 * Codes and scales of one tensor lie apart, so a sequential inner source is
 * read through its hold, which the engine shares.
 */
#include "quant_internal.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 65536u /* elements decoded at a time, in whole blocks */

struct view {
    struct pq_source base;
    struct pq_catalog catalog;
    struct pq_source *inner;
    const struct pq_kernels *kernels;
    uint64_t *ends; /* [tensors] where each ends in the view */
};

static int inner_read(struct view *v, const struct pq_part *p, uint64_t offset,
                      void *buf, uint64_t n, struct pq_error *e)
{
    return pq_source_reach(v->inner, p, offset, buf, (size_t)n, e);
}

/* ---- one run of blocks ------------------------------------------------- */

/* Buffers for a chunk; made for each read, so that threads do not share. */
struct chunk {
    unsigned char *codes; /* [room] */
    float *scales;        /* [room] */
    unsigned char *small; /* [room] 8-bit absmax */
    float *y;             /* [room] decoded */
};

static int chunk_init(struct chunk *c, uint64_t room, struct pq_error *e)
{
    c->codes = pq_alloc((size_t)room, 1);
    c->scales = pq_alloc((size_t)room, sizeof *c->scales);
    c->small = pq_alloc((size_t)room, 1);
    c->y = pq_alloc((size_t)room, sizeof *c->y);
    return c->codes && c->scales && c->small && c->y ? 0 : pq_fail_nomem(e);
}

static void chunk_release(struct chunk *c)
{
    free(c->codes);
    free(c->scales);
    free(c->small);
    free(c->y);
}

/* absmax of `n` blocks from `first` on, double quantization undone. */
static int read_nested(struct view *v, const struct pq_tensor *t,
                       uint64_t first, uint64_t n, struct chunk *c,
                       struct pq_error *e)
{
    const struct pq_part *state = pq_part_of(t, PQ_ROLE_QUANT_STATE);
    const struct pq_part *nested = pq_part_of(t, PQ_ROLE_NESTED_ABSMAX);
    const struct pq_part *map_part = pq_part_of(t, PQ_ROLE_NESTED_QUANT_MAP);
    const uint64_t block = t->codec.nested_block;
    float map[256];
    double offset = 0;

    if (!state || !nested || !map_part || map_part->bytes != sizeof map)
        return pq_fail(e, PQ_EFORMAT, "a part of its encoding is missing");
    char *text = pq_alloc((size_t)state->bytes, 1);
    float *scale = pq_alloc((size_t)(n / block) + 2, sizeof *scale);
    const uint64_t from = first / block;
    const uint64_t last = n ? (first + n - 1) / block : from;
    int rc = text && scale ? 0 : pq_fail_nomem(e);
    if (!rc)
        rc = inner_read(v, pq_part_of(t, PQ_ROLE_ABSMAX), first, c->small, n,
                        e) ||
             inner_read(v, state, 0, text, state->bytes, e) ||
             inner_read(v, nested, from * sizeof *scale, scale,
                        (last - from + 1) * sizeof *scale, e) ||
             inner_read(v, map_part, 0, map, sizeof map, e) ||
             pq_state_offset(text, (size_t)state->bytes, &offset, e);
    if (!rc)
        pq_nested_undo(c->small, map, scale, first, n, block, offset,
                       c->scales);
    free(text);
    free(scale);
    return rc ? -1 : 0;
}

/* Decodes elements [first, +n), first at the start of a block, to c->y. */
static int decode_blocks(struct view *v, const struct pq_tensor *t,
                         uint64_t first, uint64_t n, struct chunk *c,
                         struct pq_error *e)
{
    const uint64_t block = t->codec.block, b = first / block;
    const uint64_t blocks = pq_blocks_of(n, block);
    const bool four = t->codec.encoding != PQ_INT8_BLOCK;
    const struct pq_part *absmax = pq_part_of(t, PQ_ROLE_ABSMAX);
    const struct pq_part *map_part = pq_part_of(t, PQ_ROLE_QUANT_MAP);
    float map[256];

    if (!absmax || !map_part || map_part->bytes > sizeof map)
        return pq_fail(e, PQ_EFORMAT, "a part of its encoding is missing");
    if (inner_read(v, &t->parts[0], four ? first / 2 : first, c->codes,
                   four ? (n + 1) / 2 : n, e) ||
        inner_read(v, map_part, 0, map, map_part->bytes, e))
        return -1;
    if (t->codec.nested_block ? read_nested(v, t, b, blocks, c, e)
                              : inner_read(v, absmax, b * sizeof(float),
                                           c->scales, blocks * sizeof(float),
                                           e))
        return -1;
    pq_decode_blocks(v->kernels, t, c->codes, c->scales, map, (size_t)n, c->y);
    return 0;
}

/* Elements [first, +n), anywhere: row by row, each with its own scale. */
static int decode_rows(struct view *v, const struct pq_tensor *t,
                       uint64_t first, uint64_t n, struct chunk *c,
                       struct pq_error *e)
{
    const uint64_t cols = t->shape[1], row = first / cols;
    const uint64_t rows = (first + n - 1) / cols - row + 1;
    const struct pq_part *scb = pq_part_of(t, PQ_ROLE_SCB);

    if (!scb)
        return pq_fail(e, PQ_EFORMAT, "a part of its encoding is missing");
    if (inner_read(v, &t->parts[0], first, c->codes, n, e) ||
        inner_read(v, scb, row * sizeof(float), c->scales,
                   rows * sizeof(float), e))
        return -1;
    for (uint64_t at = 0, r = 0; at < n; r++) {
        const uint64_t end = (row + r + 1) * cols - first;
        const uint64_t k = (end < n ? end : n) - at;
        v->kernels->int8_rows_decode((const int8_t *)c->codes + at,
                                     c->scales + r, 1, (size_t)k, c->y + at);
        at += k;
    }
    return 0;
}

/* ---- reading ----------------------------------------------------------- */

/* Elements [first, +n) of tensor t, whole blocks or to the end, to c->y. */
static int decode(struct view *v, const struct pq_tensor *t, uint64_t first,
                  uint64_t n, struct chunk *c, struct pq_error *e)
{
    return t->codec.encoding == PQ_INT8 ? decode_rows(v, t, first, n, c, e)
                                        : decode_blocks(v, t, first, n, c, e);
}

static int read_encoded(struct view *v, const struct pq_tensor *t,
                        uint64_t offset, unsigned char *buf, uint64_t n,
                        struct pq_error *e)
{
    const uint64_t size = sizeof(float);
    const uint64_t item = t->codec.encoding == PQ_INT8 ? 1 : t->codec.block;
    const uint64_t most = (CHUNK / item ? CHUNK / item : 1) * item;
    const uint64_t need = (n / size / item + 2) * item;
    const uint64_t room = need < most ? need : most;
    const uint64_t step = room < t->n_elements + item ? room : t->n_elements + item;
    struct chunk c = {0};
    int rc = chunk_init(&c, step + 1, e);

    while (!rc && n > 0) {
        const uint64_t first = offset / size / item * item;
        const uint64_t left = t->n_elements - first;
        const uint64_t count = left < step ? left : step;
        const uint64_t skip = offset - first * size;
        const uint64_t have = count * size - skip;
        const uint64_t k = have < n ? have : n;
        rc = decode(v, t, first, count, &c, e);
        if (!rc)
            memcpy(buf, (unsigned char *)c.y + skip, (size_t)k);
        buf += k;
        offset += k;
        n -= k;
    }
    chunk_release(&c);
    return rc;
}

static size_t find(const struct view *v, uint64_t offset)
{
    size_t low = 0, high = v->catalog.n_tensors;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (v->ends[middle] <= offset)
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

    while (n > 0) {
        const size_t i = find(v, offset);
        if (i == v->catalog.n_tensors)
            return pq_fail(e, PQ_EARG, "read beyond the end");
        const struct pq_tensor *t = &v->inner->catalog->tensors[i];
        const uint64_t at = offset - v->catalog.tensors[i].parts[0].offset;
        const uint64_t have = v->ends[i] - offset;
        const size_t k = have < n ? (size_t)have : n;
        if (t->codec.encoding == PQ_PLAIN
                ? inner_read(v, &t->parts[0], at, to, k, e)
                : read_encoded(v, t, at, to, k, e))
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
    free(v->ends);
    free(v);
}

static const struct pq_source_ops view_ops = {view_read, NULL, view_free};

/* ---- making it --------------------------------------------------------- */

/* Codes decode to float exactly; what rounds them is the reader's matter. */
static enum pq_dtype plain_dtype(const struct pq_tensor *t)
{
    return t->codec.encoding == PQ_PLAIN ? t->dtype : PQ_F32;
}

static int declare(struct view *v, struct pq_error *e)
{
    const struct pq_catalog *in = v->inner->catalog;
    uint64_t at = 0;

    for (size_t i = 0; i < in->n_tensors; i++) {
        const struct pq_spec plain = {.dtype = plain_dtype(&in->tensors[i])};
        struct pq_tensor *t =
            pq_quant_declare(&v->catalog, &in->tensors[i], &plain, false, e);
        if (!t)
            return -1;
        t->parts[0].offset = at;
        if (!pq_add(at, t->parts[0].bytes, &at))
            return pq_fail(e, PQ_ELIMIT, "the decoded model is too large");
        v->ends[i] = at;
    }
    return pq_catalog_copy_meta(&v->catalog, in, e);
}

/* Scales are read many times, codes in pieces: keep all until the end. */
static int keep_parts(struct view *v, uint64_t memory, const char *tmpdir,
                      struct pq_error *e)
{
    struct pq_source *in = v->inner;

    if (pq_source_hold(in, memory, tmpdir, e))
        return -1;
    for (size_t i = 0; i < in->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &in->catalog->tensors[i];
        for (size_t k = 0; k < t->n_parts; k++)
            pq_hold_expect(in->hold, &t->parts[k],
                           t->codec.encoding == PQ_PLAIN ? 1 : 2);
    }
    return 0;
}

int pq_decoded_new(struct pq_source *inner, const struct pq_kernels *k,
                   uint64_t memory, const char *tmpdir, struct pq_source **s,
                   struct pq_error *e)
{
    struct view *v = pq_zalloc(1, sizeof *v);

    if (!v)
        return pq_fail_nomem(e);
    pq_catalog_init(&v->catalog);
    v->inner = inner;
    v->kernels = k;
    v->base = *inner;
    v->base.ops = &view_ops;
    v->base.catalog = &v->catalog;
    v->base.hold = NULL;
    v->base.rewind = false;
    v->base.skips = true;
    v->ends = pq_alloc(inner->catalog->n_tensors, sizeof *v->ends);
    if ((v->ends ? 0 : pq_fail_nomem(e)) || declare(v, e) ||
        (inner->sequential && keep_parts(v, memory, tmpdir, e))) {
        view_free(&v->base);
        return -1;
    }
    *s = &v->base;
    return 0;
}
