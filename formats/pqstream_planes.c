/*
 * Byte planes and zstd, one run at a time.
 *
 * The bytes of a float differ in kind: exponents repeat, mantissas are noise.
 * A run of n elements of w bytes is stored as w planes, least significant
 * byte first, each of n bytes; 16 and 32-bit floats are first rotated left by
 * one bit, so that the whole exponent falls into the top plane (BF16, F32):
 *
 *     BF16   s eeeeeeee mmmmmmm   -->   eeeeeeee mmmmmmms
 *     raw    a0 a1  b0 b1  c0 c1  -->   a0 b0 c0   a1 b1 c1
 *                                       plane 0    plane 1
 *
 * A complex number counts as two floats.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <zstd.h>

unsigned pq_stream_width(enum pq_dtype t)
{
    if (t == PQ_C64)
        return 4;
    const unsigned bits = pq_dtype_bits(t);
    return bits >= 16 ? bits / 8 : 1;
}

static bool rotated(enum pq_dtype t)
{
    return t == PQ_F32 || t == PQ_C64 || t == PQ_BF16 || t == PQ_F16;
}

static void split16(const unsigned char *raw, size_t n, unsigned char *planes,
                    unsigned up)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned v = raw[2 * i] | (unsigned)raw[2 * i + 1] << 8;
        const unsigned r = v << up | v >> (16 - up);
        planes[i] = (unsigned char)r;
        planes[n + i] = (unsigned char)(r >> 8);
    }
}

static void join16(const unsigned char *planes, size_t n, unsigned char *raw,
                   unsigned up)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned r = planes[i] | (unsigned)planes[n + i] << 8;
        const unsigned v = r >> up | r << (16 - up);
        raw[2 * i] = (unsigned char)v;
        raw[2 * i + 1] = (unsigned char)(v >> 8);
    }
}

static void split32(const unsigned char *raw, size_t n, unsigned char *planes,
                    unsigned up)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char *p = raw + 4 * i;
        const uint32_t v = (uint32_t)p[0] | (uint32_t)p[1] << 8 |
                           (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        const uint32_t r = up ? v << 1 | v >> 31 : v;
        planes[i] = (unsigned char)r;
        planes[n + i] = (unsigned char)(r >> 8);
        planes[2 * n + i] = (unsigned char)(r >> 16);
        planes[3 * n + i] = (unsigned char)(r >> 24);
    }
}

static void join32(const unsigned char *planes, size_t n, unsigned char *raw,
                   unsigned up)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = (uint32_t)planes[i] | (uint32_t)planes[n + i] << 8 |
                           (uint32_t)planes[2 * n + i] << 16 |
                           (uint32_t)planes[3 * n + i] << 24;
        const uint32_t v = up ? r >> 1 | r << 31 : r;
        for (int k = 0; k < 4; k++)
            raw[4 * i + k] = (unsigned char)(v >> 8 * k);
    }
}

void pq_stream_split(enum pq_dtype t, const unsigned char *raw, size_t n,
                     unsigned char *planes)
{
    const unsigned w = pq_stream_width(t);
    const size_t count = n / w;

    if (w == 2) {
        split16(raw, count, planes, rotated(t));
    } else if (w == 4) {
        split32(raw, count, planes, rotated(t));
    } else {
        for (size_t i = 0; i < count; i++)
            for (unsigned k = 0; k < w; k++)
                planes[k * count + i] = raw[i * w + k];
    }
}

void pq_stream_join(enum pq_dtype t, const unsigned char *planes, size_t n,
                    unsigned char *raw)
{
    const unsigned w = pq_stream_width(t);
    const size_t count = n / w;

    if (w == 2) {
        join16(planes, count, raw, rotated(t));
    } else if (w == 4) {
        join32(planes, count, raw, rotated(t));
    } else {
        for (size_t i = 0; i < count; i++)
            for (unsigned k = 0; k < w; k++)
                raw[i * w + k] = planes[k * count + i];
    }
}

struct pq_stream_unpacker {
    ZSTD_DCtx *z;
    unsigned char *planes; /* [cap] */
    size_t cap;
};

struct pq_stream_unpacker *pq_stream_unpacker_new(struct pq_error *e)
{
    struct pq_stream_unpacker *u = pq_zalloc(1, sizeof(*u));

    if (u)
        u->z = ZSTD_createDCtx();
    if (!u || !u->z) {
        pq_fail_nomem(e);
        pq_stream_unpacker_free(u);
        return NULL;
    }
    return u;
}

void pq_stream_unpacker_free(struct pq_stream_unpacker *u)
{
    if (!u)
        return;
    ZSTD_freeDCtx(u->z);
    free(u->planes);
    free(u);
}

/* One frame and nothing else, and it says that it opens to raw_bytes. */
static bool frame_fits(const unsigned char *frame, size_t frame_bytes,
                       size_t raw_bytes)
{
    return ZSTD_getFrameContentSize(frame, frame_bytes) == raw_bytes &&
           ZSTD_findFrameCompressedSize(frame, frame_bytes) == frame_bytes;
}

int pq_stream_unpack(struct pq_stream_unpacker *u, enum pq_dtype t,
                     const unsigned char *frame, size_t frame_bytes,
                     unsigned char *raw, size_t raw_bytes, struct pq_error *e)
{
    const bool plain = pq_stream_width(t) == 1;

    if (!frame_fits(frame, frame_bytes, raw_bytes))
        return pq_fail(e, PQ_EFORMAT,
                       "a compressed record is not one frame "
                       "of the length it should have");
    if (!plain && u->cap < raw_bytes) {
        unsigned char *p = pq_resize(u->planes, raw_bytes, 1);
        if (!p)
            return pq_fail_nomem(e);
        u->planes = p;
        u->cap = raw_bytes;
    }
    const size_t n = ZSTD_decompressDCtx(u->z, plain ? raw : u->planes,
                                         raw_bytes, frame, frame_bytes);
    if (ZSTD_isError(n))
        return pq_fail(e, PQ_EFORMAT, "a compressed record is damaged: %s",
                       ZSTD_getErrorName(n));
    if (n != raw_bytes)
        return pq_fail(e, PQ_EFORMAT, "a compressed record is too short");
    if (!plain)
        pq_stream_join(t, u->planes, raw_bytes, raw);
    return 0;
}
