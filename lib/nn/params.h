/*
 * What is trained: numbers that stand in one array, w, with their gradients
 * in another, g, at the same places.
 *
 * A tensor that is trained is moved into w, and the model's pointers with it.
 * So whether a weight is trained, and where its gradient goes, is seen from
 * its address alone: nn_grad().
 */
#ifndef NN_PARAMS_H
#define NN_PARAMS_H

#include "delta.h"
#include "slots.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_param {
    const char *name;     /* as files name it */
    size_t rows, cols;    /* cols is 0 for a vector */
    size_t at, n;         /* w[at .. at + n) */
    bool decays;          /* weight decay: not biases and norms */
    bool masked;          /* may be made sparse: weights of linear layers */
    size_t masked_at;     /* its place among those */
    enum pq_dtype stored; /* its type in the model's file */
};

struct nn_params {
    struct nn_param *p; /* [n] */
    size_t n, cap;
    float *w, *g; /* [total] */
    size_t total, masked_total;
};

/* Adds a parameter of rows x (cols or 1) numbers, zero until w is filled. */
PQ_MUST_USE int nn_params_add(struct nn_params *p, const char *name,
                              size_t rows, size_t cols, bool decays,
                              struct pq_error *e);
/* That the parameter added last is the weight of a linear layer. */
void nn_params_mask(struct nn_params *p, enum pq_dtype stored);
/* Numbers of the largest of those. */
size_t nn_params_largest(const struct nn_params *p);
/* Makes w and g, once all parameters are added. */
PQ_MUST_USE int nn_params_allocate(struct nn_params *p, struct pq_error *e);
void nn_params_release(struct nn_params *p);

/* The gradient that belongs to an address in w; NULL: it is frozen. */
static inline float *nn_grad(const struct nn_params *p, const float *x)
{
    const uintptr_t from = (uintptr_t)p->w, at = (uintptr_t)x;

    return x && at >= from && at < from + p->total * sizeof *p->w
               ? p->g + (x - p->w)
               : NULL;
}

/* That of a matrix: of the whole of which it is a part. */
static inline float *nn_grad_mat(const struct nn_params *p,
                                 const struct nn_mat *m)
{
    return nn_grad(p, m->data);
}

/* Moves a tensor of the model to `to` in w. */
void nn_slot_move(const struct nn_slot *s, const struct pq_kernels *k,
                  float *to);

#ifdef __cplusplus
}
#endif
#endif
