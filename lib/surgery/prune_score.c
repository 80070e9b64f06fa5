/*
 * Scores: magnitudes, and sums of them over blocks; the k-th of a row.
 */
#include "prune_internal.h"

#include "pq_quant.h"

#include <string.h>

/* The 31 bits of a score in digits of 11, 10 and 10, the highest first. */
#define DIGIT_BITS  11u
#define N_DIGITS    3u

static const unsigned char *raw_of(const struct pq_pruner *m,
                                   const struct pq_unit *u, uint64_t at)
{
    return (const unsigned char *)u->in[0] +
           at * (pq_dtype_bits(m->in->dtype) / 8);
}

const float *pq_prune_load(const struct pq_pruner *m, const struct pq_unit *u,
                           uint64_t at, size_t n, float *room)
{
    const unsigned char *raw = raw_of(m, u, at);

    if (m->in->dtype == PQ_F32)
        return (const float *)(const void *)raw;
    pq_load_f32(m->q->kernels, m->in->dtype, raw, n, room);
    return room;
}

int pq_prune_look(const struct pq_pruner *m, const struct pq_unit *u,
                  uint64_t at, const float *x, size_t n, struct pq_error *e)
{
    if (m->q->allow_nonfinite || m->q->kernels->absmax_bits(x, n) <= PQ_ABS_INF)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (pq_abs_bits(x[i]) > PQ_ABS_INF)
            return pq_fail(e, PQ_EVALUE, "element %llu is NaN",
                           (unsigned long long)(u->first * m->item + at + i));
    return 0;
}

/* ---- blocks -------------------------------------------------------------- */

size_t pq_prune_block_floats(const struct pq_pruner *m)
{
    return (size_t)m->cols + 2 * (size_t)m->scores;
}

/* Adds the magnitudes of a row to its blocks' sums. */
static void add_row(const struct pq_pruner *m, const float *x, double *sum)
{
    const size_t width = (size_t)m->how->block_cols;

    for (uint64_t b = 0; b < m->scores; b++, x += width)
        sum[b] += m->q->kernels->abs_sum(x, width);
}

int pq_prune_blocks(const struct pq_pruner *m, const struct pq_unit *u,
                    float *scores, float *scratch, struct pq_error *e)
{
    double *sum = (double *)(void *)scratch;
    float *room = scratch + 2 * m->scores;

    for (uint64_t i = 0; i < u->count; i++, scores += m->scores) {
        memset(sum, 0, (size_t)m->scores * sizeof *sum);
        for (uint64_t r = 0; r < m->how->block_rows; r++) {
            const uint64_t at = i * m->item + r * m->cols;
            const float *x = pq_prune_load(m, u, at, (size_t)m->cols, room);
            if (pq_prune_look(m, u, at, x, (size_t)m->cols, e))
                return -1;
            add_row(m, x, sum);
        }
        for (uint64_t b = 0; b < m->scores; b++)
            scores[b] = (float)sum[b];
    }
    return 0;
}

/* ---- a row --------------------------------------------------------------- */

void pq_prune_select(const float *score, size_t n, uint64_t k,
                     struct pq_prune_cut *c)
{
    unsigned below = 31; /* bits that are not known yet */

    c->k = c->left = k;
    c->bits = 0;
    for (unsigned d = 0; d < N_DIGITS && k > 0; d++) {
        uint32_t count[1u << DIGIT_BITS] = {0};
        const unsigned width = d == 0 ? DIGIT_BITS : DIGIT_BITS - 1;
        const unsigned from = below - width;
        uint32_t digit = 0;
        for (size_t i = 0; i < n; i++) {
            const uint32_t v = pq_abs_bits(score[i]);
            if (v >> below == c->bits >> below)
                count[v >> from & ((1u << width) - 1)]++;
        }
        while (c->left > count[digit])
            c->left -= count[digit++];
        c->bits |= digit << from;
        below = from;
    }
}
