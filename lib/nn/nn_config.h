/*
 * What config.json says about a model: one description for all families.
 *
 * Keys that would change the mathematics and are not known are refused; no
 * key is guessed.  Defaults are those of transformers 5.
 */
#ifndef NN_CONFIG_H
#define NN_CONFIG_H

#include "nn.h"
#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

enum nn_family {
    NN_LLAMA, NN_MISTRAL, NN_QWEN2, NN_QWEN3, NN_GEMMA2, NN_PHI3, NN_GPT2
};

enum nn_rope_type {
    NN_ROPE_NONE, /* gpt2 */
    NN_ROPE_DEFAULT, NN_ROPE_LINEAR, NN_ROPE_DYNAMIC, NN_ROPE_LLAMA3,
    NN_ROPE_YARN, NN_ROPE_LONGROPE
};

struct nn_rope_config {
    enum nn_rope_type type;
    double base, factor;
    size_t half;     /* pairs that turn: half of head size * partial factor */
    size_t original; /* positions that the model was first trained on */
    size_t positions; /* max_position_embeddings */
    double low, high; /* llama3: *_freq_factor */
    double beta_fast, beta_slow; /* yarn */
    bool truncate;               /* yarn */
    float a;                     /* of sine and cosine */
    const double *long_factor, *short_factor; /* longrope: [half] */
};

struct nn_config {
    enum nn_family family;
    const char *type; /* model_type */
    size_t hidden, ffn, layers, heads, kv_heads, d, vocab, positions;
    float eps;
    bool layer_norm; /* else RMS */
    bool plus_one;   /* norms multiply by 1 + w */
    bool four_norms; /* also behind attention and MLP */
    bool qk_norm, qkv_bias, o_bias, mlp_bias;
    bool gated;     /* MLP: down(act(gate) * up), else down(act(up)) */
    bool fused_qkv; /* q, k, v (phi3: and gate, up) are one tensor */
    bool conv1d;    /* weights are stored [in][out] */
    bool learned_places;
    bool tied; /* the head is the embedding if the file has no other */
    enum nn_act act;
    float scale;           /* of scores */
    bool scale_by_layer;   /* divided by layer + 1 */
    float attn_cap, final_cap; /* 0 = none */
    float embed_scale;
    const size_t *windows; /* [layers], 0 = all keys */
    struct nn_rope_config rope;
    int32_t pad; /* -1 = none */
};

/* Strings and arrays are kept in the arena; messages begin with config.json. */
PQ_MUST_USE int nn_config_read(struct nn_config *c, const char *json, size_t n,
                               struct pq_arena *arena, struct pq_error *e);

/*
 * Angles per position for a sequence of `length` tokens: dynamic and longrope
 * depend on it.
 */
void nn_rope_inverse(const struct nn_rope_config *r, size_t length,
                     float *inv /* [half] */);

#ifdef __cplusplus
}
#endif
#endif
