/*
 * Files of tensors that the program made: logits, means of inputs.
 */
#ifndef CMD_MADE_H
#define CMD_MADE_H

#include "cmd.h"

/*
 * Writes all that a made source holds, tensors and metadata, to `path`: in
 * the format of its suffix, or else as safetensors.
 */
PQ_MUST_USE int cmd_write_made(struct cmd *c, const char *path,
                               struct pq_source *made, struct pq_error *e);

#endif
