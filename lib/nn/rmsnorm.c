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

#define ROWS 16 /* of a task */

struct job {
    float *y, *inv_rms;
    const float *x, *w;
    size_t rows, n;
    float eps;
    bool plus_one;
};

static void norm_row(const struct job *j, const struct nn_kernels *nn,
                     size_t row)
{
    const float *x = j->x + row * j->n;
    float *y = j->y + row * j->n;
    const float mean = nn->dot(x, x, j->n) / (float)j->n;
    const float rho = 1.0f / sqrtf(mean + j->eps);

    if (j->inv_rms)
        j->inv_rms[row] = rho;
    if (!j->plus_one) {
        nn->scale_by(y, x, rho, j->w, j->n);
        return;
    }
    for (size_t i = 0; i < j->n; i++)
        y[i] = (x[i] * rho) * (1.0f + j->w[i]);
}

static void norm_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t end = (task + 1) * ROWS;

    for (size_t r = task * ROWS; r < end && r < j->rows; r++)
        norm_row(j, w->nn, r);
}

void nn_rmsnorm(struct nn_pool *pool, float *y, float *inv_rms, const float *x,
                const float *w, size_t rows, size_t n, float eps, bool plus_one)
{
    struct job j = {y, inv_rms, x, w, rows, n, eps, plus_one};

    nn_pool_run(pool, norm_rows, &j, (rows + ROWS - 1) / ROWS);
}
