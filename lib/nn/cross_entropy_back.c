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

#include "elementary.h"

#define RUN 4096 /* logits that are worked on at a time; a multiple of 8 */

struct job {
    float *z;
    const int32_t *labels; /* [n] */
    double *nll;           /* [n] */
    size_t vocab;
    float cap, weight;
};

static size_t run_of(const struct job *j, size_t at)
{
    return j->vocab - at < RUN ? j->vocab - at : RUN;
}

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
    float *z = j->z + row * j->vocab, part[RUN], sum = 0;
    const size_t label = (size_t)j->labels[row];
    const float max = w->nn->max(z, j->vocab), at = z[label];

    for (size_t i = 0; i < j->vocab; i += RUN) {
        memcpy(part, z + i, run_of(j, i) * sizeof *z);
        sum += w->nn->exp_sum(part, run_of(j, i), max);
    }
    j->nll[row] = max + nn_log(sum) - at;
    for (size_t i = 0; i < j->vocab; i += RUN)
        back_run(j, w->nn, z + i, run_of(j, i), max, j->weight / sum);
    const float t = j->cap > 0 ? at / j->cap : 0;
    z[label] -= j->weight * (1.0f - t * t);
}

/* Rows [*at, ...) with a label, at most a chunk, side by side. */
static size_t gather(const float *x, size_t h, const int32_t *labels,
                     size_t rows, size_t chunk, size_t *at, float *out,
                     size_t *from)
{
    size_t n = 0;

    for (; *at < rows && n < chunk; ++*at) {
        if (labels[*at] == NN_IGNORE)
            continue;
        memcpy(out + n * h, x + *at * h, h * sizeof *x);
        from[n++] = *at;
    }
    return n;
}

double nn_head_loss_back(struct nn_pool *pool, float *dx, float *dhead,
                         const float *x, const struct nn_linear *head,
                         float cap, float weight, const int32_t *labels,
                         size_t rows, const struct nn_loss_scratch *s)
{
    size_t from[NN_LOSS_ROWS], at = 0, n;
    int32_t label[NN_LOSS_ROWS];
    double nll[NN_LOSS_ROWS], sum = 0;
    const size_t h = head->in;
    struct job j = {s->z, label, nll, head->out, cap, weight};

    memset(dx, 0, rows * h * sizeof *dx);
    while ((n = gather(x, h, labels, rows, s->chunk, &at, s->x, from))) {
        nn_linear(pool, s->z, s->x, head, n, false);
        if (cap > 0)
            nn_softcap(pool, s->z, cap, n * head->out);
        for (size_t i = 0; i < n; i++)
            label[i] = labels[from[i]];
        nn_pool_run(pool, back_row, &j, n);
        if (dhead)
            nn_linear_back_weight(pool, dhead, s->z, s->x, head, n);
        nn_linear_back(pool, s->dx, s->z, head, n, false);
        for (size_t i = 0; i < n; i++) {
            memcpy(dx + from[i] * h, s->dx + i * h, h * sizeof *dx);
            sum += nll[i];
        }
    }
    return sum;
}
