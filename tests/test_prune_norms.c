/*
 * Wanda's scores in the pruning step: against sorting, of turned tensors as
 * of straight ones.  The published masks are tests/cli/prune-data.sh.
 */
#include "fake.h"

#include "pq_prune.h"
#include "pq_quant.h"
#include "rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OUT = 77, IN = 36 }; /* more than a strip; no multiple of 8 */

/* Weights [OUT][IN] of few different magnitudes, so that scores are equal. */
static void make_weights(float *w)
{
    struct pq_rng r;

    pq_rng_init(&r, 5, "w");
    pq_rng_uniform(&r, 0, w, OUT * IN);
    for (size_t i = 0; i < OUT * IN; i++)
        w[i] = (float)(int)(16 * w[i]) / 4 - 2;
}

static void make_norms(float *n)
{
    for (size_t i = 0; i < IN; i++)
        n[i] = (float)(i % 5); /* some are 0 */
}

static void turn(const float *x, size_t rows, size_t cols, float *y)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            y[j * rows + i] = x[i * cols + j];
}

struct data {
    struct fake_source source;
    const struct pq_tensor *w, *norms;
};

static void data_init(struct data *d, const float *w, const float *norms,
                      bool turned, enum pq_dtype dtype)
{
    const uint64_t straight[2] = {OUT, IN}, other[2] = {IN, OUT}, n = IN;
    float *x = malloc(OUT * IN * sizeof *x);
    void *raw = malloc(OUT * IN * sizeof(double));

    memcpy(x, w, OUT * IN * sizeof *x);
    if (turned)
        turn(w, OUT, IN, x);
    pq_store_f32(pq_kernels_scalar(), dtype, x, OUT * IN, raw);
    fake_source_init(&d->source, false);
    fake_source_add(&d->source, "w", dtype, 2, turned ? other : straight, raw);
    fake_source_add(&d->source, "n", PQ_F32, 1, &n, norms);
    d->w = &d->source.catalog.tensors[0];
    d->norms = &d->source.catalog.tensors[1];
    free(raw);
    free(x);
}

/* What is left, as floats [OUT][IN], for free(); or NULL and *e. */
static float *prune(const float *w, const float *norms, struct pq_prune how,
                    enum pq_dtype dtype, struct pq_error *e)
{
    const struct pq_pruning q = {.kernels = pq_kernels_best()};
    const struct pq_run run = {.threads = 3, .memory = 16 << 20};
    struct data d;
    struct pq_column_cut cuts[OUT];
    struct pq_source *sources[] = {&d.source.base};
    struct pq_plan find = {.sources = sources, .n_sources = 1}, plan = find;
    struct pq_catalog out;
    struct fake_sink sink;
    float *x = NULL, *y = malloc(OUT * IN * sizeof *y);
    int rc = 0;

    data_init(&d, w, norms, how.turned, dtype);
    how.norms = &d.source.base;
    how.norm = d.norms;
    how.cuts = cuts;
    cr_assert_eq(pq_prune_check(&how, d.w, e), 0, "%s", e->msg);
    if (how.turned && how.scope == PQ_PRUNE_ROW) {
        cr_assert(pq_step_prune_columns(&find, &d.source.base, d.w, &how, &q,
                                        e));
        rc = pq_engine_run(&find, &run, e);
    }
    pq_catalog_init(&out);
    cr_assert(pq_tensor_copy(&out, d.w, e));
    cr_assert(pq_step_prune(&plan, &d.source.base, d.w, 0, &how, &q, e));
    fake_sink_init(&sink, &out, true, -1);
    plan.sink = &sink.base;
    if (rc == 0 && pq_engine_run(&plan, &run, e) == 0) {
        x = malloc(OUT * IN * sizeof *x);
        pq_load_f32(q.kernels, dtype, fake_sink_part(&sink, 0, 0), OUT * IN, x);
        memcpy(y, x, OUT * IN * sizeof *y);
        if (how.turned)
            turn(y, IN, OUT, x);
    }
    pq_plan_release(&find);
    free(y);
    fake_sink_release(&sink);
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    fake_source_release(&d.source);
    return x;
}

/* Zeroes the k of n with the smallest |w| norm, of equal ones the first. */
static void by_hand(float *w, const float *norms, size_t n, size_t k)
{
    bool gone[IN] = {false};

    for (; k > 0; k--) {
        size_t least = n;
        for (size_t i = 0; i < n; i++)
            if (!gone[i] && (least == n || fabsf(w[i]) * norms[i] <
                                               fabsf(w[least]) * norms[least]))
                least = i;
        gone[least] = true;
    }
    for (size_t i = 0; i < n; i++)
        w[i] = gone[i] ? 0 : w[i];
}

static void check(struct pq_prune how, size_t n, size_t k)
{
    static const enum pq_dtype dtypes[] = {PQ_F32, PQ_BF16, PQ_F64};
    struct pq_error e = PQ_ERROR_INIT;
    float w[OUT * IN], want[OUT * IN], norms[IN];

    make_weights(w);
    make_norms(norms);
    memcpy(want, w, sizeof want);
    for (size_t i = 0; i < OUT; i++)
        for (size_t j = 0; j < IN; j += n)
            by_hand(want + i * IN + j, norms + j, n, k);
    for (size_t i = 0; i < 6; i++) {
        how.turned = i % 2;
        float *x = prune(w, norms, how, dtypes[i / 2], &e);
        cr_assert(x, "%s", e.msg);
        for (size_t j = 0; j < OUT * IN; j++)
            cr_assert(x[j] == want[j] && (x[j] != 0 || w[j] == 0 ||
                                          !signbit(x[j])),
                      "%zu at %zu", i, j);
        free(x);
    }
}

Test(prune_norms, rows)
{
    check((struct pq_prune){.scope = PQ_PRUNE_ROW, .sparsity = .5}, IN, 18);
    check((struct pq_prune){.scope = PQ_PRUNE_ROW, .sparsity = .33}, IN, 11);
    check((struct pq_prune){.scope = PQ_PRUNE_ROW, .sparsity = 0}, IN, 0);
    check((struct pq_prune){.scope = PQ_PRUNE_ROW, .sparsity = 1}, IN, IN);
}

Test(prune_norms, groups)
{
    check((struct pq_prune){.scope = PQ_PRUNE_GROUPS, .n = 2, .m = 4}, 4, 2);
    check((struct pq_prune){.scope = PQ_PRUNE_GROUPS, .n = 1, .m = 9}, 9, 8);
}

Test(prune_norms, norms_are_no_less_than_0)
{
    static const float none[] = {NAN, INFINITY, -1};
    struct pq_prune how = {.scope = PQ_PRUNE_ROW, .sparsity = .5};
    float w[OUT * IN], norms[IN];

    make_weights(w);
    for (size_t i = 0; i < 3; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        make_norms(norms);
        norms[7] = none[i];
        how.turned = i % 2;
        cr_assert_null(prune(w, norms, how, PQ_F32, &e));
        cr_assert(strstr(e.msg, "norm 7 in "), "%s", e.msg);
        cr_assert_eq(e.code, PQ_EVALUE);
    }
}

Test(prune_norms, must_fit)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_prune how = {.scope = PQ_PRUNE_ROW, .sparsity = .5};
    float w[OUT * IN], norms[IN];
    struct data d;

    make_weights(w);
    make_norms(norms);
    data_init(&d, w, norms, false, PQ_F32);
    how.norms = &d.source.base;
    how.norm = d.norms;
    cr_assert_eq(pq_prune_check(&how, d.w, &e), 0);
    how.turned = true; /* then it would have OUT inputs */
    cr_assert(pq_prune_check(&how, d.w, &e) < 0);
    cr_assert(strstr(e.msg, "has 77 inputs"), "%s", e.msg);
    fake_source_release(&d.source);
}
