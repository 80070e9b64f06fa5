/*
 * The forward pass; model.h has the outline.
 *
 * Attention of a block, rows of the batch at positions p:
 *   q, k, v = heads of norm1(x);  [q, k normed a head]  q, k turned by p
 *   k, v to their places in the cache;  x += o(attention(q, cache))
 * MLP:
 *   x += down(act(gate(y)) * up(y)), y = norm2(x);  or down(act(up(y)))
 *
 * Rows never mix but in attention, and there in an order fixed by key index:
 * a text run whole, in pieces or token by token gives the same bits.
 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* ---- buffers ------------------------------------------------------------ */

static float *floats(size_t rows, size_t n)
{
    uint64_t all;

    return pq_mul(rows, n, &all) ? pq_alloc((size_t)all, sizeof(float)) : NULL;
}

int nn_cache_init(struct nn_cache *c, const struct nn_model *m, size_t rows,
                  struct pq_error *e)
{
    uint64_t row;

    c->rows = rows;
    c->k = c->v = NULL;
    if (pq_mul(m->c.layers, m->c.kv_heads * m->c.d, &row)) {
        c->k = floats(rows, (size_t)row);
        c->v = floats(rows, (size_t)row);
    }
    if (c->k && c->v)
        return 0;
    nn_cache_release(c);
    return pq_fail_nomem(e);
}

void nn_cache_release(struct nn_cache *c)
{
    free(c->k);
    free(c->v);
    memset(c, 0, sizeof *c);
}

int nn_work_init(struct nn_work *w, const struct nn_model *m, size_t rows,
                 struct pq_error *e)
{
    const struct nn_config *c = &m->c;
    const size_t half = c->rope.half ? c->rope.half : 1;

    memset(w, 0, sizeof *w);
    w->rows = rows;
    w->x = floats(rows, c->hidden);
    w->y = floats(rows, c->hidden);
    w->q = floats(rows, c->heads * c->d);
    w->o = floats(rows, c->heads * c->d);
    w->k = floats(rows, c->kv_heads * c->d);
    w->v = floats(rows, c->kv_heads * c->d);
    w->gate = floats(c->gated ? rows : 1, c->ffn);
    w->up = floats(rows, c->ffn);
    w->cosine = floats(rows, half);
    w->sine = floats(rows, half);
    w->positions = pq_alloc(rows, sizeof *w->positions);
    if (w->x && w->y && w->q && w->o && w->k && w->v && w->gate && w->up &&
        w->cosine && w->sine && w->positions)
        return 0;
    nn_work_release(w);
    return pq_fail_nomem(e);
}

void nn_work_release(struct nn_work *w)
{
    float *const all[] = {w->x, w->y,    w->q,  w->o,      w->k,
                          w->v, w->gate, w->up, w->cosine, w->sine};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(w->positions);
    memset(w, 0, sizeof *w);
}

/* ---- parts -------------------------------------------------------------- */

void nn_norm(struct nn_pool *pool, const struct nn_config *c, float *y,
             const float *x, const float *w, const float *bias, size_t rows)
{
    if (c->layer_norm)
        nn_layernorm(pool, y, x, w, bias, rows, c->hidden, c->eps);
    else
        nn_rmsnorm(pool, y, x, w, rows, c->hidden, c->eps, c->plus_one);
}

void nn_place(struct nn_pool *pool, const struct nn_config *c, float *x,
              const float *raw, size_t heads, const float *w,
              const float *cosine, const float *sine, size_t rows)
{
    if (c->qk_norm)
        nn_rmsnorm(pool, x, raw, w, rows * heads, c->d, c->eps, c->plus_one);
    if (c->rope.type != NN_ROPE_NONE)
        nn_rope(pool, x, cosine, sine, rows, heads, c->d, c->rope.half, false);
}

struct nn_attention nn_attention_of(const struct nn_model *m, size_t layer)
{
    const struct nn_config *c = &m->c;
    const float by = c->scale_by_layer ? (float)(layer + 1) : 1.0f;
    const struct nn_attention a = {c->heads,    c->kv_heads,
                                   c->d,        c->scale / by,
                                   c->attn_cap, c->windows[layer]};

    return a;
}

/* ---- a block ------------------------------------------------------------ */

/* What the parts of a pass share. */
struct pass {
    struct nn_pool *pool;
    const struct nn_model *m;
    const struct nn_config *c;
    const struct nn_batch *b;
    struct nn_cache *cache;
    struct nn_work *w;
};

static void norm(const struct pass *p, float *y, const float *x,
                 const float *weight, const float *bias)
{
    nn_norm(p->pool, p->c, y, x, weight, bias, p->b->rows);
}

/* x += what a half of the block made in y, normed first if `post`. */
static void add_back(const struct pass *p, const float *post)
{
    struct nn_work *w = p->w;

    if (post)
        norm(p, w->y, w->y, post, NULL);
    nn_add(p->pool, w->x, w->x, w->y, p->b->rows * p->c->hidden);
}

/* Rows of a sequence to their place in the cache of a layer. */
static void store(const struct pass *p, size_t layer)
{
    const size_t row = p->c->kv_heads * p->c->d;

    for (size_t i = 0; i < p->b->n; i++) {
        const struct nn_sequence *s = &p->b->s[i];
        const size_t to = (layer * p->cache->rows + s->kv + s->past) * row;
        const size_t bytes = s->n * row * sizeof(float);
        memcpy(p->cache->k + to, p->w->k + s->q * row, bytes);
        memcpy(p->cache->v + to, p->w->v + s->q * row, bytes);
    }
}

static void attention(const struct pass *p, size_t layer)
{
    const struct nn_config *c = p->c;
    const struct nn_layer *l = &p->m->layers[layer];
    struct nn_work *w = p->w;
    const size_t rows = p->b->rows;
    const size_t kv = layer * p->cache->rows * c->kv_heads * c->d;
    const struct nn_attention a = nn_attention_of(p->m, layer);

    nn_inputs_add(w->inputs, p->pool, layer, NN_IN_ATTENTION, w->y, rows);
    nn_linear(p->pool, w->q, w->y, &l->q, rows);
    nn_linear(p->pool, w->k, w->y, &l->k, rows);
    nn_linear(p->pool, w->v, w->y, &l->v, rows);
    nn_place(p->pool, c, w->q, w->q, c->heads, l->q_norm, w->cosine, w->sine,
             rows);
    nn_place(p->pool, c, w->k, w->k, c->kv_heads, l->k_norm, w->cosine, w->sine,
             rows);
    store(p, layer);
    nn_attention(p->pool, w->o, NULL, w->q, p->cache->k + kv, p->cache->v + kv,
                 &a, p->b->s, p->b->n);
    nn_inputs_add(w->inputs, p->pool, layer, NN_IN_OUT, w->o, rows);
    nn_linear(p->pool, w->y, w->o, &l->o, rows);
}

static void mlp(const struct pass *p, size_t layer)
{
    const struct nn_config *c = p->c;
    const struct nn_layer *l = &p->m->layers[layer];
    struct nn_work *w = p->w;
    const size_t rows = p->b->rows, n = rows * c->ffn;

    nn_inputs_add(w->inputs, p->pool, layer, NN_IN_MLP, w->y, rows);
    nn_linear(p->pool, w->up, w->y, &l->up, rows);
    if (c->gated)
        nn_linear(p->pool, w->gate, w->y, &l->gate, rows);
    nn_activate(p->pool, w->up, c->gated ? w->gate : w->up,
                c->gated ? w->up : NULL, n, c->act);
    nn_inputs_add(w->inputs, p->pool, layer, NN_IN_DOWN, w->up, rows);
    nn_linear(p->pool, w->y, w->up, &l->down, rows);
}

static void block_forward(const struct pass *p, size_t layer)
{
    const struct nn_layer *l = &p->m->layers[layer];
    struct nn_work *w = p->w;

    norm(p, w->y, w->x, l->norm1, l->norm1_bias);
    attention(p, layer);
    add_back(p, l->post1);
    norm(p, w->y, w->x, l->norm2, l->norm2_bias);
    mlp(p, layer);
    add_back(p, l->post2);
}

/* ---- the pass ----------------------------------------------------------- */

static void set_positions(const struct pass *p)
{
    const struct nn_rope_config *r = &p->c->rope;
    struct nn_work *w = p->w;

    for (size_t i = 0; i < p->b->n; i++) {
        const struct nn_sequence *s = &p->b->s[i];
        for (size_t j = 0; j < s->n; j++)
            w->positions[s->q + j] = s->past + j;
        if (r->type == NN_ROPE_NONE)
            continue;
        /* q is free yet: half is less than a head */
        nn_rope_inverse(r, p->b->length[i], w->q);
        nn_rope_table(w->cosine + s->q * r->half, w->sine + s->q * r->half,
                      w->positions + s->q, s->n, w->q, r->half, r->a);
    }
}

void nn_forward(struct nn_pool *pool, const struct nn_model *m,
                const struct nn_batch *b, struct nn_cache *cache,
                struct nn_work *w)
{
    const struct pass p = {pool, m, &m->c, b, cache, w};

    set_positions(&p);
    nn_embed(pool, w->x, &m->embed, m->c.embed_scale,
             m->c.learned_places ? &m->places : NULL, b->ids, w->positions,
             b->rows);
    for (size_t i = 0; i < m->c.layers; i++)
        block_forward(&p, i);
    norm(&p, w->x, w->x, m->norm, m->norm_bias);
}

void nn_logits(struct nn_pool *pool, const struct nn_model *m, float *z,
               const float *x, size_t n)
{
    nn_head_logits(pool, z, x, &m->head, m->c.final_cap, n);
}
