/*
 * What the files of pq-prune share.
 *
 *     cmd/prune.c         the options
 *     prune_choose.c      which tensors are pruned, and how each
 *     prune_find.c        what must be known before: runs that only read
 *     prune_data.c        --method, --norms and --hessian
 *     prune_schedule.c    --schedule
 *     prune_report.c      -v and --json
 *     shrink.h            layers, heads and channels that go before
 *
 * A job is declared, given its steps and run as job.h says.
 */
#ifndef CMD_PRUNE_H
#define CMD_PRUNE_H

#include "job.h"
#include "pq_prune.h"
#include "pq_sparsegpt.h"
#include "rules.h"
#include "shrink.h"

enum prune_method {
    PRUNE_UNSAID,
    PRUNE_MAGNITUDE,
    PRUNE_WANDA,
    PRUNE_SPARSEGPT
};

/* Which part goes at which step of a training: prune_schedule.c. */
struct prune_schedule {
    uint64_t n, from, every; /* n = 0: none was asked for */
};

/* From the options; more of them are more members. */
struct prune_options {
    struct pq_prune how; /* of all that no rule speaks of */
    bool sparsity, pattern, threshold, scope; /* they were given */
    bool all; /* not only rules say what goes */
    struct cmd_rules rules;
    bool allow_nonfinite;
    enum prune_method method;
    const char *norms, *hessian; /* files, or NULL */
    struct prune_schedule schedule; /* printed instead of pruning */
    struct shrink_options shrink;
};

/* What becomes of one tensor. */
struct prune_choice {
    bool prune;
    struct pq_prune how;
    struct pq_sparsegpt sparsegpt; /* instead, where it has a source */
};

/* What a calibration run wrote; source NULL: there is none. */
struct prune_data {
    struct pq_source *source;
    struct pq_names names; /* of its tensors */
};

struct prune_job {
    struct cmd_job base; /* first: its hooks find the rest */
    struct prune_options *o;
    struct pq_pruning pruning;
    struct prune_choice *choices; /* [tensors of base.in] */
    struct prune_data data;
    bool conv1d;
    struct pq_prune_pool *pool;
    struct pq_column_cut *cuts; /* of all turned tensors in scope row */
    struct shrink shrink; /* with it, base.in is what is left of the input */
};

/* ---- prune_choose.c ------------------------------------------------------ */

/* "0.5", of --sparsity and of rules. */
PQ_MUST_USE int prune_sparsity(const char *s, double *v, struct pq_error *e);
/* "2:4": 2 of 4 stay. */
PQ_MUST_USE int prune_pattern(const char *s, struct pq_prune *how,
                              struct pq_error *e);
/* Also of rules that no tensor will take. */
PQ_MUST_USE int prune_check_rules(const struct prune_options *o,
                                  struct pq_error *e);
/* Fills in j->choices; fails for what cannot be pruned so. */
PQ_MUST_USE int prune_choose(struct prune_job *j, struct pq_error *e);

/* ---- prune_find.c -------------------------------------------------------- */

/* cmd_job.keep: will those runs be needed? */
bool prune_keeps(const struct cmd_job *base);
/* Makes them; not with -n. */
PQ_MUST_USE int prune_find(struct prune_job *j, struct pq_error *e);
void prune_release(struct prune_job *j);

/* ---- prune_data.c -------------------------------------------------------- */

PQ_MUST_USE int prune_method(const char *s, struct prune_options *o,
                             struct pq_error *e);
/* Settles o->method; 0, or the status of a usage error. */
int prune_settle_data(struct cmd *c, struct prune_options *o);
/* Opens the file that was given, if one was. */
PQ_MUST_USE int prune_open_data(struct prune_job *j, struct pq_error *e);
void prune_release_data(struct prune_job *j);
/* Gives a tensor that is to be pruned its data, if there are any. */
PQ_MUST_USE int prune_choose_data(const struct prune_job *j,
                                  const struct pq_tensor *t,
                                  struct prune_choice *d, struct pq_error *e);

/* ---- prune_schedule.c ---------------------------------------------------- */

/* "N[:FROM[:EVERY]]" */
PQ_MUST_USE int prune_schedule_parse(const char *s, struct prune_schedule *d,
                                     struct pq_error *e);
/* The sparsity after the k-th time of n. */
double prune_schedule_at(const struct prune_schedule *d, double sparsity,
                         uint64_t k);
void prune_schedule_print(const struct prune_schedule *d, double sparsity,
                          bool json);

/* ---- prune_report.c ------------------------------------------------------ */

/* pq_pruning.report: step->user is the struct cmd_report. */
PQ_MUST_USE int prune_report(const struct pq_step *s,
                             const struct pq_pruned *q, struct pq_error *e);
/* The warning about what large sparsities do, where it is to be said. */
void prune_warn(const struct prune_job *j);

#endif
