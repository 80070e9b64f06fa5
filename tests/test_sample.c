/*
 * Choosing tokens: what is left of logits is what transformers' processors
 * leave (testdata/generate/sampling.json, tests/oracle/make_generate.py), and
 * draws are as likely as they say.
 */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>

#include <math.h>

#include "model.h"
#include "pq_sample.h"

#define VOCAB 64

struct golden {
    cJSON *all;
    float logits[VOCAB];
    int32_t seen[16];
    size_t n_seen;
};

static void load(struct golden *g)
{
    g->all = read_json("testdata/generate/sampling.json");
    const cJSON *z = key(g->all, "logits"), *seen = key(g->all, "seen");
    cr_assert(cJSON_GetArraySize(z) == VOCAB);
    for (int i = 0; i < VOCAB; i++)
        g->logits[i] = (float)cJSON_GetArrayItem(z, i)->valuedouble;
    g->n_seen = (size_t)cJSON_GetArraySize(seen);
    for (size_t i = 0; i < g->n_seen; i++)
        g->seen[i] = cJSON_GetArrayItem(seen, (int)i)->valueint;
}

static double value(const cJSON *c, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c, key);

    return v ? v->valuedouble : 0;
}

static void filter(const struct golden *g, const struct pq_sampling *s,
                   float *z)
{
    struct pq_candidate room[VOCAB];

    for (size_t i = 0; i < VOCAB; i++)
        z[i] = g->logits[i];
    pq_sample_filter(s, g->seen, g->n_seen, z, VOCAB, room);
}

Test(sample, leaves_what_transformers_leaves)
{
    struct golden g;
    float z[VOCAB];
    int n = 0;

    load(&g);
    for (const cJSON *c =
             cJSON_GetObjectItemCaseSensitive(g.all, "cases")->child;
         c; c = c->next, n++) {
        const struct pq_sampling s = {
            .temperature = value(c, "temperature"),
            .top_k = (size_t)value(c, "top_k"),
            .top_p = value(c, "top_p"),
            .min_p = value(c, "min_p"),
            .repetition = value(c, "repetition"),
        };
        const cJSON *left = cJSON_GetObjectItemCaseSensitive(c, "left");
        filter(&g, &s, z);
        for (int i = 0; i < VOCAB; i++) {
            const cJSON *v = cJSON_GetArrayItem(left, i);
            cr_assert(cJSON_IsNull(v) == (z[i] == -INFINITY),
                      "case %d: token %d is left or not", n, i);
            cr_assert(cJSON_IsNull(v) ||
                          fabs((double)z[i] - v->valuedouble) <=
                              1e-6 * fabs(v->valuedouble),
                      "case %d: token %d: %.9g", n, i, (double)z[i]);
        }
    }
    cr_assert(n == 11);
    cJSON_Delete(g.all);
}

/* As many of equally spaced numbers fall on each token as it is likely. */
Test(sample, draws_are_as_likely_as_they_say)
{
    enum { DRAWS = 20000 };
    const struct pq_sampling s = {.temperature = 0.9, .top_k = 9};
    struct golden g;
    float z[VOCAB];
    double all = 0;
    int count[VOCAB] = {0};

    load(&g);
    filter(&g, &s, z);
    for (int i = 0; i < VOCAB; i++)
        all += exp((double)z[i]);
    for (int i = 0; i < DRAWS; i++)
        count[pq_sample_draw(z, VOCAB, (i + 0.5) / DRAWS)]++;
    for (int i = 0; i < VOCAB; i++)
        cr_assert(fabs(count[i] - exp((double)z[i]) / all * DRAWS) <= 1.01,
                  "token %d was drawn %d times", i, count[i]);
    cJSON_Delete(g.all);
}

Test(sample, ends_of_the_range)
{
    const float z[4] = {-INFINITY, 1, 2, -INFINITY};

    cr_assert(pq_sample_draw(z, 4, 0) == 1);
    cr_assert(pq_sample_draw(z, 4, 1 - 0x1p-53) == 2);
    cr_assert(pq_sample_draw(z, 4, 1) == 2); /* never what was removed */
}

Test(sample, the_best_is_the_first_of_equals_and_no_nan)
{
    const float z[4] = {NAN, 2, 2, -INFINITY};

    cr_assert(pq_sample_best(z, 4) == 1);
}

Test(sample, equals_at_the_edge_of_top_p)
{
    const struct pq_sampling s = {.temperature = 1, .top_p = 0.5};
    float z[4] = {1, 1, 1, 1};
    struct pq_candidate room[4];

    pq_sample_filter(&s, NULL, 0, z, 4, room);
    cr_assert(z[0] > 0 && z[1] > 0);
    cr_assert(z[2] == -INFINITY && z[3] == -INFINITY);
}

Test(sample, without_temperature_only_repetition_counts)
{
    const struct pq_sampling s = {.repetition = 2, .top_k = 1};
    const int32_t seen[] = {0, 1, 0};
    float z[3] = {4, -1, 3};
    struct pq_candidate room[3];

    pq_sample_filter(&s, seen, 3, z, 3, room);
    cr_assert(z[0] == 2 && z[1] == -2 && z[2] == 3);
}
