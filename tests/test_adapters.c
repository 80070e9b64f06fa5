/*
 * Adapters by themselves: sums, averages, lower ranks, against
 * testdata/adapters; see adapters.h.
 */
#include "adapters.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        const float *got = job_written(j, name, &shape);
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
    struct pq_source *golden = golden_open(entry);
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    job_add_operands(&j, entry);
    if (rank) {
        job_reduce(&j, &rule, 2);
    } else {
        job_take_config(&j);
        cr_assert_eq(pq_peft_join(&j.joined, &e), 0, "%s", e.msg);
        cr_assert_eq(pq_peft_sum(&j.plan, &j.out, &j.joined, 0, PQ_F32,
                                 &j.quant, &e),
                     0, "%s", e.msg);
        job_write(&j, 2);
    }
    for (size_t i = 0; i < j.joined.n; i++) {
        const struct pq_peft_module *m = j.joined.modules[i].like;
        size_t r;
        const double got = job_error(&j, golden, m, &r);
        const double best = rank ? golden_best_error(entry, m->name, r) : 0;
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
    cJSON *manifest = read_json(GOLDEN_MANIFEST);
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
    cJSON *manifest = read_json(GOLDEN_MANIFEST);
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(manifest, "fedavg");
    struct pq_source *golden = golden_open(entry);
    struct pq_error e = PQ_ERROR_INIT;
    struct job j;

    job_open(&j);
    job_add_operands(&j, entry);
    job_take_config(&j);
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
    job_reduce(j, rule, 1);
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
        job_reduce(&j[i], &rule, i ? 4 : 1);
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
