/*
 * Matrices as they are stored, and the one product over them.
 *
 * A matrix keeps its encoding; rows are decoded where the product packs them
 * (nn_mat_decode(), the one place where encodings meet the model).
 */
#ifndef NN_MAT_H
#define NN_MAT_H

#include "pool.h"
#include "pq_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_mat {
    struct pq_codec codec; /* PQ_PLAIN: floats of type dtype */
    enum pq_dtype dtype;
    size_t rows, cols;  /* as stored */
    size_t row;         /* elements from a row to the next in the whole */
    size_t row0, col0;  /* where this part of the whole begins */
    const void *data;   /* elements or codes */
    const float *scale; /* absmax [blocks], or SCB [rows] of PQ_INT8 */
    const float *map;   /* [16 or 256] values of the codes of block encodings */
};

/* A plain float matrix, borrowed. */
static inline struct nn_mat nn_mat_f32(const float *x, size_t rows, size_t cols,
                                       size_t row)
{
    struct nn_mat m = {
        {PQ_PLAIN, 0, 0}, PQ_F32, rows, cols, row, 0, 0, x, NULL, NULL};
    return m;
}

/* Rows and columns [from, from + n) of it, borrowed. */
struct nn_mat nn_mat_rows(const struct nn_mat *m, size_t from, size_t n);
struct nn_mat nn_mat_cols(const struct nn_mat *m, size_t from, size_t n);

/* Elements [col, col + n) of a row, as floats. */
void nn_mat_decode(const struct nn_mat *m, const struct pq_kernels *k,
                   size_t row, size_t col, size_t n, float *out /* [n] */);

/* The same where they are, if they are floats; else NULL. */
static inline const float *nn_mat_floats(const struct nn_mat *m, size_t row,
                                         size_t col)
{
    if (m->codec.encoding != PQ_PLAIN || m->dtype != PQ_F32)
        return NULL;
    return (const float *)m->data + (m->row0 + row) * m->row + m->col0 + col;
}

/* What of a product is a triangle. */
enum nn_shape {
    NN_WHOLE,
    NN_C_LOWER, /* c[i][j] is not wanted where j > shift + i */
    NN_A_LOWER, /* a[i][k] is 0 where k > shift + i */
    NN_A_UPPER  /* a[i][k] is 0 where i > shift + k */
};

/*
 * c = a b, or c + a b, then plus bias:
 *
 *   c[i][j] = sum over k of a[i][k] b(k, j),  b(k, j) = b[j][k], or b[k][j]
 *                                             if `b_by_k`
 *
 * The sum is defined, whatever the tiles: k is cut in blocks of NN_BLOCK_K;
 * within a block one chain of fused multiply-adds in the order of k, from 0;
 * blocks are added in order, to nothing or (`add`) to what c held; then the
 * bias.  So a row of c does not depend on how many others are asked for.
 */
struct nn_product {
    size_t m, n, k;
    const float *a; /* [m][k]: element [i][k] at i * a_row + k * a_col */
    size_t a_row, a_col;
    const struct nn_mat *b; /* [n][k], or [k][n] if b_by_k */
    bool b_by_k;
    float *c; /* [m][c_row] */
    size_t c_row;
    const float *bias; /* [n] or NULL */
    bool add;
    enum nn_shape shape; /* what of a triangle need not be computed: the */
    size_t shift;        /* bits are the same, as b is finite */
};

/* By all threads of the pool, or by one worker within a task. */
void nn_multiply(struct nn_pool *pool, const struct nn_product *p);
void nn_multiply_here(struct nn_worker *w, const struct nn_product *p);

#ifdef __cplusplus
}
#endif
#endif
