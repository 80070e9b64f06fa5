/*
 * pq-extract of an adapter: another rank, or a plain LoRA.
 *
 * cmd/common/resize.c is the job, resize_base.c what takes the base.
 */
#ifndef CMD_RESIZE_H
#define CMD_RESIZE_H

#include "cmd.h"
#include "pq_peft.h"
#include "reduce.h"

struct cmd_resize_options {
    bool plain; /* --plain, else --resize, which needs a rule */
    enum pq_dtype dtype;
    struct pq_rank_rule ranks;
};

struct resize {
    struct cmd *c;
    const struct cmd_resize_options *o;
    struct pq_source *adapter;
    struct pq_peft peft;
    struct pq_peft_union joined;
    struct cmd_reduce reduce;
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct cmd_report report;
    /* with a base */
    struct pq_source *base, *decoded; /* the same without encodings */
    struct pq_peft_places places;
    struct pq_source *effects;       /* of DoRA */
    struct cmd_reduce_matrix *dense; /* [joined.n] of them */
    struct pq_source *parts;         /* what PiSSA and OLoRA took out */
};

/*
 * Operand 0 is the adapter; operand 1 the base, which only DoRA, PiSSA and
 * OLoRA need.  Returns an exit status, as a tool's run() does.
 */
PQ_MUST_USE int cmd_resize(struct cmd *c, const struct cmd_resize_options *o,
                           struct pq_error *e);

/* Is the adapter one that is plain only on its base? */
bool resize_needs_base(const struct resize *r);
/*
 * Opens the base; then DoRA is matrices for r->reduce, and what PiSSA and
 * OLoRA took out is one more product of each module of r->joined.
 */
PQ_MUST_USE int resize_take_base(struct resize *r, struct pq_error *e);

#endif
