/*
 * config.json of a model whose layers were taken from here and there: their
 * number, and lists with an entry a layer, which follow their layers.
 */
#include "config.h"
#include "merge_recipe.h"
#include "pq_json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static const char config_json[] = "config.json";

static const char *const counts[] = {"num_hidden_layers", "n_layer",
                                     "num_layers", "n_layers"};
static const char *const lists[] = {"layer_types", "mlp_layer_types",
                                    "layers_block_type", "no_rope_layers"};

static bool is_in(const char *const *list, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], word) == 0)
            return true;
    return false;
}

#define IS_IN(list, word) is_in(list, sizeof list / sizeof *list, word)

/* The config of a model, or NULL: there is none, or *e says why not. */
static cJSON *config_of(const struct pq_source *s, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(s->catalog, config_json);

    if (!b || pq_json_check(b->data, (size_t)b->bytes, e))
        return NULL;
    return cJSON_ParseWithLength(b->data, (size_t)b->bytes);
}

static uint64_t count_layers(const struct recipe_job *r)
{
    uint64_t n = 0;

    for (size_t i = 0; i < r->recipe.n; i++)
        n += r->runs[i].layers;
    return n;
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

/* ---- lists ------------------------------------------------------------- */

static int put_item(const cJSON *list, uint64_t layer, struct pq_buf *b,
                    struct pq_error *e)
{
    const cJSON *item = cJSON_GetArrayItem(list, (int)layer);

    if (!item || !(cJSON_IsString(item) || cJSON_IsNumber(item)))
        return pq_fail(e, PQ_EUNSUPPORTED, "has no entry for layer %llu",
                       (unsigned long long)layer);
    pq_buf_puts(b, b->n > 1 ? ", " : "");
    if (cJSON_IsString(item))
        pq_json_quote(b, item->valuestring);
    else
        pq_json_put_f64(b, item->valuedouble);
    return 0;
}

/* The entries of the layers of a slice, from the config of its first model. */
static int put_slice(const struct recipe_job *r, const struct recipe_run *run,
                     const char *key, struct pq_buf *b, struct pq_error *e)
{
    const struct recipe_part *p = &run->parts[0];
    const struct pq_source *s = r->models.list[p->model].opened;
    cJSON *j = config_of(s, e);
    const cJSON *list =
        j ? cJSON_GetObjectItemCaseSensitive(j, key) : NULL;
    int rc = e->code ? -1 : 0;

    for (uint64_t i = 0; !rc && i < run->layers; i++)
        rc = put_item(list, p->first + i, b, e);
    cJSON_Delete(j);
    return rc ? pq_error_in(e, "%s: config.json: %s", s->name, key) : 0;
}

static int set_list(const struct recipe_job *r, const char *key,
                    struct pq_error *e)
{
    struct pq_buf b = {0};
    int rc = 0;

    pq_buf_puts(&b, "[");
    for (size_t i = 0; !rc && i < r->recipe.n; i++)
        rc = put_slice(r, &r->runs[i], key, &b, e);
    pq_buf_puts(&b, "]");
    if (!rc && b.failed)
        rc = pq_fail_nomem(e);
    if (!rc)
        rc = cmd_config_set(&r->j->out, key, b.s, e);
    pq_buf_release(&b);
    return rc;
}

/* ---- keys -------------------------------------------------------------- */

static int set_key(const struct recipe_job *r, const cJSON *item,
                   bool *counted, struct pq_error *e)
{
    const char *key = item->string;
    const bool filled = cJSON_IsArray(item) && cJSON_GetArraySize(item) > 0;
    char number[32];

    if (IS_IN(counts, key) && cJSON_IsNumber(item)) {
        *counted = true;
        snprintf(number, sizeof number, "%llu",
                 (unsigned long long)count_layers(r));
        return cmd_config_set(&r->j->out, key, number, e);
    }
    if (filled && IS_IN(lists, key))
        return set_list(r, key, e);
    if (filled && strstr(key, "layer"))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "config.json: layers that move are not supported by pq "
                       "with a list of %s",
                       key);
    return 0;
}

int recipe_set_layers(const struct recipe_job *r, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(&r->j->out, config_json);
    bool counted = false;

    if (!r->recipe.sliced || !b || as_it_was(r))
        return 0;
    if (pq_json_check(b->data, (size_t)b->bytes, e))
        return pq_error_in(e, config_json);
    cJSON *j = cJSON_ParseWithLength(b->data, (size_t)b->bytes);
    const cJSON *item;
    int rc = 0;
    cJSON_ArrayForEach(item, j)
        if (!rc && item->string)
            rc = set_key(r, item, &counted, e);
    cJSON_Delete(j);
    if (!rc && !counted)
        rc = pq_fail(e, PQ_EUNSUPPORTED,
                     "config.json: has no number of layers to set");
    return rc;
}
