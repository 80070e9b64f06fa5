/*
 * What the tests of blending share: one tensor, blended in memory.
 */
#ifndef TESTS_BLEND_H
#define TESTS_BLEND_H

#include "pq_blend.h"

struct trial {
    struct pq_quant quant;
    unsigned threads;
    struct pq_spec spec;
};

static const struct trial plain = {
    .threads = 1, .spec = {.encoding = PQ_PLAIN, .dtype = PQ_F32}};

/* The output as floats, for free(); or NULL and *e. */
float *trial_blend(const struct trial *t, const struct pq_blend *b,
                   const char *name, struct pq_error *e);
/* A method with its defaults, for b and all b->n models. */
void trial_method(struct pq_blend *b, const char *name);

#endif
