/*
 * The part of a matrix that its first columns span, against Gram-Schmidt.
 */
#include "fake.h"

#include "pq_kernels.h"
#include "pq_surgery.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 200, COLS = 1000, N = 5 }; /* some units of rows */

static double product[ROWS * COLS]; /* Q Q^T W as the last step found it */
static bool seen;

static int found(const struct pq_step *s, const struct pq_leading *l,
                 struct pq_error *e)
{
    (void)s;
    (void)e;
    cr_assert_eq(l->rows, ROWS);
    cr_assert_eq(l->cols, COLS);
    cr_assert_eq(l->n, N);
    memset(product, 0, sizeof product);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t k = 0; k < N; k++)
            for (size_t j = 0; j < COLS; j++)
                product[i * COLS + j] +=
                    l->q[i * N + k] * l->q_t_w[k * COLS + j];
    seen = true;
    return 0;
}

static int run(const float *w, unsigned threads, struct pq_error *e)
{
    const uint64_t shape[] = {ROWS, COLS};
    struct fake_source s;
    struct pq_source *sources[] = {&s.base};
    struct pq_plan plan = {.sources = sources, .n_sources = 1};
    const struct pq_run how = {.threads = threads, .memory = 16 << 20};

    fake_source_init(&s, false);
    const struct pq_tensor *t =
        fake_source_add(&s, "w", PQ_F32, 2, shape, w);
    seen = false;
    cr_assert(pq_step_leading(&plan, &s.base, t, N, pq_kernels_best(), found,
                              e));
    const int rc = pq_engine_run(&plan, &how, e);
    pq_plan_release(&plan);
    fake_source_release(&s);
    return rc;
}

static float *make_matrix(void)
{
    float *w = malloc(ROWS * COLS * sizeof *w);

    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = sinf((float)i * 1.3f) + cosf((float)(i % 77) * 0.7f);
    return w;
}

/* Orthonormal columns q [ROWS][N] of the first columns of w, twice over. */
static void gram_schmidt(const float *w, double *q)
{
    for (size_t k = 0; k < N; k++) {
        for (size_t i = 0; i < ROWS; i++)
            q[i * N + k] = (double)w[i * COLS + k];
        for (size_t m = 0; m < 2 * k; m++) {
            double dot = 0;
            for (size_t i = 0; i < ROWS; i++)
                dot += q[i * N + k] * q[i * N + m % k];
            for (size_t i = 0; i < ROWS; i++)
                q[i * N + k] -= dot * q[i * N + m % k];
        }
        double norm = 0;
        for (size_t i = 0; i < ROWS; i++)
            norm += q[i * N + k] * q[i * N + k];
        for (size_t i = 0; i < ROWS; i++)
            q[i * N + k] /= sqrt(norm);
    }
}

Test(leading, is_what_gram_schmidt_finds)
{
    struct pq_error e = PQ_ERROR_INIT;
    float *w = make_matrix();
    double *q = malloc(ROWS * N * sizeof *q), z[COLS];
    double *first = malloc(sizeof product);

    cr_assert_eq(run(w, 1, &e), 0, "%s", e.msg);
    memcpy(first, product, sizeof product);
    gram_schmidt(w, q);
    for (size_t k = 0; k < N; k++) {
        memset(z, 0, sizeof z);
        for (size_t i = 0; i < ROWS; i++)
            for (size_t j = 0; j < COLS; j++)
                z[j] += q[i * N + k] * (double)w[i * COLS + j];
        for (size_t i = 0; i < ROWS; i++)
            for (size_t j = 0; j < COLS; j++)
                product[i * COLS + j] -= q[i * N + k] * z[j];
    }
    for (size_t i = 0; i < ROWS * COLS; i++)
        cr_assert_float_eq(product[i], 0, 1e-10);
    /* the bytes do not depend on threads */
    cr_assert_eq(run(w, 4, &e), 0, "%s", e.msg);
    cr_assert_arr_eq(product, first, sizeof product);
    free(first);
    free(q);
    free(w);
}

Test(leading, refuses)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_plan plan = {0};
    const uint64_t shape[] = {2, 4};
    const float zero[8] = {0};
    struct fake_source s;
    float *w = make_matrix();

    w[150 * COLS + 3] = NAN;
    cr_assert(run(w, 2, &e) < 0 && strstr(e.msg, "tensor w: is NaN"), "%s",
              e.msg);
    cr_assert_not(seen);
    fake_source_init(&s, false);
    const struct pq_tensor *t =
        fake_source_add(&s, "w", PQ_F32, 2, shape, zero);
    cr_assert_null(pq_step_leading(&plan, &s.base, t, 3, pq_kernels_best(),
                                   found, &e));
    cr_assert_null(pq_step_leading(&plan, &s.base, t, 0, pq_kernels_best(),
                                   found, &e));
    pq_plan_release(&plan);
    fake_source_release(&s);
    free(w);
}
