/*
 * Where the tensors of a model stand in it, by the names that files use.
 *
 * A slot is one tensor: a vector or a matrix.  A tensor may stand in several
 * places: parts of a fused one (q, k, v of gpt2), an embedding that is the
 * head, too.
 */
#ifndef NN_SLOTS_H
#define NN_SLOTS_H

#include "names.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NN_SLOT_PARTS NN_MODULE_PARTS
#define NN_SLOT_ENDS  SIZE_MAX /* the layer of what is in none */

struct nn_slot {
    const char *name;  /* model.layers.0.self_attn.q_proj.weight, ... */
    size_t rows, cols; /* as stored; cols is 0 for a vector of rows */
    size_t layer;      /* or NN_SLOT_ENDS */
    const float **vectors[NN_SLOT_PARTS];     /* of a vector */
    struct nn_mat *mats[NN_SLOT_PARTS];       /* of a matrix */
    struct nn_linear *linears[NN_SLOT_PARTS]; /* of weights of linear layers
                                                 of a block; else NULL */
    size_t n_parts;
    bool below; /* the embedding and learned places, under all layers */
};

/*
 * All tensors of the model, in the order of its parts; the array and the
 * names are in the arena.
 */
PQ_MUST_USE int nn_slots(struct nn_model *m, struct pq_arena *arena,
                         struct nn_slot **slots, size_t *n, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
