/*
 * pq-eval: what its files share.
 *
 *     cmd/eval.c       the options, logits, the run
 *     eval_score.c     windows, likelihoods, another model beside it
 *     eval_report.c    what is said of all that, or would be done (-n)
 *     inputs.h         calibration files
 */
#ifndef CMD_EVAL_H
#define CMD_EVAL_H

#include "choices.h"
#include "cmd.h"
#include "data.h"
#include "inputs.h"
#include "pq_nn.h"

struct eval_options {
    const char *data, *logits, *against;
    struct cmd_inputs inputs;
    uint64_t window, stride; /* 0: the default */
    double max_ppl;          /* 0: no gate */
    bool per_token, tokens;
    struct cmd_list adapters;
};

/* What one run of the tool works on. */
struct eval_job {
    struct cmd *c;
    struct eval_options *o;
    struct pq_nn *nn;
    struct cmd_data data;
    size_t window, stride;
    double **nll; /* [examples][tokens]; NULL once it is not needed */
    double *sums; /* [examples] */
    struct cmd_choices choices;
    double sum;
    uint64_t tokens;
    struct pq_nn *base;     /* of --against */
    double kl;              /* sum over tokens */
    uint64_t same;          /* tokens that both find the likeliest */
    struct pq_source *made; /* the logits */
    float *rows;            /* of one text */
};

/* ---- eval_score.c ------------------------------------------------------- */

/*
 * The window and the stride of the options and the model.  What fails without
 * *e set is a usage error, explained already.
 */
int eval_windows(struct eval_job *j, struct pq_error *e);
/* Does an example count for the mean?  Of a question the right choice does. */
bool eval_counts(const struct cmd_example *x);
/* Its tokens that are scored. */
size_t eval_tokens(const struct cmd_example *x);
/* Likelihoods of all texts, and with them the sums of inputs. */
PQ_MUST_USE int eval_score(struct eval_job *j, struct pq_error *e);
/* How far j->base is. */
PQ_MUST_USE int eval_compare(struct eval_job *j, struct pq_error *e);

/* ---- eval_report.c ------------------------------------------------------ */

/* Prints what was found; returns an exit status. */
int eval_answer(const struct eval_job *j, struct pq_error *e);
/* Prints what a run would take; the same. */
int eval_plan(const struct eval_job *j, struct pq_error *e);

#endif
