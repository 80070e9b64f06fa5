/*
 * A spool: bytes kept for later, in memory while they fit and in an unlinked
 * temporary file beyond.  One budget is shared by all spools of a run.
 *
 * Threads: writes and reads of disjoint ranges may run at the same time once
 * the spool was made with its size.
 */
#ifndef PQ_SPOOL_H
#define PQ_SPOOL_H

#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What all spools of a run may take of memory; beyond it they use `dir`. */
struct pq_spool_budget {
    uint64_t left;   /* bytes; changed atomically */
    const char *dir; /* TMPDIR, or NULL for /tmp */
};

struct pq_spool {
    struct pq_spool_budget *budget;
    uint64_t bytes;
    unsigned char *memory; /* or NULL: then in fd */
    int fd;                /* or -1 */
};

PQ_MUST_USE int pq_spool_init(struct pq_spool *s, struct pq_spool_budget *b,
                              uint64_t bytes, struct pq_error *e);
PQ_MUST_USE int pq_spool_write(struct pq_spool *s, uint64_t offset,
                               const void *buf, size_t n, struct pq_error *e);
PQ_MUST_USE int pq_spool_read(const struct pq_spool *s, uint64_t offset,
                              void *buf, size_t n, struct pq_error *e);
void pq_spool_release(struct pq_spool *s);

#ifdef __cplusplus
}
#endif
#endif
