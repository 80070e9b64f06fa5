/*
 * A linear layer.
 *
 *   y[rows][out] = x[rows][in] w^T + bias,   w [out][in]
 *
 * A Conv1D (gpt2) stores w^T, [in][out].  Sums are those of mat.h.  What an
 * adapter adds is in delta.c; DoRA multiplies before the bias comes.
 */
#include "delta.h"

void nn_linear(struct nn_pool *pool, float *y, const float *x,
               const struct nn_linear *l, size_t rows)
{
    const bool late = l->delta && l->delta->m;
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
                                 .bias = late ? NULL : l->bias};

    nn_multiply(pool, &p);
    if (l->delta)
        nn_delta_apply(pool, y, x, l, l->delta, rows);
}
