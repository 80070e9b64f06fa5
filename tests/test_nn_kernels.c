/*
 * The kernels of lib/nn: portable and vector ones give the same bits, and
 * the elementary functions are as exact as they say.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "kernels/nn_kernels.h"
#include "nn/elementary.h"
#include "numbers.h"

#define MAX 700

static float x[MAX], y[MAX], a[MAX], b[MAX];

/* Bits of any kind, or numbers of the sizes that models have. */
static void fill(float *v, size_t n, bool any)
{
    for (size_t i = 0; i < n; i++) {
        v[i] = any ? float_of((uint32_t)(next() >> 16))
                   : ((float)(next() >> 40) * 0x1p-24f - 0.5f) * 40;
        if (v[i] != v[i])
            v[i] = 0;
    }
}

static void same(const char *what, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(bits_of(a[i]) == bits_of(b[i]) ||
                      (a[i] != a[i] && b[i] != b[i]),
                  "%s of %a is %a and %a", what, x[i], a[i], b[i]);
}

static void check_maps(const struct nn_kernels *s, const struct nn_kernels *v,
                       size_t n)
{
    s->exp(a, x, n);
    v->exp(b, x, n);
    same("exp", n);
    s->tanh(a, x, n);
    v->tanh(b, x, n);
    same("tanh", n);
    s->silu(a, x, y, n);
    v->silu(b, x, y, n);
    same("gated silu", n);
    s->silu(a, x, NULL, n);
    v->silu(b, x, NULL, n);
    same("silu", n);
    s->gelu(a, x, y, n);
    v->gelu(b, x, y, n);
    same("gated gelu", n);
    s->gelu(a, x, NULL, n);
    v->gelu(b, x, NULL, n);
    same("gelu", n);
    s->scale_by(a, x, 1.7f, y, n);
    v->scale_by(b, x, 1.7f, y, n);
    same("scale_by", n);
    memcpy(a, y, sizeof a);
    memcpy(b, y, sizeof b);
    s->axpy(a, 0.3f, x, n);
    v->axpy(b, 0.3f, x, n);
    same("axpy", n);
}

/* Two results of one call; the second is compared like the first. */
static void check_pairs(const struct nn_kernels *s, const struct nn_kernels *v,
                        size_t n)
{
    const struct nn_adamw_numbers step = {0.7f,  0.99f, 0.1f,  0.999f,
                                          1e-3f, 0.03f, 1e-8f, 0.01f};
    static float c[MAX], d[MAX], w[2][MAX], g[2][MAX];

    s->silu_slope(a, c, x, n);
    v->silu_slope(b, d, x, n);
    same("silu'", n);
    memcpy(a, c, sizeof a);
    memcpy(b, d, sizeof b);
    same("silu beside its slope", n);
    for (int i = 0; i < 2; i++) {
        memcpy(w[i], x, sizeof x);
        memcpy(g[i], y, sizeof y);
        for (size_t k = 0; k < MAX; k++) {
            (i ? b : a)[k] = y[MAX - 1 - k];
            (i ? d : c)[k] = fabsf(y[k]);
        }
    }
    s->adamw(w[0], g[0], a, c, n, &step);
    v->adamw(w[1], g[1], b, d, n, &step);
    same("m of AdamW", n);
    memcpy(a, c, sizeof a);
    memcpy(b, d, sizeof b);
    same("v of AdamW", n);
    memcpy(a, w[0], sizeof a);
    memcpy(b, w[1], sizeof b);
    same("w of AdamW", n);
    cr_assert(n == 0 || (g[0][n - 1] == 0 && g[1][n - 1] == 0));
}

static void check_sums(const struct nn_kernels *s, const struct nn_kernels *v,
                       size_t n)
{
    const float m = s->max(x, n);

    cr_assert_eq(bits_of(m), bits_of(v->max(x, n)));
    cr_assert_eq(bits_of(s->sum(x, n)), bits_of(v->sum(x, n)), "sum of %zu", n);
    cr_assert_eq(bits_of(s->dot(x, y, n)), bits_of(v->dot(x, y, n)),
                 "dot of %zu", n);
    memcpy(a, x, sizeof a);
    memcpy(b, x, sizeof b);
    cr_assert_eq(bits_of(s->exp_sum(a, n, m)), bits_of(v->exp_sum(b, n, m)),
                 "exp_sum of %zu", n);
    same("e^(x - max)", n);
}

/* The variants that this machine has beside the portable one. */
static size_t variants(const struct nn_kernels *v[2])
{
    v[0] = nn_kernels_for(pq_kernels_best());
    if (v[0] != nn_kernels_avx512())
        return 1;
#if defined(__x86_64__)
    v[1] = &nn_kernels_fma;
#endif
    return 2;
}

static void check_vectors(const struct nn_kernels *v, size_t n, bool any)
{
    const struct nn_kernels *s = &nn_kernels_scalar;

    fill(x, MAX, any);
    fill(y, MAX, false);
    check_maps(s, v, n);
    check_pairs(s, v, n);
    if (!any)
        check_sums(s, v, n);
}

Test(nn_kernels, vectors_give_the_bits_of_the_portable_ones)
{
    const struct nn_kernels *v[2];

    for (size_t i = variants(v); i-- > 0;)
        for (size_t n = 0; n < MAX; n += n < 40 ? 1 : 61)
            for (int any = 0; any < 2; any++)
                check_vectors(v[i], n, any);
}

static void check_tile(const struct nn_kernels *v, size_t rows, size_t cols,
                       size_t kn, bool strip)
{
    static _Alignas(64) float panel[NN_BLOCK_K * NN_TILE_COLS];
    const size_t a_row = strip ? 1 : kn, a_col = strip ? NN_TILE_ROWS : 1;

    fill(x, MAX, false);
    fill(panel, kn * NN_TILE_COLS, false);
    for (int add = 0; add < 2; add++) {
        fill(a, MAX, false);
        memcpy(b, a, sizeof b);
        nn_kernels_scalar.tile(rows, cols, kn, x, a_row, a_col, panel, a, 19,
                               add);
        v->tile(rows, cols, kn, x, a_row, a_col, panel, b, 19, add);
        same("a tile", MAX);
    }
}

Test(nn_kernels, tiles_of_every_size)
{
    const struct nn_kernels *v[2];

    for (size_t i = variants(v); i-- > 0;)
        for (size_t rows = 1; rows <= NN_TILE_ROWS; rows++)
            for (size_t cols = 1; cols <= NN_TILE_COLS; cols++)
                for (size_t kn = 0; kn < MAX / NN_TILE_ROWS; kn += 29)
                    check_tile(v[i], rows, cols, kn, cols % 2);
}

/* A run of each kind of rows, by both variants if there are two. */
static void check_rows(const struct nn_kernels *const v[2],
                       enum nn_rows_kind kind, unsigned bits, size_t kn,
                       size_t block, bool add)
{
    static uint8_t w[NN_TILE_COLS * 2 * NN_BLOCK_K * 4];
    static float scale[NN_TILE_COLS * 8];
    const struct nn_rows r = {.kind = kind,
                              .bits = bits,
                              .w = w,
                              .row_bytes = NN_BLOCK_K * bits / 4,
                              .kn = kn,
                              .scale = scale,
                              .scale_row = 8,
                              .map = y,
                              .block = block,
                              .a = x};

    for (size_t i = 0; i < sizeof w; i++)
        w[i] = (uint8_t)(next() >> 24);
    fill(scale, sizeof scale / sizeof *scale, false);
    fill(x, MAX, false);
    fill(y, MAX, false);
    memset(a, 0, sizeof a);
    memcpy(b, a, sizeof b);
    v[0]->rows(&r, a, add);
    v[1]->rows(&r, b, add);
    same("rows", NN_TILE_COLS);
}

Test(nn_kernels, rows_of_every_kind_and_length)
{
    static const struct {
        enum nn_rows_kind kind;
        unsigned bits;
    } kinds[] = {{NN_ROWS_F32, 32},
                 {NN_ROWS_F16, 16},
                 {NN_ROWS_BF16, 16},
                 {NN_ROWS_INT8, 8},
                 {NN_ROWS_CODES, 4}};
    const struct nn_kernels *v[2];

    if (variants(v) < 2)
        cr_skip("one kind of vector kernels on this machine");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t step = 256 / kinds[i].bits;
        for (size_t kn = step; kn <= NN_BLOCK_K; kn += step)
            for (size_t block = 64; block <= 256; block *= 2)
                check_rows(v, kinds[i].kind, kinds[i].bits, kn, block, kn & 32);
    }
}

static double off(double got, double want)
{
    return want == 0 ? fabs(got) : fabs(got / want - 1);
}

Test(nn_kernels, elementary_functions_are_exact)
{
    const struct nn_kernels *s = &nn_kernels_scalar;
    double worst[4] = {0};

    for (float t = -87; t < 88; t += 0.0137f) {
        float e, h, g, u;
        s->exp(&e, &t, 1);
        s->tanh(&h, &t, 1);
        s->silu(&g, &t, NULL, 1);
        s->gelu(&u, &t, NULL, 1);
        const double k = t * (1 + 0.044715 * t * t);
        const double gelu = t / (1 + exp(-2 * sqrt(2 / M_PI) * k));
        worst[0] = fmax(worst[0], off(e, exp(t)));
        worst[1] = fmax(worst[1], off(h, tanh(t)));
        worst[2] = fmax(worst[2], off(g, t / (1 + exp(-(double)t))));
        worst[3] = fmax(worst[3], fabs(u - gelu) / (1 + fabs(gelu)));
    }
    cr_assert_lt(worst[0], 2.5e-7, "exp %g", worst[0]);
    cr_assert_lt(worst[1], 2.5e-7, "tanh %g", worst[1]);
    cr_assert_lt(worst[2], 4e-7, "silu %g", worst[2]);
    cr_assert_lt(worst[3], 4e-7, "gelu %g", worst[3]);
}

Test(nn_kernels, the_ends_of_the_exponential)
{
    const float in[] = {0, -INFINITY, -1000, 88.72f, 89, INFINITY, NAN, -103};
    float out[8];

    nn_kernels_scalar.exp(out, in, 8);
    cr_assert_eq(out[0], 1);
    cr_assert_eq(out[1], 0);
    cr_assert_eq(out[2], 0);
    cr_assert(isfinite(out[3]) && out[3] > 3e38f);
    cr_assert(isinf(out[4]) && isinf(out[5]) && isnan(out[6]));
    cr_assert_float_eq(out[7], 0x1p-149f, 0, "%a", out[7]);
}

Test(nn_kernels, functions_in_double)
{
    double worst[4] = {0}, s, c;

    for (double t = 0.001; t < 600; t += 0.0371) {
        nn_sincos(t * 1700, &s, &c);
        worst[0] = fmax(worst[0], fabs(s - sin(t * 1700)));
        worst[0] = fmax(worst[0], fabs(c - cos(t * 1700)));
        nn_sincos(-t, &s, &c);
        worst[0] = fmax(worst[0], fabs(s - sin(-t)));
        worst[1] = fmax(worst[1], off(nn_exp(t), exp(t)));
        worst[1] = fmax(worst[1], off(nn_exp(-t), exp(-t)));
        worst[2] = fmax(worst[2], fabs(nn_log(t) - log(t)));
        worst[3] = fmax(worst[3], off(nn_pow(t, -0.7), pow(t, -0.7)));
    }
    cr_assert_lt(worst[0], 1e-15, "sine %g", worst[0]);
    cr_assert_lt(worst[1], 1e-15, "exp %g", worst[1]);
    cr_assert_lt(worst[2], 2e-15, "log %g", worst[2]);
    cr_assert_lt(worst[3], 4e-15, "pow %g", worst[3]);
}
