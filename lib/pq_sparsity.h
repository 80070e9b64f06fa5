/*
 * Where the zeros of a tensor are.
 *
 * A tensor is looked at as a matrix whose rows run along the input
 * dimension, so that a row makes one output: its last dimension is the
 * columns, all others together the rows; of a turned one, [in][out], it is
 * the other way round; one of a single dimension is one row.  +0 and -0 are
 * zeros, NaN is none.
 *
 * Groups are 4 and 8 consecutive elements of a row that begin at a multiple
 * of 4 and 8: what N:M sparsity speaks of.  A tensor obeys 2:4 when no group
 * of four has more than two elements that are not zero.
 */
#ifndef PQ_SPARSITY_H
#define PQ_SPARSITY_H

#include "pq_engine.h"
#include "pq_kernels.h"
#include "pq_mask.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_DECILES 11

struct pq_sparsity {
    bool valid;          /* the step was done */
    uint64_t n, zeros;   /* elements */
    uint64_t rows, cols; /* of the matrix */
    uint64_t zero_rows;  /* rows without anything else: dead outputs */
    /*
     * Zeros of a row, the rows in the order of their zeros: of the first one,
     * of those a tenth, two tenths, ... further on, of the last one; that of
     * place (rows - 1) i / 10, rounded down.  Exact up to 65535 columns, then
     * to cols / 65535, but for the first and the last.
     */
    uint64_t deciles[PQ_DECILES];
    /* Groups by the number of their elements that are not zero; all 0 where
       rows do not divide into groups. */
    uint64_t groups_of_4[5], groups_of_8[9];
};

/* zeros / n; 0 of nothing. */
double pq_sparsity_part(const struct pq_sparsity *s);
/*
 * The least N so that the tensor obeys N:m, m being 4 or 8; m itself when it
 * obeys none or has no such groups.
 */
unsigned pq_sparsity_pattern(const struct pq_sparsity *s, unsigned m);

/*
 * Bit i % 8 of byte i / 8 is 1 where element i of a plain floating tensor is
 * not zero; bits behind the last are 0.  `room` is for the same as floats.
 */
void pq_nonzero_bits(const struct pq_kernels *k, enum pq_dtype dtype,
                     const void *in /* [n] */, size_t n, float *room /* [n] */,
                     uint8_t *bits /* [ceil(n/8)] */);

/*
 * Appends a step that counts the zeros of a plain floating tensor and does
 * nothing else; *result is set when it is done and outlives the run.
 */
struct pq_step *pq_step_sparsity(struct pq_plan *p, const struct pq_kernels *k,
                                 struct pq_source *s,
                                 const struct pq_tensor *t, bool turned,
                                 struct pq_sparsity *result,
                                 struct pq_error *e);

/* The same of the weights that a mask is of: those not kept are zeros. */
struct pq_step *pq_step_mask_sparsity(struct pq_plan *p,
                                      const struct pq_mask *m, size_t tensor,
                                      bool turned, struct pq_sparsity *result,
                                      struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
