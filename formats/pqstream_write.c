/*
 * Writing a .pq stream: one sink, ordered, to a pipe or to a file.
 *
 *     front | TENS 0 | TENS 1 | ... | INDX | END
 *
 * Plain, a tensor is one record, written as its bytes come.  With a level, it
 * is cut at the ends of its parts and every 4 MiB; a cut piece is packed
 * (pqstream_pack.c) and written once it is the oldest:
 *
 *     part 0 ................... part 1 ..
 *     [ 4 MiB ][ 4 MiB ][ rest ][ part 1 ]     four records, three with MORE
 *
 * When the run fails, a pipe is told: the open body is filled with zeros and
 * given the complement of its checksum, so that no reader takes it for whole,
 * and an ABRT record says why.  END never follows.
 */
#include "pqstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned char zeros[4096];

/* ---- tensors ------------------------------------------------------------ */

/* Writes the record of the oldest packed run. */
static int put_run(struct pq_stream_sink *k, const struct pq_stream_run *r,
                   struct pq_error *e)
{
    if (r->failed)
        return pq_fail_nomem(e);
    k->rec.number = r->number;
    k->rec.raw_bytes = r->raw_bytes;
    k->rec.flags = (r->more ? (uint32_t)PQ_STREAM_MORE : 0) |
                   (r->packed ? (uint32_t)PQ_STREAM_PACKED : 0) |
                   (r->sparse ? (uint32_t)PQ_STREAM_SPARSE : 0);
    return pq_stream_put_record(k, "TENS", NULL, 0, r->body, r->body_bytes, e);
}

static int drain(struct pq_stream_sink *k, struct pq_error *e)
{
    struct pq_stream_run *r;

    while ((r = pq_stream_packer_take(k->packer)) != NULL) {
        if (put_run(k, r, e))
            return -1;
        pq_stream_packer_done(k->packer);
    }
    return 0;
}

/* Makes way for a run in a full ring. */
static int begin_run(struct pq_stream_sink *k, uint64_t part_left,
                     enum pq_dtype dtype, struct pq_error *e)
{
    k->run = pq_stream_packer_room(k->packer);
    if (!k->run) {
        const struct pq_stream_run *r = pq_stream_packer_take(k->packer);
        if (put_run(k, r, e))
            return -1;
        pq_stream_packer_done(k->packer);
        k->run = pq_stream_packer_room(k->packer);
    }
    k->filled = 0;
    k->run_bytes =
        part_left < PQ_STREAM_RUN ? (size_t)part_left : PQ_STREAM_RUN;
    k->run->raw_bytes = k->run_bytes;
    k->run->dtype = dtype;
    k->run->number = k->tensor;
    k->run->more = k->at + k->run_bytes < k->bound;
    return 0;
}

static int write_packed(struct pq_stream_sink *k, const struct pq_part *part,
                        uint64_t offset, const unsigned char *buf, size_t n,
                        struct pq_error *e)
{
    while (n > 0) {
        if (!k->run && begin_run(k, part->bytes - offset, part->dtype, e))
            return -1;
        const size_t room = k->run_bytes - k->filled;
        const size_t m = n < room ? n : room;
        memcpy(k->run->raw + k->filled, buf, m);
        k->filled += m;
        k->at += m;
        offset += m;
        buf += m;
        n -= m;
        if (k->filled == k->run_bytes) {
            pq_stream_packer_submit(k->packer);
            k->run = NULL;
        }
    }
    return 0;
}

static int begin_tensor(struct pq_stream_sink *k, uint64_t bytes,
                        struct pq_error *e)
{
    k->rec.number = k->tensor;
    return pq_stream_begin_record(k, "TENS", NULL, 0, bytes, e);
}

/*
 * Goes to the tensor that the next byte belongs to, writing the records of
 * those without bytes; to the end when there is none.
 */
static int settle(struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;

    while (k->at == k->bound && k->tensor < c->n_tensors) {
        const uint64_t bytes = pq_stream_tensor_bytes(&c->tensors[k->tensor]);
        k->bound += bytes;
        if (bytes == 0 && k->packer && drain(k, e))
            return -1;
        if ((bytes == 0 || !k->packer) && begin_tensor(k, bytes, e))
            return -1;
        if (bytes > 0)
            return 0;
        if (pq_stream_end_record(k, false, e))
            return -1;
        k->tensor++;
    }
    return 0;
}

static int sink_write(struct pq_sink *base, size_t place, uint64_t offset,
                      const void *buf, size_t n, struct pq_error *e)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;
    const struct pq_place *at = &base->order[place];
    const struct pq_tensor *t = &base->catalog->tensors[at->tensor];
    const struct pq_part *part = &t->parts[at->part];

    if (n == 0)
        return 0;
    if (at->address + offset != k->at || offset > part->bytes ||
        n > part->bytes - offset)
        return pq_fail(e, PQ_EARG, "%s: written out of order", part->name);
    if (settle(k, e))
        return -1;
    if (k->packer) {
        if (write_packed(k, part, offset, buf, n, e))
            return -1;
    } else {
        if (pq_stream_emit_body(k, buf, n, e))
            return -1;
        k->at += n;
    }
    if (k->at < k->bound)
        return 0;
    k->tensor++;
    return k->packer ? 0 : pq_stream_end_record(k, false, e);
}

/* ---- begin, finish, abort ------------------------------------------------ */

static int sink_begin(struct pq_sink *base, struct pq_error *e)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;
    const unsigned flags = k->options.sync ? PQ_OUT_SYNC : 0u;

    k->out.cancel = k->options.cancel;
    if (k->dirfd >= 0 ? pq_out_open_at(&k->out, k->dirfd, k->path, flags, e)
                      : pq_out_open(&k->out, k->path, flags, e))
        return -1;
    k->opened = true;
    if (!base->at_most && pq_out_reserve(&k->out, base->total_bytes, e))
        return -1;
    return pq_stream_write_front(k, e);
}

static int put_end(struct pq_stream_sink *k, struct pq_error *e)
{
    unsigned char b[PQ_STREAM_BLOCK];
    struct pq_stream_end end = {.index_offset = k->offset};
    /* The record of the index does not stand in it. */
    struct pq_buf entries = k->tally.entries;

    k->tally.entries = (struct pq_buf){0};
    const int rc =
        pq_stream_put_record(k, "INDX", NULL, 0, entries.s, entries.n, e);
    pq_buf_release(&entries);
    if (rc)
        return -1;
    end.total_bytes = k->offset + sizeof(b);
    end.records = k->tally.records;
    end.sum = XXH3_64bits_digest(k->tally.sums);
    pq_stream_put_end(b, &end);
    return pq_stream_emit(k, b, sizeof(b), e) ? -1 : pq_stream_flush(k, e);
}

static int sink_seal(struct pq_sink *base, struct pq_error *e)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;

    if (settle(k, e) || (k->packer && drain(k, e)))
        return -1;
    if (k->tensor < base->catalog->n_tensors)
        return pq_fail(e, PQ_EARG, "%s: was not written",
                       base->catalog->tensors[k->tensor].name);
    if (put_end(k, e))
        return -1;
    k->ended = true;
    if (!base->at_most && k->offset != base->total_bytes)
        return pq_fail(e, PQ_EARG, "the stream has %llu bytes, not %llu",
                       (unsigned long long)k->offset,
                       (unsigned long long)base->total_bytes);
    return pq_out_seal(&k->out, e);
}

static int sink_finish(struct pq_sink *base, struct pq_error *e)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;

    if (!k->out.sealed && sink_seal(base, e))
        return -1;
    k->opened = false; /* a failed commit cleans up by itself */
    return pq_out_commit(&k->out, e);
}

/* Tells the reader of a pipe why nothing more comes. */
static void tell(struct pq_stream_sink *k, const struct pq_error *why)
{
    const char *program = k->options.program;
    char text[sizeof why->msg + 64];

    snprintf(text, sizeof text, "%.60s%s%s", program ? program : "",
             program ? ": " : "", why && why->msg[0] ? why->msg : "failed");
    while (k->open && k->left > 0) {
        const size_t n =
            k->left < sizeof(zeros) ? (size_t)k->left : sizeof(zeros);
        if (pq_stream_emit_body(k, zeros, n, NULL))
            return;
    }
    if (k->open && pq_stream_end_record(k, true, NULL))
        return;
    k->rec = (struct pq_stream_prefix){0};
    if (pq_stream_put_record(k, "ABRT", NULL, 0, text, strlen(text), NULL) ||
        pq_stream_flush(k, NULL))
        k->failed = true;
}

static void sink_abort(struct pq_sink *base, const struct pq_error *why)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;

    if (!k->opened)
        return;
    if (!k->out.regular && !k->failed && !k->ended)
        tell(k, why);
    pq_out_abort(&k->out);
    k->opened = false;
}

static void sink_free(struct pq_sink *base)
{
    struct pq_stream_sink *k = (struct pq_stream_sink *)base;

    pq_stream_packer_free(k->packer);
    pq_stream_tally_release(&k->tally);
    (void)XXH3_freeState(k->hash);
    pq_buf_release(&k->ctlg);
    pq_buf_release(&k->metadata);
    free(k->pending);
    free(base->order);
    free(k);
}

static const struct pq_sink_ops sink_ops = {
    .begin = sink_begin,
    .write = sink_write,
    .seal = sink_seal,
    .finish = sink_finish,
    .abort = sink_abort,
    .free = sink_free,
};

/* ---- create -------------------------------------------------------------- */

/* Lists the parts in order and finds the largest. */
static int make_order(struct pq_stream_sink *k, uint64_t *largest,
                      struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    size_t n = 0;
    uint64_t at = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    k->base.order = pq_alloc(n, sizeof(*k->base.order));
    if (!k->base.order)
        return pq_fail_nomem(e);
    k->base.n_order = n;
    n = 0;
    for (size_t i = 0; i < c->n_tensors; i++) {
        for (size_t p = 0; p < c->tensors[i].n_parts; p++) {
            const uint64_t bytes = c->tensors[i].parts[p].bytes;
            k->base.order[n++] =
                (struct pq_place){.tensor = i, .part = p, .address = at};
            at += bytes;
            if (bytes > *largest)
                *largest = bytes;
        }
    }
    return 0;
}

/* Adds the records of a tensor; compressed, as if no run got shorter. */
static bool count_tensor(const struct pq_tensor *t, bool packed, uint64_t *sum,
                         uint64_t *records)
{
    const uint64_t bytes = pq_stream_tensor_bytes(t);

    if (!packed || bytes == 0) {
        ++*records;
        return pq_stream_add_record(sum, 0, bytes);
    }
    for (size_t i = 0; i < t->n_parts; i++) {
        const uint64_t whole = t->parts[i].bytes / PQ_STREAM_RUN;
        const uint64_t rest = t->parts[i].bytes % PQ_STREAM_RUN;
        uint64_t one = 0, all;
        if (!pq_stream_add_record(&one, 0, PQ_STREAM_RUN) ||
            !pq_mul(one, whole, &all) || !pq_add(*sum, all, sum) ||
            (rest && !pq_stream_add_record(sum, 0, rest)))
            return false;
        *records += whole + (rest != 0);
    }
    return true;
}

static int plan_sizes(struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    const bool packed = k->options.level > 0;
    uint64_t sum, records, index;

    if (pq_stream_plan_front(k, &sum, &records, e))
        return -1;
    bool ok = true;
    for (size_t i = 0; ok && i < c->n_tensors; i++)
        ok = count_tensor(&c->tensors[i], packed, &sum, &records);
    if (!ok || !pq_mul(records, PQ_STREAM_BLOCK, &index) ||
        !pq_stream_add_record(&sum, 0, index) ||
        !pq_add(sum, PQ_STREAM_BLOCK, &k->base.total_bytes))
        return pq_fail(e, PQ_ELIMIT, "the output is too large");
    k->base.at_most = packed;
    return 0;
}

/*
 * Threads whose buffers (two runs and a context, 15 MiB in all) fit five
 * eighths of the memory.  The engine may take half of it, which together is
 * 9/8 of three quarters of --memory: a sixth of that is left for the rest.
 */
static unsigned packers(const struct pq_write_options *w)
{
    const uint64_t fit = w->memory / 8 * 5 / (15u << 20);

    return w->memory && fit < w->threads ? (fit ? (unsigned)fit : 1)
                                         : w->threads;
}

static int prepare(struct pq_stream_sink *k, struct pq_error *e)
{
    uint64_t largest = 0;

    k->hash = XXH3_createState();
    k->pending = pq_alloc(PQ_STREAM_CHUNK, 1);
    if (!k->hash || !k->pending)
        return pq_fail_nomem(e);
    if (pq_stream_tally_init(&k->tally, true, e) || plan_sizes(k, e) ||
        make_order(k, &largest, e))
        return -1;
    if (k->options.level > 0) {
        const struct pq_kernels *kernels = k->options.kernels;
        k->packer = pq_stream_packer_new(
            k->options.level, packers(&k->options), largest,
            kernels ? kernels : pq_kernels_best(), e);
        if (!k->packer)
            return -1;
    }
    return 0;
}

int pq_stream_create(struct pq_catalog *c, const char *path, int dirfd,
                     const struct pq_write_options *w, struct pq_sink **out,
                     struct pq_error *e)
{
    if (w->canonical)
        return pq_fail(e, PQ_EARG, "canonical order is for safetensors");
    struct pq_stream_sink *k = pq_zalloc(1, sizeof(*k));
    if (!k)
        return pq_fail_nomem(e);
    k->base.ops = &sink_ops;
    k->base.catalog = c;
    k->options = *w;
    k->path = path;
    k->dirfd = dirfd;
    if (prepare(k, e)) {
        sink_free(&k->base);
        return -1;
    }
    *out = &k->base;
    return 0;
}
