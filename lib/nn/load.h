/*
 * Between reading a model's tensors (load.c) and giving them their place in
 * it (bind.c).
 */
#ifndef NN_LOAD_H
#define NN_LOAD_H

#include "model.h"

/* A tensor of the catalogue and where its numbers will be. */
struct nn_stored {
    void **parts;  /* [t->n_parts], what is read; owned by the model */
    float *vector; /* [n_elements] of a tensor of one dimension */
    float *scale;  /* [blocks] absmax, once double quantization is undone */
    bool used, skipped;
};

struct nn_loader {
    struct nn_model *m;
    struct pq_source *s;
    const struct pq_kernels *k;
    struct pq_names names;
    struct nn_stored *t; /* [n_tensors] */
    /* Of a model that has none yet: where they are added; else NULL. */
    struct pq_catalog *fresh;
    enum pq_dtype dtype; /* of those that are added */
    uint64_t end;        /* of their bytes, so far */
    struct pq_error *e;
    bool failed;
};

/* Where a part of tensor i is read to, or NULL. */
void *nn_part_of(const struct nn_loader *l, size_t i, enum pq_role role);

/* bind.c: every tensor of the model finds its numbers, not yet read. */
PQ_MUST_USE int nn_bind_model(struct nn_loader *l);
/* Not weights: masks and tables that some files carry. */
bool nn_is_no_weight(const char *name);

#endif
