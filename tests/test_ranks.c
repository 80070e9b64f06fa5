/*
 * Ranks as pq-extract of two models asks for them; the rest of pq_ranks.h is
 * in tests/test_adapters.c.
 */
#include "pq_ranks.h"

#include "pq_source.h"

#include <criterion/criterion.h>
#include <math.h>

/* diag(s) of a 3 x 4 matrix, of which `rank` values were found. */
static struct pq_lowrank diagonal(const double *s, size_t rank)
{
    static const float u[3][9] = {{1, 0, 0},
                                  {1, 0, 0, 1, 0, 0},
                                  {1, 0, 0, 0, 1, 0, 0, 0, 1}};
    static const float vt[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};

    return (struct pq_lowrank){.rows = 3, .cols = 4, .rank = rank,
                               .u = u[rank - 1], .s = s, .vt = vt,
                               .norm_sq = s[0] * s[0] + s[1] * s[1] +
                                          s[2] * s[2]};
}

Test(ranks, a_wider_search_takes_the_place_of_the_first)
{
    static const double s[3] = {4, 2, 1};
    const struct pq_rank_rule rule = {.energy = 0.9};
    struct pq_lowrank r = diagonal(s, 1);
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ranking f = {0};
    float a[8];

    cr_assert_eq(pq_ranking_init(&f, 2, 1 << 20, NULL, &e), 0);
    cr_assert_eq(pq_ranking_keep(&f, "m", &r, 0, &e), 0);
    struct pq_ranked *m = &f.factors[0];
    m->first_bytes = 77;
    cr_assert(!pq_ranked_enough(m, m->kept, &rule)); /* 16 of 21 */
    r = diagonal(s, 3);
    cr_assert_eq(pq_ranking_again(&f, m, &r, 2, &e), 0, "%s", e.msg);
    cr_assert_eq(f.n, 1);
    cr_assert_eq(m->n, 3);
    cr_assert_eq(m->kept, 2);
    cr_assert_eq(m->first_bytes, 77);
    cr_assert_str_eq(m->name, "m");
    cr_assert(pq_ranked_enough(m, m->kept, &rule)); /* 20 of 21 */
    cr_assert_eq(pq_source_read(f.made, m->a->parts, 0, a, sizeof a, &e), 0);
    cr_assert_float_eq(a[0], 2, 1e-6);
    cr_assert_float_eq(a[5], sqrtf(2), 1e-6);
    pq_ranking_release(&f);
}

Test(ranks, a_matrix_may_be_left_out_for_the_bytes)
{
    static const double s[3][3] = {{4, 2, 0}, {3, 1, 0}, {0.5, 0.25, 0}};
    struct pq_rank_rule rule = {.element_bits = 32, .may_drop = true};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ranking f = {0};

    cr_assert_eq(pq_ranking_init(&f, 3, 1 << 20, NULL, &e), 0);
    for (size_t i = 0; i < 3; i++) {
        const struct pq_lowrank r = diagonal(s[i], 3);
        cr_assert_eq(pq_ranking_keep(&f, "m", &r, 0, &e), 0);
        f.factors[i].first_bytes = 10;
    }
    /* a rank takes 28 bytes, the first 38 */
    static const struct {
        uint64_t bytes;
        size_t rank[3];
    } cases[] = {{37, {0, 0, 0}}, {38, {1, 0, 0}}, {75, {2, 0, 0}},
                 {76, {1, 1, 0}}, {104, {2, 1, 0}}, {169, {2, 2, 0}},
                 {170, {2, 2, 1}}, {10000, {2, 2, 2}}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        rule.bytes = cases[k].bytes;
        cr_assert_eq(pq_ranking_choose(&f, &rule, &e), 0, "%s", e.msg);
        for (size_t i = 0; i < 3; i++)
            cr_assert_eq(f.factors[i].rank, cases[k].rank[i],
                         "%llu bytes, matrix %zu: rank %zu",
                         (unsigned long long)cases[k].bytes, i,
                         f.factors[i].rank);
    }
    f.factors[0].noise = 3;
    f.factors[2].noise = 0.5; /* all that it has */
    cr_assert_eq(pq_ranking_choose(&f, &rule, &e), 0, "%s", e.msg);
    cr_assert_eq(f.factors[0].rank, 1);
    cr_assert_eq(f.factors[1].rank, 2);
    cr_assert_eq(f.factors[2].rank, 0);
    pq_ranking_release(&f);
}

Test(ranks, an_error_of_the_last_bits_is_none)
{
    static const double s[3] = {4, 2, 2e-15};
    const struct pq_lowrank r = diagonal(s, 3);
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ranking f = {0};

    cr_assert_eq(pq_ranking_init(&f, 1, 1 << 20, NULL, &e), 0);
    cr_assert_eq(pq_ranking_keep(&f, "m", &r, 2, &e), 0);
    cr_assert_eq(pq_ranked_error(&f.factors[0]), 0);
    f.factors[0].rank = 1;
    cr_assert_float_eq(pq_ranked_error(&f.factors[0]), sqrt(4.0 / 20), 1e-9);
    pq_ranking_release(&f);
}
