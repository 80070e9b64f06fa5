/*
 * The portable kernels: the reference for all others.  Written to be read;
 * the formulas and their sources are in pq_kernels.h.
 */
#include "pq_kernels.h"

#include <math.h>
#include <string.h>

#include "impl.h"

/* ---- conversions ---- */

static float f16_value(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exp = h >> 10 & 31u;
    const uint32_t man = h & 0x3ffu;

    if (exp == 31)
        return pq_float(sign | PQ_ABS_INF | man << 13 |
                        (man ? 0x400000u : 0u));
    if (exp == 0)
        return pq_float(sign | pq_bits((float)man * 0x1p-24f));
    return pq_float(sign | (exp + 112) << 23 | man << 13);
}

static void f16_to_f32(const uint16_t *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f16_value(in[i]);
}

static void bf16_to_f32(const uint16_t *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = pq_float((uint32_t)in[i] << 16);
}

/*
 * e4m3 has the layout of fp16 with three bits less of mantissa and one less
 * of exponent: shifted into an fp16 it is 2^-8 of its value, subnormal
 * numbers included.
 */
static void e4m3_to_f32(const uint8_t *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t sign = (uint32_t)(in[i] & 0x80u) << 24;
        const uint32_t rest = in[i] & 0x7fu;
        const float abs = f16_value((uint16_t)(rest << 7)) * 256.0f;

        out[i] = pq_float(sign | (rest == 0x7f ? 0x7ff00000u : pq_bits(abs)));
    }
}

/* e5m2 is the upper byte of an fp16. */
static void e5m2_to_f32(const uint8_t *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f16_value((uint16_t)((unsigned)in[i] << 8));
}

/*
 * Narrowing, for all small formats: below the smallest normal number of the
 * target, adding a power of two lets the float adder round to the target's
 * subnormal step; above it, the exponent is rebased and the low bits are
 * rounded by an integer addition whose carry may run into the exponent.
 */
static uint16_t f16_from(float v)
{
    const uint32_t sign = pq_bits(v) >> 16 & 0x8000u;
    const uint32_t abs = pq_abs_bits(v);

    if (abs > PQ_ABS_INF)
        return (uint16_t)(sign | 0x7e00u | (abs >> 13 & 0x3ffu));
    if (abs >= PQ_F16_OVERFLOW)
        return (uint16_t)(sign | 0x7c00u);
    if (abs < 113u << 23)
        return (uint16_t)(sign | (pq_bits(pq_float(abs) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign |
                      (abs - (112u << 23) + 0xfffu + (abs >> 13 & 1u)) >> 13);
}

static uint16_t bf16_from(float v)
{
    const uint32_t bits = pq_bits(v);

    if (pq_abs_bits(v) > PQ_ABS_INF)
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* torch/headeronly/util/Float8_e4m3fn.h, but for overflow: see impl.h. */
static uint8_t e4m3_from(float v)
{
    const uint32_t sign = pq_bits(v) >> 24 & 0x80u;
    const uint32_t abs = pq_abs_bits(v);

    if (abs > PQ_ABS_INF)
        return (uint8_t)(sign | 0x7fu);
    if (abs > PQ_E4M3_LAST)
        return (uint8_t)(sign | PQ_E4M3_OVERFLOW);
    if (abs < 121u << 23)
        return (uint8_t)(sign |
                         (pq_bits(pq_float(abs) + 0x1p14f) - (141u << 23)));
    return (uint8_t)(sign |
                     (abs - (120u << 23) + 0x7ffffu + (abs >> 20 & 1u)) >> 20);
}

/* torch/headeronly/util/Float8_e5m2.h */
static uint8_t e5m2_from(float v)
{
    const uint32_t sign = pq_bits(v) >> 24 & 0x80u;
    const uint32_t abs = pq_abs_bits(v);

    if (abs >= 143u << 23)
        return (uint8_t)(sign | (abs > PQ_ABS_INF ? 0x7fu : 0x7cu));
    if (abs < 113u << 23)
        return (uint8_t)(sign |
                         (pq_bits(pq_float(abs) + 0x1p7f) - (134u << 23)));
    return (uint8_t)(sign |
                     (abs - (112u << 23) + 0xfffffu + (abs >> 21 & 1u)) >> 21);
}

static void f32_to_f16(const float *in, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f16_from(in[i]);
}

static void f32_to_bf16(const float *in, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = bf16_from(in[i]);
}

static void f32_to_e4m3(const float *in, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = e4m3_from(in[i]);
}

static void f32_to_e5m2(const float *in, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = e5m2_from(in[i]);
}

/* ---- statistics ---- */

static uint32_t absmax_bits(const float *x, size_t n)
{
    uint32_t max = 0;

    for (size_t i = 0; i < n; i++)
        max = pq_max_u32(max, pq_abs_bits(x[i]));
    return max;
}

/* How many values have absmax bits in [first, end). */
static size_t count_between(const float *x, size_t n, uint32_t first,
                            uint32_t end)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += pq_abs_bits(x[i]) >= first && pq_abs_bits(x[i]) < end;
    return count;
}

static size_t count_nonfinite(const float *x, size_t n)
{
    return count_between(x, n, PQ_ABS_INF, 0x80000000u);
}

static size_t count_f16_overflow(const float *x, size_t n)
{
    return count_between(x, n, PQ_F16_OVERFLOW, PQ_ABS_INF);
}

static void error_stats(const float *x, const float *y, size_t n,
                        double *signal, double *noise, float *max_abs_err)
{
    double sig[PQ_LANES] = {0}, noi[PQ_LANES] = {0};
    uint32_t max = 0;

    for (size_t i = 0; i < n; i++) {
        const double a = (double)x[i];
        const double d = a - (double)y[i];

        sig[i % PQ_LANES] += a * a;
        noi[i % PQ_LANES] += d * d;
        max = pq_max_u32(max, pq_abs_bits(x[i] - y[i]));
    }
    *signal = pq_lane_sum(sig);
    *noise = pq_lane_sum(noi);
    *max_abs_err = pq_float(max);
}

static void moments(const float *x, size_t n, struct pq_moments *m)
{
    double sum[PQ_LANES] = {0}, sq[PQ_LANES] = {0};
    float min = INFINITY, max = -INFINITY;

    *m = (struct pq_moments){0};
    for (size_t i = 0; i < n; i++) {
        const uint32_t abs = pq_abs_bits(x[i]);
        const double v = (double)x[i];

        m->zeros += abs == 0;
        m->nans += abs > PQ_ABS_INF;
        m->infs += abs == PQ_ABS_INF;
        if (abs >= PQ_ABS_INF)
            continue;
        sum[i % PQ_LANES] += v;
        sq[i % PQ_LANES] += v * v;
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    m->sum = pq_lane_sum(sum);
    m->sum_sq = pq_lane_sum(sq);
    m->min = min + 0.0f; /* -0 becomes +0: which came first must not show */
    m->max = max + 0.0f;
}

/* ---- 4-bit codes ---- */

/*
 * How many thresholds are below s, by bisection (tables.h), written so that
 * NaN is above all.  `leaves` is 16 or 256.
 */
static unsigned rank(const float *tree, unsigned leaves, float s)
{
    unsigned node = 1;

    while (node < leaves)
        node = 2 * node + !(s <= tree[node]);
    return node - leaves;
}

/* Writes the nibble of element i; the high half clears the low one. */
static void put_nibble(uint8_t *codes, size_t i, unsigned code)
{
    if (i % 2 == 0)
        codes[i / 2] = (uint8_t)(code << 4);
    else
        codes[i / 2] = (uint8_t)(codes[i / 2] | code);
}

static void pad_nibble(const struct pq_code4 *t, size_t n, uint8_t *codes)
{
    if (n % 2 != 0)
        put_nibble(codes, n, t->code[rank(t->tree, 16, 0.0f)]);
}

/* Encodes elements [at, at + n) as x * inv, ignoring absmax rules. */
static void encode4_times(const struct pq_code4 *t, const float *x, size_t at,
                          size_t n, float inv, uint8_t *codes)
{
    for (size_t i = at; i < at + n; i++)
        put_nibble(codes, i, t->code[rank(t->tree, 16, x[i] * inv)]);
}

/*
 * bitsandbytes clamps x / absmax to [-1, 1] before it looks for the code.
 * All midpoints lie inside, so the clamp changes nothing and is left out.
 */
static uint32_t encode4(const struct pq_code4 *t, const float *x, size_t n,
                        size_t block, uint8_t *codes, float *absmax)
{
    const size_t full = n - n % block;
    uint32_t max = 0;

    for (size_t at = 0; at < full; at += block) {
        const uint32_t bits = absmax_bits(x + at, block);

        absmax[at / block] = pq_float(bits);
        encode4_times(t, x, at, block, 1.0f / pq_not_tiny(pq_float(bits)),
                      codes);
        max = pq_max_u32(max, bits);
    }
    if (full < n) {
        const uint32_t bits = absmax_bits(x + full, n - full);
        const float div = pq_not_tiny(pq_float(bits));

        absmax[full / block] = div;
        for (size_t i = full; i < n; i++)
            put_nibble(codes, i, t->code[rank(t->tree, 16, x[i] / div)]);
        max = pq_max_u32(max, bits);
    }
    pad_nibble(t, n, codes);
    return max;
}

/* Sum of (s - nearest value)^2 with s = x * inv. */
static float search_error(const struct pq_code4 *t, const float *x, size_t n,
                          float inv)
{
    float lane[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        const float s = x[i] * inv;
        const float d = s - t->by_rank[rank(t->tree, 16, s)];

        lane[i % PQ_LANES] += d * d;
    }
    return pq_lane_sumf(lane);
}

/*
 * Errors are compared as (error of x / scale) * factor^2, which is free of
 * overflow for any absmax.  Blocks of next to nothing are not worth a search.
 */
float pq_search_scale(const struct pq_code4 *t, pq_search_fn *error,
                      const float *x, size_t n, float absmax, bool both_signs)
{
    float best = INFINITY, best_scale = absmax;

    if (absmax < 2.0f * PQ_TINY)
        return absmax;
    for (int i = 0; i < PQ_SEARCH_FACTORS * (both_signs ? 2 : 1); i++) {
        const float f = pq_search_factor[both_signs ? i / 2 : i];
        const float scale = both_signs && i % 2 ? -(f * absmax) : f * absmax;

        if (pq_abs_bits(scale) >= PQ_ABS_INF)
            continue;

        const float e = error(t, x, n, pq_search_inv(scale)) * (f * f);

        if (e < best) {
            best = e;
            best_scale = scale;
        }
    }
    return best_scale;
}

static uint32_t search4(const struct pq_code4 *t, const float *x, size_t n,
                        size_t block, bool both_signs, uint8_t *codes,
                        float *absmax)
{
    uint32_t max = 0;

    for (size_t at = 0; at < n; at += block) {
        const size_t len = n - at < block ? n - at : block;
        const uint32_t bits = absmax_bits(x + at, len);
        float scale = pq_float(bits);

        if (bits < PQ_ABS_INF)
            scale = pq_search_scale(t, search_error, x + at, len, scale,
                                    both_signs);
        absmax[at / block] = scale;
        encode4_times(t, x, at, len, pq_search_inv(scale), codes);
        max = pq_max_u32(max, bits);
    }
    pad_nibble(t, n, codes);
    return max;
}

static void decode4(const struct pq_code4 *t, const uint8_t *codes,
                    const float *absmax, size_t n, size_t block, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned byte = codes[i / 2];
        const unsigned code = i % 2 == 0 ? byte >> 4 : byte & 15u;

        out[i] = t->value[code] * absmax[i / block];
    }
}

static uint32_t nf4_encode(const float *x, size_t n, size_t block,
                           uint8_t *codes, float *absmax)
{
    return encode4(&pq_nf4, x, n, block, codes, absmax);
}

static uint32_t fp4_encode(const float *x, size_t n, size_t block,
                           uint8_t *codes, float *absmax)
{
    return encode4(&pq_fp4, x, n, block, codes, absmax);
}

static uint32_t nf4_search(const float *x, size_t n, size_t block,
                           bool both_signs, uint8_t *codes, float *absmax)
{
    return search4(&pq_nf4, x, n, block, both_signs, codes, absmax);
}

static uint32_t fp4_search(const float *x, size_t n, size_t block,
                           bool both_signs, uint8_t *codes, float *absmax)
{
    return search4(&pq_fp4, x, n, block, both_signs, codes, absmax);
}

static void nf4_decode(const uint8_t *codes, const float *absmax, size_t n,
                       size_t block, float *out)
{
    decode4(&pq_nf4, codes, absmax, n, block, out);
}

static void fp4_decode(const uint8_t *codes, const float *absmax, size_t n,
                       size_t block, float *out)
{
    decode4(&pq_fp4, codes, absmax, n, block, out);
}

/* ---- 8-bit codes ---- */

/*
 * Round to nearest even and saturate; NaN and what no int32 can hold become
 * -128, as cvtps2dq does it.  Near 1.5 * 2^23 a float has no fraction, so the
 * addition rounds.
 */
static int8_t int8_from(float v)
{
    if (!(v > -128.0f && v < 0x1p31f))
        return -128;
    return v > 127.0f ? 127 : (int8_t)((v + 0x1.8p23f) - 0x1.8p23f);
}

static uint32_t int8_rows_encode(const float *x, size_t rows, size_t cols,
                                 int8_t *q, float *scb)
{
    uint32_t max = 0;

    for (size_t r = 0; r < rows; r++, x += cols, q += cols) {
        /* Rounding keeps the order, so max and rounding can change places. */
        const float absmax = pq_float(absmax_bits(x, cols));
        const float inv = pq_int8_factor(f16_value(f16_from(absmax)));

        scb[r] = f16_value(f16_from(absmax));
        max = pq_max_u32(max, pq_bits(scb[r]));
        for (size_t i = 0; i < cols; i++)
            q[i] = int8_from(f16_value(f16_from(x[i])) * inv);
    }
    return max;
}

static void int8_rows_decode(const int8_t *q, const float *scb, size_t rows,
                             size_t cols, float *out)
{
    for (size_t r = 0; r < rows; r++, q += cols, out += cols) {
        for (size_t i = 0; i < cols; i++)
            out[i] = ((float)q[i] * scb[r]) * PQ_INV_127;
    }
}

/*
 * csrc/cpu_ops.cpp of bitsandbytes 0.50: clamp to [-1, 1], spread over
 * 65536 steps, look up.  NaN gives step 0.
 */
static uint32_t dyn8_encode(const float *x, size_t n, size_t block,
                            uint8_t *codes, float *absmax)
{
    const uint8_t *lut = pq_dyn8_tables()->lut;
    uint32_t max = 0;

    for (size_t at = 0; at < n; at += block) {
        const size_t end = n - at < block ? n : at + block;
        const uint32_t bits = absmax_bits(x + at, end - at);
        const float inv = bits == 0 ? 0.0f : 1.0f / pq_float(bits);

        absmax[at / block] = pq_float(bits);
        max = pq_max_u32(max, bits);
        for (size_t i = at; i < end; i++) {
            const float v = x[i] * inv;
            const float low = v > -1.0f ? v : -1.0f;
            const float c = low < 1.0f ? low : 1.0f;
            const float step = (c + 1.0f) * 0.5f * 65535.0f + 0.5f;

            codes[i] = bits == 0 ? 0 : lut[(uint16_t)step];
        }
    }
    return max;
}

static uint32_t dyn8_encode_exact(const float *x, size_t n, size_t block,
                                  uint8_t *codes, float *absmax)
{
    const float *tree = pq_dyn8_tables()->tree;
    uint32_t max = 0;

    for (size_t at = 0; at < n; at += block) {
        const size_t end = n - at < block ? n : at + block;
        const uint32_t bits = absmax_bits(x + at, end - at);
        const float inv = 1.0f / pq_not_tiny(pq_float(bits));

        absmax[at / block] = pq_float(bits);
        max = pq_max_u32(max, bits);
        for (size_t i = at; i < end; i++)
            codes[i] = (uint8_t)rank(tree, 256, x[i] * inv);
    }
    return max;
}

static void dyn8_decode(const uint8_t *codes, const float *absmax, size_t n,
                        size_t block, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = pq_dyn8_map[codes[i]] * absmax[i / block];
}

/* ---- transpose ---- */

/*
 * In square tiles, so that the lines of both arrays stay in cache.  Inlined
 * with a constant `size`, memcpy becomes one load and one store.
 */
static inline void transpose_tiles(const char *in, char *out, size_t rows,
                                   size_t cols, size_t size)
{
    const size_t tile = 64 / size < 16 ? 16 : 64 / size;

    for (size_t r0 = 0; r0 < rows; r0 += tile) {
        const size_t r1 = rows - r0 < tile ? rows : r0 + tile;

        for (size_t c0 = 0; c0 < cols; c0 += tile) {
            const size_t c1 = cols - c0 < tile ? cols : c0 + tile;

            for (size_t c = c0; c < c1; c++)
                for (size_t r = r0; r < r1; r++)
                    memcpy(out + (c * rows + r) * size,
                           in + (r * cols + c) * size, size);
        }
    }
}

static void transpose(const void *in, void *out, size_t rows, size_t cols,
                      size_t elem_size)
{
    switch (elem_size) {
    case 1:
        transpose_tiles(in, out, rows, cols, 1);
        break;
    case 2:
        transpose_tiles(in, out, rows, cols, 2);
        break;
    case 4:
        transpose_tiles(in, out, rows, cols, 4);
        break;
    case 8:
        transpose_tiles(in, out, rows, cols, 8);
        break;
    }
}

const struct pq_kernels pq_kernels_scalar_table = {
    .name = "scalar",
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
    .add_product = pq_scalar_add_product,
    .change_stats = pq_scalar_change_stats,
    .weighted_sum = pq_scalar_weighted_sum,
    .trim = pq_scalar_trim,
    .task_sum = pq_scalar_task_sum,
    .count_high = pq_scalar_count_high,
    .count_low = pq_scalar_count_low,
    .count_equal = pq_scalar_count_equal,
    .abs_sum = pq_scalar_abs_sum,
    .uniform = pq_scalar_uniform,
    .drop = pq_scalar_drop,
    .split_planes = pq_scalar_split_planes,
    .join_planes = pq_scalar_join_planes,
    .map_nonzero = pq_scalar_map_nonzero,
    .compact = pq_scalar_compact,
    .expand = pq_scalar_expand,
    .keep_from = pq_scalar_keep_from,
    .keep_groups = pq_scalar_keep_groups,
    .keep_across = pq_scalar_keep_across,
    .keep_u16 = pq_scalar_keep_u16,
    .keep_u32 = pq_scalar_keep_u32,
};
