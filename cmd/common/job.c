/*
 * One model in, one model out.
 */
#include "job.h"

#include <stdlib.h>
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

const struct pq_catalog *cmd_job_input(const struct cmd_job *j)
{
    return (j->whole ? j->whole : j->in)->catalog;
}

static int open_input(struct cmd_job *j, struct pq_error *e)
{
    struct cmd *c = j->c;

    if (cmd_open_plain(c, 0, &j->in, e) ||
        (j->keep && j->keep(j) && cmd_keep(c, &j->in, e)))
        return -1;
    return cmd_fold(c, j->in, e);
}

int cmd_job_reads(struct cmd_job *j, struct pq_source *s, struct pq_error *e)
{
    struct pq_source **more =
        pq_grow(j->more, j->n_more, &j->cap_more, sizeof *more);

    if (!more)
        return pq_fail_nomem(e);
    j->more = more;
    j->more[j->n_more++] = s;
    return 0;
}

/* The plan's: the input, what it is a view of or decoded to, the tool's. */
static int list_sources(struct cmd_job *j, struct pq_error *e)
{
    struct pq_plan *p = &j->plan;

    p->sources = pq_arena_alloc(&p->arena, 3 + j->n_more, sizeof *p->sources);
    if (!p->sources)
        return pq_fail_nomem(e);
    p->sources[p->n_sources++] = j->in;
    if (j->whole)
        p->sources[p->n_sources++] = j->whole;
    if (j->decoded)
        p->sources[p->n_sources++] = j->decoded;
    for (size_t i = 0; i < j->n_more; i++)
        p->sources[p->n_sources++] = j->more[i];
    return 0;
}

static int work(struct cmd_job *j, struct pq_error *e)
{
    if (open_input(j, e) || (j->view && j->view(j, e)) || j->declare(j, e) ||
        cmd_make_sink(j->c, &j->out, &j->write, cmd_job_input(j), &j->plan.sink,
                      e) ||
        (j->add_steps && j->add_steps(j, e)))
        return -1;
    if (list_sources(j, e))
        return -1;
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
    free(j->more);
    return rc ? CMD_TROUBLE : CMD_OK;
}
