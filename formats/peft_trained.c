/*
 * adapter_config.json of what was trained here: the keys that PEFT writes, in
 * its order (sorted), with its two spaces.
 */
#include "pq_peft.h"

#include "pq_json.h"

static const char config_name[] = "adapter_config.json";

static int add_config(struct pq_catalog *out, struct pq_buf *b,
                      struct pq_error *e)
{
    const int rc = b->failed
                       ? pq_fail_nomem(e)
                       : pq_catalog_add_blob(out, config_name, b->s, b->n, e);

    pq_buf_release(b);
    return rc;
}

static void put_base(struct pq_buf *b, const char *base)
{
    pq_buf_puts(b, "  \"base_model_name_or_path\": ");
    if (base)
        pq_json_quote(b, base);
    else
        pq_buf_puts(b, "null");
    pq_buf_puts(b, ",\n");
}

static void put_targets(struct pq_buf *b, const struct pq_peft_trained *t)
{
    pq_buf_puts(b, "  \"target_modules\": [");
    for (size_t i = 0; i < t->n_targets; i++) {
        pq_buf_puts(b, i ? ",\n    " : "\n    ");
        pq_json_quote(b, t->targets[i]);
    }
    pq_buf_puts(b, "\n  ],\n");
}

int pq_peft_trained_config(struct pq_catalog *out,
                           const struct pq_peft_trained *t, struct pq_error *e)
{
    struct pq_buf b = {0};

    pq_buf_puts(&b, "{\n  \"alpha_pattern\": {},\n"
                    "  \"auto_mapping\": null,\n");
    put_base(&b, t->base);
    pq_buf_printf(&b,
                  "  \"bias\": \"none\",\n  \"fan_in_fan_out\": %s,\n"
                  "  \"inference_mode\": true,\n"
                  "  \"init_lora_weights\": true,\n  \"lora_alpha\": ",
                  t->conv1d ? "true" : "false");
    pq_json_put_f64(&b, t->alpha);
    pq_buf_printf(&b,
                  ",\n  \"lora_bias\": false,\n  \"lora_dropout\": 0.0,\n"
                  "  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n"
                  "  \"r\": %llu,\n  \"rank_pattern\": {},\n",
                  (unsigned long long)t->rank);
    put_targets(&b, t);
    pq_buf_printf(&b,
                  "  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": %s,\n"
                  "  \"use_rslora\": %s\n}",
                  t->dora ? "true" : "false", t->rslora ? "true" : "false");
    return add_config(out, &b, e);
}

int pq_peft_prompt_config(struct pq_catalog *out, const char *base,
                          uint64_t tokens, uint64_t dim, uint64_t layers,
                          uint64_t heads, struct pq_error *e)
{
    struct pq_buf b = {0};

    pq_buf_puts(&b, "{\n  \"auto_mapping\": null,\n");
    put_base(&b, base);
    pq_buf_printf(&b,
                  "  \"inference_mode\": true,\n"
                  "  \"num_attention_heads\": %llu,\n"
                  "  \"num_layers\": %llu,\n"
                  "  \"num_transformer_submodules\": 1,\n"
                  "  \"num_virtual_tokens\": %llu,\n"
                  "  \"peft_type\": \"PROMPT_TUNING\",\n"
                  "  \"prompt_tuning_init\": \"RANDOM\",\n"
                  "  \"prompt_tuning_init_text\": null,\n"
                  "  \"revision\": null,\n"
                  "  \"task_type\": \"CAUSAL_LM\",\n"
                  "  \"token_dim\": %llu,\n"
                  "  \"tokenizer_name_or_path\": null\n}",
                  (unsigned long long)heads, (unsigned long long)layers,
                  (unsigned long long)tokens, (unsigned long long)dim);
    return add_config(out, &b, e);
}
