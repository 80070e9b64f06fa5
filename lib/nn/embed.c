/*
 * Embedding: rows of a table.
 *
 *   y[i] = scale * table[id[i]] + places[position[i]]
 *
 * gemma scales by sqrt(h); only gpt2 has learned places.  Rows are decoded
 * as they are read.  An id below 0 stands for a row of zeros, to which a soft
 * prompt is added.
 */
#include "nn.h"

#include <string.h>

struct job {
    float *y;
    const struct nn_mat *table, *places;
    float scale;
    const int32_t *ids;
    const size_t *positions;
};

static void embed_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;
    const size_t h = j->table->cols;
    float *y = j->y + row * h;

    if (j->ids[row] < 0)
        memset(y, 0, h * sizeof *y);
    else
        nn_mat_decode(j->table, w->kernels, (size_t)j->ids[row], 0, h, y);
    if (j->scale != 1.0f)
        w->nn->scale(y, y, j->scale, h);
    if (!j->places)
        return;
    for (size_t i = 0; i < h; i += NN_BLOCK_K) {
        const size_t n = h - i < NN_BLOCK_K ? h - i : NN_BLOCK_K;
        nn_mat_decode(j->places, w->kernels, j->positions[row], i, n, w->rows);
        w->nn->add(y + i, y + i, w->rows, n);
    }
}

void nn_embed(struct nn_pool *pool, float *y, const struct nn_mat *table,
              float scale, const struct nn_mat *places, const int32_t *ids,
              const size_t *positions, size_t rows)
{
    struct job j = {y, table, places, scale, ids, positions};

    nn_pool_run_rows(pool, embed_row, &j, rows);
}
