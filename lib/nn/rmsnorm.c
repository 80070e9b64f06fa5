/*
 * RMS normalisation of rows.
 *
 *   rho = 1 / sqrt(mean(x^2) + eps)
 *   y   = (x * rho) * u,   u = w, or 1 + w (gemma)
 *
 * Rows are [rows][n].  The sum of squares runs in eight lanes.
 */
#include "nn.h"

#include <math.h>

struct job {
    float *y;
    const float *x, *w;
    size_t n;
    float eps;
    bool plus_one;
};

static void norm_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const struct nn_kernels *nn = w->nn;
    const float *x = j->x + row * j->n;
    float *y = j->y + row * j->n;
    const float mean = nn->dot(x, x, j->n) / (float)j->n;
    const float rho = 1.0f / sqrtf(mean + j->eps);

    if (!j->plus_one) {
        nn->scale_by(y, x, rho, j->w, j->n);
        return;
    }
    for (size_t i = 0; i < j->n; i++)
        y[i] = (x[i] * rho) * (1.0f + j->w[i]);
}

void nn_rmsnorm(struct nn_pool *pool, float *y, const float *x, const float *w,
                size_t rows, size_t n, float eps, bool plus_one)
{
    struct job j = {y, x, w, n, eps, plus_one};

    nn_pool_run_rows(pool, norm_row, &j, rows);
}
