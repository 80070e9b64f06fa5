/*
 * Recipes: YAML from anywhere.
 *
 * Promises: no crash, one line when it is refused, and what is accepted can be
 * looked up at any depth and is a number.
 */
#include <math.h>

#include "fuzz.h"
#include "recipe.h"

static void look(const struct recipe_parameters *p)
{
    static const char *const names[] = {"model.norm.weight",
                                        "model.layers.3.mlp.up_proj.weight"};

    for (unsigned i = 0; i < RECIPE_N_PARAMETERS; i++)
        for (int k = 0; k <= 8; k++) {
            double v = 0;
            if (recipe_parameter_at(p, i, names[k % 2], k / 8.0, &v) &&
                !isfinite(v))
                fuzz_broken("a parameter is no number",
                            recipe_parameter_name(i), "");
        }
}

static void check(const struct recipe *r)
{
    if (!r->method || r->n == 0)
        fuzz_broken("a recipe without method or models", "", "");
    look(&r->parameters);
    for (size_t i = 0; i < r->n; i++) {
        const struct recipe_slice *s = &r->slices[i];
        look(&s->parameters);
        for (size_t k = 0; k < s->n; k++) {
            look(&s->sources[k].parameters);
            if (!s->sources[k].model)
                fuzz_broken("a source without a model", "", "");
            if (r->sliced && s->sources[k].end - s->sources[k].first !=
                                 s->sources[0].end - s->sources[0].first)
                fuzz_broken("a slice of different lengths", "", "");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct recipe r = {0};
    char *const text = malloc(n ? n : 1);

    if (!text)
        abort();
    if (n > 0)
        memcpy(text, data, n);
    if (recipe_parse(&r, text, n, &e) == 0)
        check(&r);
    else if (e.code == PQ_OK || e.msg[0] == '\0')
        fuzz_broken("a refusal without a message", "", "");
    recipe_release(&r);
    free(text);
    return 0;
}

/* Pieces of recipes, beside libFuzzer's own mutations. */
static const char *const words[] = {
    "merge_method: linear\n", "models:\n", "slices:\n", "- sources:\n",
    "  - model: a\n", "layer_range: [0, 2]\n", "parameters:\n", "weight: ",
    "t:\n", "- filter: mlp\n", "value: ", "[0, 0.5, 1]", "{", "}", "[", "]",
    ": ", "- ", "\n", "  ", "&a ", "*a", "base_model: b\n", "dtype: float16\n",
    "tokenizer_source: union\n", "!!str ", "---\n", "...\n", "|\n", ">\n",
    "'", "\"", "\\0", "#", "~", "null", "true", "1e5", "? ", "%YAML 1.1\n"};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;

    if (max == 0 || fuzz_random(&s, 2))
        return max ? LLVMFuzzerMutate(p, n, max) : 0;
    const char *w = words[fuzz_random(&s, sizeof words / sizeof *words)];
    const size_t k = strlen(w), at = fuzz_random(&s, (uint32_t)n + 1);
    if (n + k > max)
        return n;
    memmove(p + at + k, p + at, n - at);
    memcpy(p + at, w, k);
    return n + k;
}
