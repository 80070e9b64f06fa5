/*
 * The AVX2 kernels against the scalar ones: the same bytes for every input.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pq_kernels.h"
#include "numbers.h"

#define MAX 5000 /* elements in the random tests */

/* Fills x with one of six kinds of floats. */
static void random_floats(float *x, size_t n, int kind)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = (uint32_t)(next() >> 16);
        const uint32_t sign = r & 0x80000000u;

        switch (kind) {
        case 0: /* any bits: NaN and infinity too */
            x[i] = float_of(r);
            break;
        case 1: /* like weights */
            x[i] = ((float)(r >> 8) * 0x1p-24f - 0.5f) * 0.1f;
            break;
        case 2: /* on a coarse grid: ties, zeros, equal maxima */
            x[i] = (float)((int)(r % 33) - 16) / 16.0f;
            break;
        case 3: /* subnormal numbers */
            x[i] = float_of(sign | (r & 0x00ffffffu));
            break;
        case 4: /* finite, any exponent */
            x[i] = float_of(sign | (r & 0x7fffffffu) % 0x7f800000u);
            break;
        default: /* zeros of both signs, seldom something special */
            x[i] = float_of(r % 97 == 0 ? sign | 0x7f800000u | (r & 3) : sign);
            break;
        }
    }
}

static void expect_same(const void *a, const void *b, size_t n,
                        const char *what, size_t len, int kind)
{
    cr_assert(n == 0 || memcmp(a, b, n) == 0, "%s: n %zu kind %d", what, len,
              kind);
}

struct buffers {
    float x[MAX + 8], y[MAX + 8];
    uint8_t in[4 * MAX];
    uint8_t a[8 * MAX + 64], b[8 * MAX + 64];
    float sa[MAX + 8], sb[MAX + 8];
};

static struct buffers buf;

static void clear(void)
{
    memset(buf.a, 0xa5, sizeof(buf.a));
    memset(buf.b, 0xa5, sizeof(buf.b));
    memset(buf.sa, 0xa5, sizeof(buf.sa));
    memset(buf.sb, 0xa5, sizeof(buf.sb));
}

/* Compares everything, what must not have been written included. */
static void compare(const char *what, size_t n, int kind)
{
    expect_same(buf.a, buf.b, sizeof(buf.a), what, n, kind);
    expect_same(buf.sa, buf.sb, sizeof(buf.sa), what, n, kind);
}

#define BOTH(call_s, call_v, what)                                             \
    do {                                                                       \
        clear();                                                               \
        call_s;                                                                \
        call_v;                                                                \
        compare(what, n, kind);                                                \
    } while (0)

#define SAME_MAP(f, in, type)                                                  \
    BOTH(s->f(in, n, (type *)(void *)buf.a),                                   \
         v->f(in, n, (type *)(void *)buf.b), #f)

#define SAME_ENCODE(f, block)                                                  \
    do {                                                                       \
        clear();                                                               \
        cr_assert_eq(s->f(buf.x, n, block, buf.a, buf.sa),                     \
                     v->f(buf.x, n, block, buf.b, buf.sb));                    \
        compare(#f, n, kind);                                                  \
    } while (0)

#define SAME_SEARCH(f, block, both)                                            \
    do {                                                                       \
        clear();                                                               \
        cr_assert_eq(s->f(buf.x, n, block, both, buf.a, buf.sa),               \
                     v->f(buf.x, n, block, both, buf.b, buf.sb));              \
        compare(#f, n, kind);                                                  \
    } while (0)

#define SAME_DECODE(f, block)                                                  \
    BOTH(s->f(buf.in, buf.x, n, block, (float *)(void *)buf.a),                \
         v->f(buf.in, buf.x, n, block, (float *)(void *)buf.b), #f)

static void same_conversions(const struct pq_kernels *s,
                             const struct pq_kernels *v, size_t n, int kind)
{
    const uint16_t *half = (const uint16_t *)(const void *)buf.in;

    SAME_MAP(f32_to_f16, buf.x, uint16_t);
    SAME_MAP(f32_to_bf16, buf.x, uint16_t);
    SAME_MAP(f32_to_e4m3, buf.x, uint8_t);
    SAME_MAP(f32_to_e5m2, buf.x, uint8_t);
    SAME_MAP(f16_to_f32, half, float);
    SAME_MAP(bf16_to_f32, half, float);
    SAME_MAP(e4m3_to_f32, buf.in, float);
    SAME_MAP(e5m2_to_f32, buf.in, float);
}

static void same_blocks(const struct pq_kernels *s, const struct pq_kernels *v,
                        size_t n, size_t block, int kind)
{
    SAME_ENCODE(nf4_encode, block);
    SAME_ENCODE(fp4_encode, block);
    SAME_ENCODE(dyn8_encode, block);
    SAME_ENCODE(dyn8_encode_exact, block);
    SAME_DECODE(nf4_decode, block);
    SAME_DECODE(fp4_decode, block);
    SAME_DECODE(dyn8_decode, block);
    if (n <= 600) {
        SAME_SEARCH(nf4_search, block, true);
        SAME_SEARCH(nf4_search, block, false);
        SAME_SEARCH(fp4_search, block, true);
    }
}

static bool same_double(double a, double b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof(a)) == 0;
}

static void same_statistics(const struct pq_kernels *s,
                            const struct pq_kernels *v, size_t n)
{
    double sig[2], noi[2];
    float max[2];
    struct pq_moments m[2];

    cr_assert_eq(s->absmax_bits(buf.x, n), v->absmax_bits(buf.x, n));
    cr_assert_eq(s->count_nonfinite(buf.x, n), v->count_nonfinite(buf.x, n));
    cr_assert_eq(s->count_f16_overflow(buf.x, n),
                 v->count_f16_overflow(buf.x, n));
    s->error_stats(buf.x, buf.y, n, &sig[0], &noi[0], &max[0]);
    v->error_stats(buf.x, buf.y, n, &sig[1], &noi[1], &max[1]);
    cr_assert(same_double(sig[0], sig[1]) && same_double(noi[0], noi[1]));
    cr_assert(same_double((double)max[0], (double)max[1]));
    s->moments(buf.x, n, &m[0]);
    v->moments(buf.x, n, &m[1]);
    cr_assert(same_double(m[0].sum, m[1].sum));
    cr_assert(same_double(m[0].sum_sq, m[1].sum_sq));
    cr_assert(same_double((double)m[0].min, (double)m[1].min));
    cr_assert(same_double((double)m[0].max, (double)m[1].max));
    cr_assert(m[0].zeros == m[1].zeros && m[0].nans == m[1].nans &&
              m[0].infs == m[1].infs);
}

static void same_rows(const struct pq_kernels *s, const struct pq_kernels *v,
                      size_t rows, size_t cols, int kind)
{
    const size_t n = rows * cols;

    clear();
    cr_assert_eq(
        s->int8_rows_encode(buf.x, rows, cols, (int8_t *)buf.a, buf.sa),
        v->int8_rows_encode(buf.x, rows, cols, (int8_t *)buf.b, buf.sb));
    compare("int8_rows_encode", n, kind);
    BOTH(s->int8_rows_decode((const int8_t *)buf.in, buf.x, rows, cols,
                             (float *)(void *)buf.a),
         v->int8_rows_decode((const int8_t *)buf.in, buf.x, rows, cols,
                             (float *)(void *)buf.b),
         "int8_rows_decode");
}

/* Arrays of a blend: two of n / 2 in x, against a base in y. */
static void same_sums(const struct pq_kernels *s, const struct pq_kernels *v,
                      size_t n, int kind)
{
    const size_t half = n / 2;
    const float w[2] = {0.25f, -1.5f};

    BOTH(s->weighted_sum(buf.x, half, w, 2, 3, half, (float *)(void *)buf.a),
         v->weighted_sum(buf.x, half, w, 2, 3, half, (float *)(void *)buf.b),
         "weighted_sum");
    for (int i = 0; i < 4; i++) {
        const struct pq_task_sum t = {w, 2, i & 1, i & 2, -1.25f, 0.75f};
        BOTH(s->task_sum(&t, buf.y, buf.x, half, half,
                         (float *)(void *)buf.a),
             v->task_sum(&t, buf.y, buf.x, half, half,
                         (float *)(void *)buf.b),
             "task_sum");
    }
    BOTH(s->drop(buf.y, buf.x, n, kind & 1, (float *)(void *)buf.a),
         v->drop(buf.y, buf.x, n, kind & 1, (float *)(void *)buf.b), "drop");
}

static void same_counts(const struct pq_kernels *s, const struct pq_kernels *v,
                        size_t n, int kind)
{
    static uint32_t count[2][PQ_HIGH_COUNT];
    const uint32_t some = bits_of(buf.x[n / 2] - buf.y[n / 2]) & 0x7fffffff;

    BOTH(s->trim(buf.x, buf.y, n, some / 2, some, (float *)(void *)buf.a),
         v->trim(buf.x, buf.y, n, some / 2, some, (float *)(void *)buf.b),
         "trim");
    memset(count, 0, sizeof count);
    s->count_high(buf.x, buf.y, n, count[0]);
    v->count_high(buf.x, buf.y, n, count[1]);
    s->count_low(buf.x, buf.y, n, some >> PQ_LOW_BITS, count[0]);
    v->count_low(buf.x, buf.y, n, some >> PQ_LOW_BITS, count[1]);
    expect_same(count[0], count[1], sizeof count[0], "counts", n, kind);
    cr_assert_eq(s->count_equal(buf.x, buf.y, n, some),
                 v->count_equal(buf.x, buf.y, n, some));
    cr_assert(same_double(s->abs_sum(buf.x, n), v->abs_sum(buf.x, n)));
}

static void same_pruning(const struct pq_kernels *s, const struct pq_kernels *v,
                         size_t n, int kind)
{
    static const unsigned groups[] = {1, 2, 3, 4, 5, 8, 16, 64};
    const unsigned m = groups[next() % 8], drop = next() % (m + 1);
    const size_t whole = n / m * m, side = n / m;

    BOTH(s->keep_from(buf.x, n, bits_of(buf.x[n / 3]) & 0x7fffffff, buf.a),
         v->keep_from(buf.x, n, bits_of(buf.x[n / 3]) & 0x7fffffff, buf.b),
         "keep_from");
    BOTH(s->keep_groups(buf.x, whole, m, drop, buf.a),
         v->keep_groups(buf.x, whole, m, drop, buf.b), "keep_groups");
    BOTH(s->keep_across(buf.x, side, m, drop, side, buf.a, side / 8 + 2),
         v->keep_across(buf.x, side, m, drop, side, buf.b, side / 8 + 2),
         "keep_across");
    BOTH(s->keep_u16((const uint16_t *)(const void *)buf.x, buf.in, n,
                     (uint16_t *)(void *)buf.a),
         v->keep_u16((const uint16_t *)(const void *)buf.x, buf.in, n,
                     (uint16_t *)(void *)buf.b),
         "keep_u16");
    BOTH(s->keep_u32((const uint32_t *)(const void *)buf.x, buf.in, n,
                     (uint32_t *)(void *)buf.a),
         v->keep_u32((const uint32_t *)(const void *)buf.x, buf.in, n,
                     (uint32_t *)(void *)buf.b),
         "keep_u32");
}

/* Streams that begin anywhere, and where the counter's lower word ends. */
static void same_lots(const struct pq_kernels *s, const struct pq_kernels *v,
                      size_t n, int kind)
{
    const uint32_t key[2] = {(uint32_t)next(), (uint32_t)next()};
    const uint32_t stream[2] = {(uint32_t)next(), (uint32_t)next()};
    const uint64_t at = kind % 2 ? next() : UINT32_MAX - n / 8;

    BOTH(s->uniform(key, stream, at, n / 4, (float *)(void *)buf.a),
         v->uniform(key, stream, at, n / 4, (float *)(void *)buf.b),
         "uniform");
}

Test(kernels, scalar_equals_avx2, .timeout = 300)
{
    static const size_t blocks[] = {64, 32, 128, 256, 4096, 1, 3, 8, 100};
    const struct pq_kernels *s = variant(0), *v = variant(1);

    if (!v)
        cr_skip_test("no AVX2 here");
    for (int round = 0; round < 400; round++) {
        const int kind = round % 6;
        const size_t n = round < 140 ? (size_t)round : next() % (MAX + 1);
        const size_t block = blocks[next() % 9];

        random_floats(buf.x, n, kind);
        random_floats(buf.y, n, kind);
        for (size_t i = 0; i < sizeof(buf.in); i++)
            buf.in[i] = (uint8_t)(next() >> 20);
        same_conversions(s, v, n, kind);
        same_blocks(s, v, n, block, kind);
        same_blocks(s, v, n, 64, kind);
        same_statistics(s, v, n);
        same_rows(s, v, 1 + next() % 5, n / 5, kind);
        if (kind != 0 && kind != 5) /* a sum with NaN has any payload */
            same_sums(s, v, n, kind);
        same_counts(s, v, n, kind);
        same_lots(s, v, n, kind);
        same_pruning(s, v, n, kind);
    }
}

/* Every float of 24 bits, and thus every tie, through the narrow formats. */
Test(kernels, narrowing_is_the_same_everywhere, .timeout = 300)
{
    const struct pq_kernels *s = variant(0), *v = variant(1);
    const size_t n = 4096;
    const int kind = -1;

    if (!v)
        cr_skip_test("no AVX2 here");
    for (uint64_t hi = 0; hi < (uint64_t)1 << 32; hi += n << 10) {
        const uint32_t low = (uint32_t)next() & 3;

        for (size_t i = 0; i < n; i++)
            buf.x[i] = float_of((uint32_t)hi + (uint32_t)(i << 10 | low));
        SAME_MAP(f32_to_f16, buf.x, uint16_t);
        SAME_MAP(f32_to_bf16, buf.x, uint16_t);
        SAME_MAP(f32_to_e4m3, buf.x, uint8_t);
        SAME_MAP(f32_to_e5m2, buf.x, uint8_t);
    }
}

Test(kernels, statistics)
{
    const float x[11] = {1,         -2, 0, -0.0f, NAN, INFINITY,
                         -INFINITY, 4,  3, -0.5f, 7};
    const float y[11] = {1, -2, 0, 0, 1, 1, 1, 4, 3, 0, 7};
    struct pq_moments m;
    double signal, noise;
    float max;

    FOR_EACH_VARIANT(k)
    {
        k->moments(x, 11, &m);
        cr_expect(m.sum == 12.5 && m.sum_sq == 79.25);
        cr_expect(m.min == -2.0f && m.max == 7.0f);
        cr_expect(m.zeros == 2 && m.nans == 1 && m.infs == 2);
        k->error_stats(x + 7, y + 7, 4, &signal, &noise, &max);
        cr_expect(signal == 74.25 && noise == 0.25 && max == 0.5f);
        k->error_stats(x, y, 11, &signal, &noise, &max);
        cr_expect(isnan(signal) && isnan(noise) && isnan(max));
        k->moments(x, 0, &m);
        cr_expect(m.min == INFINITY && m.max == -INFINITY && m.sum == 0);
    }
}

Test(kernels, transpose)
{
    static const size_t shape[][2] = {{1, 1},   {1, 70}, {70, 1}, {40, 40},
                                      {33, 65}, {17, 3}, {0, 9}};

    for (size_t i = 0; i < sizeof(buf.in); i++)
        buf.in[i] = (uint8_t)(next() >> 20);
    FOR_EACH_VARIANT(k)
    {
        for (size_t i = 0; i < 7 * 4; i++) {
            const size_t rows = shape[i / 4][0], cols = shape[i / 4][1];
            const size_t size = (size_t)1 << i % 4;

            clear();
            for (size_t r = 0; r < rows; r++)
                for (size_t c = 0; c < cols; c++)
                    memcpy(buf.b + (c * rows + r) * size,
                           buf.in + (r * cols + c) * size, size);
            k->transpose(buf.in, buf.a, rows, cols, size);
            compare("transpose", rows * cols, (int)size);
        }
    }
}
