/*
 * Which layers go, and config.json without them.
 */
#include "config.h"
#include "layers.h"
#include "pq_json.h"
#include "shrink.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

int shrink_check_layers(const struct shrink *s, const struct shrink_range *r,
                        struct pq_error *e)
{
    if (r->last == UINT64_MAX)
        return 0;
    for (uint64_t i = r->first; i <= r->last; i++)
        if (i >= s->n_layers || !s->layers[i].there)
            return pq_fail(e, PQ_EARG,
                           "%s: has no layer %llu; the last one is %zu",
                           s->in->name, (unsigned long long)i,
                           s->n_layers - 1);
    return 0;
}

/* Does config.json speak of the layers that the tensors are in? */
static int check_count(const struct shrink *s, struct pq_error *e)
{
    uint64_t n = 0;

    if (cmd_config_layers(s->in->catalog, &n, e) && n != s->n_layers)
        return pq_fail(e, PQ_EFORMAT,
                       "%s: config.json: says %llu layers, the tensors are of "
                       "%zu",
                       s->in->name, (unsigned long long)n, s->n_layers);
    return e->code ? -1 : 0;
}

/* What makes layers differ by their number alone; more than `most` does. */
static const struct {
    const char *key;
    uint64_t most;
} by_number[] = {
    {"sliding_window_pattern", 1},  {"decoder_sparse_step", 1},
    {"first_k_dense_replace", 0},   {"moe_layer_freq", 1},
    {"attn_layer_period", 1},       {"expert_layer_period", 1},
    {"interleave_moe_layer_step", 1}, {"no_rope_layer_interval", 0},
    {"full_attention_interval", 1}, {"cross_attention_freq", 0},
};
static const char *const types_by_number[] = {"gemma2", "gemma3_text",
                                              "cohere2", "gpt_oss"};

static int refuse_key(const struct shrink *s, const char *key,
                      struct pq_error *e)
{
    return pq_fail(e, PQ_EUNSUPPORTED,
                   "%s: config.json: with %s a layer is what its number says; "
                   "such layers cannot be dropped",
                   s->in->name, key);
}

/* Would layers change what they do when they change their number? */
static int check_numbers(const struct shrink *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->in->catalog;
    const bool listed = cmd_config_has(c, "layer_types", e);
    char type[64] = "";
    uint64_t n;

    if (cmd_config_true(c, "scale_attn_by_inverse_layer_idx", e))
        return refuse_key(s, "scale_attn_by_inverse_layer_idx", e);
    for (size_t i = 0; i < sizeof by_number / sizeof *by_number; i++)
        if (!listed && cmd_config_number(c, by_number[i].key, &n, e) &&
            n > by_number[i].most)
            return refuse_key(s, by_number[i].key, e);
    (void)cmd_config_string(c, "model_type", type, sizeof type, e);
    for (size_t i = 0;
         i < sizeof types_by_number / sizeof *types_by_number; i++)
        if (!listed && strcmp(type, types_by_number[i]) == 0)
            return refuse_key(s, type, e);
    return e->code ? -1 : 0;
}

static int mark(struct shrink *s, const struct shrink_range *r,
                struct pq_error *e)
{
    if (shrink_check_layers(s, r, e))
        return -1;
    for (uint64_t i = r->first; i <= r->last && i < s->n_layers; i++) {
        s->n_left -= s->layers[i].there && !s->layers[i].gone;
        s->layers[i].gone = s->layers[i].there;
    }
    return 0;
}

int shrink_choose_layers(struct shrink *s, struct pq_error *e)
{
    const char *text = s->o->layers;
    struct shrink_item item;
    int rc;

    if (check_count(s, e))
        return -1;
    if (!text)
        return 0;
    if (check_numbers(s, e))
        return -1;
    while ((rc = shrink_next(&text, false, &item, e)) > 0)
        if (mark(s, &item.layers, e))
            return -1;
    if (!rc && s->n_left == 0)
        rc = pq_fail(e, PQ_EARG, "%s: no layer would be left", s->in->name);
    return rc;
}

/* The new numbers: every layer moves down by what is gone before it. */
static int rename_layers(struct shrink *s, const size_t *number,
                         struct pq_error *e)
{
    struct pq_catalog *c = s->view->catalog;
    const char *end;

    for (size_t i = 0; i < c->n_tensors; i++) {
        struct pq_tensor *t = &c->tensors[i];
        const long old = pq_name_layer(t->name, &end);
        if (old < 0 || number[old] == (size_t)old)
            continue;
        const size_t room = strlen(t->name) + 32;
        char *name = pq_arena_alloc(&c->arena, room, 1);
        if (!name || !pq_name_set_layer(t->name, number[old], name, room))
            return pq_fail_nomem(e);
        t->name = name;
        for (size_t k = 0; k < t->n_parts; k++) {
            const size_t n = strlen(t->parts[k].name) + 32;
            char *part = pq_arena_alloc(&c->arena, n, 1);
            if (!part ||
                !pq_name_set_layer(t->parts[k].name, number[old], part, n))
                return pq_fail_nomem(e);
            t->parts[k].name = part;
        }
    }
    return 0;
}

/* ---- quantization_config ------------------------------------------------ */

/* Finds the text of a value at the top level of config.json. */
static bool find_value(const struct pq_blob *b, const char *key,
                       const char **text, size_t *n, struct pq_error *e)
{
    struct pq_json j;

    pq_json_init(&j, b->data, (size_t)b->bytes, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return false;
    while (pq_json_next(&j) == PQ_JSON_KEY) {
        const bool is = pq_json_is(&j, key);
        const enum pq_json_type t = pq_json_next(&j);
        const size_t start = j.start;
        if (pq_json_skip(&j, t))
            return false;
        if (!is)
            continue;
        *text = (const char *)b->data + start;
        *n = j.at - start;
        return t == PQ_JSON_OBJECT;
    }
    return false;
}

/* A module's name under its new number; none if its layer is gone. */
static void put_module(const struct shrink *s, const size_t *number,
                       const char *name, struct pq_buf *b)
{
    const size_t n = strlen(name), room = n + 32;
    char *old = pq_alloc(n + 2, 1), *to = pq_alloc(room, 1);
    const char *end;

    if (old && to) {
        /* "model.layers.3" alone is a name, too */
        snprintf(old, n + 2, "%s.", name);
        const long layer = pq_name_layer(old, &end);
        const bool known = layer >= 0 && (size_t)layer < s->n_layers;
        if (known && pq_name_set_layer(old, number[layer], to, room))
            to[strlen(to) - 1] = '\0';
        if (!known || !s->layers[layer].gone) {
            pq_buf_puts(b, b->n > 1 ? ", " : "");
            pq_json_quote(b, known ? to : name);
        }
    } else {
        b->failed = true;
    }
    free(old);
    free(to);
}

/* The modules that bitsandbytes leaves alone are listed by name. */
static int set_skipped(struct shrink *s, const size_t *number,
                       struct pq_error *e)
{
    static const char key[] = "quantization_config",
                      skipped[] = "llm_int8_skip_modules";
    const struct pq_blob *blob =
        pq_catalog_blob(s->view->catalog, "config.json");
    struct pq_buf list = {0}, out = {0};
    const char *text;
    size_t n;

    if (!blob || !find_value(blob, key, &text, &n, e))
        return e->code ? -1 : 0;
    cJSON *j = cJSON_ParseWithLength(text, n);
    const cJSON *names = cJSON_GetObjectItemCaseSensitive(j, skipped), *name;
    int rc = j ? 0 : pq_fail_nomem(e);
    pq_buf_puts(&list, "[");
    cJSON_ArrayForEach(name, names)
        if (cJSON_IsString(name))
            put_module(s, number, name->valuestring, &list);
    pq_buf_puts(&list, "]");
    if (cJSON_IsArray(names))
        rc = list.failed ? pq_fail_nomem(e)
                         : pq_json_edit(text, n, skipped, list.s, &out, e) ||
                               cmd_config_set(s->view->catalog, key, out.s, e);
    cJSON_Delete(j);
    pq_buf_release(&list);
    pq_buf_release(&out);
    return rc ? -1 : 0;
}

int shrink_set_layers(struct shrink *s, struct pq_error *e)
{
    struct cmd_layer *layers = pq_alloc(s->n_layers, sizeof *layers);
    size_t *number = pq_alloc(s->n_layers, sizeof *number);
    size_t n = 0;
    int rc = layers && number ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < s->n_layers; i++) {
        number[i] = n;
        if (!s->layers[i].gone)
            layers[n++] = (struct cmd_layer){s->in, i};
    }
    if (!rc && n < s->n_layers)
        rc = rename_layers(s, number, e) ||
             cmd_config_set_layers(s->view->catalog, layers, n, e) ||
             set_skipped(s, number, e);
    free(layers);
    free(number);
    return rc ? -1 : 0;
}
