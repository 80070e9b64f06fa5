/*
 * Reading and editing config.json; see config.h.
 */
#include "config.h"

#include "pq_json.h"
#include "pq_names.h"

#include <cjson/cJSON.h>
#include <string.h>

static const char config_name[] = "config.json";

cJSON *cmd_config_parse(const struct pq_catalog *c, struct pq_error *e)
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
    cJSON *j = cmd_config_parse(c, e);
    const char *s =
        j ? cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, key))
          : NULL;
    const bool fits = s && strlen(s) < n;

    if (fits)
        memcpy(value, s, strlen(s) + 1);
    cJSON_Delete(j);
    return fits;
}

bool cmd_config_has(const struct pq_catalog *c, const char *key,
                    struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
    const bool has = j && cJSON_GetObjectItemCaseSensitive(j, key);

    cJSON_Delete(j);
    return has;
}

bool cmd_config_true(const struct pq_catalog *c, const char *key,
                     struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
    const bool yes =
        j && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(j, key));

    cJSON_Delete(j);
    return yes;
}

bool cmd_config_number(const struct pq_catalog *c, const char *key,
                       uint64_t *value, struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
    const cJSON *item = j ? cJSON_GetObjectItemCaseSensitive(j, key) : NULL;
    const double v = cJSON_IsNumber(item) ? item->valuedouble : -1;
    const bool whole = v >= 0 && v <= 0x1p53 && v == (double)(uint64_t)v;

    if (whole)
        *value = (uint64_t)v;
    cJSON_Delete(j);
    return whole;
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

int cmd_config_set_number(struct pq_catalog *c, const char *key,
                          uint64_t value, struct pq_error *e)
{
    char json[24];

    snprintf(json, sizeof json, "%llu", (unsigned long long)value);
    return cmd_config_set(c, key, json, e);
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

/* A model that writes text: only those have a head that may be tied. */
static bool writes_text(const cJSON *j, bool *known)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(j, "architectures");
    const char *a = cJSON_GetStringValue(cJSON_GetArrayItem(list, 0));

    *known = a != NULL;
    return a && (strstr(a, "CausalLM") || strstr(a, "LMHead") ||
                 strstr(a, "ConditionalGeneration"));
}

int cmd_config_tied(const struct pq_catalog *c, struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
    const cJSON *tie =
        cJSON_GetObjectItemCaseSensitive(j, "tie_word_embeddings");
    bool known;
    const bool text = writes_text(j, &known);
    const int tied = !j || cJSON_IsFalse(tie) || (known && !text) ? 0
                     : cJSON_IsTrue(tie)                           ? 1
                     : text                                        ? 2
                                                                   : 0;

    cJSON_Delete(j);
    return tied;
}

bool cmd_config_writes_text(const struct pq_catalog *c, struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
    bool known;
    const bool text = writes_text(j, &known);

    cJSON_Delete(j);
    return text;
}

bool cmd_config_has_conv1d(const struct pq_catalog *c, struct pq_error *e)
{
    char type[64];

    if (!pq_catalog_blob(c, config_name))
        return true;
    return cmd_config_string(c, "model_type", type, sizeof type, e) &&
           pq_model_has_conv1d(type);
}

/* Does it say that the experts of a layer are stored [in, out]? */
static bool has_turned_experts(const struct pq_catalog *c, struct pq_error *e)
{
    char type[64];

    return cmd_config_string(c, "model_type", type, sizeof type, e) &&
           pq_model_has_turned_experts(type);
}

/*
 * The quant_method of its quantization_config into `method` (room for n
 * bytes); false when there is none.
 */
static bool quant_method(const struct pq_catalog *c, char *method, size_t n,
                         struct pq_error *e)
{
    cJSON *j = cmd_config_parse(c, e);
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

    if (quant_method(s->catalog, method, sizeof method, e) &&
        strcmp(method, "bitsandbytes") != 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: config.json: is quantized with %s, which pq does "
                       "not decode",
                       s->name, method);
    return e->code ? -1 : 0;
}

/* ---- quantization_config ------------------------------------------------ */

/* Modules of 2-D weights that stay as they are, as a JSON array. */
static void put_skipped(const struct pq_catalog *c, struct pq_buf *b)
{
    /* lm_head is named even where it is tied and not in the file */
    pq_buf_puts(b, "[\"lm_head\"");
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        const size_t n = pq_name_module(t->name);
        const bool linear = t->rank == 2 && pq_name_is_weight(t->name) &&
                            !pq_name_is_embedding(t->name);
        if (t->codec.encoding != PQ_PLAIN || !linear ||
            n == 0 || (n == 7 && memcmp(t->name, "lm_head", n) == 0))
            continue;
        struct pq_buf module = {0};
        pq_buf_add(&module, t->name, n);
        pq_buf_puts(b, ", ");
        if (!module.failed)
            pq_json_quote(b, module.s);
        pq_buf_release(&module);
    }
    pq_buf_puts(b, "]");
}

static void put_bnb(const struct pq_catalog *c, const struct pq_tensor *t,
                    struct pq_buf *b)
{
    const enum pq_encoding enc = t->codec.encoding;
    const bool four = enc != PQ_INT8;

    pq_buf_puts(b, "{\n    \"_load_in_4bit\": ");
    pq_buf_puts(b, four ? "true" : "false");
    pq_buf_puts(b, ",\n    \"_load_in_8bit\": ");
    pq_buf_puts(b, four ? "false" : "true");
    pq_buf_printf(b, ",\n    \"bnb_4bit_compute_dtype\": \"%s\"",
                  four ? pq_dtype_torch_name(t->dtype) : "float32");
    pq_buf_puts(b, ",\n    \"bnb_4bit_quant_storage\": \"uint8\"");
    pq_buf_printf(b, ",\n    \"bnb_4bit_quant_type\": \"%s\"",
                  four ? pq_encoding_name(enc) : "fp4");
    pq_buf_printf(b, ",\n    \"bnb_4bit_use_double_quant\": %s",
                  four && t->codec.nested_block ? "true" : "false");
    pq_buf_puts(b, ",\n    \"llm_int8_enable_fp32_cpu_offload\": false"
                   ",\n    \"llm_int8_has_fp16_weight\": false"
                   ",\n    \"llm_int8_skip_modules\": ");
    put_skipped(c, b);
    pq_buf_printf(b, ",\n    \"llm_int8_threshold\": 6.0"
                     ",\n    \"load_in_4bit\": %s,\n    \"load_in_8bit\": %s"
                     ",\n    \"quant_method\": \"bitsandbytes\"\n  }",
                  four ? "true" : "false", four ? "false" : "true");
}

/* The first tensor that the libraries will find encoded, or NULL. */
static const struct pq_tensor *first_encoded(const struct pq_catalog *c,
                                             bool *mixed)
{
    const struct pq_tensor *first = NULL;

    *mixed = false;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        if (t->codec.encoding == PQ_PLAIN)
            continue;
        if (!first)
            first = t;
        else if (first->codec.encoding != t->codec.encoding)
            *mixed = true;
    }
    return first;
}

int cmd_config_set_bnb(struct pq_catalog *c, const struct pq_tensor **first,
                       bool *mixed, struct pq_error *e)
{
    const struct pq_tensor *t = *first = first_encoded(c, mixed);
    struct pq_buf b = {0};

    if (!t || t->codec.encoding == PQ_INT8_BLOCK)
        return cmd_config_set(c, "quantization_config", NULL, e);
    put_bnb(c, t, &b);
    const int rc = b.failed
                       ? pq_fail_nomem(e)
                       : cmd_config_set(c, "quantization_config", b.s, e);
    pq_buf_release(&b);
    return rc;
}

int cmd_config_places(struct pq_peft_places *w, const struct pq_source *base,
                      struct pq_error *e)
{
    w->base = base->catalog;
    w->has_config = pq_catalog_blob(w->base, "config.json") != NULL;
    w->has_conv1d = cmd_config_has_conv1d(w->base, e);
    w->experts_in_out = has_turned_experts(w->base, e);
    const int tied = cmd_config_tied(w->base, e);
    if (e->code || cmd_config_refuse_foreign(base, e) ||
        pq_peft_places_init(w, e))
        return -1;
    w->tied = tied == 1 || (tied == 2 && w->head == SIZE_MAX);
    return 0;
}

void cmd_tell_parts(const struct cmd *c, const struct pq_peft_places *w)
{
    if (c->verbose)
        cmd_msg(c, "%zu tensors: what PiSSA or OLoRA took out was found",
                w->n_parts);
    if (w->left > 1e-3 && !c->quiet)
        cmd_msg(c,
                "warning: tensor %s: its singular values hardly fall, so what "
                "PiSSA took out of it is found to about %.2g only",
                w->left_name, w->left);
}

void cmd_tell_start(const struct cmd *c, const struct pq_peft *p)
{
    if (p->init == PQ_INIT_PISSA_NITER && !c->quiet)
        cmd_msg(c,
                "warning: %s: what %s took out of the base depended on "
                "random numbers that are not saved; the merge is as near as "
                "the singular values of the base fall",
                p->source->name, p->init_name);
}
