/*
 * What cross entropy and its gradient share: logits exist for a few rows at
 * a time, and only for rows with a label.
 */
#ifndef NN_CROSS_ENTROPY_H
#define NN_CROSS_ENTROPY_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NN_LOGIT_RUN 4096 /* logits worked on at a time; a multiple of 8 */

/* sum e^(z - max), in the lanes of one run after the other. */
float nn_exp_sum(const struct nn_kernels *nn, const float *z /* [n] */,
                 size_t n, float max);

/* Rows with a label; zero it before the first. */
struct nn_labelled {
    size_t at; /* the row to go on with */
    size_t from[NN_LOSS_ROWS];
    int32_t labels[NN_LOSS_ROWS];
};

/*
 * The next ones, at most `chunk` and NN_LOSS_ROWS, side by side in `out`;
 * returns how many, 0 when there are no more.
 */
size_t nn_next_labelled(struct nn_labelled *l, const float *x /* [rows][h] */,
                        size_t h, const int32_t *labels /* [rows] */,
                        size_t rows, size_t chunk, float *out /* [chunk][h] */);

#ifdef __cplusplus
}
#endif
#endif
