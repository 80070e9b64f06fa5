/*
 * config.json of a model whose layers were taken from here and there: their
 * number, and lists with an entry a layer, which follow their layers.
 */
#include "layers.h"
#include "config.h"
#include "pq_json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

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

/* The output's catalogue and what its layers were. */
struct moved {
    struct pq_catalog *out;
    const struct cmd_layer *layers;
    size_t n;
};

bool cmd_config_layers(const struct pq_catalog *c, uint64_t *n,
                       struct pq_error *e)
{
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (cmd_config_number(c, counts[i], n, e) || e->code)
            return !e->code;
    return false;
}

/* ---- lists ---------------------------------------------------------- */

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

/*
 * The entries of the layers from `i` on that come from the same model as that
 * one, from its config; *next is the first that does not.
 */
static int put_run(const struct moved *m, size_t i, const char *key,
                   struct pq_buf *b, size_t *next, struct pq_error *e)
{
    const struct pq_source *s = m->layers[i].source;
    cJSON *j = cmd_config_parse(s->catalog, e);
    const cJSON *list =
        j ? cJSON_GetObjectItemCaseSensitive(j, key) : NULL;
    int rc = e->code ? -1 : 0;

    for (; !rc && i < m->n && m->layers[i].source == s; i++)
        rc = put_item(list, m->layers[i].number, b, e);
    cJSON_Delete(j);
    *next = i;
    return rc ? pq_error_in(e, "%s: config.json: %s", s->name, key) : 0;
}

static int set_list(const struct moved *m, const char *key, struct pq_error *e)
{
    struct pq_buf b = {0};
    int rc = 0;

    pq_buf_puts(&b, "[");
    for (size_t i = 0; !rc && i < m->n;)
        rc = put_run(m, i, key, &b, &i, e);
    pq_buf_puts(&b, "]");
    if (!rc && b.failed)
        rc = pq_fail_nomem(e);
    if (!rc)
        rc = cmd_config_set(m->out, key, b.s, e);
    pq_buf_release(&b);
    return rc;
}

/* ---- keys ----------------------------------------------------------- */

/*
 * max_window_layers: layers from this number on have a window.  If those
 * come first here, only layer_types could say so.
 */
static int set_window(const struct moved *m, const cJSON *config,
                      const cJSON *item, struct pq_error *e)
{
    const bool used = cJSON_IsTrue(
        cJSON_GetObjectItemCaseSensitive(config, "use_sliding_window"));
    size_t full = 0;

    while (full < m->n &&
           (double)m->layers[full].number < item->valuedouble)
        full++;
    for (size_t i = full; i < m->n && used; i++)
        if ((double)m->layers[i].number < item->valuedouble)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "config.json: layers that move are not supported "
                           "by pq where max_window_layers would have to "
                           "divide them twice");
    return cmd_config_set_number(m->out, item->string, full, e);
}

static int set_key(const struct moved *m, const cJSON *config,
                   const cJSON *item, bool *counted, struct pq_error *e)
{
    const char *key = item->string;
    const bool filled = cJSON_IsArray(item) && cJSON_GetArraySize(item) > 0;

    if (IS_IN(counts, key) && cJSON_IsNumber(item)) {
        *counted = true;
        return cmd_config_set_number(m->out, key, m->n, e);
    }
    if (strcmp(key, "max_window_layers") == 0 && cJSON_IsNumber(item))
        return set_window(m, config, item, e);
    if (filled && IS_IN(lists, key))
        return set_list(m, key, e);
    if (filled && strstr(key, "layer"))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "config.json: layers that move are not supported by pq "
                       "with a list of %s",
                       key);
    return 0;
}

int cmd_config_set_layers(struct pq_catalog *out,
                          const struct cmd_layer *layers, size_t n,
                          struct pq_error *e)
{
    const struct moved m = {out, layers, n};
    cJSON *j = cmd_config_parse(out, e);
    const cJSON *item;
    bool counted = false;
    int rc = 0;

    if (!j)
        return e->code ? -1 : 0;
    cJSON_ArrayForEach(item, j)
        if (!rc && item->string)
            rc = set_key(&m, j, item, &counted, e);
    cJSON_Delete(j);
    if (!rc && !counted)
        rc = pq_fail(e, PQ_EUNSUPPORTED,
                     "config.json: has no number of layers to set");
    return rc;
}
