/*
 * Making a delta, in four runs of the engine: the digests of A, those of B,
 * samples of what differs (XOR or difference?), and the delta itself.
 *
 *     part of B     digest is that of A's   ->  same, nothing stored
 *                   A's has type and size   ->  xor or sub
 *                   else                    ->  whole
 *
 * What comes from a pipe is kept for the later runs (pq_kept_new).
 */
#include "makedelta.h"

#include "join.h"
#include "pq_diff.h"
#include "pq_quant.h"
#include "stats.h"

#include <stdlib.h>

struct maker {
    struct cmd *c;
    struct pq_source *a, *b;
    struct cmd_stats stats_a, stats_b;
    const struct pq_part **parts_a, **parts_b; /* [n_parts of the stats] */
    size_t *from;                              /* [parts of B] -> part of A */
    struct pq_delta delta;
    struct pq_catalog out;
};

/* ---- joining parts ----------------------------------------------------- */

static int list_parts(const struct pq_catalog *c, size_t n,
                      const struct pq_part ***parts, const char ***names,
                      struct pq_error *e)
{
    size_t k = 0;

    *parts = pq_alloc(n, sizeof **parts);
    *names = pq_alloc(n, sizeof **names);
    if (!*parts || !*names)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t j = 0; j < c->tensors[i].n_parts; j++, k++) {
            (*parts)[k] = &c->tensors[i].parts[j];
            (*names)[k] = (*parts)[k]->name;
        }
    return 0;
}

static int join_parts(struct maker *m, struct pq_error *e)
{
    const size_t n_a = m->stats_a.n_parts, n_b = m->stats_b.n_parts;
    const char **a = NULL, **b = NULL;
    int rc = list_parts(m->a->catalog, n_a, &m->parts_a, &a, e) ||
             list_parts(m->b->catalog, n_b, &m->parts_b, &b, e);

    m->from = pq_alloc(n_b, sizeof *m->from);
    if (!m->from)
        rc = pq_fail_nomem(e);
    if (!rc)
        rc = cmd_join(a, n_a, b, n_b, m->from, e);
    free((void *)a);
    free((void *)b);
    return rc ? -1 : 0;
}

/* ---- how each part is stored ------------------------------------------- */

static bool same_digest(struct pq_hash128 a, struct pq_hash128 b)
{
    return a.high == b.high && a.low == b.low;
}

/* Notes how part i of B is stored; what has to be sampled goes in the plan. */
static int describe_part(struct maker *m, struct pq_plan *p, size_t i,
                         struct pq_error *e)
{
    struct pq_delta_part *d = &m->delta.parts[i];
    const size_t k = m->from[i];
    const struct pq_part *b = m->parts_b[i];
    const struct pq_part *a = k == SIZE_MAX ? NULL : m->parts_a[k];

    d->digest = m->stats_b.parts[i];
    d->how = PQ_DELTA_WHOLE;
    if (!a || a->dtype != b->dtype || a->bytes != b->bytes)
        return 0;
    d->base = a->name;
    d->how = PQ_DELTA_SAME;
    if (same_digest(m->stats_a.parts[k], d->digest))
        return 0;
    return pq_step_delta_choose(p, b->name, m->a, a, m->b, b, &d->how, e);
}

static int choose(struct maker *m, struct pq_error *e)
{
    struct pq_source *sources[] = {m->a, m->b};
    struct pq_plan p = {.sources = sources, .n_sources = 2};
    int rc = 0;

    m->delta.n_parts = m->stats_b.n_parts;
    m->delta.parts = pq_zalloc(m->delta.n_parts, sizeof *m->delta.parts);
    if (!m->delta.parts)
        return pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < m->delta.n_parts; i++)
        rc = describe_part(m, &p, i, e);
    if (!rc)
        rc = cmd_run_plan(m->c, &p, e);
    pq_plan_release(&p);
    return rc;
}

static int describe_result(struct maker *m, struct pq_error *e)
{
    const struct pq_catalog *b = m->b->catalog;

    if (pq_catalog_copy_meta(&m->delta.result, b, e))
        return -1;
    for (size_t i = 0; i < b->n_tensors; i++)
        if (!pq_tensor_copy(&m->delta.result, &b->tensors[i], e))
            return -1;
    m->delta.base_digest = m->stats_a.model_digest;
    m->delta.result_digest = m->stats_b.model_digest;
    const int rc = pq_delta_store(&m->delta, m->a->catalog, &m->out, e);
    pq_catalog_release(&m->delta.result); /* large, and no longer needed */
    return rc;
}

/* ---- the delta itself -------------------------------------------------- */

static int add_steps(struct maker *m, struct pq_plan *p, struct pq_error *e)
{
    size_t tensor = 0;

    for (size_t i = 0; i < m->delta.n_parts; i++) {
        const struct pq_delta_part *d = &m->delta.parts[i];
        const struct pq_part *b = m->parts_b[i];
        int rc = 0;
        if (d->how == PQ_DELTA_WHOLE)
            rc = pq_step_copy_part(p, m->b, b, b->name, tensor++, 0, e);
        else if (d->how != PQ_DELTA_SAME)
            rc = pq_step_delta(p, b->name, m->a, m->parts_a[m->from[i]], m->b,
                               b, d->how, tensor++, e);
        if (rc)
            return -1;
    }
    return 0;
}

static void say(const struct maker *m)
{
    static const char *const how[] = {"same", "xor", "difference", "whole"};

    for (size_t i = 0; m->c->verbose > 0 && i < m->delta.n_parts; i++)
        cmd_msg(m->c, "%s: %s", m->parts_b[i]->name,
                how[m->delta.parts[i].how]);
}

static int write_delta(struct maker *m, int level, struct pq_error *e)
{
    const struct pq_write_options w = {.level = level};
    struct pq_source *sources[] = {m->a, m->b};
    struct pq_plan p = {.sources = sources, .n_sources = 2};
    int rc = cmd_make_sink(m->c, &m->out, &w, m->a->catalog, &p.sink, e);

    if (!rc)
        rc = add_steps(m, &p, e);
    if (!rc)
        rc = cmd_run_plan(m->c, &p, e);
    if (!rc)
        say(m);
    pq_sink_free(p.sink);
    pq_plan_release(&p);
    return rc;
}

/* The digests of a model; of single tensors nobody wants to know more. */
static int digest(struct maker *m, struct pq_source *s, struct cmd_stats *st,
                  struct pq_error *e)
{
    const int rc = cmd_stats_run(m->c, s, st, e);

    free(st->tensors);
    st->tensors = NULL;
    return rc;
}

static int make(struct maker *m, int level, struct pq_error *e)
{
    if (cmd_open_kept(m->c, 0, &m->a, e) || cmd_open_kept(m->c, 1, &m->b, e) ||
        digest(m, m->a, &m->stats_a, e) || digest(m, m->b, &m->stats_b, e))
        return -1;
    if (join_parts(m, e) || choose(m, e) || describe_result(m, e))
        return -1;
    return write_delta(m, level, e);
}

int cmd_make_delta(struct cmd *c, const char *path, int level,
                   struct pq_error *e)
{
    struct maker m = {.c = c, .stats_a.digest = true, .stats_b.digest = true};

    if (cmd_check_outside(c, path, e))
        return -1;
    c->output = path;
    c->output_format = pq_format_pqstream.name;
    pq_delta_init(&m.delta);
    pq_catalog_init(&m.out);
    const int rc = make(&m, level, e);
    pq_delta_release(&m.delta);
    pq_catalog_release(&m.out);
    cmd_stats_release(&m.stats_a);
    cmd_stats_release(&m.stats_b);
    pq_source_free(m.a);
    pq_source_free(m.b);
    free(m.parts_a);
    free(m.parts_b);
    free(m.from);
    return rc;
}
