/*
 * Reading and editing config.json; see config.h.
 */
#include "config.h"

#include "pq_json.h"
#include "pq_names.h"

#include <cjson/cJSON.h>
#include <string.h>

static const char config_name[] = "config.json";

/* The parsed config, or NULL: there is none, or *e says why not. */
static cJSON *parse(const struct pq_catalog *c, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(c, config_name);

    if (!b)
        return NULL;
    if (pq_json_check(b->data, (size_t)b->bytes, e)) {
        pq_error_in(e, "%s", config_name);
        return NULL;
    }
    cJSON *j = cJSON_ParseWithLength(b->data, (size_t)b->bytes);
    if (!j || !cJSON_IsObject(j)) {
        pq_fail(e, PQ_EFORMAT, "%s: is not a JSON object", config_name);
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

bool cmd_config_string(const struct pq_catalog *c, const char *key,
                       char *value, size_t n, struct pq_error *e)
{
    cJSON *j = parse(c, e);
    const char *s =
        j ? cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, key))
          : NULL;
    const bool fits = s && strlen(s) < n;

    if (fits)
        memcpy(value, s, strlen(s) + 1);
    cJSON_Delete(j);
    return fits;
}

int cmd_config_set(struct pq_catalog *c, const char *key, const char *json,
                   struct pq_error *e)
{
    struct pq_blob *b = pq_catalog_blob(c, config_name);
    struct pq_buf out = {0};

    if (!b)
        return 0;
    int rc = pq_json_edit(b->data, (size_t)b->bytes, key, json, &out, e);
    if (!rc) {
        const char *text = pq_arena_strndup(&c->arena, out.s, out.n);
        if (text) {
            b->data = text;
            b->bytes = out.n;
        } else {
            rc = pq_fail_nomem(e);
        }
    } else {
        pq_error_in(e, "%s", config_name);
    }
    pq_buf_release(&out);
    return rc;
}

int cmd_config_set_dtype(struct pq_catalog *c, enum pq_dtype t,
                         struct pq_error *e)
{
    char old[32], json[32];

    snprintf(json, sizeof json, "\"%s\"", pq_dtype_torch_name(t));
    const bool torch = cmd_config_string(c, "torch_dtype", old, sizeof old, e);
    const bool plain = cmd_config_string(c, "dtype", old, sizeof old, e);
    if (torch && cmd_config_set(c, "torch_dtype", json, e))
        return -1;
    return plain || !torch ? cmd_config_set(c, "dtype", json, e) : 0;
}

bool cmd_config_has_conv1d(const struct pq_catalog *c, struct pq_error *e)
{
    char type[64];

    if (!pq_catalog_blob(c, config_name))
        return true;
    return cmd_config_string(c, "model_type", type, sizeof type, e) &&
           pq_model_has_conv1d(type);
}

bool cmd_config_quant_method(const struct pq_catalog *c, char *method,
                             size_t n, struct pq_error *e)
{
    cJSON *j = parse(c, e);
    const cJSON *q =
        j ? cJSON_GetObjectItemCaseSensitive(j, "quantization_config") : NULL;
    const char *s = cJSON_IsObject(q)
                        ? cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(
                              q, "quant_method"))
                        : NULL;
    const bool fits = s && strlen(s) < n;

    if (fits)
        memcpy(method, s, strlen(s) + 1);
    cJSON_Delete(j);
    return fits;
}

int cmd_config_refuse_foreign(const struct pq_source *s, struct pq_error *e)
{
    char method[64];

    if (cmd_config_quant_method(s->catalog, method, sizeof method, e) &&
        strcmp(method, "bitsandbytes") != 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: config.json: is quantized with %s, which pq does "
                       "not decode",
                       s->name, method);
    return e->code ? -1 : 0;
}
