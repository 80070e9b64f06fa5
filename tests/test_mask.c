/*
 * Masks: their bits, their description, and pruning with one beside the
 * output and others that have a say.
 */
#include "fake.h"
#include "numbers.h"
#include "pq_prune.h"
#include "pq_quant.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool bit(const uint8_t *b, uint64_t cols, uint64_t i)
{
    const uint64_t c = i % cols;

    return b[i / cols * pq_mask_row(cols) + c / 8] >> c % 8 & 1;
}

/* ---- bits ---------------------------------------------------------------- */

Test(mask, bits_are_what_is_not_zero)
{
    static const uint64_t shapes[][2] = {
        {1, 1}, {3, 8}, {5, 13}, {2, 4099}, {1, 9000}, {7, 64}};

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const uint64_t rows = shapes[s][0], cols = shapes[s][1];
        const uint64_t n = rows * cols, bytes = rows * pq_mask_row(cols);
        float *x = calloc((size_t)n, sizeof *x), room[PQ_MASK_ROOM];
        uint8_t *a = malloc((size_t)bytes + 1), *b = malloc((size_t)bytes + 1);

        for (uint64_t i = 0; i < n; i++)
            x[i] = float_of(next() % 3 ? (uint32_t)next() : 0x80000000);
        a[bytes] = b[bytes] = 0x5a;
        pq_mask_of(pq_kernels_scalar(), PQ_F32, x, n, cols, room, a);
        pq_mask_of(pq_kernels_best(), PQ_F32, x, n, cols, room, b);
        cr_expect_arr_eq(a, b, (size_t)bytes + 1);
        for (uint64_t i = 0; i < n; i++)
            cr_assert_eq(bit(a, cols, i), x[i] != 0);
        for (uint64_t r = 0; r < rows && cols % 8; r++)
            cr_expect_eq(a[(r + 1) * pq_mask_row(cols) - 1] >> cols % 8, 0);
        free(x);
        free(a);
        free(b);
    }
}

Test(mask, any_run_of_bits_can_be_taken)
{
    uint8_t mask[64], to[32];

    for (size_t i = 0; i < sizeof mask; i++)
        mask[i] = (uint8_t)next();
    for (uint64_t cols = 5; cols <= 32; cols++)
        for (uint64_t at = 0; at < 40; at++)
            for (size_t n = 1; n < 90; n++) {
                memset(to, 0xff, sizeof to);
                pq_mask_get(mask, cols, at, n, to);
                for (size_t i = 0; i < n; i++)
                    cr_assert_eq(to[i / 8] >> i % 8 & 1,
                                 bit(mask, cols, at + i));
                if (n % 8)
                    cr_assert_eq(to[n / 8] >> n % 8, 0);
                cr_assert_eq(to[(n + 7) / 8], 0xff);
            }
}

/* ---- the description ----------------------------------------------------- */

/* Opens a mask with one tensor [2][3] bytes `w` and this description. */
static int open_text(const char *text, enum pq_dtype dtype, struct pq_error *e)
{
    const uint64_t shape[] = {2, 3};
    struct fake_source in;
    struct pq_mask m;

    fake_source_init(&in, false);
    fake_source_add(&in, "w", dtype, 2, shape, "abcdefabcdefabcdefabcdef");
    if (text)
        cr_assert_eq(pq_catalog_set(&in.catalog, PQ_MASK_KEY, text, NULL), 0);
    cr_expect_eq(pq_mask_is(&in.catalog), text != NULL);
    *e = (struct pq_error)PQ_ERROR_INIT;
    const int rc = pq_mask_open(&m, &in.base, e);
    cr_expect_eq(rc != 0, e->code != 0, "%s", text);
    pq_mask_release(&m);
    fake_source_release(&in);
    return rc;
}

Test(mask, descriptions_are_read_strictly)
{
    static const char *const good[] = {
        "{\"version\":1,\"shapes\":{\"w\":[2,24]}}",
        "{\"version\":1,\"shapes\":{\"w\":[2,17]}}",
        "{\"shapes\":{\"x\":[1],\"w\":[1,2,20]},\"version\":1,\"y\":{}}",
    };
    static const char *const bad[] = {
        "", "[]", "{}", "{\"version\":1}", "{\"shapes\":{\"w\":[2,24]}}",
        "{\"version\":2,\"shapes\":{\"w\":[2,24]}}",
        "{\"version\":1,\"shapes\":{\"w\":[2,25]}}",
        "{\"version\":1,\"shapes\":{\"w\":[2,16]}}",
        "{\"version\":1,\"shapes\":{\"w\":[3,24]}}",
        "{\"version\":1,\"shapes\":{\"w\":[24]}}",
        "{\"version\":1,\"shapes\":{\"w\":[]}}",
        "{\"version\":1,\"shapes\":{\"w\":24}}",
        "{\"version\":1,\"shapes\":{\"w\":[2,[24]]}}",
        "{\"version\":1,\"shapes\":{\"w\":[-2,24]}}",
        "{\"version\":1,\"shapes\":{\"w\":[2,4611686018427387904,8]}}",
        "{\"version\":1,\"shapes\":[]}", "{\"version\":1,\"shapes\":{\"w\":[2,24]}",
        "{\"version\":\"1\",\"shapes\":{\"w\":[2,24]}}",
        "{\"version\":1,\"shapes\":{\"x\":[2,24]}}",
    };
    struct pq_error e;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect_eq(open_text(good[i], PQ_U8, &e), 0, "%s: %s", good[i],
                     e.msg);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(open_text(bad[i], PQ_U8, &e), -1, "%s", bad[i]);
    cr_expect_eq(open_text(NULL, PQ_U8, &e), -1);
    cr_expect_str_eq(e.msg, "fake: is no mask");
    cr_expect_eq(open_text(good[0], PQ_F32, &e), -1, "U8 only");
}

Test(mask, of_other_weights_it_says_so)
{
    const uint64_t shape[] = {2, 3}, other[] = {2, 23};
    struct fake_source in;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tensor w = {.name = "w", .rank = 2, .shape = other};
    struct pq_mask m;

    fake_source_init(&in, false);
    fake_source_add(&in, "w", PQ_U8, 2, shape, "abcdef");
    cr_assert_eq(pq_catalog_set(&in.catalog, PQ_MASK_KEY,
                                "{\"version\":1,\"shapes\":{\"w\":[2,24]}}",
                                NULL), 0);
    cr_assert_eq(pq_mask_open(&m, &in.base, &e), 0);
    cr_expect_null(pq_mask_find(&m, &w, &e));
    cr_expect_str_eq(e.msg, "is [2, 23], and its mask in fake is for [2, 24]");
    w.name = "v";
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_expect(!pq_mask_find(&m, &w, &e) && e.code == 0);
    pq_mask_release(&m);
    fake_source_release(&in);
}

/* ---- pruning ------------------------------------------------------------- */

/* A tensor, masks for it, and what became of them. */
struct bed {
    struct fake_source in, given[2];
    struct pq_prune_mask masks[2];
    struct pq_catalog out, kept;
    struct fake_sink sink, side;
    struct pq_sink *list[1];
    uint64_t n, cols;
};

static void start(struct bed *b, const uint64_t *shape, int rank,
                  enum pq_dtype dtype, bool pipe)
{
    const uint64_t cols = shape[rank - 1];
    uint64_t n = 1;

    memset(b, 0, sizeof *b);
    for (int i = 0; i < rank; i++)
        n *= shape[i];
    b->n = n;
    b->cols = cols;
    float *x = malloc((size_t)n * sizeof *x);
    unsigned char *raw = calloc((size_t)n, 8);
    for (uint64_t i = 0; i < n; i++)
        x[i] = (float)((int)(next() >> 20 & 0x1ff) - 256);
    if (dtype == PQ_F64)
        for (uint64_t i = 0; i < n; i++)
            ((double *)(void *)raw)[i] = (double)x[i] * 0x1p-400;
    else
        pq_store_f32(pq_kernels_scalar(), dtype, x, (size_t)n, raw);
    fake_source_init(&b->in, pipe);
    fake_source_add(&b->in, "w", dtype, rank, shape, raw);
    pq_catalog_init(&b->out);
    pq_catalog_init(&b->kept);
    cr_assert(pq_tensor_copy(&b->out, &b->in.catalog.tensors[0], NULL));
    const struct pq_tensor *list[] = {&b->in.catalog.tensors[0]};
    cr_assert_eq(pq_mask_declare(&b->kept, list, 1, NULL), 0);
    for (int i = 0; i < 2; i++) {
        const struct pq_tensor *m = &b->kept.tensors[0];
        uint8_t *bits = malloc((size_t)m->n_elements + 1);
        for (uint64_t k = 0; k < m->n_elements; k++)
            bits[k] = (uint8_t)next();
        fake_source_init(&b->given[i], pipe);
        fake_source_add(&b->given[i], "w", PQ_U8, 2, m->shape, bits);
        b->masks[i].source = &b->given[i].base;
        b->masks[i].tensor = &b->given[i].catalog.tensors[0];
        free(bits);
    }
    free(x);
    free(raw);
}

static void prune(struct bed *b, const struct pq_prune *how)
{
    const struct pq_pruning q = {.kernels = pq_kernels_best()};
    const struct pq_run r = {.threads = 3, .memory = 64 << 20};
    struct pq_source *sources[] = {&b->in.base, &b->given[0].base,
                                   &b->given[1].base};
    struct pq_plan p = {.sources = sources, .n_sources = 3};
    struct pq_error e = PQ_ERROR_INIT;

    fake_sink_init(&b->sink, &b->out, false, -1);
    fake_sink_init(&b->side, &b->kept, false, -1);
    p.sink = &b->sink.base;
    b->list[0] = &b->side.base;
    p.sides = b->list;
    p.n_sides = 1;
    cr_assert_eq(pq_prune_check(how, &b->in.catalog.tensors[0], &e), 0, "%s",
                 e.msg);
    cr_assert(pq_step_prune(&p, &b->in.base, &b->in.catalog.tensors[0], 0, how,
                            &q, &e));
    cr_assert_eq(pq_engine_run(&p, &r, &e), 0, "%s", e.msg);
    cr_expect(b->side.finished && !b->side.out_of_order);
    pq_plan_release(&p);
}

static void stop(struct bed *b)
{
    for (int i = 0; i < 2; i++)
        fake_source_release(&b->given[i]);
    fake_source_release(&b->in);
    fake_sink_release(&b->sink);
    fake_sink_release(&b->side);
    pq_catalog_release(&b->out);
    pq_catalog_release(&b->kept);
}

static bool is_zero(const struct bed *b, const unsigned char *x, uint64_t i)
{
    const size_t n = pq_dtype_bits(b->out.tensors[0].dtype) / 8;

    for (size_t k = 0; k + 1 < n; k++)
        if (x[i * n + k])
            return false;
    return (x[i * n + n - 1] & 0x7f) == 0;
}

/* The mask tells what the output is, and no bit more. */
static void check_beside(const struct bed *b, const char *what)
{
    const unsigned char *y = fake_sink_part(&b->sink, 0, 0);
    const uint8_t *bits = fake_sink_part(&b->side, 0, 0);

    for (uint64_t i = 0; i < b->n; i++)
        cr_assert_eq(bit(bits, b->cols, i), !is_zero(b, y, i), "%s: %llu",
                     what, (unsigned long long)i);
    for (uint64_t r = 0; b->cols % 8 && r < b->n / b->cols; r++)
        cr_assert_eq(bits[(r + 1) * pq_mask_row(b->cols) - 1] >> b->cols % 8,
                     0, "%s", what);
}

/* Of masks alone: every weight is there or is +0. */
static void check_applied(const struct bed *b, const struct pq_prune *how,
                          const char *what)
{
    const size_t size = pq_dtype_bits(b->out.tensors[0].dtype) / 8;
    const unsigned char *y = fake_sink_part(&b->sink, 0, 0);

    for (uint64_t i = 0; i < b->n; i++) {
        const bool p = bit(b->given[0].bytes, b->cols, i);
        const bool q = how->n_masks > 1 ? bit(b->given[1].bytes, b->cols, i) : p;
        const bool kept = how->op == PQ_MASK_AND ? p && q : p || q;
        static const unsigned char zero[8];
        cr_assert_eq(memcmp(y + i * size,
                            kept ? b->in.bytes + i * size : zero, size),
                     0, "%s: %llu", what, (unsigned long long)i);
    }
}

static const struct {
    int rank;
    uint64_t shape[3];
} beds[] = {{2, {24, 64}},   {2, {8, 20}},     {2, {16, 12}}, {1, {1003}},
            {3, {2, 8, 36}}, {2, {600, 1000}}, {2, {4, 524300}},
            {1, {700003}}};

static const struct pq_prune ways[] = {
    {.scope = PQ_PRUNE_TENSOR, .sparsity = 0.5},
    {.scope = PQ_PRUNE_BELOW, .threshold = 50},
    {.scope = PQ_PRUNE_ROW, .sparsity = 0.3},
    {.scope = PQ_PRUNE_GROUPS, .n = 2, .m = 4},
    {.scope = PQ_PRUNE_GROUPS, .n = 1, .m = 4, .turned = true},
    {.scope = PQ_PRUNE_TENSOR, .sparsity = 0.5, .block_rows = 4, .block_cols = 4},
};

Test(mask, is_beside_what_every_way_of_pruning_leaves)
{
    for (size_t i = 0; i < sizeof beds / sizeof *beds; i++)
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            struct pq_prune how = ways[w];
            struct bed b;
            char what[64];
            if (beds[i].rank != 2 && w > 1)
                continue;
            how.beside.sink = 1;
            snprintf(what, sizeof what, "bed %zu way %zu", i, w);
            start(&b, beds[i].shape, beds[i].rank,
                  (i + w) % 3 ? PQ_F32 : PQ_BF16, w & 1);
            prune(&b, &how);
            check_beside(&b, what);
            stop(&b);
        }
}

Test(mask, of_numbers_that_no_float_holds)
{
    struct pq_prune how = {.scope = PQ_PRUNE_BELOW, .beside.sink = 1};
    struct bed b;

    start(&b, beds[1].shape, 2, PQ_F64, false);
    prune(&b, &how);
    check_beside(&b, "F64");
    stop(&b);
}

Test(mask, alone_says_what_goes)
{
    static const enum pq_dtype types[] = {PQ_F32, PQ_F16, PQ_F64, PQ_F8_E4M3};

    for (size_t i = 0; i < sizeof beds / sizeof *beds; i++)
        for (int k = 0; k < 4; k++) {
            struct bed b;
            char what[64];
            struct pq_prune how = {.scope = PQ_PRUNE_MASKED,
                                   .masks = b.masks,
                                   .n_masks = k ? 2 : 1,
                                   .op = k & 1 ? PQ_MASK_OR : PQ_MASK_AND,
                                   .beside.sink = 1};
            snprintf(what, sizeof what, "bed %zu masks %d", i, k);
            start(&b, beds[i].shape, beds[i].rank, types[k], k & 2);
            prune(&b, &how);
            check_applied(&b, &how, what);
            check_beside(&b, what);
            stop(&b);
        }
}

/* The tool's own choice is one more mask. */
Test(mask, and_pruning_decide_together)
{
    for (size_t i = 0; i < 3; i++)
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
            for (int op = PQ_MASK_AND; op <= PQ_MASK_OR; op++) {
                struct pq_prune how = ways[w];
                struct bed b;
                start(&b, beds[i].shape, 2, PQ_F32, false);
                how.beside.sink = 1;
                prune(&b, &how);
                unsigned char *alone = malloc((size_t)b.n * 4);
                memcpy(alone, fake_sink_part(&b.sink, 0, 0), (size_t)b.n * 4);
                fake_sink_release(&b.sink);
                fake_sink_release(&b.side);
                how.masks = b.masks;
                how.n_masks = 1;
                how.op = (enum pq_mask_op)op;
                prune(&b, &how);
                check_beside(&b, "together");
                const unsigned char *y = fake_sink_part(&b.sink, 0, 0);
                for (uint64_t k = 0; k < b.n; k++) {
                    const bool own = !is_zero(&b, alone, k);
                    const bool given = bit(b.given[0].bytes, b.cols, k);
                    const bool kept = op == PQ_MASK_AND ? own && given
                                                        : own || given;
                    cr_assert_eq(!is_zero(&b, y, k),
                                 kept && !is_zero(&b, b.in.bytes, k));
                }
                free(alone);
                stop(&b);
            }
}
