/*
 * What pruning did to each tensor: a line with -v, an object with --json.
 */
#include "prune.h"

#include "pq_json.h"

#include <math.h>
#include <string.h>

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* Of the tensor's length, what went: |W - W'| / |W|. */
static double relative_error(const struct pq_pruned *q)
{
    return sqrt(ratio(q->noise, q->signal));
}

static void print_line(const struct cmd_report *r, const struct pq_tensor *t,
                       const struct pq_pruned *q)
{
    char shape[256], name[256];

    snprintf(name, sizeof name, "%s", t->name);
    cmd_mask(name, strlen(name));
    cmd_shape_text(t, shape, sizeof shape);
    cmd_msg(r->c, "%s %s: %llu zeros, sparsity %.4f, error %.4f", name, shape,
            (unsigned long long)q->zeros,
            ratio((double)q->zeros, (double)q->n), relative_error(q));
}

static void add_json(struct cmd_report *r, const struct pq_tensor *t,
                     const struct pq_pruned *q)
{
    struct pq_buf *b = &r->json;

    cmd_report_open(r, t);
    pq_buf_printf(b, ",\"pruned\":%llu,\"zeros\":%llu,\"sparsity\":",
                  (unsigned long long)q->pruned, (unsigned long long)q->zeros);
    pq_json_put_f64(b, ratio((double)q->zeros, (double)q->n));
    cmd_put_number(b, ",\"error\":", relative_error(q));
    pq_buf_puts(b, "}");
}

int prune_report(const struct pq_step *s, const struct pq_pruned *q,
                 struct pq_error *e)
{
    struct cmd_report *r = s->user;
    const struct pq_tensor *t = &r->out->tensors[s->tensor];

    if (r->c->verbose > 0)
        print_line(r, t, q);
    if (r->c->json)
        add_json(r, t, q);
    return r->json.failed ? pq_fail_nomem(e) : 0;
}

void prune_warn(const struct prune_job *j)
{
    const struct cmd *c = j->base.c;
    const struct pq_prune *how = &j->o->how;
    const bool half = how->scope == PQ_PRUNE_GROUPS
                          ? 2 * how->n <= how->m
                          : j->o->sparsity && how->sparsity >= 0.5;

    if (half && j->o->method == PRUNE_MAGNITUDE && !c->quiet &&
        (c->verbose > 0 || c->dry_run))
        cmd_msg(c, "warning: without data or training, half of the weights is "
                   "more than a language model of 7B takes: perplexity 5.1 "
                   "becomes 15, with 2:4 55");
}
