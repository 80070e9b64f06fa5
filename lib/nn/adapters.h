/*
 * LoRA matrices on the linear layers of a model, as parameters.
 */
#ifndef NN_ADAPTERS_H
#define NN_ADAPTERS_H

#include "params.h"
#include "pq_train.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_adapter {
    const struct nn_slot *slot;
    size_t in, out; /* of the whole module */
    size_t a, b, m; /* parameter numbers; m only with DoRA */
    struct nn_delta deltas[NN_SLOT_PARTS];
    float *norm; /* [out] of DoRA */
};

struct nn_adapters {
    struct nn_adapter *x; /* [n], in an arena */
    size_t n, rank;
    double scale;
    bool dora;
    uint64_t seed;
};

/* Chooses the layers and adds their parameters. */
PQ_MUST_USE int nn_adapters_add(struct nn_adapters *x,
                                const struct pq_train_options *o,
                                const struct nn_slot *slots, size_t n,
                                struct nn_params *p, struct pq_arena *arena,
                                struct pq_error *e);
/* Puts them on their layers, with their first values. */
PQ_MUST_USE int nn_adapters_attach(struct nn_adapters *x, bool pissa,
                                   struct nn_params *p, struct nn_pool *pool,
                                   const struct pq_kernels *k,
                                   struct pq_arena *arena, struct pq_error *e);
/* After A or B changed: the norms of DoRA. */
void nn_adapters_changed(const struct nn_adapters *x, struct nn_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
