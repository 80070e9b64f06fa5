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
#include "cross_entropy.h"

#include <string.h>

#include "elementary.h"

struct job {
    double *nll, *lse;
    bool *right;
    const float *z;
    const int32_t *labels;
    size_t vocab;
};

float nn_exp_sum(const struct nn_kernels *nn, const float *z, size_t n,
                 float max)
{
    float part[NN_LOGIT_RUN], sum = 0;

    for (size_t i = 0; i < n; i += NN_LOGIT_RUN) {
        const size_t m = n - i < NN_LOGIT_RUN ? n - i : NN_LOGIT_RUN;
        memcpy(part, z + i, m * sizeof *z);
        sum += nn->exp_sum(part, m, max);
    }
    return sum;
}

/* Is the label's logit the first of the largest? */
static bool is_top(const float *z, size_t label, float max)
{
    for (size_t i = 0; i < label; i++)
        if (z[i] == max)
            return false;
    return z[label] == max;
}

static void score_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const float *z = j->z + row * j->vocab;
    const int32_t label = j->labels[row];

    j->nll[row] = 0;
    if (j->right)
        j->right[row] = false;
    if (label == NN_IGNORE && !j->lse)
        return;
    const float max = w->nn->max(z, j->vocab);
    const double lse = max + nn_log(nn_exp_sum(w->nn, z, j->vocab, max));
    if (j->lse)
        j->lse[row] = lse;
    if (label == NN_IGNORE)
        return;
    j->nll[row] = lse - z[label];
    if (j->right)
        j->right[row] = is_top(z, (size_t)label, max);
}

void nn_cross_entropy(struct nn_pool *pool, double *nll, double *lse,
                      bool *right, const float *z, const int32_t *labels,
                      size_t rows, size_t vocab)
{
    struct job j = {nll, lse, right, z, labels, vocab};

    nn_pool_run(pool, score_row, &j, rows);
}

size_t nn_next_labelled(struct nn_labelled *l, const float *x, size_t h,
                        const int32_t *labels, size_t rows, size_t chunk,
                        float *out)
{
    size_t n = 0;

    chunk = chunk < NN_LOSS_ROWS ? chunk : NN_LOSS_ROWS;
    for (; l->at < rows && n < chunk; l->at++) {
        if (labels[l->at] == NN_IGNORE)
            continue;
        memcpy(out + n * h, x + l->at * h, h * sizeof *x);
        l->from[n] = l->at;
        l->labels[n++] = labels[l->at];
    }
    return n;
}

void nn_head_logits(struct nn_pool *pool, float *z, const float *x,
                    const struct nn_linear *head, float cap, size_t rows)
{
    nn_linear(pool, z, x, head, rows);
    if (cap > 0)
        nn_softcap(pool, z, cap, rows * head->out);
}

void nn_head_loss(struct nn_pool *pool, double *nll, size_t *right,
                  const float *x, const struct nn_linear *head, float cap,
                  const int32_t *labels, size_t rows, float *z, float *gathered,
                  size_t chunk)
{
    const size_t h = head->in;
    struct nn_labelled l = {.at = 0};
    double part[NN_LOSS_ROWS];
    bool hit[NN_LOSS_ROWS];
    size_t n;

    if (right)
        *right = 0;
    memset(nll, 0, rows * sizeof *nll);
    while ((n = nn_next_labelled(&l, x, h, labels, rows, chunk, gathered))) {
        nn_head_logits(pool, z, gathered, head, cap, n);
        nn_cross_entropy(pool, part, NULL, right ? hit : NULL, z, l.labels, n,
                         head->out);
        for (size_t i = 0; i < n; i++)
            nll[l.from[i]] = part[i];
        for (size_t i = 0; right && i < n; i++)
            *right += hit[i];
    }
}
