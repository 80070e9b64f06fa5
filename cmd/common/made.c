/*
 * Writing tensors that were made; see made.h.
 */
#include "made.h"
#include "pq_made.h"
#include "pq_quant.h"

#include <math.h>
#include <stdlib.h>

int cmd_write_made(struct cmd *c, const char *path, struct pq_source *made,
                   struct pq_error *e)
{
    struct pq_plan p = {.sources = &made, .n_sources = 1};
    const struct pq_catalog *in = made->catalog;
    struct pq_catalog out;

    c->output = path;
    c->output_format =
        pq_format_for_path(path) ? NULL : pq_format_safetensors.name;
    pq_catalog_init(&out);
    int rc = pq_catalog_copy_meta(&out, in, e);
    for (size_t i = 0; !rc && i < in->n_tensors; i++)
        rc = pq_tensor_copy(&out, &in->tensors[i], e) ? 0 : -1;
    if (!rc)
        rc = cmd_make_sink(c, &out, NULL, in, &p.sink, e);
    for (size_t i = 0; !rc && i < in->n_tensors; i++)
        rc = pq_step_copy(&p, made, &in->tensors[i], i, e);
    if (!rc)
        rc = cmd_run_plan(c, &p, e);
    pq_sink_free(p.sink);
    pq_plan_release(&p);
    pq_catalog_release(&out);
    return rc;
}

/* ---- inputs ------------------------------------------------------------- */

static int add_norms(struct pq_source *made, const struct pq_nn_inputs *x,
                     struct pq_error *e)
{
    const uint64_t shape[1] = {x->in};
    float *norms = pq_alloc(x->in, sizeof *norms);

    if (!norms)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < x->in; i++)
        norms[i] = (float)sqrt(x->squares[i] / (double)x->tokens);
    const int rc =
        pq_made_add(made, x->weight, PQ_F32, shape, 1, norms, e) ? 0 : -1;
    free(norms);
    return rc;
}

static int add_hessian(struct pq_source *made, const struct pq_nn_inputs *x,
                       struct pq_error *e)
{
    const uint64_t shape[2] = {x->in, x->in};
    const size_t n = x->in * x->in; /* fits: the sums have this size */
    float *mean = pq_alloc(n, sizeof *mean);

    if (!mean)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++)
        mean[i] = (float)(x->products[i] / (double)x->tokens);
    const int rc =
        pq_made_add(made, x->weight, PQ_F32, shape, 2, mean, e) ? 0 : -1;
    free(mean);
    return rc;
}

static int add_all(struct pq_source *made, const struct pq_nn *nn,
                   struct pq_error *e)
{
    struct pq_nn_inputs x = {0};
    char tokens[32];

    for (size_t i = 0; pq_nn_watched(nn, i, &x); i++)
        if (x.products ? add_hessian(made, &x, e) : add_norms(made, &x, e))
            return -1;
    snprintf(tokens, sizeof tokens, "%llu", (unsigned long long)x.tokens);
    return pq_catalog_set(made->catalog, "pq.kind",
                          x.products ? "hessian" : "norms", e) ||
                   pq_catalog_set(made->catalog, "pq.tokens", tokens, e)
               ? -1
               : 0;
}

int cmd_write_inputs(struct cmd *c, const char *path, const struct pq_nn *nn,
                     struct pq_error *e)
{
    struct pq_source *made = NULL;
    struct pq_nn_inputs x;
    size_t n = 0;

    while (pq_nn_watched(nn, n, &x))
        n++;
    if (pq_made_new(path, n, c->memory / 2, c->tmpdir, &made, e))
        return -1;
    const int rc =
        add_all(made, nn, e) || cmd_write_made(c, path, made, e) ? -1 : 0;
    pq_source_free(made);
    return rc;
}
