/*
 * pq-extract of an adapter: another rank, or a plain LoRA.
 */
#ifndef CMD_RESIZE_H
#define CMD_RESIZE_H

#include "cmd.h"
#include "pq_ranks.h"

struct cmd_resize_options {
    bool plain; /* --plain, else --resize, which needs a rule */
    enum pq_dtype dtype;
    struct pq_rank_rule ranks;
};

/*
 * Operand 0 is the adapter; operand 1 the base, which only DoRA needs.
 * Returns an exit status, as a tool's run() does.
 */
PQ_MUST_USE int cmd_resize(struct cmd *c, const struct cmd_resize_options *o,
                           struct pq_error *e);

#endif
