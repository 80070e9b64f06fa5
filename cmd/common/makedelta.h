/*
 * pq-diff --delta: the plan that writes a lossless delta.
 */
#ifndef CMD_MAKEDELTA_H
#define CMD_MAKEDELTA_H

#include "cmd.h"

/*
 * Writes to `path` what turns operand 0 into operand 1, compressed at a zstd
 * level.  -1 without *e set: a usage error, explained already.
 */
PQ_MUST_USE int cmd_make_delta(struct cmd *c, const char *path, int level,
                               struct pq_error *e);

#endif
