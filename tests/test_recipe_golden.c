/*
 * Whole recipes against what mergekit made of them (testdata/blend,
 * tests/oracle/make_blend_goldens.py): every tensor, and config.json.  The
 * tool itself is run, in this process.
 */
#include "cmd.h"
#include "model.h"
#include "tokens.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLEND "testdata/blend/"

static char folder[] = "/tmp/pq-recipe-XXXXXX";

static int merge(const char *recipe, const char *out)
{
    char program[] = "pq-merge", option[] = "--recipe", o[] = "-o";
    char *args[] = {program, option, strdup(recipe), o, strdup(out), NULL};
    const int status = cmd_main(&tool_merge, 5, args);

    free(args[2]);
    free(args[4]);
    return status;
}

static void remove_model(const char *path)
{
    static const char *const files[] = {"config.json", "model.safetensors",
                                        "tokenizer.json",
                                        "tokenizer_config.json"};
    char name[256];

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, "%s/%s", path, files[i]);
        unlink(name);
    }
    rmdir(path);
    rmdir(folder);
}

/* ---- tensors -------------------------------------------------------- */

/* A step of bf16, 1e-6 in f32. */
static void compare(struct pq_source *got, struct pq_source *want,
                    const struct pq_tensor *t, const char *recipe)
{
    const struct pq_tensor *g = named(got->catalog, t->name);

    cr_assert(g, "%s: no %s", recipe, t->name);
    cr_assert(g->dtype == t->dtype && g->rank == t->rank &&
                  memcmp(g->shape, t->shape,
                         (size_t)t->rank * sizeof *t->shape) == 0,
              "%s: %s has another type or shape", recipe, t->name);
    float *x = read_tensor(got, g), *y = read_tensor(want, t);
    for (size_t i = 0; i < t->n_elements; i++) {
        const float room = t->dtype == PQ_F32 ? 1e-6f : fabsf(y[i]) / 128;
        cr_assert(fabsf(x[i] - y[i]) <= room, "%s: %s[%zu] is %.9g, not %.9g",
                  recipe, t->name, i, (double)x[i], (double)y[i]);
    }
    free(x);
    free(y);
}

/* ---- config.json, tokenizer.json ------------------------------------ */

static cJSON *json_of(const struct pq_source *s, const char *file)
{
    const struct pq_blob *b = pq_catalog_blob(s->catalog, file);

    cr_assert(b, "no %s", file);
    cJSON *j = cJSON_ParseWithLength(b->data, b->bytes);
    cr_assert(j, "%s is no JSON", file);
    return j;
}

static void check_config(const struct pq_source *s, const cJSON *facts)
{
    cJSON *j = json_of(s, "config.json");
    const cJSON *fact;

    cJSON_ArrayForEach(fact, cJSON_GetObjectItem(facts, "config"))
        cr_assert(cJSON_Compare(fact, cJSON_GetObjectItem(j, fact->string),
                                true),
                  "config.json: %s", fact->string);
    cJSON_Delete(j);
}

static void check_vocabulary(const struct pq_source *s, const cJSON *words)
{
    const struct pq_blob *b = pq_catalog_blob(s->catalog, "tokenizer.json");
    struct pq_error e = PQ_ERROR_INIT;
    struct tokens t = {0};
    const cJSON *word;
    size_t id = 0;

    cr_assert_eq(tokens_read(&t, b->data, b->bytes, &e), 0, "%s", e.msg);
    cJSON_ArrayForEach(word, words) {
        const struct token *x = tokens_find(&t, word->valuestring);
        cr_assert(x && x->id == id++, "%s", word->valuestring);
    }
    cr_assert_eq(t.n, id);
    tokens_release(&t);
}

/* ---- all of a recipe ------------------------------------------------ */

static void check(const char *name)
{
    char recipe[128], golden[128], out[128], key[64];
    cJSON *all = read_json(BLEND "manifest.json");

    cr_assert(mkdtemp(folder));
    snprintf(recipe, sizeof recipe, BLEND "%s.yaml", name);
    snprintf(golden, sizeof golden, BLEND "%s.safetensors", name);
    snprintf(out, sizeof out, "%s/out/", folder);
    snprintf(key, sizeof key, "recipe-%s", name);
    cr_assert_eq(merge(recipe, out), 0, "%s failed", recipe);
    struct pq_source *got = open_model(out), *want = open_model(golden);
    const cJSON *facts = cJSON_GetObjectItem(all, key);
    const cJSON *words = cJSON_GetObjectItem(facts, "vocabulary");
    for (size_t i = 0; i < want->catalog->n_tensors; i++)
        compare(got, want, &want->catalog->tensors[i], name);
    check_config(got, facts);
    if (words)
        check_vocabulary(got, words);
    else
        cr_assert_eq(got->catalog->n_tensors, want->catalog->n_tensors);
    pq_source_free(got);
    pq_source_free(want);
    cJSON_Delete(all);
    remove_model(out);
}

Test(recipe_golden, gradients)
{
    check("gradients");
}

Test(recipe_golden, models)
{
    check("models");
}

Test(recipe_golden, ranges)
{
    check("ranges");
}

Test(recipe_golden, stack)
{
    check("stack");
}

Test(recipe_golden, tokens_of_the_base)
{
    check("tokens-base");
}

Test(recipe_golden, tokens_of_both)
{
    check("tokens-union");
}
