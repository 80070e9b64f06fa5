/*
 * The AVX2 and F16C kernels: the same bytes as scalar.c, where the reasons
 * are told.  Here, whole vectors are done and what is left over goes to the
 * scalar kernels.  Compiled with -mavx2 -mf16c and never with -mfma: a fused
 * multiply-add rounds once where the formulas round twice.
 */
#include "pq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "avx2_floats.h"
#include "impl.h"

/* ---- 4-bit codes ---- */

/*
 * The 16 thresholds in two registers.  Permutes look at the low three bits
 * of an index only: nodes 1..7 index `top` as they are, nodes 8..15 index
 * `low`, and leaf - 16 is the rank.
 */
struct tree4 {
    __m256 root, top, low;
};

static inline struct tree4 load_tree(const float *tree)
{
    const struct tree4 t = {_mm256_set1_ps(tree[1]), _mm256_loadu_ps(tree),
                            _mm256_loadu_ps(tree + 8)};

    return t;
}

/* Leaves 16..31 of a tree of four levels. */
static inline __m256i leaf4(const struct tree4 *t, __m256 s)
{
    __m256i node = _mm256_sub_epi32(_mm256_set1_epi32(2), above(s, t->root));

    for (int level = 1; level < 3; level++)
        node = child(node,
                     above(s, _mm256_permutevar8x32_ps(t->top, node)));
    return child(node, above(s, _mm256_permutevar8x32_ps(t->low, node)));
}

/* 32 leaves as 16 bytes of nibbles; `code` maps rank to nibble. */
static inline __m128i pack_nibbles(const __m256i leaf[4], __m256i code)
{
    const __m256i b = _mm256_packus_epi16(
        _mm256_packs_epi32(leaf[0], leaf[1]),
        _mm256_packs_epi32(leaf[2], leaf[3]));
    /* Shuffles look at the low four bits: the rank.  Then 16 a + b. */
    const __m256i pair = _mm256_maddubs_epi16(_mm256_shuffle_epi8(code, b),
                                              _mm256_set1_epi16(0x0110));
    const __m256i p = _mm256_packus_epi16(pair, pair);

    return _mm_unpacklo_epi16(_mm256_castsi256_si128(p),
                              _mm256_extracti128_si256(p, 1));
}

/* Encodes n (a multiple of 32) values as x * inv. */
static inline void encode4_times(const struct pq_code4 *t, const float *x,
                                 size_t n, float inv, uint8_t *codes)
{
    const struct tree4 tree = load_tree(t->tree);
    const __m256i code = _mm256_broadcastsi128_si256(
        _mm_loadu_si128((const __m128i *)t->code));
    const __m256 f = _mm256_set1_ps(inv);

    for (size_t i = 0; i < n; i += 32) {
        __m256i leaf[4];

        for (size_t k = 0; k < 4; k++)
            leaf[k] = leaf4(&tree, _mm256_mul_ps(
                                       _mm256_loadu_ps(x + i + 8 * k), f));
        _mm_storeu_si128((__m128i *)(codes + i / 2),
                         pack_nibbles(leaf, code));
    }
}

/*
 * Encodes n (a multiple of `block`, itself one of 32) values.  The maximum of
 * a block is found while the block before it is encoded: one after the other,
 * the latency of maximum and division costs half of the speed.
 */
static inline uint32_t encode4(const struct pq_code4 *t, const float *x,
                               size_t n, size_t block, uint8_t *codes,
                               float *absmax)
{
    uint32_t max = 0, ahead = n > 0 ? absmax_bits(x, block) : 0;

    for (size_t at = 0; at < n; at += block) {
        const float inv = 1.0f / pq_not_tiny(pq_float(ahead));

        absmax[at / block] = pq_float(ahead);
        max = pq_max_u32(max, ahead);
        if (at + block < n)
            ahead = absmax_bits(x + at + block, block);
        encode4_times(t, x + at, block, inv, codes + at / 2);
    }
    return max;
}

/* The elements that whole vectors can do: whole blocks, of 32s. */
static inline size_t vector_part(size_t n, size_t block)
{
    return block % 32 == 0 ? n - n % block : 0;
}

static uint32_t nf4_encode(const float *x, size_t n, size_t block,
                           uint8_t *codes, float *absmax)
{
    const size_t m = vector_part(n, block);
    const uint32_t max = encode4(&pq_nf4, x, m, block, codes, absmax);

    return pq_max_u32(max, scalar->nf4_encode(x + m, n - m, block,
                                              codes + m / 2,
                                              absmax + m / block));
}

static uint32_t fp4_encode(const float *x, size_t n, size_t block,
                           uint8_t *codes, float *absmax)
{
    const size_t m = vector_part(n, block);
    const uint32_t max = encode4(&pq_fp4, x, m, block, codes, absmax);

    return pq_max_u32(max, scalar->fp4_encode(x + m, n - m, block,
                                              codes + m / 2,
                                              absmax + m / block));
}

/* The values of 16 entries at index & 15. */
static inline __m256 look_up16(__m256 lo, __m256 hi, __m256i index)
{
    return _mm256_blendv_ps(
        _mm256_permutevar8x32_ps(lo, index),
        _mm256_permutevar8x32_ps(hi, index),
        _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

/* A pq_search_fn for n that is a multiple of 8. */
static float search_error(const struct pq_code4 *t, const float *x, size_t n,
                          float inv)
{
    const struct tree4 tree = load_tree(t->tree);
    const __m256 lo = _mm256_loadu_ps(t->by_rank);
    const __m256 hi = _mm256_loadu_ps(t->by_rank + 8);
    __m256 sum = _mm256_setzero_ps();
    float lane[PQ_LANES];

    for (size_t i = 0; i < n; i += 8) {
        const __m256 s = _mm256_mul_ps(_mm256_loadu_ps(x + i),
                                       _mm256_set1_ps(inv));
        const __m256 d =
            _mm256_sub_ps(s, look_up16(lo, hi, leaf4(&tree, s)));

        sum = _mm256_add_ps(sum, _mm256_mul_ps(d, d));
    }
    _mm256_storeu_ps(lane, sum);
    return pq_lane_sumf(lane);
}

static uint32_t search4(const struct pq_code4 *t, const float *x, size_t n,
                        size_t block, bool both_signs, uint8_t *codes,
                        float *absmax)
{
    uint32_t max = 0;

    for (size_t at = 0; at < n; at += block) {
        const uint32_t bits = absmax_bits(x + at, block);
        float scale = pq_float(bits);

        if (bits < PQ_ABS_INF)
            scale = pq_search_scale(t, search_error, x + at, block, scale,
                                    both_signs);
        absmax[at / block] = scale;
        encode4_times(t, x + at, block, pq_search_inv(scale), codes + at / 2);
        max = pq_max_u32(max, bits);
    }
    return max;
}

static uint32_t nf4_search(const float *x, size_t n, size_t block,
                           bool both_signs, uint8_t *codes, float *absmax)
{
    const size_t m = vector_part(n, block);
    const uint32_t max =
        search4(&pq_nf4, x, m, block, both_signs, codes, absmax);

    return pq_max_u32(max, scalar->nf4_search(x + m, n - m, block, both_signs,
                                              codes + m / 2,
                                              absmax + m / block));
}

static uint32_t fp4_search(const float *x, size_t n, size_t block,
                           bool both_signs, uint8_t *codes, float *absmax)
{
    const size_t m = vector_part(n, block);
    const uint32_t max =
        search4(&pq_fp4, x, m, block, both_signs, codes, absmax);

    return pq_max_u32(max, scalar->fp4_search(x + m, n - m, block, both_signs,
                                              codes + m / 2,
                                              absmax + m / block));
}

/* Decodes 32 values from 16 bytes. */
static inline void decode32(const uint8_t *codes, __m256 lo, __m256 hi,
                            __m256 scale, float *out)
{
    const __m128i b = _mm_loadu_si128((const __m128i *)codes);
    const __m128i mask = _mm_set1_epi8(15);
    const __m128i first = _mm_and_si128(_mm_srli_epi16(b, 4), mask);
    const __m128i second = _mm_and_si128(b, mask);
    const __m128i a = _mm_unpacklo_epi8(first, second);
    const __m128i c = _mm_unpackhi_epi8(first, second);
    const __m128i part[4] = {a, _mm_srli_si128(a, 8), c,
                             _mm_srli_si128(c, 8)};

    for (int k = 0; k < 4; k++)
        _mm256_storeu_ps(
            out + 8 * k,
            _mm256_mul_ps(look_up16(lo, hi, _mm256_cvtepu8_epi32(part[k])),
                          scale));
}

static void decode4(const struct pq_code4 *t, const uint8_t *codes,
                    const float *absmax, size_t n, size_t block, float *out)
{
    const __m256 lo = _mm256_loadu_ps(t->value);
    const __m256 hi = _mm256_loadu_ps(t->value + 8);

    for (size_t at = 0; at < n; at += block) {
        const __m256 scale = _mm256_set1_ps(absmax[at / block]);

        for (size_t i = at; i < at + block; i += 32)
            decode32(codes + i / 2, lo, hi, scale, out + i);
    }
}

static void nf4_decode(const uint8_t *codes, const float *absmax, size_t n,
                       size_t block, float *out)
{
    const size_t m = vector_part(n, block);

    decode4(&pq_nf4, codes, absmax, m, block, out);
    scalar->nf4_decode(codes + m / 2, absmax + m / block, n - m, block,
                       out + m);
}

static void fp4_decode(const uint8_t *codes, const float *absmax, size_t n,
                       size_t block, float *out)
{
    const size_t m = vector_part(n, block);

    decode4(&pq_fp4, codes, absmax, m, block, out);
    scalar->fp4_decode(codes + m / 2, absmax + m / block, n - m, block,
                       out + m);
}

/* ---- 8-bit codes ---- */

/* 32 values of a row, rounded to fp16 and scaled. */
static inline void int8_from32(const float *x, __m256 inv, int8_t *q)
{
    __m256i v[4];

    for (int k = 0; k < 4; k++) {
        const __m256 w = _mm256_cvtph_ps(_mm256_cvtps_ph(
            _mm256_loadu_ps(x + 8 * k), _MM_FROUND_TO_NEAREST_INT));

        v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(w, inv));
    }
    store_bits(q, in_order(_mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]),
                                              _mm256_packs_epi32(v[2], v[3]))));
}

static void int8_row(const float *x, size_t n, float factor, int8_t *q)
{
    const __m256 inv = _mm256_set1_ps(factor);
    float rest[32] = {0};
    int8_t q_rest[32];
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        int8_from32(x + i, inv, q + i);
    if (i < n) {
        memcpy(rest, x + i, (n - i) * sizeof(rest[0]));
        int8_from32(rest, inv, q_rest);
        memcpy(q + i, q_rest, n - i);
    }
}

static uint32_t int8_rows_encode(const float *x, size_t rows, size_t cols,
                                 int8_t *q, float *scb)
{
    uint32_t max = 0;

    for (size_t r = 0; r < rows; r++, x += cols, q += cols) {
        const float absmax = pq_float(absmax_bits(x, cols));

        scb[r] = _cvtsh_ss(_cvtss_sh(absmax, _MM_FROUND_TO_NEAREST_INT));
        int8_row(x, cols, pq_int8_factor(scb[r]), q);
        max = pq_max_u32(max, pq_bits(scb[r]));
    }
    return max;
}

static void int8_rows_decode(const int8_t *q, const float *scb, size_t rows,
                             size_t cols, float *out)
{
    for (size_t r = 0; r < rows; r++, q += cols, out += cols) {
        const __m256 scale = _mm256_set1_ps(scb[r]);
        size_t i = 0;

        for (; i + 8 <= cols; i += 8) {
            const __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
                _mm_loadl_epi64((const __m128i *)(q + i))));

            _mm256_storeu_ps(out + i,
                             _mm256_mul_ps(_mm256_mul_ps(v, scale),
                                           _mm256_set1_ps(PQ_INV_127)));
        }
        scalar->int8_rows_decode(q + i, scb + r, 1, cols - i, out + i);
    }
}

/* The steps of bitsandbytes' table for x * inv, looked up. */
static inline __m256i look_up_step(const uint8_t *lut, __m256 v)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 c = _mm256_min_ps(
        _mm256_max_ps(v, _mm256_set1_ps(-1.0f)), one);
    const __m256 step = _mm256_add_ps(
        _mm256_mul_ps(_mm256_mul_ps(_mm256_add_ps(c, one),
                                    _mm256_set1_ps(0.5f)),
                      _mm256_set1_ps(65535.0f)),
        _mm256_set1_ps(0.5f));
    const __m256i four = _mm256_i32gather_epi32(
        (const int *)(const void *)lut, _mm256_cvttps_epi32(step), 1);

    return _mm256_and_si256(four, _mm256_set1_epi32(255));
}

static uint32_t dyn8_encode(const float *x, size_t n, size_t block,
                            uint8_t *codes, float *absmax)
{
    const uint8_t *lut = pq_dyn8_tables()->lut;
    const size_t m = vector_part(n, block);
    uint32_t max = 0;

    for (size_t at = 0; at < m; at += block) {
        const uint32_t bits = absmax_bits(x + at, block);
        const __m256 inv = _mm256_set1_ps(1.0f / pq_float(bits));

        absmax[at / block] = pq_float(bits);
        max = pq_max_u32(max, bits);
        for (size_t i = at; i < at + block; i += 32) {
            __m256i v[4];

            for (size_t k = 0; k < 4; k++)
                v[k] = look_up_step(
                    lut, _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), inv));
            store_bits(codes + i, pack_u8(v));
        }
    }
    return pq_max_u32(max, scalar->dyn8_encode(x + m, n - m, block, codes + m,
                                               absmax + m / block));
}

/* Codes of a tree of eight levels: four as in leaf4(), four gathered. */
static inline __m256i code_of_leaf8(const struct tree4 *t, const float *tree,
                                    __m256 s)
{
    __m256i node = leaf4(t, s);

    for (int level = 4; level < 8; level++)
        node = child(node, above(s, _mm256_i32gather_ps(tree, node, 4)));
    return _mm256_and_si256(node, _mm256_set1_epi32(255));
}

static uint32_t dyn8_encode_exact(const float *x, size_t n, size_t block,
                                  uint8_t *codes, float *absmax)
{
    const float *tree = pq_dyn8_tables()->tree;
    const struct tree4 t = load_tree(tree);
    const size_t m = vector_part(n, block);
    uint32_t max = 0;

    for (size_t at = 0; at < m; at += block) {
        const uint32_t bits = absmax_bits(x + at, block);
        const __m256 inv = _mm256_set1_ps(1.0f / pq_not_tiny(pq_float(bits)));

        absmax[at / block] = pq_float(bits);
        max = pq_max_u32(max, bits);
        for (size_t i = at; i < at + block; i += 32) {
            __m256i v[4];

            for (size_t k = 0; k < 4; k++)
                v[k] = code_of_leaf8(
                    &t, tree,
                    _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), inv));
            store_bits(codes + i, pack_u8(v));
        }
    }
    return pq_max_u32(max, scalar->dyn8_encode_exact(x + m, n - m, block,
                                                     codes + m,
                                                     absmax + m / block));
}

static void dyn8_decode(const uint8_t *codes, const float *absmax, size_t n,
                        size_t block, float *out)
{
    const size_t m = vector_part(n, block);

    for (size_t at = 0; at < m; at += block) {
        const __m256 scale = _mm256_set1_ps(absmax[at / block]);

        for (size_t i = at; i < at + block; i += 8) {
            const __m256i c = _mm256_cvtepu8_epi32(
                _mm_loadl_epi64((const __m128i *)(codes + i)));

            _mm256_storeu_ps(
                out + i,
                _mm256_mul_ps(_mm256_i32gather_ps(pq_dyn8_map, c, 4), scale));
        }
    }
    scalar->dyn8_decode(codes + m, absmax + m / block, n - m, block, out + m);
}

#include "avx2_blend.h"
#include "avx2_change.h"
#include "avx2_planes.h"
#include "avx2_prune.h"

/* Moving bytes in tiles needs no vectors of floats. */
static void transpose(const void *in, void *out, size_t rows, size_t cols,
                      size_t elem_size)
{
    scalar->transpose(in, out, rows, cols, elem_size);
}

const struct pq_kernels pq_kernels_avx2_table = {
    .name = "avx2",
    .f16_to_f32 = f16_to_f32,
    .bf16_to_f32 = bf16_to_f32,
    .e4m3_to_f32 = e4m3_to_f32,
    .e5m2_to_f32 = e5m2_to_f32,
    .f32_to_f16 = f32_to_f16,
    .f32_to_bf16 = f32_to_bf16,
    .f32_to_e4m3 = f32_to_e4m3,
    .f32_to_e5m2 = f32_to_e5m2,
    .absmax_bits = absmax_bits,
    .count_nonfinite = count_nonfinite,
    .count_f16_overflow = count_f16_overflow,
    .nf4_encode = nf4_encode,
    .fp4_encode = fp4_encode,
    .nf4_search = nf4_search,
    .fp4_search = fp4_search,
    .nf4_decode = nf4_decode,
    .fp4_decode = fp4_decode,
    .int8_rows_encode = int8_rows_encode,
    .int8_rows_decode = int8_rows_decode,
    .dyn8_encode = dyn8_encode,
    .dyn8_encode_exact = dyn8_encode_exact,
    .dyn8_decode = dyn8_decode,
    .error_stats = error_stats,
    .moments = moments,
    .transpose = transpose,
    .add_product = add_product,
    .change_stats = change_stats,
    .weighted_sum = weighted_sum,
    .trim = trim,
    .task_sum = task_sum,
    .count_high = count_high,
    .count_low = count_low,
    .count_equal = count_equal,
    .abs_sum = abs_sum,
    .uniform = uniform,
    .drop = drop,
    .split_planes = split_planes,
    .join_planes = join_planes,
    .map_nonzero = map_nonzero,
    .compact = compact,
    .expand = expand,
    .keep_from = keep_from,
    .keep_groups = keep_groups,
    .keep_across = keep_across,
    .keep_u16 = keep_u16,
    .keep_u32 = keep_u32,
};

#endif
