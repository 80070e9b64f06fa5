/*
 * Factors of the difference of two models against what is known of the best
 * ones: testdata/extract, tests/oracle/make_extract_goldens.py.
 */
#include "fake.h"
#include "model.h"

#include "pq_kernels.h"
#include "pq_peft.h"
#include "pq_quant.h"
#include "pq_ranks.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 40 };

/* A pair of models, the matrices that differ, and what was found of them. */
struct job {
    struct pq_source *base, *tuned;
    const struct pq_tensor *a[MOST], *b[MOST];
    const cJSON *facts[MOST];
    struct pq_ranking ranking;
    size_t n;
    bool turned;
};

static void job_open(struct job *j, const cJSON *pair, bool turned)
{
    struct pq_error e = PQ_ERROR_INIT;
    const cJSON *t;

    memset(j, 0, sizeof *j);
    j->turned = turned;
    j->base = open_model(
        cJSON_GetStringValue(cJSON_GetObjectItem(pair, "base")));
    j->tuned = open_model(
        cJSON_GetStringValue(cJSON_GetObjectItem(pair, "tuned")));
    cr_assert_eq(pq_ranking_init(&j->ranking, MOST, 1 << 20, NULL, &e), 0);
    cJSON_ArrayForEach(t, cJSON_GetObjectItem(pair, "tensors"))
    {
        if (!cJSON_GetObjectItem(t, "singular"))
            continue;
        cr_assert_lt(j->n, MOST);
        j->a[j->n] = named(j->base->catalog, t->string);
        j->b[j->n] = named(j->tuned->catalog, t->string);
        j->facts[j->n++] = t;
    }
}

static void job_close(struct job *j)
{
    pq_ranking_release(&j->ranking);
    pq_source_free(j->base);
    pq_source_free(j->tuned);
}

static void run_plan(struct job *j, struct pq_plan *p)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *sources[] = {j->base, j->tuned,
                                   j->ranking.made};
    const struct pq_run run = {.threads = 2, .memory = 64 << 20};

    p->sources = sources;
    p->n_sources = 3;
    cr_assert_eq(pq_engine_run(p, &run, &e), 0, "%s", e.msg);
}

static int keep(const struct pq_step *s, const struct pq_lowrank *r,
                struct pq_error *e)
{
    struct job *j = s->user;

    return pq_ranking_keep(&j->ranking, s->name, r, 0, e);
}

static void find(struct job *j, size_t rank)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_lowrank_how how = {.kernels = pq_kernels_best(),
                                       .rank = rank, .oversample = 10,
                                       .iterations = 2, .found = keep,
                                       .turned = j->turned};
    struct pq_plan p = {0};

    for (size_t i = 0; i < j->n; i++) {
        struct pq_step *s =
            pq_step_lowrank(&p, j->a[i]->name, j->base, j->a[i], j->tuned,
                            j->b[i], &how, &e);
        cr_assert(s, "%s", e.msg);
        s->user = j;
    }
    run_plan(j, &p);
    pq_plan_release(&p);
    cr_assert_eq(j->ranking.n, j->n);
}

static struct pq_ranked factors(const struct job *j, size_t i, size_t rank)
{
    struct pq_ranked f = j->ranking.factors[i];

    f.rank = rank < f.kept ? rank : f.kept;
    return f;
}

static void measure(struct job *j, size_t rank, enum pq_dtype dtype,
                    struct pq_left *left /* [n] */)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_plan p = {0};

    for (size_t i = 0; i < j->n; i++) {
        const struct pq_ranked f = factors(j, i, rank);
        cr_assert(pq_step_left(&p, j->a[i]->name, j->base, j->a[i], j->tuned,
                               j->b[i], j->turned, j->ranking.made, &f,
                               dtype, pq_kernels_best(), &left[i], &e),
                  "%s", e.msg);
    }
    run_plan(j, &p);
    pq_plan_release(&p);
}

/* Relative: the root of the sum of squares from number `rank` on. */
static double best_error(const cJSON *facts, size_t rank)
{
    const cJSON *s = cJSON_GetObjectItem(facts, "singular");
    double sum = 0;

    for (int i = (int)rank; i < cJSON_GetArraySize(s); i++)
        sum += pow(cJSON_GetArrayItem(s, i)->valuedouble, 2);
    return sqrt(sum);
}

static void check_pair(const cJSON *pair, bool turned)
{
    static const size_t ranks[] = {1, 2, 3, 8};
    struct pq_left left[MOST];
    struct job j;

    job_open(&j, pair, turned);
    cr_assert_gt(j.n, 0);
    find(&j, 8);
    for (size_t r = 0; r < 4; r++) {
        measure(&j, ranks[r], PQ_F32, left);
        for (size_t i = 0; i < j.n; i++) {
            const double norm =
                cJSON_GetObjectItem(j.facts[i], "norm")->valuedouble;
            const double best = best_error(j.facts[i], ranks[r]);
            const double got = sqrt(left[i].left_sq / left[i].norm_sq);
            cr_assert_float_eq(sqrt(left[i].norm_sq), norm, 1e-6 * norm);
            cr_assert(got <= 1.01 * best + 1e-5 && got >= 0.9999 * best - 1e-6,
                      "%s %s rank %zu: %g, best %g", pair->string,
                      j.facts[i]->string, ranks[r], got, best);
        }
    }
    job_close(&j);
}

Test(extract, as_good_as_the_best)
{
    cJSON *m = read_json("testdata/extract/manifest.json");
    const cJSON *pair;
    size_t n = 0;

    cJSON_ArrayForEach(pair, m)
    {
        if (strncmp(pair->string, "pairs.", 6) != 0)
            continue;
        check_pair(pair, false);
        check_pair(pair, true); /* of the transpose it is as true */
        n++;
    }
    cr_assert_geq(n, 7);
    cJSON_Delete(m);
}

/* ---- what is written --------------------------------------------------- */

/* |tuned - base - B A| of matrix i, from the bytes of A and B. */
static double naive_left(const struct job *j, size_t i, const float *a,
                         const float *b, size_t rank)
{
    struct pq_error e = PQ_ERROR_INIT;
    const size_t rows = (size_t)j->a[i]->shape[0];
    const size_t cols = (size_t)j->a[i]->shape[1];
    float *x = malloc(rows * cols * sizeof *x), *y = malloc(rows * cols * 4);
    double sum = 0;

    cr_assert_eq(pq_source_read(j->base, j->a[i]->parts, 0, x, rows * cols * 4,
                                &e), 0);
    cr_assert_eq(pq_source_read(j->tuned, j->b[i]->parts, 0, y,
                                rows * cols * 4, &e), 0);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            const size_t out = j->turned ? c : r, in = j->turned ? r : c;
            double v = (double)y[r * cols + c] - (double)x[r * cols + c];
            for (size_t k = 0; k < rank; k++)
                v -= (double)b[out * rank + k] *
                     (double)a[k * (j->turned ? rows : cols) + in];
            sum += v * v;
        }
    free(x);
    free(y);
    return sqrt(sum);
}

static float *as_f32(const void *x, enum pq_dtype dtype, size_t n)
{
    float *y = malloc(n * sizeof *y);

    if (dtype == PQ_F32)
        memcpy(y, x, n * sizeof *y);
    else
        pq_kernels_best()->bf16_to_f32(x, n, y);
    return y;
}

/* What is measured is what the written factors leave. */
static void check_written(const cJSON *pair, bool turned, enum pq_dtype dtype)
{
    const size_t rank = 3;
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_quant q = {.kernels = pq_kernels_best()};
    struct pq_peft_out m[MOST];
    struct pq_left left[MOST];
    struct pq_plan p = {0};
    struct pq_catalog out;
    struct fake_sink sink;
    struct job j;

    job_open(&j, pair, turned);
    find(&j, 8);
    measure(&j, rank, dtype, left);
    pq_catalog_init(&out);
    for (size_t i = 0; i < j.n; i++) {
        j.ranking.factors[i].rank = rank;
        m[i] = (struct pq_peft_out){.name = j.a[i]->name,
                                    .in = &j.ranking.factors[i].cols,
                                    .n_in = 1,
                                    .factor = &j.ranking.factors[i]};
    }
    cr_assert_eq(pq_peft_write(&p, &out, m, j.n, 0, j.ranking.made, dtype, &q,
                               &e), 0, "%s", e.msg);
    fake_sink_init(&sink, &out, true, -1);
    p.sink = &sink.base;
    run_plan(&j, &p);
    for (size_t i = 0; i < j.n; i++) {
        float *a = as_f32(fake_sink_part(&sink, 2 * i, 0), dtype,
                          out.tensors[2 * i].n_elements);
        float *b = as_f32(fake_sink_part(&sink, 2 * i + 1, 0), dtype,
                          out.tensors[2 * i + 1].n_elements);
        const double norm = sqrt(left[i].norm_sq);
        cr_assert_float_eq(naive_left(&j, i, a, b, rank),
                           sqrt(left[i].left_sq), 1e-6 * norm);
        free(a);
        free(b);
    }
    fake_sink_release(&sink);
    pq_plan_release(&p);
    pq_catalog_release(&out);
    job_close(&j);
}

Test(extract, what_is_measured_is_what_is_written)
{
    cJSON *m = read_json("testdata/extract/manifest.json");

    for (int turned = 0; turned < 2; turned++) {
        check_written(cJSON_GetObjectItem(m, "pairs.mixed"), turned, PQ_F32);
        check_written(cJSON_GetObjectItem(m, "pairs.mixed"), turned, PQ_BF16);
        check_written(cJSON_GetObjectItem(m, "pairs.conv1d"), turned, PQ_F32);
    }
    cJSON_Delete(m);
}

Test(extract, f16_that_overflows_is_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    const float u[2] = {1, 0}, vt[2] = {0, 1};
    const double s[1] = {1e12};
    const struct pq_lowrank r = {.rows = 2, .cols = 2, .rank = 1, .u = u,
                                 .s = s, .vt = vt, .norm_sq = 1e24};
    const struct pq_quant q = {.kernels = pq_kernels_best()};
    struct pq_ranking ranking = {0};
    struct pq_catalog out;
    struct fake_sink sink;
    struct pq_plan p = {0};

    cr_assert_eq(pq_ranking_init(&ranking, 1, 1 << 20, NULL, &e), 0);
    cr_assert_eq(pq_ranking_keep(&ranking, "huge", &r, 0, &e), 0);
    const struct pq_peft_out m = {.name = "huge", .n_in = 1,
                                  .in = &ranking.factors[0].cols,
                                  .factor = &ranking.factors[0]};
    pq_catalog_init(&out);
    cr_assert_eq(pq_peft_write(&p, &out, &m, 1, 0, ranking.made, PQ_F16, &q,
                               &e), 0, "%s", e.msg);
    fake_sink_init(&sink, &out, true, -1);
    p.sink = &sink.base;
    p.sources = &ranking.made;
    p.n_sources = 1;
    const struct pq_run run = {.threads = 1, .memory = 64 << 20};
    cr_assert_eq(pq_engine_run(&p, &run, &e), -1);
    cr_assert_eq(e.code, PQ_EVALUE);
    cr_assert(strstr(e.msg, "huge"), "%s", e.msg);
    cr_assert(sink.aborted);
    fake_sink_release(&sink);
    pq_plan_release(&p);
    pq_catalog_release(&out);
    pq_ranking_release(&ranking);
}
