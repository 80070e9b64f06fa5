/*
 * The constants of the elementary functions and their portable forms.  The
 * vector forms do the same operations in the same order.
 *
 *   e^x: n = rint(x / ln 2), r = x - n ln 2 (ln 2 in two pieces),
 *        e^r by its Taylor series up to r^7, |r| <= 0.347, times 2^n in two
 *        steps, so that subnormal results are rounded once.
 *   gelu_new(x) = x/2 (1 + tanh(k)) = x / (1 + e^(-2k)),
 *        k = sqrt(2/pi) (x + 0.044715 x^3)
 *   tanh(x) = 1 - 2 / (e^(2x) + 1); for |x| < 0.625 the odd polynomial of
 *        Cephes (tanhf), where the difference would cancel.
 */
#ifndef PQ_NN_MATH_H
#define PQ_NN_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "nn_kernels.h"

#define NN_EXP_LOW  -104.0f
#define NN_EXP_HIGH 89.0f
#define NN_LOG2E    1.44269504f
#define NN_LN2_HIGH 0.693359375f
#define NN_LN2_LOW  -2.12194440e-4f
#define NN_ROUND    12582912.0f /* 1.5 * 2^23: adding it rounds to integer */

/* 1/7!, 1/6!, ... 1/2! */
#define NN_EXP_C7     1.98412698e-4f
#define NN_EXP_C6     1.38888889e-3f
#define NN_EXP_C5     8.33333333e-3f
#define NN_EXP_C4     4.16666667e-2f
#define NN_EXP_C3     1.66666667e-1f
#define NN_EXP_C2     0.5f

#define NN_GELU_A     -1.59576912f /* -2 sqrt(2 / pi) */
#define NN_GELU_B     0.044715f

#define NN_TANH_SMALL 0.625f
#define NN_TANH_C4    -5.70498872745e-3f
#define NN_TANH_C3    2.06390887954e-2f
#define NN_TANH_C2    -5.37397155531e-2f
#define NN_TANH_C1    1.33314422036e-1f
#define NN_TANH_C0    -3.33332819422e-1f

static inline float nn_pow2(int n)
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float nn_exp1(float x)
{
    float t, n, r, p;

    x = NN_EXP_HIGH < x ? NN_EXP_HIGH : x;
    x = NN_EXP_LOW > x ? NN_EXP_LOW : x;
    if (x != x)
        return x;
    t = fmaf(x, NN_LOG2E, NN_ROUND);
    n = t - NN_ROUND;
    r = fmaf(n, -NN_LN2_HIGH, x);
    r = fmaf(n, -NN_LN2_LOW, r);
    p = fmaf(NN_EXP_C7, r, NN_EXP_C6);
    p = fmaf(p, r, NN_EXP_C5);
    p = fmaf(p, r, NN_EXP_C4);
    p = fmaf(p, r, NN_EXP_C3);
    p = fmaf(p, r, NN_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    const int whole = (int)n, half = whole >> 1;
    return (p * nn_pow2(half)) * nn_pow2(whole - half);
}

static inline float nn_silu1(float g)
{
    return g / (1.0f + nn_exp1(-g));
}

static inline float nn_gelu1(float g)
{
    const float k = g * fmaf(NN_GELU_B, g * g, 1.0f);

    return g / (1.0f + nn_exp1(NN_GELU_A * k));
}

static inline float nn_tanh1(float x)
{
    const float z = x * x;
    float p;

    if (fabsf(x) >= NN_TANH_SMALL)
        return 1.0f - 2.0f / (nn_exp1(2.0f * x) + 1.0f);
    p = fmaf(NN_TANH_C4, z, NN_TANH_C3);
    p = fmaf(p, z, NN_TANH_C2);
    p = fmaf(p, z, NN_TANH_C1);
    p = fmaf(p, z, NN_TANH_C0);
    return fmaf(p * z, x, x);
}

static inline void nn_silu_slope1(float *d, float *y, float g)
{
    const float s = 1.0f / (1.0f + nn_exp1(-g));

    *d = s * (1.0f + g * (1.0f - s));
    *y = g * s;
}

static inline void nn_adamw1(float *w, float *g, float *m, float *v,
                             const struct nn_adamw_numbers *a)
{
    const float d = *g * a->clip;

    *m += (d - *m) * a->keep1;
    *v = *v * a->keep2 + (a->new2 * d) * d;
    *w = *w * a->shrink - a->rate * (*m / (sqrtf(*v) / a->root2 + a->eps));
    *g = 0;
}

/* ---- kernels that are one plain loop in all variants --------------------- */

static inline void nn_scale_all(float *y, const float *x, float a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * a;
}

static inline void nn_scale_by_all(float *y, const float *x, float a,
                                   const float *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] * a) * w[i];
}

static inline void nn_add_all(float *y, const float *x, const float *z,
                              size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] + z[i];
}

#endif
