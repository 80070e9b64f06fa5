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

static inline uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

/* ---- planes ---- */

static void split2(const uint8_t *in, size_t n, unsigned up, uint8_t *planes)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned v = in[2 * i] | (unsigned)in[2 * i + 1] << 8;
        const unsigned r = v << up | v >> (16 - up);
        planes[i] = (uint8_t)r;
        planes[n + i] = (uint8_t)(r >> 8);
    }
}

static void split4(const uint8_t *in, size_t n, unsigned up, uint8_t *planes)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t v = load32(in + 4 * i);
        const uint32_t r = up ? v << 1 | v >> 31 : v;
        planes[i] = (uint8_t)r;
        planes[n + i] = (uint8_t)(r >> 8);
        planes[2 * n + i] = (uint8_t)(r >> 16);
        planes[3 * n + i] = (uint8_t)(r >> 24);
    }
}

static void split8(const uint8_t *in, size_t n, uint8_t *planes)
{
    for (size_t k = 0; k < 8; k++)
        for (size_t i = 0; i < n; i++)
            planes[k * n + i] = in[8 * i + k];
}

static void join2(const uint8_t *const *planes, size_t n, unsigned up,
                  uint8_t *out)
{
    const uint8_t *const p0 = planes[0], *const p1 = planes[1];

    for (size_t i = 0; i < n; i++) {
        const unsigned r = p0[i] | (unsigned)p1[i] << 8;
        const unsigned v = r >> up | r << (16 - up);
        out[2 * i] = (uint8_t)v;
        out[2 * i + 1] = (uint8_t)(v >> 8);
    }
}

static void join4(const uint8_t *const *planes, size_t n, unsigned up,
                  uint8_t *out)
{
    const uint8_t *const p0 = planes[0], *const p1 = planes[1];
    const uint8_t *const p2 = planes[2], *const p3 = planes[3];

    for (size_t i = 0; i < n; i++) {
        const uint32_t r = p0[i] | (uint32_t)p1[i] << 8 |
                           (uint32_t)p2[i] << 16 | (uint32_t)p3[i] << 24;
        const uint32_t v = up ? r >> 1 | r << 31 : r;
        out[4 * i] = (uint8_t)v;
        out[4 * i + 1] = (uint8_t)(v >> 8);
        out[4 * i + 2] = (uint8_t)(v >> 16);
        out[4 * i + 3] = (uint8_t)(v >> 24);
    }
}

static void join8(const uint8_t *const *planes, size_t n, uint8_t *out)
{
    for (size_t k = 0; k < 8; k++) {
        const uint8_t *const p = planes[k];
        for (size_t i = 0; i < n; i++)
            out[8 * i + k] = p[i];
    }
}

void pq_scalar_split_planes(const void *in, size_t n, size_t width, unsigned up,
                            uint8_t *planes)
{
    switch (width) {
    case 1:
        memcpy(planes, in, n);
        break;
    case 2:
        split2(in, n, up, planes);
        break;
    case 4:
        split4(in, n, up, planes);
        break;
    case 8:
        split8(in, n, planes);
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
        join2(planes, n, up, out);
        break;
    case 4:
        join4(planes, n, up, out);
        break;
    case 8:
        join8(planes, n, out);
        break;
    }
}

/* ---- what is not zero ---- */

static inline bool is_zero(const uint8_t *p, size_t width)
{
    uint64_t v = 0;

    memcpy(&v, p, width);
    return v == 0;
}

static inline size_t map(const uint8_t *in, size_t n, size_t width,
                         uint8_t *bits)
{
    size_t ones = 0;
    unsigned b = 0;

    for (size_t i = 0; i < n; i++) {
        const unsigned one = !is_zero(in + i * width, width);
        b |= one << i % 8;
        ones += one;
        if (i % 8 == 7 || i == n - 1) {
            bits[i / 8] = (uint8_t)b;
            b = 0;
        }
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
