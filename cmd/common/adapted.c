/*
 * Opening a model with adapters; see adapted.h.
 */
#include "adapted.h"
#include "merge.h"
#include "pq_made.h"

#include <stdlib.h>

static int take_adapter(struct merge_job *j, const char *given,
                        struct pq_error *e)
{
    struct merge_input *in = &j->inputs[j->n_inputs];

    if (merge_split_weight(&j->arena, given, in, e) ||
        pq_open_model(in->path, &cmd_cancel, &in->source, e))
        return -1;
    j->n_inputs++;
    in->adapter = pq_peft_is_adapter(in->source->catalog);
    if (!in->adapter)
        return pq_fail(e, PQ_EARG, "%s: is no adapter", in->path);
    return merge_read_adapter(j, in, e);
}

static int take_all(struct merge_job *j, const struct cmd_list *adapters,
                    struct pq_error *e)
{
    j->inputs = pq_zalloc(adapters->n + 1, sizeof *j->inputs);
    if (!j->inputs)
        return pq_fail_nomem(e);
    j->inputs[0].weight = 1;
    if (cmd_open_input(j->c, 0, &j->inputs[0].source, e))
        return -1;
    j->inputs[0].path = j->inputs[0].source->name;
    j->n_inputs = j->n_models = 1;
    if (pq_peft_is_adapter(j->inputs[0].source->catalog))
        return pq_fail(e, PQ_EARG, "%s: is an adapter, and no model",
                       j->inputs[0].path);
    for (size_t i = 0; i < adapters->n; i++)
        if (take_adapter(j, adapters->items[i], e))
            return -1;
    return 0;
}

static int fold(struct merge_job *j, struct pq_error *e)
{
    size_t n = 0;

    for (size_t i = 0; i < j->n_inputs; i++)
        n += j->inputs[i].source->catalog->n_tensors;
    return pq_made_new(j->c->n_operands ? j->c->operands[0] : "-", n,
                       j->c->memory / 4, j->c->tmpdir, &j->into, e) ||
                   merge_fold(j, e) ||
                   pq_catalog_copy_meta(j->into->catalog, &j->out, e)
               ? -1
               : 0;
}

int cmd_open_adapted(struct cmd *c, const struct cmd_list *adapters,
                     struct pq_source **s, struct pq_error *e)
{
    const struct merge_options o = {
        .type_given = true, .type = "f32", .spec = {.dtype = PQ_F32}};
    struct merge_job j = {.c = c, .o = &o, .report = {.c = c, .type = o.type}};

    if (adapters->n == 0)
        return cmd_open_input(c, 0, s, e);
    j.quant.kernels = c->kernels;
    pq_catalog_init(&j.out);
    const int rc = take_all(&j, adapters, e) || fold(&j, e) ? -1 : 0;
    if (rc)
        pq_source_free(j.into);
    else
        *s = j.into;
    merge_release(&j);
    return rc;
}
