/*
 * Chat templates: finding that of a model, and its special tokens.
 *
 *     chat_template.jinja       all of it
 *     tokenizer_config.json     "chat_template": "..."
 *                               "chat_template": [{"name": "default",
 *                                                  "template": "..."}, ..]
 *                               "bos_token": "<s>" or {"content": "<s>", ..}
 *     special_tokens_map.json   the same, for tokens that are not there
 */
#include "chat.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static const char config_name[] = "tokenizer_config.json";

static const cJSON *get(const cJSON *c, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(c, key);
}

/* A file as JSON, which is to be deleted; NULL where there is none. */
static int read_json(const struct pq_catalog *m, const char *name, cJSON **c,
                     struct pq_error *e)
{
    const struct pq_blob *const b = pq_catalog_blob(m, name);

    *c = NULL;
    if (!b)
        return 0;
    if (pq_json_check(b->data, (size_t)b->bytes, e))
        return pq_error_in(e, "%s", name);
    *c = cJSON_ParseWithLength(b->data, (size_t)b->bytes);
    return *c ? 0 : pq_fail_nomem(e);
}

/* ---- the template ------------------------------------------------------- */

static const char *default_of(const cJSON *list)
{
    for (const cJSON *x = list->child; x; x = x->next) {
        const cJSON *const name = get(x, "name"), *text = get(x, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) &&
            strcmp(name->valuestring, "default") == 0)
            return text->valuestring;
    }
    return NULL;
}

static int parse_config(const cJSON *config, struct pq_chat **c,
                        struct pq_error *e)
{
    const cJSON *const x = get(config, "chat_template");
    const char *text = NULL;

    if (!x)
        return pq_fail(e, PQ_EARG,
                       "the model has no chat template: neither "
                       "chat_template.jinja nor \"chat_template\" of %s",
                       config_name);
    if (cJSON_IsString(x))
        text = x->valuestring;
    else if (cJSON_IsArray(x))
        text = default_of(x);
    if (!text)
        return pq_fail(e, PQ_EFORMAT,
                       "%s: \"chat_template\" is neither a text nor a list "
                       "with one named \"default\"",
                       config_name);
    return pq_chat_parse(text, strlen(text), c, e)
               ? pq_error_in(e, "%s: chat_template", config_name)
               : 0;
}

static int parse_file(const struct pq_catalog *m, const cJSON *config,
                      struct pq_chat **c, struct pq_error *e)
{
    static const char name[] = "chat_template.jinja";
    const struct pq_blob *const b = pq_catalog_blob(m, name);

    if (!b)
        return parse_config(config, c, e);
    return pq_chat_parse(b->data, (size_t)b->bytes, c, e)
               ? pq_error_in(e, "%s", name)
               : 0;
}

/* ---- its special tokens ------------------------------------------------- */

static int add_token(struct pq_chat *c, const char *key, const char *text,
                     struct pq_error *e)
{
    const size_t n = c->n_names + 1;
    struct tok_text *const names = pq_resize(c->names, n, sizeof *names);
    struct tok_text *const texts = pq_resize(c->texts, n, sizeof *texts);
    char *const k = pq_arena_strndup(&c->arena, key, strlen(key));
    char *const t = pq_arena_strndup(&c->arena, text, strlen(text));

    c->names = names ? names : c->names;
    c->texts = texts ? texts : c->texts;
    if (!names || !texts || !k || !t)
        return pq_fail_nomem(e);
    names[c->n_names] = (struct tok_text){k, strlen(k)};
    texts[c->n_names++] = (struct tok_text){t, strlen(t)};
    return 0;
}

static int add_tokens(struct pq_chat *c, const cJSON *config,
                      struct pq_error *e)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token",
                                       "sep_token", "pad_token", "cls_token",
                                       "mask_token"};

    for (size_t i = 0, n; i < sizeof keys / sizeof *keys; i++) {
        const cJSON *x = get(config, keys[i]);
        if (cJSON_IsObject(x))
            x = get(x, "content");
        if (cJSON_IsString(x) && !pq_chat_token(c, keys[i], &n) &&
            add_token(c, keys[i], x->valuestring, e))
            return -1;
    }
    return 0;
}

int pq_chat_of_model(const struct pq_catalog *m, struct pq_chat **out,
                     struct pq_error *e)
{
    struct pq_chat *c = NULL;
    cJSON *config = NULL, *map = NULL;
    const int rc = read_json(m, config_name, &config, e) ||
                   read_json(m, "special_tokens_map.json", &map, e) ||
                   parse_file(m, config, &c, e) || add_tokens(c, config, e) ||
                   add_tokens(c, map, e);

    cJSON_Delete(config);
    cJSON_Delete(map);
    if (rc) {
        pq_chat_free(c);
        return -1;
    }
    *out = c;
    return 0;
}
