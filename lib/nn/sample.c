/*
 * Choosing the next token, z the logits, p = softmax(z):
 *
 *     repetition r   z < 0: z r, else z / r, of tokens that were there
 *     temperature t  z / t
 *     top-k          z >= the k-th largest
 *     top-p          from the likeliest on, until the sum of p reaches top-p
 *     min-p          p >= min-p * the largest p
 *
 * Each looks at what the one before has left.  What is removed is -INFINITY.
 */
#include "pq_sample.h"

#include "elementary.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* exp(z - best), which is 0 where it is too small to count. */
static double weight(float z, float best)
{
    const double x = (double)z - (double)best;

    return x > -700 ? nn_exp(x) : 0;
}

static void repetition(double r, const int32_t *seen, size_t n_seen, float *z,
                       size_t vocab, struct pq_candidate *room)
{
    for (size_t i = 0; i < vocab; i++)
        room[i].id = 0; /* times that it was seen */
    for (size_t i = 0; i < n_seen; i++) {
        const size_t id = (size_t)seen[i];
        if (room[id].id++ == 0)
            z[id] = z[id] < 0 ? z[id] * (float)r : z[id] / (float)r;
    }
}

/* The best first, of equals the lower id. */
static int by_logit(const void *a, const void *b)
{
    const struct pq_candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The sorted candidates; returns how many there are. */
static size_t sort(const float *z, size_t vocab, struct pq_candidate *room)
{
    size_t n = 0;

    for (size_t i = 0; i < vocab; i++)
        if (z[i] > -INFINITY)
            room[n++] = (struct pq_candidate){z[i], (uint32_t)i};
    qsort(room, n, sizeof *room, by_logit);
    return n;
}

/* How many of the n sorted candidates the k-th best and its equals are. */
static size_t top_k(size_t k, const struct pq_candidate *c, size_t n)
{
    if (k == 0 || k >= n)
        return n;
    while (k < n && c[k].logit == c[k - 1].logit)
        k++;
    return k;
}

static size_t top_p(double p, const struct pq_candidate *c, size_t n)
{
    double all = 0, sum = 0;
    size_t k = 0;

    if (!(p > 0 && p < 1))
        return n;
    for (size_t i = 0; i < n; i++)
        all += weight(c[i].logit, c[0].logit);
    while (k < n && sum < p * all)
        sum += weight(c[k++].logit, c[0].logit);
    return k;
}

static size_t min_p(double p, const struct pq_candidate *c, size_t n)
{
    while (p > 0 && n > 1 && weight(c[n - 1].logit, c[0].logit) < p)
        n--;
    return n;
}

void pq_sample_filter(const struct pq_sampling *s, const int32_t *seen,
                      size_t n_seen, float *logits, size_t vocab,
                      struct pq_candidate *room)
{
    const bool cut = s->top_k > 0 || (s->top_p > 0 && s->top_p < 1) ||
                     s->min_p > 0;

    if (s->repetition > 0 && s->repetition != 1)
        repetition(s->repetition, seen, n_seen, logits, vocab, room);
    if (!(s->temperature > 0))
        return;
    for (size_t i = 0; i < vocab; i++)
        logits[i] /= (float)s->temperature;
    if (!cut)
        return;
    const size_t all = sort(logits, vocab, room);
    size_t n = top_k(s->top_k, room, all);
    n = top_p(s->top_p, room, n);
    n = min_p(s->min_p, room, n);
    for (size_t i = n; i < all; i++)
        logits[room[i].id] = -INFINITY;
}

int32_t pq_sample_best(const float *logits, size_t vocab)
{
    size_t best = 0;

    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    return (int32_t)best;
}

int32_t pq_sample_draw(const float *logits, size_t vocab, double u)
{
    const float best = logits[pq_sample_best(logits, vocab)];
    double all = 0, sum = 0;
    size_t last = 0;

    for (size_t i = 0; i < vocab; i++)
        all += weight(logits[i], best);
    for (size_t i = 0; i < vocab; i++) {
        const double w = weight(logits[i], best);
        if (w > 0)
            last = i;
        sum += w;
        if (w > 0 && sum > u * all)
            return (int32_t)i;
    }
    return (int32_t)last;
}
