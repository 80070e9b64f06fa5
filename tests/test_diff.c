/*
 * Figures of the difference against formulas, deltas there and back.
 */
#include "fake.h"
#include "pq_kernels.h"
#include "pq_diff.h"
#include "pq_names.h"
#include "pq_quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1;

static uint32_t draw(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* ---- figures ----------------------------------------------------------- */

static struct pq_figures figures(enum pq_dtype da, const void *a,
                                 enum pq_dtype db, const void *b, uint64_t n,
                                 unsigned threads)
{
    struct fake_source s[2];
    struct pq_source *sources[] = {&s[0].base, &s[1].base};
    struct pq_plan p = {.sources = sources, .n_sources = 2};
    struct pq_figures f;
    const struct pq_run r = {.threads = threads, .memory = 64 << 20};
    struct pq_error e = PQ_ERROR_INIT;

    memset(&f, 0xff, sizeof f);
    fake_source_init(&s[0], false);
    fake_source_init(&s[1], false);
    fake_source_add(&s[0], "t", da, 1, &n, a);
    fake_source_add(&s[1], "t", db, 1, &n, b);
    cr_assert(pq_step_compare(&p, pq_kernels_best(), sources[0],
                              s[0].catalog.tensors, sources[1],
                              s[1].catalog.tensors, &f, &e));
    cr_assert_eq(pq_engine_run(&p, &r, &e), 0, "%s", e.msg);
    pq_plan_release(&p);
    fake_source_release(&s[0]);
    fake_source_release(&s[1]);
    return f;
}

static void close_to(double got, double want)
{
    cr_expect(fabs(got - want) <= 1e-12 * fabs(want), "%.17g, not %.17g", got,
              want);
}

Test(diff, figures_are_the_formulas)
{
    enum { N = 200000 };
    float *a = malloc(N * sizeof *a), *b = malloc(N * sizeof *b);
    double d2 = 0, a2 = 0, b2 = 0, ab = 0, most = 0;
    uint64_t changed = 0;

    for (size_t i = 0; i < N; i++) {
        a[i] = (float)draw() / 2e9f - 0.5f;
        b[i] = draw() % 3 ? a[i] : a[i] + (float)draw() / 2e11f;
        const double x = (double)a[i], y = (double)b[i];
        d2 += (y - x) * (y - x);
        a2 += x * x;
        b2 += y * y;
        ab += x * y;
        most = fabs(y - x) > most ? fabs(y - x) : most;
        changed += x != y;
    }
    const struct pq_figures f = figures(PQ_F32, a, PQ_F32, b, N, 3);
    cr_expect(f.numeric && f.n == N && f.changed == changed);
    cr_expect_eq(f.max_abs, most);
    close_to(pq_figures_relative(&f), sqrt(d2 / a2));
    close_to(pq_figures_cosine(&f), ab / sqrt(a2 * b2));
    close_to(pq_figures_changed(&f), (double)changed / N);
    const struct pq_figures g = figures(PQ_F32, a, PQ_F32, b, N, 1);
    cr_expect_arr_eq(&f, &g, sizeof f, "threads change the figures");
    free(a);
    free(b);
}

Test(diff, types_are_compared_as_values)
{
    const float f[] = {1, -2, 0.5f, 0};
    const double d[] = {1, -2, 0.5, 0};
    const uint16_t bf16[] = {0x3f80, 0xc000, 0x3f00, 0x8000};
    const int8_t small[] = {1, -2, 0, 0};
    const int64_t large[] = {1, -2, 1, 0};
    struct pq_figures g = figures(PQ_F32, f, PQ_F64, d, 4, 1);

    cr_expect_eq(g.changed, 0);
    g = figures(PQ_BF16, bf16, PQ_F32, f, 4, 1); /* -0 is 0 */
    cr_expect_eq(g.changed, 0);
    cr_expect_eq(pq_figures_cosine(&g), 1);
    g = figures(PQ_F64, d, PQ_I8, small, 4, 1);
    cr_expect(g.changed == 1 && g.max_abs == 0.5);
    g = figures(PQ_I8, small, PQ_I64, large, 4, 1);
    cr_expect(g.changed == 1 && g.max_abs == 1);
    const int64_t x = INT64_MAX, y = INT64_MAX - 1;
    cr_expect_eq(figures(PQ_I64, &x, PQ_I64, &y, 1, 1).changed, 1);
    g = figures(PQ_F8_E8M0, "ab", PQ_F8_E8M0, "aa", 2, 1);
    cr_expect(!g.numeric && g.changed == 1);
    cr_expect(pq_compare_fits(PQ_F16, PQ_I32));
    cr_expect(pq_compare_fits(PQ_C64, PQ_C64));
    cr_expect_not(pq_compare_fits(PQ_C64, PQ_F32));
}

Test(diff, nan_and_infinity)
{
    const uint32_t a[] = {0x7fc00001, 0x7f800000, 0x3f800000};
    const uint32_t b[] = {0x7fc00002, 0x7f800000, 0x3f800000};
    struct pq_figures f = figures(PQ_F32, a, PQ_F32, a, 3, 1);

    cr_expect(f.changed == 0 && f.max_abs == 0 && f.a_sq == 1);
    f = figures(PQ_F32, a, PQ_F32, b, 3, 1);
    cr_expect(f.changed == 1 && isinf(f.max_abs));
    cr_expect(isinf(pq_figures_relative(&f)));
    f = figures(PQ_F32, a + 1, PQ_F32, a + 2, 1, 1);
    cr_expect(f.changed == 1 && isinf(f.max_abs));
    const float zero = 0, one = 1;
    f = figures(PQ_F32, &zero, PQ_F32, &one, 1, 1);
    cr_expect(isinf(pq_figures_relative(&f)) && pq_figures_cosine(&f) == 0);
    f = figures(PQ_F32, "", PQ_F32, "", 0, 1);
    cr_expect(f.n == 0 && pq_figures_changed(&f) == 0);
}

/* ---- deltas of parts --------------------------------------------------- */

/* Runs one step to a sink with the only tensor `t`; returns its bytes. */
static int run_to(struct pq_plan *p, const struct pq_tensor *t,
                  unsigned char *bytes, struct pq_error *e)
{
    struct pq_catalog out;
    struct fake_sink k;
    const struct pq_run r = {.threads = 2, .memory = 64 << 20};

    pq_catalog_init(&out);
    cr_assert(pq_tensor_copy(&out, t, e));
    fake_sink_init(&k, &out, false, -1);
    p->sink = &k.base;
    const int rc = pq_engine_run(p, &r, e);
    cr_expect_eq(k.finished, rc == 0);
    if (t->parts[0].bytes)
        memcpy(bytes, fake_sink_part(&k, 0, 0), t->parts[0].bytes);
    fake_sink_release(&k);
    pq_catalog_release(&out);
    pq_plan_release(p);
    return rc;
}

static struct pq_hash128 digest_of(const unsigned char *p, uint64_t n)
{
    struct pq_hash128 d = {0, 0};

    for (uint64_t at = 0; at < n; at += 1 << 20) {
        const struct pq_hash128 h =
            pq_hash128_of(p + at, n - at < 1 << 20 ? n - at : 1 << 20);
        pq_hash128_chain(&d, &h);
    }
    return d;
}

/* base -> delta -> result; flip: damage that byte of the delta. */
static int there_and_back(enum pq_dtype type, uint64_t n,
                          enum pq_delta_how how, bool flip)
{
    struct fake_source a, b, d;
    struct pq_error e = PQ_ERROR_INIT;
    const size_t bytes = n * pq_dtype_bits(type) / 8;
    unsigned char *x = malloc(bytes), *y = malloc(bytes), *z = malloc(bytes);

    for (size_t i = 0; i < bytes; i++) {
        x[i] = (unsigned char)draw();
        y[i] = (unsigned char)(draw() % 4 ? x[i] : draw());
    }
    fake_source_init(&a, false);
    fake_source_init(&b, true);
    fake_source_init(&d, true);
    const struct pq_tensor *ta = fake_source_add(&a, "t", type, 1, &n, x);
    const struct pq_tensor *tb = fake_source_add(&b, "t", type, 1, &n, y);
    struct pq_source *s[] = {&a.base, &b.base, &d.base};
    struct pq_plan p = {.sources = s, .n_sources = 2};
    cr_assert_eq(pq_step_delta(&p, "t", s[0], ta->parts, s[1], tb->parts, how,
                               0, &e), 0);
    cr_assert_eq(run_to(&p, tb, z, &e), 0, "%s", e.msg);
    if (flip)
        z[draw() % bytes] ^= 1u << draw() % 8;
    const uint64_t words = bytes * 8 / pq_dtype_bits(pq_delta_word(type));
    const struct pq_tensor *td =
        fake_source_add(&d, "t", pq_delta_word(type), 1, &words, z);
    const struct pq_delta_part part = {how, "t", digest_of(y, bytes)};
    memset(z, 0, bytes);
    p = (struct pq_plan){.sources = (struct pq_source *[]){s[0], s[2]},
                         .n_sources = 2};
    cr_assert_eq(pq_step_patch(&p, "t", s[0], ta->parts, s[2], td->parts,
                               &part, 0, 0, &e), 0);
    const int rc = run_to(&p, tb, z, &e);
    cr_expect(rc ? flip && e.code == PQ_ECHECKSUM : memcmp(y, z, bytes) == 0);
    fake_source_release(&a);
    fake_source_release(&b);
    fake_source_release(&d);
    free(x);
    free(y);
    free(z);
    return rc;
}

Test(diff, deltas_of_every_type_come_back)
{
    for (int t = 0; t < PQ_N_DTYPES; t++)
        for (int how = PQ_DELTA_XOR; how <= PQ_DELTA_SUB; how++) {
            const enum pq_dtype type = (enum pq_dtype)t;
            cr_expect_eq(there_and_back(type, 4096, how, false), 0, "%s",
                         pq_dtype_name(type));
            cr_expect_eq(there_and_back(type, 4, how, false), 0);
        }
    cr_expect_eq(there_and_back(PQ_BF16, 2000000, PQ_DELTA_SUB, false), 0);
    for (int i = 0; i < 50; i++)
        cr_expect_eq(there_and_back(PQ_F32, 1000, PQ_DELTA_SUB, true), -1);
}

static enum pq_delta_how choice(const uint16_t *x, const uint16_t *y,
                                uint64_t n)
{
    struct fake_source a, b;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s[] = {&a.base, &b.base};
    struct pq_plan p = {.sources = s, .n_sources = 2};
    const struct pq_run r = {.threads = 1, .memory = 64 << 20};
    enum pq_delta_how how = PQ_DELTA_WHOLE;

    fake_source_init(&a, false);
    fake_source_init(&b, false);
    fake_source_add(&a, "t", PQ_BF16, 1, &n, x);
    fake_source_add(&b, "t", PQ_BF16, 1, &n, y);
    cr_assert_eq(pq_step_delta_choose(&p, "t", s[0],
                                      a.catalog.tensors[0].parts, s[1],
                                      b.catalog.tensors[0].parts, &how, &e),
                 0);
    cr_assert_eq(pq_engine_run(&p, &r, &e), 0, "%s", e.msg);
    pq_plan_release(&p);
    fake_source_release(&a);
    fake_source_release(&b);
    return how;
}

Test(diff, a_sample_chooses)
{
    enum { N = 10000 };
    static uint16_t x[N], y[N], z[N];

    for (size_t i = 0; i < N; i++) {
        x[i] = (uint16_t)draw();
        y[i] = (uint16_t)(x[i] + draw() % 3 - 1); /* carries spoil xor */
        z[i] = x[i] ^ (draw() % 2 ? 0x8000 : 0x0041);
    }
    cr_expect_eq(choice(x, y, N), PQ_DELTA_SUB);
    cr_expect_eq(choice(x, z, N), PQ_DELTA_XOR);
}

/* Loads `delta` with this description; true: it was accepted. */
static bool accepts(struct fake_source *base, struct pq_catalog *delta,
                    const char *text)
{
    struct pq_delta d;
    struct pq_error e = PQ_ERROR_INIT;

    pq_delta_init(&d);
    cr_assert_eq(pq_catalog_set(delta, "delta", text, &e), 0);
    const int rc = pq_delta_load(&d, &base->catalog, delta, &e);
    cr_expect_eq(rc != 0, e.code != PQ_OK, "%s", text);
    pq_delta_release(&d);
    return rc == 0;
}

Test(diff, a_malformed_description_is_refused)
{
    struct fake_source base;
    struct pq_catalog out;
    struct pq_delta d;
    struct pq_error e = PQ_ERROR_INIT;
    const uint64_t shape[] = {2, 3};
    const char *files[] = {"m.safetensors"};
    struct pq_delta_part parts[] = {
        {PQ_DELTA_SAME, "old.x", {1, 2}},
        {PQ_DELTA_SUB, "y", {3, 4}},
        {PQ_DELTA_WHOLE, NULL, {5, 6}}};

    fake_source_init(&base, false);
    fake_source_add(&base, "old.x", PQ_BF16, 2, shape, "abcdefghijkl");
    fake_source_add(&base, "y", PQ_U8, 2, shape, "abcdef");
    pq_delta_init(&d);
    for (int i = 0; i < 2; i++)
        cr_assert(pq_tensor_copy(&d.result, &base.catalog.tensors[i], &e));
    cr_assert(pq_tensor_copy(&d.result, &base.catalog.tensors[1], &e));
    d.result.tensors[2].name = d.result.tensors[2].parts[0].name = "z";
    d.result.files = files;
    d.result.n_files = 1;
    cr_assert_eq(pq_catalog_set(&d.result, "k", "v\n", &e), 0);
    cr_assert_eq(pq_catalog_add_prov(&d.result, "{\"a\":1}", &e), 0);
    cr_assert_eq(pq_catalog_add_blob(&d.result, "f", "xyz", 3, &e), 0);
    d.parts = parts;
    d.n_parts = 3;
    d.base_digest = d.result_digest = "0";
    pq_catalog_init(&out);
    cr_assert_eq(pq_delta_store(&d, &base.catalog, &out, &e), 0);
    cr_expect_eq(out.n_tensors, 2);
    char *text = strdup(pq_catalog_get(&out, "delta"));
    cr_expect(accepts(&base, &out, text));
    for (size_t i = 0; text[i]; i++) {
        static const char other[] = "\"0{}[],:x-";
        const char was = text[i];
        for (size_t k = 0; other[k]; k++) {
            text[i] = other[k];
            (void)accepts(&base, &out, text);
        }
        text[i] = '\0';
        cr_expect_not(accepts(&base, &out, text), "%zu", i);
        text[i] = was;
    }
    cr_expect_not(accepts(&base, &out, "{\"version\":2}"));
    cr_expect_not(accepts(&base, &out, "[]"));
    free(text);
    d.parts = NULL;
    pq_delta_release(&d);
    pq_catalog_release(&out);
    fake_source_release(&base);
}

/* ---- names ------------------------------------------------------------- */

Test(diff, names_join_without_the_prefix_of_the_trunk)
{
    const char *end;

    cr_expect_str_eq(pq_name_bare("transformer.h.0.bias"), "h.0.bias");
    cr_expect_str_eq(pq_name_bare("model.norm.weight"), "norm.weight");
    cr_expect_str_eq(pq_name_bare("model."), "model.");
    cr_expect_str_eq(pq_name_bare("modeling.x"), "modeling.x");
    cr_expect_eq(pq_name_layer("model.layers.11.mlp.up.weight", &end), 11);
    cr_expect_str_eq(end, "mlp.up.weight");
    cr_expect_eq(pq_name_layer("h.0.ln_1.weight", &end), 0);
    cr_expect_eq(pq_name_layer("lm_head.weight", &end), -1);
    cr_expect_str_eq(end, "lm_head.weight");
    cr_expect_eq(pq_name_layer("", &end), -1);
    cr_expect_eq(pq_name_layer("a.12", &end), -1);
}
