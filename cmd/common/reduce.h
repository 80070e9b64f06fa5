/*
 * Adapters whose ranks are reduced: pq-merge of adapters alone, and the same
 * for one adapter, pq-extract --resize.
 *
 * A first run factors every module, ranks are chosen, and the plan that
 * writes what is left is made.  -n does all of it but the last run, because
 * sizes depend on the ranks.
 */
#ifndef CMD_REDUCE_H
#define CMD_REDUCE_H

#include "cmd.h"
#include "pq_peft.h"
#include "report.h"

/* A matrix that stands for the products of a module. */
struct cmd_reduce_matrix {
    struct pq_source *source; /* plain, random access */
    const struct pq_tensor *tensor;
    bool turned; /* [in][out] */
    size_t rank; /* how many singular values to look for */
};

struct cmd_reduce {
    struct cmd *c;
    struct pq_rank_rule rule;
    enum pq_dtype dtype; /* of the adapter that is written */
    const struct pq_quant *quant;
    const struct pq_peft_union *joined;
    const struct cmd_reduce_matrix *dense; /* [joined->n], or NULL */
    /*
     * Makes dense[i] ready, which then may take the place of dense[i - 1];
     * NULL: all are ready.
     */
    int (*prepare)(void *arg, size_t i, struct pq_error *e);
    void *prepare_arg;
    struct pq_ranking factors;
    struct pq_peft_out *modules; /* [joined->n] */
    struct pq_buf json;          /* what cmd_reduce_report() adds */
};

/* Is there anything that asks for lower ranks? */
bool cmd_reduces(const struct pq_rank_rule *rule);
/* How far to search a matrix for which `usual` is enough if nothing is said. */
size_t cmd_reduce_rank(const struct pq_rank_rule *rule, size_t usual);
/*
 * Factors the modules and appends the steps that write them, with room for
 * `more` tensors of `more_bytes` in `out`, which has its config already.
 */
PQ_MUST_USE int cmd_reduce_plan(struct cmd_reduce *r, struct pq_plan *plan,
                                struct pq_catalog *out, size_t more,
                                uint64_t more_bytes, struct pq_error *e);
/*
 * After the run: -v and --json of an adapter: its tensors, and for each of
 * its modules the rank and what was lost.  Without factors nothing was.
 */
PQ_MUST_USE int cmd_reduce_report(struct cmd_reduce *r,
                                  struct cmd_report *report,
                                  struct pq_error *e);
void cmd_reduce_release(struct cmd_reduce *r);

#endif
