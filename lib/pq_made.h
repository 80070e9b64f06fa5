/*
 * A source of tensors that the program made: factors, means, whatever is
 * computed before anything is written.
 *
 * What is computed in one run of the engine (in done() of its steps, say) is
 * put here and written by the steps of a second run.  The bytes are kept in
 * spools: in memory while they fit the budget, in TMPDIR beyond.
 */
#ifndef PQ_MADE_H
#define PQ_MADE_H

#include "pq_sink.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Room for at most n tensors, so that pointers to them stay valid.  `memory`
 * bytes are kept in memory, the rest in `tmpdir` (NULL: /tmp; borrowed).
 * `name` is for messages; borrowed.
 */
PQ_MUST_USE int pq_made_new(const char *name, size_t n, uint64_t memory,
                            const char *tmpdir, struct pq_source **s,
                            struct pq_error *e);
/*
 * Adds a plain tensor with its bytes, which are copied, as are name and
 * shape.  Returns it (owned by the source), or NULL.  One call at a time; not
 * while a plan reads the source.
 */
const struct pq_tensor *pq_made_add(struct pq_source *s, const char *name,
                                    enum pq_dtype dtype, const uint64_t *shape,
                                    int rank, const void *data,
                                    struct pq_error *e);

/*
 * A sink that puts tensors there: adds those of `c` (borrowed) to the source,
 * as many as it has room for, and writes into them.  They may be read when
 * the plan has run.  The parts of an encoded tensor become plain tensors;
 * pq_fold() joins them again.
 */
PQ_MUST_USE int pq_made_sink(struct pq_source *s, struct pq_catalog *c,
                             struct pq_sink **k, struct pq_error *e);

/*
 * A source over arrays of the program's own, which are borrowed and must not
 * change while a plan reads them.  Room for n tensors, as above.
 */
PQ_MUST_USE int pq_lent_new(const char *name, size_t n, struct pq_source **s,
                            struct pq_error *e);
/* Adds a plain tensor of floats; returns it, or NULL. */
const struct pq_tensor *pq_lent_add(struct pq_source *s, const char *name,
                                    const uint64_t *shape, int rank,
                                    const float *data, struct pq_error *e);
/* The same of bytes (PQ_U8). */
const struct pq_tensor *pq_lent_add_bytes(struct pq_source *s, const char *name,
                                          const uint64_t *shape, int rank,
                                          const uint8_t *data,
                                          struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
