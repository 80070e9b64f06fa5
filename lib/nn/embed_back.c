/*
 * Embedding backwards: rows go back to where they came from.
 *
 *   dtable[id[r]] += scale dx[r],  dplaces[position[r]] += dx[r]
 *
 * Rows may share an id, so a task has some columns for itself and takes all
 * rows in order.  The row of the padding id gets nothing, as in torch.
 */
#include "backward.h"

#define COLS 64 /* of a task */

struct job {
    float *out;
    const float *dx;
    const int32_t *ids; /* or */
    const size_t *positions;
    size_t rows, h;
    float scale;
    int32_t pad;
};

static void add_columns(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const size_t c = task * COLS, n = j->h - c < COLS ? j->h - c : COLS;

    for (size_t r = 0; r < j->rows; r++) {
        const float *dx = j->dx + r * j->h + c;
        if (j->positions) {
            float *to = j->out + j->positions[r] * j->h + c;
            w->nn->add(to, to, dx, n);
        } else if (j->ids[r] >= 0 && j->ids[r] != j->pad) {
            w->nn->axpy(j->out + (size_t)j->ids[r] * j->h + c, j->scale, dx, n);
        }
    }
}

void nn_embed_back(struct nn_pool *pool, float *dtable, const float *dx,
                   const int32_t *ids, size_t rows, size_t h, float scale,
                   int32_t pad)
{
    struct job j = {dtable, dx, ids, NULL, rows, h, scale, pad};

    nn_pool_run(pool, add_columns, &j, (h + COLS - 1) / COLS);
}

void nn_places_back(struct nn_pool *pool, float *dplaces, const float *dx,
                    const size_t *positions, size_t rows, size_t h)
{
    struct job j = {dplaces, dx, NULL, positions, rows, h, 1, -1};

    nn_pool_run(pool, add_columns, &j, (h + COLS - 1) / COLS);
}
