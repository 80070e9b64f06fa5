/*
 * What cuts leave of a model, byte by byte against a plain loop, from a file
 * and from a pipe; sums of squares.
 */
#include "fake.h"

#include "pq_names.h"
#include "pq_shrink.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 700, COLS = 90 }; /* of float: more than a window */

/* Every value says where it was. */
static void add(struct fake_source *s, const char *name, uint64_t rows,
                uint64_t cols)
{
    const uint64_t shape[] = {rows, cols};
    const uint64_t n = rows * (cols ? cols : 1);
    float *x = malloc(n * sizeof *x);

    for (uint64_t i = 0; i < n; i++)
        x[i] = (float)i;
    fake_source_add(s, name, PQ_F32, cols ? 2 : 1, shape, x);
    free(x);
}

static void make(struct fake_source *s, bool sequential)
{
    fake_source_init(s, sequential);
    add(s, "gone", 300, 7);
    add(s, "whole", 20, 5);
    add(s, "rows", ROWS, COLS);
    add(s, "columns", ROWS, COLS);
    add(s, "both", ROWS, COLS);
    add(s, "last", 50, 0);
}

static const struct pq_span some_rows[] = {{3, 1}, {4, 2}, {100, 400},
                                           {699, 1}};
static const struct pq_span some_columns[] = {{0, 2}, {5, 1}, {40, 50}};
static const struct pq_span few[] = {{7, 10}, {49, 1}};
static const struct pq_spans rows = {some_rows, 4};
static const struct pq_spans columns = {some_columns, 3};
static const struct pq_spans vector = {few, 2};

static const struct pq_cut cuts[] = {
    {1, NULL, NULL}, {2, &rows, NULL},     {3, NULL, &columns},
    {4, &rows, &columns}, {5, &vector, NULL},
};
enum { N_CUTS = sizeof cuts / sizeof *cuts };

static bool holds(const struct pq_spans *s, uint64_t i)
{
    for (size_t k = 0; s && k < s->n; k++)
        if (i >= s->list[k].first && i < s->list[k].first + s->list[k].count)
            return true;
    return !s;
}

/* The bytes that the cut leaves, found one by one. */
static size_t expect(const struct fake_source *s, const struct pq_cut *c,
                     float *to)
{
    const struct pq_tensor *t = &s->catalog.tensors[c->tensor];
    const float *x = (const void *)(s->bytes + t->parts[0].offset);
    const uint64_t width = t->rank > 1 ? t->shape[1] : 1;
    size_t n = 0;

    for (uint64_t i = 0; i < t->shape[0]; i++)
        for (uint64_t k = 0; k < width; k++)
            if (holds(c->rows, i) && holds(c->columns, k))
                to[n++] = x[i * width + k];
    return n;
}

static void check_reads(bool sequential, size_t piece)
{
    static float want[ROWS * COLS], got[ROWS * COLS];
    struct fake_source s;
    struct pq_source *view;
    struct pq_error e = PQ_ERROR_INIT;

    make(&s, sequential);
    cr_assert_eq(pq_shrunk_new(&s.base, cuts, N_CUTS, 1 << 20, NULL, &view,
                               &e), 0, "%s", e.msg);
    cr_assert_eq(view->catalog->n_tensors, N_CUTS);
    for (size_t i = 0; i < N_CUTS; i++) {
        const struct pq_part *p = &view->catalog->tensors[i].parts[0];
        const size_t n = expect(&s, &cuts[i], want) * sizeof *want;
        cr_assert_eq(p->bytes, n, "%s: %llu", p->name,
                     (unsigned long long)p->bytes);
        for (size_t at = 0; at < n; at += piece) {
            const size_t k = n - at < piece ? n - at : piece;
            cr_assert_eq(pq_source_read(view, p, at, (char *)got + at, k, &e),
                         0, "%s", e.msg);
        }
        cr_assert_eq(memcmp(got, want, n), 0, "%s", p->name);
    }
    pq_source_free(view);
    fake_source_release(&s);
}

Test(shrink, bytes)
{
    check_reads(false, SIZE_MAX);
    check_reads(false, 1001);
    check_reads(true, SIZE_MAX);
    check_reads(true, 1001);
}

Test(shrink, shapes)
{
    struct fake_source s;
    struct pq_source *view;
    struct pq_error e = PQ_ERROR_INIT;

    make(&s, false);
    cr_assert_eq(pq_shrunk_new(&s.base, cuts, N_CUTS, 0, NULL, &view, &e), 0);
    const struct pq_tensor *t = view->catalog->tensors;
    cr_assert_str_eq(t[3].name, "both");
    cr_assert_eq(t[1].shape[0], 404);
    cr_assert_eq(t[1].shape[1], COLS);
    cr_assert_eq(t[2].shape[0], ROWS);
    cr_assert_eq(t[2].shape[1], 53);
    cr_assert_eq(t[3].n_elements, 404 * 53);
    cr_assert_eq(t[4].shape[0], 11);
    pq_source_free(view);
    fake_source_release(&s);
}

/* Fails with the code, and names what is wrong. */
static void refused(const struct pq_cut *c, size_t n, const char *why)
{
    struct fake_source s;
    struct pq_source *view;
    struct pq_error e = PQ_ERROR_INIT;

    make(&s, false);
    cr_assert_eq(pq_shrunk_new(&s.base, c, n, 0, NULL, &view, &e), -1);
    cr_assert_eq(e.code, PQ_EARG);
    cr_assert(strstr(e.msg, why), "%s", e.msg);
    fake_source_release(&s);
}

Test(shrink, refused)
{
    static const struct pq_span beyond[] = {{699, 2}}, empty[] = {{5, 0}},
                                back[] = {{5, 2}, {6, 1}},
                                huge[] = {{1, UINT64_MAX}};
    const struct pq_spans bad[] = {{beyond, 1}, {back, 2}, {empty, 1},
                                   {huge, 1}, {NULL, 0}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(&(struct pq_cut){2, &bad[i], NULL}, 1, "rows");
    refused(&(struct pq_cut){5, NULL, &vector}, 1, "last");
    refused((struct pq_cut[]){{2, NULL, NULL}, {2, NULL, NULL}}, 2, "order");
    refused(&(struct pq_cut){6, NULL, NULL}, 1, "order");
}

/* ---- sums of squares --------------------------------------------------- */

static double sums[ROWS];

static int found(const struct pq_step *s, const double *x, struct pq_error *e)
{
    (void)e;
    memcpy(sums, x, *(const size_t *)s->user * sizeof *x);
    return 0;
}

static int sum(const float *x, bool by_column, unsigned threads,
               struct pq_error *e)
{
    const uint64_t shape[] = {ROWS, COLS};
    struct fake_source s;
    struct pq_source *sources[] = {&s.base};
    struct pq_plan plan = {.sources = sources, .n_sources = 1};
    const struct pq_run how = {.threads = threads, .memory = 16 << 20};
    size_t n = by_column ? COLS : ROWS;

    fake_source_init(&s, false);
    const struct pq_tensor *t = fake_source_add(&s, "w", PQ_F32, 2, shape, x);
    struct pq_step *step = pq_step_squares(&plan, &s.base, t, by_column,
                                           pq_kernels_best(), found, e);
    cr_assert(step);
    step->user = &n;
    const int rc = pq_engine_run(&plan, &how, e);
    pq_plan_release(&plan);
    fake_source_release(&s);
    return rc;
}

Test(shrink, squares)
{
    static float x[ROWS * COLS];
    static double rows_at_1[ROWS];
    struct pq_error e = PQ_ERROR_INIT;

    for (size_t i = 0; i < ROWS * COLS; i++)
        x[i] = (float)(i % 13) - 5; /* small integers: sums are exact */
    for (int by_column = 0; by_column < 2; by_column++)
        for (unsigned threads = 1; threads < 4; threads += 2) {
            cr_assert_eq(sum(x, by_column, threads, &e), 0, "%s", e.msg);
            for (size_t i = 0; i < (by_column ? COLS : ROWS); i++) {
                double want = 0;
                for (size_t k = 0; k < (by_column ? ROWS : COLS); k++) {
                    const float v = by_column ? x[k * COLS + i]
                                              : x[i * COLS + k];
                    want += (double)v * (double)v;
                }
                cr_assert_eq(sums[i], want);
            }
        }
    for (size_t i = 0; i < ROWS * COLS; i++)
        x[i] = 1 / (float)(i + 3);
    cr_assert_eq(sum(x, false, 1, &e), 0);
    memcpy(rows_at_1, sums, sizeof sums);
    cr_assert_eq(sum(x, false, 3, &e), 0);
    cr_assert_eq(memcmp(rows_at_1, sums, sizeof sums), 0);
}

Test(shrink, squares_of_nan)
{
    static float x[ROWS * COLS];
    struct pq_error e = PQ_ERROR_INIT;

    x[600 * COLS + 3] = 0.0f / 0.0f;
    cr_assert_eq(sum(x, true, 1, &e), -1);
    cr_assert_eq(e.code, PQ_EVALUE);
    cr_assert(strstr(e.msg, "tensor w"), "%s", e.msg);
}

/* ---- what the tensors are ---------------------------------------------- */

Test(shrink, roles)
{
    static const struct {
        const char *name;
        enum pq_block_role role;
        bool bias;
    } all[] = {
        {"model.layers.3.self_attn.q_proj.weight", PQ_BLOCK_QUERY, false},
        {"model.layers.3.self_attn.k_proj.bias", PQ_BLOCK_KEY, true},
        {"layers.0.self_attn.v_proj.weight", PQ_BLOCK_VALUE, false},
        {"model.layers.3.self_attn.o_proj.weight", PQ_BLOCK_OUT, false},
        {"model.layers.3.mlp.gate_proj.weight", PQ_BLOCK_GATE, false},
        {"transformer.h.7.mlp.c_fc.bias", PQ_BLOCK_UP, true},
        {"h.7.mlp.c_proj.weight", PQ_BLOCK_DOWN, false},
        {"h.7.attn.c_proj.weight", PQ_BLOCK_OTHER, false},
        {"model.layers.3.mlp.experts.1.up_proj.weight", PQ_BLOCK_OTHER, false},
        {"model.layers.3.mlp.up_proj.weight_scale", PQ_BLOCK_OTHER, false},
        {"mlp.up_proj.weight", PQ_BLOCK_OTHER, false},
    };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bool bias = false;
        cr_assert_eq(pq_name_block_role(all[i].name, &bias), all[i].role,
                     "%s", all[i].name);
        cr_assert_eq(bias, all[i].bias, "%s", all[i].name);
    }
}

/* A pipe that is kept: what the first run left alone the second one gets. */
Test(shrink, kept_after_it_was_finished)
{
    struct fake_source s;
    struct pq_source *kept;
    struct pq_error e = PQ_ERROR_INIT;
    float x[2];

    make(&s, true);
    cr_assert_eq(pq_kept_new(&s.base, 1 << 20, NULL, &kept, &e), 0);
    const struct pq_tensor *t = s.catalog.tensors;
    cr_assert_eq(pq_source_read(kept, &t[2].parts[0], 8, x, 8, &e), 0);
    cr_assert_eq(x[0], 2);
    cr_assert_eq(pq_source_finish(kept, &e), 0, "%s", e.msg);
    cr_assert(s.finished);
    cr_assert_eq(pq_source_read(kept, &t[5].parts[0], 192, x, 8, &e), 0,
                 "%s", e.msg);
    cr_assert_eq(x[1], 49);
    cr_assert_eq(pq_source_read(kept, &t[0].parts[0], 4, x, 4, &e), 0);
    cr_assert_eq(x[0], 1);
    pq_source_free(kept);
    fake_source_release(&s);
}
