/*
 * Adapters alone by a method of models: ties, dare and so on, of what the
 * adapters truly do, module by module.
 */
#ifndef CMD_MERGE_EFFECTS_H
#define CMD_MERGE_EFFECTS_H

#include "merge.h"
#include "reduce.h"

struct merge_effects {
    struct merge_job *j;
    const struct pq_peft_union *joined;
    struct pq_blend blend; /* all of it but the tensors, which come later */
    /* For each module the effect of each adapter, then zeros for a base. */
    struct pq_source *effects;
    struct pq_source *made; /* the module at hand, blended */
    uint64_t spool;         /* what of that may be in memory */
    struct cmd_reduce_matrix *dense; /* [joined->n] */
};

/* Blends as the options say, each module when `reduce` comes to it. */
PQ_MUST_USE int merge_effects_init(struct merge_effects *b,
                                   struct cmd_reduce *reduce,
                                   struct pq_error *e);
void merge_effects_release(struct merge_effects *b);

#endif
