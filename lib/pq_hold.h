/*
 * Random access to a sequential source.
 *
 * A range ahead of the stream is reached by reading up to it; what is passed
 * over on the way is kept in spools (pq_spool.h), a part at a time, as is
 * what is read of a part marked with pq_hold_keep().  A range behind the
 * stream comes from its spool, or from the source again where it can rewind.
 *
 *   asked for       [ part 4 .......... ]
 *   stream    -----|=====|=====|........
 *                  part 2  part 3: passed over, spooled
 *
 * Threads: calls must come one at a time (the engine's input lock).
 */
#ifndef PQ_HOLD_H
#define PQ_HOLD_H

#include "pq_source.h"
#include "pq_spool.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_hold;

/* `s` and `b` are borrowed and outlive the hold. */
struct pq_hold *pq_hold_new(struct pq_source *s, struct pq_spool_budget *b,
                            struct pq_error *e);
/* Says how often a part will be read: 0 drop it, 1 once, 2 keep it. */
void pq_hold_expect(struct pq_hold *h, const struct pq_part *p, unsigned times);
PQ_MUST_USE int pq_hold_read(struct pq_hold *h, const struct pq_part *p,
                             uint64_t offset, void *buf, size_t n,
                             struct pq_error *e);
/* Makes s->hold if there is none: `memory` bytes, the rest in `tmpdir`. */
PQ_MUST_USE int pq_source_hold(struct pq_source *s, uint64_t memory,
                               const char *tmpdir, struct pq_error *e);
/* Reads any range in any order: through s->hold, where there is one. */
PQ_MUST_USE int pq_source_reach(struct pq_source *s, const struct pq_part *p,
                                uint64_t offset, void *buf, size_t n,
                                struct pq_error *e);
/* Forgets what is kept of a part that nobody reads any more. */
void pq_hold_drop(struct pq_hold *h, const struct pq_part *p);
void pq_hold_free(struct pq_hold *h);

/*
 * A view of `inner` that any number of runs may read and finish: what comes
 * from a pipe is kept, `memory` bytes of it in memory, the rest in `tmpdir`.
 * Owns `inner` from its success on; shares its catalogue.
 */
PQ_MUST_USE int pq_kept_new(struct pq_source *inner, uint64_t memory,
                            const char *tmpdir, struct pq_source **s,
                            struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
