/*
 * Kernels for pruning, portable.  What is to be kept is told by bits, the
 * bit of element i being bit i % 8 of byte i / 8; those behind the last
 * element are 0.
 */
#include "impl.h"

void pq_scalar_keep_from(const float *x, size_t n, uint32_t low, uint8_t *keep)
{
    for (size_t i = 0; i < n; i += 8) {
        const size_t m = n - i < 8 ? n - i : 8;
        unsigned bits = 0;
        for (size_t j = 0; j < m; j++)
            bits |= (unsigned)(pq_abs_bits(x[i + j]) >= low) << j;
        keep[i / 8] = (uint8_t)bits;
    }
}

static void set_bit(uint8_t *keep, size_t i)
{
    keep[i / 8] |= (uint8_t)(1u << i % 8);
}

/* Is element i of a group, `stride` apart, among those that stay? */
static bool stays(const float *x, size_t stride, unsigned group, unsigned drop,
                  unsigned i)
{
    const uint32_t v = pq_abs_bits(x[i * stride]);
    unsigned before = 0;

    for (unsigned j = 0; j < group; j++) {
        const uint32_t w = pq_abs_bits(x[j * stride]);
        before += w < v || (w == v && j < i);
    }
    return before >= drop;
}

void pq_scalar_keep_groups(const float *x, size_t n, unsigned group,
                           unsigned drop, uint8_t *keep)
{
    memset(keep, 0, (n + 7) / 8);
    for (size_t at = 0; at < n; at += group)
        for (unsigned i = 0; i < group; i++)
            if (stays(x + at, 1, group, drop, i))
                set_bit(keep, at + i);
}

void pq_scalar_keep_across(const float *x, size_t stride, unsigned group,
                           unsigned drop, size_t n, uint8_t *keep,
                           size_t keep_stride)
{
    for (unsigned i = 0; i < group; i++) {
        uint8_t *row = keep + i * keep_stride;
        memset(row, 0, (n + 7) / 8);
        for (size_t c = 0; c < n; c++)
            if (stays(x + c, stride, group, drop, i))
                set_bit(row, c);
    }
}

static bool kept(const uint8_t *keep, size_t i)
{
    return keep[i / 8] >> i % 8 & 1;
}

void pq_scalar_keep_u16(const uint16_t *in, const uint8_t *keep, size_t n,
                        uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kept(keep, i) ? in[i] : 0;
}

void pq_scalar_keep_u32(const uint32_t *in, const uint8_t *keep, size_t n,
                        uint32_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kept(keep, i) ? in[i] : 0;
}
