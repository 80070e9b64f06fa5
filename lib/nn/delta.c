/*
 * Adapters forward (delta.h has the formulas).  A task is 64 rows of y: it
 * makes s x A^T [64][r] in its spare buffer and adds the product with B.
 *
 * |row of W'| is made for 64 outputs at a time: s B A [64][in], plus W row by
 * row; of a Conv1D, [in][out], plus 64 columns of each of its rows.
 */
#include "delta.h"

#include <math.h>

#define ROWS 64 /* of a task */

struct job {
    float *y;
    const float *x;
    const struct nn_linear *l;
    const struct nn_delta *d;
    size_t rows;
};

size_t nn_delta_spare(const struct nn_linear *l, const struct nn_delta *d)
{
    const size_t apply = ROWS * d->r, norms = d->m ? ROWS * l->in : 0;

    return apply > norms ? apply : norms;
}

static void apply_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_linear *l = j->l;
    const struct nn_delta *d = j->d;
    const size_t row = task * ROWS;
    const size_t n = j->rows - row < ROWS ? j->rows - row : ROWS;
    const struct nn_mat a = nn_mat_f32(d->a, d->r, l->in, l->in);
    const struct nn_mat b = nn_mat_f32(d->b, l->out, d->r, d->r);
    float *y = j->y + row * l->out, *xa = w->spare;

    const struct nn_product down = {.m = n,
                                    .n = d->r,
                                    .k = l->in,
                                    .a = j->x + row * l->in,
                                    .a_row = l->in,
                                    .a_col = 1,
                                    .b = &a,
                                    .c = xa,
                                    .c_row = d->r};
    nn_multiply_here(w, &down);
    w->nn->scale(xa, xa, d->scale, n * d->r);
    const struct nn_product up = {.m = n,
                                  .n = l->out,
                                  .k = d->r,
                                  .a = xa,
                                  .a_row = d->r,
                                  .a_col = 1,
                                  .b = &b,
                                  .c = y,
                                  .c_row = l->out,
                                  .add = true};
    nn_multiply_here(w, &up);
    for (size_t i = 0; d->m && i < n; i++, y += l->out)
        for (size_t o = 0; o < l->out; o++)
            y[o] = d->m[o] / d->norm[o] * y[o] + (l->bias ? l->bias[o] : 0);
}

void nn_delta_apply(struct nn_pool *pool, float *y, const float *x,
                    const struct nn_linear *l, const struct nn_delta *d,
                    size_t rows)
{
    struct job j = {y, x, l, d, rows};

    nn_pool_run(pool, apply_rows, &j, (rows + ROWS - 1) / ROWS);
}

/* v [n][in] += rows [o, o + n) of W. */
static void add_weight(const struct nn_linear *l, struct nn_worker *w, size_t o,
                       size_t n, float *v)
{
    float part[NN_BLOCK_K];

    for (size_t i = 0; l->turned && i < l->in; i++) {
        nn_mat_decode(&l->w, w->kernels, i, o, n, part);
        for (size_t k = 0; k < n; k++)
            v[k * l->in + i] += part[k];
    }
    for (size_t k = 0; !l->turned && k < n; k++)
        for (size_t i = 0; i < l->in; i += NN_BLOCK_K) {
            const size_t m = l->in - i < NN_BLOCK_K ? l->in - i : NN_BLOCK_K;
            nn_mat_decode(&l->w, w->kernels, o + k, i, m, part);
            w->nn->add(v + k * l->in + i, v + k * l->in + i, part, m);
        }
}

static void norm_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_linear *l = j->l;
    const struct nn_delta *d = j->d;
    const size_t o = task * ROWS, n = l->out - o < ROWS ? l->out - o : ROWS;
    const struct nn_mat a = nn_mat_f32(d->a, d->r, l->in, l->in);
    float *v = w->spare;

    const struct nn_product ba = {.m = n,
                                  .n = l->in,
                                  .k = d->r,
                                  .a = d->b + o * d->r,
                                  .a_row = d->r,
                                  .a_col = 1,
                                  .b = &a,
                                  .b_by_k = true,
                                  .c = v,
                                  .c_row = l->in};
    nn_multiply_here(w, &ba);
    w->nn->scale(v, v, d->scale, n * l->in);
    add_weight(l, w, o, n, v);
    for (size_t k = 0; k < n; k++)
        d->norm[o + k] = sqrtf(w->nn->dot(v + k * l->in, v + k * l->in, l->in));
}

void nn_delta_norms(struct nn_pool *pool, const struct nn_linear *l,
                    const struct nn_delta *d)
{
    struct job j = {.l = l, .d = d};

    nn_pool_run(pool, norm_rows, &j, (l->out + ROWS - 1) / ROWS);
}
