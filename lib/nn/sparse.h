/*
 * Weights that are held at zero while training goes on (pq_train.h).
 */
#ifndef NN_SPARSE_H
#define NN_SPARSE_H

#include "adamw.h"
#include "pq_train.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_sparse {
    struct pq_train_sparsity s;
    uint8_t *mask; /* [total], 1 = free; NULL: nothing is held */
    float *room;   /* for the gradients of a parameter that are held */
};

PQ_MUST_USE int nn_sparse_init(struct nn_sparse *x, const struct nn_params *p,
                               const struct pq_train_sparsity *s,
                               struct pq_error *e);
void nn_sparse_release(struct nn_sparse *x);

size_t nn_sparse_bytes(const struct nn_sparse *x, const struct nn_params *p);

/* Gradients of what is held become 0. */
void nn_sparse_gradient(const struct nn_sparse *x, const struct nn_params *p);
/*
 * New masks, if the schedule asks for them before this step; g has the
 * gradients of the step, those of what is held as well.  What is held or
 * grown anew becomes 0 in w, m and v.
 */
void nn_sparse_update(const struct nn_sparse *x, const struct nn_params *p,
                      const struct nn_adamw *a, uint64_t step);

#ifdef __cplusplus
}
#endif
#endif
