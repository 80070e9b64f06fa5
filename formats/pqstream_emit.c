/*
 * What goes into a .pq stream, byte by byte: gathered into large writes,
 * framed as records whose bodies are summed while they pass.
 */
#include "pqstream.h"

#include <string.h>

static const unsigned char zeros[4096];

#define EARLY (8u << 20) /* bytes of a file after which to begin syncing */

static int put(struct pq_stream_sink *k, const void *buf, size_t n,
               struct pq_error *e)
{
    if (pq_out_write(&k->out, buf, n, e)) {
        k->failed = true;
        return -1;
    }
    if (k->out.at - k->synced >= EARLY) {
        pq_out_flush_early(&k->out, k->synced, k->out.at - k->synced);
        k->synced = k->out.at;
    }
    return 0;
}

int pq_stream_flush(struct pq_stream_sink *k, struct pq_error *e)
{
    const size_t n = k->n_pending;

    k->n_pending = 0;
    return n > 0 ? put(k, k->pending, n, e) : 0;
}

int pq_stream_emit(struct pq_stream_sink *k, const void *buf, size_t n,
                   struct pq_error *e)
{
    if (k->failed)
        return pq_fail(e, PQ_EIO, "an earlier write failed");
    if (n > PQ_STREAM_CHUNK - k->n_pending && pq_stream_flush(k, e))
        return -1;
    k->offset += n;
    if (n < PQ_STREAM_CHUNK / 2) {
        if (n > 0)
            memcpy(k->pending + k->n_pending, buf, n);
        k->n_pending += n;
        return 0;
    }
    if (pq_stream_flush(k, e))
        return -1;
    return put(k, buf, n, e);
}

int pq_stream_begin_record(struct pq_stream_sink *k, const char *type,
                           const void *head, size_t head_bytes,
                           uint64_t body_bytes, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_stream_prefix *p = &k->rec;

    memcpy(p->type, type, sizeof(p->type));
    p->head_bytes = head_bytes;
    p->body_bytes = body_bytes;
    p->seq = k->tally.records;
    p->head_sum = XXH3_64bits(head, head_bytes);
    if (!(p->flags & PQ_STREAM_PACKED))
        p->raw_bytes = body_bytes;
    pq_stream_put_prefix(b, p);
    k->rec_offset = k->offset;
    k->left = body_bytes;
    (void)XXH3_64bits_reset(k->hash);
    k->open = true;
    if (pq_stream_emit(k, b, sizeof(b), e) ||
        pq_stream_emit(k, head, head_bytes, e) ||
        pq_stream_emit(k, zeros, pq_stream_head_pad(head_bytes), e))
        return -1;
    return 0;
}

int pq_stream_emit_body(struct pq_stream_sink *k, const void *buf, size_t n,
                        struct pq_error *e)
{
    (void)XXH3_64bits_update(k->hash, buf, n);
    k->left -= n;
    return pq_stream_emit(k, buf, n, e);
}

int pq_stream_end_record(struct pq_stream_sink *k, bool spoil,
                         struct pq_error *e)
{
    unsigned char b[8];
    uint64_t sum = XXH3_64bits_digest(k->hash);

    if (spoil)
        sum = ~sum;
    pq_stream_put64(b, sum);
    if (pq_stream_emit(k, zeros, pq_stream_body_pad(k->rec.body_bytes), e) ||
        pq_stream_emit(k, b, sizeof(b), e))
        return -1;
    pq_stream_tally_add(&k->tally, &k->rec, k->rec_offset, sum);
    k->rec = (struct pq_stream_prefix){0};
    k->open = false;
    return k->tally.entries.failed ? pq_fail_nomem(e) : 0;
}

int pq_stream_put_record(struct pq_stream_sink *k, const char *type,
                         const void *head, size_t head_bytes, const void *body,
                         uint64_t body_bytes, struct pq_error *e)
{
    if (pq_stream_begin_record(k, type, head, head_bytes, body_bytes, e) ||
        pq_stream_emit_body(k, body, (size_t)body_bytes, e) ||
        pq_stream_end_record(k, false, e))
        return -1;
    return 0;
}
