/*
 * Counting zeros, against counting them one by one: rows longer and shorter
 * than a unit, rows that do not divide into groups, turned tensors, every
 * type, both kinds of kernels.
 */
#include "fake.h"
#include "numbers.h"
#include "pq_sparsity.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    uint64_t rows, cols; /* as the file has it */
    bool turned;
};

static const struct shape shapes[] = {
    {1, 1, false},      {7, 12, false},   {300, 1000, false}, {9, 20, true},
    {3, 300001, false}, {5000, 1, false}, {64, 24, true},     {13, 8, true},
    {4, 70000, false},  {12, 9, true},    {40000, 8, true},   {1, 131080, false},
};

static bool one_is_zero(enum pq_dtype t, const unsigned char *x, uint64_t i)
{
    const size_t n = pq_dtype_bits(t) / 8;

    for (size_t k = 0; k + 1 < n; k++)
        if (x[i * n + k])
            return false;
    return (x[i * n + n - 1] & 0x7f) == 0; /* the sign does not count */
}

/* Zeros of both signs and other bits: those of row r with chance r % 5 / 4. */
static unsigned char *fill(const struct shape *s, enum pq_dtype t)
{
    const size_t n = pq_dtype_bits(t) / 8;
    unsigned char *x = calloc((size_t)(s->rows * s->cols), n);

    for (uint64_t i = 0; i < s->rows * s->cols; i++) {
        const uint64_t row = s->turned ? i % s->cols : i / s->cols;
        const uint64_t r = next();
        if (r % 4 < row % 5)
            x[i * n + n - 1] = r & 16 ? 0x80 : 0;
        else
            x[i * n + (r >> 8) % n] = (unsigned char)(1 + (r >> 16) % 127);
    }
    return x;
}

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Element (row, col) of the matrix whose rows make an output. */
static uint64_t place(const struct shape *s, uint64_t row, uint64_t col)
{
    return s->turned ? col * s->cols + row : row * s->cols + col;
}

static void count_groups(const struct shape *s, enum pq_dtype t,
                         const unsigned char *x, unsigned m, uint64_t *groups)
{
    const uint64_t rows = s->turned ? s->cols : s->rows;
    const uint64_t cols = s->turned ? s->rows : s->cols;

    for (uint64_t r = 0; r < rows && cols % m == 0; r++)
        for (uint64_t c = 0; c < cols; c += m) {
            unsigned kept = 0;
            for (unsigned i = 0; i < m; i++)
                kept += !one_is_zero(t, x, place(s, r, c + i));
            groups[kept]++;
        }
}

static struct pq_sparsity count(const struct shape *s, enum pq_dtype t,
                                const unsigned char *x)
{
    struct pq_sparsity r = {.valid = true, .n = s->rows * s->cols};

    r.rows = s->turned ? s->cols : s->rows;
    r.cols = s->turned ? s->rows : s->cols;
    uint64_t *zeros = calloc((size_t)r.rows, sizeof *zeros);
    for (uint64_t i = 0; i < r.rows; i++) {
        for (uint64_t k = 0; k < r.cols; k++)
            zeros[i] += one_is_zero(t, x, place(s, i, k));
        r.zeros += zeros[i];
        r.zero_rows += zeros[i] == r.cols;
    }
    qsort(zeros, (size_t)r.rows, sizeof *zeros, by_size);
    for (uint64_t i = 0; i < PQ_DECILES; i++)
        r.deciles[i] = zeros[(r.rows - 1) * i / 10];
    count_groups(s, t, x, 4, r.groups_of_4);
    count_groups(s, t, x, 8, r.groups_of_8);
    free(zeros);
    return r;
}

static struct pq_sparsity run(const struct shape *s, enum pq_dtype t,
                              const unsigned char *x, bool pipe,
                              const struct pq_kernels *k)
{
    const struct pq_run how = {.threads = pipe ? 3 : 1, .memory = 64 << 20};
    const uint64_t shape[] = {s->rows, s->cols};
    struct pq_error e = PQ_ERROR_INIT;
    struct fake_source in;
    struct pq_plan p = {.sink = NULL};
    struct pq_source *source = &in.base;
    struct pq_sparsity r;

    fake_source_init(&in, pipe);
    fake_source_add(&in, "w", t, 2, shape, x);
    p.sources = &source;
    p.n_sources = 1;
    cr_assert(pq_step_sparsity(&p, k, source, &in.catalog.tensors[0],
                               s->turned, &r, &e));
    cr_assert_eq(pq_engine_run(&p, &how, &e), 0, "%s", e.msg);
    pq_plan_release(&p);
    fake_source_release(&in);
    return r;
}

static void expect_same(const struct pq_sparsity *a,
                        const struct pq_sparsity *b, const char *what)
{
    cr_expect_eq(a->n, b->n, "%s", what);
    cr_expect_eq(a->zeros, b->zeros, "%s", what);
    cr_expect(a->rows == b->rows && a->cols == b->cols, "%s", what);
    cr_expect_eq(a->zero_rows, b->zero_rows, "%s", what);
    for (size_t i = 0; i < PQ_DECILES; i++) {
        const uint64_t off = a->cols > 65535 ? a->cols / 65535 + 1 : 0;
        cr_expect(a->deciles[i] <= b->deciles[i] &&
                      b->deciles[i] - a->deciles[i] <= off,
                  "%s: decile %zu: %llu %llu", what, i,
                  (unsigned long long)a->deciles[i],
                  (unsigned long long)b->deciles[i]);
    }
    cr_expect_eq(a->deciles[0], b->deciles[0], "%s", what);
    cr_expect_eq(a->deciles[10], b->deciles[10], "%s", what);
    cr_expect_arr_eq(a->groups_of_4, b->groups_of_4, sizeof a->groups_of_4);
    cr_expect_arr_eq(a->groups_of_8, b->groups_of_8, sizeof a->groups_of_8);
}

Test(sparsity, is_what_counting_one_by_one_gives)
{
    static const enum pq_dtype types[] = {PQ_F32, PQ_F16, PQ_BF16, PQ_F64,
                                          PQ_F8_E4M3};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            char what[64];
            unsigned char *x = fill(&shapes[i], types[t]);
            const struct pq_sparsity want = count(&shapes[i], types[t], x);
            for (int way = 0; way < 2; way++) {
                const struct pq_sparsity got =
                    run(&shapes[i], types[t], x, way,
                        way ? pq_kernels_best() : pq_kernels_scalar());
                snprintf(what, sizeof what, "shape %zu type %zu way %d", i, t,
                         way);
                expect_same(&got, &want, what);
            }
            free(x);
        }
}

Test(sparsity, patterns_are_the_least_that_hold)
{
    const struct shape s = {2, 16, false};
    float x[32];

    for (size_t i = 0; i < 32; i++)
        x[i] = i % 4 == 1 || i % 8 == 2 ? 1 : 0;
    struct pq_sparsity r = run(&s, PQ_F32, (unsigned char *)x, false,
                               pq_kernels_best());
    cr_expect_eq(pq_sparsity_pattern(&r, 4), 2);
    cr_expect_eq(pq_sparsity_pattern(&r, 8), 3);
    for (size_t i = 8; i < 11; i++)
        x[i] = 1;
    r = run(&s, PQ_F32, (unsigned char *)x, false, pq_kernels_best());
    cr_expect_eq(pq_sparsity_pattern(&r, 4), 3);
    cr_expect_eq(pq_sparsity_pattern(&r, 8), 4);
    const struct shape odd = {2, 14, false};
    r = run(&odd, PQ_F32, (unsigned char *)x, false, pq_kernels_best());
    cr_expect_eq(pq_sparsity_pattern(&r, 4), 4, "no groups, no pattern");
    cr_expect_eq(pq_sparsity_pattern(&r, 8), 8);
}

Test(sparsity, of_nothing_and_of_one_number)
{
    const struct shape none = {3, 0, false}, one = {1, 1, false};
    const float zero = -0.0f;
    struct pq_sparsity r =
        run(&none, PQ_F32, (const unsigned char *)"", true, pq_kernels_best());

    cr_expect(r.valid && r.n == 0 && r.zeros == 0);
    cr_expect_eq(pq_sparsity_part(&r), 0);
    r = run(&one, PQ_F32, (const unsigned char *)&zero, true,
            pq_kernels_best());
    cr_expect(r.zeros == 1 && r.zero_rows == 1 && r.deciles[5] == 1);
    cr_expect_eq(pq_sparsity_part(&r), 1);
}
