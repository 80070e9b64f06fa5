/*
 * Low rank: the large singular values of matrices that do not fit in memory,
 * and products of factors made as short as they can be.
 *
 * The matrix D is that of a tensor, or of the difference of two, read as
 * [rows = shape[0]][cols = the rest], or with `turned` the transpose of that,
 * so that rows are always outputs:
 *
 *     D ~ U diag(s) V^T      U [rows][rank], s falling, V^T [rank][cols]
 *
 * It is never held.  Randomised subspace iteration (Halko, Martinsson, Tropp
 * 2011) reads it a few times, some rows at a time:
 *
 *     Q [cols][width]   random numbers from the seed and the name
 *     pass 0 ..         Q = qr(D^T (D Q)), a sum over rows; `iterations` times
 *     last pass         Y = D Q, whose SVD is that of D Q Q^T
 *
 * where width >= rank + oversample.  Both products of a pass are made of the
 * same rows, so that k iterations cost k + 1 readings.  Sums are floats, as
 * are the bases; with the basis made orthonormal in between, the second
 * iteration finds again what the square of D hid behind rounding in the
 * first.  The last, small SVD is in double.
 *
 * What is missed is |D - D Q Q^T|^2 = |D|^2 - |D Q|^2, and |D|^2 is summed on
 * the way; that difference is known to about 1e-7 |D|^2.
 */
#ifndef PQ_LOWRANK_H
#define PQ_LOWRANK_H

#include "pq_engine.h"
#include "pq_linalg.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_kernels;

/* What was found; lives while the callback below runs. */
struct pq_lowrank {
    uint64_t rows, cols;
    size_t rank;     /* how many were found, see pq_step_lowrank() */
    const float *u;  /* [rows][rank] orthonormal columns */
    const double *s; /* [rank] falling */
    const float *vt; /* [rank][cols] orthonormal rows */
    double norm_sq;  /* |D|^2, all of it */
};

/* What the authors advise, and what is enough here. */
enum { PQ_LOWRANK_OVERSAMPLE = 10, PQ_LOWRANK_ITERATIONS = 2 };

struct pq_lowrank_how {
    const struct pq_kernels *kernels;
    size_t rank;      /* wanted at most; >= 1 */
    size_t oversample; /* at least so many columns that help */
    unsigned iterations; /* of D^T D; >= 1 */
    uint64_t seed;
    bool turned; /* D is the transpose of the tensor(s) */
    /* With NaN and infinities: rank 0 and an infinite |D|^2, no failure. */
    bool allow_nonfinite;
    /* Called once a step, in plan order, one at a time. */
    int (*found)(const struct pq_step *s, const struct pq_lowrank *r,
                 struct pq_error *e);
};

/*
 * Appends a step that only reads: tensor b of source sb, less tensor a of
 * source sa (NULL: b itself is the matrix).  Both are plain tensors of
 * floating types and of one shape; encoded ones are seen through
 * pq_decoded_new().  `how` is copied; step->user is the caller's, for found().
 * NaN and infinities fail.  `rank` values are found; when min(rows, cols) <=
 * rank + oversample, all min(rows, cols) of them, the whole SVD.  Kept from
 * pass to pass are (cols + max(rows, cols)) width floats of the stored matrix.
 */
struct pq_step *pq_step_lowrank(struct pq_plan *p, const char *name,
                                struct pq_source *sa,
                                const struct pq_tensor *a,
                                struct pq_source *sb,
                                const struct pq_tensor *b,
                                const struct pq_lowrank_how *how,
                                struct pq_error *e);

/*
 * The SVD of a product b a without forming it: QR of b and of a^T, SVD of
 * the small core.  O((rows + cols) n^2).  b and a are destroyed.  *rank =
 * min(n, rows, cols) values come out, u [rows][*rank], vt [*rank][cols].
 */
PQ_MUST_USE int pq_product_svd(double *b /* [rows][n] */,
                               double *a /* [n][cols] */, size_t rows,
                               size_t n, size_t cols,
                               double *u /* [rows][n] */, double *s /* [n] */,
                               double *vt /* [n][cols] */, size_t *rank,
                               struct pq_error *e);

/* The least k with sum of s[0..k)^2 >= energy * norm_sq; n if there is none. */
size_t pq_rank_for_energy(const double *s /* [n] */, size_t n, double energy,
                          double norm_sq);

#ifdef __cplusplus
}
#endif
#endif
