/*
 * Training: the model, its parameters and their steps (pq_train.h).
 */
#include "train_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"

/* ---- what is trained ---------------------------------------------------- */

static int check_options(const struct pq_train_options *o, struct pq_error *e)
{
    if (!o->what ||
        ((o->what & PQ_TRAIN_WEIGHTS) && o->what != (unsigned)PQ_TRAIN_WEIGHTS))
        return pq_fail(e, PQ_EARG,
                       "either all weights are trained, or adapters and soft "
                       "prompts");
    if ((o->what & PQ_TRAIN_PROMPT) && o->prompt_rows == 0)
        return pq_fail(e, PQ_EARG, "a soft prompt of no rows");
    return 0;
}

static int add_weights(struct pq_train *t, struct pq_error *e)
{
    for (size_t i = 0; i < t->n_slots; i++) {
        const struct nn_slot *s = &t->slots[i];
        if (t->m.c.conv1d && s->linears[0] && !s->linears[0]->turned)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "tensor %s: is encoded; dequantize it to train it",
                           s->name);
        if (nn_params_add(&t->params, s->name, s->rows, s->cols, s->cols > 0,
                          e))
            return -1;
        if (s->linears[0])
            nn_params_mask(&t->params, s->mats[0]->dtype);
    }
    t->lowest = 0;
    return 0;
}

static int add_adapters(struct pq_train *t, struct pq_error *e)
{
    if (nn_adapters_add(&t->adapters, &t->o, t->slots, t->n_slots, &t->params,
                        &t->arena, e))
        return -1;
    for (size_t i = 0; i < t->adapters.n; i++) {
        const size_t layer = t->adapters.x[i].slot->layer;
        t->lowest = layer < t->lowest ? layer : t->lowest;
    }
    return 0;
}

static int add_parameters(struct pq_train *t, struct pq_error *e)
{
    const unsigned what = t->o.what;

    t->lowest = t->m.c.layers;
    if (((what & PQ_TRAIN_WEIGHTS) && add_weights(t, e)) ||
        ((what & PQ_TRAIN_LORA) && add_adapters(t, e)))
        return -1;
    if (!(what & PQ_TRAIN_PROMPT))
        return 0;
    t->lowest = 0;
    t->prompt_rows = t->o.prompt_rows;
    return nn_params_add(&t->params, "prompt_embeddings", t->o.prompt_rows,
                         t->m.c.hidden, true, e);
}

/* ---- first values ------------------------------------------------------- */

/* What the model was loaded into is free once all of it has moved. */
static void move_weights(struct pq_train *t)
{
    for (size_t i = 0; i < t->n_slots; i++)
        nn_slot_move(&t->slots[i], t->o.kernels,
                     t->params.w + t->params.p[i].at);
    for (size_t i = 0; i < t->m.n_owned; i++)
        free(t->m.owned[i]);
    t->m.n_owned = 0;
    t->m.bytes = 0;
}

static int fill_prompt(struct pq_train *t, struct pq_error *e)
{
    const struct nn_config *c = &t->m.c;
    const struct nn_param *q = &t->params.p[t->params.n - 1];
    struct pq_rng r;

    pq_rng_init(&r, t->o.seed, q->name);
    for (size_t i = 0; i < q->rows; i++) {
        float *w = t->params.w + q->at + i * c->hidden, u;
        pq_rng_uniform(&r, i, &u, 1);
        const size_t any = (size_t)(u * (double)c->vocab);
        const size_t id = t->o.prompt_ids ? (size_t)t->o.prompt_ids[i] : any;
        if (id >= c->vocab)
            return pq_fail(e, PQ_EARG,
                           "a soft prompt from token %zu of a vocabulary of "
                           "%zu",
                           id, c->vocab);
        nn_mat_decode(&t->m.embed, t->o.kernels, id, 0, c->hidden, w);
        for (size_t j = 0; j < c->hidden; j++)
            w[j] *= c->embed_scale;
    }
    return 0;
}

static int prepare(struct pq_train *t, struct pq_error *e)
{
    const unsigned what = t->o.what;

    if (nn_slots(&t->m, &t->arena, &t->slots, &t->n_slots, e) ||
        add_parameters(t, e) || nn_params_allocate(&t->params, e))
        return -1;
    if (what & PQ_TRAIN_WEIGHTS)
        move_weights(t);
    if ((what & PQ_TRAIN_LORA) &&
        nn_adapters_attach(&t->adapters, t->o.pissa, &t->params, t->pool,
                           t->o.kernels, &t->arena, e))
        return -1;
    if ((what & PQ_TRAIN_PROMPT) && fill_prompt(t, e))
        return -1;
    t->adamw.beta1 = t->o.beta1;
    t->adamw.beta2 = t->o.beta2;
    t->adamw.eps = t->o.eps;
    t->adamw.weight_decay = t->o.weight_decay;
    t->adamw.clip = t->o.clip;
    return nn_adamw_init(&t->adamw, &t->params, e);
}

int pq_train_open(struct pq_source *s, const struct pq_train_options *o,
                  struct pq_train **out, struct pq_error *e)
{
    struct pq_train *t = pq_zalloc(1, sizeof *t);

    if (!t)
        return pq_fail_nomem(e);
    t->o = *o;
    if (check_options(o, e) || nn_model_load(&t->m, s, o->kernels, e) ||
        !(t->pool = nn_pool_new(o->threads, o->kernels, e)) || prepare(t, e)) {
        pq_train_free(t);
        return -1;
    }
    t->o.targets = NULL;
    t->o.prompt_ids = NULL;
    *out = t;
    return 0;
}

void pq_train_free(struct pq_train *t)
{
    if (!t)
        return;
    nn_pool_free(t->pool);
    nn_tape_release(&t->tape);
    nn_adamw_release(&t->adamw);
    nn_sparse_release(&t->sparse);
    nn_round_release(&t->round);
    nn_params_release(&t->params);
    nn_model_release(&t->m);
    pq_arena_release(&t->arena);
    free(t->ids);
    free(t->labels);
    free(t->positions);
    free(t->s);
    free(t);
}

/* ---- what there is ------------------------------------------------------ */

struct pq_train_info pq_train_about(const struct pq_train *t)
{
    const struct nn_config *c = &t->m.c;
    const struct pq_train_info info = {
        .type = c->type,
        .vocab = c->vocab,
        .hidden = c->hidden,
        .layers = c->layers,
        .positions = c->positions,
        .positions_are_hard = c->learned_places,
        .trained = t->params.total,
        .weight_bytes = t->m.bytes ? t->m.bytes : t->params.total * 4,
        .scale = t->adapters.scale,
    };

    return info;
}

struct nn_tape_plan nn_train_plan(const struct pq_train *t, size_t rows,
                                  size_t longest)
{
    const struct nn_tape_plan p = {.rows = rows,
                                   .keys = longest,
                                   .rank = t->adapters.rank,
                                   .dora = t->adapters.dora,
                                   .lowest = t->lowest,
                                   .below = !(t->o.what == PQ_TRAIN_LORA),
                                   .recompute = t->o.recompute};

    return p;
}

/* What PiSSA leaves of weights stands beside them. */
static uint64_t pissa_bytes(const struct pq_train *t)
{
    uint64_t n = 0;

    for (size_t i = 0; t->o.pissa && i < t->adapters.n; i++)
        n += (uint64_t)t->adapters.x[i].in * t->adapters.x[i].out;
    return n * sizeof(float);
}

int pq_train_bytes(const struct pq_train *t, size_t rows, size_t longest,
                   uint64_t *bytes, struct pq_error *e)
{
    const struct nn_tape_plan plan = nn_train_plan(t, rows, longest);
    const size_t forward = nn_attention_spare(longest);
    const size_t back = nn_attention_back_spare(longest);
    uint64_t tape, arrays, round;

    if (!nn_tape_bytes(&t->m, &plan, &tape) ||
        !pq_mul(t->params.total, 4 * sizeof(float), &arrays) ||
        !nn_round_bytes(&t->round, &t->params, &round) ||
        !pq_add(tape, arrays, &tape) || !pq_add(tape, round, &tape) ||
        !pq_add(tape, pissa_bytes(t), &tape) ||
        !pq_add(tape, nn_sparse_bytes(&t->sparse, &t->params), &tape) ||
        !pq_add(tape, nn_pool_bytes(t->pool, forward > back ? forward : back),
                &tape) ||
        !pq_add(tape, t->m.bytes, bytes))
        return pq_fail(e, PQ_ELIMIT, "%zu tokens are too many for a batch",
                       rows);
    return 0;
}

size_t pq_train_params(const struct pq_train *t)
{
    return t->params.n;
}

struct pq_train_param pq_train_param(struct pq_train *t, size_t i)
{
    const struct nn_param *p = &t->params.p[i];
    const struct pq_train_param out = {
        .name = p->name,
        .rows = p->rows,
        .cols = p->cols,
        .w = t->params.w + p->at,
        .g = t->params.g + p->at,
        .m = t->adamw.m + p->at,
        .v = t->adamw.v + p->at,
        .mask = t->sparse.mask && p->masked ? t->sparse.mask + p->at : NULL,
        .exact =
            t->round.exact && p->masked ? t->round.exact + p->masked_at : NULL,
    };

    return out;
}

/* ---- steps -------------------------------------------------------------- */

void pq_train_changed(struct pq_train *t)
{
    nn_adapters_changed(&t->adapters, t->pool);
}

int pq_train_step(struct pq_train *t, double lr, double *norm,
                  struct pq_error *e)
{
    const double all = nn_adamw_norm(&t->adamw, t->pool, &t->params);
    double n = all;

    if (!isfinite(all))
        return pq_fail(e, PQ_EVALUE, "step %llu: the gradient is not finite",
                       (unsigned long long)t->adamw.steps + 1);
    nn_round_undo(&t->round, &t->params);
    if (t->sparse.mask) {
        nn_sparse_update(&t->sparse, &t->params, &t->adamw, t->adamw.steps);
        nn_sparse_gradient(&t->sparse, &t->params);
        n = nn_adamw_norm(&t->adamw, t->pool, &t->params);
    }
    nn_adamw_step(&t->adamw, t->pool, &t->params, lr, n);
    nn_round(&t->round, &t->params, t->pool, t->o.kernels);
    t->rows_of_step = 0;
    pq_train_changed(t);
    if (norm)
        *norm = n;
    return 0;
}

void pq_train_use_prompt(struct pq_train *t, size_t rows)
{
    if (t->o.what & PQ_TRAIN_PROMPT)
        t->prompt_rows = rows < t->o.prompt_rows ? rows : t->o.prompt_rows;
}

uint64_t pq_train_steps(const struct pq_train *t)
{
    return t->adamw.steps;
}

void pq_train_set_steps(struct pq_train *t, uint64_t steps)
{
    t->adamw.steps = steps;
}

int pq_train_sparsify(struct pq_train *t, const struct pq_train_sparsity *s,
                      struct pq_error *e)
{
    if (!(t->o.what & PQ_TRAIN_WEIGHTS))
        return pq_fail(e, PQ_EARG, "only weights can be made sparse");
    if (!(s->from >= 0 && s->from < 1 && s->to >= 0 && s->to < 1 &&
          s->regrow >= 0 && s->regrow < 1) ||
        s->every == 0)
        return pq_fail(e, PQ_EARG,
                       "shares must be in [0, 1), and updates at least one "
                       "step apart");
    nn_sparse_release(&t->sparse);
    return nn_sparse_init(&t->sparse, &t->params, s, e);
}

int pq_train_round(struct pq_train *t, enum pq_encoding encoding,
                   enum pq_dtype dtype, struct pq_error *e)
{
    const bool known = encoding == PQ_NF4 || encoding == PQ_INT8 ||
                       (encoding == PQ_PLAIN && pq_dtype_is_float(dtype));

    if (!(t->o.what & PQ_TRAIN_WEIGHTS))
        return pq_fail(e, PQ_EARG, "only weights that are trained are rounded");
    if (!known)
        return pq_fail(e, PQ_EARG,
                       "weights are rounded to floats, int8 or nf4 alone");
    nn_round_undo(&t->round, &t->params);
    nn_round_release(&t->round);
    if (nn_round_init(&t->round, &t->params, t->pool, encoding, dtype,
                      t->m.c.conv1d, e))
        return -1;
    nn_round(&t->round, &t->params, t->pool, t->o.kernels);
    return 0;
}
