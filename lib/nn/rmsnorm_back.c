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

#define RUN  256 /* elements of g at a time */

struct job {
    float *dx, *rho;
    const float *dy, *x, *w;
    size_t n;
    float eps;
    bool plus_one, add;
};

static void rho_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const float *x = j->x + row * j->n;
    const float mean = w->nn->dot(x, x, j->n) / (float)j->n;

    j->rho[row] = 1.0f / sqrtf(mean + j->eps);
}

/* g[i] = dy[at + i] u[at + i] */
static void weigh(const struct job *j, const float *dy, size_t at, size_t n,
                  float *g)
{
    const float *w = j->w + at;

    for (size_t i = 0; i < n; i++)
        g[i] = dy[at + i] * (j->plus_one ? 1.0f + w[i] : w[i]);
}

static void back_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const struct nn_kernels *nn = w->nn;
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

void nn_rmsnorm_back(struct nn_pool *pool, float *dx, float *dw,
                     const float *dy, const float *x, const float *w,
                     size_t rows, size_t n, float eps, bool plus_one, bool add,
                     float *inv_rms)
{
    struct job j = {dx, inv_rms, dy, x, w, n, eps, plus_one, add};

    nn_pool_run_rows(pool, rho_row, &j, rows);
    if (dw)
        nn_column_products(pool, dw, dy, x, NULL, inv_rms, rows, n);
    nn_pool_run_rows(pool, back_row, &j, rows);
}
