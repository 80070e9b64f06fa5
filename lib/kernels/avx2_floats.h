/*
 * The half of the AVX2 kernels that knows nothing of codes: conversions and
 * statistics, and the small pieces that both halves are made of.  Included
 * once, by avx2.c, which see.
 */
#ifndef PQ_KERNELS_AVX2_FLOATS_H
#define PQ_KERNELS_AVX2_FLOATS_H

#include <immintrin.h>
#include <math.h>

#include "impl.h"

/* Counters of 32 bits are emptied after this many elements. */
#define CHUNK ((size_t)1 << 20)

static const struct pq_kernels *const scalar = &pq_kernels_scalar_table;

/* ---- small pieces ---- */

static inline __m256i load_bits(const float *x)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

static inline __m256i abs_bits(const float *x)
{
    return _mm256_and_si256(load_bits(x), _mm256_set1_epi32(0x7fffffff));
}

static inline void store_bits(void *out, __m256i v)
{
    _mm256_storeu_si256((__m256i *)out, v);
}

/* 1 bits where !(s <= t). */
static inline __m256i above(__m256 s, __m256 t)
{
    return _mm256_castps_si256(_mm256_cmp_ps(s, t, _CMP_NLE_UQ));
}

/* The child of `node` on the side that `mask` (0 or -1) says. */
static inline __m256i child(__m256i node, __m256i mask)
{
    return _mm256_sub_epi32(_mm256_add_epi32(node, node), mask);
}

/* Puts bytes packed within 128-bit lanes, in fours, into memory order. */
static inline __m256i in_order(__m256i v)
{
    return _mm256_permutevar8x32_epi32(
        v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* 32 values of 0..255, in order, as bytes. */
static inline __m256i pack_u8(const __m256i v[4])
{
    return in_order(_mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]),
                                        _mm256_packs_epi32(v[2], v[3])));
}

static inline uint32_t max_of_lanes(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v),
                              _mm256_extracti128_si256(v, 1));

    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static inline uint32_t absmax_bits(const float *x, size_t n)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    uint32_t max;
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        a = _mm256_max_epu32(a, abs_bits(x + i));
        b = _mm256_max_epu32(b, abs_bits(x + i + 8));
    }
    max = max_of_lanes(_mm256_max_epu32(a, b));
    for (; i < n; i++)
        max = pq_max_u32(max, pq_abs_bits(x[i]));
    return max;
}

/* ---- conversions ---- */

static void f16_to_f32(const uint16_t *in, size_t n, float *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm_loadu_si128((const __m128i *)(in + i));

        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(h));
    }
    scalar->f16_to_f32(in + i, n - i, out + i);
}

static void bf16_to_f32(const uint16_t *in, size_t n, float *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm_loadu_si128((const __m128i *)(in + i));

        store_bits(out + i, _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    scalar->bf16_to_f32(in + i, n - i, out + i);
}

static void e4m3_to_f32(const uint8_t *in, size_t n, float *out)
{
    const __m128i magnitude = _mm_set1_epi16(0x7f);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m128i b =
            _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(in + i)));
        const __m128i rest = _mm_and_si128(b, magnitude);
        const __m256 abs = _mm256_mul_ps(
            _mm256_cvtph_ps(_mm_slli_epi16(rest, 7)), _mm256_set1_ps(256.0f));
        const __m256i nan = _mm256_cvtepi16_epi32(
            _mm_cmpeq_epi16(rest, magnitude));
        const __m256i sign = _mm256_slli_epi32(
            _mm256_cvtepu16_epi32(_mm_andnot_si128(magnitude, b)), 24);
        const __m256i v = _mm256_blendv_epi8(
            _mm256_castps_si256(abs), _mm256_set1_epi32(0x7ff00000), nan);

        store_bits(out + i, _mm256_or_si256(v, sign));
    }
    scalar->e4m3_to_f32(in + i, n - i, out + i);
}

static void e5m2_to_f32(const uint8_t *in, size_t n, float *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m128i b =
            _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(in + i)));

        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_slli_epi16(b, 8)));
    }
    scalar->e5m2_to_f32(in + i, n - i, out + i);
}

static void f32_to_f16(const float *in, size_t n, uint16_t *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i),
                                         _MM_FROUND_TO_NEAREST_INT));
    scalar->f32_to_f16(in + i, n - i, out + i);
}

/* Eight bf16 as 32-bit numbers. */
static inline __m256i bf16_from(const float *x)
{
    const __m256i bits = load_bits(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16),
                                         _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i nan = _mm256_cmpgt_epi32(abs_bits(x),
                                           _mm256_set1_epi32(PQ_ABS_INF));

    return _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
}

static void f32_to_bf16(const float *in, size_t n, uint16_t *out)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        const __m256i p = _mm256_packus_epi32(bf16_from(in + i),
                                              bf16_from(in + i + 8));

        store_bits(out + i, _mm256_permute4x64_epi64(p, 0xd8));
    }
    scalar->f32_to_bf16(in + i, n - i, out + i);
}

/* What distinguishes the two 8-bit floats; see e4m3_from() in scalar.c. */
struct f8 {
    int man;      /* bits of mantissa */
    int bias;     /* difference of the exponent biases */
    int last;     /* bits of the last float that does not overflow */
    int overflow; /* the byte for these ... */
    int nan;      /* ... and the byte for NaN */
};

static const struct f8 e4m3 = {3, 120, PQ_E4M3_LAST, PQ_E4M3_OVERFLOW, 0x7f};
static const struct f8 e5m2 = {2, 112, 0x477fffff, 0x7c, 0x7f};

/* Eight 8-bit floats as 32-bit numbers. */
static inline __m256i f8_from(const float *x, const struct f8 *f)
{
    const __m256i abs = abs_bits(x);
    const __m256i sign = _mm256_and_si256(
        _mm256_srli_epi32(load_bits(x), 24), _mm256_set1_epi32(0x80));
    const int shift = 23 - f->man;
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(abs, shift),
                                         _mm256_set1_epi32(1));
    const __m256i rebase = _mm256_set1_epi32((1 << (shift - 1)) - 1 -
                                             f->bias * (1 << 23));
    const __m256i normal = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(abs, rebase), odd), shift);
    const __m256i magic = _mm256_set1_epi32((f->bias + 24 - f->man) << 23);
    const __m256i small = _mm256_sub_epi32(
        _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(abs),
                                          _mm256_castsi256_ps(magic))), magic);
    const __m256i is_small = _mm256_cmpgt_epi32(
        _mm256_set1_epi32((f->bias + 1) << 23), abs);
    const __m256i is_over =
        _mm256_cmpgt_epi32(abs, _mm256_set1_epi32(f->last));
    const __m256i is_nan =
        _mm256_cmpgt_epi32(abs, _mm256_set1_epi32(PQ_ABS_INF));
    __m256i r = _mm256_blendv_epi8(normal, small, is_small);

    r = _mm256_blendv_epi8(r, _mm256_set1_epi32(f->overflow), is_over);
    r = _mm256_blendv_epi8(r, _mm256_set1_epi32(f->nan), is_nan);
    return _mm256_or_si256(r, sign);
}

/* Whole groups of 32; returns how many elements that were. */
static inline size_t f8_narrow(const float *in, size_t n, uint8_t *out,
                               const struct f8 *f)
{
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        const __m256i v[4] = {f8_from(in + i, f), f8_from(in + i + 8, f),
                              f8_from(in + i + 16, f),
                              f8_from(in + i + 24, f)};

        store_bits(out + i, pack_u8(v));
    }
    return i;
}

static void f32_to_e4m3(const float *in, size_t n, uint8_t *out)
{
    const size_t done = f8_narrow(in, n, out, &e4m3);

    scalar->f32_to_e4m3(in + done, n - done, out + done);
}

static void f32_to_e5m2(const float *in, size_t n, uint8_t *out)
{
    const size_t done = f8_narrow(in, n, out, &e5m2);

    scalar->f32_to_e5m2(in + done, n - done, out + done);
}

/* ---- statistics ---- */

static inline size_t sum_u32(__m256i v)
{
    uint32_t lane[8];
    size_t sum = 0;

    store_bits(lane, v);
    for (int k = 0; k < 8; k++)
        sum += lane[k];
    return sum;
}

/* How many of n (a multiple of 8) absmax bits are in [first, last]. */
static size_t count_between(const float *x, size_t n, uint32_t first,
                            uint32_t last)
{
    const __m256i below = _mm256_set1_epi32((int)first - 1);
    const __m256i top = _mm256_set1_epi32((int)last);
    size_t count = 0;

    for (size_t at = 0; at < n; at += CHUNK) {
        const size_t end = n - at < CHUNK ? n : at + CHUNK;
        __m256i c = _mm256_setzero_si256();

        for (size_t i = at; i < end; i += 8) {
            const __m256i abs = abs_bits(x + i);
            const __m256i in = _mm256_andnot_si256(
                _mm256_cmpgt_epi32(abs, top), _mm256_cmpgt_epi32(abs, below));

            c = _mm256_sub_epi32(c, in);
        }
        count += sum_u32(c);
    }
    return count;
}

static size_t count_nonfinite(const float *x, size_t n)
{
    const size_t m = n - n % 8;

    return count_between(x, m, PQ_ABS_INF, 0x7fffffff) +
           scalar->count_nonfinite(x + m, n - m);
}

static size_t count_f16_overflow(const float *x, size_t n)
{
    const size_t m = n - n % 8;

    return count_between(x, m, PQ_F16_OVERFLOW, PQ_ABS_INF - 1) +
           scalar->count_f16_overflow(x + m, n - m);
}

/* Adds v to four and four of eight lanes of double. */
struct sum8 {
    __m256d lo, hi;
};

static inline struct sum8 widen(__m256 v)
{
    const struct sum8 w = {_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
                           _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};

    return w;
}

static inline void add_squares(struct sum8 *s, __m256d lo, __m256d hi)
{
    s->lo = _mm256_add_pd(s->lo, _mm256_mul_pd(lo, lo));
    s->hi = _mm256_add_pd(s->hi, _mm256_mul_pd(hi, hi));
}

static inline void store_lanes(double *lane, const struct sum8 *s)
{
    _mm256_storeu_pd(lane, s->lo);
    _mm256_storeu_pd(lane + 4, s->hi);
}

static void error_stats(const float *x, const float *y, size_t n,
                        double *signal, double *noise, float *max_abs_err)
{
    struct sum8 sig = {_mm256_setzero_pd(), _mm256_setzero_pd()}, noi = sig;
    __m256i max = _mm256_setzero_si256();
    double sl[PQ_LANES], nl[PQ_LANES];
    uint32_t m;
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(y + i);
        const struct sum8 wa = widen(a), wb = widen(b);

        add_squares(&sig, wa.lo, wa.hi);
        add_squares(&noi, _mm256_sub_pd(wa.lo, wb.lo),
                    _mm256_sub_pd(wa.hi, wb.hi));
        max = _mm256_max_epu32(
            max, _mm256_and_si256(_mm256_castps_si256(_mm256_sub_ps(a, b)),
                                  _mm256_set1_epi32(0x7fffffff)));
    }
    store_lanes(sl, &sig);
    store_lanes(nl, &noi);
    m = max_of_lanes(max);
    for (size_t k = 0; i < n; i++, k++) {
        const double a = (double)x[i], d = a - (double)y[i];

        sl[k] += a * a;
        nl[k] += d * d;
        m = pq_max_u32(m, pq_abs_bits(x[i] - y[i]));
    }
    *signal = pq_lane_sum(sl);
    *noise = pq_lane_sum(nl);
    *max_abs_err = pq_float(m);
}

/* The running state of moments(). */
struct acc {
    struct sum8 sum, sq;
    __m256 min, max;
};

/* Adds whole vectors [0, n), n <= CHUNK, to *s and to the counts of *m. */
static void add_moments(struct acc *s, struct pq_moments *m, const float *x,
                        size_t n)
{
    const __m256i inf = _mm256_set1_epi32(PQ_ABS_INF);
    struct acc a = *s;
    __m256i zeros = _mm256_setzero_si256(), nans = zeros, infs = zeros;

    for (size_t i = 0; i < n; i += 8) {
        const __m256i abs = abs_bits(x + i);
        const __m256 finite =
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(inf, abs));
        const __m256 v = _mm256_loadu_ps(x + i);
        const struct sum8 w = widen(_mm256_and_ps(v, finite));

        zeros = _mm256_sub_epi32(
            zeros, _mm256_cmpeq_epi32(abs, _mm256_setzero_si256()));
        nans = _mm256_sub_epi32(nans, _mm256_cmpgt_epi32(abs, inf));
        infs = _mm256_sub_epi32(infs, _mm256_cmpeq_epi32(abs, inf));
        a.sum.lo = _mm256_add_pd(a.sum.lo, w.lo);
        a.sum.hi = _mm256_add_pd(a.sum.hi, w.hi);
        add_squares(&a.sq, w.lo, w.hi);
        a.min = _mm256_min_ps(_mm256_blendv_ps(a.min, v, finite), a.min);
        a.max = _mm256_max_ps(_mm256_blendv_ps(a.max, v, finite), a.max);
    }
    *s = a;
    m->zeros += sum_u32(zeros);
    m->nans += sum_u32(nans);
    m->infs += sum_u32(infs);
}

/* The end: n < 8 values that are left over join lanes 0, 1, ... */
static void finish_moments(const struct acc *s, struct pq_moments *m,
                           const float *x, size_t n)
{
    double sum[PQ_LANES], sq[PQ_LANES];
    float lo[PQ_LANES], hi[PQ_LANES], min = INFINITY, max = -INFINITY;
    struct pq_moments rest;

    scalar->moments(x, n, &rest);
    store_lanes(sum, &s->sum);
    store_lanes(sq, &s->sq);
    _mm256_storeu_ps(lo, s->min);
    _mm256_storeu_ps(hi, s->max);
    for (size_t k = 0; k < n; k++) {
        const double v = pq_abs_bits(x[k]) < PQ_ABS_INF ? (double)x[k] : 0.0;

        sum[k] += v;
        sq[k] += v * v;
    }
    for (int k = 0; k < PQ_LANES; k++) {
        min = lo[k] < min ? lo[k] : min;
        max = hi[k] > max ? hi[k] : max;
    }
    m->sum = pq_lane_sum(sum);
    m->sum_sq = pq_lane_sum(sq);
    m->min = (rest.min < min ? rest.min : min) + 0.0f;
    m->max = (rest.max > max ? rest.max : max) + 0.0f;
    m->zeros += rest.zeros;
    m->nans += rest.nans;
    m->infs += rest.infs;
}

static void moments(const float *x, size_t n, struct pq_moments *m)
{
    const struct sum8 zero = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    struct acc s = {zero, zero, _mm256_set1_ps(INFINITY),
                    _mm256_set1_ps(-INFINITY)};
    const size_t whole = n - n % 8;

    *m = (struct pq_moments){0};
    for (size_t at = 0; at < whole; at += CHUNK)
        add_moments(&s, m, x + at, whole - at < CHUNK ? whole - at : CHUNK);
    finish_moments(&s, m, x + whole, n - whole);
}

#endif
