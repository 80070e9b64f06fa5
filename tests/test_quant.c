/*
 * Quantization against bitsandbytes and torch: every case of
 * testdata/golden, byte for byte, through declare, plan and engine; encoded
 * and decoded, from file and pipe, scalar and SIMD.
 */
#include "fake.h"
#include "model.h"

#include "pq_kernels.h"
#include "pq_quant.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "testdata/golden/"

/* ---- goldens ----------------------------------------------------------- */

struct golden {
    struct pq_source *files[5];
    cJSON *cases;
};

static const char *const file_names[] = {"nf4", "fp4", "int8", "int8_block",
                                         "cast"};

static void golden_open(struct golden *g)
{
    g->cases = read_json(GOLDEN "manifest.json");
    cr_assert(cJSON_GetArraySize(g->cases) > 100);
    for (size_t i = 0; i < 5; i++) {
        char path[64];
        snprintf(path, sizeof path, GOLDEN "%s.safetensors", file_names[i]);
        g->files[i] = open_model(path);
    }
}

static void golden_close(struct golden *g)
{
    for (size_t i = 0; i < 5; i++)
        pq_source_free(g->files[i]);
    cJSON_Delete(g->cases);
}

static const char *text_of(const cJSON *c, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(c, key));
}

static unsigned number_of(const cJSON *c, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(c, key);

    return j ? (unsigned)j->valuedouble : 0;
}

/* The bytes of a tensor of the case's file; freed by the caller. */
static void *load(const struct golden *g, const cJSON *c, const char *name,
                  const struct pq_tensor **found)
{
    for (size_t i = 0; i < 5; i++) {
        if (strcmp(file_names[i], text_of(c, "file")) != 0)
            continue;
        const struct pq_tensor *t = tensor_of(g->files[i], name);
        void *p = malloc(t->parts[0].bytes + 1);
        struct pq_error e = PQ_ERROR_INIT;
        cr_assert_eq(pq_source_read(g->files[i], &t->parts[0], 0, p,
                                    t->parts[0].bytes, &e),
                     0, "%s", e.msg);
        *found = t;
        return p;
    }
    cr_assert_fail("%s: no such file of goldens", text_of(c, "file"));
    return NULL;
}

/* ---- one run ----------------------------------------------------------- */

struct work {
    struct fake_source in;
    struct pq_catalog out;
    struct fake_sink sink;
    struct pq_plan plan;
    struct pq_source *source;
    struct pq_quant quant;
};

static int no_report(const struct pq_step *s, const struct pq_quality *q,
                     struct pq_error *e)
{
    (void)e;
    if (s->user)
        *(struct pq_quality *)s->user = *q;
    return 0;
}

static void work_start(struct work *w, bool pipe, bool scalar, bool measure)
{
    memset(w, 0, sizeof *w);
    fake_source_init(&w->in, pipe);
    pq_catalog_init(&w->out);
    w->source = &w->in.base;
    w->plan.sources = &w->source;
    w->plan.n_sources = 1;
    w->quant.kernels = scalar ? pq_kernels_scalar() : pq_kernels_best();
    w->quant.measure = measure;
    w->quant.report = no_report;
}

static int work_run(struct work *w, bool pipe, struct pq_error *e)
{
    const struct pq_run r = {.threads = 2, .memory = 8 << 20};

    fake_sink_init(&w->sink, &w->out, !pipe, PQ_ROLE_WEIGHT_FORMAT);
    w->plan.sink = &w->sink.base;
    return pq_engine_run(&w->plan, &r, e);
}

static void work_stop(struct work *w)
{
    pq_plan_release(&w->plan);
    fake_sink_release(&w->sink);
    pq_catalog_release(&w->out);
    fake_source_release(&w->in);
}

static const void *part(const struct work *w, enum pq_role role, uint64_t *n)
{
    const struct pq_tensor *t = &w->out.tensors[0];

    for (size_t i = 0; i < t->n_parts; i++)
        if (t->parts[i].role == role) {
            *n = t->parts[i].bytes;
            return fake_sink_part(&w->sink, 0, i);
        }
    cr_assert_fail("no part of role %d", (int)role);
    return NULL;
}

static void expect_bytes(const struct golden *g, const cJSON *c,
                         const char *key, const void *got, uint64_t n)
{
    const struct pq_tensor *t;
    const char *name = text_of(c, key);
    void *want = load(g, c, name, &t);

    cr_expect_eq(n, t->parts[0].bytes, "%s: %llu bytes", name,
                 (unsigned long long)n);
    cr_expect(n == t->parts[0].bytes && memcmp(got, want, n) == 0,
              "%s differs", name);
    free(want);
}

static enum pq_dtype dtype_named(const char *s)
{
    struct pq_spec spec;

    if (strcmp(s, "f64") == 0)
        return PQ_F64;
    cr_assert_eq(pq_spec_parse(s, &spec), 0, "%s", s);
    return spec.dtype;
}

static struct pq_spec spec_of(const cJSON *c)
{
    struct pq_spec s;
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_spec_parse(text_of(c, "encoding"), &s), 0);
    s.block = number_of(c, "block");
    s.double_quant = cJSON_IsTrue(cJSON_GetObjectItem(c, "double_quant"));
    cr_assert_eq(pq_spec_check(&s, &e), 0, "%s", e.msg);
    return s;
}

/* ---- encoding ---------------------------------------------------------- */

/* The input of a case, in its dtype: narrowed from the float golden. */
static void add_input(struct work *w, const struct golden *g, const cJSON *c)
{
    const struct pq_tensor *t;
    char name[64];
    const enum pq_dtype dtype = dtype_named(text_of(c, "dtype"));

    snprintf(name, sizeof name, "%s", text_of(c, "input"));
    void *x = load(g, c, name, &t);
    if (t->dtype == dtype) {
        fake_source_add(&w->in, "x.weight", dtype, t->rank, t->shape, x);
    } else {
        void *y = malloc(t->n_elements * 4 + 1);
        pq_store_f32(w->quant.kernels, dtype, x, t->n_elements, y);
        fake_source_add(&w->in, "x.weight", dtype, t->rank, t->shape, y);
        free(y);
    }
    free(x);
}

/*
 * The mean of absmax is a float sum in torch, whose last bits depend on the
 * CPU; ours is the rounded exact one.  True when they are the same bits.
 */
static bool expect_offset(float got, float want)
{
    cr_expect(fabsf(got - want) <= 2 * (nextafterf(want, INFINITY) - want),
              "offset %.9g, not %.9g", (double)got, (double)want);
    return got == want;
}

/* With another offset, absmax - offset moves by as much. */
static void expect_nested(const struct golden *g, const cJSON *c,
                          const struct work *w, bool same_offset)
{
    const struct pq_tensor *t;
    uint64_t n;
    const float *got = part(w, PQ_ROLE_NESTED_ABSMAX, &n);
    float *want = load(g, c, text_of(c, "nested_absmax"), &t);

    cr_assert_eq(n, t->parts[0].bytes);
    if (same_offset)
        expect_bytes(g, c, "nested_absmax", got, n);
    for (uint64_t i = 0; i < n / sizeof *got; i++)
        cr_expect_float_eq(got[i], want[i], 1e-6f * fabsf(want[i]));
    free(want);
}

static void expect_state(const struct golden *g, const cJSON *c,
                         const struct work *w)
{
    const struct pq_tensor *t;
    uint64_t n;
    const char *text = part(w, PQ_ROLE_QUANT_STATE, &n);
    const cJSON *j = cJSON_ParseWithLength(text, n);
    cJSON *own = (cJSON *)j;

    cr_assert(j, "quant_state is not JSON");
    cr_expect_eq(number_of(j, "blocksize"), number_of(c, "block"));
    cr_expect_str_eq(text_of(j, "quant_type"), text_of(c, "encoding"));
    if (text_of(c, "offset")) {
        float *offset = load(g, c, text_of(c, "offset"), &t);
        const float got = (float)cJSON_GetObjectItem(j, "nested_offset")
                              ->valuedouble;
        expect_nested(g, c, w, expect_offset(got, *offset));
        free(offset);
    }
    cJSON_Delete(own);
}

static void encode_case(const struct golden *g, const cJSON *c, unsigned way)
{
    struct work w;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_spec s = spec_of(c);
    uint64_t n;

    work_start(&w, way & 1, way & 2, way & 4);
    add_input(&w, g, c);
    cr_assert(pq_quant_declare(&w.out, &w.in.catalog.tensors[0], &s, false,
                               &e),
              "%s", e.msg);
    cr_assert(pq_step_encode(&w.plan, w.source, &w.in.catalog.tensors[0],
                             &w.out, 0, &s, false, &w.quant, &e));
    cr_assert_eq(work_run(&w, way & 1, &e), 0, "%s: %s", text_of(c, "case"),
                 e.msg);
    cr_expect_not(w.sink.out_of_order, "%s", text_of(c, "case"));
    const void *codes = part(&w, PQ_ROLE_DATA, &n);
    expect_bytes(g, c, "codes", codes, n);
    const bool rows = s.encoding == PQ_INT8;
    const void *scale = part(&w, rows ? PQ_ROLE_SCB : PQ_ROLE_ABSMAX, &n);
    expect_bytes(g, c, rows ? "SCB" : "absmax", scale, n);
    if (!rows)
        expect_state(g, c, &w);
    work_stop(&w);
}

static void each_case(void (*f)(const struct golden *, const cJSON *, unsigned),
                      bool casts, unsigned ways, int least)
{
    struct golden g;
    const cJSON *c;
    int n = 0;

    golden_open(&g);
    cJSON_ArrayForEach(c, g.cases)
    {
        if ((strcmp(text_of(c, "file"), "cast") == 0) != casts)
            continue;
        for (unsigned way = 0; way < ways; way++)
            f(&g, c, way);
        n++;
    }
    cr_expect_geq(n, least, "only %d cases", n);
    golden_close(&g);
}

Test(quant, encodes_like_bitsandbytes)
{
    each_case(encode_case, false, 8, 100);
}

/* ---- decoding ---------------------------------------------------------- */

/* The output of the encoder is the input of the decoder. */
static void decode_to(const struct golden *g, const cJSON *c, unsigned way,
                      const char *type)
{
    struct work w, d;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_spec s = spec_of(c), plain = {.dtype = dtype_named(type)};
    char key[16];
    uint64_t n;

    snprintf(key, sizeof key, "out_%s", type);
    if (!text_of(c, key))
        return;
    work_start(&w, false, way & 2, false);
    add_input(&w, g, c);
    cr_assert(pq_quant_declare(&w.out, &w.in.catalog.tensors[0], &s, false,
                               &e));
    cr_assert(pq_step_encode(&w.plan, w.source, &w.in.catalog.tensors[0],
                             &w.out, 0, &s, false, &w.quant, &e));
    cr_assert_eq(work_run(&w, false, &e), 0, "%s", e.msg);

    work_start(&d, way & 1, way & 2, false);
    const struct pq_tensor *enc = &w.out.tensors[0];
    for (size_t i = 0; i < enc->n_parts; i++)
        fake_source_add(&d.in, enc->parts[i].name, enc->parts[i].dtype,
                        enc->parts[i].rank, enc->parts[i].shape,
                        fake_sink_part(&w.sink, 0, i));
    cr_assert_eq(pq_fold(d.source, 1 << 20, NULL, &e), 0, "%s", e.msg);
    cr_assert_eq(d.in.catalog.n_tensors, 1, "%s does not fold",
                 text_of(c, "case"));
    cr_assert(pq_quant_declare(&d.out, &d.in.catalog.tensors[0], &plain, false,
                               &e));
    cr_assert(pq_step_decode(&d.plan, d.source, &d.in.catalog.tensors[0],
                             &d.out, 0, &d.quant, &e));
    cr_assert_eq(work_run(&d, way & 1, &e), 0, "%s: %s", text_of(c, "case"),
                 e.msg);
    const void *got = part(&d, PQ_ROLE_DATA, &n);
    expect_bytes(g, c, key, got, n);
    work_stop(&d);
    work_stop(&w);
}

static void decode_case(const struct golden *g, const cJSON *c, unsigned way)
{
    /* the library's own offset may differ by one unit in the last place,
       and the decoded numbers with it */
    if (text_of(c, "offset"))
        return;
    decode_to(g, c, way, "f32");
    decode_to(g, c, way, "f16");
    decode_to(g, c, way, "bf16");
}

Test(quant, decodes_like_bitsandbytes)
{
    each_case(decode_case, false, 4, 100);
}

/* ---- casts ------------------------------------------------------------- */

static bool is_nan_bits(enum pq_dtype t, uint32_t v)
{
    switch (t) {
    case PQ_F16:
        return (v & 0x7fff) > 0x7c00;
    case PQ_BF16:
        return (v & 0x7fff) > 0x7f80;
    case PQ_F32:
        return (v & 0x7fffffff) > 0x7f800000;
    case PQ_F8_E4M3:
        return (v & 0x7f) == 0x7f;
    default:
        return (v & 0x7f) > 0x7c;
    }
}

static void cast_case(const struct golden *g, const cJSON *c, unsigned way)
{
    struct work w;
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_tensor *t, *u;
    const struct pq_spec s = {.dtype = dtype_named(text_of(c, "dst"))};
    void *x = load(g, c, text_of(c, "input"), &t);
    void *want = load(g, c, text_of(c, "output"), &u);
    const size_t size = pq_dtype_bits(s.dtype) / 8;
    uint64_t n;

    work_start(&w, way & 1, way & 2, false);
    w.quant.allow_nonfinite = true;
    fake_source_add(&w.in, "x", dtype_named(text_of(c, "src")), t->rank,
                    t->shape, x);
    cr_assert(pq_quant_declare(&w.out, &w.in.catalog.tensors[0], &s, false,
                               &e));
    cr_assert(pq_step_encode(&w.plan, w.source, &w.in.catalog.tensors[0],
                             &w.out, 0, &s, false, &w.quant, &e));
    cr_assert_eq(work_run(&w, way & 1, &e), 0, "%s", e.msg);
    const unsigned char *got = part(&w, PQ_ROLE_DATA, &n);
    for (uint64_t i = 0; i < n / size; i++) {
        uint32_t a = 0, b = 0;
        memcpy(&a, got + i * size, size);
        memcpy(&b, (char *)want + i * size, size);
        /* torch's NaN payloads depend on the CPU it runs on */
        cr_expect(a == b || (is_nan_bits(s.dtype, a) && is_nan_bits(s.dtype, b)),
                  "%s: element %llu is %x, not %x", text_of(c, "case"),
                  (unsigned long long)i, a, b);
    }
    work_stop(&w);
    free(x);
    free(want);
}

Test(quant, casts_like_torch)
{
    each_case(cast_case, true, 4, 20);
}

/* ---- refusals, transposition, search ----------------------------------- */

static int encode(struct work *w, const char *type, uint32_t block,
                  bool transpose, bool optimize, struct pq_quality *q,
                  struct pq_error *e)
{
    struct pq_spec s;

    cr_assert_eq(pq_spec_parse(type, &s), 0);
    s.block = block;
    s.optimize = optimize;
    cr_assert_eq(pq_spec_check(&s, e), 0, "%s", e->msg);
    cr_assert(pq_quant_declare(&w->out, &w->in.catalog.tensors[0], &s,
                               transpose, e));
    struct pq_step *step =
        pq_step_encode(&w->plan, w->source, &w->in.catalog.tensors[0], &w->out,
                       0, &s, transpose, &w->quant, e);
    cr_assert(step);
    step->user = q;
    return work_run(w, false, e);
}

/* A bell curve from a fixed sequence, as in quantization.md 1.10. */
static float *bell(size_t n)
{
    float *x = malloc(n * sizeof *x);
    uint64_t s = 88172645463325252u;

    for (size_t i = 0; i < n; i++) {
        double t = 0;
        for (int k = 0; k < 12; k++) {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            t += (double)(s >> 11) * 0x1p-53;
        }
        x[i] = (float)((t - 6) * 0.02);
    }
    return x;
}

Test(quant, refuses_what_it_cannot_hold)
{
    static const char *const types[] = {"f16",  "bf16", "f32", "f8_e4m3", "nf4",
                                        "fp4",  "int8", "int8_block"};
    static const float bad[] = {NAN, INFINITY, -INFINITY, 70000};
    static const char *const words[] = {"NaN", "infinite", "infinite", "range"};
    const uint64_t shape[2] = {30, 1000};

    for (size_t t = 0; t < 8; t++)
        for (size_t b = 0; b < 4; b++) {
            struct work w;
            struct pq_error e = PQ_ERROR_INIT;
            float *x = bell(30000);
            const bool fits = b == 3 && t != 0 && t != 3 && t != 6;
            x[12345] = bad[b];
            work_start(&w, false, b & 1, false);
            fake_source_add(&w.in, "x.weight", PQ_F32, 2, shape, x);
            const int rc = encode(&w, types[t], 0, false, false, NULL, &e);
            cr_expect_eq(rc, fits ? 0 : -1, "%s %s", types[t], words[b]);
            if (!fits) {
                cr_expect_eq(e.code, PQ_EVALUE);
                cr_expect(strstr(e.msg, "tensor x.weight: element 12345"),
                          "%s", e.msg);
                cr_expect(strstr(e.msg, words[b]), "%s", e.msg);
            }
            work_stop(&w);
            free(x);
        }
}

/* Turning first and encoding is the same as encoding turned. */
Test(quant, transposes_whole_blocks)
{
    static const uint64_t shapes[][2] = {{100, 36}, {64, 3}, {7, 5}, {300, 999}};
    static const char *const types[] = {"nf4", "fp4", "int8", "int8_block"};

    for (size_t k = 0; k < 4; k++)
        for (size_t t = 0; t < 4; t++) {
            const uint64_t rows = shapes[k][0], cols = shapes[k][1];
            const uint64_t turned[2] = {cols, rows};
            float *x = bell(rows * cols), *y = malloc(rows * cols * 4);
            struct work a, b;
            struct pq_error e = PQ_ERROR_INIT;
            for (uint64_t i = 0; i < rows * cols; i++)
                y[i % cols * rows + i / cols] = x[i];
            work_start(&a, k & 1, false, true);
            work_start(&b, false, true, false);
            fake_source_add(&a.in, "x.weight", PQ_F32, 2, shapes[k], x);
            fake_source_add(&b.in, "x.weight", PQ_F32, 2, turned, y);
            cr_assert_eq(encode(&a, types[t], 0, true, false, NULL, &e), 0,
                         "%s", e.msg);
            cr_assert_eq(encode(&b, types[t], 0, false, false, NULL, &e), 0,
                         "%s", e.msg);
            cr_expect_eq(a.sink.base.total_bytes, b.sink.base.total_bytes);
            cr_expect_eq(memcmp(a.sink.bytes, b.sink.bytes,
                                a.sink.base.total_bytes),
                         0, "%s %zu", types[t], k);
            work_stop(&a);
            work_stop(&b);
            free(x);
            free(y);
        }
}

Test(quant, search_has_less_error_in_the_same_format)
{
    const uint64_t shape[2] = {256, 512};
    float *x = bell(256 * 512);
    static const struct {
        const char *type;
        double gain;
    } cases[] = {{"nf4", 0.8}, {"fp4", 0.5}, {"int8_block", 0}};

    for (size_t i = 0; i < 3; i++) {
        struct work w;
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_quality q = {0};
        work_start(&w, false, false, true);
        fake_source_add(&w.in, "x.weight", PQ_F32, 2, shape, x);
        cr_assert_eq(encode(&w, cases[i].type, 0, false, true, &q, &e), 0, "%s",
                     e.msg);
        cr_expect_gt(pq_sqnr_db(q.signal, q.noise),
                     pq_sqnr_db(q.signal, q.plain_noise) + cases[i].gain,
                     "%s", cases[i].type);
        work_stop(&w);
    }
    free(x);
}

/* A tensor of no elements, and one of one, in every type. */
Test(quant, smallest_tensors)
{
    static const char *const types[] = {"f16", "nf4", "fp4", "int8",
                                        "int8_block"};

    for (size_t t = 0; t < 5; t++)
        for (uint64_t n = 0; n < 2; n++) {
            const uint64_t shape[2] = {1, n};
            const float one = 1;
            struct work w;
            struct pq_error e = PQ_ERROR_INIT;
            work_start(&w, true, false, true);
            fake_source_add(&w.in, "x.weight", PQ_F32, 2, shape, &one);
            cr_expect_eq(encode(&w, types[t], 0, false, false, NULL, &e), 0,
                         "%s: %s", types[t], e.msg);
            work_stop(&w);
        }
}
