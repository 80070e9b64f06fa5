/*
 * Sparsity that grows during training: the cubic schedule of Zhu and Gupta
 * (arXiv 1710.01878), regrowth by gradient of RigL (arXiv 1911.11134).
 *
 * For each masked parameter of n weights, held = share n.  With regrowth,
 * k = regrow (n - held):
 *
 *   1. hold the held + k smallest |w|, among equals the first
 *   2. free the k with the largest |g| among those held, the first of equals
 *
 * The rank is found by the bits of the magnitudes, which order as the
 * numbers do: four passes, a byte each.
 */
#include "sparse.h"

#include <stdlib.h>
#include <string.h>

int nn_sparse_init(struct nn_sparse *x, const struct nn_params *p,
                   const struct pq_train_sparsity *s, struct pq_error *e)
{
    x->s = *s;
    x->mask = pq_alloc(p->total, 1);
    if (!x->mask)
        return pq_fail_nomem(e);
    memset(x->mask, 1, p->total);
    return 0;
}

void nn_sparse_release(struct nn_sparse *x)
{
    free(x->mask);
    x->mask = NULL;
}

/* What is ranked: weights, or the gradients of those that are held. */
struct ranked {
    const float *x;
    const uint8_t *mask; /* only where it is 0; NULL: all */
    size_t n;
};

/* The magnitude of number k when they are sorted; *below are smaller. */
static uint32_t rank_of(const struct ranked *r, size_t k, size_t *below)
{
    uint32_t prefix = 0;

    *below = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const uint32_t high = shift == 24 ? 0 : ~0u << (shift + 8);
        size_t counts[256] = {0}, digit = 0;
        for (size_t i = 0; i < r->n; i++) {
            const uint32_t u = pq_abs_bits(r->x[i]);
            if ((!r->mask || !r->mask[i]) && (u & high) == prefix)
                counts[u >> shift & 255]++;
        }
        while (k - *below >= counts[digit])
            *below += counts[digit++];
        prefix |= (uint32_t)digit << shift;
    }
    return prefix;
}

/* Holds the k smallest of n weights. */
static void hold(const float *w, uint8_t *mask, size_t n, size_t k)
{
    const struct ranked r = {w, NULL, n};
    size_t below, ties = 0;

    memset(mask, 1, n);
    if (k == 0)
        return;
    const uint32_t at = rank_of(&r, k - 1, &below);
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = pq_abs_bits(w[i]);
        if (u < at || (u == at && ties++ < k - below))
            mask[i] = 0;
    }
}

/* Frees the k with the largest gradients of `held` that are held. */
static void grow(const float *g, uint8_t *mask, size_t n, size_t held, size_t k)
{
    const struct ranked r = {g, mask, n};
    size_t below, above = 0, ties = 0;

    if (k == 0)
        return;
    const uint32_t at = rank_of(&r, held - k, &below);
    for (size_t i = 0; i < n; i++)
        above += !mask[i] && pq_abs_bits(g[i]) > at;
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = pq_abs_bits(g[i]);
        if (!mask[i] && (u > at || (u == at && ties++ < k - above)))
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
    grow(p->g + q->at, mask, q->n, held + k, k);
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
