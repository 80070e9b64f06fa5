/*
 * Whole models: logits of every family against transformers
 * (testdata/nn, tests/oracle/make_nn.py), and what must not change them.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn.h"
#include "pq_quant.h"

/* The largest error of the kept rows, as a share of max |logit|. */
static float error_of(const struct nn_case *c, const float *z)
{
    float worst = 0;

    for (size_t r = 0; r < c->n_rows; r++)
        for (size_t v = 0; v < c->vocab; v++) {
            const float d = fabsf(z[c->rows[r] * c->vocab + v] -
                                  c->logits[r * c->vocab + v]);
            worst = d > worst || d != d ? d : worst;
        }
    return worst / c->max;
}

static void check_case(const struct nn_case *c, const struct pq_kernels *k)
{
    struct pq_nn *nn = nn_case_open(c, k, 2, 0);
    float *z = nn_case_logits(nn, c->ids, c->n);
    const float error = error_of(c, z);

    cr_log_info("%s: %.2g", c->name, error);
    cr_assert(error <= 1e-5f, "%s: logits are off by %g of the largest",
              c->name, error);
    free(z);
    pq_nn_free(nn);
}

Test(nn_models, logits_are_those_of_transformers)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    cr_assert_geq(n, 20);
    for (size_t i = 0; i < n; i++)
        check_case(&c[i], pq_kernels_best());
}

Test(nn_models, portable_kernels_give_the_same_bits)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    for (size_t i = 0; i < n; i++) {
        const size_t tokens = c[i].n < 24 ? c[i].n : 24;
        struct pq_nn *a = nn_case_open(&c[i], pq_kernels_best(), 3, 0);
        struct pq_nn *b = nn_case_open(&c[i], pq_kernels_scalar(), 1, 0);
        float *x = nn_case_logits(a, c[i].ids, tokens);
        float *y = nn_case_logits(b, c[i].ids, tokens);
        cr_assert(memcmp(x, y, tokens * c[i].vocab * sizeof *x) == 0, "%s",
                  c[i].name);
        free(x);
        free(y);
        pq_nn_free(a);
        pq_nn_free(b);
    }
}

/* ---- the same bits however a text is run -------------------------------- */

static void check_pieces(const struct nn_case *c)
{
    struct pq_nn *whole = nn_case_open(c, pq_kernels_best(), 2, 512);
    struct pq_nn *pieces = nn_case_open(c, pq_kernels_best(), 1, 7);
    float *x = nn_case_logits(whole, c->ids, c->n);
    float *y = nn_case_logits(pieces, c->ids, c->n);

    cr_assert(memcmp(x, y, c->n * c->vocab * sizeof *x) == 0, "%s", c->name);
    free(x);
    free(y);
    pq_nn_free(whole);
    pq_nn_free(pieces);
}

Test(nn_models, a_text_in_pieces_has_the_same_bits)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    for (size_t i = 0; i < n; i++)
        check_pieces(&c[i]);
}

Test(nn_models, a_stream_has_the_same_bits)
{
    static const char *const names[] = {"llama-long", "gpt2", "mistral",
                                        "gemma2", "rope-dynamic"};
    struct pq_error e = PQ_ERROR_INIT;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct nn_case *c = nn_case_named(names[i]);
        struct pq_nn *nn = nn_case_open(c, pq_kernels_best(), 2, 0);
        float *x = nn_case_logits(nn, c->ids, c->n);
        float z[64];
        struct pq_nn_stream *s;
        cr_assert_eq(pq_nn_stream_new(nn, c->n, &s, &e), 0, "%s", e.msg);
        for (size_t at = 0, m; at < c->n; at += m) {
            m = at == 0 ? 10 : 1;
            cr_assert_eq(pq_nn_feed(s, c->ids + at, m, z, &e), 0, "%s", e.msg);
            cr_assert_eq(pq_nn_fed(s), at + m);
            cr_assert(memcmp(z, x + (at + m - 1) * c->vocab,
                             c->vocab * sizeof *z) == 0,
                      "%s: token %zu", c->name, at + m - 1);
        }
        cr_assert_eq(pq_nn_feed(s, c->ids, 1, z, &e), -1);
        cr_assert_eq(e.code, PQ_ELIMIT);
        e.code = PQ_OK;
        pq_nn_stream_free(s);
        pq_nn_free(nn);
        free(x);
    }
}

/* -log p of each token from the logits before it. */
static void likelihoods(const float *z, const int32_t *ids, size_t n, size_t v,
                        size_t from, double *nll)
{
    for (size_t i = 0; i < n; i++) {
        const float *row = z + (i - 1) * v;
        double sum = 0;
        nll[i] = 0;
        if (i == 0 || i < from)
            continue;
        for (size_t j = 0; j < v; j++)
            sum += exp((double)row[j]);
        nll[i] = log(sum) - (double)row[ids[i]];
    }
}

Test(nn_models, texts_are_scored_as_if_each_were_alone)
{
    const struct nn_case *c = nn_case_named("llama-long");
    struct pq_nn *nn = nn_case_open(c, pq_kernels_best(), 2, 50);
    const size_t lengths[] = {20, 1, 29, 300, 0, 7, 64, 2};
    const size_t froms[] = {0, 0, 11, 250, 0, 7, 1, 1};
    double nll[8][300], want[300];
    struct pq_nn_text t[8];
    struct pq_error e = PQ_ERROR_INIT;

    for (size_t i = 0; i < 8; i++)
        t[i] = (struct pq_nn_text){c->ids, lengths[i], froms[i], nll[i]};
    cr_assert_eq(pq_nn_score(nn, t, 8, NULL, NULL, &e), 0, "%s", e.msg);
    float *z = nn_case_logits(nn, c->ids, 300);
    for (size_t i = 0; i < 8; i++) {
        likelihoods(z, c->ids, lengths[i], c->vocab, froms[i], want);
        for (size_t j = 0; j < lengths[i]; j++)
            cr_assert_float_eq(nll[i][j], want[j], 1e-5, "text %zu token %zu",
                               i, j);
    }
    free(z);
    pq_nn_free(nn);
}

/* KL of two rows, and their largest, in double. */
static double divergence(const float *z, const float *y, size_t v, bool *same)
{
    double a = 0, b = 0, kl = 0;
    size_t top[2] = {0, 0};

    for (size_t i = 0; i < v; i++) {
        a += exp((double)z[i]);
        b += exp((double)y[i]);
        top[0] = z[i] > z[top[0]] ? i : top[0];
        top[1] = y[i] > y[top[1]] ? i : top[1];
    }
    for (size_t i = 0; i < v; i++)
        kl += exp((double)z[i]) / a * (z[i] - log(a) - (y[i] - log(b)));
    *same = top[0] == top[1];
    return kl;
}

Test(nn_models, two_models_are_compared)
{
    const struct nn_case *c = nn_case_named("llama-long");
    const struct nn_case *d = nn_case_named("mistral-full");
    struct pq_nn *base = nn_case_open(c, pq_kernels_best(), 2, 512);
    struct pq_nn *other = nn_case_open(d, pq_kernels_best(), 1, 50);
    float *z = nn_case_logits(base, c->ids, 150);
    float *y = nn_case_logits(other, c->ids, 150);
    const struct pq_nn_text t = {c->ids, 150, 5, NULL};
    struct pq_error e = PQ_ERROR_INIT;
    double kl[150];
    bool same[150], want;

    cr_assert_eq(pq_nn_compare(base, other, &t, kl, same, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < 150; i++) {
        const size_t row = (i ? i - 1 : 0) * c->vocab;
        const double k = divergence(z + row, y + row, c->vocab, &want);
        cr_assert_float_eq(kl[i], i < 5 ? 0 : k, 1e-5, "token %zu", i);
        cr_assert_eq(same[i], i >= 5 && want, "token %zu", i);
    }
    cr_assert_eq(pq_nn_compare(base, base, &t, kl, same, &e), 0, "%s", e.msg);
    for (size_t i = 5; i < 150; i++)
        cr_assert(fabs(kl[i]) < 1e-6 && same[i], "token %zu", i);
    free(z);
    free(y);
    pq_nn_free(base);
    pq_nn_free(other);
}

/* ---- what is refused ---------------------------------------------------- */

static void expect_failure(const struct nn_case *c, const char *config,
                           enum pq_code code, const char *says)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = nn_case_source(c, config);
    const struct pq_nn_options o = {pq_kernels_best(), 1, 0};
    struct pq_nn *nn;

    cr_assert_eq(pq_nn_open(s, &o, &nn, &e), -1, "accepted, not: %s", says);
    cr_assert_eq(e.code, code, "%s", e.msg);
    cr_assert(strstr(e.msg, says), "\"%s\" does not say \"%s\"", e.msg, says);
    pq_source_free(s);
}

/* The config of a case with a key set to some JSON; NULL removes it. */
static void expect_with(const char *name, const char *key, const char *json,
                        enum pq_code code, const char *says)
{
    const struct nn_case *c = nn_case_named(name);
    cJSON *j = cJSON_Duplicate(c->config, true);

    cJSON_DeleteItemFromObjectCaseSensitive(j, key);
    if (json)
        cJSON_AddItemToObject(j, key, cJSON_Parse(json));
    char *text = cJSON_PrintUnformatted(j);
    expect_failure(c, text, code, says);
    free(text);
    cJSON_Delete(j);
}

Test(nn_models, a_config_that_the_tensors_contradict_is_refused)
{
    expect_with("llama", "hidden_size", "40", PQ_EFORMAT,
                "tensor model.embed_tokens.weight: is [32, 32] where "
                "config.json asks for [32, 40]");
    expect_with("llama", "num_hidden_layers", "1", PQ_EFORMAT,
                "tensor model.layers.1.");
    expect_with("llama", "num_hidden_layers", "3", PQ_EFORMAT,
                "tensor model.layers.2.input_layernorm.weight is missing");
    expect_with("llama", "attention_bias", "true", PQ_EFORMAT,
                "tensor model.layers.0.self_attn.q_proj.bias is missing");
    expect_with("llama-biases", "attention_bias", "false", PQ_EFORMAT,
                "self_attn.q_proj.bias: config.json");
    expect_with("llama-tied", "tie_word_embeddings", "false", PQ_EFORMAT,
                "tensor lm_head.weight is missing");
    expect_with("llama", "vocab_size", "31", PQ_EFORMAT,
                "model.embed_tokens.weight");
    expect_with("gpt2", "n_inner", "100", PQ_EFORMAT,
                "tensor transformer.h.0.mlp.c_fc.weight: is [32, 128] where "
                "config.json asks for [32, 100]");
}

Test(nn_models, what_is_not_known_is_refused_by_name)
{
    expect_with("llama", "model_type", "\"mamba\"", PQ_EUNSUPPORTED, "mamba");
    expect_with("llama", "model_type", NULL, PQ_EUNSUPPORTED, "model_type");
    expect_with("llama", "hidden_act", "\"relu\"", PQ_EUNSUPPORTED, "relu");
    expect_with("llama", "pretraining_tp", "2", PQ_EUNSUPPORTED,
                "pretraining_tp");
    expect_with("llama", "num_experts", "4", PQ_EUNSUPPORTED, "num_experts");
    expect_with("llama", "rope_scaling", "{\"rope_type\":\"spiral\"}",
                PQ_EUNSUPPORTED, "spiral");
    expect_with("llama", "partial_rotary_factor", "0.5", PQ_EUNSUPPORTED,
                "partial_rotary_factor");
    expect_with("llama", "num_key_value_heads", "3", PQ_EUNSUPPORTED,
                "num_key_value_heads");
    expect_with("llama", "num_attention_heads", "0", PQ_EFORMAT,
                "num_attention_heads");
    expect_with("llama", "hidden_size", NULL, PQ_EFORMAT,
                "hidden_size is missing");
    expect_with("llama", "rms_norm_eps", "\"x\"", PQ_EFORMAT, "rms_norm_eps");
    expect_with("qwen2", "layer_types", "[\"full_attention\"]", PQ_EUNSUPPORTED,
                "layer_types");
    expect_failure(nn_case_named("llama"), "[1]", PQ_EUNSUPPORTED, "object");
    expect_failure(nn_case_named("llama"), "{", PQ_EFORMAT, "config.json");
}

Test(nn_models, bad_texts_are_refused)
{
    const struct nn_case *c = nn_case_named("gpt2");
    struct pq_nn *nn = nn_case_open(c, pq_kernels_best(), 1, 0);
    const int32_t high[] = {1, 2, 32}, low[] = {-1};
    int32_t many[65] = {0};
    const struct {
        const int32_t *ids;
        size_t n;
        enum pq_code code;
        const char *says;
    } bad[] = {{high, 3, PQ_EARG, "text 1: token 2: id 32"},
               {low, 1, PQ_EARG, "id -1"},
               {many, 65, PQ_ELIMIT, "64 positions"}};

    for (size_t i = 0; i < 3; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        const struct pq_nn_text t = {bad[i].ids, bad[i].n, 0, NULL};
        cr_assert_eq(pq_nn_score(nn, &t, 1, NULL, NULL, &e), -1);
        cr_assert_eq(e.code, bad[i].code);
        cr_assert(strstr(e.msg, bad[i].says), "%s", e.msg);
    }
    pq_nn_free(nn);
}
