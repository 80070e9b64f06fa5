/*
 * The recipe itself: which keys there are, and what may stand under them.
 */
#include "recipe.h"

#include "cmd.h"

#include <string.h>
#include <unistd.h>

/* ---- keys ----------------------------------------------------------- */

/* Keys that are read, and those of mergekit that pq cannot follow. */
struct keys {
    const char *const *known, *const *unsupported; /* NULL-terminated */
};

static const char *const none[] = {NULL};
static const char *const recipe_known[] = {
    "merge_method", "models",           "slices",    "base_model", "parameters",
    "dtype",        "tokenizer_source", "tokenizer", "out_dtype",  NULL};
static const char *const recipe_unsupported[] = {"modules", "chat_template",
                                                 NULL};
static const char *const slice_known[] = {"sources", "base_model",
                                          "parameters", NULL};
static const char *const slice_unsupported[] = {"residual_weight", NULL};
static const char *const source_known[] = {"model", "layer_range",
                                           "parameters", NULL};
static const char *const model_known[] = {"model", "parameters", NULL};
static const char *const tokenizer_known[] = {"source", NULL};
static const char *const tokenizer_unsupported[] = {
    "tokens", "pad_to_multiple_of", NULL};

static const struct keys recipe_keys = {recipe_known, recipe_unsupported},
                         slice_keys = {slice_known, slice_unsupported},
                         source_keys = {source_known, none},
                         model_keys = {model_known, none},
                         tokenizer_keys = {tokenizer_known,
                                           tokenizer_unsupported};

static bool is_in(const char *const *list, const char *word)
{
    while (*list && strcmp(*list, word) != 0)
        list++;
    return *list != NULL;
}

static int check_keys(const struct recipe_node *map, const struct keys *k,
                      const char *what, struct pq_error *e)
{
    if (map->kind != RECIPE_MAP)
        return recipe_fail(map, e, "%s is a map of keys", what);
    for (size_t i = 0; i < map->n; i++) {
        const struct recipe_node *n = &map->items[i];
        if (is_in(k->known, n->key))
            continue;
        if (!is_in(k->unsupported, n->key))
            return recipe_fail(n, e, "unknown key '%s'", n->key);
        if (n->kind != RECIPE_NULL)
            return recipe_fail(n, e, "'%s' is not supported by pq", n->key);
    }
    return 0;
}

/* The text under a key into *s; NULL where there is none. */
static int get_text(const struct recipe_node *map, const char *key,
                    const char **s, struct pq_error *e)
{
    const struct recipe_node *n = recipe_get(map, key);

    *s = NULL;
    if (!n)
        return 0;
    if (n->kind != RECIPE_TEXT || n->text[0] == '\0')
        return recipe_fail(n, e, "'%s' is a word", key);
    *s = n->text;
    return 0;
}

/* A model: a path. */
static int get_model(const struct recipe_node *map, const char *key,
                     const char **s, struct pq_error *e)
{
    const struct recipe_node *n = recipe_get(map, key);

    if (n && n->kind == RECIPE_MAP)
        return recipe_fail(n, e, "'%s' as a map is not supported by pq", key);
    if (get_text(map, key, s, e))
        return -1;
    return *s && strcmp(*s, "-") == 0
               ? recipe_fail(n, e, "a model cannot come from a pipe")
               : 0;
}

/* ---- sources and slices --------------------------------------------- */

static int get_range(const struct recipe_node *map, struct recipe_source *s,
                     struct pq_error *e)
{
    const struct recipe_node *n = recipe_get(map, "layer_range");
    uint64_t v[2];

    if (!n)
        return recipe_fail(map, e, "'layer_range' is missing");
    if (n->kind != RECIPE_LIST || n->n != 2)
        return recipe_fail(n, e, "'layer_range' is [FIRST, END]");
    for (size_t i = 0; i < 2; i++) {
        struct pq_error why = PQ_ERROR_INIT;
        if (n->items[i].kind != RECIPE_TEXT ||
            cmd_number(n->items[i].text, 0, 99999, &v[i], &why))
            return recipe_fail(n, e, "'layer_range': %s",
                               why.code ? why.msg : "not a number");
    }
    if (v[0] >= v[1])
        return recipe_fail(n, e, "'layer_range' holds no layer: the end is "
                                 "not part of it");
    s->first = v[0];
    s->end = v[1];
    return 0;
}

static int read_source(struct recipe *r, const struct recipe_node *n,
                       struct recipe_source *s, struct pq_error *e)
{
    if (check_keys(n, r->sliced ? &source_keys : &model_keys, "a model", e) ||
        get_model(n, "model", &s->model, e))
        return -1;
    s->line = n->line;
    if (!s->model)
        return recipe_fail(n, e, "'model' is missing");
    if (r->sliced && get_range(n, s, e))
        return -1;
    return recipe_parameters_read(&s->parameters, recipe_get(n, "parameters"),
                                  false, &r->arena, e);
}

static int read_sources(struct recipe *r, const struct recipe_node *list,
                        struct recipe_slice *to, struct pq_error *e)
{
    if (list->kind != RECIPE_LIST || list->n == 0)
        return recipe_fail(list, e, "'%s' is a list of models", list->key);
    to->line = list->line;
    to->sources = pq_arena_alloc(&r->arena, list->n, sizeof *to->sources);
    if (!to->sources)
        return pq_fail_nomem(e);
    to->n = list->n;
    for (size_t i = 0; i < list->n; i++)
        if (read_source(r, &list->items[i], &to->sources[i], e))
            return -1;
    return 0;
}

static int check_lengths(const struct recipe_slice *s, struct pq_error *e)
{
    const struct recipe_source *a = &s->sources[0];

    for (size_t i = 1; i < s->n; i++) {
        const struct recipe_source *b = &s->sources[i];
        if (b->end - b->first != a->end - a->first)
            return pq_fail(e, PQ_EARG,
                           "line %u: %llu layers of %s, %llu of %s in one "
                           "slice",
                           b->line, (unsigned long long)(b->end - b->first),
                           b->model, (unsigned long long)(a->end - a->first),
                           a->model);
    }
    return 0;
}

static int read_slice(struct recipe *r, const struct recipe_node *n,
                      struct recipe_slice *to, struct pq_error *e)
{
    if (check_keys(n, &slice_keys, "a slice", e))
        return -1;
    const struct recipe_node *sources = recipe_get(n, "sources");
    if (!sources)
        return recipe_fail(n, e, "'sources' is missing");
    if (read_sources(r, sources, to, e) || check_lengths(to, e) ||
        get_model(n, "base_model", &to->base_model, e))
        return -1;
    if (!to->base_model)
        to->base_model = r->base_model;
    return recipe_parameters_read(&to->parameters, recipe_get(n, "parameters"),
                                  true, &r->arena, e);
}

static int read_slices(struct recipe *r, const struct recipe_node *list,
                       struct pq_error *e)
{
    if (list->kind != RECIPE_LIST || list->n == 0)
        return recipe_fail(list, e, "'slices' is a list of slices");
    r->slices = pq_arena_alloc(&r->arena, list->n, sizeof *r->slices);
    if (!r->slices)
        return pq_fail_nomem(e);
    r->n = list->n;
    for (size_t i = 0; i < list->n; i++)
        if (read_slice(r, &list->items[i], &r->slices[i], e))
            return -1;
    return 0;
}

static int read_models(struct recipe *r, const struct recipe_node *list,
                       struct pq_error *e)
{
    r->slices = pq_arena_alloc(&r->arena, 1, sizeof *r->slices);
    if (!r->slices)
        return pq_fail_nomem(e);
    r->n = 1;
    r->slices[0].base_model = r->base_model;
    return read_sources(r, list, &r->slices[0], e);
}

/* ---- the rest ------------------------------------------------------- */

static int get_dtype(const struct recipe_node *root, const char *key,
                     struct recipe *r, struct pq_error *e)
{
    static const struct {
        const char *name;
        enum pq_dtype dtype;
    } types[] = {{"float32", PQ_F32},
                 {"float16", PQ_F16},
                 {"bfloat16", PQ_BF16}};
    const char *s;

    if (get_text(root, key, &s, e))
        return -1;
    if (!s)
        return 0;
    if (strncmp(s, "torch.", 6) == 0)
        s += 6;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, s) == 0) {
            r->typed = true;
            r->dtype = types[i].dtype;
            return 0;
        }
    return recipe_fail(recipe_get(root, key), e,
                       "%s %s: one of float32, float16, bfloat16", key, s);
}

static int read_tokenizer(struct recipe *r, const struct recipe_node *root,
                          struct pq_error *e)
{
    const struct recipe_node *map = recipe_get(root, "tokenizer");
    const char *s;

    if (map && check_keys(map, &tokenizer_keys, "'tokenizer'", e))
        return -1;
    if (map && recipe_get(root, "tokenizer_source"))
        return recipe_fail(map, e, "both tokenizer and tokenizer_source");
    if (get_model(map ? map : root, map ? "source" : "tokenizer_source", &s,
                  e))
        return -1;
    if (!s && !map)
        return 0;
    r->tokenizer = !s || strcmp(s, "union") == 0 ? RECIPE_TOKENS_UNION
                   : strcmp(s, "base") == 0      ? RECIPE_TOKENS_BASE
                                                 : RECIPE_TOKENS_PATH;
    r->tokenizer_path = r->tokenizer == RECIPE_TOKENS_PATH ? s : NULL;
    return 0;
}

static int read_root(struct recipe *r, const struct recipe_node *root,
                     struct pq_error *e)
{
    if (check_keys(root, &recipe_keys, "a recipe", e))
        return -1;
    const struct recipe_node *models = recipe_get(root, "models");
    const struct recipe_node *slices = recipe_get(root, "slices");
    const struct recipe_node *method = recipe_get(root, "merge_method");
    if (!models == !slices)
        return recipe_fail(root, e, "one of 'models' and 'slices' must be "
                                    "there");
    if (!method)
        return recipe_fail(root, e, "'merge_method' is missing");
    r->sliced = slices != NULL;
    r->method_line = method->line;
    if (get_text(root, "merge_method", &r->method, e) ||
        get_model(root, "base_model", &r->base_model, e) ||
        (slices ? read_slices(r, slices, e) : read_models(r, models, e)) ||
        get_dtype(root, "dtype", r, e) || get_dtype(root, "out_dtype", r, e) ||
        read_tokenizer(r, root, e))
        return -1;
    return recipe_parameters_read(&r->parameters,
                                  recipe_get(root, "parameters"), true,
                                  &r->arena, e);
}

int recipe_parse(struct recipe *r, const char *text, size_t n,
                 struct pq_error *e)
{
    const struct recipe_node *root = recipe_tree(text, n, &r->arena, e);

    return root ? read_root(r, root, e) : -1;
}

/* ---- files ---------------------------------------------------------- */

/* PATH+LORA and PATH@REVISION are mergekit's, unless they are names. */
static int refuse_more(const char *model, struct pq_error *e)
{
    if (strchr(model, '+'))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: MODEL+LORA is not supported by pq; put the adapter "
                       "into the model first (pq-merge MODEL LORA)",
                       model);
    if (strchr(model, '@'))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: a revision (@) is not supported by pq", model);
    return pq_fail(e, PQ_EARG, "%s: there is no such model", model);
}

const char *recipe_path(struct recipe *r, const char *recipe,
                        const char *model, struct pq_error *e)
{
    const char *slash = strrchr(recipe, '/');
    const int folder = slash ? (int)(slash - recipe) + 1 : 0;
    const char *path = pq_arena_printf(&r->arena, "%.*s%s", folder, recipe,
                                       model);

    if (!path) {
        pq_fail_nomem(e);
        return NULL;
    }
    if (model[0] != '/' && access(path, F_OK) == 0)
        return path;
    if (access(model, F_OK) == 0)
        return model;
    refuse_more(model, e);
    return NULL;
}

void recipe_release(struct recipe *r)
{
    pq_arena_release(&r->arena);
    memset(r, 0, sizeof *r);
}
