/*
 * Learning rates over the steps, as transformers has them.  k counts from 0,
 * W is the warm-up, S all steps, D the decay of WSD, f the share that
 * remains:
 *
 *   warm-up   k / W
 *   linear    f + (1 - f) (S - k) / (S - W)
 *   cosine    f + (1 - f) (1 + cos(pi (k - W) / (S - W))) / 2
 *   wsd       1 up to S - D, then cosine over D
 */
#include "pq_train.h"

#include "elementary.h"

#define PI 3.14159265358979323846

/* 1 to 0 while q goes from 0 to 1. */
static double fall(enum pq_schedule_shape shape, double q)
{
    double s, c;

    if (q >= 1)
        return 0;
    if (shape == PQ_SCHEDULE_LINEAR)
        return 1 - q;
    nn_sincos(PI * q, &s, &c);
    return 0.5 * (1 + c);
}

double pq_schedule_at(const struct pq_schedule *s, uint64_t k)
{
    const bool wsd = s->shape == PQ_SCHEDULE_WSD;
    uint64_t from = s->warmup;

    if (k < s->warmup)
        return (double)k / (double)s->warmup;
    if (s->shape == PQ_SCHEDULE_CONSTANT)
        return 1;
    if (wsd && s->steps > s->decay && s->steps - s->decay > from)
        from = s->steps - s->decay;
    if (k < from)
        return 1;
    const double n = s->steps > from ? (double)(s->steps - from) : 1;
    return s->least + (1 - s->least) * fall(s->shape, (double)(k - from) / n);
}
