/*
 * The arithmetic of pq: conversions, block quantizers, statistics, the
 * transpose and byte planes, one core at a time, on plain arrays.
 *
 * Every function exists as portable C ("scalar", the reference) and as AVX2
 * code ("avx2").  Both give the same bytes for the same input, NaN and
 * infinity included; the tests compare them bit for bit.  What is needed for
 * that: no fused multiply-add anywhere, and sums in eight fixed lanes
 * (element i goes to lane i % 8) that are added in one fixed order:
 * ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).  The exception are sums over
 * data that contain NaN: they are NaN in both, with any payload.
 *
 * The quantizers follow bitsandbytes 0.50 on CPU byte for byte, except for
 * the *_search and *_exact functions, which write the same format with less
 * error.
 *
 * Rules for all functions:
 *  - arrays are aligned for their element type and do not overlap;
 *  - n = 0 is fine and touches nothing;
 *  - nothing is allocated, nothing fails, no state is kept: all may be
 *    called from any number of threads;
 *  - the floating-point environment is the default one (round to nearest,
 *    subnormal numbers kept).
 *
 * "absmax bits" are the bits of a float without its sign, compared as
 * integers: below 0x7f800000 all values were finite, equal to it there was an
 * infinity, above it a NaN.
 */
#ifndef PQ_KERNELS_H
#define PQ_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The absmax bits of infinity: at or above it, not all values are finite. */
#define PQ_ABS_INF UINT32_C(0x7f800000)

/* The absmax bits of one float: in the order of the magnitudes, NaN last. */
static inline uint32_t pq_abs_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    return u & UINT32_C(0x7fffffff);
}

/* What moments() finds in an array of n values. */
struct pq_moments {
    double sum;    /* of the finite values */
    double sum_sq; /* of their squares */
    float min;     /* of the finite values; +Inf when there are none */
    float max;     /* of the finite values; -Inf when there are none */
    uint64_t zeros; /* +0 and -0 */
    uint64_t nans;
    uint64_t infs;
};

/* A weighted sum of changes to a base: see task_sum. */
struct pq_task_sum {
    const float *w; /* [k] */
    size_t k;
    bool elect;     /* only what has the sign of the weighted sum counts */
    bool normalize; /* divide by `divisor`, or by the weights that counted */
    float divisor, lambda;
};

/* Magnitudes are counted by their upper 16 bits, then by the lower ones. */
#define PQ_LOW_BITS   15
#define PQ_HIGH_COUNT 65536u
#define PQ_LOW_COUNT  32768u

struct pq_kernels {
    const char *name; /* "scalar" or "avx2" */

    /*
     * Widen n values to float.  Exact; a NaN keeps sign and payload and
     * becomes quiet, as the F16C instructions do it.  bf16 is a plain shift
     * (a signalling NaN stays one).  The NaN of e4m3 gives 0x7ff00000 and
     * the sign, as in PyTorch.
     */
    void (*f16_to_f32)(const uint16_t *in /* [n] */, size_t n,
                       float *out /* [n] */);
    void (*bf16_to_f32)(const uint16_t *in /* [n] */, size_t n,
                        float *out /* [n] */);
    void (*e4m3_to_f32)(const uint8_t *in /* [n] */, size_t n,
                        float *out /* [n] */);
    void (*e5m2_to_f32)(const uint8_t *in /* [n] */, size_t n,
                        float *out /* [n] */);

    /*
     * Narrow n floats, round to nearest, ties to even.
     *   f16   overflow (from 65520 on) gives Inf; NaN keeps its sign and its
     *         upper payload bits and becomes quiet (F16C)
     *   bf16  every NaN gives 0x7fc0 (PyTorch: that, or 0xffff, depending
     *         on the CPU)
     *   e4m3  float8_e4m3fn: there is no Inf, everything above 464 gives 448
     *         (0x7e), NaN gives 0x7f, both with the sign (PyTorch 2.15)
     *   e5m2  overflow (from 61440 on) gives Inf (0x7c), NaN gives 0x7f,
     *         both with the sign
     */
    void (*f32_to_f16)(const float *in /* [n] */, size_t n,
                       uint16_t *out /* [n] */);
    void (*f32_to_bf16)(const float *in /* [n] */, size_t n,
                        uint16_t *out /* [n] */);
    void (*f32_to_e4m3)(const float *in /* [n] */, size_t n,
                        uint8_t *out /* [n] */);
    void (*f32_to_e5m2)(const float *in /* [n] */, size_t n,
                        uint8_t *out /* [n] */);

    /* The largest absmax bits of x; 0 when n is 0. */
    uint32_t (*absmax_bits)(const float *x /* [n] */, size_t n);
    /* How many values are NaN or infinite. */
    size_t (*count_nonfinite)(const float *x /* [n] */, size_t n);
    /* How many finite values become infinite as fp16: |x| >= 65520. */
    size_t (*count_f16_overflow)(const float *x /* [n] */, size_t n);

    /*
     * 4-bit quantization in blocks of `block` >= 1 consecutive elements:
     *   absmax[b] = max |x|,  code = nearest of 16 values to x / absmax[b],
     *   ties to the lower value; two codes per byte, first in the high half.
     * A full block multiplies by 1 / max(absmax, 1e-38); a last partial
     * block divides, and stores max(absmax, 1e-38).  When n is odd, the last
     * low half is the code of 0.  So a partial block is allowed only at the
     * end of a tensor: to work in pieces, cut at whole blocks and, when
     * `block` is odd, at an even number of them.
     * Returns the absmax bits of all of x.  In a block with a NaN or an
     * infinity the codes are what the formula gives, a NaN having code 15
     * (nf4) or 3 (fp4).
     */
    uint32_t (*nf4_encode)(const float *x /* [n] */, size_t n, size_t block,
                           uint8_t *codes /* [ceil(n/2)] */,
                           float *absmax /* [ceil(n/block)] */);
    uint32_t (*fp4_encode)(const float *x /* [n] */, size_t n, size_t block,
                           uint8_t *codes /* [ceil(n/2)] */,
                           float *absmax /* [ceil(n/block)] */);

    /*
     * The same format with less error (about +0.9 dB for nf4 on Gaussian
     * weights): of 15 scales from 0.75 to 1.10 times absmax, each block gets
     * the one with the least squared error, and `absmax` receives this scale.
     * With `both_signs` the negated scales are tried too; every reader that
     * multiplies by absmax accepts them, but double quantization of absmax
     * wants positive ones.  Equal errors: the plain absmax first, then the
     * smaller factor, positive before negative.  Codes are nearest to
     * x * (1 / scale) in the last block too.  A block that is not finite is
     * encoded as a full block by the rules above.  Returns as above.
     * Twenty times slower than *_encode, forty with both signs.
     */
    uint32_t (*nf4_search)(const float *x /* [n] */, size_t n, size_t block,
                           bool both_signs, uint8_t *codes /* [ceil(n/2)] */,
                           float *absmax /* [ceil(n/block)] */);
    uint32_t (*fp4_search)(const float *x /* [n] */, size_t n, size_t block,
                           bool both_signs, uint8_t *codes /* [ceil(n/2)] */,
                           float *absmax /* [ceil(n/block)] */);

    /* out = value of the code * absmax of its block, rounded to float. */
    void (*nf4_decode)(const uint8_t *codes /* [ceil(n/2)] */,
                       const float *absmax /* [ceil(n/block)] */, size_t n,
                       size_t block, float *out /* [n] */);
    void (*fp4_decode)(const uint8_t *codes /* [ceil(n/2)] */,
                       const float *absmax /* [ceil(n/block)] */, size_t n,
                       size_t block, float *out /* [n] */);

    /*
     * LLM.int8() weights.  Values are rounded to fp16 first; then, per row,
     *   scb = max |w|,  q = rint(w * (1 / scb * 127))  (0 when scb is 0).
     * Returns the absmax bits of the fp16 values, so that overflow to
     * infinity shows.  In a row that is not finite, NaN has q = -128.
     */
    uint32_t (*int8_rows_encode)(const float *x /* [rows][cols] */,
                                 size_t rows, size_t cols,
                                 int8_t *q /* [rows][cols] */,
                                 float *scb /* [rows] */);
    /* out = (q * scb) * 7.874015718698502e-3f, as int8_vectorwise_dequant. */
    void (*int8_rows_decode)(const int8_t *q /* [rows][cols] */,
                             const float *scb /* [rows] */, size_t rows,
                             size_t cols, float *out /* [rows][cols] */);

    /*
     * 8-bit block quantization to the signed dynamic map (256 values).
     * dyn8_encode is the approximate table look-up of bitsandbytes on CPU
     * (a block of zeros gets code 0, that is -0.993 * 0); dyn8_encode_exact
     * takes the nearest value to x * (1 / max(absmax, 1e-38)), ties to the
     * lower.  Both accept any `block` >= 1 and return the absmax bits of x.
     */
    uint32_t (*dyn8_encode)(const float *x /* [n] */, size_t n, size_t block,
                            uint8_t *codes /* [n] */,
                            float *absmax /* [ceil(n/block)] */);
    uint32_t (*dyn8_encode_exact)(const float *x /* [n] */, size_t n,
                                  size_t block, uint8_t *codes /* [n] */,
                                  float *absmax /* [ceil(n/block)] */);
    void (*dyn8_decode)(const uint8_t *codes /* [n] */,
                        const float *absmax /* [ceil(n/block)] */, size_t n,
                        size_t block, float *out /* [n] */);

    /*
     * The error of y as a copy of x: *signal = sum x^2, *noise =
     * sum (x - y)^2, both in double, *max_abs_err = max |x - y| in float
     * (NaN when there is one).  The three are set, not added to.  Sums over
     * pieces differ in the last bits from the sum over the whole: use pieces
     * of a fixed size.
     */
    void (*error_stats)(const float *x /* [n] */, const float *y /* [n] */,
                        size_t n, double *signal, double *noise,
                        float *max_abs_err);
    /* Fills *m; the remark on pieces holds here too. */
    void (*moments)(const float *x /* [n] */, size_t n, struct pq_moments *m);

    /* out[c][r] = in[r][c]; elem_size is 1, 2, 4 or 8 bytes. */
    void (*transpose)(const void *in /* [rows][cols] */,
                      void *out /* [cols][rows] */, size_t rows, size_t cols,
                      size_t elem_size);

    /*
     * x += scale * (l r), a thin product added to rows of a matrix.  Each
     * element is summed over the rank in order, from 0, in float; then
     * scaled; then added.
     */
    void (*add_product)(const float *l /* [rows][rank] */, size_t rows,
                        size_t rank, const float *r /* [rank][stride] */,
                        size_t stride, size_t cols, float scale,
                        float *x /* [rows][x_stride] */, size_t x_stride);
    /*
     * How y, which x became by rounding, keeps the change x - base:
     * sums = {sum (x-base)^2, sum (y-base)^2, sum (x-base)(y-base)}.
     */
    void (*change_stats)(const float *base /* [n] */, const float *x /* [n] */,
                         const float *y /* [n] */, size_t n, double sums[3]);

    /*
     * Blends.  All sums go over the k arrays in order, from 0, in float;
     * products and sums are rounded each.
     *
     * out = (sum of w[i] x[i]) / divisor
     */
    void (*weighted_sum)(const float *x /* [k][stride] */, size_t stride,
                         const float *w /* [k] */, size_t k, float divisor,
                         size_t n, float *out /* [n] */);
    /* d = x - base where its absmax bits are in [low, high], else +0. */
    void (*trim)(const float *x /* [n] */, const float *base /* [n] */,
                 size_t n, uint32_t low, uint32_t high, float *d /* [n] */);
    /*
     * out = base + lambda m, where p[i] = w[i] d[i] and s = sum of p[i]:
     *   m = s, divided by t->divisor if it is normalized;
     *   or with `elect` the sum of those p[i] only that have the sign of s
     *   (which is positive when it is 0; what is 0 has none), divided by the
     *   sum of their w[i] if it is normalized, unless that is 0.
     */
    void (*task_sum)(const struct pq_task_sum *t, const float *base /* [n] */,
                     const float *d /* [k][stride] */, size_t stride,
                     size_t n, float *out /* [n] */);
    /* Counts |x - base| by the upper bits of its absmax bits. */
    void (*count_high)(const float *x /* [n] */, const float *base /* [n] */,
                       size_t n, uint32_t *count /* [PQ_HIGH_COUNT] */);
    /* Counts by the lower bits those whose upper ones are `high`. */
    void (*count_low)(const float *x /* [n] */, const float *base /* [n] */,
                      size_t n, uint32_t high,
                      uint32_t *count /* [PQ_LOW_COUNT] */);
    /* How many |x - base| have these absmax bits. */
    size_t (*count_equal)(const float *x /* [n] */, const float *base /* [n] */,
                          size_t n, uint32_t bits);
    /* sum |x|, in double */
    double (*abs_sum)(const float *x /* [n] */, size_t n);
    /*
     * Random numbers in [0, 1), multiples of 2^-24: blocks [block, block +
     * n_blocks) of a stream of Philox4x32-10, four numbers each.
     */
    void (*uniform)(const uint32_t key[2], const uint32_t stream[2],
                    uint64_t block, size_t n_blocks,
                    float *out /* [4 n_blocks] */);
    /* d = +0 unless its lot is below its chance; `over`: d / chance. */
    void (*drop)(const float *lots /* [n] */, const float *chance /* [n] */,
                 size_t n, bool over, float *d /* [n] */);

    /*
     * Byte planes of n elements of `width` (1, 2, 4 or 8) bytes, little-
     * endian, in any alignment: plane k holds byte k of each element.  With
     * `up` = 1 (width 2 or 4) elements are rotated left by one bit before
     * they are split, and back after they are joined; else it is 0.
     */
    void (*split_planes)(const void *in /* [n][width] */, size_t n,
                         size_t width, unsigned up,
                         uint8_t *planes /* [width][n] */);
    void (*join_planes)(const uint8_t *const *planes /* [width], each [n] */,
                        size_t n, size_t width, unsigned up,
                        void *out /* [n][width] */);
    /*
     * Bit i % 8 of byte i / 8 is set when a byte of element i is not zero;
     * the bits behind the last are 0.  Returns how many are set.
     */
    size_t (*map_nonzero)(const void *in /* [n][width] */, size_t n,
                          size_t width, uint8_t *bits /* [ceil(n/8)] */);
    /*
     * Moves the elements whose bits are set together.  `out` may be `in`;
     * what is behind them in it may change.
     */
    void (*compact)(const uint8_t *bits /* [ceil(n/8)] */,
                    const void *in /* [n][width] */, size_t n, size_t width,
                    void *out /* [n][width] */);
    /*
     * And apart again, with zeros between; exactly `ones` bits are set.  `in`
     * may be the end of `out`.
     */
    void (*expand)(const uint8_t *bits /* [ceil(n/8)] */,
                   const void *in /* [ones][width] */, size_t ones, size_t n,
                   size_t width, void *out /* [n][width] */);

    /*
     * Pruning.  What is kept is told by bits: that of element i is bit i % 8
     * of byte i / 8; those behind the last element are 0.
     *
     * Kept is what has absmax bits of `low` or more.
     */
    void (*keep_from)(const float *x /* [n] */, size_t n, uint32_t low,
                      uint8_t *keep /* [ceil(n/8)] */);
    /*
     * Of each group of elements, n being a multiple of `group`, go the `drop`
     * with the smallest absmax bits, of equal ones those that come first.
     */
    void (*keep_groups)(const float *x /* [n] */, size_t n, unsigned group,
                        unsigned drop, uint8_t *keep /* [ceil(n/8)] */);
    /* The same for n groups side by side, each down a column. */
    void (*keep_across)(const float *x /* [group][stride] */, size_t stride,
                        unsigned group, unsigned drop, size_t n,
                        uint8_t *keep /* [group][keep_stride] */,
                        size_t keep_stride);
    /* out = in where it is kept, else 0. */
    void (*keep_u16)(const uint16_t *in /* [n] */,
                     const uint8_t *keep /* [ceil(n/8)] */, size_t n,
                     uint16_t *out /* [n] */);
    void (*keep_u32)(const uint32_t *in /* [n] */,
                     const uint8_t *keep /* [ceil(n/8)] */, size_t n,
                     uint32_t *out /* [n] */);
};

/* The portable kernels.  Never NULL; the table is static. */
const struct pq_kernels *pq_kernels_scalar(void);

/* The fastest kernels that this machine can run.  Never NULL. */
const struct pq_kernels *pq_kernels_best(void);

/*
 * The kernels called `name`, or NULL when there are none of this name or
 * this machine cannot run them.
 */
const struct pq_kernels *pq_kernels_named(const char *name);

#ifdef __cplusplus
}
#endif
#endif
