/*
 * One model in, one model out.
 */
#include "job.h"

#include <string.h>

int cmd_job_decode(struct cmd_job *j, struct pq_error *e)
{
    const struct cmd *c = j->c;

    return pq_decoded_new(j->in, c->kernels, c->memory / 4, c->tmpdir,
                          &j->decoded, e);
}

int cmd_refuse_scaled(const struct pq_source *s, const struct pq_tensor *t,
                      struct pq_error *e)
{
    const struct pq_catalog *in = s->catalog;
    const size_t n = strlen(t->name);

    if (pq_dtype_bits(t->dtype) != 8)
        return 0;
    for (size_t i = 0; i < in->n_tensors; i++)
        if (strncmp(in->tensors[i].name, t->name, n) == 0 &&
            strncmp(in->tensors[i].name + n, "_scale", 6) == 0)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: has scales of its own (%s), which "
                           "pq does not apply",
                           s->name, t->name, in->tensors[i].name);
    return 0;
}

static int report(struct cmd_job *j, struct pq_error *e)
{
    if (!j->quant.report && !j->measured)
        return cmd_report_plan(j->c, &j->plan, e);
    return j->c->dry_run ? 0
                         : cmd_report_end(&j->report, j->in->total_bytes,
                                          j->plan.sink->total_bytes, e);
}

static void list_sources(struct cmd_job *j)
{
    size_t n = 0;

    j->sources[n++] = j->in;
    if (j->whole)
        j->sources[n++] = j->whole;
    if (j->decoded)
        j->sources[n++] = j->decoded;
    if (j->more)
        j->sources[n++] = j->more;
    j->plan.sources = j->sources;
    j->plan.n_sources = n;
}

/* Provenance speaks of the input, not of a view of it. */
static const struct pq_catalog *input_of(const struct cmd_job *j)
{
    return (j->whole ? j->whole : j->in)->catalog;
}

static int open_input(struct cmd_job *j, struct pq_error *e)
{
    struct cmd *c = j->c;

    if (cmd_open_plain(c, 0, &j->in, e) ||
        (j->keep && j->keep(j) && cmd_keep(c, &j->in, e)))
        return -1;
    return pq_fold(j->in, c->memory / 4, c->tmpdir, e);
}

static int work(struct cmd_job *j, struct pq_error *e)
{
    if (open_input(j, e) || (j->view && j->view(j, e)) || j->declare(j, e) ||
        cmd_make_sink(j->c, &j->out, &j->write, input_of(j), &j->plan.sink,
                      e) ||
        (j->add_steps && j->add_steps(j, e)))
        return -1;
    list_sources(j);
    j->report.out = &j->out;
    return cmd_run_plan(j->c, &j->plan, e) || report(j, e) ? -1 : 0;
}

int cmd_job_run(struct cmd_job *j, struct pq_error *e)
{
    j->quant.kernels = j->c->kernels;
    j->report.c = j->c;
    pq_catalog_init(&j->out);
    const int rc = work(j, e);
    pq_sink_free(j->plan.sink);
    pq_plan_release(&j->plan);
    pq_catalog_release(&j->out);
    pq_source_free(j->decoded);
    pq_source_free(j->in);
    pq_source_free(j->whole);
    pq_buf_release(&j->report.json);
    return rc ? CMD_TROUBLE : CMD_OK;
}
