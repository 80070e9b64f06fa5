/*
 * What the files of FMA kernels, nn_fma.c, nn_fma_rows.c, nn_avx512.c and
 * nn_avx512_rows.c, share.
 */
#ifndef PQ_NN_FMA_H
#define PQ_NN_FMA_H

#include "nn_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* For the rows of a tile; a3 is row 3 of a. */
#define EACH_1(x)   x(0)
#define EACH_2(x)   EACH_1(x); x(1)
#define EACH_4(x)   EACH_2(x); x(2); x(3)
#define EACH_6(x)   EACH_4(x); x(4); x(5)
#define ROW_OF_A(i) ((i) < 3 ? a + (i) * a_row : a3 + ((i) - 3) * a_row)

/* c = s, or c + s */
static inline void nn_put_8(float *c, __m256 s, bool add)
{
    _mm256_storeu_ps(c, add ? _mm256_add_ps(_mm256_loadu_ps(c), s) : s);
}

/*
 * Turns the 4 x 4 corners of r[8][8] where they are: of each four rows both
 * halves.  Two rounds of exchanges.
 */
static inline void nn_turn_4x4(__m256 r[8])
{
    __m256 t[8];

    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
}

void nn_fma_rows(const struct nn_rows *r, float *c, bool add);
void nn_avx512_rows(const struct nn_rows *r, float *c, bool add);

#endif
#endif
