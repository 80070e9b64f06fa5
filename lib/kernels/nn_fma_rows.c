/*
 * A vector times encoded rows: what token after token is spent on.
 *
 * Lane l of a vector is row l of eight.  32 bytes of each row are turned as
 * eight words of 32 bits, and only then decoded, so that a word holds
 *
 *   f32   one element              int8  four, a byte each
 *   f16   two, low half first      nf4   eight: of byte b first the high
 *   bf16  the same                       four bits, then the low
 *
 * and every element goes to its chain of multiply-adds in the order of k.
 * Two groups of eight rows run side by side, for their chains would wait.
 * Products and sums are those of packing and tiles, to the bit.
 */
#include "nn_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "impl.h"
#include "nn_fma.h"

#define GROUPS 2 /* of eight rows */
#define AHEAD  512 /* bytes */

/* 32 bytes of eight rows, turned: out[i] holds word i of each row. */
static inline void turn_words(const uint8_t *w, size_t row_bytes,
                              __m256 out[8])
{
    for (int i = 0; i < 4; i++) {
        const float *a = (const float *)(const void *)(w + i * row_bytes);
        const float *b = (const float *)(const void *)(w + (i + 4) * row_bytes);
        out[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)),
                                      _mm_loadu_ps(b), 1);
        out[i + 4] =
            _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a + 4)),
                                 _mm_loadu_ps(b + 4), 1);
    }
    nn_turn_4x4(out);
}

static inline __m256 step(const float *a, __m256 w, __m256 s)
{
    return _mm256_fmadd_ps(_mm256_broadcast_ss(a), w, s);
}

/* The elements of a word, one after the other, onto a sum. */

static inline __m256 add_f32(__m256 word, const float *a, __m256 s)
{
    return step(a, word, s);
}

static inline __m256 add_bf16(__m256 word, const float *a, __m256 s)
{
    const __m256i v = _mm256_castps_si256(word);
    const __m256i high = _mm256_set1_epi32((int)0xffff0000u);

    s = step(a, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)), s);
    return step(a + 1, _mm256_castsi256_ps(_mm256_and_si256(v, high)), s);
}

static inline __m256 add_f16(__m256 word, const float *a, __m256 s)
{
    const __m256i v = _mm256_castps_si256(word);
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    /* [l0-3 h0-3 | l4-7 h4-7] -> [l0-7 | h0-7] */
    const __m256i p = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(low, _mm256_srli_epi32(v, 16)), 0xd8);

    s = step(a, _mm256_cvtph_ps(_mm256_castsi256_si128(p)), s);
    return step(a + 1, _mm256_cvtph_ps(_mm256_extracti128_si256(p, 1)), s);
}

/* byte 3 - i of v, by a shift to the left of 8 i */
static inline __m256 int8_value(__m256i v, __m256 scale)
{
    const __m256 q = _mm256_cvtepi32_ps(_mm256_srai_epi32(v, 24));

    return _mm256_mul_ps(_mm256_mul_ps(q, scale), _mm256_set1_ps(PQ_INV_127));
}

static inline __m256 add_int8(__m256 word, const float *a, __m256 scale,
                              __m256 s)
{
    const __m256i v = _mm256_castps_si256(word);

    s = step(a, int8_value(_mm256_slli_epi32(v, 24), scale), s);
    s = step(a + 1, int8_value(_mm256_slli_epi32(v, 16), scale), s);
    s = step(a + 2, int8_value(_mm256_slli_epi32(v, 8), scale), s);
    return step(a + 3, int8_value(v, scale), s);
}

struct map16 {
    __m256 low, high; /* values of codes 0-7 and 8-15 */
};

/* The code in the upper four bits of what is left of v. */
static inline __m256 code_value(__m256i v, const struct map16 *m, __m256 scale)
{
    const __m256i code = _mm256_srli_epi32(v, 28);
    const __m256 low = _mm256_permutevar8x32_ps(m->low, code);
    const __m256 high = _mm256_permutevar8x32_ps(m->high, code);
    const __m256 x = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(v));

    return _mm256_mul_ps(x, scale);
}

/* Elements 2i, 2i + 1 are bits 8i + 4 .. and 8i .. of the word. */
static inline __m256 add_codes(__m256 word, const float *a,
                               const struct map16 *m, __m256 scale, __m256 s)
{
    const __m256i v = _mm256_castps_si256(word);

    s = step(a, code_value(_mm256_slli_epi32(v, 24), m, scale), s);
    s = step(a + 1, code_value(_mm256_slli_epi32(v, 28), m, scale), s);
    s = step(a + 2, code_value(_mm256_slli_epi32(v, 16), m, scale), s);
    s = step(a + 3, code_value(_mm256_slli_epi32(v, 20), m, scale), s);
    s = step(a + 4, code_value(_mm256_slli_epi32(v, 8), m, scale), s);
    s = step(a + 5, code_value(_mm256_slli_epi32(v, 12), m, scale), s);
    s = step(a + 6, code_value(v, m, scale), s);
    return step(a + 7, code_value(_mm256_slli_epi32(v, 4), m, scale), s);
}

/* The scales of eight rows, each `apart` from the last. */
static inline __m256 scales_of(const float *scale, size_t apart)
{
    return _mm256_set_ps(scale[7 * apart], scale[6 * apart], scale[5 * apart],
                         scale[4 * apart], scale[3 * apart], scale[2 * apart],
                         scale[apart], scale[0]);
}

/* The loop over k; ADD takes the word, its elements of a and a sum. */
#define LOOP(per_word, PREPARE, ADD) \
    for (size_t k = 0; k < r->kn; k += 8 * (per_word), w += 32) { \
        for (int g = 0; g < GROUPS; g++) \
            for (size_t i = 0; i < 8; i++) \
                _mm_prefetch((const char *)w + (8 * (size_t)g + i) * \
                             r->row_bytes + AHEAD, _MM_HINT_T0); \
        turn_words(w, r->row_bytes, x[0]); \
        turn_words(w + 8 * r->row_bytes, r->row_bytes, x[1]); \
        PREPARE; \
        for (size_t i = 0; i < 8; i++) { \
            const float *a = r->a + k + i * (per_word); \
            s0 = ADD(x[0][i], a, c0, s0); \
            s1 = ADD(x[1][i], a, c1, s1); \
        } \
    }

#define ADD_F32(word, a, c, s)   add_f32(word, a, s)
#define ADD_F16(word, a, c, s)   add_f16(word, a, s)
#define ADD_BF16(word, a, c, s)  add_bf16(word, a, s)
#define ADD_INT8(word, a, c, s)  add_int8(word, a, c, s)
#define ADD_CODES(word, a, c, s) add_codes(word, a, &map, c, s)

void nn_fma_rows(const struct nn_rows *r, float *c, bool add)
{
    const uint8_t *w = r->w;
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, c0 = s0, c1 = s0, x[2][8];

    if (r->kind == NN_ROWS_F32) {
        LOOP(1, , ADD_F32)
    } else if (r->kind == NN_ROWS_F16) {
        LOOP(2, , ADD_F16)
    } else if (r->kind == NN_ROWS_BF16) {
        LOOP(2, , ADD_BF16)
    } else if (r->kind == NN_ROWS_INT8) {
        c0 = scales_of(r->scale, r->scale_row);
        c1 = scales_of(r->scale + 8 * r->scale_row, r->scale_row);
        LOOP(4, , ADD_INT8)
    } else {
        const struct map16 map = {_mm256_loadu_ps(r->map),
                                  _mm256_loadu_ps(r->map + 8)};
        const float *scale = r->scale;
        LOOP(8,
             c0 = scales_of(scale + k / r->block, r->scale_row);
             c1 = scales_of(scale + k / r->block + 8 * r->scale_row,
                            r->scale_row),
             ADD_CODES)
    }
    nn_put_8(c, s0, add);
    nn_put_8(c + 8, s1, add);
}

#else
/* ISO C wants a file to declare something. */
extern const struct nn_kernels nn_kernels_fma;
#endif
