/*
 * What the jobs of pq-merge share: operands, the sources of the plan, the
 * sink, the closing report.
 */
#include "merge.h"
#include "pq_made.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Weights may be sample counts. */
#define MAX_WEIGHT 1e15

int merge_split_weight(struct pq_arena *arena, const char *operand,
                       struct merge_input *in, struct pq_error *e)
{
    const char *colon = strrchr(operand, ':');
    struct pq_error why = PQ_ERROR_INIT;

    in->weight = 1;
    in->path = operand;
    if (!colon || colon == operand || access(operand, F_OK) == 0)
        return 0;
    in->path = pq_arena_strndup(arena, operand, (size_t)(colon - operand));
    if (!in->path)
        return pq_fail_nomem(e);
    in->weighted = cmd_real(colon + 1, -MAX_WEIGHT, MAX_WEIGHT, &in->weight,
                            &why) == 0;
    if (!in->weighted && access(in->path, F_OK) == 0)
        return pq_fail(e, PQ_EARG, "%s: the weight %s", operand, why.msg);
    if (!in->weighted)
        in->path = operand;
    return 0;
}

int merge_read_adapter(struct merge_job *j, struct merge_input *in,
                       struct pq_error *e)
{
    if (cmd_load(j->c, &in->source, e))
        return -1;
    in->peft.accept = PQ_PEFT_PARAMETERS | PQ_PEFT_CHANGED_BASE;
    return pq_peft_read(&in->peft, in->source, e);
}

void merge_release(struct merge_job *j)
{
    pq_sink_free(j->plan.sink);
    pq_plan_release(&j->plan);
    for (size_t i = 0; i < j->n_inputs; i++) {
        pq_peft_release(&j->inputs[i].peft);
        pq_source_free(j->inputs[i].source);
    }
    pq_source_free(j->made);
    pq_catalog_release(&j->out);
    pq_buf_release(&j->report.json);
    pq_arena_release(&j->arena);
    free(j->inputs);
    free(j->sources);
}

bool merge_is_wide(const struct pq_spec *s)
{
    return s->encoding == PQ_PLAIN && pq_dtype_bits(s->dtype) > 8;
}

int merge_add_sources(struct merge_job *j, struct pq_source *also,
                      struct pq_error *e)
{
    j->sources = pq_alloc(j->n_inputs + 2, sizeof *j->sources);
    if (!j->sources)
        return pq_fail_nomem(e);
    j->plan.sources = j->sources;
    for (size_t i = 0; i < j->n_inputs; i++)
        j->sources[j->plan.n_sources++] = j->inputs[i].source;
    if (j->made)
        j->sources[j->plan.n_sources++] = j->made;
    if (also)
        j->sources[j->plan.n_sources++] = also;
    return 0;
}

int merge_run_plan(struct merge_job *j, const struct pq_catalog *first,
                   struct pq_error *e)
{
    j->report.out = &j->out;
    if (j->into)
        return pq_made_sink(j->into, &j->out, &j->plan.sink, e) ||
                       cmd_run_part(j->c, &j->plan, e)
                   ? -1
                   : 0;
    if (cmd_make_sink(j->c, &j->out, NULL, first, &j->plan.sink, e))
        return -1;
    return cmd_run_plan(j->c, &j->plan, e);
}

int merge_end(struct merge_job *j, struct pq_error *e)
{
    uint64_t bytes = 0;

    if (j->c->dry_run || j->into)
        return 0;
    for (size_t i = 0; i < j->n_inputs; i++)
        bytes += j->inputs[i].source->total_bytes;
    return cmd_report_end(&j->report, bytes, j->plan.sink->total_bytes, e);
}
