/*
 * An adapter on a linear layer (LoRA, DoRA).
 *
 *   W' = W + s B A,          y = x W'^T + bias
 *   DoRA: rows times c = m / |row of W'|,  y = c (x W'^T) + bias
 *
 * The layer may be a part of a fused tensor: then a is the whole's and b, m
 * and norm begin at its first output.
 */
#ifndef NN_DELTA_H
#define NN_DELTA_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_delta {
    size_t r;
    float scale;
    const float *a; /* [r][in] */
    const float *b; /* [out][r] */
    const float *m; /* [out], or NULL: no DoRA */
    float *norm;    /* [out] of m: |row of W'|, by nn_delta_norms() */
};

/* Spare floats that a worker of the pool needs. */
size_t nn_delta_spare(const struct nn_linear *l, const struct nn_delta *d);

/* y [rows][out], which is x W^T (with bias, without for DoRA), becomes W''s. */
void nn_delta_apply(struct nn_pool *pool, float *y /* [rows][out] */,
                    const float *x /* [rows][in] */, const struct nn_linear *l,
                    const struct nn_delta *d, size_t rows);
/* d->norm = |row of W'|; to be done whenever W, a or b changed. */
void nn_delta_norms(struct nn_pool *pool, const struct nn_linear *l,
                    const struct nn_delta *d);

/* Where gradients go, and room for them. */
struct nn_delta_grads {
    float *a, *b, *m; /* as in nn_delta; m NULL where that has none */
    float *e, *xa;    /* [rows][r], scratch */
    float *y, *dy;    /* [rows][out], scratch of DoRA */
    float *sum;       /* [out], scratch of DoRA */
};

/*
 * Adds to the gradients of a, b and m.  Leaves in dx what goes through the
 * whole of W', or adds it if `add`; dx NULL: it is not wanted.
 */
void nn_delta_back(struct nn_pool *pool, float *dx /* [rows][in] or NULL */,
                   const float *dy /* [rows][out] */,
                   const float *x /* [rows][in] */, const struct nn_linear *l,
                   const struct nn_delta *d, const struct nn_delta_grads *g,
                   size_t rows, bool add);

#ifdef __cplusplus
}
#endif
#endif
