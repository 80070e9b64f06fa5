/*
 * Kernels for storing elements, portable: byte planes, and a map of what is
 * not zero.
 *
 *     elements   a0 a1   0 0   c0 c1              width 2, little-endian
 *     map        bit i of it, least significant first: 1 0 1
 *     compact    a0 a1   c0 c1
 *     planes     a0 c0   a1 c1
 *
 * Elements are moved through integers of a known size, so that the compiler
 * makes one instruction of each memcpy.
 */
#include "impl.h"

static inline uint64_t load(const uint8_t *p, size_t width)
{
    uint64_t v = 0;

    for (size_t k = 0; k < width; k++)
        v |= (uint64_t)p[k] << 8 * k;
    return v;
}

/* ---- planes ---- */

static inline void split(const uint8_t *in, size_t n, size_t width,
                         unsigned up, uint8_t *planes)
{
    const unsigned bits = 8 * (unsigned)width;

    for (size_t i = 0; i < n; i++) {
        uint64_t v = load(in + i * width, width);
        if (up)
            v = v << 1 | v >> (bits - 1);
        for (size_t k = 0; k < width; k++)
            planes[k * n + i] = (uint8_t)(v >> 8 * k);
    }
}

static inline void join(const uint8_t *const *planes, size_t n, size_t width,
                        unsigned up, uint8_t *out)
{
    const unsigned bits = 8 * (unsigned)width;

    for (size_t i = 0; i < n; i++) {
        uint64_t v = 0;
        for (size_t k = 0; k < width; k++)
            v |= (uint64_t)planes[k][i] << 8 * k;
        if (up)
            v = v >> 1 | (v & 1) << (bits - 1);
        for (size_t k = 0; k < width; k++)
            out[i * width + k] = (uint8_t)(v >> 8 * k);
    }
}

void pq_scalar_split_planes(const void *in, size_t n, size_t width,
                            unsigned up, uint8_t *planes)
{
    switch (width) {
    case 1:
        memcpy(planes, in, n);
        break;
    case 2:
        split(in, n, 2, up, planes);
        break;
    case 4:
        split(in, n, 4, up, planes);
        break;
    case 8:
        split(in, n, 8, up, planes);
        break;
    }
}

void pq_scalar_join_planes(const uint8_t *const *planes, size_t n, size_t width,
                           unsigned up, void *out)
{
    switch (width) {
    case 1:
        memcpy(out, planes[0], n);
        break;
    case 2:
        join(planes, n, 2, up, out);
        break;
    case 4:
        join(planes, n, 4, up, out);
        break;
    case 8:
        join(planes, n, 8, up, out);
        break;
    }
}

/* ---- what is not zero ---- */

static inline size_t map(const uint8_t *in, size_t n, size_t width,
                         uint8_t *bits)
{
    size_t ones = 0;

    for (size_t i = 0; i < n; i += 8) {
        const size_t m = n - i < 8 ? n - i : 8;
        unsigned b = 0;
        for (size_t k = 0; k < m; k++) {
            const unsigned one = load(in + (i + k) * width, width) != 0;
            b |= one << k;
            ones += one;
        }
        bits[i / 8] = (uint8_t)b;
    }
    return ones;
}

/* The next place is always written; it is kept when the bit is set. */
static inline void compact(const uint8_t *bits, const uint8_t *in, size_t n,
                           size_t width, uint8_t *out)
{
    uint8_t v[8];

    for (size_t i = 0; i < n; i++) {
        memcpy(v, in + i * width, width);
        memcpy(out, v, width);
        out += width * (bits[i / 8] >> i % 8 & 1);
    }
}

/*
 * Without a branch the next value is read before it is known to be there, so
 * the end is done with one.
 */
static inline void expand(const uint8_t *bits, const uint8_t *in, size_t ones,
                          size_t n, size_t width, uint8_t *out)
{
    const uint8_t *const end = in + ones * width;
    uint8_t v[8];
    size_t i = 0;

    for (; i < n && in < end; i++) {
        const unsigned one = bits[i / 8] >> i % 8 & 1;
        uint64_t keep = 0;
        memcpy(v, in, width);
        memcpy(&keep, v, width);
        keep &= 0 - (uint64_t)one;
        memcpy(out + i * width, &keep, width);
        in += width * one;
    }
    memset(out + i * width, 0, (n - i) * width);
}

size_t pq_scalar_map_nonzero(const void *in, size_t n, size_t width,
                             uint8_t *bits)
{
    switch (width) {
    case 1:
        return map(in, n, 1, bits);
    case 2:
        return map(in, n, 2, bits);
    case 4:
        return map(in, n, 4, bits);
    default:
        return map(in, n, 8, bits);
    }
}

void pq_scalar_compact(const uint8_t *bits, const void *in, size_t n,
                       size_t width, void *out)
{
    switch (width) {
    case 1:
        compact(bits, in, n, 1, out);
        break;
    case 2:
        compact(bits, in, n, 2, out);
        break;
    case 4:
        compact(bits, in, n, 4, out);
        break;
    case 8:
        compact(bits, in, n, 8, out);
        break;
    }
}

void pq_scalar_expand(const uint8_t *bits, const void *in, size_t ones,
                      size_t n, size_t width, void *out)
{
    switch (width) {
    case 1:
        expand(bits, in, ones, n, 1, out);
        break;
    case 2:
        expand(bits, in, ones, n, 2, out);
        break;
    case 4:
        expand(bits, in, ones, n, 4, out);
        break;
    case 8:
        expand(bits, in, ones, n, 8, out);
        break;
    }
}
