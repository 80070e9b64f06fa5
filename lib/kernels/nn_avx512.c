/*
 * Tiles of the one product with registers of 16 floats: the same bits as
 * nn_scalar.c, as each element still is one chain of multiply-adds.  All else
 * is that of nn_fma.c and nn_avx512_rows.c.
 *
 * A row of a tile is one register; a narrow tile loads and stores a part of
 * it.  Six chains are enough for one unit with a latency of four, which is
 * what AMD's have; two units would want eight.
 */
#include "nn_kernels.h"

#if defined(__x86_64__)

#include <pthread.h>

#include "nn_fma.h"

#define AVX512 __attribute__((target("avx512f"))) /* only these functions */

#define ZERO(i) __m512 s##i = _mm512_setzero_ps()
#define FMA(i)  s##i = _mm512_fmadd_ps(_mm512_set1_ps(*(ROW_OF_A(i))), x, s##i)
#define PUT(i)  put(c + (i) * c_row, s##i, part, add)

AVX512 static inline void put(float *c, __m512 s, __mmask16 part, bool add)
{
    _mm512_mask_storeu_ps(
        c, part, add ? _mm512_add_ps(_mm512_maskz_loadu_ps(part, c), s) : s);
}

#define TILE(rows) \
    AVX512 static void tile_##rows(size_t kn, const float *a, size_t a_row, \
                                   size_t a_col, const float *b, float *c, \
                                   size_t c_row, __mmask16 part, bool add) \
    { \
        const float *a3 = a + 3 * a_row; \
        EACH_##rows(ZERO); \
        for (size_t k = 0; k < kn; k++) { \
            const __m512 x = _mm512_load_ps(b); \
            EACH_##rows(FMA); \
            a += a_col; \
            a3 += a_col; \
            b += NN_TILE_COLS; \
        } \
        EACH_##rows(PUT); \
    }

TILE(6)
TILE(4)
TILE(2)
TILE(1)

static void tile(size_t rows, size_t cols, size_t kn, const float *a,
                 size_t a_row, size_t a_col, const float *b, float *c,
                 size_t c_row, bool add)
{
    static const struct {
        size_t rows;
        void (*tile)(size_t kn, const float *a, size_t a_row, size_t a_col,
                     const float *b, float *c, size_t c_row, __mmask16 part,
                     bool add);
    } sizes[] = {{6, tile_6}, {4, tile_4}, {2, tile_2}, {1, tile_1}};
    const __mmask16 part = (__mmask16)(0xffffu >> (NN_TILE_COLS - cols));

    if (cols <= NN_TILE_COLS / 2) { /* half a register would be wasted */
        nn_kernels_fma.tile(rows, cols, kn, a, a_row, a_col, b, c, c_row, add);
        return;
    }
    for (size_t i = 0; rows > 0; i++) {
        if (rows < sizes[i].rows)
            continue;
        sizes[i].tile(kn, a, a_row, a_col, b, c, c_row, part, add);
        rows -= sizes[i].rows;
        a += sizes[i].rows * a_row;
        c += sizes[i].rows * c_row;
    }
}

static struct nn_kernels all;

static void put_together(void)
{
    all = nn_kernels_fma;
    all.name = "avx512";
    all.tile = tile;
    all.rows = nn_avx512_rows;
}

const struct nn_kernels *nn_kernels_avx512(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (!__builtin_cpu_supports("avx512f"))
        return NULL;
    pthread_once(&once, put_together);
    return &all;
}

#else
const struct nn_kernels *nn_kernels_avx512(void)
{
    return NULL;
}
#endif
