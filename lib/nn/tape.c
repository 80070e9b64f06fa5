/*
 * Training: memory and the forward pass.  It computes what forward.c does,
 * to the same bits, but keeps what stands in struct nn_kept.
 */
#include "tape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"

/* ---- memory ------------------------------------------------------------- */

/* Hands out parts of one array; without one it only counts. */
struct room {
    float *floats;
    uint64_t used;
    bool failed;
};

static float *take(struct room *r, size_t rows, size_t n)
{
    float *p = r->floats ? r->floats + r->used : NULL;
    uint64_t all;

    if (!pq_mul(rows, n, &all) || !pq_round_up(all, 16, &all) ||
        !pq_add(r->used, all, &r->used))
        r->failed = true;
    return p;
}

static void take_kept(struct room *r, const struct nn_model *m, size_t rows,
                      struct nn_kept *k)
{
    const struct nn_config *c = &m->c;
    const size_t h = c->hidden, q = c->heads * c->d, kv = c->kv_heads * c->d;

    k->mid = take(r, rows, h);
    k->q = take(r, rows, q);
    k->o = take(r, rows, q);
    k->k = take(r, rows, kv);
    k->v = take(r, rows, kv);
    k->lse = take(r, rows, c->heads);
    k->up = take(r, rows, c->ffn);
    k->gate = c->gated ? take(r, rows, c->ffn) : NULL;
    k->q0 = c->qk_norm ? take(r, rows, q) : NULL;
    k->k0 = c->qk_norm ? take(r, rows, kv) : NULL;
    k->half1 = c->four_norms ? take(r, rows, h) : NULL;
    k->half2 = c->four_norms ? take(r, rows, h) : NULL;
}

/* Those of all layers; layers that keep nothing share one room. */
static void take_layers(struct room *r, const struct nn_model *m,
                        const struct nn_tape_plan *p, struct nn_kept *kept)
{
    struct nn_kept shared = {0}, own;
    const size_t n = m->c.layers;
    const bool share = p->recompute || p->lowest > 0;

    if (share) {
        take_kept(r, m, p->rows, &shared);
        shared.x = take(r, p->rows, m->c.hidden);
    }
    for (size_t i = 0; i <= n; i++) {
        own = shared;
        if (i < n && i >= p->lowest && !p->recompute)
            take_kept(r, m, p->rows, &own);
        if (i >= p->lowest || i == n)
            own.x = take(r, p->rows, m->c.hidden);
        if (kept)
            kept[i] = own;
    }
}

static size_t most_outputs(const struct nn_config *c)
{
    const size_t q = c->heads * c->d;
    const size_t most = c->ffn > c->hidden ? c->ffn : c->hidden;

    return q > most ? q : most;
}

/* Logits at a time: 32 MiB of them, if that is enough for 16 rows. */
static size_t loss_rows(const struct nn_config *c, size_t rows)
{
    size_t n = ((size_t)8 << 20) / c->vocab;

    n = n < 16 ? 16 : n > NN_LOSS_ROWS ? NN_LOSS_ROWS : n;
    return n < rows ? n : rows;
}

static void take_scratch(struct room *r, const struct nn_model *m,
                         const struct nn_tape_plan *p, struct nn_tape *t)
{
    const struct nn_config *c = &m->c;
    const size_t h = c->hidden, q = c->heads * c->d, kv = c->kv_heads * c->d;
    const size_t half = c->rope.half ? c->rope.half : 1;
    const size_t out = p->dora ? most_outputs(c) : 0;

    t->y = take(r, p->rows, h);
    t->dx = take(r, p->rows, h);
    t->dy = take(r, p->rows, h);
    t->act = take(r, p->rows, c->ffn);
    t->dact = take(r, p->rows, c->ffn);
    t->dq = take(r, p->rows, q);
    t->dk = take(r, p->rows, kv);
    t->dv = take(r, p->rows, kv);
    t->stat1 = take(r, p->rows, c->heads);
    t->stat2 = take(r, p->rows, c->heads);
    t->cosine = take(r, p->rows, half);
    t->sine = take(r, p->rows, half);
    t->loss.chunk = loss_rows(c, p->rows);
    t->loss.z = take(r, t->loss.chunk, c->vocab);
    t->loss.x = take(r, t->loss.chunk, h);
    t->loss.dx = take(r, t->loss.chunk, h);
    t->grads.e = take(r, p->rows, p->rank);
    t->grads.xa = take(r, p->rows, p->rank);
    t->grads.y = take(r, p->rows, out);
    t->grads.dy = take(r, p->rows, out);
    t->grads.sum = take(r, 1, out);
}

bool nn_tape_bytes(const struct nn_model *m, const struct nn_tape_plan *plan,
                   uint64_t *bytes)
{
    struct room r = {0};
    struct nn_tape t;
    uint64_t nll;

    take_layers(&r, m, plan, NULL);
    take_scratch(&r, m, plan, &t);
    return !r.failed && pq_mul(r.used, sizeof(float), bytes) &&
           pq_mul(plan->rows, sizeof(double), &nll) &&
           pq_add(*bytes, nll, bytes);
}

int nn_tape_init(struct nn_tape *t, const struct nn_tape_plan *plan,
                 struct nn_pool *pool, const struct nn_model *m,
                 const struct nn_params *params, struct pq_error *e)
{
    struct room r = {0};
    const size_t spare = nn_attention_spare(plan->keys);
    const size_t back = nn_attention_back_spare(plan->keys);

    memset(t, 0, sizeof *t);
    t->plan = *plan;
    t->pool = pool;
    t->m = m;
    t->params = params;
    take_layers(&r, m, plan, NULL);
    take_scratch(&r, m, plan, t);
    t->floats = r.failed ? NULL : pq_alloc((size_t)r.used, sizeof *t->floats);
    t->kept = pq_zalloc(m->c.layers + 1, sizeof *t->kept);
    t->nll = pq_alloc(plan->rows, sizeof *t->nll);
    if (!t->floats || !t->kept || !t->nll) {
        nn_tape_release(t);
        return pq_fail_nomem(e);
    }
    r = (struct room){.floats = t->floats};
    take_layers(&r, m, plan, t->kept);
    take_scratch(&r, m, plan, t);
    if (!nn_pool_spare(pool, spare > back ? spare : back, e))
        return 0;
    nn_tape_release(t);
    return -1;
}

void nn_tape_release(struct nn_tape *t)
{
    free(t->floats);
    free(t->kept);
    free(t->nll);
    memset(t, 0, sizeof *t);
}

/* ---- a block ------------------------------------------------------------ */

static void attention(struct nn_tape *t, const struct nn_train_batch *b,
                      size_t layer)
{
    const struct nn_layer *l = &t->m->layers[layer];
    const struct nn_config *c = &t->m->c;
    struct nn_kept *k = &t->kept[layer];
    const struct nn_attention a = nn_attention_of(t->m, layer);
    float *q = c->qk_norm ? k->q0 : k->q, *key = c->qk_norm ? k->k0 : k->k;

    nn_linear(t->pool, q, t->y, &l->q, b->rows);
    nn_linear(t->pool, key, t->y, &l->k, b->rows);
    nn_linear(t->pool, k->v, t->y, &l->v, b->rows);
    nn_place(t->pool, c, k->q, q, c->heads, l->q_norm, t->cosine, t->sine,
             b->rows);
    nn_place(t->pool, c, k->k, key, c->kv_heads, l->k_norm, t->cosine, t->sine,
             b->rows);
    nn_attention(t->pool, k->o, k->lse, k->q, k->k, k->v, &a, b->s, b->n);
}

/* out = x + what half a block made of `in`; normed behind it if `post`. */
static void add_half(struct nn_tape *t, float *out, const float *x,
                     const float *in, const struct nn_linear *l, float *half,
                     const float *post, size_t rows)
{
    float *y = post ? half : t->y;

    nn_linear(t->pool, y, in, l, rows);
    if (post)
        nn_norm(t->pool, &t->m->c, t->y, y, post, NULL, rows);
    nn_add(t->pool, out, x, t->y, rows * t->m->c.hidden);
}

void nn_tape_block(struct nn_tape *t, const struct nn_train_batch *b,
                   size_t layer, bool again)
{
    const struct nn_config *c = &t->m->c;
    const struct nn_layer *l = &t->m->layers[layer];
    struct nn_kept *k = &t->kept[layer];

    nn_norm(t->pool, c, t->y, k->x, l->norm1, l->norm1_bias, b->rows);
    attention(t, b, layer);
    add_half(t, k->mid, k->x, k->o, &l->o, k->half1, l->post1, b->rows);
    nn_norm(t->pool, c, t->y, k->mid, l->norm2, l->norm2_bias, b->rows);
    nn_linear(t->pool, k->up, t->y, &l->up, b->rows);
    if (c->gated)
        nn_linear(t->pool, k->gate, t->y, &l->gate, b->rows);
    if (again && !l->post2)
        return;
    nn_activate(t->pool, t->act, c->gated ? k->gate : k->up,
                c->gated ? k->up : NULL, b->rows * c->ffn, c->act);
    add_half(t, k[1].x, k->mid, t->act, &l->down, k->half2, l->post2, b->rows);
}

/* ---- the pass ----------------------------------------------------------- */

static void set_angles(struct nn_tape *t, const struct nn_train_batch *b)
{
    const struct nn_rope_config *r = &t->m->c.rope;

    for (size_t i = 0; r->type != NN_ROPE_NONE && i < b->n; i++) {
        const struct nn_sequence *s = &b->s[i];
        const size_t at = s->q * r->half;
        /* dq is free yet: half is less than a head */
        nn_rope_inverse(r, s->n, t->dq);
        nn_rope_table(t->cosine + at, t->sine + at, b->positions + s->q, s->n,
                      t->dq, r->half, r->a);
    }
}

static void add_prompt(struct nn_tape *t, const struct nn_train_batch *b)
{
    const size_t n = t->n_prompt * t->m->c.hidden;

    for (size_t i = 0; t->prompt && i < b->n; i++) {
        float *x = t->kept[0].x + b->s[i].q * t->m->c.hidden;
        nn_add(t->pool, x, x, t->prompt, n);
    }
}

/*
 * NEFTune (arXiv 2310.05914): embeddings of a text of n tokens get uniform
 * noise of +-alpha / sqrt(n hidden); a soft prompt gets none.
 */
static void add_noise(struct nn_tape *t, const struct nn_train_batch *b)
{
    const size_t h = t->m->c.hidden;
    struct pq_rng r;

    pq_rng_init(&r, t->noise_seed, t->noise_name);
    for (size_t i = 0; i < b->n; i++) {
        const struct nn_sequence *s = &b->s[i];
        const double tokens = (double)(s->n - t->n_prompt);
        const float size = (float)(t->noise / sqrt(tokens * (double)h));
        for (size_t row = s->q + t->n_prompt; row < s->q + s->n; row++) {
            float *x = t->kept[0].x + row * h;
            pq_rng_uniform(&r, (t->noise_from + row) * h, t->y, h);
            for (size_t k = 0; k < h; k++)
                x[k] += (2 * t->y[k] - 1) * size;
        }
    }
}

/* Leaves the last block's output and, in y, that normed. */
static void forward(struct nn_tape *t, const struct nn_train_batch *b)
{
    const struct nn_model *m = t->m;

    set_angles(t, b);
    nn_embed(t->pool, t->kept[0].x, &m->embed, m->c.embed_scale,
             m->c.learned_places ? &m->places : NULL, b->ids, b->positions,
             b->rows);
    add_prompt(t, b);
    if (t->noise > 0)
        add_noise(t, b);
    for (size_t i = 0; i < m->c.layers; i++)
        nn_tape_block(t, b, i, false);
    nn_norm(t->pool, &m->c, t->y, t->kept[m->c.layers].x, m->norm, m->norm_bias,
            b->rows);
}

double nn_tape_score(struct nn_tape *t, const struct nn_train_batch *b)
{
    double sum = 0;

    forward(t, b);
    nn_head_loss(t->pool, t->nll, &t->right, t->y, &t->m->head,
                 t->m->c.final_cap, b->labels, b->rows, t->loss.z, t->loss.x,
                 t->loss.chunk);
    for (size_t i = 0; i < b->rows; i++)
        sum += t->nll[i];
    return sum;
}

double nn_tape_gradient(struct nn_tape *t, const struct nn_train_batch *b,
                        float weight)
{
    const struct nn_linear *head = &t->m->head;

    forward(t, b);
    const double sum = nn_head_loss_back(
        t->pool, t->dy, nn_grad_mat(t->params, &head->w), t->y, head,
        t->m->c.final_cap, weight, b->labels, b->rows, &t->loss);
    nn_tape_back(t, b);
    return sum;
}
