/*
 * A vector times encoded rows with registers of 16 floats, a lane a row: the
 * same bits as nn_fma_rows.c, which says how words hold elements.
 *
 * 64 bytes of each row, a whole line of the cache, are read at once: rows are
 * often a power of two apart, where half of 16 lines would be gone when their
 * second half is wanted.
 */
#include "nn_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "impl.h"
#include "nn_fma.h"

#define AVX512 __attribute__((target("avx512f"))) /* only these functions */
#define INLINE AVX512 static inline __attribute__((always_inline))

#define AHEAD  512 /* bytes */

/* 16 bytes of the rows i, i + 4, i + 8, i + 12, side by side. */
INLINE __m512 four_rows(const uint8_t *w, size_t row_bytes)
{
    const size_t four = 4 * row_bytes;
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps((const void *)w));

    x = _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(w + four)), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(w + 2 * four)), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(w + 3 * four)), 3);
}

/* Pieces of 16 bytes of all rows become words: x[i] holds word i of each. */
INLINE void turn_words(const uint8_t *w, size_t row_bytes, int pieces,
                       __m512 x[16])
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
#pragma GCC unroll 4
        for (int q = 0; q < pieces; q++)
            x[4 * q + i] =
                four_rows(w + (size_t)i * row_bytes + 16 * q, row_bytes);
    }
#pragma GCC unroll 4
    for (int q = 0; q < pieces; q++) {
        __m512 *p = x + 4 * q;
        const __m512 t0 = _mm512_unpacklo_ps(p[0], p[1]);
        const __m512 t1 = _mm512_unpackhi_ps(p[0], p[1]);
        const __m512 t2 = _mm512_unpacklo_ps(p[2], p[3]);
        const __m512 t3 = _mm512_unpackhi_ps(p[2], p[3]);
        p[0] = _mm512_shuffle_ps(t0, t2, 0x44);
        p[1] = _mm512_shuffle_ps(t0, t2, 0xee);
        p[2] = _mm512_shuffle_ps(t1, t3, 0x44);
        p[3] = _mm512_shuffle_ps(t1, t3, 0xee);
    }
}

INLINE __m512 step(const float *a, __m512 w, __m512 s)
{
    return _mm512_fmadd_ps(_mm512_set1_ps(*a), w, s);
}

INLINE __m512 half_value(__m512i v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

INLINE __m512 int8_value(__m512i v, __m512 scale)
{
    const __m512 q = _mm512_cvtepi32_ps(_mm512_srai_epi32(v, 24));

    return _mm512_mul_ps(_mm512_mul_ps(q, scale), _mm512_set1_ps(PQ_INV_127));
}

/* The permutation looks at the lowest four bits. */
INLINE __m512 code_value(__m512i v, __m512 map, __m512 scale)
{
    return _mm512_mul_ps(_mm512_permutexvar_ps(v, map), scale);
}

/* The elements of a word, one after the other, onto a sum. */
INLINE __m512 add_word(enum nn_rows_kind kind, __m512 word, const float *a,
                       __m512 map, __m512 scale, __m512 s)
{
    const __m512i v = _mm512_castps_si512(word);

    switch (kind) {
    case NN_ROWS_F32:
        return step(a, word, s);
    case NN_ROWS_F16:
        s = step(a, half_value(v), s);
        return step(a + 1, half_value(_mm512_srli_epi32(v, 16)), s);
    case NN_ROWS_BF16:
        s = step(a, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), s);
        return step(a + 1,
                    _mm512_castsi512_ps(
                        _mm512_slli_epi32(_mm512_srli_epi32(v, 16), 16)),
                    s);
    case NN_ROWS_INT8:
        s = step(a, int8_value(_mm512_slli_epi32(v, 24), scale), s);
        s = step(a + 1, int8_value(_mm512_slli_epi32(v, 16), scale), s);
        s = step(a + 2, int8_value(_mm512_slli_epi32(v, 8), scale), s);
        return step(a + 3, int8_value(v, scale), s);
    case NN_ROWS_CODES:
        break;
    }
#pragma GCC unroll 4
    for (unsigned b = 0; b < 4; b++) {
        const __m512i high = _mm512_srli_epi32(v, 8 * b + 4);
        const __m512i low = _mm512_srli_epi32(v, 8 * b);
        s = step(a + 2 * b, code_value(high, map, scale), s);
        s = step(a + 2 * b + 1, code_value(low, map, scale), s);
    }
    return s;
}

/* The scales of 16 rows, each `apart` from the last. */
INLINE __m512 scales_of(const float *scale, size_t apart)
{
    float x[NN_TILE_COLS];

    for (size_t i = 0; i < NN_TILE_COLS; i++)
        x[i] = scale[i * apart];
    return _mm512_loadu_ps(x);
}

/* 32 or 64 bytes of each row from element k on: half after half, as a block
   of codes may end between them. */
INLINE __m512 add_pieces(enum nn_rows_kind kind, const struct nn_rows *r,
                         size_t k, int pieces, __m512 map, __m512 scale,
                         __m512 s)
{
    const size_t per_word = 32 / (kind == NN_ROWS_F32     ? 32
                                  : kind == NN_ROWS_INT8  ? 8
                                  : kind == NN_ROWS_CODES ? 4
                                                          : 16);
    __m512 x[16];

    turn_words(r->w + k / per_word * 4, r->row_bytes, pieces, x);
#pragma GCC unroll 2
    for (int h = 0; h < pieces / 2; h++) {
        const size_t at = k + (size_t)h * 8 * per_word;
        if (kind == NN_ROWS_CODES)
            scale = scales_of(r->scale + at / r->block, r->scale_row);
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            s = add_word(kind, x[8 * h + (int)i], r->a + at + i * per_word, map,
                         scale, s);
    }
    return s;
}

/* All of a run; `kind` is a constant wherever this is called. */
INLINE __m512 add_rows(enum nn_rows_kind kind, const struct nn_rows *r,
                       size_t per_word)
{
    const __m512 map =
        kind == NN_ROWS_CODES ? _mm512_loadu_ps(r->map) : _mm512_setzero_ps();
    const __m512 scale = kind == NN_ROWS_INT8
                             ? scales_of(r->scale, r->scale_row)
                             : _mm512_setzero_ps();
    __m512 s = _mm512_setzero_ps();
    size_t k = 0;

    for (; k + 16 * per_word <= r->kn; k += 16 * per_word) {
        const uint8_t *soon = r->w + k / per_word * 4 + AHEAD;
        for (size_t i = 0; i < NN_TILE_COLS; i++)
            __builtin_prefetch(soon + i * r->row_bytes);
        s = add_pieces(kind, r, k, 4, map, scale, s);
    }
    return k < r->kn ? add_pieces(kind, r, k, 2, map, scale, s) : s;
}

AVX512 void nn_avx512_rows(const struct nn_rows *r, float *c, bool add)
{
    __m512 s;

    if (r->kind == NN_ROWS_F32)
        s = add_rows(NN_ROWS_F32, r, 1);
    else if (r->kind == NN_ROWS_F16)
        s = add_rows(NN_ROWS_F16, r, 2);
    else if (r->kind == NN_ROWS_BF16)
        s = add_rows(NN_ROWS_BF16, r, 2);
    else if (r->kind == NN_ROWS_INT8)
        s = add_rows(NN_ROWS_INT8, r, 4);
    else
        s = add_rows(NN_ROWS_CODES, r, 8);
    _mm512_storeu_ps(c, add ? _mm512_add_ps(_mm512_loadu_ps(c), s) : s);
}

#else
/* ISO C wants a file to declare something. */
extern const struct nn_kernels nn_kernels_fma;
#endif
