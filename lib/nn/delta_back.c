/*
 * Adapters backwards.  x [rows][in], dy [rows][out], A [r][in], B [out][r]:
 *
 *   LoRA:  e = s dy B;  dA += e^T x;  dB += dy^T (s x A^T);
 *          dx = dy W + e A
 *   DoRA:  the same with c dy in place of dy, c = m / norm, and
 *          dm += sum over rows of dy (x W'^T) / norm
 *
 * The norm counts as a constant, as in peft; x W'^T is computed again.
 */
#include "delta.h"

#include <string.h>

#include "backward.h"

/* c = a b or a b^T for rows of a, b [k][n] or [n][k]. */
static void multiply(struct nn_pool *pool, float *c, const float *a,
                     const struct nn_mat *b, bool by_k, size_t rows, bool add)
{
    const size_t n = by_k ? b->cols : b->rows, k = by_k ? b->rows : b->cols;
    const struct nn_product p = {.m = rows,
                                 .n = n,
                                 .k = k,
                                 .a = a,
                                 .a_row = k,
                                 .a_col = 1,
                                 .b = b,
                                 .b_by_k = by_k,
                                 .c = c,
                                 .c_row = n,
                                 .add = add};

    nn_multiply(pool, &p);
}

/* c [m][n] += a^T b, a [rows][m], b [rows][n] */
static void add_outer(struct nn_pool *pool, float *c, const float *a, size_t m,
                      const float *b, size_t n, size_t rows)
{
    const struct nn_mat right = nn_mat_f32(b, rows, n, n);
    const struct nn_product p = {.m = m,
                                 .n = n,
                                 .k = rows,
                                 .a = a,
                                 .a_row = 1,
                                 .a_col = m,
                                 .b = &right,
                                 .b_by_k = true,
                                 .c = c,
                                 .c_row = n,
                                 .add = true};

    nn_multiply(pool, &p);
}

struct job {
    float *out;
    const float *dy;
    const struct nn_delta *d;
    size_t n;
};

static void stretch_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;

    (void)w;
    for (size_t o = 0; o < j->n; o++)
        j->out[row * j->n + o] =
            j->d->m[o] / j->d->norm[o] * j->dy[row * j->n + o];
}

/* dm, and c dy in g->dy. */
static void back_magnitude(struct nn_pool *pool, const float *dy,
                           const float *x, const struct nn_linear *l,
                           const struct nn_delta *d,
                           const struct nn_delta_grads *g, size_t rows)
{
    struct nn_linear bare = *l;
    struct nn_delta plain = *d;
    struct job j = {g->dy, dy, d, l->out};

    bare.bias = NULL;
    bare.delta = &plain;
    plain.m = NULL;
    nn_linear(pool, g->y, x, &bare, rows);
    memset(g->sum, 0, l->out * sizeof *g->sum);
    nn_column_products(pool, g->sum, dy, g->y, NULL, NULL, rows, l->out);
    for (size_t o = 0; o < l->out; o++)
        g->m[o] += g->sum[o] / d->norm[o];
    nn_pool_run(pool, stretch_row, &j, rows);
}

void nn_delta_back(struct nn_pool *pool, float *dx, const float *dy,
                   const float *x, const struct nn_linear *l,
                   const struct nn_delta *d, const struct nn_delta_grads *g,
                   size_t rows, bool add)
{
    const struct nn_mat a = nn_mat_f32(d->a, d->r, l->in, l->in);
    const struct nn_mat b = nn_mat_f32(d->b, l->out, d->r, d->r);

    if (d->m) {
        back_magnitude(pool, dy, x, l, d, g, rows);
        dy = g->dy;
    }
    multiply(pool, g->e, dy, &b, true, rows, false);
    nn_scale(pool, g->e, g->e, d->scale, rows * d->r);
    add_outer(pool, g->a, g->e, d->r, x, l->in, rows);
    multiply(pool, g->xa, x, &a, false, rows, false);
    nn_scale(pool, g->xa, g->xa, d->scale, rows * d->r);
    add_outer(pool, g->b, dy, l->out, g->xa, d->r, rows);
    if (!dx)
        return;
    nn_linear_back(pool, dx, dy, l, rows, add);
    multiply(pool, dx, g->e, &a, true, rows, true);
}
