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

#define ROWS 16 /* of a task */

struct job {
    float *y, *mean, *inv_std;
    const float *x, *w, *b;
    size_t rows, n;
    float eps;
};

static void norm_row(const struct job *j, const struct nn_kernels *nn,
                     size_t row)
{
    const float *x = j->x + row * j->n;
    float *y = j->y + row * j->n;
    const float mu = nn->sum(x, j->n) / (float)j->n;

    for (size_t i = 0; i < j->n; i++)
        y[i] = x[i] - mu;
    const float var = nn->dot(y, y, j->n) / (float)j->n;
    const float rho = 1.0f / sqrtf(var + j->eps);
    if (j->mean)
        j->mean[row] = mu;
    if (j->inv_std)
        j->inv_std[row] = rho;
    nn->scale_by(y, y, rho, j->w, j->n);
    nn->add(y, y, j->b, j->n);
}

static void norm_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t end = (task + 1) * ROWS;

    for (size_t r = task * ROWS; r < end && r < j->rows; r++)
        norm_row(j, w->nn, r);
}

void nn_layernorm(struct nn_pool *pool, float *y, float *mean, float *inv_std,
                  const float *x, const float *w, const float *b, size_t rows,
                  size_t n, float eps)
{
    struct job j = {y, mean, inv_std, x, w, b, rows, n, eps};

    nn_pool_run(pool, norm_rows, &j, (rows + ROWS - 1) / ROWS);
}
