/*
 * Adapters of PEFT as they are read and placed: names that are tolerated,
 * keys that matter and keys that do not, and what must be refused.
 */
#include "fake.h"

#include "pq_made.h"
#include "pq_names.h"
#include "pq_peft.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- refusals ---------------------------------------------------------- */

/* An adapter of one module on a base [6][4], with this config. */
static void check_accepted(const char *config, const char *a_name,
                           uint64_t b_rows, unsigned accept,
                           const char *complaint)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct fake_source base, adapter;
    struct pq_peft p = {.accept = accept};
    struct pq_peft_places w = {0};
    const uint64_t shape[] = {6, 4}, a[] = {2, 4}, b[] = {b_rows, 2};
    const float zero[64] = {0};
    char b_name[128];

    fake_source_init(&base, false);
    fake_source_init(&adapter, false);
    fake_source_add(&base, "m.layers.0.q.weight", PQ_F32, 2, shape, zero);
    fake_source_add(&adapter, a_name, PQ_F32, 2, a, zero);
    snprintf(b_name, sizeof b_name, "%s", a_name);
    strstr(b_name, "lora_A")[5] = 'B';
    fake_source_add(&adapter, b_name, PQ_F32, 2, b, zero);
    if (config)
        cr_assert_eq(pq_catalog_add_blob(adapter.base.catalog,
                                         "adapter_config.json", config,
                                         strlen(config), &e),
                     0);
    w.base = base.base.catalog;
    cr_assert_eq(pq_peft_places_init(&w, &e), 0);
    int rc = pq_peft_read(&p, &adapter.base, &e);
    if (!rc)
        rc = pq_peft_place(&w, &p, 1, &e);
    if (complaint)
        cr_assert(rc && strstr(e.msg, complaint), "%s: %s",
                  config ? config : "none", e.msg);
    else
        cr_assert_eq(rc, 0, "%s", e.msg);
    pq_peft_places_release(&w);
    pq_peft_release(&p);
    fake_source_release(&base);
    fake_source_release(&adapter);
}

static void check_config(const char *config, const char *a_name,
                         uint64_t b_rows, const char *complaint)
{
    check_accepted(config, a_name, b_rows, 0, complaint);
}

#define GOOD "\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4"
#define Q    "base_model.model.m.layers.0.q.lora_A.weight"

Test(peft, names_are_tolerated)
{
    static const char *const names[] = {
        Q,
        "m.layers.0.q.lora_A.weight",
        "base_model.model.m.layers.0.q.lora_A.default.weight",
        "base_model.model._orig_mod.m.layers.0.q.lora_A.weight",
        "_orig_mod.base_model.model.m.layers.0.q.lora_A.weight",
        "base_model.model._fsdp_wrapped_module.m.layers.0.q.lora_A.weight",
        "base_model.model.transformer.m.layers.0.q.lora_A.weight",
        "base_model.model.model.m.layers.0.q.lora_A.default.weight",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_config("{" GOOD "}", names[i], 6, NULL);
}

Test(peft, what_cannot_be_merged_is_refused_by_name)
{
    static const struct {
        const char *config, *complaint;
    } cases[] = {
        {NULL, "adapter_config.json is missing"},
        {"{}", "peft_type is missing"},
        {"{\"peft_type\":\"LOHA\"}", "peft_type LOHA"},
        {"{\"peft_type\":\"LORA\",\"lora_alpha\":4}", "r is missing"},
        {"{\"peft_type\":\"LORA\",\"r\":3}", "rank is 2"},
        {"{" GOOD ",\"rank_pattern\":{\"q\":5}}", "rank is 2"},
        {"{" GOOD ",\"layer_replication\":[[0,1]]}", "layer_replication"},
        {"{" GOOD ",\"use_qalora\":true}", "use_qalora"},
        {"{" GOOD ",\"alora_invocation_tokens\":[1]}", "alora_invocation"},
        {"{" GOOD ",\"kasa_config\":{\"beta\":0.1}}", "kasa_config"},
        {"{" GOOD ",\"use_bdlora\":{\"nblocks\":2}}", "use_bdlora"},
        {"{" GOOD ",\"arrow_config\":{}}", "arrow_config"},
        {"{" GOOD ",\"rank_pattern\":{\"q\":0}}", "rank is 2"},
        {"{" GOOD ",\"rank_pattern\":[]}", "rank_pattern is not an object"},
        {"{" GOOD ",\"use_rslora\":1}", "use_rslora is not true or false"},
        {"{" GOOD ",\"target_parameters\":\"x\"}", "is not an array"},
        {"{" GOOD ",\"target_parameters\":[1]}", "is not a string"},
        {"{" GOOD ",\"init_lora_weights\":\"newest\"}", "newest"},
        {"{" GOOD ",\"init_lora_weights\":3}", "is not a string"},
        {"{" GOOD ",\"target_parameters\":[\"x\"]}", "target_parameters"},
        {"{" GOOD ",\"init_lora_weights\":\"pissa\"}", "pissa"},
        {"{" GOOD ",\"init_lora_weights\":\"olora\"}", "olora"},
        {"{" GOOD ",\"use_dora\":true}", "lora_magnitude_vector is missing"},
        {"{" GOOD ",\"rank_pattern\":{\"(\":2}}", "not valid"},
        {"{\"peft_type\":\"LORA\",\"r\":1e999}", "r is not a rank"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":-1e999}",
         "lora_alpha is not a number"},
        {"{" GOOD ",\"alpha_pattern\":{\"q\":1e999}}", "has no number"},
        {"{" GOOD ",}", "adapter_config.json"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_config(cases[i].config, Q, 6, cases[i].complaint);
    check_config("{" GOOD "}", Q, 5, "does not fit");
    check_config("{" GOOD "}", "base_model.model.m.layers.0.q.lora_Aa.weight",
                 6, "no part of a LoRA that pq knows");
    check_config("{" GOOD "}", "base_model.model.m.layers.9.q.lora_A.weight",
                 6, "layers.9.q.lora_A.weight: the base has no place");
}

/* The rank of q is 2: a pattern that gives it 5 is one that matched. */
Test(peft, patterns_are_those_of_python)
{
    static const struct {
        const char *pattern;
        bool matches;
    } cases[] = {
        {"q", true},
        {"layers.0.q", true},
        {"m.layers.0.q", true},
        {"mm.layers.0.q", false},
        {"ers.0.q", false},
        {"layers.1.q", false},
        {"layers.0", false},
        {".", true},
        {"..layers.0.q", true},
        {"...layers.0.q", false},
        {"layers\\\\.0\\\\.q", true},
        {"layers\\\\..\\\\.q", true},
        {"layers\\\\.\\\\d+\\\\.q", true},
        {"layers\\\\.\\\\d+?\\\\.q", true},
        {"layers\\\\.\\\\d{1,2}\\\\.q", true},
        {"layers\\\\.\\\\d{2,}\\\\.q", false},
        {"\\\\w+\\\\.0.(q|v)", true},
        {"layers[.][\\\\d_]+[\\\\.]q", true},
        {"layers[^.][0-9]{1}.[]q]", false},
        {"layers.([0-9]+[.])+q", true},
        {"(k|v)?q", true},
    };
    char config[200];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(config, sizeof config, "{" GOOD ",\"rank_pattern\":{\"%s\":5}}",
                 cases[i].pattern);
        check_config(config, Q, 6, cases[i].matches ? "it is 5" : NULL);
    }
}

/* "(((q" and "REPEAT)REPEAT)REPEAT)": `depth` of each. */
static char *nested(size_t depth, const char *repeat)
{
    struct pq_buf b = {0};

    pq_buf_puts(&b, "{" GOOD ",\"rank_pattern\":{\"");
    for (size_t i = 0; i < depth; i++)
        pq_buf_puts(&b, "(");
    pq_buf_puts(&b, "q");
    for (size_t i = 0; i < depth; i++)
        pq_buf_printf(&b, ")%s", repeat);
    pq_buf_puts(&b, "\":2}}");
    cr_assert(!b.failed);
    return b.s;
}

/* regcomp() would take all memory for them, or all of the stack. */
Test(peft, patterns_that_explode_are_refused, .timeout = 10)
{
    static const struct {
        size_t depth;
        const char *repeat, *complaint;
    } cases[] = {
        {5, "", NULL},           {5, "+", NULL},
        {200000, "", "is not supported"}, {40, "+", "is not supported"},
        {5, "{99}", "is not supported"},  {40, "*", "is not supported"},
        {1, "++", "is not supported"},    {1, "{9999}", "is not supported"},
        {1, "{}", "is not supported"},    {1, "{,2}", "is not supported"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *config = nested(cases[i].depth, cases[i].repeat);
        check_config(config, Q, 6, cases[i].complaint);
        free(config);
    }
}

Test(peft, other_methods_are_refused_by_their_name)
{
    static const char *const types[] = {
        "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING",
        "PREFIX_TUNING", "ADALORA", "ADAMSS", "BOFT", "ADAPTION_PROMPT", "IA3",
        "BEFT", "LILY", "LOHA", "LOKR", "OFT", "POLY", "LN_TUNING", "VERA",
        "FROD", "PVERA", "FOURIERFT", "GLORA", "XLORA", "HRA", "VBLORA",
        "UNILORA", "CPT", "MISS", "RANDLORA", "ROAD", "HIRA", "SHIRA", "C3A",
        "WAVEFT", "OSF", "DELORA", "GRALORA", "CARTRIDGE", "TINYLORA", "PSOFT",
        "PEANUT", "SHADOW", "SUPERTUNING", "DEFT", "BONE"};
    char config[96], complaint[64];

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        snprintf(config, sizeof config, "{\"peft_type\":\"%s\",\"r\":2}",
                 types[i]);
        snprintf(complaint, sizeof complaint, "peft_type %s cannot be merged",
                 types[i]);
        check_config(config, Q, 6, complaint);
    }
}

/* Starts that changed the base for good. */
Test(peft, starts_that_cannot_be_found_again)
{
    static const char *const starts[] = {"corda", "loftq", "lora_ga"};
    char config[128];

    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        snprintf(config, sizeof config,
                 "{" GOOD ",\"init_lora_weights\":\"%s\"}", starts[i]);
        check_config(config, Q, 6, starts[i]);
        check_accepted(config, Q, 6, PQ_PEFT_CHANGED_BASE, "--residual-base");
    }
}

/* Every key of LoraConfig with the value that it has when nobody sets it. */
Test(peft, defaults_are_no_reason_to_refuse)
{
    check_config(
        "{" GOOD ",\"task_type\":null,\"auto_mapping\":null,"
        "\"peft_version\":\"0.21.0\",\"base_model_name_or_path\":null,"
        "\"revision\":null,\"inference_mode\":false,"
        "\"target_modules\":null,\"exclude_modules\":null,"
        "\"lora_dropout\":0.0,\"fan_in_fan_out\":false,\"bias\":\"none\","
        "\"use_rslora\":false,\"modules_to_save\":null,"
        "\"init_lora_weights\":true,\"layers_to_transform\":null,"
        "\"layers_pattern\":null,\"rank_pattern\":{},"
        "\"alpha_pattern\":{},\"megatron_config\":null,"
        "\"megatron_core\":\"megatron.core\","
        "\"trainable_token_indices\":null,\"loftq_config\":{},"
        "\"eva_config\":null,\"corda_config\":null,"
        "\"lora_ga_config\":null,\"use_dora\":false,"
        "\"velora_config\":null,\"alora_invocation_tokens\":null,"
        "\"use_qalora\":false,\"qalora_group_size\":16,"
        "\"monteclora_config\":null,\"layer_replication\":null,"
        "\"runtime_config\":{\"ephemeral_gpu_offload\":false},"
        "\"lora_bias\":false,\"target_parameters\":null,"
        "\"use_bdlora\":null,\"arrow_config\":null,"
        "\"kasa_config\":null,\"ensure_weight_tying\":false,"
        "\"a_key_of_tomorrow\":7}",
        Q, 6, NULL);
}

/* What is set and does not matter to what a LoRA means. */
Test(peft, settings_of_training_do_not_matter)
{
    static const char *const settings[] = {
        "\"init_lora_weights\":\"gaussian\"", "\"init_lora_weights\":\"eva\"",
        "\"init_lora_weights\":\"orthogonal\"",
        "\"init_lora_weights\":\"mica\"", "\"init_lora_weights\":false",
        "\"lora_dropout\":0.1", "\"layers_to_transform\":[0]",
        "\"megatron_config\":{\"a\":1}", "\"loftq_config\":{\"a\":1}",
        "\"velora_config\":{\"scale\":1.0}", "\"monteclora_config\":{\"a\":1}",
        "\"ensure_weight_tying\":true", "\"target_modules\":\"all-linear\""};
    char config[128];

    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        snprintf(config, sizeof config, "{" GOOD ",%s}", settings[i]);
        check_config(config, Q, 6, NULL);
    }
}

/* With ensure_weight_tying a tied head follows the table that was saved. */
Test(peft, tied_heads_follow_if_the_config_says_so)
{
    static const char *const ways[] = {"false", "true"};
    const uint64_t shape[] = {6, 4};
    const float zero[24] = {0};

    for (int follow = 0; follow < 2; follow++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct fake_source base, adapter;
        struct pq_peft p = {0};
        struct pq_peft_places w = {.tied = true};
        char config[128];
        fake_source_init(&base, false);
        fake_source_init(&adapter, false);
        fake_source_add(&base, "embed_tokens.weight", PQ_F32, 2, shape, zero);
        fake_source_add(&adapter, "embed_tokens.weight", PQ_F32, 2, shape,
                        zero);
        snprintf(config, sizeof config, "{" GOOD ",\"ensure_weight_tying\":%s}",
                 ways[follow]);
        cr_assert_eq(pq_catalog_add_blob(adapter.base.catalog,
                                         "adapter_config.json", config,
                                         strlen(config), &e),
                     0);
        w.base = base.base.catalog;
        cr_assert_eq(pq_peft_places_init(&w, &e), 0);
        cr_assert_eq(pq_peft_read(&p, &adapter.base, &e), 0, "%s", e.msg);
        cr_assert_eq(pq_peft_place(&w, &p, 1, &e), 0, "%s", e.msg);
        cr_assert_eq(w.untied, !follow);
        pq_peft_places_release(&w);
        pq_peft_release(&p);
        fake_source_release(&base);
        fake_source_release(&adapter);
    }
}

/* ---- experts that do not fit ------------------------------------------- */

/*
 * A LoRA of rank 2 on [2][s][t] (or on matrices of two experts, apart), with
 * A [4][a] and B [b][4].
 */
struct misfit {
    const char *parameters; /* JSON */
    const char *tensors[3]; /* of the base, [2][s][t] */
    uint64_t s, t, a, b;
    const char *complaint; /* NULL: it fits */
    bool twice; /* a second LoRA in the module, of the same shapes */
};

#define X "base_model.model.m.experts"

static void check_misfit(const struct misfit *m)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct fake_source base, adapter;
    struct pq_source *made = NULL;
    struct pq_peft p = {.accept = PQ_PEFT_PARAMETERS};
    struct pq_peft_places w = {0};
    const uint64_t shape[] = {2, m->s, m->t}, a[] = {4, m->a}, b[] = {m->b, 4};
    const float zero[256] = {0};
    char config[256];

    fake_source_init(&base, false);
    fake_source_init(&adapter, false);
    for (size_t i = 0; i < 3 && m->tensors[i]; i++) {
        const bool apart = strstr(m->tensors[i], ".weight") != NULL;
        fake_source_add(&base, m->tensors[i], PQ_F32, apart ? 2 : 3,
                        apart ? shape + 1 : shape, zero);
    }
    fake_source_add(&adapter, X ".lora_A.weight", PQ_F32, 2, a, zero);
    fake_source_add(&adapter, X ".lora_B.weight", PQ_F32, 2, b, zero);
    if (m->twice) {
        fake_source_add(&adapter, X ".base_layer.lora_A.weight", PQ_F32, 2, a,
                        zero);
        fake_source_add(&adapter, X ".base_layer.lora_B.weight", PQ_F32, 2, b,
                        zero);
    }
    snprintf(config, sizeof config,
             "{" GOOD ",\"peft_version\":\"0.19.0\",\"target_parameters\":%s}",
             m->parameters);
    cr_assert_eq(pq_catalog_add_blob(adapter.base.catalog,
                                     "adapter_config.json", config,
                                     strlen(config), &e),
                 0);
    cr_assert_eq(pq_made_new("made", 4, 1 << 20, NULL, &made, &e), 0);
    w.base = base.base.catalog;
    w.made = made;
    cr_assert_eq(pq_peft_places_init(&w, &e), 0);
    cr_assert_eq(pq_peft_read(&p, &adapter.base, &e), 0, "%s", e.msg);
    const int rc = pq_peft_place(&w, &p, 1, &e);
    if (m->complaint)
        cr_assert(rc && strstr(e.msg, m->complaint), "%s: %s", m->complaint,
                  e.msg);
    else
        cr_assert_eq(rc, 0, "%s", e.msg);
    pq_peft_places_release(&w);
    pq_peft_release(&p);
    pq_source_free(made);
    fake_source_release(&base);
    fake_source_release(&adapter);
}

Test(peft, experts_that_do_not_fit)
{
    static const struct misfit cases[] = {
        {"[\"experts.w\"]", {"m.experts.w"}, 3, 5, 5, 3, NULL, false},
        {"[\"experts.w\"]", {"m.experts.w"}, 3, 5, 3, 5, NULL, false},
        {"[\"w\"]", {"m.experts.w"}, 3, 5, 5, 3, NULL, false},
        {"[\"w\"]", {"m.experts.w"}, 3, 5, 5, 3, "has had its LoRA", true},
        {"[\"experts.w\"]", {"m.experts.w"}, 3, 5, 4, 3, "does not fit", false},
        {"[\"experts.w\"]", {"m.experts.w"}, 3, 5, 5, 4, "does not fit", false},
        {"[\"experts.v\"]", {"m.experts.w"}, 3, 5, 5, 3, "no place", false},
        {"[\"experts.v\",\"experts.w\"]", {"m.experts.v", "m.experts.w"},
         3, 5, 5, 3, "is not the only parameter that it fits", false},
        {"[\"experts.down_proj\"]",
         {"m.experts.0.w2.weight", "m.experts.1.w2.weight"},
         3, 5, 5, 3, NULL, false},
        {"[\"experts.down_proj\"]",
         {"m.experts.0.w2.weight"}, 3, 5, 5, 3, "does not fit", false},
        {"[\"experts.gate_up_proj\"]",
         {"m.experts.0.w1.weight", "m.experts.0.w3.weight",
          "m.experts.1.w1.weight"},
         3, 5, 5, 6, "expert 1 of the base is not as the others are", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_misfit(&cases[i]);
}

Test(peft, names_of_experts)
{
    char s[64];

    cr_assert(pq_name_expert("a.experts.gate_up_proj", 0, 1, 12, s, sizeof s));
    cr_assert_str_eq(s, "a.experts.12.up_proj.weight");
    cr_assert(pq_name_expert("a.experts.gate_up_proj", 1, 0, 0, s, sizeof s));
    cr_assert_str_eq(s, "a.experts.0.w1.weight");
    cr_assert(pq_name_expert("a.experts.gate_up_proj", 1, 2, 0, s, sizeof s));
    cr_assert_str_eq(s, "");
    cr_assert(pq_name_expert("a.experts.router", 0, 0, 0, s, sizeof s));
    cr_assert_str_eq(s, "");
    cr_assert(pq_name_expert("a.experts.gate_up_proj", 0, 0, 0, s, 8));
    cr_assert_str_eq(s, "");
    cr_assert_not(pq_name_expert("a.experts.w", 7, 0, 0, s, sizeof s));
}
