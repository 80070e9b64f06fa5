/*
 * Dense linear algebra: QR, singular values, Cholesky, products.
 *
 * The work is OpenBLAS's.  It is loaded when it is first asked for, because
 * to link it would cost every tool the three milliseconds in which it starts
 * its threads; tools that factor nothing never see it.  It is told to use one
 * thread a call: the threads are those of the engine outside, and results
 * depend neither on their number nor on the run.  They may differ in the last
 * bits between types of CPU.
 *
 * Matrices are row major, without gaps: x [rows][cols].  NaN and infinities
 * must have been refused before.  All functions may be called from any number
 * of threads; they allocate what they need and fail with PQ_ENOMEM, with
 * PQ_ELIMIT where a size is beyond the library's 32-bit integers, and with
 * PQ_EUNSUPPORTED, naming the library, where it is not there.
 */
#ifndef PQ_LINALG_H
#define PQ_LINALG_H

#include "pq_error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What a call takes of the library's own memory, about; a step whose units
 * call it adds this to its scratch, so that the engine counts it.
 */
#define PQ_LINALG_BYTES ((size_t)4 << 20)

/* Loads the library; to be told at the start that it is missing. */
PQ_MUST_USE int pq_linalg_ready(struct pq_error *e);

/*
 * x = q r with orthonormal columns in q, which takes the place of x; n <=
 * rows.  r is upper triangular; NULL: not wanted.  O(rows n^2).
 */
PQ_MUST_USE int pq_qr_f32(float *x /* [rows][n] */, size_t rows, size_t n,
                          float *r /* [n][n] */, struct pq_error *e);
PQ_MUST_USE int pq_qr_f64(double *x /* [rows][n] */, size_t rows, size_t n,
                          double *r /* [n][n] */, struct pq_error *e);

/*
 * x = u diag(s) vt, k = min(rows, cols), s falling; x is destroyed.  For
 * matrices that are small at least on one side: O(rows cols k).
 */
PQ_MUST_USE int pq_svd_f64(double *x /* [rows][cols] */, size_t rows,
                           size_t cols, double *u /* [rows][k] */,
                           double *s /* [k] */, double *vt /* [k][cols] */,
                           struct pq_error *e);

/*
 * The factor of an inverse: h [n][n], symmetric, becomes the upper triangular
 * u with positive diagonal and u^T u = h^-1; below the diagonal are zeros.
 * PQ_EVALUE where h is not positive definite.  O(n^3).
 */
PQ_MUST_USE int pq_inverse_factor_f32(float *h /* [n][n] */, size_t n,
                                      struct pq_error *e);

/*
 * c -= a b, of matrices that lie in wider ones: the rows of a begin stride_a
 * elements apart, and so on.
 */
PQ_MUST_USE int pq_gemm_less_f32(const float *a /* [rows][k] */,
                                 size_t stride_a,
                                 const float *b /* [k][cols] */,
                                 size_t stride_b, size_t rows, size_t k,
                                 size_t cols, float *c /* [rows][cols] */,
                                 size_t stride_c, struct pq_error *e);

/*
 * c = a b, or c += a b with `add`.  A turned operand is stored transposed:
 * turn_a: a is [k][rows]; turn_b: b is [cols][k].
 */
PQ_MUST_USE int pq_gemm_f32(const float *a /* [rows][k] */, int turn_a,
                            const float *b /* [k][cols] */, int turn_b,
                            size_t rows, size_t k, size_t cols, int add,
                            float *c /* [rows][cols] */, struct pq_error *e);
PQ_MUST_USE int pq_gemm_f64(const double *a /* [rows][k] */, int turn_a,
                            const double *b /* [k][cols] */, int turn_b,
                            size_t rows, size_t k, size_t cols, int add,
                            double *c /* [rows][cols] */, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
