/*
 * Elementary functions in double.
 *
 *   e^x     n = round(x / ln 2), e^r by its series to r^14 for r = x - n ln 2
 *   log x   x = m 2^n with m near 1, log m = 2 artanh((m - 1) / (m + 1))
 *   sin cos n = round(2 x / pi), series of both for x - n pi/2
 *
 * ln 2 and pi/2 are subtracted in pieces whose products with n are exact
 * (the pieces are those of fdlibm).
 */
#include "elementary.h"

#include <math.h>

#define LN2_HIGH  6.93147180369123816490e-01
#define LN2_LOW   1.90821492927058770002e-10
#define LOG2E     1.44269504088896338700
#define PIO2_1    1.57079632673412561417e+00
#define PIO2_2    6.07710050630396597660e-11
#define PIO2_3    2.02226624879595063154e-21
#define TWO_BY_PI 0.63661977236758134308
#define SQRT_HALF 0.70710678118654752440

double nn_exp(double x)
{
    const double n = floor(x * LOG2E + 0.5);
    const double r = (x - n * LN2_HIGH) - n * LN2_LOW;
    double y = 1;

    for (int i = 14; i > 0; i--)
        y = 1 + y * r / i;
    return ldexp(y, (int)n);
}

double nn_log(double x)
{
    int n;
    double m = frexp(x, &n), y = 0;

    if (m < SQRT_HALF) {
        m *= 2;
        n--;
    }
    const double s = (m - 1) / (m + 1), z = s * s;
    for (int i = 23; i > 1; i -= 2)
        y = (y + 1.0 / i) * z;
    return n * LN2_HIGH + (n * LN2_LOW + 2 * s * (1 + y));
}

double nn_pow(double x, double y)
{
    return nn_exp(y * nn_log(x));
}

void nn_sincos(double x, double *sine, double *cosine)
{
    const double n = floor(x * TWO_BY_PI + 0.5);
    const double r = ((x - n * PIO2_1) - n * PIO2_2) - n * PIO2_3;
    const double z = -r * r;
    double s = 1, c = 1;

    for (int i = 16; i > 0; i -= 2) {
        c = 1 + c * z / (i * (i - 1));
        s = 1 + s * z / (i * (i + 1));
    }
    s *= r;
    const int quarter = (int)((long long)n & 3);
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}
