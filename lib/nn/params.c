/*
 * The arrays of trained numbers; see params.h.
 */
#include "params.h"

#include <stdlib.h>
#include <string.h>

int nn_params_add(struct nn_params *p, const char *name, size_t rows,
                  size_t cols, bool decays, struct pq_error *e)
{
    struct nn_param *grown = pq_grow(p->p, p->n, &p->cap, sizeof *grown);
    uint64_t n, total;

    if (!grown)
        return pq_fail_nomem(e);
    p->p = grown;
    if (!pq_mul(rows, cols ? cols : 1, &n) || !pq_add(p->total, n, &total) ||
        total > SIZE_MAX)
        return pq_fail_nomem(e);
    p->p[p->n++] = (struct nn_param){.name = name,
                                     .rows = rows,
                                     .cols = cols,
                                     .at = p->total,
                                     .n = (size_t)n,
                                     .decays = decays};
    p->total = (size_t)total;
    return 0;
}

void nn_params_mask(struct nn_params *p, enum pq_dtype stored)
{
    struct nn_param *q = &p->p[p->n - 1];

    q->masked = true;
    q->masked_at = p->masked_total;
    q->stored = stored;
    p->masked_total += q->n;
}

size_t nn_params_largest(const struct nn_params *p)
{
    size_t most = 0;

    for (size_t i = 0; i < p->n; i++)
        if (p->p[i].masked && p->p[i].n > most)
            most = p->p[i].n;
    return most;
}

int nn_params_allocate(struct nn_params *p, struct pq_error *e)
{
    p->w = pq_zalloc(p->total, sizeof *p->w);
    p->g = pq_zalloc(p->total, sizeof *p->g);
    return p->w && p->g ? 0 : pq_fail_nomem(e);
}

void nn_params_release(struct nn_params *p)
{
    free(p->p);
    free(p->w);
    free(p->g);
    memset(p, 0, sizeof *p);
}

static void move_vector(const struct nn_slot *s, float *to)
{
    const float *from = *s->vectors[0];

    memcpy(to, from, s->rows * sizeof *to);
    for (size_t i = 0; i < s->n_parts; i++)
        *s->vectors[i] = to + (*s->vectors[i] - from);
}

void nn_slot_move(const struct nn_slot *s, const struct pq_kernels *k,
                  float *to)
{
    if (s->cols == 0) {
        move_vector(s, to);
        return;
    }
    struct nn_mat whole = *s->mats[0];
    whole.row0 = whole.col0 = 0;
    for (size_t r = 0; r < s->rows; r++)
        nn_mat_decode(&whole, k, r, 0, s->cols, to + r * s->cols);
    for (size_t i = 0; i < s->n_parts; i++) {
        struct nn_mat *m = s->mats[i];
        m->codec = (struct pq_codec){PQ_PLAIN, 0, 0};
        m->dtype = PQ_F32;
        m->data = to;
        m->scale = m->map = NULL;
    }
}
