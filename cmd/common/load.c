/*
 * Adapters are read here and there, a factor at a time, in the order of the
 * model that they go into.  What can only be read from one end to the other,
 * a .pq or a pipe, is copied first: to memory as far as the budget goes, to
 * TMPDIR beyond.  Its checksums are verified by that.
 */
#include "cmd.h"
#include "pq_made.h"
#include "pq_quant.h"

int cmd_copy(struct cmd *c, struct pq_source *from,
             bool (*wants)(const void *arg, const struct pq_tensor *t),
             const void *arg, struct pq_source *to, struct pq_error *e)
{
    struct pq_plan plan = {.sources = &from, .n_sources = 1};
    struct pq_catalog out;
    int rc = 0;

    pq_catalog_init(&out);
    for (size_t i = 0; !rc && i < from->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &from->catalog->tensors[i];
        if (!wants || wants(arg, t))
            rc = !pq_tensor_copy(&out, t, e) ||
                 pq_step_copy(&plan, from, t, out.n_tensors - 1, e);
    }
    rc = rc || pq_made_sink(to, &out, &plan.sink, e) ||
                 cmd_run_part(c, &plan, e)
             ? -1
             : 0;
    pq_sink_free(plan.sink);
    plan.sink = NULL;
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    return rc;
}

static int check_plain(const struct pq_source *s, struct pq_error *e)
{
    for (size_t i = 0; i < s->catalog->n_tensors; i++)
        if (s->catalog->tensors[i].codec.encoding != PQ_PLAIN)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: is encoded; dequantize the adapter "
                           "first",
                           s->name, s->catalog->tensors[i].name);
    return 0;
}

int cmd_load(struct cmd *c, struct pq_source **s, struct pq_error *e)
{
    struct pq_source *from = *s, *to = NULL;
    const uint64_t share = c->memory / 8;

    if (!from->sequential)
        return 0;
    if (check_plain(from, e) ||
        pq_made_new(from->name, from->catalog->n_tensors, share, c->tmpdir,
                    &to, e))
        return -1;
    c->memory -= share;
    if (cmd_copy(c, from, NULL, NULL, to, e) ||
        pq_catalog_copy_meta(to->catalog, from->catalog, e)) {
        pq_source_free(to);
        return -1;
    }
    to->format = from->format;
    to->total_bytes = from->total_bytes;
    pq_source_free(from);
    *s = to;
    return 0;
}
