/*
 * The tensors of a PEFT adapter, sorted by module.
 *
 *   base_model.model.M.lora_A.weight          A [r, in]
 *                    M.lora_B.weight, .bias   B [out, r]; [out]
 *                    M.lora_embedding_A, _B   A [r, vocab], B [dim, r]
 *                    M.lora_magnitude_vector  DoRA [out]
 *                    M.base_layer.lora_A...   of a parameter inside M
 *                    M.lora_velora_embed, lora_monteclora_sampler.*
 *                                             of training, left out
 *                    E.token_adapter.trainable_tokens_delta  [n, dim]
 *                    anything else            replaces the base's tensor
 */
#include "pq_peft.h"

#include "peft_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS 9007199254740992.0 /* 2^53: what a double counts exactly */

static const char config_name[] = "adapter_config.json";

bool pq_peft_is_adapter(const struct pq_catalog *c)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (strstr(c->tensors[i].name, ".lora_") ||
            pq_ends_with(c->tensors[i].name, "trainable_tokens_delta"))
            return true;
    return pq_catalog_blob(c, config_name) &&
           !pq_catalog_blob(c, "config.json");
}

/* ---- names ------------------------------------------------------------- */

/* Takes every `piece` out of s, in place. */
static void cut(char *s, const char *piece)
{
    const size_t n = strlen(piece);

    for (char *at; (at = strstr(s, piece)) != NULL;)
        memmove(at, at + n, strlen(at + n) + 1);
}

/* The name as the base has it, and as the markers below expect it. */
static char *plain_name(struct pq_arena *a, const char *name)
{
    static const char prefix[] = "base_model.model.";
    char *s = pq_arena_strndup(a, name, strlen(name));

    if (!s)
        return NULL;
    cut(s, "_orig_mod.");
    cut(s, "_fsdp_wrapped_module.");
    if (strncmp(s, prefix, sizeof prefix - 1) == 0)
        memmove(s, s + sizeof prefix - 1, strlen(s) + 2 - sizeof prefix);
    cut(s, ".modules_to_save.default");
    cut(s, ".modules_to_save");
    if (strstr(s, ".lora_") || strstr(s, "trainable_tokens_delta")) {
        if (pq_ends_with(s, ".default"))
            s[strlen(s) - strlen(".default")] = '\0';
        cut(s, ".default");
    }
    if (!strstr(s, ".lora_"))
        cut(s, ".base_layer");
    return s;
}

enum role { ROLE_A, ROLE_B, ROLE_EMB_A, ROLE_EMB_B, ROLE_MAGNITUDE, ROLE_BIAS,
            ROLE_TOKENS, ROLE_VALUE, ROLE_TRAINING, ROLE_UNKNOWN };

/* What a tensor is; its name is cut down to the module's. */
static enum role find_role(char *s)
{
    static const struct {
        const char *suffix;
        enum role role;
    } table[] = {
        {".lora_A.weight", ROLE_A},
        {".lora_B.weight", ROLE_B},
        {".lora_B.bias", ROLE_BIAS},
        {".lora_embedding_A", ROLE_EMB_A},
        {".lora_embedding_B", ROLE_EMB_B},
        {".lora_magnitude_vector", ROLE_MAGNITUDE},
        {".lora_magnitude_vector.weight", ROLE_MAGNITUDE},
        {".token_adapter.trainable_tokens_delta", ROLE_TOKENS},
        {".trainable_tokens_delta", ROLE_TOKENS},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (pq_ends_with(s, table[i].suffix)) {
            s[strlen(s) - strlen(table[i].suffix)] = '\0';
            return table[i].role;
        }
    if (strstr(s, ".lora_velora_") || strstr(s, ".lora_monteclora_"))
        return ROLE_TRAINING;
    return strstr(s, ".lora_") || strstr(s, ".original_module.")
               ? ROLE_UNKNOWN
               : ROLE_VALUE;
}

/* ---- sorting ----------------------------------------------------------- */

/* While reading: the adapter, its config, modules by name and wrapper. */
struct reader {
    struct pq_peft *p;
    struct peft_config config;
    struct pq_names names;
};

/*
 * Is the parameter `target` of some module one of this?  "mlp.experts.w1" is
 * of "model.layers.0.mlp.experts"; then *own is its own name.
 */
static bool is_of(const char *module, const char *target, const char **own)
{
    const char *dot = strrchr(target, '.');
    const size_t n = strlen(module), k = dot ? (size_t)(dot - target) : 0;

    *own = dot ? dot + 1 : target;
    return k == 0 || (k <= n && memcmp(module + n - k, target, k) == 0 &&
                      (k == n || module[n - k - 1] == '.'));
}

/* Which of the parameters that were targeted may be this module's. */
static int find_parameters(struct reader *r, struct pq_peft_module *m,
                           struct pq_error *e)
{
    const cJSON *list = r->config.parameters;
    struct pq_arena *arena = &r->p->arena;
    const int n = list ? cJSON_GetArraySize(list) : 0;

    if (n == 0)
        return 0;
    struct pq_peft_parameter *found =
        pq_arena_alloc(arena, (size_t)n, sizeof *found);
    if (!found)
        return pq_fail_nomem(e);
    m->parameters = found;
    for (const cJSON *v = list->child; v; v = v->next) {
        struct pq_peft_parameter *f = &found[m->n_parameters];
        const char *own;
        bool twice = false;
        if (!is_of(m->name, v->valuestring, &own))
            continue;
        f->name = pq_arena_printf(arena, "%s.%s", m->name, own);
        if (!f->name)
            return pq_fail_nomem(e);
        if (peft_config_module(&r->config, f->name, &f->rank, &f->scale, e))
            return pq_error_in(e, "%s", config_name);
        for (size_t i = 0; i < m->n_parameters; i++)
            twice |= strcmp(found[i].name, f->name) == 0;
        m->n_parameters += !twice;
    }
    return 0;
}

static struct pq_peft_module *module_named(struct reader *r, const char *name,
                                           struct pq_error *e)
{
    struct pq_peft *p = r->p;
    const size_t old = pq_names_find(&r->names, name);

    if (old != SIZE_MAX)
        return &p->modules[old];
    struct pq_peft_module *m =
        pq_grow(p->modules, p->n_modules, &p->cap_modules, sizeof *m);
    if (!m || (p->modules = m,
               pq_names_add(&r->names, name, p->n_modules, NULL, e))) {
        pq_fail_nomem(e);
        return NULL;
    }
    m += p->n_modules++;
    memset(m, 0, sizeof *m);
    char *own = pq_arena_strndup(&p->arena, name, strlen(name));
    if (!own) {
        pq_fail_nomem(e);
        return NULL;
    }
    cut(own, ".base_layer");
    m->name = own;
    return m;
}

static int add_value(struct reader *r, const char *name,
                     const struct pq_tensor *t, const uint64_t *rows,
                     struct pq_error *e)
{
    struct pq_peft *p = r->p;
    struct pq_peft_value *v =
        pq_grow(p->values, p->n_values, &p->cap_values, sizeof *v);

    if (!v)
        return pq_fail_nomem(e);
    p->values = v;
    v[p->n_values].name = name;
    v[p->n_values].tensor = t;
    v[p->n_values].may_add = peft_config_saves(&r->config, name);
    v[p->n_values++].rows = rows;
    return 0;
}

static int add_tokens(struct reader *r, const char *module,
                      const struct pq_tensor *t, struct pq_error *e)
{
    const cJSON *list = peft_config_tokens(&r->config, module);
    const int n = list ? cJSON_GetArraySize(list) : 0;

    if (t->rank != 2 || (uint64_t)n != t->shape[0])
        return pq_fail(e, PQ_EFORMAT,
                       "tensor %s: %s has %d token indices for it", t->name,
                       config_name, n);
    uint64_t *rows = pq_arena_alloc(&r->p->arena, (size_t)n, sizeof *rows);
    if (!rows)
        return pq_fail_nomem(e);
    const cJSON *v = list ? list->child : NULL;
    for (int i = 0; v; v = v->next, i++) {
        if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) ||
            v->valuedouble > MOST_ROWS ||
            v->valuedouble != floor(v->valuedouble))
            return pq_fail(e, PQ_EFORMAT, "%s: a token index is no index",
                           config_name);
        rows[i] = (uint64_t)v->valuedouble;
    }
    return add_value(r, module, t, rows, e);
}

static int add_tensor(struct reader *r, const struct pq_tensor *t,
                      struct pq_error *e)
{
    char *name = plain_name(&r->p->arena, t->name);
    if (!name)
        return pq_fail_nomem(e);
    const enum role role = find_role(name);

    if (role == ROLE_TRAINING)
        return 0;
    if (!pq_dtype_is_float(t->dtype) || t->codec.encoding != PQ_PLAIN)
        return pq_fail(e, PQ_EUNSUPPORTED, "tensor %s: is %s, not floating",
                       t->name, pq_dtype_name(t->dtype));
    if (role == ROLE_UNKNOWN)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: no part of a LoRA that pq knows", t->name);
    if (role == ROLE_TOKENS)
        return add_tokens(r, name, t, e);
    if (role == ROLE_VALUE)
        return add_value(r, name, t, NULL, e);
    struct pq_peft_module *m = module_named(r, name, e);
    if (!m)
        return -1;
    const struct pq_tensor **at = role == ROLE_A || role == ROLE_EMB_A   ? &m->a
                                  : role == ROLE_B || role == ROLE_EMB_B ? &m->b
                                  : role == ROLE_BIAS ? &m->bias
                                                      : &m->magnitude;
    if (*at)
        return pq_fail(e, PQ_EFORMAT, "tensors %s and %s are the same",
                       (*at)->name, t->name);
    *at = t;
    if (role == ROLE_EMB_A || role == ROLE_EMB_B)
        m->embedding = true;
    return 0;
}

/* ---- checking ---------------------------------------------------------- */

static int check_module(struct reader *r, struct pq_peft_module *m,
                        struct pq_error *e)
{
    const struct peft_config *c = &r->config;

    if (!m->a || !m->b)
        return pq_fail(e, PQ_EFORMAT, "module %s: lora_%s is missing", m->name,
                       m->a ? "B" : "A");
    if (!c->lora)
        return pq_fail(e, PQ_EFORMAT, "module %s: not a LoRA by %s", m->name,
                       config_name);
    if (c->dora != (m->magnitude != NULL))
        return pq_fail(e, PQ_EFORMAT,
                       "module %s: use_dora is %s, lora_magnitude_vector is "
                       "%s",
                       m->name, c->dora ? "true" : "false",
                       c->dora ? "missing" : "there");
    if (m->a->rank < 2 || m->b->rank < 2 || m->a->n_elements == 0 ||
        m->b->n_elements == 0)
        return pq_fail(e, PQ_EFORMAT, "module %s: a factor is no matrix",
                       m->name);
    if (peft_config_module(c, m->name, &m->rank, &m->scale, e))
        return pq_error_in(e, "%s", config_name);
    if (find_parameters(r, m, e))
        return -1;
    return m->n_parameters ? 0 : peft_check_rank(m, e);
}

static int sort_tensors(struct reader *r, struct pq_error *e)
{
    const struct pq_catalog *c = r->p->source->catalog;
    const struct pq_blob *config = pq_catalog_blob(c, config_name);

    if (!config)
        return pq_fail(e, PQ_EARG, "%s is missing: r and lora_alpha are in it",
                       config_name);
    struct pq_peft *p = r->p;
    if (peft_config_read(&r->config, config->data, (size_t)config->bytes,
                         p->accept, e))
        return pq_error_in(e, "%s", config_name);
    p->fan_in_fan_out = r->config.fan_in_fan_out;
    p->rslora = r->config.rslora;
    p->keep_tied = r->config.keep_tied;
    p->sides_swapped = r->config.before_019;
    p->init = r->config.init;
    const char *init = r->config.init_name;
    if (init && !(p->init_name = pq_arena_strndup(&p->arena, init,
                                                  strlen(init))))
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        if (add_tensor(r, &c->tensors[i], e))
            return -1;
    for (size_t i = 0; i < r->p->n_modules; i++)
        if (check_module(r, &r->p->modules[i], e))
            return -1;
    if (r->p->n_modules + r->p->n_values == 0)
        return pq_fail(e, PQ_EARG, "has no tensors");
    return 0;
}

int pq_peft_read(struct pq_peft *p, struct pq_source *source,
                 struct pq_error *e)
{
    struct reader r = {.p = p};

    p->source = source;
    int rc = sort_tensors(&r, e);
    if (rc)
        pq_error_in(e, "%s", source->name);
    peft_config_release(&r.config);
    pq_names_release(&r.names);
    return rc;
}

void pq_peft_release(struct pq_peft *p)
{
    free(p->modules);
    free(p->values);
    pq_arena_release(&p->arena);
    memset(p, 0, sizeof *p);
}
