/*
 * What pq-info tells about zeros: --sparsity and --plot.
 */
#ifndef CMD_SPARSITY_H
#define CMD_SPARSITY_H

#include "cmd.h"
#include "pq_sparsity.h"

/*
 * Adds a step for each selected floating tensor of s to the plan; `plain` is
 * s with all tensors decoded, or s.  *all is made, [tensors], the caller
 * frees it.
 */
PQ_MUST_USE int cmd_sparsity_steps(const struct cmd *c, struct pq_plan *p,
                                   const struct pq_source *s,
                                   struct pq_source *plain,
                                   struct pq_sparsity **all,
                                   struct pq_error *e);
/* The same of a mask: zeros are the weights that it does not keep. */
PQ_MUST_USE int cmd_sparsity_mask(const struct cmd *c, struct pq_plan *p,
                                  const struct pq_mask *m,
                                  struct pq_sparsity **all,
                                  struct pq_error *e);
/* Is one of the selected tensors to be decoded first? */
bool cmd_sparsity_decodes(const struct cmd *c, const struct pq_source *s);

/* Two lines on stdout; the key "sparsity" and its object. */
void cmd_sparsity_print(const struct pq_sparsity *r);
void cmd_sparsity_put(struct pq_buf *b, const struct pq_sparsity *r);
/* One line of all tensors; the key "sparsity" of the model. */
void cmd_sparsity_print_all(const struct pq_sparsity *all, size_t n);
void cmd_sparsity_put_all(struct pq_buf *b, const struct pq_sparsity *all,
                          size_t n);
/* The heat map: the zeros of each matrix, from none to all. */
PQ_MUST_USE int cmd_sparsity_plot(const struct cmd *c, const char *path,
                                  const struct pq_catalog *cat,
                                  const struct pq_sparsity *all,
                                  struct pq_error *e);

#endif
