/*
 * The tensors of a block, by the names that files use: one table a family,
 * for binding a file's tensors (bind.c) and for telling them (slots.c).
 */
#ifndef NN_NAMES_H
#define NN_NAMES_H

#include "model.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NN_MODULE_PARTS 3

/* A linear layer; of a fused one the parts stand one behind the other. */
struct nn_module {
    const char *name; /* "self_attn.q_proj"; NULL: the list ends */
    size_t at[NN_MODULE_PARTS]; /* offsets in struct nn_layer, or 0 */
};

struct nn_vector {
    const char *name; /* "input_layernorm.weight"; NULL: the list ends */
    size_t at;        /* offset in struct nn_layer */
    bool head;        /* of a head, where the model has qk_norm */
};

struct nn_names {
    const char *layers; /* "model.layers" */
    const char *embed, *places, *norm, *norm_bias; /* NULL: there is none */
    const struct nn_vector *vectors;
    const struct nn_module *modules;
};

/* Of the head that is no embedding. */
#define NN_NAME_HEAD "lm_head.weight"

const struct nn_names *nn_names_of(const struct nn_config *c);
/* How many parts it has. */
size_t nn_module_parts(const struct nn_module *m);
struct nn_linear *nn_module_part(struct nn_layer *l, const struct nn_module *m,
                                 size_t i);

/* Of part i by the config. */
struct nn_module_shape {
    size_t out, in;
    bool biased;
};

struct nn_module_shape nn_module_shape(const struct nn_config *c,
                                       const struct nn_module *m, size_t i);
const float **nn_vector_place(struct nn_layer *l, const struct nn_vector *v);
/* Numbers of the vector; 0: the model has none of them. */
size_t nn_vector_size(const struct nn_config *c, const struct nn_vector *v);

#ifdef __cplusplus
}
#endif
#endif
