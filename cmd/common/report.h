/*
 * Reports: a line a tensor with -v, one JSON object with --json.
 */
#ifndef CMD_REPORT_H
#define CMD_REPORT_H

#include "cmd.h"
#include "pq_quant.h"

struct cmd_report {
    struct cmd *c;
    struct pq_buf json; /* the "tensors" array so far */
    size_t n;
    const struct pq_catalog *out;
    const char *type; /* asked for, in the summary */
    const char *more; /* JSON behind the array, ",\"key\":..."; or NULL */
    void *user;       /* the tool's own */
};

/* pq_quant.report: step->user is the struct cmd_report. */
PQ_MUST_USE int cmd_report_tensor(const struct pq_step *s,
                                  const struct pq_quality *q,
                                  struct pq_error *e);
/* The closing line, or the JSON object on stdout. */
PQ_MUST_USE int cmd_report_end(struct cmd_report *r, uint64_t bytes_in,
                               uint64_t bytes_out, struct pq_error *e);

/* An object of the array, left open for more keys. */
void cmd_report_open(struct cmd_report *r, const struct pq_tensor *t);
/* Adds all tensors of r->out to the array, as nobody measured them. */
PQ_MUST_USE int cmd_report_catalog(struct cmd_report *r, struct pq_error *e);
/* For tools that measure nothing: what a plan that was run has written. */
PQ_MUST_USE int cmd_report_plan(struct cmd *c, const struct pq_plan *p,
                                struct pq_error *e);

/* Appends a number behind text that ends with its key: ",\"nll\":". */
void cmd_put_number(struct pq_buf *b, const char *key, double v);

/* The type of a tensor as people write it: "nf4", "BF16". */
const char *cmd_type_name(const struct pq_tensor *t);
/* "[4096, 11008]" into a buffer of n bytes. */
void cmd_shape_text(const struct pq_tensor *t, char *text, size_t n);

#endif
