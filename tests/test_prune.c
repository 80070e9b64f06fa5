/*
 * Pruning in memory: what goes against a stable sort of the scores, at every
 * scope, type and sparsity, with ties, subnormal numbers and zeros of both
 * signs; what is refused.
 */
#include "fake.h"
#include "model.h"
#include "numbers.h"

#include "pq_prune.h"
#include "pq_quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST 3 /* tensors */

struct model {
    struct fake_source in;
    const struct pq_tensor *t[MOST];
    struct pq_prune how[MOST];
    size_t n;
    struct pq_pruning q;
    struct pq_pruned done[MOST];
    size_t n_done;
    unsigned threads;
};

/* ---- the model ----------------------------------------------------------- */

/* Weights of a kind: 0 like weights, 1 few values, 2 subnormal, 3 any. */
static float weight(int kind)
{
    const uint32_t r = (uint32_t)(next() >> 16), sign = r & 0x80000000u;

    switch (kind) {
    case 0:
        return ((float)(r >> 8) * 0x1p-24f - 0.5f) * 0.1f;
    case 1:
        return float_of(sign | bits_of((float)(r % 9) / 16));
    case 2:
        return float_of(sign | (r & 0xffff));
    default:
        return float_of(sign | (r & 0x7fffffffu) % 0x7f800001u);
    }
}

static void model_init(struct model *m, bool sequential)
{
    memset(m, 0, sizeof *m);
    fake_source_init(&m->in, sequential);
    m->q.kernels = pq_kernels_best();
    m->threads = 1;
}

static void model_add(struct model *m, const char *name, enum pq_dtype type,
                      uint64_t rows, uint64_t cols, int kind,
                      const struct pq_prune *how)
{
    const uint64_t shape[2] = {rows, cols};
    const size_t n = (size_t)(rows * cols);
    float *x = malloc(n * sizeof *x + 1);
    unsigned char *raw = malloc(n * 8 + 1);

    for (size_t i = 0; i < n; i++)
        x[i] = weight(kind);
    if (type == PQ_F64)
        for (size_t i = 0; i < n; i++)
            memcpy(raw + 8 * i, &(double){(double)x[i]}, 8);
    else
        pq_store_f32(m->q.kernels, type, x, n, raw);
    m->t[m->n] = fake_source_add(&m->in, name, type, 2, shape, raw);
    m->how[m->n++] = *how;
    free(x);
    free(raw);
}

static void model_release(struct model *m)
{
    fake_source_release(&m->in);
}

static float *before(const struct model *m, size_t i)
{
    return widen(m->t[i], m->in.bytes + m->t[i]->parts[0].offset);
}

static int report(const struct pq_step *s, const struct pq_pruned *q,
                  struct pq_error *e)
{
    struct model *m = s->user;

    (void)e;
    m->done[m->n_done++] = *q;
    return 0;
}

/* ---- runs ---------------------------------------------------------------- */

typedef struct pq_step *step_fn(struct pq_plan *p, struct pq_source *src,
                                const struct pq_tensor *in,
                                const struct pq_prune *how,
                                const struct pq_pruning *q,
                                struct pq_error *e);

static int run_part(struct model *m, step_fn *step, struct pq_error *e)
{
    struct pq_source *in = &m->in.base;
    const struct pq_run run = {.threads = m->threads, .memory = 256 << 20};
    struct pq_plan p = {.sources = &in, .n_sources = 1};

    for (size_t i = 0; i < m->n; i++)
        cr_assert(step(&p, in, m->t[i], &m->how[i], &m->q, e));
    const int rc = pq_engine_run(&p, &run, e);
    pq_plan_release(&p);
    return rc;
}

/* What must be known before; of one scope, as all tensors here are. */
static int find(struct model *m, struct pq_prune_pool *pool,
                struct pq_column_cut *cuts, struct pq_error *e)
{
    for (size_t i = 0; i < m->n; i++) {
        m->how[i].pool = pool;
        m->how[i].pool_index = i;
        m->how[i].cuts = cuts + i * 2048;
    }
    if (m->how[0].scope == PQ_PRUNE_POOL)
        do {
            if (run_part(m, pq_step_prune_count, e))
                return -1;
        } while (pq_prune_pool_next(pool));
    if (m->how[0].scope == PQ_PRUNE_ROW && m->how[0].turned)
        return run_part(m, pq_step_prune_columns, e);
    return 0;
}

/* The bytes of all tensors end to end, for free(); or NULL and *e. */
static unsigned char *prune(struct model *m, struct pq_error *e)
{
    struct pq_source *in = &m->in.base;
    const struct pq_run run = {.threads = m->threads, .memory = 256 << 20};
    struct pq_prune_pool *pool = pq_prune_pool_new(m->how[0].sparsity, e);
    struct pq_column_cut *cuts = calloc(MOST * 2048, sizeof *cuts);
    struct pq_plan p = {.sources = &in, .n_sources = 1};
    unsigned char *bytes = NULL;
    struct pq_catalog out;
    struct fake_sink sink;

    pq_catalog_init(&out);
    m->q.report = report;
    m->n_done = 0;
    for (size_t i = 0; i < m->n; i++) {
        cr_assert_eq(pq_prune_check(&m->how[i], m->t[i], e), 0, "%s", e->msg);
        cr_assert(pq_tensor_copy(&out, m->t[i], e));
    }
    int rc = find(m, pool, cuts, e);
    for (size_t i = 0; i < m->n; i++)
        pq_step_prune(&p, in, m->t[i], i, &m->how[i], &m->q, e)->user = m;
    fake_sink_init(&sink, &out, true, -1);
    p.sink = &sink.base;
    if (!rc && pq_engine_run(&p, &run, e) == 0) {
        bytes = malloc(m->in.size + 1);
        memcpy(bytes, sink.bytes, m->in.size);
    }
    fake_sink_release(&sink);
    pq_plan_release(&p);
    pq_catalog_release(&out);
    pq_prune_pool_free(pool);
    free(cuts);
    return bytes;
}

static unsigned char *pruned(struct model *m)
{
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char *bytes = prune(m, &e);

    cr_assert(bytes, "%s", e.msg);
    return bytes;
}

/* ---- what is right ------------------------------------------------------- */

struct ranked {
    uint32_t score;
    size_t place;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* Of n weights, `stride` apart, k go. */
static void sort_and_drop(const float *x, size_t n, size_t stride, uint64_t k,
                          bool *goes)
{
    struct ranked *r = malloc(n * sizeof *r + 1);

    for (size_t i = 0; i < n; i++)
        r[i] = (struct ranked){bits_of(x[i * stride]) & 0x7fffffff, i};
    qsort(r, n, sizeof *r, by_score);
    for (size_t i = 0; i < k; i++)
        goes[r[i].place * stride] = true;
    free(r);
}

/* What goes of a tensor that is pruned on its own. */
static void expect_alone(const struct pq_prune *how, const float *x,
                         uint64_t rows, uint64_t cols, bool *goes)
{
    const uint64_t n = rows * cols, lines = how->turned ? cols : rows;
    const uint64_t line = how->turned ? rows : cols;
    const uint64_t m = how->scope == PQ_PRUNE_GROUPS ? how->m : line;
    const uint64_t k = how->scope == PQ_PRUNE_GROUPS
                           ? how->m - how->n
                           : (uint64_t)(how->sparsity * (double)line);

    if (how->scope == PQ_PRUNE_TENSOR) {
        sort_and_drop(x, n, 1, (uint64_t)nearbyint(how->sparsity * (double)n),
                      goes);
        return;
    }
    if (how->scope == PQ_PRUNE_BELOW) {
        for (uint64_t i = 0; i < n; i++)
            goes[i] = fabsf(x[i]) < how->threshold;
        return;
    }
    for (uint64_t l = 0; l < lines; l++)
        for (uint64_t i = 0; i < line; i += m) {
            const uint64_t at = how->turned ? i * cols + l : l * cols + i;
            sort_and_drop(x + at, m, how->turned ? cols : 1, k, goes + at);
        }
}

/* Everything kept has its bytes, all that went is 0; goes is [elements]. */
static void check(const struct model *m, const unsigned char *bytes,
                  const bool *goes, const char *what)
{
    static const unsigned char nothing[8];
    size_t at = 0;

    for (size_t i = 0; i < m->n; i++) {
        const size_t size = pq_dtype_bits(m->t[i]->dtype) / 8;
        for (uint64_t k = 0; k < m->t[i]->n_elements; k++, at += size, goes++)
            cr_assert_eq(memcmp(bytes + at, *goes ? nothing : m->in.bytes + at,
                                size),
                         0, "%s: tensor %zu element %llu", what, i,
                         (unsigned long long)k);
    }
}

/* With other threads and kernels, and once more on what came out. */
static void check_ways(struct model *m, const unsigned char *bytes)
{
    for (m->threads = 1; m->threads <= 4; m->threads += 3)
        FOR_EACH_VARIANT(k)
        {
            m->q.kernels = k;
            unsigned char *other = pruned(m);
            cr_assert_eq(memcmp(bytes, other, m->in.size), 0, "%s, %u threads",
                         k->name, m->threads);
            free(other);
        }
    unsigned char *old = m->in.bytes;
    m->in.bytes = malloc(m->in.size + 1);
    memcpy(m->in.bytes, bytes, m->in.size);
    unsigned char *again = pruned(m);
    cr_assert_eq(memcmp(bytes, again, m->in.size), 0, "not idempotent");
    free(again);
    free(m->in.bytes);
    m->in.bytes = old;
}

static const enum pq_dtype types[] = {PQ_F32, PQ_F16, PQ_BF16, PQ_F64,
                                      PQ_F8_E5M2};

static void check_one(const struct pq_prune *how, uint64_t rows, uint64_t cols,
                      const char *what)
{
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int kind = 0; kind < 4; kind++) {
            struct model m;
            bool *goes = calloc((size_t)(rows * cols) + 1, sizeof *goes);
            model_init(&m, false);
            model_add(&m, "w", types[t], rows, cols, kind, how);
            m.q.allow_nonfinite = true;
            float *x = before(&m, 0);
            unsigned char *bytes = pruned(&m);
            expect_alone(how, x, rows, cols, goes);
            check(&m, bytes, goes, what);
            check_ways(&m, bytes);
            free(x);
            free(bytes);
            free(goes);
            model_release(&m);
        }
}

Test(prune, tensor, .timeout = 120)
{
    static const double some[] = {0, 0.5, 0.3, 0.999, 1, 1e-9};

    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const struct pq_prune how = {.scope = PQ_PRUNE_TENSOR,
                                     .sparsity = some[i]};
        check_one(&how, 7, 13, "tensor");
        check_one(&how, 1, 1, "tensor");
        if (i < 3)
            check_one(&how, 64, 96, "tensor");
    }
}

/* Torch's round(amount * n): half to even. */
Test(prune, counts)
{
    cr_expect_eq(pq_prune_count(0.5, 5), 2);
    cr_expect_eq(pq_prune_count(0.5, 7), 4);
    cr_expect_eq(pq_prune_count(0.3, 10), 3);
    cr_expect_eq(pq_prune_count(0, 10), 0);
    cr_expect_eq(pq_prune_count(1, UINT64_MAX), UINT64_MAX);
}

Test(prune, rows_and_columns, .timeout = 120)
{
    for (int turned = 0; turned < 2; turned++)
        for (int i = 0; i < 4; i++) {
            static const double some[] = {0, 0.5, 0.37, 1};
            const struct pq_prune how = {.scope = PQ_PRUNE_ROW,
                                         .sparsity = some[i],
                                         .turned = turned};
            check_one(&how, 33, 70, turned ? "columns" : "rows");
            check_one(&how, 70, 9, turned ? "columns" : "rows");
        }
}

Test(prune, groups, .timeout = 120)
{
    static const unsigned nm[][2] = {{2, 4}, {4, 8},  {1, 4}, {1, 2}, {0, 4},
                                     {4, 4}, {3, 12}, {5, 64}, {1, 1}};

    for (int turned = 0; turned < 2; turned++)
        for (size_t i = 0; i < sizeof nm / sizeof *nm; i++) {
            const struct pq_prune how = {.scope = PQ_PRUNE_GROUPS,
                                         .n = nm[i][0],
                                         .m = nm[i][1],
                                         .turned = turned};
            check_one(&how, 192, turned ? 21 : 192, "groups");
            check_one(&how, turned ? 192 : 3, turned ? 3 : 192, "groups");
        }
}

Test(prune, below)
{
    static const float some[] = {0, -0.0f, 0.01f, 0.25f, 0x1p-140f, 1e30f};

    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const struct pq_prune how = {.scope = PQ_PRUNE_BELOW,
                                     .threshold = some[i]};
        check_one(&how, 31, 17, "below");
    }
}

/* ---- several tensors ----------------------------------------------------- */

static void check_pool(const enum pq_dtype *type, int kind, double sparsity)
{
    const struct pq_prune how = {.scope = PQ_PRUNE_POOL, .sparsity = sparsity};
    static const uint64_t shape[][2] = {{40, 30}, {3, 1}, {64, 65}};
    struct model m;
    size_t n = 0;
    float *all = malloc(5400 * sizeof *all);
    bool *goes = calloc(5400, sizeof *goes);

    model_init(&m, false);
    for (size_t i = 0; i < MOST; i++) {
        model_add(&m, "w", type[i], shape[i][0], shape[i][1], kind, &how);
        float *x = before(&m, i);
        memcpy(all + n, x, (size_t)m.t[i]->n_elements * sizeof *x);
        n += (size_t)m.t[i]->n_elements;
        free(x);
    }
    sort_and_drop(all, n, 1, pq_prune_count(sparsity, n), goes);
    unsigned char *bytes = pruned(&m);
    check(&m, bytes, goes, "pool");
    check_ways(&m, bytes);
    free(bytes);
    free(all);
    free(goes);
    model_release(&m);
}

Test(prune, pool, .timeout = 120)
{
    static const enum pq_dtype mixes[][MOST] = {{PQ_F32, PQ_F32, PQ_F32},
                                                {PQ_BF16, PQ_BF16, PQ_F8_E4M3},
                                                {PQ_F16, PQ_BF16, PQ_F32}};
    static const double some[] = {0, 0.5, 0.3, 0.01, 1};

    for (int mix = 0; mix < 3; mix++)
        for (int kind = 0; kind < 3; kind++)
            for (int i = 0; i < 5; i++)
                check_pool(mixes[mix], kind, some[i]);
}

/* More than a unit: ties before, in and behind the one with the last. */
Test(prune, ties_over_units, .timeout = 120)
{
    for (int pool = 0; pool < 2; pool++)
        for (int i = 0; i < 3; i++) {
            static const double some[] = {0.02, 0.5, 0.97};
            const struct pq_prune how = {.scope = pool ? PQ_PRUNE_POOL
                                                       : PQ_PRUNE_TENSOR,
                                         .sparsity = some[i]};
            struct model m;
            const size_t n = 1700000;
            bool *goes = calloc(n, sizeof *goes);
            model_init(&m, false);
            model_add(&m, "w", i == 1 ? PQ_F16 : PQ_BF16, 1700, 1000, 1, &how);
            float *x = before(&m, 0);
            sort_and_drop(x, n, 1, pq_prune_count(some[i], n), goes);
            m.threads = 3;
            unsigned char *bytes = pruned(&m);
            check(&m, bytes, goes, "ties");
            free(bytes);
            free(x);
            free(goes);
            model_release(&m);
        }
}

/* ---- blocks -------------------------------------------------------------- */

/* Whole numbers, so that every order of a sum gives the same. */
static void check_blocks(uint64_t rows, uint64_t cols, uint64_t r, uint64_t c,
                         double sparsity)
{
    const struct pq_prune how = {.scope = PQ_PRUNE_TENSOR,
                                 .sparsity = sparsity,
                                 .block_rows = r,
                                 .block_cols = c};
    const uint64_t across = cols / c, n = rows / r * across;
    struct model m;
    float *sum = calloc(n, sizeof *sum);
    bool *goes = calloc(n, sizeof *goes), *all = calloc(rows * cols, 1);

    model_init(&m, false);
    model_add(&m, "w", PQ_F16, rows, cols, 1, &how);
    float *x = before(&m, 0);
    for (uint64_t i = 0; i < rows * cols; i++)
        sum[i / cols / r * across + i % cols / c] += fabsf(x[i]);
    sort_and_drop(sum, n, 1, pq_prune_count(sparsity, n), goes);
    for (uint64_t i = 0; i < rows * cols; i++)
        all[i] = goes[i / cols / r * across + i % cols / c];
    unsigned char *bytes = pruned(&m);
    check(&m, bytes, all, "blocks");
    check_ways(&m, bytes);
    free(bytes);
    free(x);
    free(sum);
    free(goes);
    free(all);
    model_release(&m);
}

Test(prune, blocks, .timeout = 120)
{
    check_blocks(32, 48, 4, 8, 0.5);
    check_blocks(30, 21, 5, 3, 0.3);
    check_blocks(16, 16, 16, 16, 1);
    check_blocks(7, 9, 1, 9, 0.43);
    check_blocks(7, 9, 7, 1, 0);
    check_blocks(2048, 512, 2, 2, 0.7); /* more than a unit */
}

/* ---- what is said and refused -------------------------------------------- */

Test(prune, measures)
{
    static const float w[6] = {-0.0f, 3, -1, 0, -4, 2};
    const struct pq_prune how = {.scope = PQ_PRUNE_TENSOR, .sparsity = 0.5};
    const uint64_t shape[2] = {2, 3};
    struct model m;

    model_init(&m, true); /* a pipe */
    m.t[0] = fake_source_add(&m.in, "w", PQ_F32, 2, shape, w);
    m.how[m.n++] = how;
    m.q.measure = true;
    unsigned char *bytes = pruned(&m);
    cr_expect_eq(m.n_done, 1);
    cr_expect_eq(m.done[0].n, 6);
    cr_expect_eq(m.done[0].zeros, 3);
    cr_expect_eq(m.done[0].pruned, 3);
    cr_expect_eq(m.done[0].signal, 30);
    cr_expect_eq(m.done[0].noise, 1);
    static const float want[6] = {0, 3, 0, 0, -4, 2};
    cr_expect_eq(memcmp(bytes, want, sizeof want), 0);
    free(bytes);
    model_release(&m);
}

Test(prune, nan_is_refused_unless_allowed)
{
    static const struct pq_prune ways[] = {
        {.scope = PQ_PRUNE_TENSOR, .sparsity = 0.5},
        {.scope = PQ_PRUNE_POOL, .sparsity = 0.5},
        {.scope = PQ_PRUNE_ROW, .sparsity = 0.5},
        {.scope = PQ_PRUNE_ROW, .sparsity = 0.5, .turned = true},
        {.scope = PQ_PRUNE_GROUPS, .n = 1, .m = 2},
        {.scope = PQ_PRUNE_GROUPS, .n = 1, .m = 2, .turned = true},
        {.scope = PQ_PRUNE_BELOW, .threshold = 1},
        {.scope = PQ_PRUNE_TENSOR, .sparsity = 0.5, .block_rows = 1,
         .block_cols = 2},
    };
    const float w[8] = {1, INFINITY, 3, 4, 0, NAN, 7, 8};
    const uint64_t shape[2] = {2, 4};

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct model m;
        model_init(&m, false);
        m.t[0] = fake_source_add(&m.in, "w", PQ_F32, 2, shape, w);
        m.how[m.n++] = ways[i];
        unsigned char *bytes = prune(&m, &e);
        cr_expect_null(bytes);
        cr_expect_str_eq(e.msg, "fake: tensor w: element 5 is NaN", "%zu: %s",
                         i, e.msg);
        free(bytes);
        m.q.allow_nonfinite = true;
        bytes = pruned(&m);
        cr_expect_eq(memcmp(bytes + 20, w + 5, 4), 0, "%zu: NaN went", i);
        free(bytes);
        model_release(&m);
    }
}

static void refused(const struct pq_prune *how, enum pq_dtype type,
                    uint64_t rows, uint64_t cols, const char *why)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct model m;

    model_init(&m, false);
    model_add(&m, "w", type, rows, cols, 0, how);
    cr_expect_eq(pq_prune_check(how, m.t[0], &e), -1);
    cr_expect_str_eq(e.msg, why);
    model_release(&m);
}

Test(prune, refuses)
{
    struct pq_prune how = {.scope = PQ_PRUNE_GROUPS, .n = 2, .m = 4};
    struct pq_error e = PQ_ERROR_INIT;

    refused(&how, PQ_F32, 4, 6, "rows of 6 do not divide into groups of 4");
    how.turned = true;
    refused(&how, PQ_F32, 6, 4, "rows of 6 do not divide into groups of 4");
    const struct pq_prune blocks = {.block_rows = 4, .block_cols = 3};
    refused(&blocks, PQ_F32, 8, 8, "[8, 8] does not divide into blocks of 4x3");
    refused(&blocks, PQ_F32, 6, 9, "[6, 9] does not divide into blocks of 4x3");
    const uint64_t shape[1] = {6};
    struct pq_tensor t = {.rank = 1, .shape = shape, .n_elements = 6,
                          .dtype = PQ_F32};
    cr_expect_eq(pq_prune_check(&blocks, &t, &e), -1);
    cr_expect_str_eq(e.msg, "has no rows");
    e.code = PQ_OK;
    t.dtype = PQ_I32;
    cr_expect_eq(pq_prune_check(&(struct pq_prune){.sparsity = 1}, &t, &e), -1);
    cr_expect_str_eq(e.msg, "is I32, not floating");
    e.code = PQ_OK;
    t.codec.encoding = PQ_NF4;
    cr_expect_eq(pq_prune_check(&(struct pq_prune){.sparsity = 1}, &t, &e), -1);
    cr_expect_str_eq(e.msg, "is nf4: dequantize first");
}
