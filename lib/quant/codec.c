/*
 * Is an encoded tensor what its parts say?  The one place that knows which
 * parts an encoding has, of which types and sizes; readers ask it before any
 * decoder may trust them.
 */
#include "quant_internal.h"

#include <string.h>

bool pq_block_known(uint32_t block)
{
    return block >= 32 && block <= 4096 && (block & (block - 1)) == 0;
}

struct pq_part *pq_part_of(const struct pq_tensor *t, enum pq_role role)
{
    for (size_t i = 0; i < t->n_parts; i++)
        if (t->parts[i].role == role)
            return &t->parts[i];
    return NULL;
}

uint64_t pq_blocks_of(uint64_t n, uint64_t block)
{
    return n / block + (n % block > 0);
}

/* There is a part of that role, with n elements of that type. */
static bool holds(const struct pq_tensor *t, enum pq_role role,
                  enum pq_dtype dtype, uint64_t n)
{
    const struct pq_part *p = pq_part_of(t, role);
    uint64_t have;

    return p && p->dtype == dtype &&
           !pq_shape_elements(p->shape, p->rank, &have, NULL) && have == n;
}

static bool rows_sound(const struct pq_tensor *t)
{
    const struct pq_part *p = pq_part_of(t, PQ_ROLE_WEIGHT_FORMAT);

    return t->rank == 2 && holds(t, PQ_ROLE_DATA, PQ_I8, t->n_elements) &&
           holds(t, PQ_ROLE_SCB, PQ_F32, t->shape[0]) &&
           (!p || (p->dtype == PQ_U8 && p->bytes == 1));
}

static bool nested_sound(const struct pq_tensor *t, uint64_t blocks)
{
    const uint32_t nested = t->codec.nested_block;

    return pq_block_known(nested) &&
           holds(t, PQ_ROLE_ABSMAX, PQ_U8, blocks) &&
           holds(t, PQ_ROLE_NESTED_ABSMAX, PQ_F32,
                 pq_blocks_of(blocks, nested)) &&
           holds(t, PQ_ROLE_NESTED_QUANT_MAP, PQ_F32, 256) &&
           pq_part_of(t, PQ_ROLE_QUANT_STATE);
}

static bool blocks_sound(const struct pq_tensor *t)
{
    const bool four = t->codec.encoding != PQ_INT8_BLOCK;
    const uint64_t n = t->n_elements;
    const struct pq_part *codes = pq_part_of(t, PQ_ROLE_DATA);

    /* codes may be stored under another type (bnb_4bit_quant_storage) */
    if (!pq_block_known(t->codec.block) || !codes ||
        codes->bytes != (four ? n / 2 + n % 2 : n) ||
        !holds(t, PQ_ROLE_QUANT_MAP, PQ_F32, four ? 16 : 256))
        return false;
    const uint64_t blocks = pq_blocks_of(n, t->codec.block);
    return t->codec.nested_block ? nested_sound(t, blocks)
                                 : holds(t, PQ_ROLE_ABSMAX, PQ_F32, blocks);
}

bool pq_codec_sound(const struct pq_tensor *t)
{
    if (t->codec.encoding == PQ_PLAIN)
        return t->n_parts == 1 && holds(t, PQ_ROLE_DATA, t->dtype,
                                        t->n_elements);
    if (t->n_parts == 0 || t->parts[0].role != PQ_ROLE_DATA ||
        (t->dtype != PQ_F32 && t->dtype != PQ_F16 && t->dtype != PQ_BF16))
        return false;
    return t->codec.encoding == PQ_INT8 ? rows_sound(t) : blocks_sound(t);
}
