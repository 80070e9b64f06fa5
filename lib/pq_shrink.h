/*
 * Shrinking: a model with fewer tensors, rows and columns.
 *
 * A *cut* says what is left of a tensor: runs of its rows, of its columns,
 * or all of it; a tensor without a cut is gone.  The smaller model is a
 * source like any other, so that whatever can be done to a model can be done
 * to what is left of one: copied, pruned further, quantized.
 *
 *     W [6][8], rows {1,2} {4,1}, columns {0,1} {5,3}
 *
 *       . . . . . . . .
 *       x . . . . x x x
 *       x . . . . x x x        -> [3][4]
 *       . . . . . . . .
 *       x . . . . x x x
 *       . . . . . . . .
 *
 * What is cut is told by numbers: the norms of rows or of columns.
 */
#ifndef PQ_SHRINK_H
#define PQ_SHRINK_H

#include "pq_engine.h"
#include "pq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_span {
    uint64_t first, count; /* count > 0 */
};

/* Ascending, apart or side by side. */
struct pq_spans {
    const struct pq_span *list; /* [n], n > 0 */
    size_t n;
};

/* How many rows or columns those are; NULL: 0. */
uint64_t pq_spans_count(const struct pq_spans *s);

struct pq_cut {
    size_t tensor; /* its number in the catalogue */
    /* what stays of dimension 0 and of dimension 1; NULL: all */
    const struct pq_spans *rows, *columns;
};

/*
 * A view of `inner` in which the tensors of `cuts`, in ascending order, are
 * what their cuts leave, and the others are not.  What is cut must be plain,
 * of whole bytes; what is whole may be encoded.  Metadata, files that travel
 * along and history are those of `inner`; a shard of which nothing is left
 * is not listed.
 *
 * `inner` is borrowed; the cuts are copied but not their spans.  Sequential
 * if `inner` is: then `memory` bytes of what has to be kept of it are in
 * memory, the rest in `tmpdir`.  A plan that reads the view lists both as its
 * sources: finishing is inner's.  Until it is read, the caller may give the
 * tensors and parts of the view other names.  PQ_EARG, PQ_EUNSUPPORTED: a
 * cut that cannot be made, with the tensor's name.
 */
PQ_MUST_USE int pq_shrunk_new(struct pq_source *inner,
                              const struct pq_cut *cuts, size_t n,
                              uint64_t memory, const char *tmpdir,
                              struct pq_source **s, struct pq_error *e);

/*
 * Appends a step that only reads: the sum of the squares of each row of t
 * [rows][columns], or `by_column` of each column, in double and in an order
 * that no thread changes.  `found` gets them once, in plan order: sums [rows]
 * or [columns], which live while it runs; step->user is the caller's.  Plain
 * and floating; NaN and infinities fail with PQ_EVALUE.
 */
struct pq_step *pq_step_squares(struct pq_plan *p, struct pq_source *s,
                                const struct pq_tensor *t, bool by_column,
                                const struct pq_kernels *kernels,
                                int (*found)(const struct pq_step *s,
                                             const double *sums,
                                             struct pq_error *e),
                                struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
