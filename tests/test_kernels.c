/*
 * The kernels: known answers of bitsandbytes 0.50.2 and PyTorch 2.15 (as
 * SHA-256 of what they wrote for a fixed input), and scalar == AVX2, bit for
 * bit, for every function on random bit patterns of all kinds and sizes.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pq_kernels.h"
#include "kernels/tables.h"
#include "numbers.h"
#include "sha256.h"

#define N ((size_t)1 << 20)
#define ROWS 256
#define COLS 4096

static float *gaussian(void)
{
    float *x = malloc(N * sizeof(*x));

    cr_assert_not_null(x);
    rng = 88172645463325252u;
    for (size_t i = 0; i < N; i++) {
        double t = 0;

        for (int k = 0; k < 12; k++)
            t += (double)(next() >> 11) * 0x1p-53;
        x[i] = (float)((t - 6) * 0.02);
    }
    return x;
}

static void expect_sha(const void *data, size_t n, const char *want,
                       const char *what)
{
    char hex[65];

    sha256_hex(data, n, hex);
    cr_expect(strncmp(hex, want, 32) == 0, "%s: %.32s instead of %s", what,
              hex, want);
}

Test(kernels, dispatch)
{
    cr_assert_str_eq(pq_kernels_scalar()->name, "scalar");
    cr_assert_eq(pq_kernels_named("scalar"), pq_kernels_scalar());
    cr_assert_null(pq_kernels_named("mmx"));
    cr_assert_not_null(pq_kernels_best());
    cr_assert_eq(pq_kernels_named(pq_kernels_best()->name),
                 pq_kernels_best());
}

Test(kernels, tables)
{
    expect_sha(pq_dyn8_map, sizeof(pq_dyn8_map),
               "e732639a65f497b4ad684bb166a44677", "dynamic map");
    expect_sha(pq_nf4.value, sizeof(pq_nf4.value),
               "8501941daa1b8a90ad1bbfeb632e5101", "nf4 map");
    for (int i = 0; i < 16; i++) {
        cr_expect_eq(pq_nf4.value[pq_nf4.code[i]], pq_nf4.by_rank[i]);
        cr_expect_eq(pq_fp4.value[pq_fp4.code[i]], pq_fp4.by_rank[i]);
    }
}

/* In-order walk of a tree of thresholds: must be ascending midpoints. */
static void check_tree(const float *tree, const float *value, unsigned n)
{
    for (unsigned r = 0; r + 1 < n; r++) {
        /* Threshold r is where the path to leaf r last turned left. */
        unsigned node = n + r;

        while (node & 1)
            node >>= 1;
        node >>= 1;

        const double mid = ((double)value[r] + (double)value[r + 1]) / 2;

        if (n == 16)
            cr_expect_eq(tree[node], (value[r] + value[r + 1]) / 2);
        else
            cr_expect((double)tree[node] <= mid &&
                      (double)nextafterf(tree[node], 2) > mid);
    }
}

Test(kernels, trees_hold_the_midpoints)
{
    check_tree(pq_nf4.tree, pq_nf4.by_rank, 16);
    check_tree(pq_fp4.tree, pq_fp4.by_rank, 16);
    check_tree(pq_dyn8_tables()->tree, pq_dyn8_map, 256);
}

Test(kernels, known_input)
{
    float *x = gaussian();

    expect_sha(x, N * sizeof(*x), "d6b779367c536686d8c9a23c34693fc2", "input");
    free(x);
}

Test(kernels, known_nf4_fp4)
{
    float *x = gaussian(), *absmax = malloc(N / 64 * sizeof(*absmax));
    uint8_t *codes = malloc(N / 2);

    FOR_EACH_VARIANT(k) {
        const uint32_t max = k->nf4_encode(x, N, 64, codes, absmax);

        cr_expect_eq(max, k->absmax_bits(x, N));
        expect_sha(codes, N / 2, "738eda24744b4b5f25d8a44a2f5951d2", "nf4");
        expect_sha(absmax, N / 16, "d71ddfc1fb567a2837a286f6f2622a66",
                   "absmax");
        k->fp4_encode(x, N, 64, codes, absmax);
        expect_sha(codes, N / 2, "7842a2273313a4e009e81f32fb411d57", "fp4");
        expect_sha(absmax, N / 16, "d71ddfc1fb567a2837a286f6f2622a66",
                   "absmax");
    }
    free(x);
    free(absmax);
    free(codes);
}

/* The first 100001 values: a partial block at the end, an odd count. */
Test(kernels, known_tails)
{
    enum { n = 100001, blocks = 25 };
    float *x = gaussian(), *y = malloc(n * sizeof(*y));
    float absmax[blocks], scb[100];
    uint8_t *codes = malloc(n);

    FOR_EACH_VARIANT(k) {
        k->nf4_encode(x, n, 4096, codes, absmax);
        expect_sha(codes, n / 2 + 1, "68de8024686801e983cb5388f97362c7",
                   "nf4");
        expect_sha(absmax, sizeof(absmax), "d29de3f57969df4f10d0b6e4d26833b8",
                   "absmax");
        k->nf4_decode(codes, absmax, n, 4096, y);
        expect_sha(y, n * sizeof(*y), "2ef3e8e3e9c6dffa23ea18fadfefc25e",
                   "nf4 decoded");
        k->fp4_encode(x, n, 4096, codes, absmax);
        expect_sha(codes, n / 2 + 1, "c3e7cd586c93a729f88a081378e14c3e",
                   "fp4");
        k->fp4_decode(codes, absmax, n, 4096, y);
        expect_sha(y, n * sizeof(*y), "ddd53c4beb1145670f74623e0251bd0b",
                   "fp4 decoded");
        k->dyn8_encode(x, n, 4096, codes, absmax);
        expect_sha(codes, n, "9c32f42ad50cb8296368b250eedf6b81", "dyn8");
        k->int8_rows_encode(x, 100, 1000, (int8_t *)codes, scb);
        k->int8_rows_decode((const int8_t *)codes, scb, 100, 1000, y);
        expect_sha(y, 100000 * sizeof(*y), "969462cba5ffecdc4a34e281dcb09eeb",
                   "int8 decoded");
        k->f32_to_e4m3(x, n, codes);
        expect_sha(codes, n, "a1a45aa2ab8ef35dc35f0d4b32ab44ee", "e4m3");
        k->f32_to_e5m2(x, n, codes);
        expect_sha(codes, n, "d9b489f5aca8be0b64bf5e997e331c15", "e5m2");
    }
    free(x);
    free(y);
    free(codes);
}

Test(kernels, known_double_quantization)
{
    float *x = gaussian(), absmax[N / 64], nested[N / 64 / 256];
    uint8_t *codes = malloc(N / 2), small[N / 64];

    FOR_EACH_VARIANT(k) {
        double sum = 0;

        k->nf4_encode(x, N, 64, codes, absmax);
        for (size_t i = 0; i < N / 64; i++)
            sum += (double)absmax[i];
        cr_expect_eq((float)(sum / (N / 64)), 0.05086452513933182f);
        for (size_t i = 0; i < N / 64; i++)
            absmax[i] -= (float)(sum / (N / 64));
        k->dyn8_encode(absmax, N / 64, 256, small, nested);
        expect_sha(small, sizeof(small), "4dc00be1a53fbd20559f1c6831369677",
                   "absmax u8");
        expect_sha(nested, sizeof(nested), "b1368c935b14a1a339a84c7093f8ce9c",
                   "nested absmax");
    }
    free(x);
    free(codes);
}

Test(kernels, known_int8)
{
    float *x = gaussian(), scb[ROWS], absmax[N / 256];
    int8_t *q = malloc(N);

    FOR_EACH_VARIANT(k) {
        k->int8_rows_encode(x, ROWS, COLS, q, scb);
        expect_sha(q, N, "ce4e44a2dda7cf4522c1c1e387a156fa", "int8 rows");
        expect_sha(scb, sizeof(scb), "0d254d846a8f1e90db0f3c6bb43ecde6",
                   "scb");
        k->dyn8_encode(x, N, 256, (uint8_t *)q, absmax);
        expect_sha(q, N, "9ff109db650d4efb0c13c54eb40fa21a", "dyn8");
    }
    free(x);
    free(q);
}

Test(kernels, known_halves)
{
    float *x = gaussian();
    uint16_t *h = malloc(N * sizeof(*h));

    FOR_EACH_VARIANT(k) {
        k->f32_to_bf16(x, N, h);
        expect_sha(h, 2 * N, "23a02591596b563cb4403a83fe2f4030", "bf16");
        k->f32_to_f16(x, N, h);
        expect_sha(h, 2 * N, "ac1ecbbeae9fe5f92410652a0785f578", "f16");
    }
    free(x);
    free(h);
}

/* Signal to noise, in dB, of y as a copy of x. */
static double sqnr(const struct pq_kernels *k, const float *x, const float *y)
{
    double signal, noise;
    float max;

    k->error_stats(x, y, N, &signal, &noise, &max);
    return 10 * log10(signal / noise);
}

Test(kernels, quality)
{
    const struct pq_kernels *k = pq_kernels_best();
    float *x = gaussian(), *y = malloc(N * sizeof(*y));
    float *absmax = malloc(N / 64 * sizeof(*absmax));
    uint8_t *codes = malloc(N);

    k->nf4_encode(x, N, 64, codes, absmax);
    k->nf4_decode(codes, absmax, N, 64, y);
    cr_expect_float_eq(sqnr(k, x, y), 20.78, 0.02);
    k->nf4_search(x, N, 64, true, codes, absmax);
    k->nf4_decode(codes, absmax, N, 64, y);
    cr_expect_float_eq(sqnr(k, x, y), 21.67, 0.02);
    k->nf4_search(x, N, 64, false, codes, absmax);
    k->nf4_decode(codes, absmax, N, 64, y);
    cr_expect_gt(sqnr(k, x, y), 21.3);
    k->fp4_encode(x, N, 64, codes, absmax);
    k->fp4_decode(codes, absmax, N, 64, y);
    cr_expect_float_eq(sqnr(k, x, y), 18.37, 0.02);
    k->fp4_search(x, N, 64, false, codes, absmax);
    k->fp4_decode(codes, absmax, N, 64, y);
    cr_expect_gt(sqnr(k, x, y), 19.0);
    k->dyn8_encode(x, N, 256, codes, absmax);
    k->dyn8_decode(codes, absmax, N, 256, y);
    const double lut = sqnr(k, x, y);
    k->dyn8_encode_exact(x, N, 256, codes, absmax);
    k->dyn8_decode(codes, absmax, N, 256, y);
    cr_expect_float_eq(lut, 39.54, 0.02);
    cr_expect_gt(sqnr(k, x, y), lut);
    free(x);
    free(y);
    free(absmax);
    free(codes);
}

/* The finite float8 nearest to v >= 0, ties to even, by trying 0..last. */
static unsigned nearest_f8(const float *value, float v, unsigned last)
{
    unsigned best = 0;

    for (unsigned c = 1; c <= last; c++) {
        const double d = fabs((double)value[c] - (double)v);
        const double e = fabs((double)value[best] - (double)v);

        if (d < e || (d <= e && c % 2 == 0))
            best = c;
    }
    return best;
}

Test(kernels, float8_rounds_to_nearest_even)
{
    uint8_t all[256], got;
    float a[256], b[256];

    for (unsigned i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    FOR_EACH_VARIANT(k) {
        k->e4m3_to_f32(all, 256, a);
        k->e5m2_to_f32(all, 256, b);
        cr_expect_eq(a[0x7e], 448.0f);
        cr_expect_eq(bits_of(a[0xff]), 0xfff00000);
        cr_expect_eq(b[0x7b], 57344.0f);
        cr_expect_eq(b[0xfc], -INFINITY);
        cr_expect_eq(bits_of(b[0x7d]), 0x7fe00000);
        for (int i = 0; i < 20000; i++) {
            const uint32_t r = (uint32_t)next() % 0x15780000;
            const float v = float_of(0x33000000 + r);

            k->f32_to_e4m3(&v, 1, &got);
            cr_expect_eq(got, v > 464 ? 0x7e : nearest_f8(a, v, 0x7e));
            k->f32_to_e5m2(&v, 1, &got);
            cr_expect_eq(got, v >= 61440 ? 0x7c : nearest_f8(b, v, 0x7b));
        }
    }
}

Test(kernels, widening_and_narrowing_round_trip)
{
    static uint16_t h[65536], back[65536];
    static float x[65536];

    for (unsigned i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    FOR_EACH_VARIANT(k) {
        k->f16_to_f32(h, 65536, x);
        k->f32_to_f16(x, 65536, back);
        for (unsigned i = 0; i < 65536; i++)
            cr_assert_eq(back[i], isnan(x[i]) ? i | 0x200 : i);
        k->bf16_to_f32(h, 65536, x);
        k->f32_to_bf16(x, 65536, back);
        for (unsigned i = 0; i < 65536; i++)
            cr_assert_eq(back[i], isnan(x[i]) ? 0x7fc0 : i);
    }
}

Test(kernels, limits_of_fp16)
{
    const float x[5] = {65519.996f, 65520.0f, -65520.0f, INFINITY, NAN};
    uint16_t h[5];

    FOR_EACH_VARIANT(k) {
        k->f32_to_f16(x, 5, h);
        cr_expect_eq(h[0], 0x7bff);
        cr_expect_eq(h[1], 0x7c00);
        cr_expect_eq(h[2], 0xfc00);
        cr_expect_eq(k->count_f16_overflow(x, 5), 2);
        cr_expect_eq(k->count_nonfinite(x, 5), 2);
    }
}

Test(kernels, edges_of_bitsandbytes)
{
    float x[130] = {0}, absmax[3];
    uint8_t codes[130];
    int8_t q[130];

    FOR_EACH_VARIANT(k) {
        cr_expect_eq(k->nf4_encode(x, 130, 64, codes, absmax), 0);
        cr_expect_eq(codes[0], 0x77);
        cr_expect_eq(codes[64], 0x77);
        cr_expect_eq(absmax[0], 0.0f);
        cr_expect_eq(absmax[2], 1e-38f);
        k->fp4_encode(x, 129, 64, codes, absmax);
        cr_expect_eq(codes[64], 0x00);
        k->dyn8_encode(x, 130, 64, codes, absmax);
        cr_expect_eq(codes[0], 0);
        cr_expect_eq(k->int8_rows_encode(x, 2, 65, q, absmax), 0);
        cr_expect_eq(q[129], 0);
        cr_expect_eq(absmax[1], 0.0f);
    }
}

/*
 * Values on a midpoint, where x / absmax and x * (1 / absmax) part: a partial
 * block divides, a full one multiplies.
 */
Test(kernels, only_partial_blocks_divide)
{
    uint8_t full[1], part[1];
    float absmax[1];
    int parted = 0;

    for (int i = 0; i < 2000; i++) {
        const float am = 1.0f + (float)(next() >> 40) * 0x1p-24f;
        const float x[2] = {am, pq_nf4.tree[1 + next() % 15] * am};
        unsigned quotient = 0, product = 0;

        for (int k = 1; k < 16; k++) {
            quotient += pq_nf4.tree[k] < x[1] / am;
            product += pq_nf4.tree[k] < x[1] * (1.0f / am);
        }
        parted += quotient != product;
        FOR_EACH_VARIANT(k) {
            k->nf4_encode(x, 2, 64, part, absmax);
            k->nf4_encode(x, 2, 2, full, absmax);
            cr_assert_eq(part[0], 0xf0 | quotient);
            cr_assert_eq(full[0], 0xf0 | product);
        }
    }
    cr_assert_gt(parted, 10);
}

/* The order in which lanes are added is part of the result. */
Test(kernels, lanes_are_added_in_the_documented_order)
{
    const float x[8] = {0x1p60f, 0, 1, 0, -0x1p60f, 0, 1, 0};
    struct pq_moments m;

    FOR_EACH_VARIANT(k) {
        k->moments(x, 8, &m);
        cr_expect_eq(m.sum, 2.0);
    }
}

Test(kernels, search_survives_extremes)
{
    float x[64] = {3.4028235e38f, -3e38f, 1.0f}, absmax[1], y[64];
    float tiny[64] = {1.1e-38f, -1e-45f};
    uint8_t codes[32];

    FOR_EACH_VARIANT(k) {
        k->nf4_search(x, 64, 64, true, codes, absmax);
        k->nf4_decode(codes, absmax, 64, 64, y);
        cr_expect_eq(k->count_nonfinite(y, 64), 0);
        k->nf4_search(tiny, 64, 64, true, codes, absmax);
        cr_expect_eq(absmax[0], 1.1e-38f);
    }
}

/* Zeros in blocks of 64, also at the end, and a block of nothing else. */
static void with_zeros(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = i / 64 == 3 || next() % 3 == 0
                   ? 0
                   : ((float)(next() >> 40) * 0x1p-24f - 0.5f) * 0.1f;
}

static void check_zeros(const float *x, float *y, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(x[i] != 0 || y[i] == 0, "%s: element %zu is %g", what, i,
                  (double)y[i]);
    memset(y, 1, n * sizeof *y);
}

Test(kernels, encodings_keep_zeros)
{
    enum { n = 640 };
    float x[n], y[n], scale[n];
    uint8_t codes[n];

    with_zeros(x, n);
    FOR_EACH_VARIANT(k)
    {
        k->nf4_encode(x, n, 64, codes, scale);
        k->nf4_decode(codes, scale, n, 64, y);
        check_zeros(x, y, n, "nf4");
        for (size_t i = 0; i < n; i++) /* its 0 is code 7 */
            cr_assert(x[i] != 0 || (codes[i / 2] >> (i % 2 ? 0 : 4) & 15) == 7);
        k->nf4_search(x, n, 64, true, codes, scale);
        k->nf4_decode(codes, scale, n, 64, y);
        check_zeros(x, y, n, "nf4 search");
        k->fp4_encode(x, n, 64, codes, scale);
        k->fp4_decode(codes, scale, n, 64, y);
        check_zeros(x, y, n, "fp4");
        k->dyn8_encode_exact(x, n, 64, codes, scale);
        k->dyn8_decode(codes, scale, n, 64, y);
        check_zeros(x, y, n, "int8_block");
        k->int8_rows_encode(x, n / 64, 64, (int8_t *)codes, scale);
        k->int8_rows_decode((int8_t *)codes, scale, n / 64, 64, y);
        check_zeros(x, y, n, "int8");
    }
}
