/*
 * LoRA on parameters; of formats/peft*.c.
 */
#ifndef PEFT_EXPERTS_H
#define PEFT_EXPERTS_H

#include "pq_peft.h"

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
