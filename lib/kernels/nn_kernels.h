/*
 * The arithmetic of running a model: tiles of the one matrix product,
 * exponentials, sums.
 *
 * Unlike those of pq_kernels.h these use fused multiply-adds, in every
 * variant: fmaf() in the portable one, one instruction in the others.  What
 * each function computes is fixed down to the order of its operations, so
 * all variants give the same bits; the tests compare them.
 *
 * Sums of arrays run in eight lanes: element i goes to lane i % 8, lanes are
 * added as ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
 */
#ifndef PQ_NN_KERNELS_H
#define PQ_NN_KERNELS_H

#include "pq_kernels.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NN_TILE_ROWS 6  /* rows of c in a tile */
#define NN_TILE_COLS 16 /* columns of c in a tile; rows of a packed panel */
#define NN_BLOCK_K   256 /* terms of one chain of multiply-adds */

/* NN_TILE_COLS rows as they are stored, from some column on. */
struct nn_rows {
    enum nn_rows_kind {
        NN_ROWS_F32, NN_ROWS_F16, NN_ROWS_BF16, NN_ROWS_INT8, NN_ROWS_CODES
    } kind;
    unsigned bits;    /* of an element: 32, 16, 16, 8, 4 */
    const uint8_t *w; /* [NN_TILE_COLS][row_bytes] */
    size_t row_bytes;
    size_t kn;          /* elements of a row; <= NN_BLOCK_K */
    const float *scale; /* int8: SCB; codes: absmax, a block each */
    size_t scale_row;   /* from those of a row to those of the next */
    const float *map;   /* [16] of codes */
    size_t block;       /* of codes; one begins at the first element, or all
                           are in one */
    const float *a;     /* [kn] */
};

/* What a step of AdamW is made of; lib/nn/adamw.c says what is what. */
struct nn_adamw_numbers {
    float clip, shrink, keep1, keep2, new2, root2, eps, rate;
};

struct nn_kernels {
    const char *name; /* "scalar", "fma" or "avx512" */

    /*
     * A tile of a product: for every i < rows, j < cols
     *   s = 0;  s = fma(a[i][k], b[k][j], s) for k = 0 .. kn - 1
     *   c[i][j] = s, or c[i][j] + s when `add`
     * Element [i][k] of a is a[i * a_row + k * a_col]; rows <= NN_TILE_ROWS,
     * cols <= NN_TILE_COLS, kn <= NN_BLOCK_K; b has all its columns.
     */
    void (*tile)(size_t rows, size_t cols, size_t kn, const float *a,
                 size_t a_row, size_t a_col,
                 const float *b /* [kn][NN_TILE_COLS] */,
                 float *c /* [rows][c_row] */, size_t c_row, bool add);
    /*
     * A tile of one row and all columns straight from the rows of b: the same
     * sums.  Rows hold whole 32 bytes; blocks of codes are multiples of 64.
     * NULL where it would be no faster than packing.
     */
    void (*rows)(const struct nn_rows *r, float *c /* [NN_TILE_COLS] */,
                 bool add);
    /* out[k][j] = in[j][k], j < NN_TILE_COLS */
    void (*turn)(const float *in /* [NN_TILE_COLS][in_row] */, size_t in_row,
                 size_t kn, float *out /* [kn][NN_TILE_COLS] */);

    /* y = e^x; 2 units in the last place, 0 below -104, Inf above 88.73. */
    void (*exp)(float *y /* [n] */, const float *x /* [n] */, size_t n);
    /* x = e^(x - max), returns the sum: the heart of a softmax. */
    float (*exp_sum)(float *x /* [n] */, size_t n, float max);
    float (*max)(const float *x /* [n] */, size_t n); /* -Inf when n is 0 */
    float (*sum)(const float *x /* [n] */, size_t n);
    /* sum of fma(x, y) */
    float (*dot)(const float *x /* [n] */, const float *y /* [n] */, size_t n);
    /* y = fma(a, x, y) */
    void (*axpy)(float *y /* [n] */, float a, const float *x /* [n] */,
                 size_t n);
    /* y = x * a */
    void (*scale)(float *y /* [n] */, const float *x /* [n] */, float a,
                  size_t n);
    /* y = (x * a) * w */
    void (*scale_by)(float *y /* [n] */, const float *x /* [n] */, float a,
                     const float *w /* [n] */, size_t n);
    /* y = x + z */
    void (*add)(float *y /* [n] */, const float *x /* [n] */,
                const float *z /* [n] */, size_t n);
    /* y = g / (1 + e^-g) * u; u NULL is all ones */
    void (*silu)(float *y /* [n] */, const float *g /* [n] */,
                 const float *u /* [n] or NULL */, size_t n);
    /* y = gelu(g) * u, gelu(g) = g / (1 + e^-2k), k as in gelu_new */
    void (*gelu)(float *y /* [n] */, const float *g /* [n] */,
                 const float *u /* [n] or NULL */, size_t n);
    /* y = tanh(x) */
    void (*tanh)(float *y /* [n] */, const float *x /* [n] */, size_t n);
    /* d = s (1 + g (1 - s)), y = g s, s = 1 / (1 + e^-g): silu' and silu */
    void (*silu_slope)(float *d /* [n] */, float *y /* [n] */,
                       const float *g /* [n] */, size_t n);
    /* A step for n numbers; g becomes 0. */
    void (*adamw)(float *w /* [n] */, float *g /* [n] */, float *m /* [n] */,
                  float *v /* [n] */, size_t n,
                  const struct nn_adamw_numbers *a);
};

extern const struct nn_kernels nn_kernels_scalar;
extern const struct nn_kernels nn_kernels_fma;
/* NULL if this machine cannot run them. */
const struct nn_kernels *nn_kernels_avx512(void);

/*
 * Those that go with k: the scalar ones with the scalar ones, else the
 * fastest of this machine.  Never NULL.
 */
const struct nn_kernels *nn_kernels_for(const struct pq_kernels *k);

#ifdef __cplusplus
}
#endif
#endif
