/*
 * One model in, one model out: the life of pq-convert, pq-quantize,
 * pq-dequantize and pq-prune.
 *
 *     open the input  ->  view()  ->  declare()  ->  make the sink
 *                     ->  add_steps()  ->  run the plan  ->  report
 *                     ->  let go of everything
 */
#ifndef CMD_JOB_H
#define CMD_JOB_H

#include "cmd.h"
#include "pq_quant.h"
#include "report.h"

/* First member of a tool's own job, so that its hooks find that. */
struct cmd_job {
    struct cmd *c;
    /*
     * Puts a view of the input in its place: `whole` is the input then, and
     * `in` the view, which is freed before it.  May be NULL.
     */
    int (*view)(struct cmd_job *j, struct pq_error *e);
    /* Fills `out` from `in`; may add steps that need not know the sink. */
    int (*declare)(struct cmd_job *j, struct pq_error *e);
    /* Adds the steps that do: plan.sink is made.  May be NULL. */
    int (*add_steps)(struct cmd_job *j, struct pq_error *e);
    /* Is the input read by several runs?  Seen before it is folded. */
    bool (*keep)(const struct cmd_job *j);
    bool measured; /* the steps report to `report`, as with quant.report */
    struct pq_write_options write;
    struct pq_quant quant; /* with quant.report the report is of qualities */
    struct cmd_report report;

    /* for the hooks */
    struct pq_source *in;
    struct pq_source *whole; /* what `in` is a view of, or NULL */
    struct pq_source *decoded; /* `in` as plain numbers, or NULL */
    struct pq_source **more; /* [n_more] the tool's own, that steps read */
    size_t n_more, cap_more;
    struct pq_catalog out;
    struct pq_plan plan;
};

/* What provenance speaks of: the input, not a view of it. */
const struct pq_catalog *cmd_job_input(const struct cmd_job *j);
/* Adds a source of the tool's own, which it frees after the run. */
PQ_MUST_USE int cmd_job_reads(struct cmd_job *j, struct pq_source *s,
                              struct pq_error *e);

/* Makes j->decoded, for steps that need numbers where `in` has codes. */
PQ_MUST_USE int cmd_job_decode(struct cmd_job *j, struct pq_error *e);
/*
 * Fails for 8-bit floats of other tools that have scales beside them
 * (weight_scale_inv, weight_scale): without those the numbers mean nothing.
 */
PQ_MUST_USE int cmd_refuse_scaled(const struct pq_source *s,
                                  const struct pq_tensor *t,
                                  struct pq_error *e);
/* The whole life, on operand 0; returns an exit status. */
int cmd_job_run(struct cmd_job *j, struct pq_error *e);

#endif
