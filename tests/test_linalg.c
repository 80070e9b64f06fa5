/* QR, singular values and products, against their definitions. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pq_linalg.h"
#include "pq_lowrank.h"
#include "rng.h"

enum { ROWS = 23, COLS = 7 };

/* n numbers in [-1, 1) */
static void fill(double *x, size_t n, const char *name)
{
    struct pq_rng r;
    float *u = malloc(n * sizeof *u);

    pq_rng_init(&r, 1, name);
    pq_rng_uniform(&r, 0, u, n);
    for (size_t i = 0; i < n; i++)
        x[i] = 2 * (double)u[i] - 1;
    free(u);
}

/* max |a - b| */
static double apart(const double *a, const double *b, size_t n)
{
    double most = 0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(a[i] - b[i]));
    return most;
}

/* c = a b, with the plain triple loop */
static void product(const double *a, const double *b, size_t m, size_t k,
                    size_t n, double *c)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t l = 0; l < k; l++)
                sum += a[i * k + l] * b[l * n + j];
            c[i * n + j] = sum;
        }
}

/* max |q^T q - 1| of q [rows][n] */
static double skew(const double *q, size_t rows, size_t n)
{
    double most = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? -1 : 0;
            for (size_t l = 0; l < rows; l++)
                sum += q[l * n + i] * q[l * n + j];
            most = fmax(most, fabs(sum));
        }
    return most;
}

Test(linalg, qr)
{
    double x[ROWS * COLS], q[ROWS * COLS], r[COLS * COLS], y[ROWS * COLS];
    struct pq_error e = PQ_ERROR_INIT;

    fill(x, ROWS * COLS, "x");
    memcpy(q, x, sizeof q);
    cr_assert_eq(pq_qr_f64(q, ROWS, COLS, r, &e), 0, "%s", e.msg);
    cr_assert_lt(skew(q, ROWS, COLS), 1e-14);
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < i; j++)
            cr_assert_eq(r[i * COLS + j], 0);
    product(q, r, ROWS, COLS, COLS, y);
    cr_assert_lt(apart(x, y, ROWS * COLS), 1e-14);
}

Test(linalg, qr_in_floats_gives_the_same)
{
    double x[ROWS * COLS], q[ROWS * COLS], got[ROWS * COLS];
    float f[ROWS * COLS], r[COLS * COLS];
    struct pq_error e = PQ_ERROR_INIT;

    fill(x, ROWS * COLS, "x");
    for (size_t i = 0; i < ROWS * COLS; i++)
        f[i] = (float)x[i];
    memcpy(q, x, sizeof q);
    cr_assert_eq(pq_qr_f64(q, ROWS, COLS, NULL, &e), 0);
    cr_assert_eq(pq_qr_f32(f, ROWS, COLS, r, &e), 0);
    for (size_t i = 0; i < ROWS * COLS; i++)
        got[i] = f[i];
    cr_assert_lt(apart(q, got, ROWS * COLS), 1e-5);
}

/* Rows and columns both ways round: thin and wide. */
static void check_svd(size_t rows, size_t cols)
{
    const size_t k = rows < cols ? rows : cols;
    double x[ROWS * COLS], y[ROWS * COLS], u[ROWS * COLS], s[COLS],
        vt[ROWS * COLS], v[ROWS * COLS];
    struct pq_error e = PQ_ERROR_INIT;

    fill(x, rows * cols, "svd");
    memcpy(y, x, sizeof y);
    cr_assert_eq(pq_svd_f64(y, rows, cols, u, s, vt, &e), 0, "%s", e.msg);
    cr_assert_lt(skew(u, rows, k), 1e-13);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < cols; j++)
            v[j * k + i] = vt[i * cols + j];
    cr_assert_lt(skew(v, cols, k), 1e-13);
    for (size_t i = 0; i < k; i++) {
        cr_assert(s[i] > 0 && (i == 0 || s[i] <= s[i - 1]));
        for (size_t j = 0; j < cols; j++)
            vt[i * cols + j] *= s[i];
    }
    product(u, vt, rows, k, cols, y);
    cr_assert_lt(apart(x, y, rows * cols), 1e-13);
}

Test(linalg, svd)
{
    check_svd(ROWS, COLS);
    check_svd(COLS, ROWS);
    check_svd(COLS, COLS);
    check_svd(1, COLS);
}

Test(linalg, gemm)
{
    enum { M = 5, K = 4, N = 3 };
    double a[M * K], at[K * M], b[K * N], bt[N * K], want[M * N], c[M * N];
    struct pq_error e = PQ_ERROR_INIT;

    fill(a, M * K, "a");
    fill(b, K * N, "b");
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < K; j++)
            at[j * M + i] = a[i * K + j];
    for (size_t i = 0; i < K; i++)
        for (size_t j = 0; j < N; j++)
            bt[j * K + i] = b[i * N + j];
    product(a, b, M, K, N, want);
    for (int turn = 0; turn < 4; turn++) {
        cr_assert_eq(pq_gemm_f64(turn & 1 ? at : a, turn & 1,
                                 turn & 2 ? bt : b, turn & 2, M, K, N, 0, c,
                                 &e),
                     0);
        cr_assert_lt(apart(want, c, M * N), 1e-15, "turn %d", turn);
    }
    cr_assert_eq(pq_gemm_f64(a, 0, b, 0, M, K, N, 1, c, &e), 0);
    for (size_t i = 0; i < M * N; i++)
        cr_assert_float_eq(c[i], 2 * want[i], 1e-14);
}

Test(linalg, nothing_is_fine_and_too_much_is_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    double x = 1, s;

    cr_assert_eq(pq_qr_f64(&x, 0, 0, NULL, &e), 0);
    cr_assert_eq(pq_svd_f64(&x, 0, 1, &x, &s, &x, &e), 0);
    cr_assert_eq(pq_qr_f64(&x, (size_t)1 << 40, 1, NULL, &e), -1);
    cr_assert_eq(e.code, PQ_ELIMIT);
}

/* ---- products of factors ----------------------------------------------- */

Test(linalg, equal_factors_have_no_more_rank_than_one)
{
    double b[ROWS * 8], a[8 * COLS], u[ROWS * 8], s[8], vt[8 * COLS];
    struct pq_error e = PQ_ERROR_INIT;
    size_t rank;

    fill(b, ROWS * 4, "b");
    fill(a, 4 * COLS, "a");
    memmove(a + 4 * COLS, a, 4 * COLS * sizeof *a);
    for (size_t i = ROWS; i-- > 0;)
        for (size_t j = 0; j < 4; j++)
            b[i * 8 + j] = b[i * 8 + 4 + j] = b[i * 4 + j];
    cr_assert_eq(pq_product_svd(b, a, ROWS, 8, COLS, u, s, vt, &rank, &e), 0);
    cr_assert_eq(rank, COLS);
    cr_assert_gt(s[3], 0.1);
    for (size_t i = 4; i < rank; i++)
        cr_assert_lt(s[i], 1e-14 * s[0]);
}
