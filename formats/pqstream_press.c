/*
 * One run of a tensor to the body of a packed record (pqstream_planes.c).
 *
 * A run is compressed between two buffers of its own size: it is split from
 * the first into the second and compressed back into the first.  Elements of
 * one byte that are stored dense have nothing to split and go straight into
 * the second.
 *
 *     raw   ........  -->  work  [map] plane 0 plane 1
 *     raw   sizes, sections  <--'
 *
 * A run is sparse when the map and what is not zero take less than the run:
 * from one zero in 16 on for 16-bit elements.  The map keeps zeros out of all
 * planes at once, and the mantissa planes then are noise that costs no time.
 *
 * What compresses in weights are the frequencies of the exponents.  A search
 * for repetitions finds short accidental ones, which cost more than they save
 * and four fifths of the time; planes of mantissas, maps and codes may still
 * repeat.  So there are two zstd contexts: one that searches as its level
 * says, one that only codes bytes by their frequency.  At level 1 a sample
 * tells which is better for a plane, above it both are tried.
 *
 * All this depends on the run and the level alone, so the same bytes come out
 * with any number of threads.
 */
#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_c_literalCompressionMode */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#define SAMPLE 32768u /* bytes of a plane that are tried */
#define SLICES 4u     /* that they come from */

struct pq_stream_press {
    const struct pq_kernels *kernels;
    int level;
    ZSTD_CCtx *search, *count;
    unsigned char sample[SAMPLE];
};

/* Where sections are put. */
struct output {
    unsigned char *p;
    size_t n, max;
    bool full;   /* they do not become shorter than the run */
    bool failed; /* out of memory */
};

static bool set(ZSTD_CCtx *z, ZSTD_cParameter p, int v)
{
    return z && !ZSTD_isError(ZSTD_CCtx_setParameter(z, p, v));
}

/*
 * The lowest level takes steps so large that it meets no repetition.  A block
 * is no larger than the window, and smaller blocks fit the frequencies more
 * closely: 64 KiB is best for weights.  A zstd that does not know the last
 * parameter stores what it should count, so the other context is chosen.
 */
static bool prepare(struct pq_stream_press *z)
{
    const bool ok = set(z->search, ZSTD_c_compressionLevel, z->level) &&
                    set(z->count, ZSTD_c_compressionLevel, ZSTD_minCLevel()) &&
                    set(z->count, ZSTD_c_windowLog, 16);

    if (ok)
        (void)set(z->count, ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
    return ok;
}

struct pq_stream_press *pq_stream_press_new(int level,
                                            const struct pq_kernels *kernels)
{
    struct pq_stream_press *z = pq_zalloc(1, sizeof(*z));

    if (!z)
        return NULL;
    z->kernels = kernels;
    z->level = level;
    z->search = ZSTD_createCCtx();
    z->count = ZSTD_createCCtx();
    if (prepare(z))
        return z;
    pq_stream_press_free(z);
    return NULL;
}

void pq_stream_press_free(struct pq_stream_press *z)
{
    if (!z)
        return;
    ZSTD_freeCCtx(z->search);
    ZSTD_freeCCtx(z->count);
    free(z);
}

/* Compresses behind the output; n if it does not become shorter. */
static size_t squeeze(ZSTD_CCtx *z, struct output *o, const unsigned char *p,
                      size_t n)
{
    const size_t room = o->max - o->n < n ? o->max - o->n : n - 1;
    const size_t got = ZSTD_compress2(z, o->p + o->n, room, p, n);

    if (!ZSTD_isError(got))
        return got;
    if (ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation)
        o->failed = true;
    return n;
}

/* Slices of a plane, from all over it. */
static size_t take_sample(struct pq_stream_press *z, const unsigned char *p,
                          size_t n)
{
    const size_t slice = SAMPLE / SLICES;
    const size_t step = (n - slice) / (SLICES - 1);

    for (size_t i = 0; i < SLICES; i++)
        memcpy(z->sample + i * slice, p + i * step, slice);
    return SAMPLE;
}

/* Compresses with the context that makes less of a sample. */
static size_t squeeze_sampled(struct pq_stream_press *z, struct output *o,
                              const unsigned char *p, size_t n)
{
    const size_t m = take_sample(z, p, n);
    const size_t counted = squeeze(z->count, o, z->sample, m);
    const size_t found = squeeze(z->search, o, z->sample, m);

    return squeeze(counted < found ? z->count : z->search, o, p, n);
}

/* Compresses with both; what the last one made may stay where it is. */
static size_t squeeze_twice(struct pq_stream_press *z, struct output *o,
                            const unsigned char *p, size_t n)
{
    const size_t found = squeeze(z->search, o, p, n);
    const size_t counted = squeeze(z->count, o, p, n);

    return counted <= found ? counted : squeeze(z->search, o, p, n);
}

/* Adds a section; returns the bytes it takes. */
static size_t add_section(struct pq_stream_press *z, struct output *o,
                          const unsigned char *p, size_t n)
{
    if (n == 0 || o->full)
        return 0;
    const size_t got = z->level == 1 && n > SAMPLE ? squeeze_sampled(z, o, p, n)
                                                   : squeeze_twice(z, o, p, n);
    if (got == n) {
        o->full = n > o->max - o->n;
        if (!o->full)
            memcpy(o->p + o->n, p, n);
    }
    if (!o->full)
        o->n += got;
    return got;
}

/* The map of a run into its work; *values of `count` elements are not zero. */
static bool map(struct pq_stream_press *z, struct pq_stream_run *r,
                size_t count, size_t *values)
{
    const size_t width = pq_stream_width(r->dtype);
    const size_t map_bytes = (count + 7) / 8;

    if (map_bytes >= r->raw_bytes)
        return false;
    *values = z->kernels->map_nonzero(r->raw, count, width, r->work);
    return map_bytes + *values * width < r->raw_bytes;
}

/* Gets the run back that was split into `planes`, behind a map if sparse. */
static void restore(struct pq_stream_press *z, struct pq_stream_run *r,
                    const unsigned char *planes, size_t count, size_t values)
{
    const size_t width = pq_stream_width(r->dtype);
    unsigned char *const to = r->raw + (count - values) * width;
    const uint8_t *at[8];

    for (size_t k = 0; k < width; k++)
        at[k] = planes + k * values;
    z->kernels->join_planes(at, values, width, pq_stream_up(r->dtype), to);
    if (r->sparse)
        z->kernels->expand(r->work, to, values, count, width, r->raw);
}

/* The sizes and the sections: a map of map_bytes if sparse, and planes. */
static void write_body(struct pq_stream_press *z, struct output *o,
                       const unsigned char *from, size_t map_bytes,
                       size_t width, size_t values)
{
    unsigned char *size = o->p;

    o->n = 4 * (width + (map_bytes ? 2 : 0));
    if (o->n > o->max) {
        o->full = true;
        return;
    }
    if (map_bytes) {
        pq_stream_put32(size, (uint32_t)values);
        pq_stream_put32(size + 4,
                        (uint32_t)add_section(z, o, from, map_bytes));
        size += 8;
    }
    for (size_t k = 0; k < width; k++)
        pq_stream_put32(size + 4 * k,
                        (uint32_t)add_section(
                            z, o, from + map_bytes + k * values, values));
}

void pq_stream_press(struct pq_stream_press *z, struct pq_stream_run *r)
{
    const size_t width = pq_stream_width(r->dtype);
    const size_t count = r->raw_bytes / width;
    size_t values = count;

    r->sparse = map(z, r, count, &values);
    if (!r->sparse)
        values = count;
    const bool split = r->sparse || width > 1;
    const size_t map_bytes = r->sparse ? (count + 7) / 8 : 0;
    struct output o = {.p = split ? r->raw : r->work, .max = r->raw_bytes - 1};

    if (r->sparse)
        z->kernels->compact(r->work, r->raw, count, width, r->raw);
    if (split)
        z->kernels->split_planes(r->raw, values, width, pq_stream_up(r->dtype),
                                 r->work + map_bytes);
    write_body(z, &o, split ? r->work : r->raw, map_bytes, width, values);
    r->failed = o.failed;
    r->packed = !o.full && !o.failed;
    if (!r->packed && split)
        restore(z, r, r->work + map_bytes, count, values);
    r->sparse = r->sparse && r->packed;
    r->body = r->packed ? o.p : r->raw;
    r->body_bytes = r->packed ? o.n : r->raw_bytes;
}
