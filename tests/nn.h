/*
 * Tiny random models for the tests of lib/nn: those of testdata/nn, whose
 * weights are made from the random numbers of lib/rng.c
 * (tests/oracle/make_nn.py has the rule).
 */
#ifndef TESTS_NN_H
#define TESTS_NN_H

#include <cjson/cJSON.h>

#include "pq_nn.h"

#define NN_MANY 512 /* tokens of a case, at most */

struct nn_case {
    const char *name;
    const cJSON *config, *tensors;
    int32_t ids[NN_MANY];
    size_t n;
    size_t rows[NN_MANY]; /* which rows of the logits are kept */
    size_t n_rows;
    float *logits; /* [n_rows][vocab] */
    size_t vocab;
    float max; /* of |logit| */
};

/* All cases; they live until the process ends. */
struct nn_case *nn_cases(size_t *n);
const struct nn_case *nn_case_named(const char *name);
/* A source with the model of a case; `config` NULL is its own. */
struct pq_source *nn_case_source(const struct nn_case *c, const char *config);
/* The same, opened; fails the test if that fails. */
struct pq_nn *nn_case_open(const struct nn_case *c, const struct pq_kernels *k,
                           size_t threads, size_t rows);
/* Logits of all tokens, [n][vocab]; the caller frees them. */
float *nn_case_logits(struct pq_nn *nn, const int32_t *ids, size_t n);

#endif
