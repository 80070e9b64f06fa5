/*
 * Recipes: what of mergekit's language is read, how parameters are looked up,
 * and what is refused, with the line.
 */
#include "recipe.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pq_names.h"

static int parse(struct recipe *r, const char *text, struct pq_error *e)
{
    memset(r, 0, sizeof *r);
    memset(e, 0, sizeof *e);
    return recipe_parse(r, text, strlen(text), e);
}

static void refuse(const char *text, const char *message)
{
    struct pq_error e;
    struct recipe r;

    cr_assert_eq(parse(&r, text, &e), -1, "accepted: %s", text);
    cr_assert(strstr(e.msg, message), "'%s', not '%s'", e.msg, message);
    recipe_release(&r);
}

#define HEAD "merge_method: linear\nmodels: [{model: a}]\n"

/* ---- what is read --------------------------------------------------- */

Test(recipe, models)
{
    struct pq_error e;
    struct recipe r;

    cr_assert_eq(parse(&r,
                       "# a comment\n"
                       "merge_method: ties\n"
                       "base_model: ./base\n"
                       "models:\n"
                       "  - model: a b/c\n"
                       "    parameters: {weight: 0.25, density: 1e-1}\n"
                       "  - model: 'd'\n"
                       "    parameters: ~\n"
                       "parameters: {normalize: no, int8_mask: true}\n"
                       "dtype: bfloat16\n"
                       "out_dtype: torch.float16\n"
                       "tokenizer_source: union\n"
                       "chat_template: null\n",
                       &e),
                 0, "%s", e.msg);
    cr_assert_str_eq(r.method, "ties");
    cr_assert(!r.sliced && r.n == 1 && r.slices[0].n == 2);
    cr_assert_str_eq(r.slices[0].base_model, "./base");
    cr_assert_str_eq(r.slices[0].sources[0].model, "a b/c");
    cr_assert_str_eq(r.slices[0].sources[1].model, "d");
    cr_assert_eq(r.slices[0].sources[1].line, 7);
    cr_assert(r.typed && r.dtype == PQ_F16);
    cr_assert_eq(r.tokenizer, RECIPE_TOKENS_UNION);
    double v;
    cr_assert(recipe_parameter_at(&r.slices[0].sources[0].parameters,
                                  RECIPE_DENSITY, "x", 0, &v));
    cr_assert_eq(v, 0.1);
    cr_assert(recipe_parameter_at(&r.parameters, RECIPE_NORMALIZE, "x", 0, &v));
    cr_assert_eq(v, 0);
    cr_assert(!recipe_parameter_at(&r.parameters, RECIPE_RESCALE, "x", 0, &v));
    recipe_release(&r);
}

Test(recipe, slices)
{
    struct pq_error e;
    struct recipe r;

    cr_assert_eq(parse(&r,
                       "merge_method: passthrough\n"
                       "slices:\n"
                       "- sources: [{model: a, layer_range: [0, 8]}]\n"
                       "- sources:\n"
                       "  - &b\n"
                       "    model: b\n"
                       "    layer_range: [4, 12]\n"
                       "- sources: [*b]\n"
                       "  parameters: {scale: 2}\n"
                       "tokenizer: {source: c}\n",
                       &e),
                 0, "%s", e.msg);
    cr_assert(r.sliced && r.n == 3);
    cr_assert_eq(r.slices[2].sources[0].first, 4);
    cr_assert_eq(r.slices[2].sources[0].end, 12);
    cr_assert_str_eq(r.slices[2].sources[0].model, "b");
    cr_assert_eq(r.tokenizer, RECIPE_TOKENS_PATH);
    cr_assert_str_eq(r.tokenizer_path, "c");
    recipe_release(&r);
}

static void expect(const struct recipe *r, enum recipe_parameter p,
                   const char *tensor, double t, double want)
{
    double v = NAN;

    cr_assert(recipe_parameter_at(&r->parameters, p, tensor, t, &v));
    cr_assert_float_eq(v, want, 1e-15, "%s at %g: %g, not %g", tensor, t, v,
                       want);
}

Test(recipe, curves_and_filters)
{
    struct pq_error e;
    struct recipe r;
    double v;

    cr_assert_eq(parse(&r,
                       HEAD "parameters:\n"
                            "  weight: [0, 1, 0.5]\n"
                            "  t:\n"
                            "    - filter: self_attn\n"
                            "      value: [1, 0]\n"
                            "    - filter: mlp\n"
                            "      value: -0.25\n"
                            "  lambda:\n"
                            "    - {filter: norm, value: 3}\n"
                            "    - {filter: '*', value: 4}\n"
                            "  scale: {value: 5}\n"
                            "  normalize: [true, false, true]\n",
                       &e),
                 0, "%s", e.msg);
    expect(&r, RECIPE_WEIGHT, "x", 0, 0);
    expect(&r, RECIPE_WEIGHT, "x", 0.25, 0.5);
    expect(&r, RECIPE_WEIGHT, "x", 0.75, 0.75);
    expect(&r, RECIPE_WEIGHT, "x", 1, 0.5);
    expect(&r, RECIPE_T, "layers.0.self_attn.q", 0.25, 0.75);
    expect(&r, RECIPE_T, "layers.0.mlp.up", 0.25, -0.25);
    cr_assert(!recipe_parameter_at(&r.parameters, RECIPE_T, "norm", 0, &v));
    expect(&r, RECIPE_LAMBDA, "model.norm", 0, 3);
    expect(&r, RECIPE_LAMBDA, "lm_head", 0, 4);
    expect(&r, RECIPE_SCALE, "lm_head", 0, 5);
    expect(&r, RECIPE_NORMALIZE, "x", 0.49, 1);
    expect(&r, RECIPE_NORMALIZE, "x", 0.5, 0);
    expect(&r, RECIPE_NORMALIZE, "x", 1, 1);
    recipe_release(&r);
}

/* ---- what is refused ------------------------------------------------ */

Test(recipe, unknown_keys)
{
    refuse(HEAD "foo: 1\n", "line 3: unknown key 'foo'");
    refuse("merge_method: linear\nmodels:\n- model: a\n  weight: 1\n",
           "line 4: unknown key 'weight'");
    refuse(HEAD "parameters: {waight: 1}", "unknown parameter 'waight'");
    refuse(HEAD "parameters:\n  weight: [{value: 1, if: 2}]",
           "line 4: unknown key 'if'");
    refuse(HEAD "tokenizer: {sauce: base}", "unknown key 'sauce'");
}

Test(recipe, not_supported)
{
    refuse("merge_method: linear\nmodules: {text: {models: [{model: a}]}}",
           "line 2: 'modules' is not supported by pq");
    refuse(HEAD "chat_template: auto", "'chat_template' is not supported");
    refuse(HEAD "tokenizer: {pad_to_multiple_of: 64}",
           "'pad_to_multiple_of' is not supported");
    refuse(HEAD "tokenizer: {tokens: {a: {source: b}}}",
           "'tokens' is not supported");
    refuse("merge_method: linear\nmodels: [{model: {model: {path: a}}}]",
           "'model' as a map is not supported");
    refuse("merge_method: linear\nmodels: [{model: '-'}]", "a pipe");
    refuse(HEAD "dtype: float64", "float64");
}

Test(recipe, nonsense)
{
    refuse("", "is empty");
    refuse("- a\n", "a recipe is a map");
    refuse("merge_method: linear\n", "one of 'models' and 'slices'");
    refuse(HEAD "slices: [{sources: [{model: a, layer_range: [0,1]}]}]\n",
           "one of 'models' and 'slices'");
    refuse("models: [{model: a}]\n", "'merge_method' is missing");
    refuse("merge_method: linear\nmodels: []\n", "list of models");
    refuse("merge_method: linear\nmodels: [{parameters: {weight: 1}}]\n",
           "'model' is missing");
    refuse("merge_method: linear\nmodels: [{model: a, parameters: {t: 1}}]\n",
           "t is not of one model");
    refuse(HEAD "tokenizer_source: base\ntokenizer: {source: base}\n", "both");
    refuse(HEAD "---\na: b\n", "a second document");
    refuse(HEAD "parameters: {weight: !!int 3}\n", "no tags");
    refuse("merge_method: linear\nmodels: [\n", "not YAML");
    refuse(HEAD "models: [{model: b}]\n", "line 3: the key 'models'");
    refuse("merge_method: \"a\\0b\"\nmodels: [{model: a}]", "NUL");
}

Test(recipe, numbers_are_strict)
{
    static const char *const bad[] = {
        "0x10", "1_000", ".inf", ".nan", "nan", "1e999", "1 2", "''", "1.0.0",
        "true", "[]", "[1, [2]]", "[1, {value: 2}]", "[{filter: a}]",
        "[{filter: [a], value: 1}]", "[{value: 1}, 2]"};
    char text[200];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, HEAD "parameters:\n  weight: %s\n",
                 bad[i]);
        refuse(text, "line 4");
    }
    refuse(HEAD "parameters: {normalize: 2}", "neither true nor false");
}

static void refuse_range(const char *range, const char *message)
{
    char text[200];

    snprintf(text, sizeof text,
             "merge_method: linear\nslices:\n- sources:\n  - model: a\n    "
             "layer_range: %s\n  - model: b\n    layer_range: [0, 2]\n",
             range);
    refuse(text, message);
}

Test(recipe, ranges)
{
    refuse_range("[2, 2]", "holds no layer");
    refuse_range("[3, 2]", "holds no layer");
    refuse_range("[-1, 2]", "'layer_range'");
    refuse_range("[0, 1.5]", "'layer_range'");
    refuse_range("[0, 1, 2]", "[FIRST, END]");
    refuse_range("[0, 99999999999999999999]", "'layer_range'");
    refuse_range("~", "'layer_range' is missing");
    refuse_range("[0, 3]", "line 6: 2 layers of b, 3 of a in one slice");
}

Test(recipe, cycles)
{
    refuse("merge_method: linear\nmodels: &a\n- model: b\n- *a\n", "a cycle");
    refuse("&r\nmerge_method: linear\nmodels: [{model: a}]\nparameters: *r\n",
           "a cycle");
}

/* Each list holds the one before it ten times. */
Test(recipe, bombs)
{
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof text, HEAD "x:\n- &x0 [0]\n");

    for (int i = 1; i < 12; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "- &x%d [", i);
        for (int k = 0; k < 10; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "*x%d,", i - 1);
        n += (size_t)snprintf(text + n, sizeof text - n, "]\n");
    }
    refuse(text, "the recipe is too large");
    n = 0;
    for (int i = 0; i < 200; i++)
        text[n++] = '[';
    for (int i = 0; i < 200; i++)
        text[n++] = ']';
    text[n] = '\0';
    refuse(text, "the recipe is too deep");
}

/* What takes libyaml minutes or more is noticed before it may begin. */
Test(recipe, squares, .timeout = 20)
{
    static const char *const pieces[] = {"[", "- ", "{a: ", "? ", "[a,",
                                         "- &x a\n", "&x a: 1\n", "- [[a]]\n"};
    static char text[RECIPE_MAX_BYTES + 1];

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        const size_t k = strlen(pieces[i]);
        struct pq_error e = PQ_ERROR_INIT;
        struct recipe r = {0};
        for (size_t at = 0; at < sizeof text - 1; at++)
            text[at] = pieces[i][at % k];
        cr_assert_eq(recipe_parse(&r, text, sizeof text - 1, &e), -1);
        cr_assert_eq(e.code, PQ_ELIMIT, "%s: %s", pieces[i], e.msg);
        recipe_release(&r);
    }
}

/* ---- names ---------------------------------------------------------- */

Test(recipe, layers_are_renamed)
{
    char s[64];

    cr_assert(pq_name_set_layer("model.layers.9.mlp.weight", 10, s, sizeof s));
    cr_assert_str_eq(s, "model.layers.10.mlp.weight");
    cr_assert(pq_name_set_layer("h.11.attn.c_attn.bias", 3, s, sizeof s));
    cr_assert_str_eq(s, "h.3.attn.c_attn.bias");
    cr_assert(pq_name_set_layer("a.layers.0.experts.7.w1", 1, s, sizeof s));
    cr_assert_str_eq(s, "a.layers.1.experts.7.w1");
    cr_assert(!pq_name_set_layer("model.norm.weight", 1, s, sizeof s));
    cr_assert(!pq_name_set_layer("h.1.attn", 1, s, 8));
    cr_assert_eq(pq_name_trunk("model.layers.12.x"), strlen("model.layers."));
    cr_assert_eq(pq_name_trunk("lm_head.weight"), 0);
    cr_assert(pq_name_is_before_layers("model.embed_tokens.weight"));
    cr_assert(pq_name_is_before_layers("transformer.wpe.weight"));
    cr_assert(pq_name_is_before_layers("bert.embeddings.LayerNorm.weight"));
    cr_assert(!pq_name_is_before_layers("model.norm.weight"));
    cr_assert(!pq_name_is_before_layers("lm_head.weight"));
    cr_assert(!pq_name_is_before_layers("h.0.embed.weight"));
    cr_assert(pq_name_is_buffer("h.0.self_attn.rotary_emb.inv_freq"));
    cr_assert(pq_name_is_buffer("h.3.attn.bias"));
    cr_assert(!pq_name_is_buffer("h.3.attn.c_attn.bias"));
    cr_assert(!pq_name_is_buffer("h.3.cross_attn.bias"));
}
