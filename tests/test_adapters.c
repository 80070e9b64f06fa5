/*
 * Adapters by themselves: sums, averages, lower ranks, methods of models.
 * Against testdata/adapters (tests/oracle/make_adapter_goldens.py: formulas
 * in float64, and for each module the error that the best approximation of
 * each rank has).
 */
#include "fake.h"

#include "pq_blend.h"
#include "pq_format.h"
#include "pq_kernels.h"
#include "pq_peft.h"
#include "pq_ranks.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Adapters joined, and what is made of them. */
struct job {
    struct pq_source *sources[5];
    struct pq_peft peft[4];
    const struct pq_peft *adapters[4];
    double weights[4];
    struct pq_peft_union joined;
    struct pq_ranking ranking;
    struct pq_peft_out modules[64];
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct fake_sink sink;
    size_t n;
};

static struct pq_source *open_model(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;

    cr_assert_eq(pq_open_model(path, NULL, &s, &e), 0, "%s", e.msg);
    return s;
}

static void job_open(struct job *j)
{
    memset(j, 0, sizeof *j);
    j->quant.kernels = pq_kernels_best();
    j->joined.adapters = j->adapters;
    j->joined.weights = j->weights;
    pq_catalog_init(&j->out);
}

static void job_add(struct job *j, const char *path, double weight)
{
    struct pq_error e = PQ_ERROR_INIT;
    const size_t i = j->n++;

    cr_assert_lt(i, 4);
    j->sources[i] = open_model(path);
    cr_assert_eq(pq_peft_read(&j->peft[i], j->sources[i], &e), 0, "%s", e.msg);
    j->adapters[i] = &j->peft[i];
    j->weights[i] = weight;
    j->joined.n_adapters = j->n;
}

static void job_close(struct job *j)
{
    if (j->plan.sink)
        fake_sink_release(&j->sink);
    pq_plan_release(&j->plan);
    pq_ranking_release(&j->ranking);
    pq_peft_union_release(&j->joined);
    for (size_t i = 0; i < j->n; i++) {
        pq_peft_release(&j->peft[i]);
        pq_source_free(j->sources[i]);
    }
    pq_catalog_release(&j->out);
}

/* Runs the plan that writes; its sources have been set. */
static void job_write(struct job *j, unsigned threads)
{
    const struct pq_run run = {.threads = threads, .memory = 64 << 20};
    struct pq_error e = PQ_ERROR_INIT;

    j->sources[j->n] = j->ranking.made;
    j->plan.sources = j->sources;
    j->plan.n_sources = j->n + (j->ranking.made != NULL);
    fake_sink_init(&j->sink, &j->out, true, -1);
    j->plan.sink = &j->sink.base;
    cr_assert_eq(pq_engine_run(&j->plan, &run, &e), 0, "%s", e.msg);
}

static void take_config(struct job *j)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_catalog_copy_meta(&j->out, j->sources[0]->catalog, &e), 0);
}

/* ---- lower ranks ------------------------------------------------------- */

static int found(const struct pq_step *s, const struct pq_lowrank *r,
                 struct pq_error *e)
{
    return pq_ranking_keep(s->user, s->name, r, 0, e);
}

static void factor(struct job *j, unsigned threads)
{
    const struct pq_lowrank_how how = {.kernels = j->quant.kernels,
                                       .found = found};
    const struct pq_run run = {.threads = threads, .memory = 64 << 20};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_plan plan = {0};

    cr_assert_eq(pq_peft_join(&j->joined, &e), 0, "%s", e.msg);
    cr_assert_leq(j->joined.n, 64);
    cr_assert_eq(pq_ranking_init(&j->ranking, j->joined.n, 1 << 20, NULL, &e),
                 0);
    for (size_t i = 0; i < j->joined.n; i++) {
        const struct pq_peft_joint *m = &j->joined.modules[i];
        struct pq_step *s = pq_step_product(&plan, m->like->name, m->a, m->b,
                                            m->n, &how, &e);
        cr_assert(s, "%s", e.msg);
        s->user = &j->ranking;
    }
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    pq_plan_release(&plan);
}

/* As cmd/common/reduce.c does it. */
static void reduce(struct job *j, const struct pq_rank_rule *rule,
                   unsigned threads)
{
    struct pq_error e = PQ_ERROR_INIT;

    factor(j, threads);
    cr_assert_eq(pq_ranking_choose(&j->ranking, rule, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < j->joined.n; i++) {
        const struct pq_peft_joint *m = &j->joined.modules[i];
        j->modules[i] = (struct pq_peft_out){
            .name = m->like->name, .embedding = m->like->embedding,
            .in = m->like->a->shape + 1, .n_in = m->like->a->rank - 1,
            .factor = &j->ranking.factors[i],
            .bias = m->bias, .n_bias = m->n_bias};
    }
    take_config(j);
    cr_assert_eq(pq_peft_write(&j->plan, &j->out, j->modules, j->joined.n, 0,
                               j->ranking.made, PQ_F32, &j->quant, &e),
                 0, "%s", e.msg);
    job_write(j, threads);
}

/* ---- goldens ----------------------------------------------------------- */

static cJSON *read_manifest(void)
{
    static char text[65536];
    FILE *f = fopen("testdata/adapters/manifest.json", "r");

    cr_assert(f);
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    cJSON *all = cJSON_Parse(text);
    cr_assert(all);
    return all;
}

static void add_operands(struct job *j, const cJSON *entry)
{
    const cJSON *options =
        cJSON_GetObjectItemCaseSensitive(entry, "options");
    const bool normalize = cJSON_IsTrue(
        cJSON_GetObjectItemCaseSensitive(options, "normalize"));
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(entry, "operands");
    double sum = 0;

    for (const cJSON *p = all->child; p; p = p->next)
        sum += p->valuedouble;
    for (const cJSON *p = all->child; p; p = p->next)
        job_add(j, p->string, p->valuedouble / (normalize ? sum : 1));
}

static const struct pq_tensor *named(const struct pq_catalog *c,
                                     const char *name)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    return NULL;
}

static float *read_f32(struct pq_source *s, const struct pq_tensor *t)
{
    struct pq_error e = PQ_ERROR_INIT;
    float *v = malloc(t->n_elements * sizeof *v + 1);

    cr_assert_eq(t->dtype, PQ_F32);
    cr_assert_eq(pq_source_read(s, &t->parts[0], 0, v,
                                t->n_elements * sizeof *v, &e),
                 0, "%s", e.msg);
    return v;
}

static const float *written(const struct job *j, const char *name,
                            const uint64_t **shape)
{
    const struct pq_tensor *t = named(&j->out, name);

    cr_assert(t, "no %s", name);
    *shape = t->shape;
    return fake_sink_part(&j->sink, (size_t)(t - j->out.tensors), 0);
}

/* |D - B A| / |D| of a module, D [out][in], of an embedding [in][out]. */
static double error_of(const struct job *j, struct pq_source *golden,
                       const struct pq_peft_module *m, size_t *rank)
{
    const uint64_t *sa, *sb;
    char name[2][128], weight[128];
    double off = 0, all = 0;

    for (int i = 0; i < 2; i++)
        snprintf(name[i], sizeof name[i],
                 m->embedding ? "base_model.model.%s.lora_embedding_%c"
                              : "base_model.model.%s.lora_%c.weight",
                 m->name, "AB"[i]);
    const float *a = written(j, name[0], &sa), *b = written(j, name[1], &sb);
    snprintf(weight, sizeof weight, "%s.weight", m->name);
    const struct pq_tensor *t = named(golden->catalog, weight);
    cr_assert(t, "no %s", weight);
    float *d = read_f32(golden, t);
    cr_assert_eq(t->n_elements, sa[1] * sb[0]);
    cr_assert_eq(sa[0], sb[1]);
    *rank = sa[0];
    for (uint64_t o = 0; o < sb[0]; o++)
        for (uint64_t i = 0; i < sa[1]; i++) {
            double x = d[m->embedding ? i * sb[0] + o : o * sa[1] + i];
            all += x * x;
            for (uint64_t k = 0; k < sa[0]; k++)
                x -= (double)b[o * sa[0] + k] * (double)a[k * sa[1] + i];
            off += x * x;
        }
    free(d);
    return sqrt(off / all);
}

static double best_error(const cJSON *entry, const char *module, size_t rank)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(entry, "best_errors");
    char name[128];

    snprintf(name, sizeof name, "%s.weight", module);
    const cJSON *v = cJSON_GetArrayItem(
        cJSON_GetObjectItemCaseSensitive(all, name), (int)rank);
    return v ? v->valuedouble : 0;
}

static struct pq_source *open_golden(const cJSON *entry)
{
    char path[128];

    snprintf(path, sizeof path, "testdata/adapters/%s",
             cJSON_GetStringValue(
                 cJSON_GetObjectItemCaseSensitive(entry, "file")));
    return open_model(path);
}

/* lora_B.bias of modules that have one, against NAME.bias. */
static void check_biases(const struct job *j, struct pq_source *golden)
{
    for (size_t i = 0; i < j->joined.n; i++) {
        const struct pq_peft_joint *m = &j->joined.modules[i];
        const uint64_t *shape;
        char name[128];
        if (!m->n_bias)
            continue;
        snprintf(name, sizeof name, "base_model.model.%s.lora_B.bias",
                 m->like->name);
        const float *got = written(j, name, &shape);
        snprintf(name, sizeof name, "%s.bias", m->like->name);
        const struct pq_tensor *t = named(golden->catalog, name);
        cr_assert(t, "no %s", name);
        float *want = read_f32(golden, t);
        for (uint64_t k = 0; k < shape[0]; k++)
            cr_assert_float_eq(got[k], want[k], 1e-6f);
        free(want);
    }
}

/* The sum of an entry at a rank, against the best there is; 0: exactly. */
static void check_sum(const cJSON *entry, size_t rank)
{
    const struct pq_rank_rule rule = {.rank = rank};
    struct pq_source *golden = open_golden(entry);
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    add_operands(&j, entry);
    if (rank) {
        reduce(&j, &rule, 2);
    } else {
        take_config(&j);
        cr_assert_eq(pq_peft_join(&j.joined, &e), 0, "%s", e.msg);
        cr_assert_eq(pq_peft_sum(&j.plan, &j.out, &j.joined, 0, PQ_F32,
                                 &j.quant, &e),
                     0, "%s", e.msg);
        job_write(&j, 2);
    }
    for (size_t i = 0; i < j.joined.n; i++) {
        const struct pq_peft_module *m = j.joined.modules[i].like;
        size_t r;
        const double got = error_of(&j, golden, m, &r);
        const double best = rank ? best_error(entry, m->name, r) : 0;
        cr_assert(got <= best * (1 + 1e-5) + 1e-6, "%s, %s, rank %zu: %g %g",
                  entry->string, m->name, rank, got, best);
        if (rank)
            cr_assert_float_eq(pq_ranked_error(&j.ranking.factors[i]), got,
                               1e-5);
    }
    check_biases(&j, golden);
    job_close(&j);
    pq_source_free(golden);
}

Test(adapters, sums_are_exact_and_of_lower_rank_the_best)
{
    cJSON *manifest = read_manifest();
    size_t n = 0;

    for (const cJSON *p = manifest->child; p; p = p->next) {
        const char *method = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(p, "method"));
        if (!method || strcmp(method, "linear") != 0)
            continue;
        n++;
        for (size_t rank = 0; rank < 10; rank++)
            check_sum(p, rank);
    }
    cr_assert_geq(n, 5);
    cJSON_Delete(manifest);
}

Test(adapters, average_of_factors)
{
    cJSON *manifest = read_manifest();
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(manifest, "fedavg");
    struct pq_source *golden = open_golden(entry);
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    add_operands(&j, entry);
    take_config(&j);
    cr_assert_eq(pq_peft_join(&j.joined, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_peft_average(&j.plan, &j.out, &j.joined, PQ_F32, &j.quant,
                                 &e),
                 0, "%s", e.msg);
    job_write(&j, 1);
    cr_assert_eq(j.out.n_tensors, golden->catalog->n_tensors);
    for (size_t i = 0; i < j.out.n_tensors; i++) {
        const struct pq_tensor *t =
            named(golden->catalog, j.out.tensors[i].name);
        cr_assert(t, "%s", j.out.tensors[i].name);
        const float *got = fake_sink_part(&j.sink, i, 0);
        float *want = read_f32(golden, t);
        for (uint64_t k = 0; k < t->n_elements; k++)
            cr_assert_float_eq(got[k], want[k], 1e-6f);
        free(want);
    }
    job_close(&j);
    pq_source_free(golden);
    cJSON_Delete(manifest);
}

static void refuse_average(const char *a, const char *b, const char *why)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    job_add(&j, a, 0.5);
    job_add(&j, b, 0.5);
    cr_assert_eq(pq_peft_join(&j.joined, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_peft_average(&j.plan, &j.out, &j.joined, PQ_F32, &j.quant,
                                 &e),
                 -1);
    cr_assert(strstr(e.msg, why), "%s", e.msg);
    job_close(&j);
}

Test(adapters, factors_that_do_not_match_are_not_averaged)
{
    refuse_average("testdata/adapters/party-1", "testdata/adapters/five",
                   "rank 3 in testdata/adapters/party-1, 5 in");
    refuse_average("testdata/peft/lora", "testdata/peft/rslora", "scale");
    refuse_average("testdata/peft/lora", "testdata/peft/lora-bias",
                   "1 of 2 adapters have it");
}

/* ---- ranks ------------------------------------------------------------- */

static void rank_party(struct job *j, const struct pq_rank_rule *rule)
{
    job_open(j);
    job_add(j, "testdata/adapters/five", 1);
    reduce(j, rule, 1);
}

Test(adapters, energy_and_error_are_reached_with_no_rank_too_many)
{
    struct job j;

    for (int way = 0; way < 2; way++) {
        const double limit = 0.25; /* of |D| */
        const struct pq_rank_rule rule = {
            .energy = way ? 1 - limit * limit : 0,
            .max_error = way ? 0 : limit};
        rank_party(&j, &rule);
        for (size_t i = 0; i < j.ranking.n; i++) {
            struct pq_ranked *f = &j.ranking.factors[i];
            cr_assert_leq(pq_ranked_error(f), limit);
            cr_assert(f->rank == 1 || !pq_ranked_enough(f, f->rank - 1, &rule),
                      "%s", f->name);
        }
        job_close(&j);
    }
}

Test(adapters, a_budget_is_spent_where_it_pays)
{
    struct pq_rank_rule rule = {.bytes = 1400, .element_bits = 32};
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;
    uint64_t bytes = 0;
    double worst_taken = INFINITY, best_left = 0;

    rank_party(&j, &rule);
    for (size_t i = 0; i < j.ranking.n; i++) {
        const struct pq_ranked *f = &j.ranking.factors[i];
        const double each = (double)(f->rows + f->cols) * 4;
        bytes += f->rank * (f->rows + f->cols) * 4;
        if (f->rank > 1)
            worst_taken = fmin(worst_taken, f->s[f->rank - 1] *
                                                f->s[f->rank - 1] / each);
        /* what would have fitted still */
        if (f->rank < f->kept && f->rows == 8)
            best_left = fmax(best_left, f->s[f->rank] * f->s[f->rank] / each);
    }
    cr_assert_leq(bytes, 1400);
    cr_assert_gt(bytes, 1400 - 160);
    cr_assert_lt(best_left, worst_taken);
    rule.bytes = 500;
    cr_assert_eq(pq_ranking_choose(&j.ranking, &rule, &e), -1);
    cr_assert(strstr(e.msg, "rank 1 of every matrix"), "%s", e.msg);
    job_close(&j);
}

Test(adapters, the_same_bytes_from_any_number_of_threads)
{
    const struct pq_rank_rule rule = {.rank = 3};
    struct job j[2];

    for (int i = 0; i < 2; i++) {
        job_open(&j[i]);
        job_add(&j[i], "testdata/adapters/five", 0.3);
        job_add(&j[i], "testdata/adapters/mix", -0.7);
        reduce(&j[i], &rule, i ? 4 : 1);
    }
    cr_assert_eq(j[0].out.n_tensors, j[1].out.n_tensors);
    for (size_t i = 0; i < j[0].out.n_tensors; i++)
        cr_assert_arr_eq(fake_sink_part(&j[0].sink, i, 0),
                         fake_sink_part(&j[1].sink, i, 0),
                         j[0].out.tensors[i].parts[0].bytes);
    job_close(&j[0]);
    job_close(&j[1]);
}

/* ---- what is no sum ---------------------------------------------------- */

static void refuse_join(const char *a, const char *b, const char *why)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    job_add(&j, a, 1);
    job_add(&j, b, 1);
    cr_assert_eq(pq_peft_join(&j.joined, &e), -1);
    cr_assert(strstr(e.msg, why), "%s", e.msg);
    job_close(&j);
}

Test(adapters, what_needs_the_base_is_refused_by_name)
{
    refuse_join("testdata/peft/lora", "testdata/peft/dora",
                "lora_magnitude_vector: DoRA cannot be summed");
    refuse_join("testdata/peft/save", "testdata/peft/lora",
                "cannot be summed without it");
    refuse_join("testdata/peft/lora", "testdata/peft/tokens",
                "cannot be summed without it");
    refuse_join("testdata/peft/lora", "testdata/peft/conv1d",
                "fan_in_fan_out");
}

Test(adapters, other_shapes_are_refused_by_name)
{
    refuse_join("testdata/peft/lora", "testdata/peft/tiny-lora",
                "tiny-lora: tensor base_model.model.model.layers.0.self_attn."
                "q_proj.lora_A.weight: its shape");
}

/* ---- methods of models, on effects ------------------------------------- */

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

Test(adapters, ties_of_what_they_truly_do)
{
    static const char *const names[] = {"ties", "ties-sum"};
    cJSON *manifest = read_manifest();

    for (size_t k = 0; k < 2; k++) {
        const cJSON *entry =
            cJSON_GetObjectItemCaseSensitive(manifest, names[k]);
        const cJSON *all = cJSON_GetObjectItemCaseSensitive(entry, "operands");
        struct pq_source *golden = open_golden(entry);
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
