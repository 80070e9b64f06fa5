/*
 * What writers of adapters share; of formats/peft*.c.
 */
#ifndef PEFT_WRITE_H
#define PEFT_WRITE_H

#include "pq_peft.h"

/* One module of the output: all that its names and its config need. */
struct peft_shape {
    const char *name;
    bool embedding, has_bias;
    const uint64_t *in; /* [n_in] dimensions of A behind the rank */
    int n_in;
    uint64_t out, rank;
};

enum peft_member { PEFT_A, PEFT_B, PEFT_BIAS };

/*
 * Declares a tensor of a module, the next of `out`; NULL has failed.  `out`
 * must have room, because steps point at its tensors.
 */
const struct pq_tensor *peft_declare(struct pq_catalog *out,
                                     const struct peft_shape *m,
                                     enum peft_member which,
                                     enum pq_dtype dtype, struct pq_error *e);
/*
 * Makes adapter_config.json say what the modules [n] are, each of scale 1;
 * makes one if `out` has none.
 */
PQ_MUST_USE int peft_set_config(struct pq_catalog *out,
                                const struct peft_shape *modules, size_t n,
                                struct pq_error *e);

#endif
