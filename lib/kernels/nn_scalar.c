/*
 * The portable kernels of lib/nn: the definition of what the others compute.
 * fmaf() is exact everywhere, but slow where the library must do it without
 * an instruction.
 */
#include "nn_kernels.h"

#include "impl.h"
#include "nn_math.h"

static void tile(size_t rows, size_t cols, size_t kn, const float *a,
                 size_t a_row, size_t a_col, const float *b, float *c,
                 size_t c_row, bool add)
{
    for (size_t i = 0; i < rows; i++) {
        float s[NN_TILE_COLS] = {0};

        for (size_t k = 0; k < kn; k++)
            for (size_t j = 0; j < cols; j++)
                s[j] = fmaf(a[i * a_row + k * a_col], b[k * NN_TILE_COLS + j],
                            s[j]);
        for (size_t j = 0; j < cols; j++)
            c[i * c_row + j] = add ? c[i * c_row + j] + s[j] : s[j];
    }
}

static void turn(const float *in, size_t in_row, size_t kn, float *out)
{
    for (size_t j = 0; j < NN_TILE_COLS; j++)
        for (size_t k = 0; k < kn; k++)
            out[k * NN_TILE_COLS + j] = in[j * in_row + k];
}

static void exp_all(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = nn_exp1(x[i]);
}

static float exp_sum(float *x, size_t n, float max)
{
    float lanes[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        x[i] = nn_exp1(x[i] - max);
        lanes[i % PQ_LANES] += x[i];
    }
    return pq_lane_sumf(lanes);
}

static float max_of(const float *x, size_t n)
{
    float m = -INFINITY;

    for (size_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static float sum(const float *x, size_t n)
{
    float lanes[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lanes[i % PQ_LANES] += x[i];
    return pq_lane_sumf(lanes);
}

static float dot(const float *x, const float *y, size_t n)
{
    float lanes[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lanes[i % PQ_LANES] = fmaf(x[i], y[i], lanes[i % PQ_LANES]);
    return pq_lane_sumf(lanes);
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void silu(float *y, const float *g, const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = u ? nn_silu1(g[i]) * u[i] : nn_silu1(g[i]);
}

static void gelu(float *y, const float *g, const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = u ? nn_gelu1(g[i]) * u[i] : nn_gelu1(g[i]);
}

static void tanh_all(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = nn_tanh1(x[i]);
}

static void silu_slope(float *d, float *y, const float *g, size_t n)
{
    for (size_t i = 0; i < n; i++)
        nn_silu_slope1(&d[i], &y[i], g[i]);
}

static void adamw(float *w, float *g, float *m, float *v, size_t n,
                  const struct nn_adamw_numbers *a)
{
    for (size_t i = 0; i < n; i++)
        nn_adamw1(&w[i], &g[i], &m[i], &v[i], a);
}

const struct nn_kernels nn_kernels_scalar = {
    .name = "scalar",
    .tile = tile,
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

const struct nn_kernels *nn_kernels_for(const struct pq_kernels *k)
{
#if defined(__x86_64__)
    if (k != pq_kernels_scalar() && __builtin_cpu_supports("fma"))
        return nn_kernels_avx512() ? nn_kernels_avx512() : &nn_kernels_fma;
#else
    (void)k;
#endif
    return &nn_kernels_scalar;
}
