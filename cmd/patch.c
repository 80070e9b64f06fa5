/*
 * pq-patch: a model from another one and the delta between them.
 *
 * The base is read once for its digest, which must be the one that the delta
 * names, and once more for the result.  Each part of the result has its
 * digest in the delta too; it is compared when the part is complete, so that
 * a result that is not right never gets its name.
 */
#include "cmd.h"
#include "pq_diff.h"
#include "report.h"
#include "stats.h"

#include <stdlib.h>
#include <string.h>

static const struct cmd_option options[] = {
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct job {
    struct cmd *c;
    struct pq_source *base, *delta;
    struct pq_delta d;
    size_t *first_part; /* [tensors of the result] in d.parts */
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    (void)c;
    (void)id;
    (void)value;
    (void)e;
    return 0;
}

/* ---- digests ----------------------------------------------------------- */

/* Before anything is made of the delta: it is for this base, or it is not. */
static int check_base(struct job *j, struct pq_error *e)
{
    struct cmd_stats st = {.digest = true};
    const char *want = pq_catalog_get(j->delta->catalog, "base");

    if (!want)
        return 0; /* no delta: pq_delta_load() says so */
    int rc = cmd_stats_run(j->c, j->base, &st, e);
    if (!rc && strcmp(st.model_digest, want) != 0)
        rc = pq_fail(e, PQ_EARG,
                     "%s: not the model that the delta starts from (its "
                     "digest is %s, not %.32s)",
                     j->base->name, st.model_digest, want);
    cmd_stats_release(&st);
    return rc;
}

/* Do the digests of the parts make up that of the result? */
static int check_result(struct job *j, struct pq_error *e)
{
    struct cmd_stats st = {.digest = true};
    int rc = cmd_stats_init(&j->d.result, &st, e);

    for (size_t i = 0; !rc && i < j->d.n_parts; i++)
        st.parts[i] = j->d.parts[i].digest;
    if (!rc)
        rc = cmd_stats_name(&j->d.result, &st, e);
    if (!rc && strcmp(st.model_digest, j->d.result_digest) != 0)
        rc = pq_fail(e, PQ_ECHECKSUM,
                     "%s: its description is damaged: not the digest of the "
                     "result",
                     j->delta->name);
    cmd_stats_release(&st);
    return rc;
}

static int load(struct job *j, struct pq_error *e)
{
    if (check_base(j, e))
        return -1;
    if (pq_delta_load(&j->d, j->base->catalog, j->delta->catalog, e))
        return pq_error_in(e, "%s", j->delta->name);
    return check_result(j, e);
}

/* ---- the plan ---------------------------------------------------------- */

static int number_parts(struct job *j, struct pq_error *e)
{
    const struct pq_catalog *c = &j->d.result;
    size_t n = 0;

    j->first_part = pq_alloc(c->n_tensors, sizeof *j->first_part);
    if (!j->first_part)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++) {
        j->first_part[i] = n;
        n += c->tensors[i].n_parts;
    }
    return 0;
}

static int add_steps(struct job *j, struct pq_plan *p, struct pq_error *e)
{
    struct pq_delta_index *base = pq_delta_index_new(j->base->catalog, e);
    struct pq_delta_index *delta =
        base ? pq_delta_index_new(j->delta->catalog, e) : NULL;
    int rc = delta ? 0 : -1;

    for (size_t i = 0; !rc && i < p->sink->n_order; i++) {
        const struct pq_place *o = &p->sink->order[i];
        const struct pq_tensor *t = &j->d.result.tensors[o->tensor];
        const struct pq_delta_part *d =
            &j->d.parts[j->first_part[o->tensor] + o->part];
        const char *name = t->parts[o->part].name;
        rc = pq_step_patch(
            p, name, j->base,
            d->how == PQ_DELTA_WHOLE ? NULL : pq_delta_find(base, d->base),
            j->delta,
            d->how == PQ_DELTA_SAME ? NULL : pq_delta_find(delta, name), d,
            o->tensor, o->part, e);
    }
    pq_delta_index_free(base);
    pq_delta_index_free(delta);
    return rc;
}

static int patch(struct job *j, struct pq_error *e)
{
    struct pq_source *sources[] = {j->base, j->delta};
    struct pq_plan p = {.sources = sources, .n_sources = 2};
    int rc = cmd_make_sink(j->c, &j->d.result, NULL, &j->d.result, &p.sink, e);

    if (!rc)
        rc = number_parts(j, e);
    if (!rc)
        rc = add_steps(j, &p, e);
    if (!rc)
        rc = cmd_run_plan(j->c, &p, e) || cmd_report_plan(j->c, &p, e) ? -1 : 0;
    pq_sink_free(p.sink);
    pq_plan_release(&p);
    return rc;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct job j = {.c = c};

    if (c->n_operands != 2)
        return cmd_usage(c, "two operands are needed: BASE and DELTA");
    pq_delta_init(&j.d);
    int rc = cmd_open_kept(c, 0, &j.base, e);
    if (!rc)
        rc = cmd_open_plain(c, 1, &j.delta, e);
    if (!rc)
        rc = load(&j, e);
    if (!rc)
        rc = patch(&j, e);
    pq_delta_release(&j.d);
    pq_source_free(j.base);
    pq_source_free(j.delta);
    free(j.first_part);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-diff llama/ llama-nf4/ --delta d.pq && pq-patch llama/ d.pq -o b/",
    "pq-diff llama/ model.pq --delta - | pq-patch llama/ - -o copy.pq",
    NULL,
};

const struct pq_tool tool_patch = {
    .name = "patch",
    .purpose = "restore a model from another one and a delta",
    .synopsis = "[options] BASE DELTA",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_ENGINE | CMD_JSON | CMD_VERBOSITY,
    .max_operands = 2,
    .examples = examples,
    .state_bytes = 1,
    .option = option,
    .run = run,
};
