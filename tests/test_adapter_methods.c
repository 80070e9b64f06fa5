/*
 * Methods of models on what adapters do: against testdata/adapters, where the
 * formulas were applied to the products in float64.
 */
#include "adapters.h"

#include "pq_blend.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

/* The effects of one module, of each adapter and of none. */
static struct pq_source *module_effects(struct job *j, size_t module)
{
    const struct pq_peft_joint *m = &j->joined.modules[module];
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_effect list[5] = {0};
    struct pq_source *s;

    for (size_t i = 0; i <= m->n; i++) {
        const size_t k = i < m->n ? i : 0;
        list[i].name = m->like->name;
        list[i].edit = (struct pq_edit){
            .source = m->a[k].source, .a = m->a[k].tensor,
            .b = m->b[k].tensor, .scale = i < m->n ? m->scale[k] : 0,
            .weight = 1};
    }
    cr_assert_eq(pq_effects_new("effects", list, m->n + 1, j->quant.kernels,
                                &s, &e),
                 0, "%s", e.msg);
    return s;
}

static double option(const cJSON *entry, const char *name, double otherwise)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(entry, "options"), name);

    return cJSON_IsNumber(v) ? v->valuedouble
           : v               ? (double)cJSON_IsTrue(v)
                             : otherwise;
}

/* A module blended, against the golden. */
static void check_blend(struct job *j, size_t module, const cJSON *entry,
                        struct pq_source *golden)
{
    struct pq_source *s = module_effects(j, module);
    const struct pq_tensor *t = s->catalog->tensors;
    struct pq_blend_input in[4] = {0};
    const struct pq_spec f32 = {.dtype = PQ_F32};
    const struct pq_run run = {.threads = 2, .memory = 64 << 20};
    struct pq_blend b = {
        .method = pq_method_named("ties"), .in = in, .n = j->n,
        .base_source = s, .base = &t[j->n],
        .lambda = option(entry, "lambda", 1),
        .normalize = option(entry, "normalize", 0) != 0};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_plan plan = {.sources = &s, .n_sources = 1};
    struct pq_catalog out;
    struct fake_sink sink;
    char name[128];

    for (size_t i = 0; i < j->n; i++)
        in[i] = (struct pq_blend_input){
            .source = s, .tensor = &t[i], .weight = j->weights[i],
            .density = option(entry, "density", 1), .stream = i};
    pq_catalog_init(&out);
    cr_assert(pq_quant_declare(&out, b.base, &f32, false, &e));
    cr_assert_eq(pq_blend_check(&b, &e), 0, "%s", e.msg);
    cr_assert(pq_step_blend(&plan, &b, &out, 0, &f32, false, &j->quant, &e));
    fake_sink_init(&sink, &out, true, -1);
    plan.sink = &sink.base;
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    snprintf(name, sizeof name, "%s.weight",
             j->joined.modules[module].like->name);
    const struct pq_tensor *g = named(golden->catalog, name);
    cr_assert(g, "%s", name);
    float *want = read_f32(golden, g);
    const float *got = fake_sink_part(&sink, 0, 0);
    for (uint64_t i = 0; i < g->n_elements; i++)
        cr_assert_float_eq(got[i], want[i], 1e-6f, "%s %llu", name,
                           (unsigned long long)i);
    free(want);
    fake_sink_release(&sink);
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    pq_source_free(s);
}

Test(adapter_methods, ties_of_what_they_truly_do)
{
    static const char *const names[] = {"ties", "ties-sum"};
    cJSON *manifest = read_json(GOLDEN_MANIFEST);

    for (size_t k = 0; k < 2; k++) {
        const cJSON *entry =
            cJSON_GetObjectItemCaseSensitive(manifest, names[k]);
        const cJSON *all = cJSON_GetObjectItemCaseSensitive(entry, "operands");
        struct pq_source *golden = golden_open(entry);
        struct pq_error e = PQ_ERROR_INIT;
        struct job j;
        job_open(&j);
        /* ties has a normalization of its own */
        for (const cJSON *p = all->child; p; p = p->next)
            job_add(&j, p->string, p->valuedouble);
        cr_assert_eq(pq_peft_join(&j.joined, &e), 0, "%s", e.msg);
        for (size_t i = 0; i < j.joined.n; i++)
            check_blend(&j, i, entry, golden);
        job_close(&j);
        pq_source_free(golden);
    }
    cJSON_Delete(manifest);
}
