/*
 * Records of a .pq stream, from a pipe or a file, in order and verified.
 *
 *     PREFIX  head 0..0  body ........ 0..0 sum | PREFIX ... | END
 *     64 B    to 64 B    as stored     to 64 B
 *     \__ pq_stream_next  \_ _body     \_ _close
 *
 * A length is believed once the checksum of its prefix is right.  A body with
 * a wrong checksum may have been spoilt on purpose, by a program that had to
 * give up in the middle of it: then an ABRT record follows, and what it says
 * is the failure to report.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>

int pq_stream_reader_init(struct pq_stream_reader *r, struct pq_in *in,
                          struct pq_error *e)
{
    memset(r, 0, sizeof(*r));
    r->in = *in;
    in->fd = -1;
    r->hash = XXH3_createState();
    if (!r->hash)
        return pq_fail_nomem(e);
    return pq_stream_tally_init(&r->tally, false, e);
}

void pq_stream_reader_release(struct pq_stream_reader *r)
{
    pq_in_close(&r->in);
    pq_stream_tally_release(&r->tally);
    (void)XXH3_freeState(r->hash);
    pq_buf_release(&r->head);
}

/* Reads zero bytes, fewer than 64. */
static int padding(struct pq_stream_reader *r, size_t n, struct pq_error *e)
{
    unsigned char pad[PQ_STREAM_BLOCK] = {0};
    unsigned any = 0;

    if (pq_in_read_all(&r->in, pad, n, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        any |= pad[i];
    if (any)
        return pq_fail(e, PQ_EFORMAT, "padding before byte %llu is not zero",
                       (unsigned long long)r->in.at);
    return 0;
}

static int read_head(struct pq_stream_reader *r, struct pq_error *e)
{
    unsigned char chunk[4096];
    uint64_t left = r->rec.head_bytes;

    r->head.n = 0;
    while (left > 0) {
        const size_t n = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
        if (pq_in_read_all(&r->in, chunk, n, e))
            return -1;
        pq_buf_add(&r->head, chunk, n);
        left -= n;
    }
    if (r->head.failed)
        return pq_fail_nomem(e);
    if (padding(r, pq_stream_head_pad(r->rec.head_bytes), e))
        return -1;
    if (XXH3_64bits(r->head.s, r->head.n) != r->rec.head_sum)
        return pq_fail(e, PQ_ECHECKSUM, "the head's checksum is wrong");
    return 0;
}

/* Fails with what an ABRT record has to say; its prefix was read. */
static int upstream(struct pq_stream_reader *r, uint64_t body_bytes,
                    struct pq_error *e)
{
    char text[PQ_STREAM_MAX_MESSAGE + 1] = "";
    unsigned char tail[2 * PQ_STREAM_BLOCK];
    const size_t n = (size_t)body_bytes;
    const size_t pad = pq_stream_body_pad(body_bytes);

    if (body_bytes > PQ_STREAM_MAX_MESSAGE ||
        pq_in_read_all(&r->in, text, n, NULL) ||
        pq_in_read_all(&r->in, tail, pad + 8, NULL) ||
        XXH3_64bits(text, n) != pq_stream_get64(tail + pad))
        return pq_fail(e, PQ_EUPSTREAM,
                       "upstream failed, and its message was lost");
    return pq_fail(e, PQ_EUPSTREAM, "upstream %s", text);
}

/* pq knows the type, or may do without. */
static bool known(const struct pq_stream_prefix *p)
{
    static const char types[][5] = {"CTLG", "META", "PROV",
                                    "TENS", "INDX", "ABRT"};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(p->type, types[i]) == 0)
            return true;
    }
    return pq_stream_optional(p);
}

/* Reads 64 bytes: END, or a prefix and its head. */
static int read_block(struct pq_stream_reader *r, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    size_t got;

    if (pq_in_read(&r->in, b, sizeof(b), &got, e))
        return -1;
    if (got == 0)
        return pq_fail(e, PQ_ETRUNCATED,
                       "the stream ends without its end record");
    if (got < sizeof(b))
        return pq_fail(e, PQ_ETRUNCATED, "the stream ends in a prefix");
    if (pq_stream_is_end(b)) {
        r->at_end = true;
        return pq_stream_get_end(b, &r->end, e);
    }
    if (pq_stream_get_prefix(b, &r->rec, e))
        return -1;
    if (strcmp(r->rec.type, "ABRT") == 0 && r->rec.head_bytes == 0)
        return upstream(r, r->rec.body_bytes, e);
    if (!known(&r->rec))
        return pq_fail(e, PQ_EUNSUPPORTED, "record of unknown type %s",
                       r->rec.type);
    if (r->rec.seq != r->tally.records)
        return pq_fail(e, PQ_EFORMAT, "record %llu where %llu should be",
                       (unsigned long long)r->rec.seq,
                       (unsigned long long)r->tally.records);
    r->left = r->rec.body_bytes;
    return read_head(r, e);
}

int pq_stream_next(struct pq_stream_reader *r, struct pq_error *e)
{
    r->offset = r->in.at;
    (void)XXH3_64bits_reset(r->hash);
    if (read_block(r, e) == 0)
        return 0;
    if (e && e->code == PQ_EUPSTREAM)
        return -1;
    return pq_error_in(e, "at byte %llu", (unsigned long long)r->offset);
}

int pq_stream_body(struct pq_stream_reader *r, void *buf, size_t n,
                   struct pq_error *e)
{
    if (n > r->left)
        return pq_fail(e, PQ_EARG, "a read past the end of a record");
    if (pq_in_read_all(&r->in, buf, n, e))
        return -1;
    (void)XXH3_64bits_update(r->hash, buf, n);
    r->left -= n;
    return 0;
}

/* The checksum was wrong: because upstream gave up, or because of damage? */
static int spoilt(struct pq_stream_reader *r, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_stream_prefix p;

    if (pq_in_read_all(&r->in, b, sizeof(b), NULL) == 0 &&
        pq_stream_get_prefix(b, &p, NULL) == 0 && strcmp(p.type, "ABRT") == 0 &&
        p.head_bytes == 0)
        return upstream(r, p.body_bytes, e);
    return pq_fail(e, PQ_ECHECKSUM,
                   "at byte %llu: the checksum of the %s record is wrong",
                   (unsigned long long)r->offset, r->rec.type);
}

int pq_stream_close(struct pq_stream_reader *r, struct pq_error *e)
{
    unsigned char sum[8];

    if (padding(r, pq_stream_body_pad(r->rec.body_bytes), e) ||
        pq_in_read_all(&r->in, sum, sizeof(sum), e))
        return -1;
    r->body_sum = pq_stream_get64(sum);
    if (XXH3_64bits_digest(r->hash) != r->body_sum)
        return spoilt(r, e);
    pq_stream_tally_add(&r->tally, &r->rec, r->offset, r->body_sum);
    return 0;
}

int pq_stream_text(struct pq_stream_reader *r, uint64_t limit,
                   struct pq_buf *out, struct pq_error *e)
{
    out->n = 0;
    if (r->left > limit)
        return pq_fail(e, PQ_ELIMIT,
                       "at byte %llu: %s record of %llu bytes, more than %llu",
                       (unsigned long long)r->offset, r->rec.type,
                       (unsigned long long)r->left, (unsigned long long)limit);
    const size_t most =
        r->left < PQ_STREAM_CHUNK ? (size_t)r->left : PQ_STREAM_CHUNK;
    unsigned char *chunk = pq_alloc(most, 1);
    if (!chunk)
        return pq_fail_nomem(e);
    int rc = 0;
    while (!rc && r->left > 0) {
        const size_t n = r->left < most ? (size_t)r->left : most;
        rc = pq_stream_body(r, chunk, n, e);
        if (!rc)
            pq_buf_add(out, chunk, n);
        if (!rc && out->failed)
            rc = pq_fail_nomem(e);
    }
    free(chunk);
    return rc ? -1 : pq_stream_close(r, e);
}

int pq_stream_drop(struct pq_stream_reader *r, struct pq_error *e)
{
    unsigned char chunk[4096];

    while (r->left > 0) {
        const size_t n =
            r->left < sizeof(chunk) ? (size_t)r->left : sizeof(chunk);
        if (pq_stream_body(r, chunk, n, e))
            return -1;
    }
    return pq_stream_close(r, e);
}
