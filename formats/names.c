/*
 * Naming schemes of model families; see pq_names.h.
 *
 * A name is a path of components: model.layers.0.self_attn.q_proj.weight.
 * Whole components are compared, or their beginning where the families vary.
 */
#include "pq_names.h"
#include "pq_mem.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

bool pq_name_is_weight(const char *name)
{
    return strcmp(name, "weight") == 0 || pq_ends_with(name, ".weight");
}

size_t pq_name_module(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot ? (size_t)(dot - name) : 0;
}

/* The last component of the module: "q_proj" of "a.q_proj.weight". */
static size_t layer(const char *name, const char **start)
{
    const size_t end = pq_name_module(name);
    size_t begin = end;

    while (begin > 0 && name[begin - 1] != '.')
        begin--;
    *start = name + begin;
    return end - begin;
}

static bool layer_is(const char *name, const char *const *list, size_t n_list)
{
    const char *s;
    const size_t n = layer(name, &s);

    for (size_t i = 0; i < n_list; i++)
        if (strlen(list[i]) == n && memcmp(s, list[i], n) == 0)
            return true;
    return false;
}

static bool layer_has(const char *name, const char *word)
{
    const char *s;
    const size_t n = layer(name, &s), w = strlen(word);

    for (size_t i = 0; i + w <= n; i++)
        if (memcmp(s + i, word, w) == 0)
            return true;
    return false;
}

bool pq_name_is_head(const char *name)
{
    static const char *const heads[] = {"lm_head", "embed_out", "output",
                                        "output_layer"};

    /* blk.3.output or layer.3.output would be a layer of the trunk */
    return layer_is(name, heads, sizeof heads / sizeof *heads) &&
           !strstr(name, "layer.") && !strstr(name, "layers.");
}

bool pq_name_is_embedding(const char *name)
{
    static const char *const tables[] = {
        "wte", "wpe", "shared", "relative_attention_bias", "position_embedding",
        "tok_embeddings"};

    if (layer_is(name, tables, sizeof tables / sizeof *tables))
        return true;
    /* embeddings.patch_embedding.projection is a layer, embed_tokens is not */
    return layer_has(name, "embed");
}

bool pq_name_is_norm(const char *name)
{
    const char *s;
    const size_t n = layer(name, &s);

    return layer_has(name, "norm") || layer_has(name, "Norm") ||
           (n >= 3 && memcmp(s, "ln_", 3) == 0);
}

bool pq_name_is_linear(const char *name)
{
    return pq_name_is_weight(name) && !pq_name_is_embedding(name) &&
           !pq_name_is_head(name) && !pq_name_is_norm(name);
}

/* "h.", then digits, then ".": at the start or after a dot. */
static bool in_numbered_h(const char *name)
{
    for (const char *p = name; (p = strstr(p, "h.")) != NULL; p++) {
        const char *q = p + 2;
        if (p != name && p[-1] != '.')
            continue;
        while (isdigit((unsigned char)*q))
            q++;
        if (q > p + 2 && *q == '.')
            return true;
    }
    return false;
}

bool pq_name_is_conv1d(const char *name)
{
    static const char *const layers[] = {"c_attn", "c_proj", "c_fc", "q_attn"};

    return pq_name_is_weight(name) && in_numbered_h(name) &&
           layer_is(name, layers, sizeof layers / sizeof *layers);
}

bool pq_model_has_conv1d(const char *model_type)
{
    static const char *const types[] = {"gpt2", "openai-gpt", "imagegpt",
                                        "decision_transformer"};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i], model_type) == 0)
            return true;
    return false;
}

const char *pq_name_bare(const char *name)
{
    static const char *const prefixes[] = {"transformer.", "model."};

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        const size_t n = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], n) == 0 && name[n] != '\0')
            return name + n;
    }
    return name;
}

long pq_name_layer(const char *name, const char **end)
{
    for (const char *p = name; p && *p; p = strchr(p, '.')) {
        long v = 0;
        p += *p == '.';
        const char *q = p;
        for (; isdigit((unsigned char)*q) && v < 100000; q++)
            v = v * 10 + (*q - '0');
        if (q > p && *q == '.') {
            *end = q + 1;
            return v;
        }
    }
    *end = name;
    return -1;
}

size_t pq_name_trunk(const char *name)
{
    const char *end;

    if (pq_name_layer(name, &end) < 0)
        return 0;
    end--; /* the dot behind the number */
    while (end > name && end[-1] != '.')
        end--;
    return (size_t)(end - name);
}

bool pq_name_set_layer(const char *name, unsigned long layer, char *s,
                       size_t n)
{
    const char *end;

    if (pq_name_layer(name, &end) < 0)
        return false;
    const int k = snprintf(s, n, "%.*s%lu.%s", (int)pq_name_trunk(name), name,
                           layer, end);
    return k >= 0 && (size_t)k < n;
}

enum pq_block_role pq_name_block_role(const char *name, bool *bias)
{
    static const struct {
        const char *module;
        enum pq_block_role role;
    } modules[] = {
        {"self_attn.q_proj.", PQ_BLOCK_QUERY},
        {"self_attn.k_proj.", PQ_BLOCK_KEY},
        {"self_attn.v_proj.", PQ_BLOCK_VALUE},
        {"self_attn.o_proj.", PQ_BLOCK_OUT},
        {"mlp.gate_proj.", PQ_BLOCK_GATE},
        {"mlp.up_proj.", PQ_BLOCK_UP},
        {"mlp.down_proj.", PQ_BLOCK_DOWN},
        {"mlp.c_fc.", PQ_BLOCK_UP},
        {"mlp.c_proj.", PQ_BLOCK_DOWN},
    };
    const char *end;

    if (pq_name_layer(name, &end) < 0)
        return PQ_BLOCK_OTHER;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        const size_t n = strlen(modules[i].module);
        if (strncmp(end, modules[i].module, n) != 0)
            continue;
        *bias = strcmp(end + n, "bias") == 0;
        return *bias || strcmp(end + n, "weight") == 0 ? modules[i].role
                                                       : PQ_BLOCK_OTHER;
    }
    return PQ_BLOCK_OTHER;
}

bool pq_name_gguf(const char *name, char *s, size_t n)
{
    static const struct {
        const char *module, *gguf;
    } modules[] = {
        {"self_attn.q_proj.", "attn_q"},
        {"self_attn.k_proj.", "attn_k"},
        {"self_attn.v_proj.", "attn_v"},
        {"self_attn.qkv_proj.", "attn_qkv"},
        {"self_attn.o_proj.", "attn_output"},
        {"mlp.gate_proj.", "ffn_gate"},
        {"mlp.up_proj.", "ffn_up"},
        {"mlp.gate_up_proj.", "ffn_up"},
        {"mlp.down_proj.", "ffn_down"},
        {"attn.c_attn.", "attn_qkv"},
        {"attn.c_proj.", "attn_output"},
        {"mlp.c_fc.", "ffn_up"},
        {"mlp.c_proj.", "ffn_down"},
    };
    const char *end;
    const long number = pq_name_layer(name, &end);

    if (number < 0)
        return false;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        const size_t k = strlen(modules[i].module);
        if (strncmp(end, modules[i].module, k) != 0 ||
            strcmp(end + k, "weight") != 0)
            continue;
        const int length =
            snprintf(s, n, "blk.%ld.%s.weight", number, modules[i].gguf);
        return length >= 0 && (size_t)length < n;
    }
    return false;
}

bool pq_name_is_before_layers(const char *name)
{
    const char *end;

    return pq_name_layer(name, &end) < 0 &&
           (pq_name_is_embedding(name) || strstr(name, "embed") != NULL);
}

bool pq_name_is_buffer(const char *name)
{
    static const char *const buffers[] = {
        "rotary_emb.inv_freq", "attn.bias", "attn.masked_bias",
        "attention.bias", "attention.masked_bias", "position_ids"};
    const size_t n = strlen(name);

    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        const size_t k = strlen(buffers[i]);
        if (pq_ends_with(name, buffers[i]) &&
            (n == k || name[n - k - 1] == '.'))
            return true;
    }
    return false;
}

bool pq_name_is_token_table(const char *name)
{
    static const char *const tables[] = {"embed_tokens", "wte", "embed_in",
                                         "word_embeddings", "shared",
                                         "tok_embeddings"};

    return pq_name_is_weight(name) &&
           layer_is(name, tables, sizeof tables / sizeof *tables);
}

/* Mixtral's block has two names: transformers' own and the checkpoint's. */
static bool rename_block(const char *name, unsigned i, char *s, size_t n)
{
    static const char *const blocks[] = {".mlp.", ".block_sparse_moe."};

    if (i >= 2)
        return false;
    const char *at = strstr(name, blocks[i]);
    s[0] = '\0';
    if (at)
        snprintf(s, n, "%.*s%s%s", (int)(at - name), name, blocks[1 - i],
                 at + strlen(blocks[i]));
    return true;
}

bool pq_name_variant(const char *name, unsigned i, char *s, size_t n)
{
    static const char *const trunks[] = {"transformer.", "model.",
                                         "language_model.", "gpt_neox.",
                                         "bert.", "roberta."};
    const size_t count = sizeof trunks / sizeof *trunks;

    if (i >= 2 * count)
        return rename_block(name, i - (unsigned)(2 * count), s, n);
    const char *trunk = trunks[i % count];
    const size_t k = strlen(trunk);
    s[0] = '\0';
    if (i >= count)
        snprintf(s, n, "%s%s", trunk, name);
    else if (strncmp(name, trunk, k) == 0)
        snprintf(s, n, "%s", name + k);
    return true;
}

bool pq_name_expert(const char *parameter, unsigned scheme, unsigned piece,
                    unsigned long long expert, char *s, size_t n)
{
    static const struct {
        const char *parameter, *pieces[2];
    } schemes[] = {
        {".gate_up_proj", {"gate_proj", "up_proj"}},
        {".gate_up_proj", {"w1", "w3"}},
        {".gate_up_proj", {"fc1", "fc3"}},
        {".down_proj", {"down_proj", NULL}},
        {".down_proj", {"w2", NULL}},
        {".down_proj", {"fc2", NULL}},
        {".up_proj", {"up_proj", NULL}},
    };

    s[0] = '\0';
    if (scheme >= sizeof schemes / sizeof *schemes)
        return false;
    const char *own = schemes[scheme].parameter;
    if (piece > 1 || !schemes[scheme].pieces[piece] ||
        !pq_ends_with(parameter, own))
        return true;
    const int module = (int)(strlen(parameter) - strlen(own));
    const int k = snprintf(s, n, "%.*s.%llu.%s.weight", module, parameter,
                           expert, schemes[scheme].pieces[piece]);
    if (k < 0 || (size_t)k >= n)
        s[0] = '\0';
    return true;
}

bool pq_model_has_turned_experts(const char *model_type)
{
    static const char *const types[] = {"gpt_oss", "openai_privacy_filter",
                                        "aria", "aria_text"};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i], model_type) == 0)
            return true;
    return false;
}
