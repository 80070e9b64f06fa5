/*
 * Element by element: sums, multiples, the soft cap of gemma2's scores and
 * logits, cap tanh(x / cap).
 */
#include "nn.h"

#define RUN 16384 /* elements of a task */

struct job {
    float *y;
    const float *x, *z;
    float a;
    size_t n;
};

static size_t run_of(const struct job *j, size_t task, size_t *at)
{
    *at = task * RUN;
    return j->n - *at < RUN ? j->n - *at : RUN;
}

static void add_run(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    size_t at;
    const size_t n = run_of(j, task, &at);

    w->nn->add(j->y + at, j->x + at, j->z + at, n);
}

static void scale_run(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    size_t at;
    const size_t n = run_of(j, task, &at);

    w->nn->scale(j->y + at, j->x + at, j->a, n);
}

static void cap_run(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    size_t at;
    const size_t n = run_of(j, task, &at);

    w->nn->scale(j->y + at, j->y + at, 1.0f / j->a, n);
    w->nn->tanh(j->y + at, j->y + at, n);
    w->nn->scale(j->y + at, j->y + at, j->a, n);
}

void nn_add(struct nn_pool *pool, float *y, const float *x, const float *z,
            size_t n)
{
    struct job j = {y, x, z, 0, n};

    nn_pool_run(pool, add_run, &j, (n + RUN - 1) / RUN);
}

void nn_scale(struct nn_pool *pool, float *y, const float *x, float a, size_t n)
{
    struct job j = {y, x, NULL, a, n};

    nn_pool_run(pool, scale_run, &j, (n + RUN - 1) / RUN);
}

void nn_softcap(struct nn_pool *pool, float *x, float cap, size_t n)
{
    struct job j = {x, NULL, NULL, cap, n};

    nn_pool_run(pool, cap_run, &j, (n + RUN - 1) / RUN);
}
