/*
 * What the jobs of pq-merge share: the sources of the plan, the sink, the
 * closing report.
 */
#include "merge.h"

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
    if (cmd_make_sink(j->c, &j->out, NULL, first, &j->plan.sink, e))
        return -1;
    j->report.out = &j->out;
    return cmd_run_plan(j->c, &j->plan, e);
}

int merge_end(struct merge_job *j, struct pq_error *e)
{
    uint64_t bytes = 0;

    if (j->c->dry_run)
        return 0;
    for (size_t i = 0; i < j->n_inputs; i++)
        bytes += j->inputs[i].source->total_bytes;
    return cmd_report_end(&j->report, bytes, j->plan.sink->total_bytes, e);
}
