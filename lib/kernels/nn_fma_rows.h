/*
 * The part of the FMA kernels that is in nn_fma_rows.c.
 */
#ifndef PQ_NN_FMA_ROWS_H
#define PQ_NN_FMA_ROWS_H

#include "nn_kernels.h"

void nn_fma_rows(const struct nn_rows *r, float *c, bool add);

#endif
