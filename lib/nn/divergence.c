/*
 * How far two sets of logits z (the base's) and y are apart:
 *
 *   KL(z || y) = sum_v p[v] (z[v] - y[v]) - (lse(z) - lse(y)),
 *   p = softmax(z)
 *
 * p is float, as everywhere; the sum is double, in the order of v.
 */
#include "nn.h"

#include <string.h>

#define RUN 1024 /* logits that are worked on at a time */

struct job {
    const float *z, *y;
    const double *lse_z, *lse_y;
    double *kl;
    bool *same;
    size_t vocab;
};

static size_t first_largest(const float *z, size_t n)
{
    size_t at = 0;

    for (size_t i = 1; i < n; i++)
        at = z[i] > z[at] ? i : at;
    return at;
}

static void compare_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const float *z = j->z + row * j->vocab, *y = j->y + row * j->vocab;
    const double lse = j->lse_z[row];
    double sum = 0;
    float p[RUN];

    for (size_t i = 0; i < j->vocab; i += RUN) {
        const size_t n = j->vocab - i < RUN ? j->vocab - i : RUN;
        memcpy(p, z + i, n * sizeof *p);
        w->nn->exp_sum(p, n, (float)lse);
        for (size_t v = 0; v < n; v++)
            sum += (double)p[v] * ((double)z[i + v] - (double)y[i + v]);
    }
    j->kl[row] = sum - (lse - j->lse_y[row]);
    j->same[row] = first_largest(z, j->vocab) == first_largest(y, j->vocab);
}

void nn_divergence(struct nn_pool *pool, double *kl, bool *same, const float *z,
                   const double *lse_z, const float *y, const double *lse_y,
                   size_t rows, size_t vocab)
{
    struct job j = {z, y, lse_z, lse_y, kl, same, vocab};

    nn_pool_run(pool, compare_row, &j, rows);
}
