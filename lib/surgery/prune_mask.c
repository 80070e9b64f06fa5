/*
 * Masks at pruning: those that have a say in what goes, and the one that
 * tells what is left.
 *
 * Their rows begin at whole bytes, so an item of whole rows does in every
 * mask; where rows are whole bytes anyway, any 64 elements do.
 */
#include "prune_internal.h"

#include <string.h>

bool pq_masks_want_rows(const struct pq_prune *how, uint64_t cols)
{
    return cols % 8 != 0 && (how->n_masks > 0 || how->beside.sink != 0);
}

void pq_masks_fill(struct pq_step *s, const struct pq_pruner *m)
{
    const struct pq_prune *how = m->how;
    const uint64_t bits = pq_mask_item_bits(m->item, m->mask_cols);

    for (size_t i = 0; i < how->n_masks; i++)
        s->in[m->masks + i] =
            (struct pq_input){.source = how->masks[i].source,
                              .part = &how->masks[i].tensor->parts[0],
                              .access = PQ_RANGE,
                              .item_bits = bits};
    if (how->beside.sink)
        s->out[1] = (struct pq_output){.sink = how->beside.sink,
                                       .tensor = how->beside.tensor,
                                       .item_bits = bits};
}

static size_t bytes_of(size_t n)
{
    return (n + 63) / 64 * 8;
}

size_t pq_masks_floats(const struct pq_prune *how, size_t n)
{
    return how->n_masks ? 2 * bytes_of(n) / sizeof(float) : 0;
}

const uint8_t *pq_masks_apply(const struct pq_pruner *m,
                              const struct pq_unit *u, uint64_t at, size_t n,
                              const uint8_t *keep, float *room)
{
    const struct pq_prune *how = m->how;
    uint8_t *all = (uint8_t *)room, *one = all + bytes_of(n);
    const size_t bytes = (n + 7) / 8;
    size_t i = 0;

    if (how->n_masks == 0)
        return keep;
    if (how->scope == PQ_PRUNE_MASKED)
        pq_mask_get(u->in[m->masks + i++], m->mask_cols, at, n, all);
    else
        memcpy(all, keep, bytes);
    for (; i < how->n_masks; i++) {
        pq_mask_get(u->in[m->masks + i], m->mask_cols, at, n, one);
        for (size_t k = 0; k < bytes; k++)
            all[k] = how->op == PQ_MASK_AND ? all[k] & one[k]
                                            : all[k] | one[k];
    }
    return all;
}

void pq_mask_beside(const struct pq_pruner *m, const struct pq_unit *u,
                    float *room)
{
    const unsigned bits = pq_dtype_bits(m->in->dtype);

    if (m->how->beside.sink)
        pq_mask_of(m->q->kernels, m->in->dtype, u->out[0],
                   u->out_bytes[0] * 8 / bits, m->mask_cols, room, u->out[1]);
}
