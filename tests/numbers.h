/*
 * What the kernel tests share: a fixed random sequence, floats and their
 * bits, the variants to test.
 */
#ifndef TESTS_NUMBERS_H
#define TESTS_NUMBERS_H

#include "pq_kernels.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint64_t rng = 88172645463325252u;

static inline uint64_t next(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static inline uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

/* The variants to test; [1] is NULL on a machine without AVX2. */
static inline const struct pq_kernels *variant(int i)
{
    return pq_kernels_named(i == 0 ? "scalar" : "avx2");
}

#define FOR_EACH_VARIANT(k)                                                    \
    for (int v_ = 0; v_ < 2; v_++)                                             \
        for (const struct pq_kernels *k = variant(v_); k; k = NULL)

#endif
