/*
 * Shared by the kernel files and by nobody else: the tables of functions,
 * and the few lines that must be the same in every variant.
 */
#ifndef PQ_KERNELS_IMPL_H
#define PQ_KERNELS_IMPL_H

#include "pq_kernels.h"

#include <string.h>

#include "tables.h"

extern const struct pq_kernels pq_kernels_scalar_table;
extern const struct pq_kernels pq_kernels_avx2_table;

/* Lanes of every sum: element i of an array (or block) goes to lane i % 8. */
#define PQ_LANES 8

/* bitsandbytes never divides by less than this (a subnormal float). */
#define PQ_TINY 1e-38f

/* 1 / 127 as written in bitsandbytes' int8_vectorwise_dequant. */
#define PQ_INV_127 7.874015718698502e-3f

/* Bits of the smallest float that rounds to infinity as fp16: 65520. */
#define PQ_F16_OVERFLOW UINT32_C(0x477ff000)

/*
 * e4m3 has no infinity.  Up to 464 a value still rounds to 448, the largest;
 * above it and for infinity the result is this byte, 448, as in PyTorch 2.15.
 * So an overflow does not show in the result: callers look at absmax_bits.
 */
#define PQ_E4M3_LAST UINT32_C(0x43e80000) /* bits of 464.0f */
#define PQ_E4M3_OVERFLOW 0x7e

static inline uint32_t pq_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float pq_float(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint32_t pq_max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* max(absmax, 1e-38), but NaN stays NaN. */
static inline float pq_not_tiny(float absmax)
{
    return absmax < PQ_TINY ? PQ_TINY : absmax;
}

/* 1 / scale for the search kernels; the scale may be negative. */
static inline float pq_search_inv(float scale)
{
    return scale < 0.0f ? -(1.0f / pq_not_tiny(-scale))
                        : 1.0f / pq_not_tiny(scale);
}

/* The factor of LLM.int8(): 127 / scb in the order in which torch does it. */
static inline float pq_int8_factor(float scb)
{
    return scb == 0.0f ? 0.0f : (1.0f / scb) * 127.0f;
}

/* The one order in which eight lanes are added. */
static inline double pq_lane_sum(const double v[PQ_LANES])
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static inline float pq_lane_sumf(const float v[PQ_LANES])
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* The error of a block as 4-bit codes of x * inv: see *_search in
   pq_kernels.h. */
typedef float pq_search_fn(const struct pq_code4 *t, const float *x /* [n] */,
                           size_t n, float inv);

/* The best scale of a finite block, with the error function of a variant. */
float pq_search_scale(const struct pq_code4 *t, pq_search_fn *error,
                      const float *x /* [n] */, size_t n, float absmax,
                      bool both_signs);

/* change.c */
void pq_scalar_add_product(const float *l, size_t rows, size_t rank,
                           const float *r, size_t stride, size_t cols,
                           float scale, float *x, size_t x_stride);
void pq_scalar_change_stats(const float *base, const float *x, const float *y,
                            size_t n, double sums[3]);

/* blend.c */
void pq_scalar_weighted_sum(const float *x, size_t stride, const float *w,
                            size_t k, float divisor, size_t n, float *out);
void pq_scalar_trim(const float *x, const float *base, size_t n, uint32_t low,
                    uint32_t high, float *d);
void pq_scalar_task_sum(const struct pq_task_sum *t, const float *base,
                        const float *d, size_t stride, size_t n, float *out);
/* Elements [from, n) of it. */
void pq_task_sum_rest(const struct pq_task_sum *t, const float *base,
                      const float *d, size_t stride, size_t from, size_t n,
                      float *out);
void pq_scalar_count_high(const float *x, const float *base, size_t n,
                          uint32_t *count);
void pq_scalar_count_low(const float *x, const float *base, size_t n,
                         uint32_t high, uint32_t *count);
size_t pq_scalar_count_equal(const float *x, const float *base, size_t n,
                             uint32_t bits);
double pq_scalar_abs_sum(const float *x, size_t n);
void pq_scalar_uniform(const uint32_t key[2], const uint32_t stream[2],
                       uint64_t block, size_t n_blocks, float *out);
void pq_scalar_drop(const float *lots, const float *chance, size_t n, bool over,
                    float *d);

/* planes.c */
void pq_scalar_split_planes(const void *in, size_t n, size_t width,
                            unsigned up, uint8_t *planes);
void pq_scalar_join_planes(const uint8_t *const *planes, size_t n, size_t width,
                           unsigned up, void *out);
size_t pq_scalar_map_nonzero(const void *in, size_t n, size_t width,
                             uint8_t *bits);
void pq_scalar_compact(const uint8_t *bits, const void *in, size_t n,
                       size_t width, void *out);
void pq_scalar_expand(const uint8_t *bits, const void *in, size_t ones,
                      size_t n, size_t width, void *out);

/* prune.c */
void pq_scalar_keep_from(const float *x, size_t n, uint32_t low, uint8_t *keep);
void pq_scalar_keep_groups(const float *x, size_t n, unsigned group,
                           unsigned drop, uint8_t *keep);
void pq_scalar_keep_across(const float *x, size_t stride, unsigned group,
                           unsigned drop, size_t n, uint8_t *keep,
                           size_t keep_stride);
void pq_scalar_keep_u16(const uint16_t *in, const uint8_t *keep, size_t n,
                        uint16_t *out);
void pq_scalar_keep_u32(const uint32_t *in, const uint8_t *keep, size_t n,
                        uint32_t *out);

#endif
