/*
 * Writing tensors that were made; see made.h.
 */
#include "made.h"
#include "pq_quant.h"

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
