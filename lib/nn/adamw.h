/*
 * The optimiser, on the arrays of params.h.
 */
#ifndef NN_ADAMW_H
#define NN_ADAMW_H

#include "params.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_adamw {
    double beta1, beta2, eps, weight_decay, clip;
    float *m, *v; /* [total] */
    uint64_t steps;
    struct nn_chunk *chunks; /* [n_chunks] of the parameters, in order */
    size_t n_chunks;
    double *squares; /* [n_chunks] */
};

/* Makes m, v and the chunks; the other numbers are the caller's. */
PQ_MUST_USE int nn_adamw_init(struct nn_adamw *a, const struct nn_params *p,
                              struct pq_error *e);
void nn_adamw_release(struct nn_adamw *a);

/* The norm of all gradients: squares in double, chunks in order. */
double nn_adamw_norm(struct nn_adamw *a, struct nn_pool *pool,
                     const struct nn_params *p);
/* One step with gradients of that norm; they are set to zero. */
void nn_adamw_step(struct nn_adamw *a, struct nn_pool *pool,
                   const struct nn_params *p, double lr, double norm);

#ifdef __cplusplus
}
#endif
#endif
