/*
 * Training: the backward pass.  dx is the gradient by the output of a block
 * and becomes that by its input.  For the MLP half, y = norm2(mid):
 *
 *   dact = dx down;  dgate, dup from dact;  dy = dup up + dgate gate
 *   dmid = dx + norm2 back(dy)
 *
 * and for attention, y = norm1(x):
 *
 *   dO = dmid o;  dq, dk, dv from dO, turned back;  dy = dq q + dk k + dv v
 *   dx = dmid + norm1 back(dy)
 */
#include "tape.h"

#include <string.h>

/* ---- parts -------------------------------------------------------------- */

/* Does the gradient of something in the layer need its input? */
static bool wants_input(const struct nn_tape *t, const struct nn_linear *l)
{
    return l->delta || nn_grad_mat(t->params, &l->w);
}

/* dx (NULL: not wanted) is set, or added to. */
static void back_linear(struct nn_tape *t, float *dx, const float *dy,
                        const float *x, const struct nn_linear *l, size_t rows,
                        bool add)
{
    float *dw = nn_grad_mat(t->params, &l->w);
    float *db = nn_grad(t->params, l->bias);

    if (dw)
        nn_linear_back_weight(t->pool, dw, dy, x, l, rows);
    if (db)
        nn_column_sums(t->pool, db, dy, rows, l->out);
    if (!l->delta) {
        if (dx)
            nn_linear_back(t->pool, dx, dy, l, rows, add);
        return;
    }
    struct nn_delta_grads g = t->grads;
    g.a = nn_grad(t->params, l->delta->a);
    g.b = nn_grad(t->params, l->delta->b);
    g.m = nn_grad(t->params, l->delta->m);
    nn_delta_back(t->pool, dx, dy, x, l, l->delta, &g, rows, add);
}

/* dx = or += the gradient by x of a norm of the hidden size. */
static void back_norm(struct nn_tape *t, float *dx, const float *dy,
                      const float *x, const float *w, const float *bias,
                      size_t rows, bool add)
{
    const struct nn_config *c = &t->m->c;
    float *dw = nn_grad(t->params, w);

    if (c->layer_norm)
        nn_layernorm_back(t->pool, dx, dw, nn_grad(t->params, bias), dy, x, w,
                          rows, c->hidden, c->eps, add, t->stat1, t->stat2);
    else
        nn_rmsnorm_back(t->pool, dx, dw, dy, x, w, rows, c->hidden, c->eps,
                        c->plus_one, add, t->stat1);
}

/* Heads of dq or dk: turned back, then through their norms. */
static void back_place(struct nn_tape *t, float *dx, const float *raw,
                       size_t heads, const float *w, size_t rows)
{
    const struct nn_config *c = &t->m->c;

    if (c->rope.type != NN_ROPE_NONE)
        nn_rope(t->pool, dx, t->cosine, t->sine, rows, heads, c->d,
                c->rope.half, true);
    if (c->qk_norm)
        nn_rmsnorm_back(t->pool, dx, nn_grad(t->params, w), dx, raw, w,
                        rows * heads, c->d, c->eps, c->plus_one, false,
                        t->stat1);
}

/* The gradient that enters a half: dx, or that through its post norm. */
static const float *enter(struct nn_tape *t, const float *half,
                          const float *post, size_t rows)
{
    if (!post)
        return t->dx;
    back_norm(t, t->dy, t->dx, half, post, NULL, rows, false);
    return t->dy;
}

/* ---- a block ------------------------------------------------------------ */

static void back_mlp(struct nn_tape *t, const struct nn_layer *l,
                     const struct nn_kept *k, size_t rows)
{
    const struct nn_config *c = &t->m->c;
    const size_t n = rows * c->ffn;
    const float *gate = c->gated ? k->gate : k->up;
    const float *up = c->gated ? k->up : NULL;
    const float *dy = enter(t, k->half2, l->post2, rows);

    if (wants_input(t, &l->down))
        nn_activate(t->pool, t->act, gate, up, n, c->act);
    back_linear(t, t->dact, dy, t->act, &l->down, rows, false);
    if (wants_input(t, &l->up) || (c->gated && wants_input(t, &l->gate)))
        nn_norm(t->pool, c, t->y, k->mid, l->norm2, l->norm2_bias, rows);
    if (c->gated) {
        /* act is free: it becomes dgate, dact becomes dup */
        nn_activate_back(t->pool, t->act, t->dact, t->dact, gate, up, n,
                         c->act);
        back_linear(t, t->dy, t->act, t->y, &l->gate, rows, false);
    } else {
        nn_activate_back(t->pool, t->dact, NULL, t->dact, gate, NULL, n,
                         c->act);
    }
    back_linear(t, t->dy, t->dact, t->y, &l->up, rows, c->gated);
    back_norm(t, t->dx, t->dy, k->mid, l->norm2, l->norm2_bias, rows, true);
}

static void back_attention(struct nn_tape *t, const struct nn_train_batch *b,
                           const struct nn_layer *l, size_t layer)
{
    const struct nn_config *c = &t->m->c;
    const struct nn_kept *k = &t->kept[layer];
    const struct nn_attention a = nn_attention_of(t->m, layer);
    const size_t rows = b->rows;
    const float *dy = enter(t, k->half1, l->post1, rows);

    back_linear(t, t->dq, dy, k->o, &l->o, rows, false);
    nn_attention_back(t->pool, t->dq, t->dk, t->dv, t->dq, k->q, k->k, k->v,
                      k->o, k->lse, &a, b->s, b->n);
    back_place(t, t->dq, k->q0, c->heads, l->q_norm, rows);
    back_place(t, t->dk, k->k0, c->kv_heads, l->k_norm, rows);
    if (wants_input(t, &l->q) || wants_input(t, &l->k) || wants_input(t, &l->v))
        nn_norm(t->pool, c, t->y, k->x, l->norm1, l->norm1_bias, rows);
    /* where nothing below is trained, this is the end */
    float *dx = layer > t->plan.lowest || t->plan.below ? t->dy : NULL;
    back_linear(t, dx, t->dq, t->y, &l->q, rows, false);
    back_linear(t, dx, t->dk, t->y, &l->k, rows, true);
    back_linear(t, dx, t->dv, t->y, &l->v, rows, true);
    if (dx)
        back_norm(t, t->dx, t->dy, k->x, l->norm1, l->norm1_bias, rows, true);
}

/* ---- the pass ----------------------------------------------------------- */

/* The embedding, learned places and the soft prompt. */
static void back_below(struct nn_tape *t, const struct nn_train_batch *b)
{
    const struct nn_model *m = t->m;
    const struct nn_config *c = &m->c;
    float *de = nn_grad_mat(t->params, &m->embed);
    float *dp = c->learned_places ? nn_grad_mat(t->params, &m->places) : NULL;
    float *dprompt = nn_grad(t->params, t->prompt);
    const int32_t pad = c->family == NN_GPT2 ? -1 : c->pad;

    if (de)
        nn_embed_back(t->pool, de, t->dx, b->ids, b->rows, c->hidden,
                      c->embed_scale, pad);
    if (dp)
        nn_places_back(t->pool, dp, t->dx, b->positions, b->rows, c->hidden);
    for (size_t i = 0; dprompt && i < b->n; i++)
        nn_add(t->pool, dprompt, dprompt, t->dx + b->s[i].q * c->hidden,
               t->n_prompt * c->hidden);
}

void nn_tape_back(struct nn_tape *t, const struct nn_train_batch *b)
{
    const struct nn_model *m = t->m;
    const size_t n = m->c.layers;

    back_norm(t, t->dx, t->dy, t->kept[n].x, m->norm, m->norm_bias, b->rows,
              false);
    for (size_t i = n; i-- > t->plan.lowest;) {
        const struct nn_layer *l = &m->layers[i];
        if (t->plan.recompute)
            nn_tape_block(t, b, i, true);
        back_mlp(t, l, &t->kept[i], b->rows);
        back_attention(t, b, l, i);
    }
    if (t->plan.below)
        back_below(t, b);
}
