/*
 * The tensors of a model by name: the tables of bind.c, read the other way.
 */
#include "slots.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define AT(member) offsetof(struct nn_layer, member)
#define NONE       SIZE_MAX

struct module {
    const char *name;
    size_t at[NN_SLOT_PARTS];
};

static const struct module plain_modules[] = {
    {"self_attn.q_proj", {AT(q), NONE, NONE}},
    {"self_attn.k_proj", {AT(k), NONE, NONE}},
    {"self_attn.v_proj", {AT(v), NONE, NONE}},
    {"self_attn.o_proj", {AT(o), NONE, NONE}},
    {"mlp.gate_proj", {AT(gate), NONE, NONE}},
    {"mlp.up_proj", {AT(up), NONE, NONE}},
    {"mlp.down_proj", {AT(down), NONE, NONE}},
    {NULL, {0}},
};

static const struct module fused_modules[] = {
    {"self_attn.qkv_proj", {AT(q), AT(k), AT(v)}},
    {"self_attn.o_proj", {AT(o), NONE, NONE}},
    {"mlp.gate_up_proj", {AT(gate), AT(up), NONE}},
    {"mlp.down_proj", {AT(down), NONE, NONE}},
    {NULL, {0}},
};

static const struct module gpt2_modules[] = {
    {"attn.c_attn", {AT(q), AT(k), AT(v)}},
    {"attn.c_proj", {AT(o), NONE, NONE}},
    {"mlp.c_fc", {AT(up), NONE, NONE}},
    {"mlp.c_proj", {AT(down), NONE, NONE}},
    {NULL, {0}},
};

/* Vectors of a layer; those that a model lacks are NULL there. */
struct vector {
    const char *name;
    size_t at;
    bool head; /* of a head, not of the hidden size */
};

static const struct vector plain_vectors[] = {
    {"input_layernorm.weight", AT(norm1), false},
    {"post_attention_layernorm.weight", AT(norm2), false},
    {"self_attn.q_norm.weight", AT(q_norm), true},
    {"self_attn.k_norm.weight", AT(k_norm), true},
    {NULL, 0, false},
};

static const struct vector gemma_vectors[] = {
    {"input_layernorm.weight", AT(norm1), false},
    {"post_attention_layernorm.weight", AT(post1), false},
    {"pre_feedforward_layernorm.weight", AT(norm2), false},
    {"post_feedforward_layernorm.weight", AT(post2), false},
    {NULL, 0, false},
};

static const struct vector gpt2_vectors[] = {
    {"ln_1.weight", AT(norm1), false},
    {"ln_1.bias", AT(norm1_bias), false},
    {"ln_2.weight", AT(norm2), false},
    {"ln_2.bias", AT(norm2_bias), false},
    {NULL, 0, false},
};

struct list {
    struct nn_model *m;
    struct pq_arena *arena;
    struct nn_slot *s;
    size_t n;
    bool failed;
};

static struct nn_slot *add(struct list *l, size_t layer, size_t rows,
                           size_t cols, const char *module, const char *what)
{
    const bool gpt2 = l->m->c.family == NN_GPT2;
    struct nn_slot *s = &l->s[l->n++];

    s->name = layer == NN_SLOT_ENDS
                  ? pq_arena_printf(l->arena, "%s%s", module, what)
                  : pq_arena_printf(l->arena, "%s.%zu.%s%s",
                                    gpt2 ? "transformer.h" : "model.layers",
                                    layer, module, what);
    l->failed |= !s->name;
    s->rows = rows;
    s->cols = cols;
    s->layer = layer;
    return s;
}

static void add_module(struct list *l, size_t layer, const struct module *m)
{
    struct nn_linear *part[NN_SLOT_PARTS];
    size_t n = 0, out = 0;

    for (; n < NN_SLOT_PARTS && m->at[n] != NONE; n++) {
        part[n] = (struct nn_linear *)((char *)&l->m->layers[layer] + m->at[n]);
        out += part[n]->out;
    }
    if (out == 0)
        return;
    const bool turned = part[0]->turned;
    struct nn_slot *w = add(l, layer, turned ? part[0]->in : out,
                            turned ? out : part[0]->in, m->name, ".weight");
    struct nn_slot *b =
        part[0]->bias ? add(l, layer, out, 0, m->name, ".bias") : NULL;
    for (size_t i = 0; i < n; i++) {
        w->mats[i] = &part[i]->w;
        w->linears[i] = part[i];
        if (b)
            b->vectors[i] = &part[i]->bias;
    }
    w->n_parts = n;
    if (b)
        b->n_parts = n;
}

static void add_vector(struct list *l, size_t layer, size_t n, const char *name,
                       const float **at)
{
    if (!*at)
        return;
    struct nn_slot *s = add(l, layer, n, 0, name, "");
    s->vectors[0] = at;
    s->n_parts = 1;
}

static void add_layer(struct list *l, size_t layer)
{
    const struct nn_config *c = &l->m->c;
    const bool gpt2 = c->family == NN_GPT2;
    const struct vector *v = gpt2            ? gpt2_vectors
                             : c->four_norms ? gemma_vectors
                                             : plain_vectors;
    const struct module *m = gpt2           ? gpt2_modules
                             : c->fused_qkv ? fused_modules
                                            : plain_modules;

    for (; v->name; v++)
        add_vector(
            l, layer, v->head ? c->d : c->hidden, v->name,
            (const float **)(void *)((char *)&l->m->layers[layer] + v->at));
    for (; m->name; m++)
        add_module(l, layer, m);
}

static void add_ends(struct list *l)
{
    struct nn_model *m = l->m;
    const struct nn_config *c = &m->c;
    const bool gpt2 = c->family == NN_GPT2;
    const char *ends = gpt2 ? "transformer." : "model.";
    struct nn_slot *s = add(l, NN_SLOT_ENDS, c->vocab, c->hidden, ends,
                            gpt2 ? "wte.weight" : "embed_tokens.weight");

    s->below = true;
    s->mats[s->n_parts++] = &m->embed;
    if (m->head_is_embed)
        s->mats[s->n_parts++] = &m->head.w;
    if (c->learned_places) {
        s = add(l, NN_SLOT_ENDS, c->positions, c->hidden, ends, "wpe.weight");
        s->below = true;
        s->mats[s->n_parts++] = &m->places;
    }
    if (!m->head_is_embed) {
        s = add(l, NN_SLOT_ENDS, c->vocab, c->hidden, "lm_head.", "weight");
        s->mats[s->n_parts++] = &m->head.w;
    }
    add_vector(l, NN_SLOT_ENDS, c->hidden,
               gpt2 ? "transformer.ln_f.weight" : "model.norm.weight",
               &m->norm);
    add_vector(l, NN_SLOT_ENDS, c->hidden, "transformer.ln_f.bias",
               &m->norm_bias);
}

#define MOST_A_LAYER 20

int nn_slots(struct nn_model *m, struct pq_arena *arena, struct nn_slot **slots,
             size_t *n, struct pq_error *e)
{
    struct list l = {.m = m, .arena = arena};

    l.s = pq_arena_alloc(arena, MOST_A_LAYER * (m->c.layers + 1), sizeof *l.s);
    if (!l.s)
        return pq_fail_nomem(e);
    add_ends(&l);
    for (size_t i = 0; i < m->c.layers; i++)
        add_layer(&l, i);
    *slots = l.s;
    *n = l.n;
    return l.failed ? pq_fail_nomem(e) : 0;
}
