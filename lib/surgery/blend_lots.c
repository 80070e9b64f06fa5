/*
 * Lots: a change is left with a chance p, else dropped.
 *
 *   DARE    p = density                                      2311.03099
 *   DELLA   p = density - epsilon ... density + epsilon, in even steps by the
 *           rank of |d| in its row, the largest last         2406.11617
 *           equal ones in the order of their places; a vector is one row
 *
 * The lot of an element is a number in [0, 1) that depends on the seed, the
 * name of the tensor, the model's stream and the place of the element alone.
 * What is left is divided by p where the papers' way is asked for.
 */
#include "blend_internal.h"

#include <string.h>

#define STREAM_SHIFT 50 /* numbers of a model's stream */
#define RADIX        256u

size_t pq_lots_room(const struct pq_blender *m)
{
    const bool lots = m->row->sparse == PQ_SPARSE_RANKED ||
                      m->row->sparse == PQ_SPARSE_LOTS;

    return lots ? 3 * m->stride + 8 : 0;
}

/* One pass of a radix sort: places by byte `shift / 8` of their |d|. */
static void sort_pass(const float *d, size_t n, int shift,
                      const uint32_t *from /* [n] */, uint32_t *to /* [n] */)
{
    size_t start[RADIX + 1] = {0};

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &d[i], sizeof bits);
        start[((bits & 0x7fffffff) >> shift & (RADIX - 1)) + 1]++;
    }
    for (size_t i = 1; i <= RADIX; i++)
        start[i] += start[i - 1];
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &d[from[i]], sizeof bits);
        to[start[(bits & 0x7fffffff) >> shift & (RADIX - 1)]++] = from[i];
    }
}

/* The chance of each element of a row, by rank. */
static void rank_chances(const struct pq_blend_input *in, const float *d,
                         size_t n, uint32_t *a, uint32_t *b, float *p)
{
    const double least = n > 1 ? in->density - in->epsilon : in->density;
    const double step = n > 1 ? 2 * in->epsilon / (double)(n - 1) : 0;

    for (size_t i = 0; i < n; i++)
        a[i] = (uint32_t)i;
    for (int shift = 0; shift < 32; shift += 16) {
        sort_pass(d, n, shift, a, b);
        sort_pass(d, n, shift + 8, b, a);
    }
    for (size_t rank = 0; rank < n; rank++)
        p[a[rank]] = (float)(least + step * (double)rank);
}

/* The lots of n elements from `first` on; they begin at the result. */
static const float *draw_lots(const struct pq_tile *t, uint64_t stream,
                              float *room /* [n + 8] */)
{
    const struct pq_rng *r = &t->m->rng;
    const uint64_t at = (stream << STREAM_SHIFT) + t->first;
    const uint64_t block = at / 4, end = (at + t->n + 3) / 4;

    t->r->kernels->uniform(r->key, r->stream, block, (size_t)(end - block),
                           room);
    return room + at % 4;
}

void pq_lots_tile(const struct pq_tile *t, size_t i, float *room, float *d)
{
    const struct pq_blender *m = t->m;
    const struct pq_blend_input *in = &m->b->in[i];
    const bool ranked = m->row->sparse == PQ_SPARSE_RANKED;
    float *chance = room + 2 * m->stride + 8;

    if (in->density == 0) {
        memset(d, 0, t->n * sizeof *d);
        return;
    }
    if (ranked)
        rank_chances(in, d, t->n, (uint32_t *)(void *)room,
                     (uint32_t *)(void *)(room + m->stride), chance);
    else
        for (uint64_t k = 0; k < t->n; k++)
            chance[k] = (float)in->density;
    /* drawn into what sorting has left */
    t->r->kernels->drop(draw_lots(t, in->stream, room), chance, t->n,
                        m->b->rescale == PQ_RESCALE_CHANCE, d);
}
