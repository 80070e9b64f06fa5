/*
 * Weights that keep to the values of an encoding while training goes on
 * (pq_train.h).
 */
#ifndef NN_ROUND_H
#define NN_ROUND_H

#include "params.h"
#include "pool.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_round {
    enum pq_encoding encoding; /* PQ_PLAIN: a cast to dtype */
    enum pq_dtype dtype;
    bool turn;     /* rows and blocks are those of [cols][rows] */
    float *exact;  /* [masked_total] what w was rounded from, masked
                      parameters one behind the other; NULL: not rounded */
    float *turned; /* room for a parameter, if they are turned */
};

/* `exact` becomes w; nn_round() is still to be called. */
PQ_MUST_USE int nn_round_init(struct nn_round *x, const struct nn_params *p,
                              struct nn_pool *pool, enum pq_encoding encoding,
                              enum pq_dtype dtype, bool turn,
                              struct pq_error *e);
void nn_round_release(struct nn_round *x);
/* What it takes; false: that is no number. */
bool nn_round_bytes(const struct nn_round *x, const struct nn_params *p,
                    uint64_t *bytes);

/* w becomes exact again, so that it can be updated. */
void nn_round_undo(const struct nn_round *x, const struct nn_params *p);
/* exact becomes w, and w what the encoding makes of it. */
void nn_round(const struct nn_round *x, const struct nn_params *p,
              struct nn_pool *pool, const struct pq_kernels *k);

#ifdef __cplusplus
}
#endif
#endif
