/*
 * A linear layer.
 *
 *   y[rows][out] = x[rows][in] w^T + bias,   w [out][in]
 *
 * A Conv1D (gpt2) stores w^T, [in][out].  Sums are those of mat.h.
 */
#include "nn.h"

void nn_linear(struct nn_pool *pool, float *y, const float *x,
               const struct nn_linear *l, size_t rows, bool add)
{
    const struct nn_product p = {.m = rows,
                                 .n = l->out,
                                 .k = l->in,
                                 .a = x,
                                 .a_row = l->in,
                                 .a_col = 1,
                                 .b = &l->w,
                                 .b_by_k = l->turned,
                                 .c = y,
                                 .c_row = l->out,
                                 .bias = l->bias,
                                 .add = add};

    nn_multiply(pool, &p);
}
