/*
 * SparseGPT: pruning in which the weights that stay make up for those that
 * go (Frantar and Alistarh, arXiv 2301.00774; as IST-DASLab/sparsegpt does
 * it, in f32).
 *
 * For a linear layer y = W x with W [out][in] and H = mean x x^T over the
 * inputs x of a calibration run:
 *
 *     a column whose H[i][i] is 0 is set to 0, and that H[i][i] to 1
 *     U^T U = (H + 0.01 mean(diag H) I)^-1,  U upper triangular
 *     columns in blocks of 128; score of a weight = w^2 / U[i][i]^2
 *     for each column i, from the first:
 *         e = w / U[i][i] of what goes, 0 of what stays
 *         row[i..] -= e U[i][i..]            what goes is 0 then
 *
 * Which weights go: with a sparsity s the int(n s) + 1 of the smallest score
 * of each block, n = rows x its columns, decided when the block is reached;
 * the one more is that of the published code, which takes all up to the
 * int(n s)-th from 0.  s = 0 takes none and s = 1 all.  With a pattern, of
 * each `of` weights along the input the `keep` of the largest score stay,
 * decided when their first column is reached.  Equal scores: what comes first
 * in a row, in the rows from the first.
 *
 * H times any number gives the same result but for rounding.
 *
 * This file's arithmetic does not depend on threads; that of the library
 * (pq_linalg.h) may differ in the last bits between types of CPU.
 */
#ifndef PQ_SPARSEGPT_H
#define PQ_SPARSEGPT_H

#include "pq_prune.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_sparsegpt {
    struct pq_source *source;        /* of the hessian; borrowed */
    const struct pq_tensor *hessian; /* F32 [in][in], plain */
    double sparsity;                 /* 0 to 1, without a pattern */
    uint32_t keep, of;               /* keep < of; of = 0: no pattern */
    bool transpose;                  /* the weights are [in][out] (Conv1D) */
    struct pq_mask_place beside;     /* of the mask of what is left */
};

/*
 * Does the hessian fit the weights `t`, and the pattern their columns?  Fails
 * without naming the tensor.  *bytes: what the engine needs for the step,
 *     inputs and outputs + 4 (in^2 + out in + ...)
 */
PQ_MUST_USE int pq_sparsegpt_check(const struct pq_sparsegpt *g,
                                   const struct pq_tensor *t, uint64_t *bytes,
                                   struct pq_error *e);

/*
 * Appends the step that prunes `in` of `src` into `tensor` of the output
 * catalogue, of the same type; one unit.  `g` is copied and was checked, `q`
 * is borrowed.  NaN and infinities fail, in either file and whatever `q`
 * allows, as do values that the type of the output cannot hold.  step->user
 * is the caller's.
 */
struct pq_step *pq_step_sparsegpt(struct pq_plan *p, struct pq_source *src,
                                  const struct pq_tensor *in, size_t tensor,
                                  const struct pq_sparsegpt *g,
                                  const struct pq_pruning *q,
                                  struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
