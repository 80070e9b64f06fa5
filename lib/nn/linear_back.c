/*
 * A linear layer backwards.
 *
 *   dx[rows][in] = dy[rows][out] w[out][in]
 *   dw[out][in] += dy^T x;   of a Conv1D, [in][out], x^T dy
 *
 * The weight stays encoded: rows are decoded where the product packs them.
 * dw has the row length of the whole tensor and begins where that begins, so
 * that a part of a fused tensor finds its own place in it.
 */
#include "backward.h"

void nn_linear_back(struct nn_pool *pool, float *dx, const float *dy,
                    const struct nn_linear *l, size_t rows, bool add)
{
    const struct nn_product p = {.m = rows,
                                 .n = l->in,
                                 .k = l->out,
                                 .a = dy,
                                 .a_row = l->out,
                                 .a_col = 1,
                                 .b = &l->w,
                                 .b_by_k = !l->turned,
                                 .c = dx,
                                 .c_row = l->in,
                                 .add = add};

    nn_multiply(pool, &p);
}

void nn_linear_back_weight(struct nn_pool *pool, float *dw, const float *dy,
                           const float *x, const struct nn_linear *l,
                           size_t rows)
{
    const float *left = l->turned ? x : dy, *right = l->turned ? dy : x;
    const size_t m = l->turned ? l->in : l->out;
    const size_t n = l->turned ? l->out : l->in;
    const struct nn_mat b = nn_mat_f32(right, rows, n, n);
    const struct nn_product p = {.m = m,
                                 .n = n,
                                 .k = rows,
                                 .a = left,
                                 .a_row = 1,
                                 .a_col = m,
                                 .b = &b,
                                 .b_by_k = true,
                                 .c = dw + l->w.row0 * l->w.row + l->w.col0,
                                 .c_row = l->w.row,
                                 .add = true};

    nn_multiply(pool, &p);
}
