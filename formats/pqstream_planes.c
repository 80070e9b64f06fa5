/*
 * The body of a packed record, and how it is opened.
 *
 * The bytes of a float differ in kind: exponents repeat, mantissas are noise.
 * A run of n elements of w bytes is stored as w planes, least significant
 * byte first; 16 and 32-bit floats are first rotated left by one bit, so that
 * the whole exponent falls into the top plane (BF16, F32):
 *
 *     BF16   s eeeeeeee mmmmmmm   -->   eeeeeeee mmmmmmms
 *     raw    a0 a1  b0 b1  c0 c1  -->   a0 b0 c0   a1 b1 c1
 *                                       plane 0    plane 1
 *
 * A complex number counts as two floats.  A sparse run begins with a map, one
 * bit an element, and the planes are of those that are not zero.  Map and
 * planes are sections, each a zstd frame or as it is:
 *
 *     [values u32, size u32 of the map]   size u32 of each plane
 *     [map]  plane 0 ... plane w - 1
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

unsigned pq_stream_width(enum pq_dtype t)
{
    if (t == PQ_C64)
        return 4;
    const unsigned bits = pq_dtype_bits(t);
    return bits >= 16 ? bits / 8 : 1;
}

unsigned pq_stream_up(enum pq_dtype t)
{
    return t == PQ_F32 || t == PQ_C64 || t == PQ_BF16 || t == PQ_F16;
}

struct pq_stream_unpacker {
    const struct pq_kernels *kernels;
    ZSTD_DCtx *z;
    unsigned char *planes; /* [cap], a map before them */
    size_t cap;
};

/* A section of the body: `stored` bytes that open to `bytes`. */
struct section {
    const unsigned char *at;
    size_t stored, bytes;
};

/* What a body is said to consist of. */
struct layout {
    size_t width, count; /* of the elements */
    size_t values;       /* in the planes: all, or those that are not zero */
    size_t n;
    bool sparse;
    struct section s[PQ_STREAM_SECTIONS]; /* [n] the map if sparse, planes */
};

struct pq_stream_unpacker *
pq_stream_unpacker_new(const struct pq_kernels *kernels, struct pq_error *e)
{
    struct pq_stream_unpacker *u = pq_zalloc(1, sizeof(*u));

    if (u)
        u->z = ZSTD_createDCtx();
    if (!u || !u->z) {
        pq_fail_nomem(e);
        pq_stream_unpacker_free(u);
        return NULL;
    }
    u->kernels = kernels;
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

/* One frame and nothing else, and it says that it opens to s->bytes. */
static bool frame_fits(const struct section *s)
{
    return ZSTD_getFrameContentSize(s->at, s->stored) == s->bytes &&
           ZSTD_findFrameCompressedSize(s->at, s->stored) == s->stored;
}

/* Reads the sizes at the front, and finds the sections that follow them. */
static int find_sections(struct layout *l, const unsigned char *body,
                         size_t body_bytes, struct pq_error *e)
{
    const size_t front = 4 * l->n;
    uint64_t at = front;

    for (size_t i = 0; i < l->n; i++) {
        struct section *s = &l->s[i];
        s->bytes = l->sparse && i == 0 ? (l->count + 7) / 8 : l->values;
        s->stored = pq_stream_get32(body + 4 * i);
        if (s->stored > s->bytes || s->stored > body_bytes - at)
            return pq_fail(e, PQ_EFORMAT,
                           "a part of a compressed record is too long");
        s->at = body + at;
        at += s->stored;
        if (s->stored < s->bytes && !frame_fits(s))
            return pq_fail(e, PQ_EFORMAT,
                           "a part of a compressed record is not one frame "
                           "of the length it should have");
    }
    if (at != body_bytes)
        return pq_fail(e, PQ_EFORMAT,
                       "a compressed record is longer than its parts");
    return 0;
}

static int lay_out(struct layout *l, const struct pq_stream_packed *p,
                   struct pq_error *e)
{
    const unsigned char *body = p->body;
    size_t left = p->body_bytes;

    *l = (struct layout){.width = pq_stream_width(p->dtype),
                         .sparse = p->sparse};
    l->count = l->values = p->raw_bytes / l->width;
    l->n = l->width + p->sparse;
    if (left < 4 * (l->n + p->sparse))
        return pq_fail(e, PQ_EFORMAT, "a compressed record is too short");
    if (p->sparse) {
        l->values = pq_stream_get32(body);
        body += 4;
        left -= 4;
        /* This also bounds what is allocated for them. */
        if (l->values > l->count ||
            (l->count + 7) / 8 + l->values * l->width > p->raw_bytes)
            return pq_fail(e, PQ_EFORMAT,
                           "a sparse record of more values than it may have");
    }
    return find_sections(l, body, left, e);
}

/* Opens a section into `to` if it is a frame; *at is where it lies now. */
static int open_section(struct pq_stream_unpacker *u, const struct section *s,
                        unsigned char *to, const unsigned char **at,
                        struct pq_error *e)
{
    *at = s->at;
    if (s->stored == s->bytes)
        return 0;
    const size_t n = ZSTD_decompressDCtx(u->z, to, s->bytes, s->at, s->stored);
    if (ZSTD_isError(n))
        return pq_fail(e, PQ_EFORMAT, "a compressed record is damaged: %s",
                       ZSTD_getErrorName(n));
    if (n != s->bytes)
        return pq_fail(e, PQ_EFORMAT, "a compressed record is too short");
    *at = to;
    return 0;
}

/* As many bits are set as there are values, and none behind the last. */
static bool map_fits(const unsigned char *map, const struct layout *l)
{
    size_t ones = 0;

    for (size_t i = 0; i < (l->count + 7) / 8; i++)
        ones += (size_t)__builtin_popcount(map[i]);
    return ones == l->values &&
           (l->count % 8 == 0 || map[l->count / 8] >> l->count % 8 == 0);
}

static int unpack(struct pq_stream_unpacker *u, const struct layout *l,
                  unsigned up, unsigned char *raw, struct pq_error *e)
{
    const unsigned char *at[PQ_STREAM_SECTIONS];
    unsigned char *to = u->planes;
    unsigned char *const values = raw + (l->count - l->values) * l->width;

    for (size_t i = 0; i < l->n; i++) {
        const bool plane = i >= l->sparse;
        if (open_section(u, &l->s[i], plane && l->width == 1 ? values : to,
                         &at[i], e))
            return -1;
        to += l->s[i].bytes;
    }
    if (l->sparse && !map_fits(at[0], l))
        return pq_fail(e, PQ_EFORMAT,
                       "the map of a sparse record does not fit its values");
    if (at[l->sparse] != values)
        u->kernels->join_planes(at + l->sparse, l->values, l->width, up,
                                values);
    if (l->sparse)
        u->kernels->expand(at[0], values, l->values, l->count, l->width, raw);
    return 0;
}

int pq_stream_unpack(struct pq_stream_unpacker *u,
                     const struct pq_stream_packed *p, unsigned char *raw,
                     struct pq_error *e)
{
    struct layout l;

    if (lay_out(&l, p, e))
        return -1;
    if (u->cap < p->raw_bytes) {
        unsigned char *planes = pq_resize(u->planes, p->raw_bytes, 1);
        if (!planes)
            return pq_fail_nomem(e);
        u->planes = planes;
        u->cap = p->raw_bytes;
    }
    return unpack(u, &l, pq_stream_up(p->dtype), raw, e);
}
