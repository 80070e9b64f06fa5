/*
 * A model with adapters, to be run: they are folded into it in memory (beyond
 * the budget, in TMPDIR) as pq-merge -t f32 does it on disk.
 */
#ifndef CMD_ADAPTED_H
#define CMD_ADAPTED_H

#include "cmd.h"

/*
 * Opens the model that is operand 0 and folds in adapters, each "DIR" or
 * "DIR:WEIGHT"; without adapters it is cmd_open_input().  Of a model with
 * adapters all weights are F32, whatever they were.
 */
PQ_MUST_USE int cmd_open_adapted(struct cmd *c,
                                 const struct cmd_list *adapters,
                                 struct pq_source **s, struct pq_error *e);

#endif
