/*
 * The kernels of blend.c with AVX2; a part of avx2.c.  What is left over goes
 * to the scalar ones.
 */
#include "../rng.h"

static inline __m256 times(float w, const float *x)
{
    return _mm256_mul_ps(_mm256_set1_ps(w), _mm256_loadu_ps(x));
}

/* 16 elements at a time: two sums that do not wait for each other. */
static void weighted_sum(const float *x, size_t stride, const float *w,
                         size_t k, float divisor, size_t n, float *out)
{
    const __m256 div = _mm256_set1_ps(divisor);
    size_t j = 0;

    for (; j + 16 <= n; j += 16) {
        __m256 a = _mm256_setzero_ps(), b = a;
        for (size_t i = 0; i < k; i++) {
            a = _mm256_add_ps(a, times(w[i], x + i * stride + j));
            b = _mm256_add_ps(b, times(w[i], x + i * stride + j + 8));
        }
        _mm256_storeu_ps(out + j, _mm256_div_ps(a, div));
        _mm256_storeu_ps(out + j + 8, _mm256_div_ps(b, div));
    }
    for (; j < n; j++) {
        float sum = 0;
        for (size_t i = 0; i < k; i++)
            sum += w[i] * x[i * stride + j];
        out[j] = sum / divisor;
    }
}

static inline __m256 difference(const float *x, const float *base)
{
    return _mm256_sub_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(base));
}

static inline __m256i magnitudes(__m256 v)
{
    return _mm256_and_si256(_mm256_castps_si256(v),
                            _mm256_set1_epi32(0x7fffffff));
}

/* Without their sign bits, numbers compare as unsigned and as signed. */
static void trim(const float *x, const float *base, size_t n, uint32_t low,
                 uint32_t high, float *d)
{
    const __m256i l = _mm256_set1_epi32((int)low);
    const __m256i h = _mm256_set1_epi32((int)high);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 v = difference(x + i, base + i);
        const __m256i m = magnitudes(v);
        const __m256i in =
            _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_max_epu32(m, l), m),
                             _mm256_cmpeq_epi32(_mm256_min_epu32(m, h), m));
        _mm256_storeu_ps(d + i, _mm256_and_ps(v, _mm256_castsi256_ps(in)));
    }
    pq_scalar_trim(x + i, base + i, n - i, low, high, d + i);
}

static inline __m256 plain_mixed(const struct pq_task_sum *t, const float *d,
                                 size_t stride, size_t j)
{
    __m256 sum = _mm256_setzero_ps();

    for (size_t i = 0; i < t->k; i++)
        sum = _mm256_add_ps(sum, times(t->w[i], d + i * stride + j));
    return t->normalize ? _mm256_div_ps(sum, _mm256_set1_ps(t->divisor)) : sum;
}

static inline __m256 elected_mixed(const struct pq_task_sum *t, const float *d,
                                   size_t stride, size_t j)
{
    const __m256 zero = _mm256_setzero_ps();
    __m256 sum = zero, kept = zero, divisor = zero;

    for (size_t i = 0; i < t->k; i++)
        sum = _mm256_add_ps(sum, times(t->w[i], d + i * stride + j));
    const __m256 positive = _mm256_cmp_ps(sum, zero, _CMP_GE_OQ);
    for (size_t i = 0; i < t->k; i++) {
        const __m256 p = times(t->w[i], d + i * stride + j);
        const __m256 agrees =
            _mm256_blendv_ps(_mm256_cmp_ps(p, zero, _CMP_LT_OQ),
                             _mm256_cmp_ps(p, zero, _CMP_GT_OQ), positive);
        kept = _mm256_add_ps(kept, _mm256_and_ps(p, agrees));
        divisor = _mm256_add_ps(divisor,
                                _mm256_and_ps(_mm256_set1_ps(t->w[i]), agrees));
    }
    if (!t->normalize)
        return kept;
    return _mm256_div_ps(
        kept, _mm256_blendv_ps(divisor, _mm256_set1_ps(1.0f),
                               _mm256_cmp_ps(divisor, zero, _CMP_EQ_OQ)));
}

static void task_sum(const struct pq_task_sum *t, const float *base,
                     const float *d, size_t stride, size_t n, float *out)
{
    const __m256 lambda = _mm256_set1_ps(t->lambda);
    size_t j = 0;

    for (; j + 8 <= n; j += 8) {
        const __m256 m = t->elect ? elected_mixed(t, d, stride, j)
                                  : plain_mixed(t, d, stride, j);
        _mm256_storeu_ps(out + j, _mm256_add_ps(_mm256_loadu_ps(base + j),
                                                _mm256_mul_ps(lambda, m)));
    }
    pq_task_sum_rest(t, base, d, stride, j, n, out);
}

#define AHEAD 512 /* magnitudes found before they are counted */

static void count_high(const float *x, const float *base, size_t n,
                       uint32_t *count)
{
    uint32_t bin[AHEAD];
    const size_t whole = n / 8 * 8;

    for (size_t at = 0; at < whole; at += AHEAD) {
        const size_t m = whole - at < AHEAD ? whole - at : AHEAD;
        for (size_t i = 0; i < m; i += 8)
            store_bits(bin + i,
                       _mm256_srli_epi32(
                           magnitudes(difference(x + at + i, base + at + i)),
                           PQ_LOW_BITS));
        for (size_t i = 0; i < m; i++)
            count[bin[i]]++;
    }
    pq_scalar_count_high(x + whole, base + whole, n - whole, count);
}

/* Few are meant: only vectors with one of them are taken apart. */
static void count_low(const float *x, const float *base, size_t n,
                      uint32_t high, uint32_t *count)
{
    const __m256i wanted = _mm256_set1_epi32((int)high);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256i m = magnitudes(difference(x + i, base + i));
        const __m256i is =
            _mm256_cmpeq_epi32(_mm256_srli_epi32(m, PQ_LOW_BITS), wanted);
        if (!_mm256_testz_si256(is, is))
            pq_scalar_count_low(x + i, base + i, 8, high, count);
    }
    pq_scalar_count_low(x + i, base + i, n - i, high, count);
}

static size_t count_equal(const float *x, const float *base, size_t n,
                          uint32_t bits)
{
    const __m256i wanted = _mm256_set1_epi32((int)bits);
    const size_t whole = n / 8 * 8;
    size_t found = 0;

    for (size_t at = 0; at < whole; at += CHUNK) {
        const size_t end = whole - at < CHUNK ? whole : at + CHUNK;
        __m256i sum = _mm256_setzero_si256();
        for (size_t i = at; i < end; i += 8)
            sum = _mm256_sub_epi32(
                sum, _mm256_cmpeq_epi32(magnitudes(difference(x + i, base + i)),
                                        wanted));
        found += sum_u32(sum);
    }
    return found +
           pq_scalar_count_equal(x + whole, base + whole, n - whole, bits);
}

static double abs_sum(const float *x, size_t n)
{
    const size_t whole = n / PQ_LANES * PQ_LANES;
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    double lanes[PQ_LANES];

    for (size_t i = 0; i < whole; i += PQ_LANES) {
        const __m256 v = _mm256_castsi256_ps(abs_bits(x + i));
        sum[0] =
            _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
        sum[1] =
            _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
    }
    _mm256_storeu_pd(lanes, sum[0]);
    _mm256_storeu_pd(lanes + 4, sum[1]);
    for (size_t i = whole; i < n; i++)
        lanes[i % PQ_LANES] += (double)pq_float(pq_abs_bits(x[i]));
    return pq_lane_sum(lanes);
}

/* ---- lots -------------------------------------------------------------- */

/* The upper and lower halves of eight products of 32 bits. */
static inline void multiply(__m256i a, uint32_t by, __m256i *high, __m256i *low)
{
    const __m256i m = _mm256_set1_epi32((int)by);
    const __m256i even = _mm256_mul_epu32(a, m);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);

    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

/* Eight blocks of Philox4x32-10 at a time; see rng.c. */
static inline void philox8(const uint32_t key[2], __m256i c[4])
{
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        __m256i a_high, a_low, b_high, b_low;
        multiply(c[0], PQ_PHILOX_M0, &a_high, &a_low);
        multiply(c[2], PQ_PHILOX_M1, &b_high, &b_low);
        c[0] = _mm256_xor_si256(_mm256_xor_si256(b_high, c[1]),
                                _mm256_set1_epi32((int)k0));
        c[1] = b_low;
        c[2] = _mm256_xor_si256(_mm256_xor_si256(a_high, c[3]),
                                _mm256_set1_epi32((int)k1));
        c[3] = a_low;
        k0 += PQ_PHILOX_W0;
        k1 += PQ_PHILOX_W1;
    }
}

/* Word w of block b is number 4 b + w. */
static inline void store_units(const __m256i c[4], float *out)
{
    const __m256i ab = _mm256_unpacklo_epi32(c[0], c[1]);
    const __m256i cd = _mm256_unpacklo_epi32(c[2], c[3]);
    const __m256i ef = _mm256_unpackhi_epi32(c[0], c[1]);
    const __m256i gh = _mm256_unpackhi_epi32(c[2], c[3]);
    /* blocks 0 and 4, 1 and 5, 2 and 6, 3 and 7 */
    const __m256i pair[4] = {
        _mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh)};
    const __m256 unit = _mm256_set1_ps(0x1p-24f);

    for (int i = 0; i < 4; i++) {
        const __m256 v = _mm256_mul_ps(
            _mm256_cvtepi32_ps(_mm256_srli_epi32(pair[i], 8)), unit);
        _mm_storeu_ps(out + 4 * i, _mm256_castps256_ps128(v));
        _mm_storeu_ps(out + 16 + 4 * i, _mm256_extractf128_ps(v, 1));
    }
}

static void uniform(const uint32_t key[2], const uint32_t stream[2],
                    uint64_t block, size_t n_blocks, float *out)
{
    size_t i = 0;

    /* the lower word of the counter must not overflow within eight */
    for (; i + 8 <= n_blocks && (uint32_t)(block + i) <= UINT32_MAX - 8;
         i += 8) {
        const uint64_t at = block + i;
        __m256i c[4] = {
            _mm256_add_epi32(_mm256_set1_epi32((int)(uint32_t)at),
                             _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm256_set1_epi32((int)(uint32_t)(at >> 32)),
            _mm256_set1_epi32((int)stream[0]),
            _mm256_set1_epi32((int)stream[1])};
        philox8(key, c);
        store_units(c, out + 4 * i);
    }
    pq_scalar_uniform(key, stream, block + i, n_blocks - i, out + 4 * i);
}

static void drop(const float *lots, const float *chance, size_t n, bool over,
                 float *d)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 p = _mm256_loadu_ps(chance + i);
        const __m256 falls =
            _mm256_cmp_ps(_mm256_loadu_ps(lots + i), p, _CMP_LT_OQ);
        const __m256 v = _mm256_and_ps(falls, _mm256_loadu_ps(d + i));
        _mm256_storeu_ps(d + i, over ? _mm256_div_ps(v, p) : v);
    }
    pq_scalar_drop(lots + i, chance + i, n - i, over, d + i);
}
