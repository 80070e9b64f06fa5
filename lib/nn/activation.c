/*
 * What stands between the two halves of an MLP.
 *
 *   y = act(g) * u,  or act(g) where there is no gate
 *   silu(g) = g / (1 + e^-g)
 *   gelu(g) = g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))   (gelu_new)
 */
#include "nn.h"

#define RUN 8192 /* elements of a task */

struct job {
    float *y;
    const float *g, *u;
    size_t n;
    enum nn_act act;
};

static void activate_run(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t at = task * RUN, n = j->n - at < RUN ? j->n - at : RUN;

    (j->act == NN_SILU ? w->nn->silu : w->nn->gelu)(j->y + at, j->g + at,
                                                    j->u ? j->u + at : NULL, n);
}

void nn_activate(struct nn_pool *pool, float *y, const float *g, const float *u,
                 size_t n, enum nn_act act)
{
    struct job j = {y, g, u, n, act};

    nn_pool_run(pool, activate_run, &j, (n + RUN - 1) / RUN);
}
