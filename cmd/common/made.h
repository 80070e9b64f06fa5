/*
 * Files of tensors that the program made: logits, sums of inputs.
 */
#ifndef CMD_MADE_H
#define CMD_MADE_H

#include "cmd.h"
#include "pq_nn.h"

/*
 * Writes all that a made source holds, tensors and metadata, to `path`: in
 * the format of its suffix, or else as safetensors.
 */
PQ_MUST_USE int cmd_write_made(struct cmd *c, const char *path,
                               struct pq_source *made, struct pq_error *e);

/*
 * What a model's matrices had as inputs since pq_nn_watch(), as pq-prune(1)
 * wants it: norms, or hessians if products were asked for.
 */
PQ_MUST_USE int cmd_write_inputs(struct cmd *c, const char *path,
                                 const struct pq_nn *nn, struct pq_error *e);

#endif
