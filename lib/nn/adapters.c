/*
 * LoRA matrices as parameters.  A begins uniform in +-1 / sqrt(in) and B
 * with 0, as in peft; the magnitude of DoRA with the norms of W.  PiSSA:
 *
 *   W = U S V^T;  A = sqrt(S / s) V^T,  B = U sqrt(S / s), the first `rank`
 *   W becomes W - s B A, in float
 */
#include "adapters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pq_linalg.h"
#include "rng.h"

#define PREFIX "base_model.model."

/* ---- which layers ------------------------------------------------------- */

/* The name of the module: that of its weight without its last word. */
static int module_length(const char *name)
{
    return (int)(strrchr(name, '.') - name);
}

static bool is_target(const char *name, const char *target)
{
    const size_t n = (size_t)module_length(name), m = strlen(target);

    return n >= m && strncmp(name + n - m, target, m) == 0 &&
           (n == m || name[n - m - 1] == '.');
}

static bool chosen(const struct pq_train_options *o, const struct nn_slot *s)
{
    if (!s->linears[0])
        return false;
    for (size_t i = 0; i < o->n_targets; i++)
        if (is_target(s->name, o->targets[i]))
            return true;
    return o->n_targets == 0;
}

/* "q_proj", of "model.layers.0.self_attn.q_proj.weight". */
static void last_word(const char *name, char *word, size_t size)
{
    const int n = module_length(name);
    int from = n;

    while (from > 0 && name[from - 1] != '.')
        from--;
    snprintf(word, size, "%.*s", n - from, name + from);
}

/* "q_proj, k_proj" and so on: each word of a linear layer once. */
static void list_words(const struct nn_slot *slots, size_t n, char *list,
                       size_t size)
{
    char word[64];
    size_t used = 0;

    for (size_t i = 0; i < n && used < size; i++) {
        bool seen = !slots[i].linears[0];
        if (!seen)
            last_word(slots[i].name, word, sizeof word);
        for (size_t k = 0; !seen && k < i; k++)
            seen = slots[k].linears[0] && is_target(slots[k].name, word);
        if (!seen)
            used += (size_t)snprintf(list + used, size - used, "%s%s",
                                     used ? ", " : "", word);
    }
}

static int refuse_target(const char *target, const struct nn_slot *slots,
                         size_t n, struct pq_error *e)
{
    char list[256] = "";

    list_words(slots, n, list, sizeof list);
    return pq_fail(e, PQ_EARG,
                   "no linear layer of the model is called %.64s, but %s",
                   target, list);
}

static int check_targets(const struct pq_train_options *o,
                         const struct nn_slot *slots, size_t n,
                         struct pq_error *e)
{
    for (size_t t = 0; t < o->n_targets; t++) {
        bool found = false;
        for (size_t i = 0; i < n; i++)
            found |=
                slots[i].linears[0] && is_target(slots[i].name, o->targets[t]);
        if (!found)
            return refuse_target(o->targets[t], slots, n, e);
    }
    return 0;
}

static int add_one(struct nn_adapters *x, const struct nn_slot *s,
                   struct nn_params *p, struct pq_arena *arena,
                   struct pq_error *e)
{
    struct nn_adapter *a = &x->x[x->n++];
    const int n = module_length(s->name);

    a->slot = s;
    a->in = s->linears[0]->in;
    for (size_t i = 0; i < s->n_parts; i++)
        a->out += s->linears[i]->out;
    a->a = p->n;
    a->b = a->a + 1;
    a->m = a->b + 1;
    const char *down =
        pq_arena_printf(arena, PREFIX "%.*s.lora_A.weight", n, s->name);
    const char *up =
        pq_arena_printf(arena, PREFIX "%.*s.lora_B.weight", n, s->name);
    const char *magnitude =
        pq_arena_printf(arena, PREFIX "%.*s.lora_magnitude_vector", n, s->name);
    if (!down || !up || !magnitude)
        return pq_fail_nomem(e);
    if (nn_params_add(p, down, x->rank, a->in, true, e) ||
        nn_params_add(p, up, a->out, x->rank, true, e))
        return -1;
    return x->dora ? nn_params_add(p, magnitude, a->out, 0, true, e) : 0;
}

int nn_adapters_add(struct nn_adapters *x, const struct pq_train_options *o,
                    const struct nn_slot *slots, size_t n, struct nn_params *p,
                    struct pq_arena *arena, struct pq_error *e)
{
    if (o->rank == 0 || !(o->alpha > 0))
        return pq_fail(e, PQ_EARG, "rank and alpha must be above 0");
    const double root = o->rslora ? sqrt((double)o->rank) : (double)o->rank;
    *x = (struct nn_adapters){.rank = o->rank,
                              .dora = o->dora,
                              .seed = o->seed,
                              .scale = o->alpha / root};
    x->x = pq_arena_alloc(arena, n, sizeof *x->x);
    if (!x->x)
        return pq_fail_nomem(e);
    if (check_targets(o, slots, n, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        if (chosen(o, &slots[i]) && add_one(x, &slots[i], p, arena, e))
            return -1;
    return 0;
}

/* ---- first values ------------------------------------------------------- */

static void fill_a(const struct nn_adapters *x, const struct nn_adapter *a,
                   const struct nn_params *p)
{
    const struct nn_param *q = &p->p[a->a];
    const float bound = (float)(1 / sqrt((double)a->in));
    float *w = p->w + q->at;
    struct pq_rng r;

    pq_rng_init(&r, x->seed, q->name);
    pq_rng_uniform(&r, 0, w, q->n);
    for (size_t i = 0; i < q->n; i++)
        w[i] = (2 * w[i] - 1) * bound;
}

/* Takes s B A out of the weight, which is w, [in][out] if turned. */
static void keep_rest(const struct nn_adapters *x, const struct nn_adapter *y,
                      const struct nn_params *p, bool turned, float *w)
{
    const float *a = p->w + p->p[y->a].at, *b = p->w + p->p[y->b].at;

    for (size_t o = 0; o < y->out; o++)
        for (size_t i = 0; i < y->in; i++) {
            double sum = 0;
            for (size_t r = 0; r < x->rank; r++)
                sum += (double)b[o * x->rank + r] * a[r * y->in + i];
            float *to = &w[turned ? i * y->out + o : o * y->in + i];
            *to = (float)(*to - x->scale * sum);
        }
}

/* A and B from the singular vectors of v [out][in]. */
static int split(const struct nn_adapters *x, const struct nn_adapter *y,
                 const struct nn_params *p, double *v, struct pq_error *e)
{
    const size_t k = y->in < y->out ? y->in : y->out;
    float *a = p->w + p->p[y->a].at, *b = p->w + p->p[y->b].at;
    double *u = pq_alloc(y->out * k, sizeof *u);
    double *s = pq_alloc(k, sizeof *s), *vt = pq_alloc(k * y->in, sizeof *vt);
    int rc = u && s && vt ? pq_svd_f64(v, y->out, y->in, u, s, vt, e)
                          : pq_fail_nomem(e);

    for (size_t r = 0; !rc && r < x->rank; r++) {
        const double root = sqrt(s[r] / x->scale);
        for (size_t i = 0; i < y->in; i++)
            a[r * y->in + i] = (float)(root * vt[r * y->in + i]);
        for (size_t o = 0; o < y->out; o++)
            b[o * x->rank + r] = (float)(root * u[o * k + r]);
    }
    free(u);
    free(s);
    free(vt);
    return rc;
}

static int start_pissa(const struct nn_adapters *x, const struct nn_adapter *y,
                       const struct nn_params *p, const struct pq_kernels *k,
                       struct pq_arena *arena, struct pq_error *e)
{
    const bool turned = y->slot->linears[0]->turned;
    const size_t n = y->in * y->out;
    float *w = pq_arena_alloc(arena, n, sizeof *w);
    double *v = pq_alloc(n, sizeof *v);
    int rc = -1;

    if (x->rank > y->in || x->rank > y->out)
        pq_fail(e, PQ_EARG, "tensor %s: rank %zu is more than it has",
                y->slot->name, x->rank);
    else if (!w || !v)
        pq_fail_nomem(e);
    else {
        nn_slot_move(y->slot, k, w);
        for (size_t o = 0; o < y->out; o++)
            for (size_t i = 0; i < y->in; i++)
                v[o * y->in + i] = w[turned ? i * y->out + o : o * y->in + i];
        rc = split(x, y, p, v, e);
        if (!rc)
            keep_rest(x, y, p, turned, w);
    }
    free(v);
    return rc;
}

/* ---- on their layers ---------------------------------------------------- */

/* The parts of a module share A; each has its rows of B, m and the norms. */
static int attach(const struct nn_adapters *x, struct nn_adapter *y,
                  const struct nn_params *p, struct nn_pool *pool,
                  struct pq_arena *arena, struct pq_error *e)
{
    size_t from = 0;

    if (x->dora && !(y->norm = pq_arena_alloc(arena, y->out, sizeof(float))))
        return pq_fail_nomem(e);
    for (size_t i = 0; i < y->slot->n_parts; i++) {
        struct nn_linear *l = y->slot->linears[i];
        struct nn_delta *d = &y->deltas[i];
        d->r = x->rank;
        d->scale = (float)x->scale;
        d->a = p->w + p->p[y->a].at;
        d->b = p->w + p->p[y->b].at + from * x->rank;
        d->m = x->dora ? p->w + p->p[y->m].at + from : NULL;
        d->norm = x->dora ? y->norm + from : NULL;
        l->delta = d;
        from += l->out;
        if (nn_pool_spare(pool, nn_delta_spare(l, d), e))
            return -1;
    }
    return 0;
}

int nn_adapters_attach(struct nn_adapters *x, bool pissa, struct nn_params *p,
                       struct nn_pool *pool, const struct pq_kernels *k,
                       struct pq_arena *arena, struct pq_error *e)
{
    if (pissa && pq_linalg_ready(e))
        return -1;
    for (size_t i = 0; i < x->n; i++) {
        if (!pissa)
            fill_a(x, &x->x[i], p);
        else if (start_pissa(x, &x->x[i], p, k, arena, e))
            return -1;
        if (attach(x, &x->x[i], p, pool, arena, e))
            return -1;
    }
    nn_adapters_changed(x, pool);
    for (size_t i = 0; x->dora && i < x->n; i++)
        memcpy(p->w + p->p[x->x[i].m].at, x->x[i].norm,
               x->x[i].out * sizeof(float));
    return 0;
}

void nn_adapters_changed(const struct nn_adapters *x, struct nn_pool *pool)
{
    for (size_t i = 0; x->dora && i < x->n; i++)
        for (size_t j = 0; j < x->x[i].slot->n_parts; j++)
            nn_delta_norms(pool, x->x[i].slot->linears[j], &x->x[i].deltas[j]);
}
