/*
 * What placing is made of; of formats/peft*.c.
 */
#ifndef PEFT_PLACE_H
#define PEFT_PLACE_H

#include "pq_peft.h"

#define PEFT_MAX_NAME 1024

/* Is the rank of A the one that the config gives the module? */
PQ_MUST_USE int peft_check_rank(const struct pq_peft_module *m,
                                   struct pq_error *e);

/* The number of a tensor of the base by any of its names, or SIZE_MAX. */
size_t peft_find(const struct pq_peft_places *w, const char *name);
/* The tensor that target `target` starts as. */
const struct pq_tensor *peft_start(const struct pq_peft_places *w,
                                   size_t target);
/* Appends an edit that fits, or fails. */
PQ_MUST_USE int peft_add_edit(struct pq_peft_places *w, size_t target,
                              const struct pq_edit *d, struct pq_error *e);

/*
 * Places a module that may be about one of its parameters: 1 it was and is
 * placed, 0 the base has none of them, -1 failed.  `used` has the parameters
 * of this adapter that were placed.
 */
PQ_MUST_USE int peft_place_parameter(struct pq_peft_places *w,
                                     const struct pq_peft *p,
                                     const struct pq_peft_module *m,
                                     double weight, struct pq_names *used,
                                     struct pq_error *e);

#endif
