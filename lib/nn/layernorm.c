/*
 * Layer normalisation of rows.
 *
 *   mu  = mean(x),  rho = 1 / sqrt(mean((x - mu)^2) + eps)
 *   y   = ((x - mu) * rho) * w + b
 *
 * Rows are [rows][n].  Both sums run in eight lanes, the second over the
 * differences, which stand in y meanwhile.
 */
#include "nn.h"

#include <math.h>

struct job {
    float *y;
    const float *x, *w, *b;
    size_t n;
    float eps;
};

static void norm_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const struct nn_kernels *nn = w->nn;
    const float *x = j->x + row * j->n;
    float *y = j->y + row * j->n;
    const float mu = nn->sum(x, j->n) / (float)j->n;

    for (size_t i = 0; i < j->n; i++)
        y[i] = x[i] - mu;
    const float var = nn->dot(y, y, j->n) / (float)j->n;
    const float rho = 1.0f / sqrtf(var + j->eps);
    nn->scale_by(y, y, rho, j->w, j->n);
    nn->add(y, y, j->b, j->n);
}

void nn_layernorm(struct nn_pool *pool, float *y, const float *x,
                  const float *w, const float *b, size_t rows, size_t n,
                  float eps)
{
    struct job j = {y, x, w, b, n, eps};

    nn_pool_run_rows(pool, norm_row, &j, rows);
}
