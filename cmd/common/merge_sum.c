/*
 * Adapters alone: their weighted sum as one adapter, by putting the factors
 * one behind the other.
 */
#include "merge.h"

#include <stdlib.h>

static int plan_sum(struct merge_job *j, struct pq_error *e)
{
    const struct pq_peft **p = pq_alloc(j->n_inputs, sizeof *p);
    double *w = pq_alloc(j->n_inputs, sizeof *w);
    const enum pq_dtype dtype = j->o->type_given ? j->o->spec.dtype : PQ_F32;
    int rc = p && w ? 0 : pq_fail_nomem(e);

    if (!rc && j->o->type_given && !merge_is_wide(&j->o->spec))
        rc = pq_fail(e, PQ_EARG, "-t %s: an adapter is f32, f16 or bf16",
                     j->o->type);
    for (size_t i = 0; !rc && i < j->n_inputs; i++) {
        p[i] = &j->inputs[i].peft;
        w[i] = j->inputs[i].weight;
    }
    if (!rc)
        rc = pq_peft_sum(&j->plan, &j->out, p, w, j->n_inputs, dtype,
                         &j->quant, e);
    free(p);
    free(w);
    return rc;
}

int merge_sum(struct merge_job *j, struct pq_error *e)
{
    j->quant.report = cmd_report_tensor;
    return plan_sum(j, e) || merge_add_sources(j, NULL, e) ||
                   merge_run_plan(j, j->inputs[0].source->catalog, e)
               ? -1
               : merge_end(j, e);
}
