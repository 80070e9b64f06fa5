/*
 * Adapters joined, written and compared with goldens; see adapters.h.
 */
#include "adapters.h"

#include "pq_kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void job_open(struct job *j)
{
    memset(j, 0, sizeof *j);
    j->quant.kernels = pq_kernels_best();
    j->joined.adapters = j->adapters;
    j->joined.weights = j->weights;
    pq_catalog_init(&j->out);
}

void job_add(struct job *j, const char *path, double weight)
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

void job_close(struct job *j)
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

void job_write(struct job *j, unsigned threads)
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

void job_take_config(struct job *j)
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

void job_reduce(struct job *j, const struct pq_rank_rule *rule,
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
    job_take_config(j);
    cr_assert_eq(pq_peft_write(&j->plan, &j->out, j->modules, j->joined.n, 0,
                               j->ranking.made, PQ_F32, &j->quant, &e),
                 0, "%s", e.msg);
    job_write(j, threads);
}

/* ---- goldens ----------------------------------------------------------- */

void job_add_operands(struct job *j, const cJSON *entry)
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

const float *job_written(const struct job *j, const char *name,
                         const uint64_t **shape)
{
    const struct pq_tensor *t = named(&j->out, name);

    cr_assert(t, "no %s", name);
    *shape = t->shape;
    return fake_sink_part(&j->sink, (size_t)(t - j->out.tensors), 0);
}

double job_error(const struct job *j, struct pq_source *golden,
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
    const float *a = job_written(j, name[0], &sa);
    const float *b = job_written(j, name[1], &sb);
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

double golden_best_error(const cJSON *entry, const char *module, size_t rank)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(entry, "best_errors");
    char name[128];

    snprintf(name, sizeof name, "%s.weight", module);
    const cJSON *v = cJSON_GetArrayItem(
        cJSON_GetObjectItemCaseSensitive(all, name), (int)rank);
    return v ? v->valuedouble : 0;
}

struct pq_source *golden_open(const cJSON *entry)
{
    char path[128];

    snprintf(path, sizeof path, "testdata/adapters/%s",
             cJSON_GetStringValue(
                 cJSON_GetObjectItemCaseSensitive(entry, "file")));
    return open_model(path);
}
