/*
 * config.json: the families and what sets them apart.
 *
 *             norm  qkv,o bias      kv heads  head size  window
 *   llama     RMS   attention_bias  = heads   h/H        none
 *   mistral   RMS   no              8         h/H        4096 if key absent
 *   qwen2     RMS   qkv yes, o no   32        h/H        see windows_of()
 *   qwen3     RMS   attention_bias  32        128        as qwen2; q, k norms
 *   gemma2    RMS   attention_bias  4         256        4096, even layers
 *   phi3      RMS   no              = heads   h/H        all layers if set
 *   gpt2      mean  yes             = heads   h/H        none
 *
 * (The third and fourth column are the defaults where the key is absent.)
 * gemma2: weights are 1 + w, four norms a block, soft caps, the embedding
 * times sqrt(h); scale is query_pre_attn_scalar^-1/2.
 */
#include "nn_config.h"

#include <math.h>
#include <string.h>

#include "config_json.h"
#include "pq_json.h"

#define MANY ((size_t)1 << 31) /* no size is larger */

static const struct family {
    const char *name;
    enum nn_family family;
    size_t kv_heads; /* where the key is absent; 0 = heads */
    size_t d;        /* the same; 0 = hidden / heads */
    double eps;
} families[] = {
    {"llama", NN_LLAMA, 0, 0, 1e-6},     {"mistral", NN_MISTRAL, 8, 0, 1e-6},
    {"qwen2", NN_QWEN2, 32, 0, 1e-6},    {"qwen3", NN_QWEN3, 32, 128, 1e-6},
    {"gemma2", NN_GEMMA2, 4, 256, 1e-6}, {"phi3", NN_PHI3, 0, 0, 1e-5},
    {"gpt2", NN_GPT2, 0, 0, 1e-5},
};

static const struct family *family_of(struct nn_reader *r)
{
    const char *type = nn_key_string(r, "model_type");

    for (size_t i = 0; type && i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].name, type) == 0)
            return &families[i];
    if (type)
        nn_refuse(r,
                  "model_type %.64s is not supported (supported: llama "
                  "mistral qwen2 qwen3 gemma2 phi3 gpt2)",
                  type);
    else if (!r->failed)
        nn_refuse(r, "model_type is missing");
    return NULL;
}

/* What changes the mathematics in ways that are not known here. */
static void refuse_variants(struct nn_reader *r)
{
    static const char *const keys[] = {"num_experts", "num_local_experts",
                                       "use_bidirectional_attention",
                                       "add_cross_attention"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const cJSON *v = nn_key(r->j, keys[i]);
        if (v && !cJSON_IsFalse(v))
            nn_refuse(r, "%s is not supported", keys[i]);
    }
    if (nn_key_size(r, "pretraining_tp", 1, 0, MANY) > 1)
        nn_refuse(r, "pretraining_tp above 1 is not supported");
}

static void read_act(struct nn_reader *r, struct nn_config *c)
{
    const char *key = c->family == NN_GPT2     ? "activation_function"
                      : c->family == NN_GEMMA2 ? "hidden_activation"
                                               : "hidden_act";
    const char *name = nn_key_string(r, key);

    if (!name)
        name = c->family == NN_GPT2     ? "gelu_new"
               : c->family == NN_GEMMA2 ? "gelu_pytorch_tanh"
                                        : "silu";
    if (strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0)
        c->act = NN_SILU;
    else if (strcmp(name, "gelu_new") == 0 ||
             strcmp(name, "gelu_pytorch_tanh") == 0)
        c->act = NN_GELU_TANH;
    else
        nn_refuse(r, "%s %.64s is not supported", key, name);
}

static int32_t read_pad(struct nn_reader *r)
{
    const cJSON *v = nn_key(r->j, "pad_token_id");

    if (cJSON_IsArray(v))
        v = v->child;
    return cJSON_IsNumber(v) && v->valuedouble >= 0 &&
                   v->valuedouble < (double)MANY
               ? (int32_t)v->valuedouble
               : -1;
}

/* ---- windows ------------------------------------------------------------ */

/*
 * Does layer i slide?  layer_types says so where it is there; else qwen:
 * layers from max_window_layers on; gemma2: the even ones; others: all.
 */
static bool slides(struct nn_reader *r, const struct nn_config *c, size_t i,
                   size_t first)
{
    const cJSON *list = nn_key(r->j, "layer_types");

    if (list) {
        const char *kind =
            cJSON_GetStringValue(cJSON_GetArrayItem(list, (int)i));
        if (kind && strcmp(kind, "sliding_attention") == 0)
            return true;
        if (!kind || strcmp(kind, "full_attention") != 0)
            nn_refuse(r, "layer_types holds something else than "
                         "full_attention and sliding_attention");
        return false;
    }
    return c->family == NN_GEMMA2 ? i % 2 == 0 : i >= first;
}

static void read_windows(struct nn_reader *r, struct nn_config *c)
{
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(r->j, "sliding_window");
    const bool qwen = c->family == NN_QWEN2 || c->family == NN_QWEN3;
    const bool absent_4096 =
        c->family == NN_MISTRAL || c->family == NN_GEMMA2 || qwen;
    size_t window = nn_key_size(r, "sliding_window",
                                !key && absent_4096 ? 4096 : 0, 0, MANY);
    const size_t first =
        qwen ? nn_key_size(r, "max_window_layers", 28, 0, MANY) : 0;
    size_t *w = pq_arena_alloc(r->arena, c->layers, sizeof *w);

    if (!w) {
        pq_fail_nomem(r->e);
        r->failed = true;
        return;
    }
    if (c->family == NN_LLAMA || c->family == NN_GPT2 ||
        (qwen && !nn_key_bool(r, "use_sliding_window", false)))
        window = 0;
    const cJSON *list = nn_key(r->j, "layer_types");
    if (list && (size_t)cJSON_GetArraySize(list) != c->layers)
        nn_refuse(r, "layer_types does not have one entry a layer");
    for (size_t i = 0; window && i < c->layers && !r->failed; i++)
        w[i] = slides(r, c, i, first) ? window : 0;
    c->windows = w;
}

/* ---- families ----------------------------------------------------------- */

static void read_gpt2(struct nn_reader *r, struct nn_config *c)
{
    c->hidden = nn_key_size(r, "n_embd", 768, 1, MANY);
    c->layers = nn_key_size(r, "n_layer", 12, 1, 100000);
    c->heads = nn_key_size(r, "n_head", 12, 1, MANY);
    c->kv_heads = c->heads;
    c->positions = nn_key_size(r, "n_positions", 1024, 1, MANY);
    c->ffn = nn_key_size(r, "n_inner", 4 * c->hidden, 1, MANY);
    c->eps = (float)nn_key_real(r, "layer_norm_epsilon", 1e-5);
    if (c->hidden % c->heads)
        nn_refuse(r, "n_embd is no multiple of n_head");
    c->d = c->hidden / c->heads;
    c->layer_norm = c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->fused_qkv = c->conv1d = c->learned_places = true;
    c->scale = nn_key_bool(r, "scale_attn_weights", true)
                   ? 1.0f / sqrtf((float)c->d)
                   : 1.0f;
    c->scale_by_layer =
        nn_key_bool(r, "scale_attn_by_inverse_layer_idx", false);
}

static void read_gemma2(struct nn_reader *r, struct nn_config *c)
{
    const double q = nn_key_real(r, "query_pre_attn_scalar", 256);
    const char *const caps[] = {"attn_logit_softcapping",
                                "final_logit_softcapping"};
    float *const cap[] = {&c->attn_cap, &c->final_cap};

    c->plus_one = c->four_norms = true;
    c->scale = (float)(1 / sqrt(q));
    c->embed_scale = sqrtf((float)c->hidden);
    if (!(q > 0))
        nn_refuse(r, "query_pre_attn_scalar is not positive");
    for (int i = 0; i < 2; i++) {
        const bool there =
            cJSON_GetObjectItemCaseSensitive(r->j, caps[i]) != NULL;
        *cap[i] = (float)nn_key_real(r, caps[i], there ? 0 : i ? 30 : 50);
    }
}

static void read_llama_like(struct nn_reader *r, struct nn_config *c,
                            const struct family *f)
{
    c->hidden = nn_key_size(r, "hidden_size", NN_REQUIRED, 1, MANY);
    c->ffn = nn_key_size(r, "intermediate_size", NN_REQUIRED, 1, MANY);
    c->layers = nn_key_size(r, "num_hidden_layers", NN_REQUIRED, 1, 100000);
    c->heads = nn_key_size(r, "num_attention_heads", NN_REQUIRED, 1, MANY);
    c->kv_heads = nn_key_size(r, "num_key_value_heads",
                              f->kv_heads ? f->kv_heads : c->heads, 1, MANY);
    c->d = nn_key_size(r, "head_dim", f->d ? f->d : c->hidden / c->heads, 1,
                       1 << 20);
    c->positions =
        nn_key_size(r, "max_position_embeddings", NN_REQUIRED, 1, MANY);
    c->eps = (float)nn_key_real(r, "rms_norm_eps", f->eps);
    c->gated = true;
    c->fused_qkv = c->family == NN_PHI3;
    c->qk_norm = c->family == NN_QWEN3;
    c->qkv_bias = c->o_bias = c->family != NN_MISTRAL && c->family != NN_PHI3 &&
                              nn_key_bool(r, "attention_bias", false);
    if (c->family == NN_QWEN2) {
        c->qkv_bias = true;
        c->o_bias = false;
    }
    c->mlp_bias = c->family == NN_LLAMA && nn_key_bool(r, "mlp_bias", false);
    if (c->d)
        c->scale = 1.0f / sqrtf((float)c->d);
    if (c->family == NN_GEMMA2)
        read_gemma2(r, c);
    if (!r->failed)
        nn_rope_read(r, c);
}

static void read_all(struct nn_reader *r, struct nn_config *c)
{
    const struct family *f = family_of(r);

    if (!f)
        return;
    c->family = f->family;
    c->type = f->name;
    c->embed_scale = 1;
    refuse_variants(r);
    c->vocab =
        nn_key_size(r, "vocab_size", c->family == NN_GPT2 ? 50257 : NN_REQUIRED,
                    1, INT32_MAX);
    if (c->family == NN_GPT2)
        read_gpt2(r, c);
    else
        read_llama_like(r, c, f);
    read_act(r, c);
    c->tied = nn_key_bool(r, "tie_word_embeddings",
                          c->family == NN_GPT2 || c->family == NN_GEMMA2);
    c->pad = read_pad(r);
    if (!r->failed && c->heads % c->kv_heads)
        nn_refuse(r, "num_attention_heads is no multiple of "
                     "num_key_value_heads");
    if (!r->failed && !(c->eps >= 0))
        nn_refuse(r, "the norm's epsilon is negative");
    if (!r->failed)
        read_windows(r, c);
}

int nn_config_read(struct nn_config *c, const char *json, size_t n,
                   struct pq_arena *arena, struct pq_error *e)
{
    memset(c, 0, sizeof *c);
    if (pq_json_check(json, n, e))
        return pq_error_in(e, "config.json");
    cJSON *j = cJSON_ParseWithLength(json, n);
    struct nn_reader r = {j, arena, e, false};
    if (cJSON_IsObject(j))
        read_all(&r, c);
    else
        nn_refuse(&r, "is not a JSON object");
    cJSON_Delete(j);
    return r.failed ? pq_error_in(e, "config.json") : 0;
}
