/*
 * Sources: where the bytes of a model come from.
 *
 * A source has a catalogue and one flat address space: part->offset says
 * where a part starts in it.  Formats implement `struct pq_source_ops`; the
 * engine and lib/surgery see nothing else of them.
 *
 *   random access   read() takes any range, from any thread at any time
 *   sequential      read() takes ranges in increasing order only, from one
 *                   thread at a time: a pipe, or a file whose checksums are
 *                   verified as it passes.  `rewind` says whether a range
 *                   that was passed already may be read again.
 *
 * A sequential source is made random by pq_hold_new() (pq_hold.h), which
 * keeps what was passed over; the engine does that by itself.
 */
#ifndef PQ_SOURCE_H
#define PQ_SOURCE_H

#include "pq_spool.h"
#include "pq_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_source;
struct pq_hold;

struct pq_source_ops {
    /* Reads exactly n bytes at offset, or fails with what is missing. */
    int (*read)(struct pq_source *s, uint64_t offset, void *buf, size_t n,
                struct pq_error *e);
    /*
     * Called once, after the last read and before the output is committed:
     * reads what was not asked for, verifies trailing checksums and that
     * nothing follows.  May be NULL.
     */
    int (*finish)(struct pq_source *s, struct pq_error *e);
    void (*free)(struct pq_source *s);
};

struct pq_source {
    const struct pq_source_ops *ops;
    struct pq_catalog *catalog; /* owned by the source */
    const char *name;           /* for messages; "-" is standard input */
    const char *format;         /* name of the format, for pq-info */
    struct pq_hold *hold; /* pq_source_hold(), of a sequential one; owned */
    struct pq_spool_budget hold_budget; /* of that hold */
    bool sequential;
    bool rewind;          /* of a sequential source: passed ranges re-readable */
    bool skips;           /* of a sequential source: ranges may be left out */
    uint64_t total_bytes; /* bytes of input, for progress; 0 = unknown */
};

/* Reads [offset, offset + n) of a part; names source and part on failure. */
PQ_MUST_USE int pq_source_read(struct pq_source *s, const struct pq_part *p,
                               uint64_t offset, void *buf, size_t n,
                               struct pq_error *e);
PQ_MUST_USE int pq_source_finish(struct pq_source *s, struct pq_error *e);
/* Frees the source and its catalogue; NULL is fine. */
void pq_source_free(struct pq_source *s);

#ifdef __cplusplus
}
#endif
#endif
