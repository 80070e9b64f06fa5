/*
 * Models to begin with: their tensors are those of transformers' models of
 * the same config.json, their numbers those that transformers draws from,
 * and the same whichever range of them is read.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "nn.h"
#include "pq_quant.h"
#include "pq_train.h"

static struct pq_source *fresh_of(const struct nn_case *c, const char *config,
                                  uint64_t seed)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *like = nn_case_source(c, config), *s = NULL;

    cr_assert_eq(pq_train_fresh(like, seed, pq_kernels_best(), &s, &e), 0,
                 "%s: %s", c->name, e.msg);
    pq_source_free(like);
    return s;
}

/* The config of a case with a key set to some JSON; NULL removes it. */
static char *config_with(const char *name, const char *key, const char *json)
{
    cJSON *j = cJSON_Duplicate(nn_case_named(name)->config, true);

    cJSON_DeleteItemFromObjectCaseSensitive(j, key);
    if (json)
        cJSON_AddItemToObject(j, key, cJSON_Parse(json));
    char *text = cJSON_PrintUnformatted(j);
    cJSON_Delete(j);
    return text;
}

static struct pq_source *fresh_with(const char *name, const char *key,
                                    const char *json, uint64_t seed)
{
    char *config = config_with(name, key, json);
    struct pq_source *s = fresh_of(nn_case_named(name), config, seed);

    free(config);
    return s;
}

/* ---- tensors ------------------------------------------------------------ */

Test(fresh, tensors_are_those_of_transformers)
{
    size_t n;
    const struct nn_case *cases = nn_cases(&n);

    for (size_t i = 0; i < n; i++) {
        struct pq_source *s = fresh_of(&cases[i], NULL, 1);
        const cJSON *v;
        cr_expect_eq(s->catalog->n_tensors,
                     (size_t)cJSON_GetArraySize(cases[i].tensors), "%s",
                     cases[i].name);
        cJSON_ArrayForEach(v, cases[i].tensors)
        {
            const struct pq_tensor *t =
                tensor_of(s, cJSON_GetStringValue(cJSON_GetArrayItem(v, 0)));
            const cJSON *dims = cJSON_GetArrayItem(v, 1);
            cr_expect_eq(t->rank, cJSON_GetArraySize(dims), "%s", t->name);
            for (int k = 0; k < t->rank; k++)
                cr_expect_eq((double)t->shape[k],
                             cJSON_GetArrayItem(dims, k)->valuedouble, "%s",
                             t->name);
        }
        pq_source_free(s);
    }
}

/* A model of n words knows nothing: each costs about log n. */
Test(fresh, they_run)
{
    size_t n;
    const struct nn_case *cases = nn_cases(&n);

    for (size_t i = 0; i < n; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_source *s = fresh_of(&cases[i], NULL, 1);
        const struct pq_nn_options o = {pq_kernels_best(), 1, 0};
        struct pq_nn *nn;
        double nll[NN_MANY], sum = 0;
        const struct pq_nn_text t = {cases[i].ids, cases[i].n, 0, nll};
        cr_assert_eq(pq_nn_open(s, &o, &nn, &e), 0, "%s", e.msg);
        cr_assert_eq(pq_nn_score(nn, &t, 1, NULL, NULL, &e), 0, "%s", e.msg);
        for (size_t k = 1; k < t.n; k++)
            sum += nll[k] / (double)(t.n - 1);
        cr_expect_float_eq(sum, log((double)cases[i].vocab), 0.1, "%s: %g",
                           cases[i].name, sum);
        pq_nn_free(nn);
        pq_source_free(s);
    }
}

/* ---- numbers ------------------------------------------------------------ */

/* Mean and deviation of rows [from, to) of a tensor. */
static void expect_rows(struct pq_source *s, const char *name, uint64_t from,
                        uint64_t to, double mean, double deviation)
{
    const struct pq_tensor *t = tensor_of(s, name);
    const uint64_t cols = t->rank == 2 ? t->shape[1] : 1;
    float *x = read_tensor(s, t);
    double sum = 0, squares = 0;
    const double n = (double)((to - from) * cols);

    for (uint64_t i = from * cols; i < to * cols; i++) {
        sum += x[i];
        squares += (x[i] - mean) * (x[i] - mean);
    }
    /* four deviations of the mean, and of the deviation */
    cr_expect_leq(fabs(sum / n - mean), 4 * deviation / sqrt(n), "%s: %g", name,
                  sum / n);
    cr_expect_leq(fabs(sqrt(squares / n) - deviation),
                  4 * deviation / sqrt(2 * n), "%s: %g", name,
                  sqrt(squares / n));
    free(x);
}

Test(fresh, numbers_are_drawn_as_transformers_does)
{
    struct pq_source *s =
        fresh_with("llama-biases", "initializer_range", "0.5", 1);
    expect_rows(s, "model.embed_tokens.weight", 0, 1, 0, 0); /* padding */
    expect_rows(s, "model.embed_tokens.weight", 1, 32, 0, 0.5);
    expect_rows(s, "lm_head.weight", 0, 32, 0, 0.5);
    expect_rows(s, "model.layers.1.mlp.down_proj.weight", 0, 32, 0, 0.5);
    expect_rows(s, "model.layers.1.self_attn.q_proj.bias", 0, 32, 0, 0);
    expect_rows(s, "model.layers.1.input_layernorm.weight", 0, 32, 1, 0);
    expect_rows(s, "model.norm.weight", 0, 32, 1, 0);
    pq_source_free(s);

    s = fresh_with("llama", "pad_token_id", NULL, 1); /* and no range */
    expect_rows(s, "model.embed_tokens.weight", 0, 1, 0, 0.02);
    expect_rows(s, "model.embed_tokens.weight", 0, 32, 0, 0.02);
    pq_source_free(s);

    s = fresh_with("qwen3", "initializer_range", "0", 1); /* as if absent */
    expect_rows(s, "lm_head.weight", 0, 32, 0, 0.02);
    expect_rows(s, "model.layers.0.self_attn.q_norm.weight", 0, 16, 1, 0);
    pq_source_free(s);

    s = fresh_with("gemma2", "initializer_range", "1e-3", 1); /* 1 + w */
    expect_rows(s, "model.norm.weight", 0, 32, 0, 0);
    expect_rows(s, "model.layers.0.mlp.up_proj.weight", 0, 48, 0, 1e-3);
    pq_source_free(s);

    s = fresh_with("gpt2", "pad_token_id", "0", 1); /* not of gpt2's table */
    expect_rows(s, "transformer.wte.weight", 0, 32, 0, 0.02);
    expect_rows(s, "transformer.wte.weight", 0, 1, 0, 0.02);
    expect_rows(s, "transformer.wpe.weight", 0, 64, 0, 0.02);
    expect_rows(s, "transformer.h.1.attn.c_attn.weight", 0, 32, 0, 0.02);
    expect_rows(s, "transformer.h.1.attn.c_proj.weight", 0, 32, 0, 0.01);
    expect_rows(s, "transformer.h.1.mlp.c_proj.weight", 0, 128, 0, 0.01);
    expect_rows(s, "transformer.h.1.mlp.c_proj.bias", 0, 32, 0, 0);
    expect_rows(s, "transformer.h.1.ln_2.weight", 0, 32, 1, 0);
    pq_source_free(s);
}

/* The distribution itself: parts of N(0, 1) within 1, 2 and 3. */
Test(fresh, they_are_normal)
{
    const double want[] = {0.682689, 0.954500, 0.997300};
    struct pq_source *s = fresh_with("llama", "intermediate_size", "6000", 7);
    const struct pq_tensor *t =
        tensor_of(s, "model.layers.0.mlp.gate_proj.weight");
    float *x = read_tensor(s, t);
    const double n = (double)t->n_elements;

    for (int k = 0; k < 3; k++) {
        double within = 0;
        for (uint64_t i = 0; i < t->n_elements; i++)
            within += fabs(x[i]) < 0.02 * (k + 1);
        cr_expect_leq(fabs(within / n - want[k]),
                      4 * sqrt(want[k] * (1 - want[k]) / n), "%d: %g", k + 1,
                      within / n);
    }
    free(x);
    pq_source_free(s);
}

Test(fresh, seed_and_name_make_the_numbers)
{
    const char *up = "model.layers.0.mlp.up_proj.weight";
    const char *gate = "model.layers.0.mlp.gate_proj.weight";
    struct pq_source *s = fresh_of(nn_case_named("llama"), NULL, 1);
    struct pq_source *other = fresh_of(nn_case_named("llama"), NULL, 2);
    float *a = read_tensor(s, tensor_of(s, up));
    float *b = read_tensor(s, tensor_of(s, gate));
    float *c = read_tensor(other, tensor_of(other, up));

    cr_expect_neq(a[0], b[0]);
    cr_expect_neq(a[0], c[0]);
    free(a);
    free(b);
    free(c);
    pq_source_free(s);
    pq_source_free(other);
}

static void expect_ranges(struct pq_source *s, const struct pq_tensor *t)
{
    static const size_t runs[] = {1, 3, 4, 1000, 1024, 1025, 2047};
    struct pq_error e = PQ_ERROR_INIT;
    const size_t n = (size_t)t->parts[0].bytes;
    char *whole = malloc(n), *piece = malloc(n);

    cr_assert_eq(pq_source_read(s, t->parts, 0, whole, n, &e), 0, "%s", e.msg);
    for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
        for (size_t at = 0; at < n; at += runs[k]) {
            const size_t m = n - at < runs[k] ? n - at : runs[k];
            cr_assert_eq(pq_source_read(s, t->parts, at, piece + at, m, &e), 0,
                         "%s", e.msg);
        }
        cr_expect_arr_eq(piece, whole, n, "%s in runs of %zu", t->name,
                         runs[k]);
        memset(piece, 0, n);
    }
    free(whole);
    free(piece);
}

Test(fresh, any_range_has_the_same_bits)
{
    static const char *const types[] = {"\"float32\"", "\"bfloat16\"",
                                        "\"float16\""};

    for (int i = 0; i < 3; i++) {
        struct pq_source *s = fresh_with("llama", "dtype", types[i], 1);
        expect_ranges(s, tensor_of(s, "model.embed_tokens.weight"));
        expect_ranges(s, tensor_of(s, "model.layers.0.mlp.up_proj.weight"));
        expect_ranges(s, tensor_of(s, "model.norm.weight"));
        pq_source_free(s);
    }
}

/* The numbers of a narrower type are those of F32, rounded. */
Test(fresh, the_type_is_that_of_the_config)
{
    const char *name = "model.layers.0.mlp.up_proj.weight";
    struct pq_source *s = fresh_of(nn_case_named("llama"), NULL, 1);
    struct pq_source *half =
        fresh_with("llama", "torch_dtype", "\"bfloat16\"", 1);
    const struct pq_tensor *t = tensor_of(half, name);
    float *x = read_f32(s, tensor_of(s, name)), *y = read_tensor(half, t);

    cr_expect_eq(t->dtype, PQ_BF16);
    for (uint64_t i = 0; i < t->n_elements; i++)
        cr_expect_leq(fabsf(x[i] - y[i]), fabsf(x[i]) / 256);
    free(x);
    free(y);
    pq_source_free(s);
    pq_source_free(half);
}

/* ---- what is refused ---------------------------------------------------- */

static void expect_failure(const char *config, enum pq_code code,
                           const char *says)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *like = nn_case_source(nn_case_named("llama"), config);
    struct pq_source *s = NULL;

    cr_expect_eq(pq_train_fresh(like, 1, pq_kernels_best(), &s, &e), -1);
    cr_expect_null(s);
    cr_expect_eq(e.code, code, "%s", e.msg);
    cr_expect(strstr(e.msg, says), "\"%s\" does not say \"%s\"", e.msg, says);
    pq_source_free(like);
}

static void expect_failure_with(const char *key, const char *json,
                                enum pq_code code, const char *says)
{
    char *config = config_with("llama", key, json);

    expect_failure(config, code, says);
    free(config);
}

Test(fresh, configs_that_say_too_little_are_refused)
{
    expect_failure("{", PQ_EFORMAT, "llama: config.json: ");
    expect_failure("{}", PQ_EUNSUPPORTED, "model_type is missing");
    expect_failure_with("hidden_size", NULL, PQ_EFORMAT,
                        "config.json: hidden_size is missing");
    expect_failure_with("model_type", "\"mamba\"", PQ_EUNSUPPORTED, "mamba");
    expect_failure_with("dtype", "\"float8_e4m3fn\"", PQ_EUNSUPPORTED,
                        "config.json: dtype float8_e4m3fn");
    expect_failure_with("dtype", "32", PQ_EFORMAT, "dtype is not a string");
    expect_failure_with("initializer_range", "-0.02", PQ_EUNSUPPORTED,
                        "initializer_range is negative");
    expect_failure_with("initializer_range", "\"x\"", PQ_EFORMAT,
                        "initializer_range");
    expect_failure("{\"model_type\":\"llama\",\"vocab_size\":2147483647,"
                   "\"hidden_size\":2147483648,\"intermediate_size\":1,"
                   "\"num_hidden_layers\":1,\"num_attention_heads\":1,"
                   "\"max_position_embeddings\":1}",
                   PQ_EFORMAT, "tensor model.embed_tokens.weight");

    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *like = nn_case_source(nn_case_named("llama"), NULL);
    struct pq_source *s = NULL;
    like->catalog->n_blobs = 0;
    cr_expect_eq(pq_train_fresh(like, 1, pq_kernels_best(), &s, &e), -1);
    cr_expect(strstr(e.msg, "llama: has no config.json"), "%s", e.msg);
    pq_source_free(like);
}
