/*
 * Names: which tensor is which weight.
 *
 *   llama and its like                      gpt2
 *     model.embed_tokens.weight               transformer.wte.weight
 *     model.layers.I.self_attn.q_proj ...     transformer.h.I.attn.c_attn ...
 *     model.norm.weight, lm_head.weight       transformer.ln_f, lm_head
 *
 * The first word may be missing.  phi3 and gpt2 keep q, k and v in one
 * tensor, which is bound as three parts of it.  A Conv1D (gpt2) is stored
 * [in][out] unless it is encoded: bitsandbytes turns what it encodes.
 *
 * Every tensor of the file must be asked for.
 *
 * The same asking says what a model consists of that has no tensors yet
 * (fresh.c): then each is added to the catalogue, and nothing is bound.
 */
#include "load.h"

#include <stdio.h>
#include <string.h>

#include "quant/quant_internal.h"

bool nn_is_no_weight(const char *name)
{
    static const char *const ends[] = {".rotary_emb.inv_freq", ".attn.bias",
                                       ".attn.masked_bias"};
    const size_t n = strlen(name);

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t m = strlen(ends[i]);
        if (n >= m && strcmp(name + n - m, ends[i]) == 0)
            return true;
    }
    return false;
}

/* ---- one tensor --------------------------------------------------------- */

/* Its number, or SIZE_MAX; `name` may be found without its first word. */
static size_t look_up(struct nn_loader *l, const char *name)
{
    size_t i = pq_names_find(&l->names, name);

    if (i == SIZE_MAX && (strncmp(name, "model.", 6) == 0 ||
                          strncmp(name, "transformer.", 12) == 0))
        i = pq_names_find(&l->names, strchr(name, '.') + 1);
    if (i != SIZE_MAX)
        l->t[i].used = true;
    return i;
}

/* There is a tensor of that name and shape; always SIZE_MAX. */
static size_t declare(struct nn_loader *l, const char *name, size_t rows,
                      size_t cols)
{
    const uint64_t shape[2] = {rows, cols};

    if (l->failed)
        return SIZE_MAX;
    const struct pq_tensor *t = pq_catalog_add_plain(
        l->fresh, name, l->dtype, shape, cols ? 2 : 1, l->end, l->e);
    l->failed = true;
    if (!t)
        pq_error_in(l->e, "tensor %s", name);
    else if (!pq_add(l->end, t->parts[0].bytes, &l->end))
        pq_fail(l->e, PQ_ELIMIT, "tensor %s: more than 2^64 bytes", name);
    else
        l->failed = false;
    return SIZE_MAX;
}

/* Its number, with a shape that the config allows; SIZE_MAX: none, failed. */
static size_t need(struct nn_loader *l, const char *name, size_t rows,
                   size_t cols)
{
    const uint64_t want[2] = {rows, cols};
    const int rank = cols ? 2 : 1;

    if (l->fresh)
        return declare(l, name, rows, cols);
    const size_t i = look_up(l, name);
    if (i == SIZE_MAX) {
        pq_fail(l->e, PQ_EFORMAT,
                "tensor %s is missing, which config.json asks for", name);
        l->failed = true;
        return i;
    }
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    if (t->rank == rank && t->shape[0] == rows &&
        (rank == 1 || t->shape[1] == cols))
        return i;
    char has[128], wants[64];
    pq_shape_text(t->shape, t->rank, has, sizeof has);
    pq_shape_text(want, rank, wants, sizeof wants);
    pq_fail(l->e, PQ_EFORMAT, "tensor %s: is %s where config.json asks for %s",
            t->name, has, wants);
    l->failed = true;
    return SIZE_MAX;
}

static const float *vector(struct nn_loader *l, const char *name, size_t n)
{
    const size_t i = need(l, name, n, 0);

    if (i == SIZE_MAX)
        return NULL;
    if (!l->t[i].vector) {
        pq_fail(l->e, PQ_EUNSUPPORTED, "tensor %s: a vector that is encoded",
                name);
        l->failed = true;
    }
    return l->t[i].vector;
}

static struct nn_mat stored(struct nn_loader *l, size_t i)
{
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    struct nn_mat m = {.codec = t->codec, .dtype = t->dtype};

    m.rows = (size_t)t->shape[0];
    m.cols = m.row = (size_t)t->shape[1];
    m.data = nn_part_of(l, i, PQ_ROLE_DATA);
    m.map = nn_part_of(l, i, PQ_ROLE_QUANT_MAP);
    m.scale = t->codec.encoding == PQ_INT8 ? nn_part_of(l, i, PQ_ROLE_SCB)
              : t->codec.nested_block      ? l->t[i].scale
                                           : nn_part_of(l, i, PQ_ROLE_ABSMAX);
    return m;
}

static struct nn_mat matrix(struct nn_loader *l, const char *name, size_t rows,
                            size_t cols)
{
    const size_t i = need(l, name, rows, cols);
    const struct nn_mat none = {0};

    return i == SIZE_MAX ? none : stored(l, i);
}

/* ---- names of a layer --------------------------------------------------- */

struct scope {
    struct nn_loader *l;
    size_t layer;
    char name[160];
};

static const char *named(struct scope *s, const char *weight)
{
    const bool gpt2 = s->l->m->c.family == NN_GPT2;

    snprintf(s->name, sizeof s->name, "%s.%zu.%s",
             gpt2 ? "transformer.h" : "model.layers", s->layer, weight);
    return s->name;
}

static const float *layer_vector(struct scope *s, const char *name, size_t n)
{
    return vector(s->l, named(s, name), n);
}

static struct nn_linear linear(struct scope *s, const char *module, size_t out,
                               size_t in, bool biased)
{
    struct nn_loader *l = s->l;
    struct nn_linear x = {.in = in, .out = out};
    char name[64];

    snprintf(name, sizeof name, "%s.weight", module);
    const size_t i = look_up(l, named(s, name));
    x.turned =
        l->m->c.conv1d &&
        (l->fresh || (i != SIZE_MAX &&
                      l->s->catalog->tensors[i].codec.encoding == PQ_PLAIN));
    x.w = x.turned ? matrix(l, s->name, in, out) : matrix(l, s->name, out, in);
    if (i != SIZE_MAX) {
        const char *const full = l->s->catalog->tensors[i].name;
        x.name = pq_arena_strndup(&l->m->arena, full, strlen(full));
        if (!x.name && !l->failed) {
            pq_fail_nomem(l->e);
            l->failed = true;
        }
    }
    snprintf(name, sizeof name, "%s.bias", module);
    if (biased)
        x.bias = layer_vector(s, name, out);
    return x;
}

/* Outputs [from, from + n) of a linear layer, as one of its own. */
static struct nn_linear outputs(const struct nn_linear *whole, size_t from,
                                size_t n)
{
    struct nn_linear x = *whole;

    x.out = n;
    x.w = whole->turned ? nn_mat_cols(&whole->w, from, n)
                        : nn_mat_rows(&whole->w, from, n);
    if (whole->bias)
        x.bias = whole->bias + from;
    return x;
}

/* ---- layers ------------------------------------------------------------- */

static void bind_gpt2_layer(struct scope *s, struct nn_layer *y)
{
    const struct nn_config *c = &s->l->m->c;
    const size_t h = c->hidden;
    const struct nn_linear qkv = linear(s, "attn.c_attn", 3 * h, h, true);

    y->norm1 = layer_vector(s, "ln_1.weight", h);
    y->norm1_bias = layer_vector(s, "ln_1.bias", h);
    y->norm2 = layer_vector(s, "ln_2.weight", h);
    y->norm2_bias = layer_vector(s, "ln_2.bias", h);
    y->q = outputs(&qkv, 0, h);
    y->k = outputs(&qkv, h, h);
    y->v = outputs(&qkv, 2 * h, h);
    y->o = linear(s, "attn.c_proj", h, h, true);
    y->up = linear(s, "mlp.c_fc", c->ffn, h, true);
    y->down = linear(s, "mlp.c_proj", h, c->ffn, true);
}

static void bind_attention(struct scope *s, struct nn_layer *y)
{
    const struct nn_config *c = &s->l->m->c;
    const size_t h = c->hidden, q = c->heads * c->d, kv = c->kv_heads * c->d;

    if (c->fused_qkv) {
        const struct nn_linear qkv =
            linear(s, "self_attn.qkv_proj", q + 2 * kv, h, c->qkv_bias);
        y->q = outputs(&qkv, 0, q);
        y->k = outputs(&qkv, q, kv);
        y->v = outputs(&qkv, q + kv, kv);
    } else {
        y->q = linear(s, "self_attn.q_proj", q, h, c->qkv_bias);
        y->k = linear(s, "self_attn.k_proj", kv, h, c->qkv_bias);
        y->v = linear(s, "self_attn.v_proj", kv, h, c->qkv_bias);
    }
    y->o = linear(s, "self_attn.o_proj", h, q, c->o_bias);
    if (c->qk_norm) {
        y->q_norm = layer_vector(s, "self_attn.q_norm.weight", c->d);
        y->k_norm = layer_vector(s, "self_attn.k_norm.weight", c->d);
    }
}

static void bind_mlp(struct scope *s, struct nn_layer *y)
{
    const struct nn_config *c = &s->l->m->c;
    const size_t h = c->hidden, f = c->ffn;

    if (c->fused_qkv) {
        const struct nn_linear both =
            linear(s, "mlp.gate_up_proj", 2 * f, h, c->mlp_bias);
        y->gate = outputs(&both, 0, f);
        y->up = outputs(&both, f, f);
    } else {
        y->gate = linear(s, "mlp.gate_proj", f, h, c->mlp_bias);
        y->up = linear(s, "mlp.up_proj", f, h, c->mlp_bias);
    }
    y->down = linear(s, "mlp.down_proj", h, f, c->mlp_bias);
}

static void bind_norms(struct scope *s, struct nn_layer *y)
{
    const struct nn_config *c = &s->l->m->c;
    const size_t h = c->hidden;

    y->norm1 = layer_vector(s, "input_layernorm.weight", h);
    if (!c->four_norms) {
        y->norm2 = layer_vector(s, "post_attention_layernorm.weight", h);
        return;
    }
    y->post1 = layer_vector(s, "post_attention_layernorm.weight", h);
    y->norm2 = layer_vector(s, "pre_feedforward_layernorm.weight", h);
    y->post2 = layer_vector(s, "post_feedforward_layernorm.weight", h);
}

static void bind_layer(struct nn_loader *l, size_t layer)
{
    struct nn_layer *y = &l->m->layers[layer];
    struct scope s = {.l = l, .layer = layer};

    if (l->m->c.family == NN_GPT2) {
        bind_gpt2_layer(&s, y);
        return;
    }
    bind_norms(&s, y);
    bind_attention(&s, y);
    bind_mlp(&s, y);
}

/* ---- the model ---------------------------------------------------------- */

/* The file's own head if there is one, whatever the config says. */
static void bind_head(struct nn_loader *l)
{
    struct nn_model *m = l->m;
    const size_t v = m->c.vocab, h = m->c.hidden;

    m->head.in = h;
    m->head.out = v;
    m->head_is_embed =
        m->c.tied && pq_names_find(&l->names, "lm_head.weight") == SIZE_MAX;
    m->head.w = m->head_is_embed ? m->embed : matrix(l, "lm_head.weight", v, h);
}

static void bind_ends(struct nn_loader *l)
{
    struct nn_model *m = l->m;
    const struct nn_config *c = &m->c;
    const size_t h = c->hidden;

    if (c->family == NN_GPT2) {
        m->embed = matrix(l, "transformer.wte.weight", c->vocab, h);
        m->places = matrix(l, "transformer.wpe.weight", c->positions, h);
        m->norm = vector(l, "transformer.ln_f.weight", h);
        m->norm_bias = vector(l, "transformer.ln_f.bias", h);
    } else {
        m->embed = matrix(l, "model.embed_tokens.weight", c->vocab, h);
        m->norm = vector(l, "model.norm.weight", h);
    }
    bind_head(l);
}

static int check_unused(struct nn_loader *l)
{
    const struct pq_catalog *c = l->s->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (!l->t[i].used && !l->t[i].skipped)
            return pq_fail(l->e, PQ_EFORMAT,
                           "tensor %s: config.json (model_type %s, %zu "
                           "layers) has no place for it",
                           c->tensors[i].name, l->m->c.type, l->m->c.layers);
    return 0;
}

int nn_bind_model(struct nn_loader *l)
{
    struct nn_model *m = l->m;

    m->layers = pq_arena_alloc(&m->arena, m->c.layers, sizeof *m->layers);
    if (!m->layers)
        return pq_fail_nomem(l->e);
    bind_ends(l);
    for (size_t i = 0; i < m->c.layers && !l->failed; i++)
        bind_layer(l, i);
    return l->failed || (!l->fresh && check_unused(l)) ? -1 : 0;
}
