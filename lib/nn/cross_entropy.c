/*
 * Cross entropy over the vocabulary.
 *
 *   lse = max + log sum_v e^(z[v] - max)
 *   nll = lse - z[label], in nats
 *
 * Logits are float, their sum runs in eight lanes, lse and nll are double.
 * nn_head_loss() makes logits for a few rows at a time, [chunk][vocab], and
 * only for rows with a label.
 */
#include "nn.h"

#include <string.h>

#include "elementary.h"

#define RUN 4096 /* logits that are worked on at a time; a multiple of 8 */

struct job {
    double *nll, *lse;
    const float *z;
    const int32_t *labels;
    size_t vocab;
};

/* sum e^(z - max), in the lanes of one run after the other. */
static float exp_sum(struct nn_worker *w, const float *z, size_t n, float max)
{
    float part[RUN], sum = 0;

    for (size_t i = 0; i < n; i += RUN) {
        const size_t m = n - i < RUN ? n - i : RUN;
        memcpy(part, z + i, m * sizeof *z);
        sum += w->nn->exp_sum(part, m, max);
    }
    return sum;
}

static void score_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const float *z = j->z + row * j->vocab;
    const int32_t label = j->labels[row];

    j->nll[row] = 0;
    if (label == NN_IGNORE && !j->lse)
        return;
    const float max = w->nn->max(z, j->vocab);
    const double lse = max + nn_log(exp_sum(w, z, j->vocab, max));
    if (j->lse)
        j->lse[row] = lse;
    if (label != NN_IGNORE)
        j->nll[row] = lse - z[label];
}

void nn_cross_entropy(struct nn_pool *pool, double *nll, double *lse,
                      const float *z, const int32_t *labels, size_t rows,
                      size_t vocab)
{
    struct job j = {nll, lse, z, labels, vocab};

    nn_pool_run(pool, score_row, &j, rows);
}

/* Rows [*at, ...) with a label, at most `chunk`, side by side. */
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

#define MAX_CHUNK 256

void nn_head_loss(struct nn_pool *pool, double *nll, const float *x,
                  const struct nn_linear *head, float cap,
                  const int32_t *labels, size_t rows, float *z, float *gathered,
                  size_t chunk)
{
    size_t from[MAX_CHUNK], at = 0, n;
    int32_t label[MAX_CHUNK];
    double part[MAX_CHUNK];

    memset(nll, 0, rows * sizeof *nll);
    chunk = chunk < MAX_CHUNK ? chunk : MAX_CHUNK;
    for (;;) {
        n = gather(x, head->in, labels, rows, chunk, &at, gathered, from);
        if (n == 0)
            return;
        nn_linear(pool, z, gathered, head, n, false);
        if (cap > 0)
            nn_softcap(pool, z, cap, n * head->out);
        for (size_t i = 0; i < n; i++)
            label[i] = labels[from[i]];
        nn_cross_entropy(pool, part, NULL, z, label, n, head->out);
        for (size_t i = 0; i < n; i++)
            nll[from[i]] = part[i];
    }
}
