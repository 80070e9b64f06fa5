/*
 * Adapters merged into models: every variant against what PEFT itself made
 * of it (testdata/peft and adapters, tests/oracle/make_peft_goldens.py,
 * make_adapter_goldens.py, make_moe_goldens.py), and what must be refused.
 */
#include "fake.h"
#include "model.h"

#include "pq_kernels.h"
#include "pq_made.h"
#include "pq_peft.h"
#include "pq_surgery.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PEFT     "testdata/peft/"
#define ADAPTERS "../adapters/" /* from there */

/* A merge of adapters into a base, every tensor as f32 or as asked. */
struct merge {
    struct pq_source *base, *made, *sources[6];
    struct pq_peft peft[3];
    struct pq_peft_places places;
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct fake_sink sink;
    struct pq_edit edits[128];
    size_t n_adapters;
    unsigned threads;
};

static struct pq_source *open_peft(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, PEFT "%s", name);
    return open_model(path);
}

static void merge_open(struct merge *m, const char *base, bool tied)
{
    struct pq_error e = PQ_ERROR_INIT;

    memset(m, 0, sizeof *m);
    m->threads = 1;
    m->quant.kernels = pq_kernels_best();
    m->base = open_peft(base);
    m->places.base = m->base->catalog;
    m->places.has_config = true;
    m->places.has_conv1d = strstr(base, "gpt2") != NULL;
    m->places.tied = tied;
    m->places.experts_in_out = strstr(base, "gpt-oss") != NULL;
    cr_assert_eq(pq_made_new("made", 64, 1 << 20, NULL, &m->made, &e), 0);
    m->places.made = m->made;
    cr_assert_eq(pq_peft_places_init(&m->places, &e), 0);
    pq_catalog_init(&m->out);
}

static int merge_adapter(struct merge *m, const char *name, double weight,
                         struct pq_error *e)
{
    const size_t i = m->n_adapters++;

    m->sources[2 + i] = open_peft(name);
    m->peft[i].accept = PQ_PEFT_PARAMETERS | PQ_PEFT_CHANGED_BASE;
    if (pq_peft_read(&m->peft[i], m->sources[2 + i], e))
        return -1;
    return pq_peft_place(&m->places, &m->peft[i], weight, e);
}

static const struct pq_tensor *start_of(const struct merge *m, size_t i)
{
    const struct pq_catalog *c = m->base->catalog;

    return i < c->n_tensors
               ? &c->tensors[i]
               : &c->tensors[m->places.added[i - c->n_tensors].like];
}

/* What PiSSA and OLoRA took out. */
static void merge_parts(struct merge *m)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_plan plan = {.sources = &m->base, .n_sources = 1};
    const struct pq_run run = {.threads = m->threads, .memory = 64 << 20};

    cr_assert_eq(pq_peft_find_parts(&plan, &m->places, m->base, m->made,
                                    m->quant.kernels, &e),
                 0, "%s", e.msg);
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    pq_plan_release(&plan);
}

static void merge_run(struct merge *m, const struct pq_spec *spec)
{
    struct pq_error e = PQ_ERROR_INIT;

    if (m->places.n_parts)
        merge_parts(m);
    struct pq_edit *next = m->edits;
    const size_t n = m->base->catalog->n_tensors + m->places.n_added;

    for (size_t i = 0; i < n; i++) {
        struct pq_tensor like = *start_of(m, i);
        if (i >= m->base->catalog->n_tensors)
            like.name = m->places.added[i - m->base->catalog->n_tensors].name;
        cr_assert(pq_quant_declare(&m->out, &like, spec, false, &e));
    }
    for (size_t i = 0; i < n; i++) {
        struct pq_edit *first = next;
        for (size_t k = 0; k < m->places.n_edits; k++)
            if (m->places.edits[k].target == i)
                *next++ = m->places.edits[k].edit;
        cr_assert(next <= m->edits + 128);
        cr_assert(pq_step_edit(&m->plan, m->base, start_of(m, i), &m->out, i,
                               spec, false, first, (size_t)(next - first),
                               &m->quant, &e),
                  "%s", e.msg);
    }
    fake_sink_init(&m->sink, &m->out, true, -1);
    m->sources[0] = m->base;
    m->plan.sources = m->sources;
    m->sources[1] = m->made;
    m->plan.n_sources = 2 + m->n_adapters;
    m->plan.sink = &m->sink.base;
    const struct pq_run run = {.threads = m->threads, .memory = 64 << 20};
    cr_assert_eq(pq_engine_run(&m->plan, &run, &e), 0, "%s", e.msg);
}

static void merge_close(struct merge *m)
{
    if (m->plan.sink)
        fake_sink_release(&m->sink);
    pq_plan_release(&m->plan);
    pq_peft_places_release(&m->places);
    for (size_t i = 0; i < m->n_adapters; i++) {
        pq_peft_release(&m->peft[i]);
        pq_source_free(m->sources[2 + i]);
    }
    pq_source_free(m->base);
    pq_source_free(m->made);
    pq_catalog_release(&m->out);
}

/* ---- goldens ----------------------------------------------------------- */

/* Output tensor i against PEFT's, or against the base where that has none. */
static void compare(struct merge *m, struct pq_source *golden, size_t i,
                    const char *what)
{
    const struct pq_tensor *g =
        named(golden->catalog, m->out.tensors[i].name);
    float *want = g ? read_f32(golden, g)
                    : read_f32(m->base, start_of(m, i));
    const float *got = fake_sink_part(&m->sink, i, 0);
    float most = 0, off = 0;

    for (uint64_t k = 0; k < m->out.tensors[i].n_elements; k++) {
        most = fmaxf(most, fabsf(want[k]));
        off = fmaxf(off, fabsf(want[k] - got[k]));
    }
    cr_assert(off <= 1e-6f * most, "%s: %s: off by %g of %g", what,
              m->out.tensors[i].name, (double)off, (double)most);
    free(want);
}

static void compare_all(struct merge *m, const char *golden)
{
    struct pq_source *g = open_peft(golden);

    for (size_t i = 0; i < g->catalog->n_tensors; i++)
        cr_assert(named(&m->out, g->catalog->tensors[i].name), "%s: %s",
                  golden, g->catalog->tensors[i].name);
    for (size_t i = 0; i < m->out.n_tensors; i++)
        compare(m, g, i, golden);
    pq_source_free(g);
}

static const struct pq_spec f32 = {.dtype = PQ_F32};

static void check_golden(const char *base, const char *name, bool tied,
                         const struct pq_kernels *k)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct merge m;
    char golden[128];

    snprintf(golden, sizeof golden, "%s/%s", name,
             strcmp(base, "base-mixtral") == 0 ||
                     strcmp(base, "base-mixtral-square") == 0
                 ? "merged-split.safetensors"
                 : "merged.safetensors");
    merge_open(&m, base, tied);
    m.quant.kernels = k;
    m.threads = 3;
    cr_assert_eq(merge_adapter(&m, name, 1, &e), 0, "%s", e.msg);
    merge_run(&m, &f32);
    compare_all(&m, golden);
    merge_close(&m);
}

Test(merge, every_variant_as_peft_does_it)
{
    static const char *const plain[] = {
        "lora", "rslora", "pattern", "dora", "dora-embedding", "embedding",
        "bias-all", "lora-bias", "save", "tokens", "only-tokens", "mica",
        "velora", "monteclora"};
    const struct pq_kernels *kernels[] = {pq_kernels_scalar(),
                                          pq_kernels_best()};

    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            check_golden("base-llama", plain[i], false, kernels[k]);
        check_golden("base-gpt2", "conv1d", true, kernels[k]);
        check_golden("base-gpt2", "conv1d-dora", true, kernels[k]);
        check_golden("base-llama-tied", "tied-tokens", true, kernels[k]);
        check_golden("base-llama-tied", "tied-head", true, kernels[k]);
    }
}

Test(merge, pissa_and_olora_into_the_base_before_them)
{
    const struct pq_kernels *k = pq_kernels_best();

    check_golden("base-llama", ADAPTERS "pissa", false, k);
    check_golden("base-llama", ADAPTERS "pissa-rslora", false, k);
    check_golden("base-llama", "pissa-dora", false, k);
    check_golden("base-gpt2", ADAPTERS "pissa-conv1d", true, k);
    check_golden("base-llama", ADAPTERS "olora", false, k);
    check_golden("base-gpt2", "olora-conv1d", true, k);
    /* its singular values fall by half each: random numbers do not show */
    check_golden(ADAPTERS "base-decay", ADAPTERS "pissa-niter", false, k);
}

/* W' - W of half an adapter is half of it, DoRA or not. */
static void check_half(const char *name)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct merge whole, half;

    merge_open(&whole, "base-llama", false);
    cr_assert_eq(merge_adapter(&whole, name, 1, &e), 0, "%s", e.msg);
    merge_run(&whole, &f32);
    merge_open(&half, "base-llama", false);
    cr_assert_eq(merge_adapter(&half, name, 0.5, &e), 0, "%s", e.msg);
    merge_run(&half, &f32);
    for (size_t i = 0; i < whole.out.n_tensors; i++) {
        const float *a = fake_sink_part(&whole.sink, i, 0);
        const float *b = fake_sink_part(&half.sink, i, 0);
        float *w = read_f32(whole.base, start_of(&whole, i));
        for (uint64_t j = 0; j < whole.out.tensors[i].n_elements; j++)
            cr_assert_float_eq(b[j], (a[j] + w[j]) / 2, 1e-6, "%s", name);
        free(w);
    }
    merge_close(&whole);
    merge_close(&half);
}

Test(merge, half_of_an_adapter_whose_start_changed_the_base)
{
    check_half("pissa-dora");
    check_half(ADAPTERS "pissa");
    check_half(ADAPTERS "olora");
}

Test(merge, a_part_is_found_once)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct merge m;

    merge_open(&m, "base-llama", false);
    cr_assert_eq(merge_adapter(&m, ADAPTERS "pissa", 0.5, &e), 0);
    cr_assert_eq(merge_adapter(&m, ADAPTERS "pissa", 0.5, &e), 0);
    cr_assert_eq(m.places.n_parts, 6);
    merge_run(&m, &f32);
    compare_all(&m, ADAPTERS "pissa/merged.safetensors");
    merge_close(&m);

    /* the base is the residual: nothing to find */
    merge_open(&m, "base-llama", false);
    m.places.residual = true;
    cr_assert_eq(merge_adapter(&m, ADAPTERS "pissa", 1, &e), 0);
    cr_assert_eq(m.places.n_parts, 0);
    merge_close(&m);
}

Test(merge, experts)
{
    const struct pq_kernels *kernels[] = {pq_kernels_scalar(),
                                          pq_kernels_best()};
    static const char *const models[] = {"qwen3", "mixtral", "gpt-oss"};
    char base[64], name[64];

    for (size_t k = 0; k < 2; k++) {
        check_golden("base-mixtral", "experts", false, kernels[k]);
        check_golden("base-mixtral-fused", "experts", false, kernels[k]);
        for (size_t i = 0; i < 2 * sizeof models / sizeof *models; i++) {
            const char *age = i % 2 ? "new" : "old";
            snprintf(base, sizeof base, ADAPTERS "moe-base-%s", models[i / 2]);
            snprintf(name, sizeof name, ADAPTERS "moe-%s-%s", age,
                     models[i / 2]);
            check_golden(base, name, false, kernels[k]);
        }
    }
}

/* down_proj alone and square: only who wrote it tells the sides. */
Test(merge, square_experts_go_by_version_and_model)
{
    const struct pq_kernels *k = pq_kernels_best();

    check_golden("base-mixtral-square", "experts-square", false, k);
    check_golden("base-mixtral-square", "experts-square-018", false, k);
    check_golden("base-gpt-oss", "experts-in-out-square", false, k);
}

Test(merge, two_adapters_and_weights)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct merge m;

    merge_open(&m, "base-llama", false);
    cr_assert_eq(merge_adapter(&m, "lora", 1, &e), 0, "%s", e.msg);
    cr_assert_eq(merge_adapter(&m, "pattern", 1, &e), 0, "%s", e.msg);
    merge_run(&m, &f32);
    compare_all(&m, "two/merged.safetensors");
    merge_close(&m);

    /* half and half is the whole; what is added and taken away is nothing */
    merge_open(&m, "base-llama", false);
    cr_assert_eq(merge_adapter(&m, "lora", 0.5, &e), 0);
    cr_assert_eq(merge_adapter(&m, "lora", 0.5, &e), 0);
    merge_run(&m, &f32);
    compare_all(&m, "lora/merged.safetensors");
    merge_close(&m);
    merge_open(&m, "base-llama", false);
    cr_assert_eq(merge_adapter(&m, "lora", 1, &e), 0);
    cr_assert_eq(merge_adapter(&m, "lora", -1, &e), 0);
    merge_run(&m, &f32);
    compare_all(&m, "base-llama/model.safetensors");
    merge_close(&m);
}

Test(merge, untied_head_starts_as_the_table)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct merge m;

    merge_open(&m, "base-llama-tied", true);
    cr_assert_eq(merge_adapter(&m, "embedding", 1, &e), 0, "%s", e.msg);
    cr_assert(m.places.untied);
    cr_assert_eq(m.places.n_added, 1);
    cr_assert_str_eq(m.places.added[0].name, "lm_head.weight");
    merge_close(&m);
    merge_open(&m, "base-llama-tied", true);
    cr_assert_eq(merge_adapter(&m, "tokens", 1, &e), 0, "%s", e.msg);
    cr_assert(!m.places.untied);
    merge_close(&m);
}

/* ---- adapters alone ---------------------------------------------------- */

/* product += c B A, in double. */
static void add_naive(const float *a, const float *b, uint64_t rank,
                      uint64_t in, uint64_t out, double c, double *product)
{
    for (uint64_t i = 0; i < out; i++)
        for (uint64_t k = 0; k < rank; k++)
            for (uint64_t j = 0; j < in; j++)
                product[i * in + j] += c * (double)b[i * rank + k] *
                                       (double)a[k * in + j];
}

/* Takes w of module `name` out of the product, if the adapter has it. */
static void subtract(struct pq_source *s, const struct pq_peft *p,
                     const char *name, double w, double *product)
{
    for (size_t i = 0; i < p->n_modules; i++) {
        const struct pq_peft_module *m = &p->modules[i];
        if (!strstr(name, m->name))
            continue;
        float *a = read_f32(s, m->a), *b = read_f32(s, m->b);
        add_naive(a, b, m->a->shape[0], m->a->shape[1], m->b->shape[0],
                  -w * m->scale, product);
        free(a);
        free(b);
    }
}

Test(merge, sum_of_adapters_is_exact)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s[] = {open_peft("lora"), open_peft("pattern")};
    struct pq_peft p[2] = {0};
    const struct pq_peft *both[] = {&p[0], &p[1]};
    const double w[] = {0.7, -0.4};
    struct pq_plan plan = {.sources = s, .n_sources = 2};
    struct pq_peft_union u = {
        .adapters = both, .weights = w, .n_adapters = 2};
    struct pq_catalog out;
    struct fake_sink sink;
    const struct pq_quant q = {.kernels = pq_kernels_best()};

    pq_catalog_init(&out);
    for (size_t i = 0; i < 2; i++)
        cr_assert_eq(pq_peft_read(&p[i], s[i], &e), 0, "%s", e.msg);
    cr_assert_eq(pq_peft_join(&u, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_peft_sum(&plan, &out, &u, 0, PQ_F32, &q, &e), 0, "%s",
                 e.msg);
    fake_sink_init(&sink, &out, true, -1);
    plan.sink = &sink.base;
    const struct pq_run run = {.threads = 2, .memory = 64 << 20};
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    cr_assert_eq(out.n_tensors, 12);
    for (size_t t = 0; t < out.n_tensors; t += 2) {
        const uint64_t *a = out.tensors[t].shape, *b = out.tensors[t + 1].shape;
        double *product = calloc(a[1] * b[0], sizeof *product);
        cr_assert_eq(a[0], b[1]);
        add_naive(fake_sink_part(&sink, t, 0), fake_sink_part(&sink, t + 1, 0),
                  a[0], a[1], b[0], 1, product);
        for (size_t i = 0; i < 2; i++)
            subtract(s[i], &p[i], out.tensors[t].name, w[i], product);
        for (uint64_t i = 0; i < a[1] * b[0]; i++)
            cr_assert(fabs(product[i]) < 1e-6, "%s", out.tensors[t].name);
        free(product);
    }
    fake_sink_release(&sink);
    pq_plan_release(&plan);
    pq_peft_union_release(&u);
    pq_catalog_release(&out);
    for (size_t i = 0; i < 2; i++) {
        pq_peft_release(&p[i]);
        pq_source_free(s[i]);
    }
}

/* ---- rounding ---------------------------------------------------------- */

static struct pq_quality seen;

static int see(const struct pq_step *s, const struct pq_quality *q,
               struct pq_error *e)
{
    (void)s;
    (void)e;
    if (q->wanted > 0)
        seen = *q;
    return 0;
}

Test(merge, bf16_is_rounded_once)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_spec bf16 = {.dtype = PQ_BF16};
    struct merge whole, half;

    merge_open(&whole, "base-llama", false);
    cr_assert_eq(merge_adapter(&whole, "lora", 1, &e), 0);
    merge_run(&whole, &f32);
    merge_open(&half, "base-llama", false);
    half.quant.report = see;
    cr_assert_eq(merge_adapter(&half, "lora", 1, &e), 0);
    merge_run(&half, &bf16);
    for (size_t i = 0; i < whole.out.n_tensors; i++) {
        const uint64_t n = whole.out.tensors[i].n_elements;
        uint16_t *want = malloc(n * sizeof *want);
        pq_kernels_best()->f32_to_bf16(fake_sink_part(&whole.sink, i, 0), n,
                                       want);
        cr_assert_arr_eq(fake_sink_part(&half.sink, i, 0), want,
                         n * sizeof *want);
        free(want);
    }
    cr_assert(pq_retained(&seen) > 0.99 && pq_retained(&seen) <= 1);
    merge_close(&whole);
    merge_close(&half);
}

Test(merge, retained_is_a_cosine)
{
    struct pq_quality q = {.wanted = 4, .applied = 9, .both = 3};

    cr_assert_float_eq(pq_retained(&q), 0.5, 1e-12);
    q.applied = q.both = 0; /* all of it rounded away */
    cr_assert_eq(pq_retained(&q), 0);
    q.wanted = 0;
    cr_assert_eq(pq_retained(&q), 1);
}

Test(merge, kernels_give_the_same_bits)
{
    const struct pq_kernels *a = pq_kernels_scalar(), *b = pq_kernels_best();
    float l[5 * 7], r[7 * 77], x[5 * 80], y[5 * 80];

    for (size_t i = 0; i < sizeof l / sizeof *l; i++)
        l[i] = sinf((float)i);
    for (size_t i = 0; i < sizeof r / sizeof *r; i++)
        r[i] = cosf((float)i * 1.7f);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = y[i] = sinf((float)i * 0.3f);
    a->add_product(l, 5, 7, r, 77, 77, 0.7f, x, 80);
    b->add_product(l, 5, 7, r, 77, 77, 0.7f, y, 80);
    cr_assert_arr_eq(x, y, sizeof x);
    double s[3], t[3];
    a->change_stats(r, x, x + 133, 133, s);
    b->change_stats(r, x, x + 133, 133, t);
    cr_assert_arr_eq(s, t, sizeof s);
}
