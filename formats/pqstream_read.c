/*
 * Reading the tensors of a .pq stream.
 *
 * The parts of all tensors, uncompressed, end to end, are one address space:
 *
 *     tensor         0                1         2
 *     part           0      1    2    0         0
 *     address        |------|----|----|---------|----------|
 *     record    TENS |  body (zstd)   |  body   | zstd| zstd  INDX END
 *                    seen                ^at      still to come
 *
 * Bytes before `at` have passed and were verified; of a regular file they can
 * be read again (`seen` tells where they are).  Bytes behind it are reached
 * by reading up to them; finish() reads the rest, so that no checksum is left
 * out, then INDX and END, which must agree with all that was met.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>

static size_t smaller(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

/* Sets the end of the tensor whose first span is the current one. */
static void find_bound(struct pq_stream_source *s)
{
    size_t last = s->span;

    if (last == s->n_spans)
        return;
    while (last + 1 < s->n_spans &&
           s->spans[last + 1].tensor == s->spans[last].tensor)
        last++;
    s->bound = s->spans[last].end;
}

int pq_stream_source_begin(struct pq_stream_source *s, struct pq_error *e)
{
    const struct pq_catalog *c = &s->catalog;
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    s->spans = pq_alloc(n, sizeof(*s->spans));
    if (!s->spans)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++) {
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *p = &c->tensors[i].parts[k];
            s->spans[s->n_spans++] =
                (struct pq_stream_span){.name = p->name,
                                        .dtype = p->dtype,
                                        .end = p->offset + p->bytes,
                                        .tensor = i};
            const size_t run = smaller(p->bytes, PQ_STREAM_RUN);
            s->run_bytes = run > s->run_bytes ? run : s->run_bytes;
        }
    }
    find_bound(s);
    return 0;
}

/* Goes to the tensor behind the current one. */
static void next_tensor(struct pq_stream_source *s)
{
    const size_t tensor = s->spans[s->span].tensor;

    while (s->span < s->n_spans && s->spans[s->span].tensor == tensor)
        s->span++;
    find_bound(s);
}

/* A compressed record holds whole elements of one part. */
static int check_packed(struct pq_stream_source *s, struct pq_error *e)
{
    size_t k = s->span;

    while (k + 1 < s->n_spans && s->spans[k].end <= s->at)
        k++;
    const uint64_t left = s->spans[k].end - s->at;
    if (s->rec.raw_bytes > left)
        return pq_fail(e, PQ_EFORMAT, "a compressed record crosses parts");
    /* Parts are whole elements, so counting from the end is as good. */
    const unsigned width = pq_stream_width(s->spans[k].dtype);
    if (left % width != 0 || s->rec.raw_bytes % width != 0)
        return pq_fail(e, PQ_EFORMAT, "a compressed record cuts an element");
    s->rec.dtype = s->spans[k].dtype;
    return 0;
}

static int check_record(struct pq_stream_source *s, struct pq_error *e)
{
    const struct pq_stream_prefix *p = &s->r.rec;
    const uint64_t left = s->bound - s->at;
    const size_t tensor = s->spans[s->span].tensor;

    if (s->r.at_end || strcmp(p->type, "TENS") != 0)
        return pq_fail(e, PQ_EFORMAT, "a %s record where a tensor should be",
                       s->r.at_end ? "END" : p->type);
    if (p->number != tensor)
        return pq_fail(e, PQ_EFORMAT, "tensor %llu where %zu should be",
                       (unsigned long long)p->number, tensor);
    if (p->head_bytes != 0)
        return pq_fail(e, PQ_EFORMAT, "TENS record with a head");
    if (p->flags & PQ_STREAM_MORE ? p->raw_bytes == 0 || p->raw_bytes >= left
                                  : p->raw_bytes != left)
        return pq_fail(e, PQ_EFORMAT,
                       "a record of %llu bytes where the catalogue has %llu",
                       (unsigned long long)p->raw_bytes,
                       (unsigned long long)left);
    return 0;
}

/* Notes a record, so that a regular file's can be read again. */
static int note(struct pq_stream_source *s, struct pq_error *e)
{
    if (!s->r.in.regular || s->rec.raw_bytes == 0)
        return 0;
    struct pq_stream_seen *all =
        pq_grow(s->seen, s->n_seen, &s->cap_seen, sizeof(*all));
    if (!all)
        return pq_fail_nomem(e);
    s->seen = all;
    all[s->n_seen++] = s->rec;
    return 0;
}

static int buffers(struct pq_stream_source *s, struct pq_error *e)
{
    if (!s->unpacker && !(s->unpacker = pq_stream_unpacker_new(pq_kernels_best(), e)))
        return -1;
    if (!s->body)
        s->body = pq_alloc(s->run_bytes, 1);
    if (!s->raw)
        s->raw = pq_alloc(s->run_bytes, 1);
    return s->body && s->raw ? 0 : pq_fail_nomem(e);
}

/* Opens the body of `rec`, which lies in s->body. */
static int unpack(struct pq_stream_source *s, const struct pq_stream_seen *rec,
                  struct pq_error *e)
{
    const struct pq_stream_packed p = {.dtype = rec->dtype,
                                       .sparse = rec->sparse,
                                       .body = s->body,
                                       .body_bytes = (size_t)rec->body_bytes,
                                       .raw_bytes = (size_t)rec->raw_bytes};

    s->cached = false;
    if (pq_stream_unpack(s->unpacker, &p, s->raw, e))
        return -1;
    s->cached = true;
    s->cached_start = rec->raw_start;
    return 0;
}

/* Takes in the next record: of a compressed one, all of it. */
static int begin_record(struct pq_stream_source *s, struct pq_error *e)
{
    if (!s->pending && pq_stream_next(&s->r, e))
        return -1;
    s->pending = false;
    if (check_record(s, e))
        return pq_error_in(e, "at byte %llu", (unsigned long long)s->r.offset);
    const struct pq_stream_prefix *p = &s->r.rec;
    s->rec = (struct pq_stream_seen){.raw_start = s->at,
                                     .raw_bytes = p->raw_bytes,
                                     .body_offset = s->r.in.at,
                                     .body_bytes = p->body_bytes,
                                     .packed = p->flags & PQ_STREAM_PACKED,
                                     .sparse = p->flags & PQ_STREAM_SPARSE};
    if (s->rec.packed &&
        (check_packed(s, e) || buffers(s, e) ||
         pq_stream_body(&s->r, s->body, (size_t)p->body_bytes, e) ||
         pq_stream_close(&s->r, e) || unpack(s, &s->rec, e)))
        return -1;
    if (note(s, e))
        return -1;
    s->open = true;
    return 0;
}

static int end_record(struct pq_stream_source *s, struct pq_error *e)
{
    if (!s->rec.packed && pq_stream_close(&s->r, e))
        return -1;
    s->open = false;
    if (s->at == s->bound)
        next_tensor(s);
    return 0;
}

/* A passed compressed record is in s->raw again. */
static int again(struct pq_stream_source *s, const struct pq_stream_seen *rec,
                 struct pq_error *e)
{
    if (s->cached && s->cached_start == rec->raw_start)
        return 0;
    if (pq_in_pread(&s->r.in, rec->body_offset, s->body,
                    (size_t)rec->body_bytes, e))
        return -1;
    return unpack(s, rec, e);
}

/* The next n bytes of the open record; buf NULL passes over them. */
static int deliver(struct pq_stream_source *s, unsigned char *buf, size_t n,
                   struct pq_error *e)
{
    if (s->rec.packed) {
        if (!buf)
            return 0;
        if (again(s, &s->rec, e))
            return -1;
        memcpy(buf, s->raw + (s->at - s->rec.raw_start), n);
        return 0;
    }
    if (buf)
        return pq_stream_body(&s->r, buf, n, e);
    if (!s->chunk && !(s->chunk = pq_alloc(PQ_STREAM_CHUNK, 1)))
        return pq_fail_nomem(e);
    while (n > 0) {
        const size_t k = smaller(n, PQ_STREAM_CHUNK);
        if (pq_stream_body(&s->r, s->chunk, k, e))
            return -1;
        n -= k;
    }
    return 0;
}

/* Moves the stream forward to address `to`, putting bytes into buf if any. */
static int advance(struct pq_stream_source *s, unsigned char *buf, uint64_t to,
                   struct pq_error *e)
{
    while (s->at < to) {
        if (!s->open && begin_record(s, e))
            return -1;
        const uint64_t end = s->rec.raw_start + s->rec.raw_bytes;
        const size_t n = smaller((end < to ? end : to) - s->at, SIZE_MAX);
        if (n > 0 && deliver(s, buf, n, e))
            return -1;
        s->at += n;
        if (buf)
            buf += n;
        if (s->at == end && end_record(s, e))
            return -1;
    }
    return 0;
}

/* The noted record that holds an address before `at`. */
static const struct pq_stream_seen *find(const struct pq_stream_source *s,
                                         uint64_t address)
{
    size_t low = 0, high = s->n_seen;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (s->seen[middle].raw_start <= address)
            low = middle;
        else
            high = middle;
    }
    return &s->seen[low];
}

/* Reads bytes that have passed, of a regular file. */
static int reread(struct pq_stream_source *s, uint64_t offset,
                  unsigned char *buf, size_t n, struct pq_error *e)
{
    if (!s->r.in.regular)
        return pq_fail(e, PQ_EARG, "a pipe cannot go back");
    while (n > 0) {
        const struct pq_stream_seen *rec = find(s, offset);
        const uint64_t from = offset - rec->raw_start;
        const size_t k = smaller(rec->raw_bytes - from, n);
        if (!rec->packed) {
            if (pq_in_pread(&s->r.in, rec->body_offset + from, buf, k, e))
                return -1;
        } else {
            if (again(s, rec, e))
                return -1;
            memcpy(buf, s->raw + from, k);
        }
        offset += k;
        buf += k;
        n -= k;
    }
    return 0;
}

/* Says which tensor it was, which need not be the one that was asked for. */
static int in_tensor(const struct pq_stream_source *s, struct pq_error *e)
{
    if (s->span == s->n_spans || (e && e->code == PQ_EUPSTREAM))
        return -1;
    return pq_error_in(e, "tensor %s", s->spans[s->span].name);
}

static int stream_read(struct pq_source *base, uint64_t offset, void *buf,
                       size_t n, struct pq_error *e)
{
    struct pq_stream_source *s = (struct pq_stream_source *)base;
    unsigned char *to = buf;

    if (s->broken)
        return pq_fail(e, PQ_EARG, "the stream is broken");
    if (offset > s->total || n > s->total - offset)
        return pq_fail(e, PQ_EARG, "a read past the last tensor");
    if (offset < s->at && n > 0) {
        const size_t k = smaller(s->at - offset, n);
        if (reread(s, offset, to, k, e))
            return -1;
        to += k;
        offset += k;
        n -= k;
    }
    if (n == 0)
        return 0;
    s->broken = advance(s, NULL, offset, e) || advance(s, to, offset + n, e);
    return s->broken ? -1 : 0; /* the caller names the tensor */
}

/* Reads INDX; `want` is the checksum that its body must have. */
static int read_index(struct pq_stream_source *s, uint64_t want,
                      struct pq_error *e)
{
    const struct pq_stream_prefix *p = &s->r.rec;

    if (s->r.at_end || strcmp(p->type, "INDX") != 0)
        return pq_fail(
            e, PQ_EFORMAT, "at byte %llu: a %s record where INDX should be",
            (unsigned long long)s->r.offset, s->r.at_end ? "END" : p->type);
    if (p->head_bytes != 0 ||
        p->body_bytes != s->r.tally.records * PQ_STREAM_BLOCK)
        return pq_fail(e, PQ_EFORMAT, "the index has a wrong length");
    if (pq_stream_drop(&s->r, e))
        return -1;
    if (s->r.body_sum != want)
        return pq_fail(e, PQ_EFORMAT, "the index is not of these records");
    return 0;
}

static int read_end(struct pq_stream_source *s, struct pq_error *e)
{
    const uint64_t index_offset = s->r.offset;
    unsigned char byte;
    size_t got;

    if (pq_stream_next(&s->r, e))
        return -1;
    if (!s->r.at_end)
        return pq_fail(e, PQ_EFORMAT, "a %s record behind the index",
                       s->r.rec.type);
    const struct pq_stream_end *end = &s->r.end;
    if (end->index_offset != index_offset || end->total_bytes != s->r.in.at ||
        end->records != s->r.tally.records ||
        end->sum != XXH3_64bits_digest(s->r.tally.sums))
        return pq_fail(e, PQ_EFORMAT, "the end record is not of these records");
    if (pq_in_read(&s->r.in, &byte, 1, &got, e))
        return -1;
    if (got != 0)
        return pq_fail(e, PQ_EFORMAT, "bytes follow the end record");
    return 0;
}

static int finish(struct pq_stream_source *s, struct pq_error *e)
{
    if (advance(s, NULL, s->total, e))
        return -1;
    /* Tensors of no bytes at the end have records too. */
    while (s->span < s->n_spans) {
        if (begin_record(s, e) || end_record(s, e))
            return -1;
    }
    if (!s->pending && pq_stream_next(&s->r, e))
        return -1;
    s->pending = false;
    const uint64_t want = XXH3_64bits_digest(s->r.tally.index);
    if (read_index(s, want, e) || read_end(s, e))
        return -1;
    return 0;
}

static int stream_finish(struct pq_source *base, struct pq_error *e)
{
    struct pq_stream_source *s = (struct pq_stream_source *)base;

    if (s->broken)
        return pq_fail(e, PQ_EARG, "the stream is broken");
    s->broken = finish(s, e) != 0;
    return s->broken ? in_tensor(s, e) : 0;
}

static void stream_free(struct pq_source *base)
{
    struct pq_stream_source *s = (struct pq_stream_source *)base;

    pq_stream_reader_release(&s->r);
    pq_catalog_release(&s->catalog);
    pq_stream_unpacker_free(s->unpacker);
    free(s->spans);
    free(s->seen);
    free(s->body);
    free(s->raw);
    free(s->chunk);
    free(s);
}

const struct pq_source_ops pq_stream_source_ops = {
    .read = stream_read,
    .finish = stream_finish,
    .free = stream_free,
};
