/*
 * The AVX2 and FMA kernels of lib/nn: the same bits as nn_scalar.c.  This
 * and nn_fma_rows.c are all that is compiled with -mfma; multiply-adds are
 * written out, never left to the compiler.
 *
 * A tile keeps its sums in registers: 6 x 16 floats are 12 of the 16, two
 * hold a row of b, one an element of a.  They are variables, not an array,
 * which gcc 12 would keep in memory.
 */
#include "nn_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "impl.h"
#include "nn_fma.h"
#include "nn_math.h"

/* ---- tiles ---- */

/*
 * A row i of sums and its element of a (ROW_OF_A), for tiles of 16 columns
 * and of 8, which do not look at the second half of b.
 */
#define ROW_OF_B_16 \
    const __m256 b0 = _mm256_load_ps(b), b1 = _mm256_load_ps(b + 8)
#define ROW_OF_B_8 const __m256 b0 = _mm256_load_ps(b)
#define ZERO_16(i) __m256 s##i##0 = _mm256_setzero_ps(), s##i##1 = s##i##0
#define ZERO_8(i)  __m256 s##i##0 = _mm256_setzero_ps()
#define FMA_16(i) \
    x = _mm256_broadcast_ss(ROW_OF_A(i)); \
    s##i##0 = _mm256_fmadd_ps(x, b0, s##i##0); \
    s##i##1 = _mm256_fmadd_ps(x, b1, s##i##1)
#define FMA_8(i) \
    x = _mm256_broadcast_ss(ROW_OF_A(i)); \
    s##i##0 = _mm256_fmadd_ps(x, b0, s##i##0)
#define PUT_16(i) \
    nn_put_8(c + (i) * c_row, s##i##0, add); \
    nn_put_8(c + (i) * c_row + 8, s##i##1, add)
#define PUT_8(i) nn_put_8(c + (i) * c_row, s##i##0, add)

#define TILE(rows, cols) \
    static void tile_##rows##x##cols(size_t kn, const float *a, size_t a_row, \
                                     size_t a_col, const float *b, float *c, \
                                     size_t c_row, bool add) \
    { \
        const float *a3 = a + 3 * a_row; \
        EACH_##rows(ZERO_##cols); \
        for (size_t k = 0; k < kn; k++) { \
            ROW_OF_B_##cols; \
            __m256 x; \
            EACH_##rows(FMA_##cols); \
            a += a_col; \
            a3 += a_col; \
            b += NN_TILE_COLS; \
        } \
        EACH_##rows(PUT_##cols); \
    }

TILE(6, 16)
TILE(4, 16)
TILE(2, 16)
TILE(1, 16)
TILE(6, 8)
TILE(4, 8)
TILE(2, 8)
TILE(1, 8)

typedef void tile_of(size_t kn, const float *a, size_t a_row, size_t a_col,
                     const float *b, float *c, size_t c_row, bool add);

/* Whole columns, 8 or 16; rows in the largest tiles that fit. */
static void tile_whole(size_t rows, size_t cols, size_t kn, const float *a,
                       size_t a_row, size_t a_col, const float *b, float *c,
                       size_t c_row, bool add)
{
    static const struct {
        size_t rows;
        tile_of *half, *full;
    } sizes[] = {{6, tile_6x8, tile_6x16},
                 {4, tile_4x8, tile_4x16},
                 {2, tile_2x8, tile_2x16},
                 {1, tile_1x8, tile_1x16}};

    for (size_t i = 0; rows > 0; i++) {
        if (rows < sizes[i].rows)
            continue;
        (cols == 8 ? sizes[i].half : sizes[i].full)(kn, a, a_row, a_col, b, c,
                                                    c_row, add);
        rows -= sizes[i].rows;
        a += sizes[i].rows * a_row;
        c += sizes[i].rows * c_row;
    }
}

static void tile(size_t rows, size_t cols, size_t kn, const float *a,
                 size_t a_row, size_t a_col, const float *b, float *c,
                 size_t c_row, bool add)
{
    const size_t whole = cols <= 8 ? 8 : NN_TILE_COLS;
    float part[NN_TILE_ROWS][NN_TILE_COLS];

    if (cols == whole) {
        tile_whole(rows, cols, kn, a, a_row, a_col, b, c, c_row, add);
        return;
    }
    tile_whole(rows, whole, kn, a, a_row, a_col, b, part[0], NN_TILE_COLS,
               false);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * c_row + j] =
                add ? c[i * c_row + j] + part[i][j] : part[i][j];
}

/* An 8 x 8 corner: rows become columns, in three rounds of exchanges. */
static inline void turn_8x8(const float *in, size_t in_row, float *out)
{
    __m256 r[8];

    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(in + (size_t)i * in_row);
    nn_turn_4x4(r);
    for (int i = 0; i < 4; i++) {
        _mm256_store_ps(out + i * NN_TILE_COLS,
                        _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_store_ps(out + (i + 4) * NN_TILE_COLS,
                        _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

static void turn(const float *in, size_t in_row, size_t kn, float *out)
{
    size_t k = 0;

    for (; k + 8 <= kn; k += 8) {
        turn_8x8(in + k, in_row, out + k * NN_TILE_COLS);
        turn_8x8(in + 8 * in_row + k, in_row, out + k * NN_TILE_COLS + 8);
    }
    for (; k < kn; k++)
        for (size_t j = 0; j < NN_TILE_COLS; j++)
            out[k * NN_TILE_COLS + j] = in[j * in_row + k];
}

/* ---- elementary functions ---- */

static inline __m256 pow2_8(__m256i n)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

static inline __m256 fma_1(__m256 a, __m256 b, float c)
{
    return _mm256_fmadd_ps(a, b, _mm256_set1_ps(c));
}

static inline __m256 exp_8(__m256 in)
{
    /* min(c, x) and max(c, x) give x when it is NaN */
    __m256 x = _mm256_min_ps(_mm256_set1_ps(NN_EXP_HIGH), in);
    x = _mm256_max_ps(_mm256_set1_ps(NN_EXP_LOW), x);
    const __m256 t = fma_1(x, _mm256_set1_ps(NN_LOG2E), NN_ROUND);
    const __m256 n = _mm256_sub_ps(t, _mm256_set1_ps(NN_ROUND));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-NN_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-NN_LN2_LOW), r);
    __m256 p = fma_1(_mm256_set1_ps(NN_EXP_C7), r, NN_EXP_C6);
    p = fma_1(p, r, NN_EXP_C5);
    p = fma_1(p, r, NN_EXP_C4);
    p = fma_1(p, r, NN_EXP_C3);
    p = fma_1(p, r, NN_EXP_C2);
    p = fma_1(p, r, 1.0f);
    p = fma_1(p, r, 1.0f);
    const __m256i whole = _mm256_cvttps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256 y =
        _mm256_mul_ps(_mm256_mul_ps(p, pow2_8(half)),
                      pow2_8(_mm256_sub_epi32(whole, half)));
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

static inline __m256 silu_8(__m256 g)
{
    const __m256 e = exp_8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));

    return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static inline __m256 gelu_8(__m256 g)
{
    const __m256 s =
        fma_1(_mm256_set1_ps(NN_GELU_B), _mm256_mul_ps(g, g), 1.0f);
    const __m256 k = _mm256_mul_ps(g, s);
    const __m256 e = exp_8(_mm256_mul_ps(_mm256_set1_ps(NN_GELU_A), k));

    return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static inline __m256 tanh_8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    const __m256 e = exp_8(_mm256_mul_ps(two, x));
    const __m256 large =
        _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(e, one)));
    const __m256 z = _mm256_mul_ps(x, x);
    __m256 p = fma_1(_mm256_set1_ps(NN_TANH_C4), z, NN_TANH_C3);
    p = fma_1(p, z, NN_TANH_C2);
    p = fma_1(p, z, NN_TANH_C1);
    p = fma_1(p, z, NN_TANH_C0);
    const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(p, z), x, x);
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);

    return _mm256_blendv_ps(
        small, large,
        _mm256_cmp_ps(size, _mm256_set1_ps(NN_TANH_SMALL), _CMP_GE_OQ));
}

/* ---- arrays ---- */

/* The sum of the lanes and of what is left over, each in its lane. */
static float lanes_and_rest(__m256 v, const float *rest, size_t n)
{
    float lanes[PQ_LANES];

    _mm256_storeu_ps(lanes, v);
    for (size_t i = 0; i < n; i++)
        lanes[i] += rest[i];
    return pq_lane_sumf(lanes);
}

static void exp_all(float *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, exp_8(_mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] = nn_exp1(x[i]);
}

static float exp_sum(float *x, size_t n, float max)
{
    const __m256 m = _mm256_set1_ps(max);
    __m256 s = _mm256_setzero_ps();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 y = exp_8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m));
        _mm256_storeu_ps(x + i, y);
        s = _mm256_add_ps(s, y);
    }
    for (size_t j = i; j < n; j++)
        x[j] = nn_exp1(x[j] - max);
    return lanes_and_rest(s, x + i, n - i);
}

static float max_of(const float *x, size_t n)
{
    __m256 v = _mm256_set1_ps(-INFINITY);
    float lanes[PQ_LANES], m = -INFINITY;
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        v = _mm256_max_ps(_mm256_loadu_ps(x + i), v); /* skips NaN */
    _mm256_storeu_ps(lanes, v);
    for (int l = 0; l < PQ_LANES; l++)
        m = lanes[l] > m ? lanes[l] : m;
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static float sum(const float *x, size_t n)
{
    __m256 s = _mm256_setzero_ps();
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        s = _mm256_add_ps(s, _mm256_loadu_ps(x + i));
    return lanes_and_rest(s, x + i, n - i);
}

static float dot(const float *x, const float *y, size_t n)
{
    __m256 s = _mm256_setzero_ps();
    float lanes[PQ_LANES];
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        s = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i), s);
    _mm256_storeu_ps(lanes, s);
    for (; i < n; i++)
        lanes[i % PQ_LANES] = fmaf(x[i], y[i], lanes[i % PQ_LANES]);
    return pq_lane_sumf(lanes);
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    const __m256 va = _mm256_set1_ps(a);
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(va, _mm256_loadu_ps(x + i),
                                                _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void silu(float *y, const float *g, const float *u, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 v = silu_8(_mm256_loadu_ps(g + i));
        _mm256_storeu_ps(y + i,
                         u ? _mm256_mul_ps(v, _mm256_loadu_ps(u + i)) : v);
    }
    for (; i < n; i++)
        y[i] = u ? nn_silu1(g[i]) * u[i] : nn_silu1(g[i]);
}

static void gelu(float *y, const float *g, const float *u, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 v = gelu_8(_mm256_loadu_ps(g + i));
        _mm256_storeu_ps(y + i,
                         u ? _mm256_mul_ps(v, _mm256_loadu_ps(u + i)) : v);
    }
    for (; i < n; i++)
        y[i] = u ? nn_gelu1(g[i]) * u[i] : nn_gelu1(g[i]);
}

static void tanh_all(float *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, tanh_8(_mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] = nn_tanh1(x[i]);
}

static void silu_slope(float *d, float *y, const float *g, size_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 x = _mm256_loadu_ps(g + i);
        const __m256 e = exp_8(_mm256_xor_ps(x, minus));
        const __m256 s = _mm256_div_ps(one, _mm256_add_ps(one, e));
        const __m256 t = _mm256_mul_ps(x, _mm256_sub_ps(one, s));
        _mm256_storeu_ps(d + i, _mm256_mul_ps(s, _mm256_add_ps(one, t)));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(x, s));
    }
    for (; i < n; i++)
        nn_silu_slope1(&d[i], &y[i], g[i]);
}

static inline void adamw_8(float *w, float *g, float *m, float *v,
                           const struct nn_adamw_numbers *a)
{
    const __m256 keep1 = _mm256_set1_ps(a->keep1);
    const __m256 keep2 = _mm256_set1_ps(a->keep2);
    const __m256 d =
        _mm256_mul_ps(_mm256_loadu_ps(g), _mm256_set1_ps(a->clip));
    __m256 x = _mm256_loadu_ps(m), y = _mm256_loadu_ps(v);

    x = _mm256_add_ps(x, _mm256_mul_ps(_mm256_sub_ps(d, x), keep1));
    y = _mm256_add_ps(
        _mm256_mul_ps(y, keep2),
        _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(a->new2), d), d));
    const __m256 root = _mm256_add_ps(
        _mm256_div_ps(_mm256_sqrt_ps(y), _mm256_set1_ps(a->root2)),
        _mm256_set1_ps(a->eps));
    const __m256 down =
        _mm256_mul_ps(_mm256_set1_ps(a->rate), _mm256_div_ps(x, root));
    const __m256 kept =
        _mm256_mul_ps(_mm256_loadu_ps(w), _mm256_set1_ps(a->shrink));
    _mm256_storeu_ps(w, _mm256_sub_ps(kept, down));
    _mm256_storeu_ps(m, x);
    _mm256_storeu_ps(v, y);
    _mm256_storeu_ps(g, _mm256_setzero_ps());
}

static void adamw(float *w, float *g, float *m, float *v, size_t n,
                  const struct nn_adamw_numbers *a)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        adamw_8(w + i, g + i, m + i, v + i, a);
    for (; i < n; i++)
        nn_adamw1(&w[i], &g[i], &m[i], &v[i], a);
}

const struct nn_kernels nn_kernels_fma = {
    .name = "fma",
    .tile = tile,
    .rows = nn_fma_rows,
    .turn = turn,
    .exp = exp_all,
    .exp_sum = exp_sum,
    .max = max_of,
    .sum = sum,
    .dot = dot,
    .axpy = axpy,
    .scale = nn_scale_all,
    .scale_by = nn_scale_by_all,
    .add = nn_add_all,
    .silu = silu,
    .gelu = gelu,
    .tanh = tanh_all,
    .silu_slope = silu_slope,
    .adamw = adamw,
};

#else
/* ISO C wants a file to declare something. */
extern const struct nn_kernels nn_kernels_fma;
#endif
