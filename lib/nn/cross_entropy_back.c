/*
 * Cross entropy and head, fused with their gradients.
 *
 *   z   = x head^T,  z' = cap tanh(z / cap) or z
 *   nll = log sum e^z' - z'[label]
 *   dz  = weight (softmax(z') - onehot(label)) (1 - (z' / cap)^2)
 *   dx  = dz head,  dhead += dz^T x
 *
 * Logits exist for a few rows at a time, [chunk][vocab], and only for rows
 * with a label; dz takes their place.
 */
#include "backward.h"

#include <string.h>

#include "cross_entropy.h"
#include "elementary.h"

#define RUN NN_LOGIT_RUN

struct job {
    float *z;
    const int32_t *labels; /* [n] */
    double *nll;           /* [n] */
    size_t vocab;
    float cap, weight;
};

/* Logits to their gradient. */
static void back_run(const struct job *j, const struct nn_kernels *nn, float *z,
                     size_t n, float max, float by)
{
    float e[RUN];

    memcpy(e, z, n * sizeof *z);
    nn->exp_sum(e, n, max);
    for (size_t i = 0; j->cap > 0 && i < n; i++) {
        const float t = z[i] / j->cap;
        e[i] *= 1.0f - t * t;
    }
    nn->scale(z, e, by, n);
}

static void back_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    float *z = j->z + row * j->vocab;
    const size_t label = (size_t)j->labels[row];
    const float max = w->nn->max(z, j->vocab), at = z[label];
    const float sum = nn_exp_sum(w->nn, z, j->vocab, max);

    j->nll[row] = max + nn_log(sum) - at;
    for (size_t i = 0; i < j->vocab; i += RUN)
        back_run(j, w->nn, z + i, j->vocab - i < RUN ? j->vocab - i : RUN, max,
                 j->weight / sum);
    const float t = j->cap > 0 ? at / j->cap : 0;
    z[label] -= j->weight * (1.0f - t * t);
}

double nn_head_loss_back(struct nn_pool *pool, float *dx, float *dhead,
                         const float *x, const struct nn_linear *head,
                         float cap, float weight, const int32_t *labels,
                         size_t rows, const struct nn_loss_scratch *s)
{
    const size_t h = head->in;
    struct nn_labelled l = {.at = 0};
    double nll[NN_LOSS_ROWS], sum = 0;
    struct job j = {s->z, l.labels, nll, head->out, cap, weight};
    size_t n;

    memset(dx, 0, rows * h * sizeof *dx);
    while ((n = nn_next_labelled(&l, x, h, labels, rows, s->chunk, s->x))) {
        nn_head_logits(pool, s->z, s->x, head, cap, n);
        nn_pool_run(pool, back_row, &j, n);
        if (dhead)
            nn_linear_back_weight(pool, dhead, s->z, s->x, head, n);
        nn_linear_back(pool, s->dx, s->z, head, n, false);
        for (size_t i = 0; i < n; i++) {
            memcpy(dx + l.from[i] * h, s->dx + i * h, h * sizeof *dx);
            sum += nll[i];
        }
    }
    return sum;
}
