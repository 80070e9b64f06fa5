/*
 * Sums down the columns of [rows][n]: gradients of biases and of norms.
 *
 *   out[j] += sum over r of x[r][j],  or of x[r][j] ((y[r][j] - a[r]) b[r])
 *
 * A task has some columns for itself and adds 64 rows at a time: a fixed
 * order, with no partial results to keep.
 */
#include "backward.h"

#define COLS 64 /* of a task */

struct job {
    float *out;
    const float *x, *y, *shift, *scale;
    size_t rows, n;
};

/* part += row r, columns [c, c + m). */
static void add_row(const struct job *j, struct nn_worker *w, size_t r,
                    size_t c, size_t m, float *part)
{
    const float *x = j->x + r * j->n + c;

    if (!j->y) {
        w->nn->add(part, part, x, m);
        return;
    }
    const float *y = j->y + r * j->n + c;
    const float a = j->shift ? j->shift[r] : 0;
    const float b = j->scale ? j->scale[r] : 1;
    for (size_t i = 0; i < m; i++)
        part[i] += x[i] * ((y[i] - a) * b);
}

static void sum_columns(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t c = task * COLS, m = j->n - c < COLS ? j->n - c : COLS;

    for (size_t r = 0; r < j->rows; r += NN_SUM_ROWS) {
        const size_t end = r + NN_SUM_ROWS;
        float part[COLS] = {0};
        for (size_t i = r; i < end && i < j->rows; i++)
            add_row(j, w, i, c, m, part);
        w->nn->add(j->out + c, j->out + c, part, m);
    }
}

void nn_column_sums(struct nn_pool *pool, float *out, const float *x,
                    size_t rows, size_t n)
{
    nn_column_products(pool, out, x, NULL, NULL, NULL, rows, n);
}

void nn_column_products(struct nn_pool *pool, float *out, const float *x,
                        const float *y, const float *shift, const float *scale,
                        size_t rows, size_t n)
{
    struct job j = {out, x, y, shift, scale, rows, n};

    nn_pool_run(pool, sum_columns, &j, (n + COLS - 1) / COLS);
}
