/*
 * Sinks: where the bytes of a model go.
 *
 * A sink is made for an output catalogue whose sizes are all known; making
 * it fixes the layout: sink->order lists every part in the order of the
 * file.  Then parts are written, and finish() commits or abort() forgets.
 * Of several sinks that belong together all are sealed before one is
 * finished: what may go wrong goes wrong while none of them has its name.
 *
 *   ordered      a pipe: write() must follow sink->order without gaps
 *   positional   a file: write() takes any range of any part, any thread
 *
 * The bytes that come out are the same.
 */
#ifndef PQ_SINK_H
#define PQ_SINK_H

#include "pq_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_sink;

struct pq_sink_ops {
    /* Opens the output and writes what goes before the first body. */
    int (*begin)(struct pq_sink *k, struct pq_error *e);
    /* Writes n bytes at `offset` of part `place` of sink->order. */
    int (*write)(struct pq_sink *k, size_t place, uint64_t offset,
                 const void *buf, size_t n, struct pq_error *e);
    /*
     * Writes what goes behind the bodies and syncs.  A file has no name yet;
     * a pipe has seen its end.  May be NULL: there is nothing to do.
     */
    int (*seal)(struct pq_sink *k, struct pq_error *e);
    /* Gives the file its name; seals it where that was not done. */
    int (*finish)(struct pq_sink *k, struct pq_error *e);
    /* Leaves nothing behind; a pipe is told why (ABRT) where it can be. */
    void (*abort)(struct pq_sink *k, const struct pq_error *why);
    void (*free)(struct pq_sink *k);
};

struct pq_place {
    size_t tensor;    /* number in the catalogue */
    size_t part;      /* number in the tensor */
    uint64_t address; /* where the part starts: the sink's own matter */
    uint32_t file;    /* which output shard */
};

struct pq_sink {
    const struct pq_sink_ops *ops;
    struct pq_catalog *catalog; /* borrowed; outlives the sink */
    struct pq_place *order;     /* [n_order] every part, in file order */
    size_t n_order;
    bool positional;
    bool begun;           /* begin() was called; set by the engine */
    uint64_t total_bytes; /* exact size of the output, all files together */
    bool at_most;         /* total_bytes is a bound only (compression) */
};

void pq_sink_free(struct pq_sink *k);

#ifdef __cplusplus
}
#endif
#endif
