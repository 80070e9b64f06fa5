/*
 * The decoding view: any range of any encoding is what a decoding step makes
 * of the whole, from a file and from a pipe, and plain tensors pass through.
 */
#include "fake.h"

#include "pq_quant.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 50u
#define COLS 333u
#define N    ((size_t)ROWS * COLS)

struct run {
    struct fake_source in;
    struct pq_catalog out;
    struct fake_sink sink;
    struct pq_plan plan;
    struct pq_source *source;
    struct pq_quant quant;
};

static void run_start(struct run *r, bool pipe)
{
    memset(r, 0, sizeof *r);
    fake_source_init(&r->in, pipe);
    pq_catalog_init(&r->out);
    r->source = &r->in.base;
    r->plan.sources = &r->source;
    r->plan.n_sources = 1;
    r->quant.kernels = pq_kernels_best();
}

static void run_plan(struct run *r)
{
    const struct pq_run how = {.threads = 2, .memory = 8 << 20};
    struct pq_error e = PQ_ERROR_INIT;

    fake_sink_init(&r->sink, &r->out, true, PQ_ROLE_WEIGHT_FORMAT);
    r->plan.sink = &r->sink.base;
    cr_assert_eq(pq_engine_run(&r->plan, &how, &e), 0, "%s", e.msg);
}

static void run_stop(struct run *r)
{
    pq_plan_release(&r->plan);
    fake_sink_release(&r->sink);
    pq_catalog_release(&r->out);
    fake_source_release(&r->in);
}

/* Encodes numbers that are nothing special; the parts are left in r->sink. */
static void encode(struct run *r, const char *type, bool double_quant)
{
    const uint64_t shape[2] = {ROWS, COLS};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_spec s;
    float *x = malloc(N * sizeof *x);

    for (size_t i = 0; i < N; i++)
        x[i] = (float)((i * 2654435761u) % 20011) / 10005.5f - 1;
    run_start(r, false);
    fake_source_add(&r->in, "x.weight", PQ_F32, 2, shape, x);
    free(x);
    cr_assert_eq(pq_spec_parse(type, &s), 0);
    s.double_quant = double_quant;
    cr_assert_eq(pq_spec_check(&s, &e), 0);
    cr_assert(pq_quant_declare(&r->out, &r->in.catalog.tensors[0], &s, false,
                               &e));
    cr_assert(pq_step_encode(&r->plan, r->source, &r->in.catalog.tensors[0],
                             &r->out, 0, &s, false, &r->quant, &e));
    run_plan(r);
}

/* A source of the encoded parts, with a plain tensor before and behind. */
static void load_encoded(struct fake_source *in, const struct run *from,
                         bool pipe)
{
    const struct pq_tensor *t = &from->out.tensors[0];
    const uint64_t shape[1] = {9};
    struct pq_error e = PQ_ERROR_INIT;

    fake_source_init(in, pipe);
    fake_source_add(in, "before", PQ_U8, 1, shape, "some text");
    for (size_t i = 0; i < t->n_parts; i++)
        fake_source_add(in, t->parts[i].name, t->parts[i].dtype,
                        t->parts[i].rank, t->parts[i].shape,
                        fake_sink_part(&from->sink, 0, i));
    fake_source_add(in, "behind", PQ_U8, 1, shape, "more text");
    cr_assert_eq(pq_fold(&in->base, 1 << 20, NULL, &e), 0, "%s", e.msg);
    cr_assert_eq(in->catalog.n_tensors, 3);
}

/* What a decoding step makes of the tensor. */
static float *decode_whole(const struct run *from)
{
    struct run d;
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_spec plain = {.dtype = PQ_F32};
    float *y = malloc(N * sizeof *y);

    run_start(&d, false);
    fake_source_release(&d.in);
    load_encoded(&d.in, from, false);
    const struct pq_tensor *t = &d.in.catalog.tensors[1];
    cr_assert(pq_quant_declare(&d.out, t, &plain, false, &e));
    cr_assert(
        pq_step_decode(&d.plan, d.source, t, &d.out, 0, &d.quant, &e));
    run_plan(&d);
    memcpy(y, fake_sink_part(&d.sink, 0, 0), N * sizeof *y);
    run_stop(&d);
    return y;
}

static void check_ranges(struct pq_source *view, const float *want)
{
    const struct pq_part *p = &view->catalog->tensors[1].parts[0];
    unsigned char *got = malloc(N * sizeof *want);
    struct pq_error e = PQ_ERROR_INIT;
    uint64_t s = 12345;

    cr_assert_eq(p->bytes, N * sizeof *want);
    for (int i = 0; i < 300; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        const uint64_t from = i == 0 ? 0 : (s >> 20) % p->bytes;
        const uint64_t most = p->bytes - from;
        const uint64_t n = i == 0 ? most : 1 + (s >> 40) % most;
        cr_assert_eq(pq_source_read(view, p, from, got, n, &e), 0, "%s", e.msg);
        cr_assert_eq(memcmp(got, (const char *)want + from, n), 0,
                     "bytes %llu + %llu", (unsigned long long)from,
                     (unsigned long long)n);
    }
    free(got);
}

static void check_plain(struct pq_source *view)
{
    char text[9];
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_source_read(view, &view->catalog->tensors[2].parts[0], 0,
                                text, 9, &e),
                 0, "%s", e.msg);
    cr_expect_eq(memcmp(text, "more text", 9), 0);
}

Test(decoded, every_range_of_every_encoding)
{
    static const struct {
        const char *type;
        bool double_quant;
    } cases[] = {{"nf4", false}, {"nf4", true},          {"fp4", false},
                 {"int8", false}, {"int8_block", false}, {"fp4", true}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int pipe = 0; pipe < 2; pipe++) {
            struct run r;
            struct fake_source in;
            struct pq_source *view;
            struct pq_error e = PQ_ERROR_INIT;
            encode(&r, cases[i].type, cases[i].double_quant);
            float *want = decode_whole(&r);
            load_encoded(&in, &r, pipe);
            cr_assert_eq(pq_decoded_new(&in.base, pq_kernels_scalar(), 1 << 20,
                                        NULL, &view, &e),
                         0, "%s", e.msg);
            cr_expect_eq(view->sequential, (bool)pipe);
            check_ranges(view, want);
            check_plain(view);
            pq_source_free(view);
            fake_source_release(&in);
            run_stop(&r);
            free(want);
        }
}

/* A hostile file: parts of the right sizes, a quant_state that is not. */
Test(decoded, lying_groups_stay_plain)
{
    static const char *const states[] = {
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", "
        "\"shape\": [4611686018427387904, 4]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 0, \"dtype\": \"float32\", "
        "\"shape\": [128]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 4294967295, \"dtype\": "
        "\"float32\", \"shape\": [128]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", "
        "\"shape\": [128], \"nested_blocksize\": 1}",
        "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"int8\", "
        "\"shape\": [128]}",
        "{\"quant_type\": \"nf4\", \"shape\": [128]",
        "",
    };
    const uint64_t codes[2] = {64, 1}, two[1] = {2}, sixteen[1] = {16};
    static const unsigned char zeros[64];

    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        struct fake_source in;
        struct pq_error e = PQ_ERROR_INIT;
        const uint64_t length[1] = {strlen(states[i])};
        fake_source_init(&in, i & 1);
        fake_source_add(&in, "x", PQ_U8, 2, codes, zeros);
        fake_source_add(&in, "x.absmax", PQ_F32, 1, two, zeros);
        fake_source_add(&in, "x.quant_map", PQ_F32, 1, sixteen, zeros);
        fake_source_add(&in, "x.quant_state.bitsandbytes__nf4", PQ_U8, 1,
                        length, states[i]);
        cr_expect_eq(pq_fold(&in.base, 1 << 20, NULL, &e), 0, "%s", e.msg);
        cr_expect_eq(in.catalog.n_tensors, 4, "state %zu", i);
        fake_source_release(&in);
    }
}
