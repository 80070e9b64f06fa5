/*
 * Adapters alone: their weighted sum as one adapter.  It is exact, by putting
 * the factors one behind the other, or of a lower rank, the best there is; or
 * the average of the factors; or what a method of models makes of them
 * (merge_effects.c), of a low rank again.
 */
#include "merge.h"
#include "merge_effects.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>

/* The job, and what it needs beside the common things. */
struct sum {
    struct merge_job *j;
    const struct pq_peft **adapters; /* [n_inputs] */
    double *weights;                 /* [n_inputs] */
    struct pq_peft_union joined;
    struct cmd_reduce reduce;
    struct merge_effects effects;
};

static int join(struct sum *s, struct pq_error *e)
{
    const struct merge_job *j = s->j;

    s->adapters = pq_alloc(j->n_inputs, sizeof *s->adapters);
    s->weights = pq_alloc(j->n_inputs, sizeof *s->weights);
    if (!s->adapters || !s->weights)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->n_inputs; i++) {
        s->adapters[i] = &j->inputs[i].peft;
        s->weights[i] = j->inputs[i].weight;
        if (s->adapters[i]->n_values)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: replaces one of the base and "
                           "cannot be summed without it",
                           j->inputs[i].source->name,
                           s->adapters[i]->values[0].tensor->name);
    }
    s->joined.adapters = s->adapters;
    s->joined.weights = s->weights;
    s->joined.n_adapters = j->n_inputs;
    return pq_peft_join(&s->joined, e);
}

/* A method that is no sum of products. */
static bool is_blend(const struct merge_job *j)
{
    return j->o->method && strcmp(j->o->method->name, "linear") != 0;
}

static int plan_sum(struct sum *s, struct pq_error *e)
{
    struct merge_job *j = s->j;
    struct cmd_reduce *r = &s->reduce;

    if (j->o->type_given && !merge_is_wide(&j->o->spec))
        return pq_fail(e, PQ_EARG, "-t %s: an adapter is f32, f16 or bf16",
                       j->o->type);
    r->c = j->c;
    r->rule = j->o->ranks;
    r->dtype = j->o->type_given ? j->o->spec.dtype : PQ_F32;
    r->quant = &j->quant;
    r->joined = &s->joined;
    if (join(s, e) ||
        pq_catalog_copy_meta(&j->out, j->inputs[0].source->catalog, e))
        return -1;
    if (j->o->fedavg)
        return pq_peft_average(&j->plan, &j->out, &s->joined, r->dtype,
                               &j->quant, e);
    if (!is_blend(j) && !cmd_reduces(&r->rule))
        return pq_peft_sum(&j->plan, &j->out, &s->joined, 0, r->dtype,
                           &j->quant, e);
    s->effects = (struct merge_effects){.j = j, .joined = &s->joined};
    if (is_blend(j) && merge_effects_init(&s->effects, r, e))
        return -1;
    return cmd_reduce_plan(r, &j->plan, &j->out, 0, 0, e);
}

static int run_sum(struct sum *s, struct pq_error *e)
{
    struct merge_job *j = s->j;

    return plan_sum(s, e) || merge_add_sources(j, s->reduce.factors.made, e) ||
                   merge_run_plan(j, j->inputs[0].source->catalog, e) ||
                   cmd_reduce_report(&s->reduce, &j->report, e)
               ? -1
               : merge_end(j, e);
}

int merge_sum(struct merge_job *j, struct pq_error *e)
{
    struct sum s = {.j = j};
    const int rc = run_sum(&s, e);

    /* the plan's steps read what was joined and factored */
    pq_sink_free(j->plan.sink);
    j->plan.sink = NULL;
    pq_plan_release(&j->plan);
    cmd_reduce_release(&s.reduce);
    merge_effects_release(&s.effects);
    pq_peft_union_release(&s.joined);
    free(s.adapters);
    free(s.weights);
    return rc;
}
