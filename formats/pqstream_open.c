/*
 * Opening a .pq stream: header, CTLG, and what else comes before the first
 * tensor.
 *
 *     HEADER | CTLG | META .. | PROV .. | optional .. | TENS ...   END
 *     \_____________ read here, whole _______________/ \_ prefix   \_ looked
 *                                                         pending     at, of
 *                                                                     a file
 *
 * A regular file without END is refused before anything is done with it.  It
 * may hold what a failed pipeline wrote; then the failure it reports is what
 * the user should see, so its records are searched for ABRT.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>

/* Walks over the prefixes of a file without END, looking for ABRT. */
static int diagnose(const struct pq_in *in, struct pq_error *e)
{
    uint64_t at = PQ_STREAM_BLOCK;
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_stream_prefix p;
    char text[401] = "";

    while (at + PQ_STREAM_BLOCK <= in->size &&
           pq_in_pread(in, at, b, sizeof(b), NULL) == 0 &&
           pq_stream_get_prefix(b, &p, NULL) == 0) {
        uint64_t next = at;
        if (!pq_stream_add_record(&next, p.head_bytes, p.body_bytes) ||
            next > in->size)
            break;
        if (strcmp(p.type, "ABRT") == 0 && p.head_bytes == 0) {
            const size_t n =
                p.body_bytes < 400 ? (size_t)p.body_bytes : (size_t)400;
            if (pq_in_pread(in, at + PQ_STREAM_BLOCK, text, n, e))
                return -1;
            return pq_fail(e, PQ_EUPSTREAM, "upstream %s", text);
        }
        at = next;
    }
    return pq_fail(e, PQ_ETRUNCATED,
                   "truncated: no end record; good up to byte %llu of %llu",
                   (unsigned long long)(at < in->size ? at : in->size),
                   (unsigned long long)in->size);
}

/* A regular file must end with the END that belongs to it. */
static int check_end(const struct pq_in *in, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_stream_end end;

    if (in->size < 2 * PQ_STREAM_BLOCK)
        return diagnose(in, e);
    if (pq_in_pread(in, in->size - sizeof(b), b, sizeof(b), e))
        return -1;
    if (!pq_stream_is_end(b))
        return diagnose(in, e);
    if (pq_stream_get_end(b, &end, e))
        return -1;
    if (end.total_bytes != in->size)
        return pq_fail(
            e, PQ_EFORMAT, "the file has %llu bytes, its end record says %llu",
            (unsigned long long)in->size, (unsigned long long)end.total_bytes);
    return 0;
}

static int take_meta(struct pq_stream_source *s, const struct pq_buf *body,
                     struct pq_error *e)
{
    const struct pq_buf *head = &s->r.head;
    const char *kind, *name;

    if (pq_stream_parse_head(head->n ? head->s : "", head->n, &s->catalog,
                             &kind, &name, e))
        return -1;
    if (strcmp(kind, "metadata") == 0) {
        if (s->catalog.n_metadata > 0)
            return pq_fail(e, PQ_EFORMAT, "a second metadata record");
        return pq_stream_parse_metadata(body->n ? body->s : "", body->n,
                                        &s->catalog, e);
    }
    if (strcmp(kind, "file") != 0)
        return pq_fail(e, PQ_EUNSUPPORTED, "META record of unknown kind");
    if (!name || !pq_stream_base_name(name))
        return pq_fail(e, PQ_EFORMAT, "META record of a file without name");
    if (pq_catalog_blob(&s->catalog, name))
        return pq_fail(e, PQ_EFORMAT, "file %s stands twice", name);
    return pq_catalog_add_blob(&s->catalog, name, body->n ? body->s : "",
                               body->n, e);
}

static int take_prov(struct pq_stream_source *s, const struct pq_buf *body,
                     struct pq_error *e)
{
    if (body->n == 0 || memchr(body->s, '\n', body->n) ||
        memchr(body->s, 0, body->n))
        return pq_fail(e, PQ_EFORMAT, "a provenance record is not one line");
    return pq_catalog_add_prov(&s->catalog, body->s, e);
}

static int take_optional(struct pq_stream_source *s, const struct pq_buf *body,
                         struct pq_error *e)
{
    struct pq_extra x = {.head = s->r.head.n ? s->r.head.s : "",
                         .body = body->n ? body->s : "",
                         .head_bytes = s->r.head.n,
                         .body_bytes = body->n};

    memcpy(x.type, s->r.rec.type, sizeof(x.type));
    return pq_catalog_add_extra(&s->catalog, &x, e);
}

static int take_record(struct pq_stream_source *s, const struct pq_buf *body,
                       struct pq_error *e)
{
    const struct pq_stream_prefix *p = &s->r.rec;

    if (pq_stream_optional(p))
        return take_optional(s, body, e);
    if (strcmp(p->type, "META") == 0)
        return take_meta(s, body, e);
    if (p->head_bytes != 0)
        return pq_fail(e, PQ_EFORMAT, "%s record with a head", p->type);
    if (strcmp(p->type, "PROV") == 0)
        return take_prov(s, body, e);
    if (p->seq > 0)
        return pq_fail(e, PQ_EFORMAT, "a second catalogue");
    return pq_stream_parse_catalog(body->n ? body->s : "", body->n, &s->catalog,
                                   &s->total, e);
}

/* The records that come before the tensors. */
static bool in_front(const struct pq_stream_prefix *p)
{
    return pq_stream_optional(p) || strcmp(p->type, "META") == 0 ||
           strcmp(p->type, "PROV") == 0 || strcmp(p->type, "CTLG") == 0;
}

/* Reads records up to the first that is no longer in front. */
static int read_front(struct pq_stream_source *s, struct pq_buf *body,
                      struct pq_error *e)
{
    uint64_t left = PQ_STREAM_MAX_FRONT;

    for (;;) {
        if (pq_stream_next(&s->r, e))
            return -1;
        if (s->r.tally.records == 0 &&
            (s->r.at_end || strcmp(s->r.rec.type, "CTLG") != 0))
            return pq_fail(e, PQ_EFORMAT, "the catalogue does not come first");
        if (s->r.at_end || !in_front(&s->r.rec)) {
            s->pending = true;
            return 0;
        }
        if (s->r.tally.records == PQ_STREAM_MAX_RECORDS)
            return pq_fail(e, PQ_ELIMIT,
                           "more than %u records before the tensors",
                           PQ_STREAM_MAX_RECORDS);
        const uint64_t limit =
            left < PQ_STREAM_MAX_TEXT ? left : PQ_STREAM_MAX_TEXT;
        if (pq_stream_text(&s->r, limit, body, e))
            return -1;
        left -= body->n;
        if (take_record(s, body, e))
            return pq_error_in(e, "at byte %llu",
                               (unsigned long long)s->r.offset);
    }
}

static int open_stream(struct pq_stream_source *s, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_buf body = {0};

    if (pq_in_read_all(&s->r.in, b, sizeof(b), e) || pq_stream_get_header(b, e))
        return -1;
    if (s->r.in.regular && check_end(&s->r.in, e))
        return -1;
    const int rc = read_front(s, &body, e);
    pq_buf_release(&body);
    if (rc || pq_stream_source_begin(s, e))
        return -1;
    s->base.total_bytes = s->r.in.regular ? s->r.in.size : s->total;
    return 0;
}

int pq_stream_open(struct pq_in *in, struct pq_source **out, struct pq_error *e)
{
    struct pq_stream_source *s = pq_zalloc(1, sizeof(*s));

    if (!s) {
        pq_in_close(in);
        return pq_fail_nomem(e);
    }
    pq_catalog_init(&s->catalog);
    s->base = (struct pq_source){.ops = &pq_stream_source_ops,
                                 .catalog = &s->catalog,
                                 .name = in->name,
                                 .format = "pq",
                                 .sequential = true,
                                 .rewind = in->regular};
    if (pq_stream_reader_init(&s->r, in, e) || open_stream(s, e)) {
        pq_stream_source_ops.free(&s->base);
        return -1;
    }
    *out = &s->base;
    return 0;
}
