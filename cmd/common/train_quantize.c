/*
 * QLoRA on a model with plain weights: those of linear layers become NF4 with
 * double quantization, in memory (beyond the budget, in TMPDIR), as
 * pq-quantize -t nf4 --double-quant makes them; embeddings, head and norms
 * stay.
 */
#include "config.h"
#include "pq_made.h"
#include "pq_names.h"
#include "pq_quant.h"
#include "training.h"

#include <stdlib.h>

struct turning {
    struct train *t;
    struct pq_plan plan;
    struct pq_catalog out;
    struct pq_quant quant;
    bool conv1d;
};

static int add(struct turning *x, const struct pq_tensor *in,
               struct pq_error *e)
{
    const struct pq_spec nf4 = {
        .encoding = PQ_NF4, .block = 64, .double_quant = true};
    struct pq_source *from = x->t->model;
    const size_t i = x->out.n_tensors;

    if (in->rank != 2 || !pq_name_is_linear(in->name) ||
        !pq_dtype_is_float(in->dtype))
        return !pq_tensor_copy(&x->out, in, e) ||
                       pq_step_copy(&x->plan, from, in, i, e)
                   ? -1
                   : 0;
    const bool turn = x->conv1d && pq_name_is_conv1d(in->name);
    return pq_quant_declare(&x->out, in, &nf4, turn, e) &&
                   pq_step_encode(&x->plan, from, in, &x->out, i, &nf4, turn,
                                  &x->quant, e)
               ? 0
               : -1;
}

static int run(struct turning *x, struct pq_source **made, struct pq_error *e)
{
    struct train *t = x->t;
    const struct pq_catalog *in = t->model->catalog;
    const struct pq_tensor *first;
    size_t parts = 0;
    bool mixed;

    if (pq_catalog_reserve(&x->out, in->n_tensors, e))
        return -1;
    x->conv1d = cmd_config_has_conv1d(in, e);
    for (size_t i = 0; i < in->n_tensors; i++)
        if (e->code || add(x, &in->tensors[i], e))
            return -1;
    for (size_t i = 0; i < x->out.n_tensors; i++)
        parts += x->out.tensors[i].n_parts;
    x->plan.sources = &t->model;
    x->plan.n_sources = 1;
    return pq_made_new(t->model->name, parts, t->c->memory / 2, t->c->tmpdir,
                       made, e) ||
                   pq_made_sink(*made, &x->out, &x->plan.sink, e) ||
                   cmd_run_part(t->c, &x->plan, e) ||
                   pq_catalog_copy_meta((*made)->catalog, in, e) ||
                   cmd_fold(t->c, *made, e) ||
                   cmd_config_set_bnb((*made)->catalog, &first, &mixed, e)
               ? -1
               : 0;
}

int train_quantize(struct train *t, struct pq_error *e)
{
    struct turning x = {.t = t, .quant = {.kernels = t->c->kernels}};
    struct pq_source *made = NULL;

    pq_catalog_init(&x.out);
    const int rc = run(&x, &made, e);
    pq_sink_free(x.plan.sink);
    x.plan.sink = NULL;
    x.plan.sources = NULL;
    pq_plan_release(&x.plan);
    pq_catalog_release(&x.out);
    t->inner = made ? t->model : NULL;
    t->model = made ? made : t->model;
    return rc;
}
