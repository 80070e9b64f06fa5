/*
 * What stands between the two halves of an MLP, backwards.
 *
 *   y = act(g) u:   dg = dy u act'(g),  du = dy act(g)
 *   silu:  s = 1 / (1 + e^-g),  act' = s (1 + g (1 - s))
 *   gelu:  t = tanh(k (g + 0.044715 g^3)),  k = sqrt(2/pi)
 *          act' = (1 + t)/2 + g/2 (1 - t^2) k (1 + 0.134145 g^2)
 */
#include "backward.h"

#define RUN  8192 /* elements of a task */
#define STEP 256  /* of them at a time */
#define K    0.7978845608028654f

struct job {
    float *dg, *du;
    const float *dy, *g, *u;
    size_t n;
    enum nn_act act;
};

/* d = act'(g), y = act(g), as the kernel does it for silu. */
static void gelu(const struct nn_kernels *nn, const float *g, float *d,
                 float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        d[i] = K * (g[i] + 0.044715f * g[i] * g[i] * g[i]);
    nn->tanh(d, d, n);
    for (size_t i = 0; i < n; i++) {
        const float t = d[i];
        d[i] = 0.5f * (1.0f + t) + 0.5f * g[i] * (1.0f - t * t) * K *
                                       (1.0f + 0.134145f * g[i] * g[i]);
        y[i] = 0.5f * g[i] * (1.0f + t);
    }
}

static void back_step(const struct job *j, const struct nn_kernels *nn,
                      size_t at, size_t n)
{
    float d[STEP], y[STEP];

    if (j->act == NN_SILU)
        nn->silu_slope(d, y, j->g + at, n);
    else
        gelu(nn, j->g + at, d, y, n);
    for (size_t i = 0; i < n; i++) {
        const float dy = j->dy[at + i];
        const float dg = dy * (j->u ? j->u[at + i] * d[i] : d[i]);
        if (j->du)
            j->du[at + i] = dy * y[i];
        j->dg[at + i] = dg;
    }
}

static void back_run(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t from = task * RUN;
    const size_t to = j->n - from < RUN ? j->n : from + RUN;

    for (size_t at = from; at < to; at += STEP)
        back_step(j, w->nn, at, to - at < STEP ? to - at : STEP);
}

void nn_activate_back(struct nn_pool *pool, float *dg, float *du,
                      const float *dy, const float *g, const float *u, size_t n,
                      enum nn_act act)
{
    struct job j = {dg, du, dy, g, u, n, act};

    nn_pool_run(pool, back_run, &j, (n + RUN - 1) / RUN);
}
