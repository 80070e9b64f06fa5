/*
 * Singular values of matrices that are never held, against their definitions
 * and the SVD of the whole matrix in double.
 */
#include "fake.h"

#include "pq_kernels.h"
#include "pq_lowrank.h"
#include "rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 12 };

/* n numbers in [-1, 1) */
static double *numbers(size_t n, const char *name)
{
    struct pq_rng r;
    double *x = malloc(n * sizeof *x);
    float *u = malloc(n * sizeof *u);

    pq_rng_init(&r, 7, name);
    pq_rng_uniform(&r, 0, u, n);
    for (size_t i = 0; i < n; i++)
        x[i] = 2 * (double)u[i] - 1;
    free(u);
    return x;
}

/* [rows][cols] with singular values that fall as f^k, `rank` of them. */
static double *falling(size_t rows, size_t cols, size_t rank, double f)
{
    struct pq_error e = PQ_ERROR_INIT;
    double *u = numbers(rows * rank, "u"), *v = numbers(cols * rank, "v");
    double *d = malloc(rows * cols * sizeof *d);

    cr_assert_eq(pq_qr_f64(u, rows, rank, NULL, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_qr_f64(v, cols, rank, NULL, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < rank; k++)
            u[i * rank + k] *= pow(f, (double)k);
    cr_assert_eq(pq_gemm_f64(u, 0, v, 1, rows, rank, cols, 0, d, &e), 0);
    free(u);
    free(v);
    return d;
}

static float *to_f32(const double *x, size_t n)
{
    float *y = malloc(n * sizeof *y);

    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

/* ---- running steps ----------------------------------------------------- */

struct result {
    uint64_t rows, cols;
    size_t rank;
    double norm_sq, *s;
    float *u, *vt;
};

static void *keep(const void *p, size_t bytes)
{
    return memcpy(malloc(bytes + 1), p ? p : "", bytes);
}

static int found(const struct pq_step *s, const struct pq_lowrank *r,
                 struct pq_error *e)
{
    struct result *to = s->user;

    (void)e;
    cr_assert_eq(to->u, NULL, "%s was found twice", s->name);
    *to = (struct result){.rows = r->rows, .cols = r->cols, .rank = r->rank,
                          .norm_sq = r->norm_sq};
    to->s = keep(r->s, r->rank * sizeof *r->s);
    to->u = keep(r->u, r->rows * r->rank * sizeof *r->u);
    to->vt = keep(r->vt, r->rank * r->cols * sizeof *r->vt);
    return 0;
}

static void release(struct result *r)
{
    free(r->s);
    free(r->u);
    free(r->vt);
    memset(r, 0, sizeof *r);
}

struct job {
    struct fake_source base, tuned;
    struct result r[MOST];
    size_t n;
};

static void job_open(struct job *j)
{
    memset(j, 0, sizeof *j);
    fake_source_init(&j->base, false);
    fake_source_init(&j->tuned, false);
}

/* A matrix, less `base` if that is not NULL: for all of a job, or none. */
static void job_add(struct job *j, const float *tuned, const float *base,
                    uint64_t rows, uint64_t cols)
{
    static const char *const names[MOST] = {"a", "b", "c", "d", "e", "f",
                                            "g", "h", "i", "j", "k", "l"};
    const uint64_t shape[] = {rows, cols};
    const char *name = names[j->n++];

    fake_source_add(&j->tuned, name, PQ_F32, 2, shape, tuned);
    if (base)
        fake_source_add(&j->base, name, PQ_F32, 2, shape, base);
}

static int job_run(struct job *j, const struct pq_lowrank_how *how,
                   unsigned threads, struct pq_error *e)
{
    struct pq_source *sources[] = {&j->base.base, &j->tuned.base};
    struct pq_plan plan = {.sources = sources, .n_sources = 2};
    const struct pq_run run = {.threads = threads, .memory = 64 << 20};
    int rc = 0;

    for (size_t i = 0; i < j->n && !rc; i++) {
        struct pq_step *s = pq_step_lowrank(
            &plan, j->tuned.catalog.tensors[i].name, &j->base.base,
            j->base.catalog.n_tensors ? &j->base.catalog.tensors[i] : NULL,
            &j->tuned.base, &j->tuned.catalog.tensors[i], how, e);
        if (s)
            s->user = &j->r[i];
        else
            rc = -1;
    }
    if (!rc)
        rc = pq_engine_run(&plan, &run, e);
    pq_plan_release(&plan);
    return rc;
}

static void job_close(struct job *j)
{
    for (size_t i = 0; i < j->n; i++)
        release(&j->r[i]);
    fake_source_release(&j->base);
    fake_source_release(&j->tuned);
}

static struct pq_lowrank_how how_of(size_t rank)
{
    return (struct pq_lowrank_how){.kernels = pq_kernels_best(),
                                   .rank = rank, .oversample = 10,
                                   .iterations = 2, .seed = 1,
                                   .found = found};
}

/* The singular values of one matrix, given in double. */
static struct result run_one(const double *d, size_t rows, size_t cols,
                             const struct pq_lowrank_how *how)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;
    float *x = to_f32(d, rows * cols);

    job_open(&j);
    job_add(&j, x, NULL, rows, cols);
    cr_assert_eq(job_run(&j, how, 2, &e), 0, "%s", e.msg);
    struct result r = j.r[0];
    memset(&j.r[0], 0, sizeof j.r[0]);
    job_close(&j);
    free(x);
    return r;
}

/* |d - u diag(s) vt|; d is [rows][cols], or its transpose with `turned` */
static double error_of(const struct result *r, const double *d, bool turned)
{
    double sum = 0;

    for (size_t i = 0; i < r->rows; i++)
        for (size_t j = 0; j < r->cols; j++) {
            double v = turned ? d[j * r->rows + i] : d[i * r->cols + j];
            for (size_t k = 0; k < r->rank; k++)
                v -= (double)r->u[i * r->rank + k] * r->s[k] *
                     (double)r->vt[k * r->cols + j];
            sum += v * v;
        }
    return sqrt(sum);
}

static double norm(const double *d, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += d[i] * d[i];
    return sqrt(sum);
}

static double *singular_values(const double *d, size_t rows, size_t cols)
{
    struct pq_error e = PQ_ERROR_INIT;
    const size_t k = rows < cols ? rows : cols;
    double *x = keep(d, rows * cols * sizeof *d);
    double *u = malloc(rows * k * sizeof *u), *s = malloc(k * sizeof *s);
    double *vt = malloc(k * cols * sizeof *vt);

    cr_assert_eq(pq_svd_f64(x, rows, cols, u, s, vt, &e), 0, "%s", e.msg);
    free(x);
    free(u);
    free(vt);
    return s;
}

/* ---- accuracy ---------------------------------------------------------- */

Test(lowrank, exact_rank_is_found_to_rounding)
{
    const size_t sizes[][2] = {{300, 170}, {170, 300}, {2000, 60}};

    for (size_t i = 0; i < 3; i++)
        for (int turned = 0; turned < 2; turned++) {
            const size_t rows = sizes[i][0], cols = sizes[i][1];
            double *d = falling(rows, cols, 8, 0.3); /* down to 2e-4 */
            struct pq_lowrank_how how = how_of(8);
            how.turned = turned;
            struct result r = run_one(d, rows, cols, &how);
            cr_assert_eq(r.rank, 8);
            cr_assert_eq(r.rows, turned ? cols : rows);
            cr_assert_eq(r.cols, turned ? rows : cols);
            cr_assert_lt(error_of(&r, d, turned),
                         1e-5 * norm(d, rows * cols));
            for (size_t k = 0; k < 8; k++)
                cr_assert_float_eq(r.s[k], pow(0.3, (double)k), 1e-6);
            cr_assert_float_eq(sqrt(r.norm_sq), norm(d, rows * cols), 1e-6);
            release(&r);
            free(d);
        }
}

Test(lowrank, values_far_below_the_first_are_found)
{
    double *d = falling(200, 150, 10, 0.2); /* down to 5e-7 */
    const struct pq_lowrank_how how = how_of(10);
    struct result r = run_one(d, 200, 150, &how);

    for (size_t k = 0; k < 8; k++)
        cr_assert_float_eq(r.s[k], pow(0.2, (double)k), 3e-7);
    cr_assert_lt(error_of(&r, d, false), 2e-6);
    release(&r);
    free(d);
}

/* The error is that of the best approximation, but for a hundredth. */
static void check_optimal(const double *d, size_t rows, size_t cols,
                          size_t rank)
{
    const struct pq_lowrank_how how = how_of(rank);
    struct result r = run_one(d, rows, cols, &how);
    double *s = singular_values(d, rows, cols), best = 0, found_sq = 0;
    const size_t k = rows < cols ? rows : cols;

    for (size_t i = rank; i < k; i++)
        best += s[i] * s[i];
    for (size_t i = 0; i < rank; i++)
        found_sq += r.s[i] * r.s[i];
    const double off = error_of(&r, d, false);
    cr_assert_lt(off, 1.01 * sqrt(best));
    cr_assert_geq(off, 0.9999 * sqrt(best));
    /* what it says is missing is what is missing */
    cr_assert_float_eq(sqrt(r.norm_sq - found_sq), off, 1e-3 * off);
    free(s);
    release(&r);
}

Test(lowrank, full_rank_is_near_the_optimum)
{
    double *noise = numbers(400 * 250, "noise");
    double *slow = falling(250, 250, 250, 0.97);
    double *steep = falling(260, 400, 200, 0.8);

    check_optimal(noise, 400, 250, 16);
    check_optimal(noise, 250, 400, 16);
    check_optimal(slow, 250, 250, 16);
    check_optimal(slow, 250, 250, 64);
    check_optimal(steep, 260, 400, 16);
    free(noise);
    free(slow);
    free(steep);
}

Test(lowrank, small_ones_give_the_whole_svd)
{
    const size_t sizes[][2] = {{300, 12}, {12, 300}, {9, 9}, {1, 50}, {50, 1}};

    for (size_t i = 0; i < 5; i++) {
        const size_t rows = sizes[i][0], cols = sizes[i][1];
        const size_t k = rows < cols ? rows : cols;
        const struct pq_lowrank_how how = how_of(4);
        double *d = numbers(rows * cols, "small");
        double *s = singular_values(d, rows, cols);
        struct result r = run_one(d, rows, cols, &how);
        cr_assert_eq(r.rank, k);
        for (size_t j = 0; j < k; j++)
            cr_assert_float_eq(r.s[j], s[j], 2e-6 * s[0]);
        cr_assert_lt(error_of(&r, d, false), 2e-6 * s[0] * sqrt((double)k));
        release(&r);
        free(s);
        free(d);
    }
}

Test(lowrank, difference_of_two)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_lowrank_how how = how_of(5);
    const size_t n = 210 * 130;
    double *d = falling(210, 130, 5, 0.7), *base = numbers(n, "base"), *sum =
        malloc(n * sizeof *sum);
    struct job j;

    for (size_t i = 0; i < n; i++)
        sum[i] = base[i] + d[i];
    float *a = to_f32(base, n), *b = to_f32(sum, n);
    job_open(&j);
    job_add(&j, b, a, 210, 130);
    cr_assert_eq(job_run(&j, &how, 2, &e), 0, "%s", e.msg);
    cr_assert_lt(error_of(&j.r[0], d, false), 1e-5 * norm(d, n));
    job_close(&j);
    free(d);
    free(base);
    free(sum);
    free(a);
    free(b);
}

Test(lowrank, nothing_has_no_values)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_lowrank_how how = how_of(3);
    float zero[40 * 30] = {0};
    struct job j;

    job_open(&j);
    job_add(&j, zero, NULL, 40, 30);
    job_add(&j, zero, NULL, 0, 30);
    cr_assert_eq(job_run(&j, &how, 2, &e), 0, "%s", e.msg);
    cr_assert_eq(j.r[0].norm_sq, 0);
    for (size_t k = 0; k < j.r[0].rank; k++)
        cr_assert_eq(j.r[0].s[k], 0);
    cr_assert_eq(j.r[1].rank, 0);
    job_close(&j);
}

/* ---- order, threads, refusals ------------------------------------------ */

static bool same(const struct result *a, const struct result *b)
{
    return a->rank == b->rank && a->norm_sq == b->norm_sq &&
           memcmp(a->s, b->s, a->rank * sizeof *a->s) == 0 &&
           memcmp(a->u, b->u, a->rows * a->rank * sizeof *a->u) == 0 &&
           memcmp(a->vt, b->vt, a->rank * a->cols * sizeof *a->vt) == 0;
}

/* More matrices than a wave takes, of several units, and of one pass only. */
static void open_many(struct job *j)
{
    const size_t sizes[] = {700, 1500, 64, 3000, 800, 900,
                            700, 20, 5000, 64, 1000, 1100};

    job_open(j);
    for (size_t i = 0; i < MOST; i++) {
        const size_t cols = i % 5 == 4 ? 8 : 900;
        double *d = numbers(sizes[i] * cols, i % 2 ? "odd" : "even");
        float *x = to_f32(d, sizes[i] * cols);
        job_add(j, x, NULL, sizes[i], cols);
        free(d);
        free(x);
    }
}

Test(lowrank, same_bits_at_any_number_of_threads)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_lowrank_how how = how_of(6);
    struct job one, other;

    open_many(&one);
    cr_assert_eq(job_run(&one, &how, 1, &e), 0, "%s", e.msg);
    for (unsigned threads = 2; threads < 8; threads += 3) {
        open_many(&other);
        cr_assert_eq(job_run(&other, &how, threads, &e), 0, "%s", e.msg);
        for (size_t i = 0; i < MOST; i++)
            cr_assert(same(&one.r[i], &other.r[i]), "%u threads, matrix %zu",
                      threads, i);
        job_close(&other);
    }
    job_close(&one);
}

static size_t order[MOST], n_order;

static int note(const struct pq_step *s, const struct pq_lowrank *r,
                struct pq_error *e)
{
    (void)e;
    (void)r;
    order[n_order++] = (size_t)(s->name[0] - 'a');
    return 0;
}

Test(lowrank, results_come_in_the_order_of_the_plan)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_lowrank_how how = how_of(6);
    struct job j;

    how.found = note;
    open_many(&j);
    cr_assert_eq(job_run(&j, &how, 3, &e), 0, "%s", e.msg);
    cr_assert_eq(n_order, MOST);
    for (size_t i = 0; i < MOST; i++)
        cr_assert_eq(order[i], i);
    job_close(&j);
}

Test(lowrank, other_seeds_look_elsewhere)
{
    struct pq_lowrank_how how = how_of(4);
    double *d = falling(200, 150, 150, 0.9);
    struct result a = run_one(d, 200, 150, &how);
    how.seed = 2;
    struct result b = run_one(d, 200, 150, &how);

    cr_assert(!same(&a, &b));
    cr_assert_float_eq(a.s[0], b.s[0], 1e-3);
    release(&a);
    release(&b);
    free(d);
}

Test(lowrank, not_finite_is_refused_by_name)
{
    const struct pq_lowrank_how how = how_of(2);

    for (int i = 0; i < 2; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        float x[40 * 30] = {0};
        struct job j;
        x[777] = i ? NAN : INFINITY;
        job_open(&j);
        job_add(&j, x, NULL, 40, 30);
        cr_assert_eq(job_run(&j, &how, 1, &e), -1);
        cr_assert_eq(e.code, PQ_EVALUE);
        cr_assert(strstr(e.msg, "fake: tensor a: "), "%s", e.msg);
        job_close(&j);
    }
}

Test(lowrank, not_finite_may_be_let_through)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_lowrank_how how = how_of(2);
    float x[300 * 30] = {0};
    struct job j;

    how.allow_nonfinite = true;
    x[777] = NAN;
    job_open(&j);
    job_add(&j, x, NULL, 300, 30);
    x[777] = 1;
    job_add(&j, x, NULL, 300, 30);
    cr_assert_eq(job_run(&j, &how, 2, &e), 0, "%s", e.msg);
    cr_assert_eq(j.r[0].rank, 0);
    cr_assert(isinf(j.r[0].norm_sq));
    cr_assert_float_eq(j.r[1].s[0], 1, 1e-6);
    job_close(&j);
}

Test(lowrank, what_is_no_matrix_is_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_lowrank_how how = how_of(2);
    const uint64_t row[] = {4}, square[] = {2, 2}, wide[] = {1, 4};
    const float x[4] = {0};
    struct fake_source f;
    struct pq_plan plan = {0};

    fake_source_init(&f, false);
    fake_source_add(&f, "row", PQ_F32, 1, row, x);
    fake_source_add(&f, "square", PQ_F32, 2, square, x);
    fake_source_add(&f, "wide", PQ_F32, 2, wide, x);
    fake_source_add(&f, "ints", PQ_I32, 2, square, x);
    const struct pq_tensor *t = f.catalog.tensors;
    cr_assert_null(pq_step_lowrank(&plan, "row", NULL, NULL, &f.base, &t[0],
                                   &how, &e));
    cr_assert_eq(e.code, PQ_EARG);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert_null(pq_step_lowrank(&plan, "wide", &f.base, &t[1], &f.base,
                                   &t[2], &how, &e));
    cr_assert_eq(e.code, PQ_EARG);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert_null(pq_step_lowrank(&plan, "ints", NULL, NULL, &f.base, &t[3],
                                   &how, &e));
    cr_assert_eq(e.code, PQ_EUNSUPPORTED);
    pq_plan_release(&plan);
    fake_source_release(&f);
}

/* ---- products and ranks ------------------------------------------------ */

Test(lowrank, product_svd_of_every_shape)
{
    const size_t sizes[][3] = {{40, 6, 30}, {6, 9, 30}, {40, 9, 5},
                               {5, 9, 4},   {7, 7, 7},  {1, 3, 1}};

    for (size_t i = 0; i < 6; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        const size_t m = sizes[i][0], n = sizes[i][1], c = sizes[i][2];
        double *b = numbers(m * n, "b"), *a = numbers(n * c, "a");
        double *d = malloc(m * c * sizeof *d), *u = malloc(m * n * sizeof *u);
        double *s = malloc(n * sizeof *s), *vt = malloc(n * c * sizeof *vt);
        size_t rank;
        cr_assert_eq(pq_gemm_f64(b, 0, a, 0, m, n, c, 0, d, &e), 0);
        double *want = singular_values(d, m, c);
        cr_assert_eq(pq_product_svd(b, a, m, n, c, u, s, vt, &rank, &e), 0,
                     "%s", e.msg);
        cr_assert_eq(rank, m < n ? (m < c ? m : c) : n < c ? n : c);
        for (size_t k = 0; k < rank; k++)
            cr_assert_float_eq(s[k], want[k], 1e-12 * want[0]);
        for (size_t x = 0; x < m; x++)
            for (size_t y = 0; y < c; y++) {
                double v = d[x * c + y];
                for (size_t k = 0; k < rank; k++)
                    v -= u[x * rank + k] * s[k] * vt[k * c + y];
                cr_assert_float_eq(v, 0, 1e-12 * want[0]);
            }
        free(b);
        free(a);
        free(d);
        free(u);
        free(s);
        free(vt);
        free(want);
    }
}

Test(lowrank, rank_for_energy)
{
    const double s[] = {3, 2, 1, 1}; /* squares 9 4 1 1, sum 15 */

    cr_assert_eq(pq_rank_for_energy(s, 4, 0, 15), 0);
    cr_assert_eq(pq_rank_for_energy(s, 4, 0.6, 15), 1);
    cr_assert_eq(pq_rank_for_energy(s, 4, 0.61, 15), 2);
    cr_assert_eq(pq_rank_for_energy(s, 4, 13.0 / 15, 15), 2);
    cr_assert_eq(pq_rank_for_energy(s, 4, 1, 15), 4);
    cr_assert_eq(pq_rank_for_energy(s, 4, 0.99, 30), 4);
}
