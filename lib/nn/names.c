/*
 * Names: which tensor is which weight.
 *
 *   llama and its like                      gpt2
 *     model.embed_tokens.weight               transformer.wte.weight
 *     model.layers.I.self_attn.q_proj ...     transformer.h.I.attn.c_attn ...
 *     model.norm.weight, lm_head.weight       transformer.ln_f, lm_head
 *
 * phi3 and gpt2 keep q, k and v in one tensor, phi3 gate and up as well.  The
 * first member of struct nn_layer is a vector, so offset 0 is no part.
 */
#include "names.h"

#define AT(member) offsetof(struct nn_layer, member)

static const struct nn_module plain_modules[] = {
    {"self_attn.q_proj", {AT(q)}},
    {"self_attn.k_proj", {AT(k)}},
    {"self_attn.v_proj", {AT(v)}},
    {"self_attn.o_proj", {AT(o)}},
    {"mlp.gate_proj", {AT(gate)}},
    {"mlp.up_proj", {AT(up)}},
    {"mlp.down_proj", {AT(down)}},
    {NULL, {0}},
};

static const struct nn_module fused_modules[] = {
    {"self_attn.qkv_proj", {AT(q), AT(k), AT(v)}},
    {"self_attn.o_proj", {AT(o)}},
    {"mlp.gate_up_proj", {AT(gate), AT(up)}},
    {"mlp.down_proj", {AT(down)}},
    {NULL, {0}},
};

static const struct nn_module gpt2_modules[] = {
    {"attn.c_attn", {AT(q), AT(k), AT(v)}},
    {"attn.c_proj", {AT(o)}},
    {"mlp.c_fc", {AT(up)}},
    {"mlp.c_proj", {AT(down)}},
    {NULL, {0}},
};

static const struct nn_vector plain_vectors[] = {
    {"input_layernorm.weight", AT(norm1), false},
    {"post_attention_layernorm.weight", AT(norm2), false},
    {"self_attn.q_norm.weight", AT(q_norm), true},
    {"self_attn.k_norm.weight", AT(k_norm), true},
    {NULL, 0, false},
};

static const struct nn_vector four_norms[] = {
    {"input_layernorm.weight", AT(norm1), false},
    {"post_attention_layernorm.weight", AT(post1), false},
    {"pre_feedforward_layernorm.weight", AT(norm2), false},
    {"post_feedforward_layernorm.weight", AT(post2), false},
    {NULL, 0, false},
};

static const struct nn_vector gpt2_vectors[] = {
    {"ln_1.weight", AT(norm1), false},
    {"ln_1.bias", AT(norm1_bias), false},
    {"ln_2.weight", AT(norm2), false},
    {"ln_2.bias", AT(norm2_bias), false},
    {NULL, 0, false},
};

#define LLAMA_LIKE                                                             \
    .layers = "model.layers", .embed = "model.embed_tokens.weight",            \
    .norm = "model.norm.weight"

static const struct nn_names plain = {
    LLAMA_LIKE, .vectors = plain_vectors, .modules = plain_modules};
static const struct nn_names fused = {
    LLAMA_LIKE, .vectors = plain_vectors, .modules = fused_modules};
static const struct nn_names gemma = {
    LLAMA_LIKE, .vectors = four_norms, .modules = plain_modules};
static const struct nn_names gpt2 = {
    .layers = "transformer.h",
    .embed = "transformer.wte.weight",
    .places = "transformer.wpe.weight",
    .norm = "transformer.ln_f.weight",
    .norm_bias = "transformer.ln_f.bias",
    .vectors = gpt2_vectors,
    .modules = gpt2_modules,
};

const struct nn_names *nn_names_of(const struct nn_config *c)
{
    return c->family == NN_GPT2 ? &gpt2
           : c->four_norms      ? &gemma
           : c->fused_qkv       ? &fused
                                : &plain;
}

size_t nn_module_parts(const struct nn_module *m)
{
    size_t n = 0;

    while (n < NN_MODULE_PARTS && m->at[n])
        n++;
    return n;
}

struct nn_linear *nn_module_part(struct nn_layer *l, const struct nn_module *m,
                                 size_t i)
{
    return (struct nn_linear *)(void *)((char *)l + m->at[i]);
}

struct nn_module_shape nn_module_shape(const struct nn_config *c,
                                       const struct nn_module *m, size_t i)
{
    const size_t h = c->hidden, q = c->heads * c->d, at = m->at[i];

    if (at == AT(q))
        return (struct nn_module_shape){q, h, c->qkv_bias};
    if (at == AT(k) || at == AT(v))
        return (struct nn_module_shape){c->kv_heads * c->d, h, c->qkv_bias};
    if (at == AT(o))
        return (struct nn_module_shape){h, q, c->o_bias};
    if (at == AT(down))
        return (struct nn_module_shape){h, c->ffn, c->mlp_bias};
    return (struct nn_module_shape){c->ffn, h, c->mlp_bias};
}

const float **nn_vector_place(struct nn_layer *l, const struct nn_vector *v)
{
    return (const float **)(void *)((char *)l + v->at);
}

size_t nn_vector_size(const struct nn_config *c, const struct nn_vector *v)
{
    return !v->head ? c->hidden : c->qk_norm ? c->d : 0;
}
