/*
 * adapter_config.json: scales and patterns, and what is refused.
 *
 *   s = alpha / r, with use_rslora alpha / sqrt(r); rank_pattern and
 *   alpha_pattern give some modules others: the first key k, in the order of
 *   the file, for which (.*\.)?(k)$ matches the whole name of the module.
 *
 * The keys of LoraConfig (peft 0.21), by what they do to a merge:
 *
 *   the maths   peft_type, r, lora_alpha, use_rslora, rank_pattern,
 *               alpha_pattern, use_dora, fan_in_fan_out, init_lora_weights,
 *               target_parameters, modules_to_save, trainable_token_indices,
 *               ensure_weight_tying, task_type (a head), peft_version (the
 *               sides of experts)
 *   refused     layer_replication, use_qalora, alora_invocation_tokens,
 *               kasa_config, use_bdlora, arrow_config, unless they are unset
 *   by tensors  bias, lora_bias, target_modules, exclude_modules,
 *               layers_to_transform, layers_pattern: what is there is merged
 *   none        lora_dropout, velora_config, monteclora_config, megatron_*,
 *               loftq_config, eva_config, corda_config, lora_ga_config,
 *               qalora_group_size, auto_mapping, base_model_name_or_path,
 *               revision, inference_mode: of training, or of names
 *
 * Keys that are not known are left alone, as PEFT leaves them.
 */
#include "peft_config.h"

#include "pq_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const cJSON *get(const struct peft_config *c, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->json, key);

    return v && !cJSON_IsNull(v) ? v : NULL;
}

/* Absent, null, false, empty: as if it were not there. */
static bool is_set(const cJSON *v)
{
    if (!v || cJSON_IsFalse(v))
        return false;
    return !(cJSON_IsObject(v) || cJSON_IsArray(v)) || v->child;
}

/* 1e999 is read as infinity. */
static bool is_number(const cJSON *v)
{
    return cJSON_IsNumber(v) && isfinite(v->valuedouble);
}

static int get_bool(const struct peft_config *c, const char *key, bool *v,
                    struct pq_error *e)
{
    const cJSON *j = get(c, key);

    if (j && !cJSON_IsBool(j))
        return pq_fail(e, PQ_EFORMAT, "%s is not true or false", key);
    *v = cJSON_IsTrue(j);
    return 0;
}

static int get_object(const struct peft_config *c, const char *key,
                      const cJSON **v, struct pq_error *e)
{
    *v = get(c, key);
    return !*v || cJSON_IsObject(*v)
               ? 0
               : pq_fail(e, PQ_EFORMAT, "%s is not an object", key);
}

/* ---- what cannot be merged --------------------------------------------- */

static int refuse_variants(const struct peft_config *c, struct pq_error *e)
{
    static const char *const keys[] = {
        "layer_replication", "use_qalora", "alora_invocation_tokens",
        "kasa_config", "use_bdlora", "arrow_config"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const cJSON *v = get(c, keys[i]);
        if (cJSON_IsObject(v) || is_set(v))
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "an adapter with %s cannot be merged", keys[i]);
    }
    return 0;
}

/*
 * Some ways to begin take a part out of the base.  PEFT compares most names
 * as they are and some in lower case.
 */
static int read_init(struct peft_config *c, unsigned accept,
                     struct pq_error *e)
{
    static const struct {
        const char *name;
        enum pq_peft_init init;
    } table[] = {
        {"true", PQ_INIT_PLAIN}, {"false", PQ_INIT_PLAIN},
        {"gaussian", PQ_INIT_PLAIN}, {"eva", PQ_INIT_PLAIN},
        {"orthogonal", PQ_INIT_PLAIN}, {"mica", PQ_INIT_PLAIN},
        {"pissa", PQ_INIT_PISSA}, {"olora", PQ_INIT_OLORA},
        {"corda", PQ_INIT_LOST}, {"loftq", PQ_INIT_LOST},
        {"lora_ga", PQ_INIT_LOST},
    };
    const cJSON *init = get(c, "init_lora_weights");
    bool known = false;

    if (!init || cJSON_IsBool(init))
        return 0;
    if (!cJSON_IsString(init))
        return pq_fail(e, PQ_EFORMAT, "init_lora_weights is not a string");
    c->init_name = init->valuestring;
    for (size_t i = 0; i < sizeof table / sizeof *table && !known; i++)
        if ((known = strcasecmp(c->init_name, table[i].name) == 0))
            c->init = table[i].init;
    if (!known && strncmp(c->init_name, "pissa_niter_", 12) == 0) {
        known = true;
        c->init = PQ_INIT_PISSA_NITER;
    }
    if (!known)
        return pq_fail(e, PQ_EUNSUPPORTED, "init_lora_weights \"%.40s\"",
                       c->init_name);
    return c->init == PQ_INIT_PLAIN || (accept & PQ_PEFT_CHANGED_BASE)
               ? 0
               : pq_fail(e, PQ_EUNSUPPORTED,
                         "init_lora_weights \"%.40s\" changed the base "
                         "before training",
                         c->init_name);
}

static int read_parameters(struct peft_config *c, unsigned accept,
                           struct pq_error *e)
{
    const cJSON *list = get(c, "target_parameters");

    if (!is_set(list))
        return 0;
    if (!cJSON_IsArray(list))
        return pq_fail(e, PQ_EFORMAT, "target_parameters is not an array");
    for (const cJSON *p = list->child; p; p = p->next)
        if (!cJSON_IsString(p))
            return pq_fail(e, PQ_EFORMAT,
                           "target_parameters: one is not a string");
    c->parameters = list;
    return accept & PQ_PEFT_PARAMETERS
               ? 0
               : pq_fail(e, PQ_EUNSUPPORTED,
                         "an adapter with target_parameters needs its base");
}

/* "0.18.1" and what does not say are before 0.19. */
static bool is_before_019(const struct peft_config *c)
{
    const char *s = cJSON_GetStringValue(get(c, "peft_version"));
    unsigned major = 0, minor = 0;

    return !s || sscanf(s, "%3u.%3u", &major, &minor) != 2 ||
           (major == 0 && minor < 19);
}

/* ---- reading ----------------------------------------------------------- */

static int read_lora(struct peft_config *c, unsigned accept,
                     struct pq_error *e)
{
    const cJSON *r = get(c, "r"), *alpha = get(c, "lora_alpha");

    if (!is_number(r) || r->valuedouble < 1)
        return pq_fail(e, PQ_EFORMAT, "r is %s", r ? "not a rank" : "missing");
    if (alpha && !is_number(alpha))
        return pq_fail(e, PQ_EFORMAT, "lora_alpha is not a number");
    c->r = r->valuedouble;
    c->alpha = alpha ? alpha->valuedouble : 8; /* PEFT's default */
    c->tokens = get(c, "trainable_token_indices");
    c->before_019 = is_before_019(c);
    if (get_bool(c, "use_rslora", &c->rslora, e) ||
        get_bool(c, "use_dora", &c->dora, e) ||
        get_bool(c, "fan_in_fan_out", &c->fan_in_fan_out, e) ||
        get_bool(c, "ensure_weight_tying", &c->keep_tied, e) ||
        get_object(c, "rank_pattern", &c->rank_pattern, e) ||
        get_object(c, "alpha_pattern", &c->alpha_pattern, e))
        return -1;
    return refuse_variants(c, e) || read_init(c, accept, e) ||
                   read_parameters(c, accept, e)
               ? -1
               : 0;
}

static void find_head(struct peft_config *c)
{
    const char *task = cJSON_GetStringValue(get(c, "task_type"));

    c->head = task && (strcmp(task, "SEQ_CLS") == 0 ||
                       strcmp(task, "TOKEN_CLS") == 0 ||
                       strcmp(task, "QUESTION_ANS") == 0);
}

int peft_config_read(struct peft_config *c, const char *text, size_t n,
                     unsigned accept, struct pq_error *e)
{
    memset(c, 0, sizeof *c);
    if (pq_json_check(text, n, e))
        return -1;
    c->json = cJSON_ParseWithLength(text, n);
    if (!cJSON_IsObject(c->json))
        return pq_fail(e, PQ_EFORMAT, "is not a JSON object");
    const char *type = cJSON_GetStringValue(get(c, "peft_type"));
    if (!type)
        return pq_fail(e, PQ_EFORMAT, "peft_type is missing");
    c->lora = strcmp(type, "LORA") == 0;
    if (strcmp(type, "PROMPT_TUNING") == 0 || strcmp(type, "P_TUNING") == 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "peft_type %s cannot be merged: a soft prompt has no "
                       "place in weights (pq-prompt --export-tokens makes "
                       "tokens of it)",
                       type);
    if (!c->lora && strcmp(type, "TRAINABLE_TOKENS") != 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "peft_type %.40s cannot be merged", type);
    c->modules_to_save = get(c, "modules_to_save");
    find_head(c);
    if (c->lora)
        return read_lora(c, accept, e);
    c->tokens = get(c, "token_indices");
    return 0;
}

void peft_config_release(struct peft_config *c)
{
    cJSON_Delete(c->json);
}

/* ---- patterns ---------------------------------------------------------- */

static int find_pattern(const cJSON *patterns, const char *module, double *v,
                        struct pq_error *e)
{
    for (const cJSON *p = patterns ? patterns->child : NULL; p; p = p->next) {
        const int hit = peft_pattern_matches(p->string, module, e);
        if (hit < 0)
            return -1;
        if (!hit)
            continue;
        if (!is_number(p))
            return pq_fail(e, PQ_EFORMAT, "pattern \"%.60s\" has no number",
                           p->string);
        *v = p->valuedouble;
        return 0;
    }
    return 0;
}

int peft_config_module(const struct peft_config *c, const char *module,
                       double *rank, double *scale, struct pq_error *e)
{
    double alpha = c->alpha;

    *rank = c->r;
    if (find_pattern(c->rank_pattern, module, rank, e) ||
        find_pattern(c->alpha_pattern, module, &alpha, e))
        return -1;
    *scale = alpha / (c->rslora ? sqrt(*rank) : *rank);
    return 0;
}

int peft_check_rank(const struct pq_peft_module *m, struct pq_error *e)
{
    return (double)m->a->shape[0] == m->rank
               ? 0
               : pq_fail(e, PQ_EFORMAT,
                         "tensor %s: its rank is %llu, in adapter_config.json it "
                         "is %g",
                         m->a->name, (unsigned long long)m->a->shape[0],
                         m->rank);
}

bool peft_config_saves(const struct peft_config *c, const char *tensor)
{
    const cJSON *list = c->modules_to_save;

    if (c->head)
        return true;
    for (const cJSON *p = cJSON_IsArray(list) ? list->child : NULL; p;
         p = p->next) {
        const char *at = p->valuestring ? strstr(tensor, p->valuestring) : NULL;
        if (at && (at == tensor || at[-1] == '.') &&
            at[strlen(p->valuestring)] == '.')
            return true;
    }
    return false;
}

const cJSON *peft_config_tokens(const struct peft_config *c,
                                const char *module)
{
    const size_t n = strlen(module);

    if (cJSON_IsArray(c->tokens))
        return c->tokens;
    for (const cJSON *p = cJSON_IsObject(c->tokens) ? c->tokens->child : NULL;
         p; p = p->next) {
        const size_t k = strlen(p->string);
        if (k <= n && strcmp(module + n - k, p->string) == 0 &&
            (k == n || module[n - k - 1] == '.') && cJSON_IsArray(p))
            return p;
    }
    return NULL;
}
