/*
 * Layer normalisation backwards.  With x^ = (x - mu) rho, rho = 1 /
 * sqrt(mean((x - mu)^2) + eps):
 *
 *   g  = dy w
 *   dx = rho (g - mean(g) - x^ mean(g x^))
 *   dw = sum over rows of dy x^,  db = sum over rows of dy
 *
 * Rows are [rows][n].  mu and rho are computed again, as in layernorm.c.
 */
#include "backward.h"

#include <math.h>

#define RUN  256 /* elements at a time */

struct job {
    float *dx, *mean, *rho;
    const float *dy, *x, *w;
    size_t n;
    float eps;
    bool add;
};

static size_t run_of(const struct job *j, size_t at)
{
    return j->n - at < RUN ? j->n - at : RUN;
}

/* c[i] = x[at + i] - mu */
static void centre(const float *x, float mu, size_t at, size_t n, float *c)
{
    for (size_t i = 0; i < n; i++)
        c[i] = x[at + i] - mu;
}

static void stats_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const struct nn_kernels *nn = w->nn;
    const float *x = j->x + row * j->n;
    const float mu = nn->sum(x, j->n) / (float)j->n;
    float c[RUN], squares = 0;

    for (size_t at = 0; at < j->n; at += RUN) {
        centre(x, mu, at, run_of(j, at), c);
        squares += nn->dot(c, c, run_of(j, at));
    }
    j->mean[row] = mu;
    j->rho[row] = 1.0f / sqrtf(squares / (float)j->n + j->eps);
}

static void back_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const struct nn_kernels *nn = w->nn;
    const float *x = j->x + row * j->n, *dy = j->dy + row * j->n;
    const float mu = j->mean[row], rho = j->rho[row], n = (float)j->n;
    float *dx = j->dx + row * j->n, g[RUN], c[RUN], sum = 0, dot = 0;

    for (size_t at = 0; at < j->n; at += RUN) {
        const size_t m = run_of(j, at);
        nn->scale_by(g, dy + at, 1.0f, j->w + at, m);
        centre(x, mu, at, m, c);
        sum += nn->sum(g, m);
        dot += nn->dot(g, c, m);
    }
    const float push = sum / n, pull = dot / n * rho * rho;
    for (size_t at = 0; at < j->n; at += RUN) {
        const size_t m = run_of(j, at);
        nn->scale_by(g, dy + at, 1.0f, j->w + at, m);
        centre(x, mu, at, m, c);
        for (size_t i = 0; i < m; i++) {
            const float d = rho * ((g[i] - push) - c[i] * pull);
            dx[at + i] = j->add ? dx[at + i] + d : d;
        }
    }
}

void nn_layernorm_back(struct nn_pool *pool, float *dx, float *dw, float *db,
                       const float *dy, const float *x, const float *w,
                       size_t rows, size_t n, float eps, bool add, float *mean,
                       float *inv_std)
{
    struct job j = {dx, mean, inv_std, dy, x, w, n, eps, add};

    nn_pool_run_rows(pool, stats_row, &j, rows);
    if (dw)
        nn_column_products(pool, dw, dy, x, mean, inv_std, rows, n);
    if (db)
        nn_column_sums(pool, db, dy, rows, n);
    nn_pool_run_rows(pool, back_row, &j, rows);
}
