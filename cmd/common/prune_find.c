/*
 * What must be known before the pruning: runs over the tensors that find
 * where a pool is cut, and where each column of a turned tensor is.
 */
#include "prune.h"

#include "config.h"
#include "pq_names.h"

#include <stdlib.h>
#include <string.h>

bool prune_keeps(const struct cmd_job *base)
{
    const struct prune_job *j = (const struct prune_job *)base;
    const struct pq_catalog *in = base->in->catalog;

    if (j->o->how.scope == PQ_PRUNE_POOL || j->o->shrink.has_channels)
        return true;
    if ((j->o->how.scope != PQ_PRUNE_ROW && !j->o->norms) ||
        !cmd_config_has_conv1d(in, NULL))
        return false;
    for (size_t i = 0; i < in->n_tensors; i++)
        if (pq_name_is_conv1d(in->tensors[i].name))
            return true;
    return false;
}

static bool has_columns(const struct prune_choice *d)
{
    return d->prune && d->how.scope == PQ_PRUNE_ROW && d->how.turned;
}

static bool in_pool(const struct prune_choice *d)
{
    return d->prune && d->how.scope == PQ_PRUNE_POOL;
}

/* Runs the plan of those that are such, if there are any. */
static int run_over(struct prune_job *j,
                    bool (*is)(const struct prune_choice *d),
                    struct pq_step *(*step)(struct pq_plan *p,
                                            struct pq_source *src,
                                            const struct pq_tensor *in,
                                            const struct pq_prune *how,
                                            const struct pq_pruning *q,
                                            struct pq_error *e),
                    struct pq_error *e)
{
    struct pq_source *in = j->base.in;
    struct pq_source *sources[] = {in, j->data.source};
    struct pq_plan p = {.sources = sources,
                        .n_sources = j->data.source ? 2 : 1};
    int rc = 0;

    for (size_t i = 0; i < in->catalog->n_tensors && !rc; i++)
        if (is(&j->choices[i]) &&
            !step(&p, in, &in->catalog->tensors[i], &j->choices[i].how,
                  &j->pruning, e))
            rc = -1;
    if (!rc && p.n_steps > 0)
        rc = cmd_run_part(j->base.c, &p, e);
    pq_plan_release(&p);
    return rc;
}

static int find_columns(struct prune_job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;
    uint64_t n = 0;

    for (size_t i = 0; i < in->n_tensors; i++)
        if (has_columns(&j->choices[i]) &&
            !pq_add(n, in->tensors[i].shape[1], &n))
            return pq_fail_nomem(e);
    j->cuts = pq_alloc((size_t)n, sizeof *j->cuts);
    if (!j->cuts)
        return pq_fail_nomem(e);
    n = 0;
    for (size_t i = 0; i < in->n_tensors; i++)
        if (has_columns(&j->choices[i])) {
            j->choices[i].how.cuts = j->cuts + n;
            n += in->tensors[i].shape[1];
        }
    return run_over(j, has_columns, pq_step_prune_columns, e);
}

static int find_pool(struct prune_job *j, struct pq_error *e)
{
    size_t n = 0;

    j->pool = pq_prune_pool_new(j->o->how.sparsity, e);
    if (!j->pool)
        return -1;
    for (size_t i = 0; i < j->base.in->catalog->n_tensors; i++)
        if (in_pool(&j->choices[i])) {
            j->choices[i].how.pool = j->pool;
            j->choices[i].how.pool_index = n++;
        }
    do {
        if (run_over(j, in_pool, pq_step_prune_count, e))
            return -1;
    } while (n > 0 && pq_prune_pool_next(j->pool));
    return 0;
}

int prune_find(struct prune_job *j, struct pq_error *e)
{
    if (j->base.c->dry_run)
        return 0;
    return find_columns(j, e) || find_pool(j, e) ? -1 : 0;
}

void prune_release(struct prune_job *j)
{
    pq_prune_pool_free(j->pool);
    free(j->cuts);
    free(j->choices);
}
