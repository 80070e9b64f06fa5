/*
 * Specs: the names of types, and which parameters go with them.
 */
#include "quant_internal.h"

#include <string.h>

#define TYPES "f32 f16 bf16 f8_e4m3 f8_e5m2 int8 int8_block nf4 fp4"

static const struct {
    const char *name;
    enum pq_encoding encoding;
    enum pq_dtype dtype;
    uint32_t block; /* default; 0 = has none */
} types[] = {
    {"f32", PQ_PLAIN, PQ_F32, 0},
    {"f16", PQ_PLAIN, PQ_F16, 0},
    {"bf16", PQ_PLAIN, PQ_BF16, 0},
    {"f8_e4m3", PQ_PLAIN, PQ_F8_E4M3, 0},
    {"f8_e5m2", PQ_PLAIN, PQ_F8_E5M2, 0},
    {"int8", PQ_INT8, PQ_I8, 0},
    {"int8_block", PQ_INT8_BLOCK, PQ_U8, 4096},
    {"nf4", PQ_NF4, PQ_U8, 64},
    {"fp4", PQ_FP4, PQ_U8, 64},
};

const char *pq_spec_types(void)
{
    return TYPES;
}

int pq_spec_parse(const char *name, struct pq_spec *s)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) {
            const struct pq_spec found = {.encoding = types[i].encoding,
                                          .dtype = types[i].dtype};
            *s = found;
            return 0;
        }
    return -1;
}

static uint32_t default_block(enum pq_encoding e)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].encoding == e)
            return types[i].block;
    return 0;
}

int pq_spec_check(struct pq_spec *s, struct pq_error *e)
{
    const uint32_t normal = default_block(s->encoding);
    const char *name = s->encoding == PQ_PLAIN ? "a plain type"
                                               : pq_encoding_name(s->encoding);

    if (normal == 0 && s->block)
        return pq_fail(e, PQ_EARG, "%s has no block size", name);
    if (s->double_quant && s->encoding != PQ_NF4 && s->encoding != PQ_FP4)
        return pq_fail(e, PQ_EARG, "%s has no double quantization", name);
    if (s->optimize && normal == 0)
        return pq_fail(e, PQ_EARG, "%s has no scales to optimize", name);
    if (s->block == 0)
        s->block = normal;
    if (normal && !pq_block_known(s->block))
        return pq_fail(e, PQ_EARG,
                       "block size %u: must be 32, 64, 128, 256, 512, 1024, "
                       "2048 or 4096",
                       (unsigned)s->block);
    return 0;
}
