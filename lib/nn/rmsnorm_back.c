/*
 * RMS normalisation backwards.  With x^ = x rho, rho = 1 / sqrt(mean(x^2) +
 * eps), u = w or 1 + w:
 *
 *   g  = dy u
 *   dx = rho (g - x^ mean(g x^))
 *   dw = sum over rows of dy x^
 *
 * Rows are [rows][n].  rho is computed again, as in rmsnorm.c.
 */
#include "backward.h"

#include <math.h>

#define ROWS 16  /* of a task */
#define RUN  256 /* elements of g at a time */

struct job {
    float *dx, *rho;
    const float *dy, *x, *w;
    size_t rows, n;
    float eps;
    bool plus_one, add;
};

static void rho_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t end = (task + 1) * ROWS;

    for (size_t r = task * ROWS; r < end && r < j->rows; r++) {
        const float *x = j->x + r * j->n;
        const float mean = w->nn->dot(x, x, j->n) / (float)j->n;
        j->rho[r] = 1.0f / sqrtf(mean + j->eps);
    }
}

/* g[i] = dy[at + i] u[at + i] */
static void weigh(const struct job *j, const float *dy, size_t at, size_t n,
                  float *g)
{
    const float *w = j->w + at;

    for (size_t i = 0; i < n; i++)
        g[i] = dy[at + i] * (j->plus_one ? 1.0f + w[i] : w[i]);
}

static void back_row(const struct job *j, const struct nn_kernels *nn,
                     size_t row)
{
    const float *x = j->x + row * j->n, *dy = j->dy + row * j->n;
    float *dx = j->dx + row * j->n, g[RUN], dot = 0;
    const float rho = j->rho[row];

    for (size_t at = 0; at < j->n; at += RUN) {
        const size_t n = j->n - at < RUN ? j->n - at : RUN;
        weigh(j, dy, at, n, g);
        dot += nn->dot(g, x + at, n);
    }
    const float pull = dot / (float)j->n * rho * rho;
    for (size_t at = 0; at < j->n; at += RUN) {
        const size_t n = j->n - at < RUN ? j->n - at : RUN;
        weigh(j, dy, at, n, g);
        for (size_t i = 0; i < n; i++) {
            const float d = rho * (g[i] - x[at + i] * pull);
            dx[at + i] = j->add ? dx[at + i] + d : d;
        }
    }
}

static void back_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t end = (task + 1) * ROWS;

    for (size_t r = task * ROWS; r < end && r < j->rows; r++)
        back_row(j, w->nn, r);
}

void nn_rmsnorm_back(struct nn_pool *pool, float *dx, float *dw,
                     const float *dy, const float *x, const float *w,
                     size_t rows, size_t n, float eps, bool plus_one, bool add,
                     float *inv_rms)
{
    struct job j = {dx, inv_rms, dy, x, w, rows, n, eps, plus_one, add};
    const size_t tasks = (rows + ROWS - 1) / ROWS;

    nn_pool_run(pool, rho_rows, &j, tasks);
    if (dw)
        nn_column_products(pool, dw, dy, x, NULL, inv_rms, rows, n);
    nn_pool_run(pool, back_rows, &j, tasks);
}
