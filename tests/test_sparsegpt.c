/*
 * SparseGPT against what the published rule makes of the same weights
 * (testdata/prune_data, tests/oracle/make_prune_data.py), its ties, its
 * counts, and what it loses beside Wanda and plain magnitude.
 */
#include "fake.h"
#include "model.h"

#include "pq_linalg.h"
#include "pq_quant.h"
#include "pq_sparsegpt.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DATA "testdata/prune_data/"
#define UP   "model.layers.0.mlp.up_proj.weight"
#define Q    "model.layers.0.self_attn.q_proj.weight"
#define CONV "transformer.h.0.attn.c_attn.weight"

static struct pq_pruned seen;

static int report(const struct pq_step *s, const struct pq_pruned *q,
                  struct pq_error *e)
{
    (void)s;
    (void)e;
    seen = *q;
    return 0;
}

/* One tensor pruned, as floats for free(); or NULL and *e. */
static float *prune(struct pq_source *model, const struct pq_tensor *t,
                    const struct pq_sparsegpt *g, unsigned threads,
                    struct pq_error *e)
{
    const struct pq_pruning how = {.kernels = pq_kernels_best(),
                                   .measure = true,
                                   .report = report};
    struct pq_source *sources[] = {model, g->source};
    struct pq_plan plan = {.sources = sources, .n_sources = 2};
    struct pq_catalog out;
    struct fake_sink sink;
    uint64_t bytes;
    float *x = NULL;

    if (pq_sparsegpt_check(g, t, &bytes, e))
        return NULL;
    const struct pq_run run = {.threads = threads, .memory = 2 * bytes};
    pq_catalog_init(&out);
    cr_assert(pq_tensor_copy(&out, t, e));
    cr_assert(pq_step_sparsegpt(&plan, model, t, 0, g, &how, e));
    fake_sink_init(&sink, &out, true, -1);
    plan.sink = &sink.base;
    if (pq_engine_run(&plan, &run, e) == 0)
        x = widen(t, fake_sink_part(&sink, 0, 0));
    fake_sink_release(&sink);
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    return x;
}

/* ---- goldens ----------------------------------------------------------- */

/*
 * The same zeros, and the other values up to rounding: of f32 to a relative
 * error of 1e-5 over all, of bf16 to one step of it.
 */
static void compare(const float *x, const float *want,
                    const struct pq_tensor *t)
{
    double apart = 0, size = 0;

    for (uint64_t i = 0; i < t->n_elements; i++) {
        cr_assert_eq(x[i] == 0, want[i] == 0, "%s at %d", t->name, (int)i);
        cr_assert(x[i] != 0 || !signbit(x[i]));
        const double d = fabs((double)x[i] - (double)want[i]);
        cr_assert(t->dtype != PQ_BF16 ||
                  d <= fabs((double)want[i]) / 128);
        apart += d * d;
        size += (double)want[i] * (double)want[i];
    }
    cr_assert(t->dtype != PQ_F32 || sqrt(apart) <= 1e-5 * sqrt(size), "%s: %g",
              t->name, sqrt(apart / size));
}

static uint64_t zeros(const float *x, uint64_t n)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < n; i++)
        count += x[i] == 0;
    return count;
}

/* Of Q two inputs are always 0, and their weights go beside the others. */
static void check_report(const float *x, const struct pq_tensor *t)
{
    cr_assert_eq(seen.n, t->n_elements);
    cr_assert_eq(seen.zeros, zeros(x, t->n_elements));
    cr_assert(seen.pruned == seen.zeros ||
              (t->dtype == PQ_BF16 && seen.pruned < seen.zeros));
    cr_assert(seen.noise > 0 && seen.noise < seen.signal);
}

static void check_golden(const char *file, double sparsity, uint32_t of)
{
    static const char *const names[] = {UP, Q, CONV};
    struct pq_source *model = open_model(DATA "model.safetensors");
    struct pq_source *hessians = open_model(DATA "hessian.safetensors");
    struct pq_source *goldens = open_model(file);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        const struct pq_sparsegpt g = {.source = hessians,
                                       .hessian = tensor_of(hessians, names[i]),
                                       .sparsity = sparsity,
                                       .keep = of / 2,
                                       .of = of,
                                       .transpose = i == 2};
        const struct pq_tensor *t = tensor_of(model, names[i]);
        float *x = prune(model, t, &g, 1 + (unsigned)i, &e);
        float *want = read_tensor(goldens, tensor_of(goldens, names[i]));
        cr_assert(x, "%s", e.msg);
        compare(x, want, t);
        check_report(x, t);
        free(want);
        free(x);
    }
    pq_source_free(goldens);
    pq_source_free(hessians);
    pq_source_free(model);
}

Test(sparsegpt, is_what_the_published_rule_finds)
{
    check_golden(DATA "sparsegpt-0.5.safetensors", .5, 0);
    check_golden(DATA "sparsegpt-0.3.safetensors", .3, 0);
    check_golden(DATA "sparsegpt-2of4.safetensors", 0, 4);
}

/* ---- what it is for ---------------------------------------------------- */

/* |X (W - V)|^2 / tokens, of rows of n. */
static double lost(const float *w, const float *v, uint64_t rows, uint64_t n,
                   const float *h)
{
    double sum = 0;

    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t i = 0; i < n; i++)
            for (uint64_t j = 0; j < n; j++)
                sum += ((double)w[r * n + i] - (double)v[r * n + i]) *
                       (double)h[i * n + j] *
                       ((double)w[r * n + j] - (double)v[r * n + j]);
    return sum;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);

    return x < y ? -1 : x > y;
}

/* Half of the weights of every row, the smallest, set to 0. */
static float *halved(const float *w, uint64_t rows, uint64_t n)
{
    float *v = malloc(rows * n * sizeof *v), *sorted = malloc(n * sizeof *v);

    memcpy(v, w, rows * n * sizeof *v);
    for (uint64_t r = 0; r < rows; r++) {
        memcpy(sorted, w + r * n, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, compare_floats);
        for (uint64_t i = 0; i < n; i++)
            if (fabsf(w[r * n + i]) < fabsf(sorted[n / 2]))
                v[r * n + i] = 0;
    }
    free(sorted);
    return v;
}

static void check_worth(const char *name)
{
    struct pq_source *model = open_model(DATA "model.safetensors");
    struct pq_source *hessians = open_model(DATA "hessian.safetensors");
    struct pq_source *wanda = open_model(DATA "wanda-0.5.safetensors");
    const struct pq_tensor *t = tensor_of(model, name);
    const struct pq_sparsegpt g = {.source = hessians,
                                   .hessian = tensor_of(hessians, name),
                                   .sparsity = .5};
    struct pq_error e = PQ_ERROR_INIT;
    float *w = read_tensor(model, t), *h = read_tensor(hessians, g.hessian);
    float *by[3] = {prune(model, t, &g, 1, &e),
                    read_tensor(wanda, tensor_of(wanda, name)),
                    halved(w, t->shape[0], t->shape[1])};
    double loss[3];

    for (size_t i = 0; i < 3; i++) {
        cr_assert(by[i], "%s", e.msg);
        loss[i] = lost(w, by[i], t->shape[0], t->shape[1], h);
        free(by[i]);
    }
    cr_assert_lt(loss[0], .7 * loss[1], "%g %g", loss[0], loss[1]);
    cr_assert_lt(loss[1], .7 * loss[2], "%g %g", loss[1], loss[2]);
    free(h);
    free(w);
    pq_source_free(wanda);
    pq_source_free(hessians);
    pq_source_free(model);
}

Test(sparsegpt, loses_less_than_wanda_and_that_less_than_magnitude)
{
    check_worth(UP);
    check_worth(Q);
}

/* ---- counts and ties --------------------------------------------------- */

/* Weights [rows][n] of one value, inputs that do not depend on each other. */
struct even {
    struct fake_source model, hessians;
    const struct pq_tensor *w;
    struct pq_sparsegpt g;
};

static void even_init(struct even *v, uint64_t rows, uint64_t n, float w,
                      float h)
{
    const uint64_t shape[2] = {rows, n}, square[2] = {n, n};
    float *x = calloc(rows * n + n * n, sizeof *x);

    for (uint64_t i = 0; i < rows * n; i++)
        x[i] = w;
    memset(v, 0, sizeof *v);
    fake_source_init(&v->model, false);
    v->w = fake_source_add(&v->model, "w", PQ_F32, 2, shape, x);
    memset(x, 0, n * n * sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i * n + i] = h;
    fake_source_init(&v->hessians, false);
    v->g.hessian = fake_source_add(&v->hessians, "w", PQ_F32, 2, square, x);
    v->g.source = &v->hessians.base;
    free(x);
}

static void even_release(struct even *v)
{
    fake_source_release(&v->model);
    fake_source_release(&v->hessians);
}

static float *even_prune(struct even *v, double s, struct pq_error *e)
{
    v->g.sparsity = s;
    return prune(&v->model.base, v->w, &v->g, 1, e);
}

/* Blocks of 128 and 22 columns: 450 and 66 of 3 rows are counted apart. */
Test(sparsegpt, equal_scores_go_by_their_places)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct even v;

    even_init(&v, 3, 150, .5f, 2);
    float *x = even_prune(&v, .25, &e);
    cr_assert(x, "%s", e.msg);
    cr_assert_eq(zeros(x, 450), 384 / 4 + 1 + 66 / 4 + 1);
    for (size_t i = 0; i < 450; i++) {
        const size_t row = i / 150, col = i % 150;
        const bool goes = row == 0 && (col < 97 || (col >= 128 && col < 145));
        cr_assert_eq(x[i], goes ? 0 : .5f, "at %zu", i);
    }
    free(x);
    x = even_prune(&v, 0, &e);
    cr_assert_eq(zeros(x, 450), 0);
    free(x);
    x = even_prune(&v, 1, &e);
    cr_assert_eq(zeros(x, 450), 450);
    free(x);
    even_release(&v);
}

Test(sparsegpt, patterns_keep_so_many_of_each_group)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct even v;

    even_init(&v, 2, 150, .5f, 2);
    v.g.keep = 1;
    v.g.of = 6; /* no divisor of 128 */
    float *x = even_prune(&v, 0, &e);
    cr_assert(x, "%s", e.msg);
    for (size_t i = 0; i < 300; i++)
        cr_assert_eq(x[i], i % 6 == 5 ? .5f : 0);
    free(x);
    v.g.of = 150; /* wider than a block */
    x = even_prune(&v, 0, &e);
    cr_assert(x, "%s", e.msg);
    cr_assert(x[149] == .5f && x[299] == .5f && zeros(x, 300) == 298);
    free(x);
    even_release(&v);
}

Test(sparsegpt, what_is_pruned_stays_as_it_is)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *pruned = open_model(DATA "sparsegpt-0.5.safetensors");
    struct pq_source *hessians = open_model(DATA "hessian.safetensors");
    const struct pq_sparsegpt g = {.source = hessians,
                                   .hessian = tensor_of(hessians, UP),
                                   .sparsity = .5};
    const struct pq_tensor *t = tensor_of(pruned, UP);
    float *x = prune(pruned, t, &g, 1, &e), *was = read_tensor(pruned, t);

    cr_assert_arr_eq(x, was, t->n_elements * sizeof *x);
    free(was);
    free(x);
    pq_source_free(hessians);
    pq_source_free(pruned);
}

/* ---- what cannot be ---------------------------------------------------- */

static void refuses(struct even *v, const char *why)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_null(even_prune(v, .5, &e));
    cr_assert(strstr(e.msg, why), "%s", e.msg);
    even_release(v);
}

Test(sparsegpt, refuses)
{
    struct even v;

    even_init(&v, 2, 8, NAN, 1);
    refuses(&v, "NaN or infinite");
    even_init(&v, 2, 8, 1, INFINITY);
    refuses(&v, "its hessian in");
    even_init(&v, 2, 8, 1, -1);
    refuses(&v, "not positive definite");
    even_init(&v, 2, 8, 1, 1);
    v.g.keep = 1;
    v.g.of = 3;
    refuses(&v, "rows of 8 do not divide");
    even_init(&v, 2, 8, 1, 1);
    v.g.transpose = true;
    refuses(&v, "its hessian in");
}

/* F64 is worked on in float, as everything is. */
Test(sparsegpt, takes_types_that_hold_an_update)
{
    static const uint64_t shape[2] = {2, 4};
    const double w[8] = {1, -.5, .25, 3, -2, 7, .125, 1.5};
    struct pq_error e = PQ_ERROR_INIT;
    struct even v;

    even_init(&v, 2, 4, 1, 1);
    v.w = fake_source_add(&v.model, "d", PQ_F64, 2, shape, w);
    float *x = even_prune(&v, .375, &e);
    cr_assert(x, "%s", e.msg);
    for (size_t i = 0; i < 8; i++) /* inputs that do not depend on others */
        cr_assert_eq(x[i], fabs(w[i]) < 1.25 ? 0 : (float)w[i]);
    free(x);
    v.w = fake_source_add(&v.model, "f8", PQ_F8_E4M3, 2, shape, w);
    cr_assert_null(even_prune(&v, .5, &e));
    cr_assert(strstr(e.msg, "is F8_E4M3"), "%s", e.msg);
    even_release(&v);
}

Test(sparsegpt, the_factor_of_an_inverse)
{
    enum { N = 5 };
    struct pq_error e = PQ_ERROR_INIT;
    float h[N * N], u[N * N];

    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            h[i * N + j] = u[i * N + j] =
                (i == j ? 2 : 0) + 1 / (1 + (float)i + (float)j);
    cr_assert_eq(pq_inverse_factor_f32(u, N, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < N; i++) /* h u^T u = 1 */
        for (size_t j = 0; j < N; j++) {
            double sum = i == j ? -1 : 0;
            for (size_t k = 0; k < N; k++)
                for (size_t l = 0; l < N; l++)
                    sum += (double)h[i * N + k] * (double)u[l * N + k] *
                           (double)u[l * N + j];
            cr_assert_lt(fabs(sum), 1e-5);
            cr_assert(j >= i || u[i * N + j] == 0);
        }
    memset(h, 0, sizeof h);
    cr_assert(pq_inverse_factor_f32(h, N, &e) < 0);
    cr_assert_eq(e.code, PQ_EVALUE);
}
