/*
 * Whole models: logits of every family against transformers
 * (testdata/nn, tests/oracle/make_nn.py), and what must not change them.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn.h"
#include "pq_quant.h"

/* The largest error of the kept rows, as a share of max |logit|. */
static float error_of(const struct nn_case *c, const float *z)
{
    float worst = 0;

    for (size_t r = 0; r < c->n_rows; r++)
        for (size_t v = 0; v < c->vocab; v++) {
            const float d = fabsf(z[c->rows[r] * c->vocab + v] -
                                  c->logits[r * c->vocab + v]);
            worst = d > worst || d != d ? d : worst;
        }
    return worst / c->max;
}

static void check_case(const struct nn_case *c, const struct pq_kernels *k)
{
    struct pq_nn *nn = nn_case_open(c, k, 2, 0);
    float *z = nn_case_logits(nn, c->ids, c->n);
    const float error = error_of(c, z);

    cr_log_info("%s: %.2g", c->name, error);
    cr_assert(error <= 1e-5f, "%s: logits are off by %g of the largest",
              c->name, error);
    free(z);
    pq_nn_free(nn);
}

Test(nn_models, logits_are_those_of_transformers)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    cr_assert_geq(n, 20);
    for (size_t i = 0; i < n; i++)
        check_case(&c[i], pq_kernels_best());
}

Test(nn_models, portable_kernels_give_the_same_bits)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    for (size_t i = 0; i < n; i++) {
        const size_t tokens = c[i].n < 24 ? c[i].n : 24;
        struct pq_nn *a = nn_case_open(&c[i], pq_kernels_best(), 3, 0);
        struct pq_nn *b = nn_case_open(&c[i], pq_kernels_scalar(), 1, 0);
        float *x = nn_case_logits(a, c[i].ids, tokens);
        float *y = nn_case_logits(b, c[i].ids, tokens);
        cr_assert(memcmp(x, y, tokens * c[i].vocab * sizeof *x) == 0, "%s",
                  c[i].name);
        free(x);
        free(y);
        pq_nn_free(a);
        pq_nn_free(b);
    }
}
