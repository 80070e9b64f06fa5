/*
 * Sparsity that grows during training: the cubic schedule of Zhu and Gupta
 * (arXiv 1710.01878), regrowth by gradient of RigL (arXiv 1911.11134).
 *
 * For each masked parameter of n weights, held = share n.  With regrowth,
 * k = regrow (n - held):
 *
 *   1. hold the held + k smallest |w|, among equals the first
 *   2. free the k with the largest |g| among those held, the first of equals
 */
#include "sparse.h"

#include <stdlib.h>
#include <string.h>

#include "surgery/prune_internal.h"

int nn_sparse_init(struct nn_sparse *x, const struct nn_params *p,
                   const struct pq_train_sparsity *s, struct pq_error *e)
{
    x->s = *s;
    x->mask = pq_alloc(p->total, 1);
    x->room = pq_alloc(nn_params_largest(p), sizeof *x->room);
    if (!x->mask || !x->room) {
        nn_sparse_release(x);
        return pq_fail_nomem(e);
    }
    memset(x->mask, 1, p->total);
    return 0;
}

size_t nn_sparse_bytes(const struct nn_sparse *x, const struct nn_params *p)
{
    return x->mask ? p->total + nn_params_largest(p) * sizeof *x->room : 0;
}

void nn_sparse_release(struct nn_sparse *x)
{
    free(x->mask);
    free(x->room);
    x->mask = NULL;
    x->room = NULL;
}

/* Holds the k smallest of n weights. */
static void hold(const float *w, uint8_t *mask, size_t n, size_t k)
{
    struct pq_prune_cut c;

    pq_prune_select(w, n, k, &c);
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = pq_abs_bits(w[i]);
        const bool tie = u == c.bits && c.left > 0;
        mask[i] = u > c.bits || (u == c.bits && !tie);
        c.left -= tie;
    }
}

/* Frees the k with the largest gradients of `held` that are held. */
static void grow(const float *g, uint8_t *mask, size_t n, size_t held, size_t k,
                 float *room /* [held] */)
{
    size_t above = 0, ties = 0, m = 0;
    struct pq_prune_cut c;

    if (k == 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (!mask[i])
            room[m++] = g[i];
    pq_prune_select(room, held, held - k + 1, &c);
    for (size_t i = 0; i < held; i++)
        above += pq_abs_bits(room[i]) > c.bits;
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = pq_abs_bits(g[i]);
        if (!mask[i] && (u > c.bits || (u == c.bits && ties++ < k - above)))
            mask[i] = 1;
    }
}

static bool due(const struct nn_sparse *x, uint64_t step)
{
    const struct pq_train_sparsity *s = &x->s;

    if (!x->mask || step < s->begin)
        return false;
    const uint64_t since = step - s->begin;
    return since % s->every == 0 && since / s->every <= s->updates;
}

static double share_at(const struct pq_train_sparsity *s, uint64_t step)
{
    const double i = (double)((step - s->begin) / s->every);
    const double left = s->updates ? 1 - i / (double)s->updates : 0;

    return s->to + (s->from - s->to) * left * left * left;
}

static void update(const struct nn_sparse *x, const struct nn_params *p,
                   const struct nn_adamw *a, const struct nn_param *q,
                   double share)
{
    uint8_t *mask = x->mask + q->at;
    float *w = p->w + q->at, *m = a->m + q->at, *v = a->v + q->at;
    const size_t held = (size_t)(share * (double)q->n);
    const size_t k = (size_t)(x->s.regrow * (double)(q->n - held));

    for (size_t i = 0; i < q->n; i++)
        if (!mask[i])
            w[i] = 0;
    hold(w, mask, q->n, held + k);
    for (size_t i = 0; i < q->n; i++)
        if (!mask[i])
            w[i] = m[i] = v[i] = 0;
    grow(p->g + q->at, mask, q->n, held + k, k, x->room);
}

void nn_sparse_update(const struct nn_sparse *x, const struct nn_params *p,
                      const struct nn_adamw *a, uint64_t step)
{
    for (size_t i = 0; due(x, step) && i < p->n; i++)
        if (p->p[i].masked)
            update(x, p, a, &p->p[i], share_at(&x->s, step));
}

void nn_sparse_gradient(const struct nn_sparse *x, const struct nn_params *p)
{
    for (size_t i = 0; x->mask && i < p->total; i++)
        if (!x->mask[i])
            p->g[i] = 0;
}
