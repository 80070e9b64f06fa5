/*
 * pq-merge --recipe: which layers of which models the output has, for its
 * config.json.
 */
#include "layers.h"
#include "merge_recipe.h"

#include <stdlib.h>

static size_t count_layers(const struct recipe_job *r)
{
    uint64_t n = 0;

    for (size_t i = 0; i < r->recipe.n; i++)
        n += r->runs[i].layers;
    return (size_t)n;
}

/* Does every layer keep its number, and are these all? */
static bool as_it_was(const struct recipe_job *r)
{
    const struct merge_model *donor =
        &r->models.list[r->models.base < r->models.n ? r->models.base : 0];
    uint64_t next = 0;

    for (size_t i = 0; i < r->recipe.n; i++) {
        if (r->runs[i].parts[0].first != next)
            return false;
        next += r->runs[i].layers;
    }
    return next == (uint64_t)donor->n_layers;
}

/* A layer is taken for one of the first model of its slice. */
int recipe_set_layers(const struct recipe_job *r, struct pq_error *e)
{
    if (!r->recipe.sliced || as_it_was(r))
        return 0;
    const size_t n = count_layers(r);
    struct cmd_layer *layers = pq_alloc(n, sizeof *layers);
    if (!layers)
        return pq_fail_nomem(e);
    struct cmd_layer *to = layers;
    for (size_t i = 0; i < r->recipe.n; i++)
        for (uint64_t k = 0; k < r->runs[i].layers; k++, to++) {
            const struct recipe_part *p = &r->runs[i].parts[0];
            to->source = r->models.list[p->model].opened;
            to->number = p->first + k;
        }
    const int rc = cmd_config_set_layers(&r->j->out, layers, n, e);
    free(layers);
    return rc;
}
