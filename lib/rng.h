/*
 * Random numbers that depend on nothing but where they are used.
 *
 * Number i of tensor T under a seed is a function of (seed, T, i) alone, so
 * that results do not depend on threads or the order of work.  The function
 * is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2,
 * 3", SC11): the key is the seed, the counter (i, XXH3-64 of the name).
 */
#ifndef PQ_RNG_H
#define PQ_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Multipliers, and what is added to the key, of a round. */
#define PQ_PHILOX_M0 0xD2511F53u
#define PQ_PHILOX_M1 0xCD9E8D57u
#define PQ_PHILOX_W0 0x9E3779B9u
#define PQ_PHILOX_W1 0xBB67AE85u

struct pq_rng {
    uint32_t key[2];    /* the seed, low word first */
    uint32_t stream[2]; /* the hash of the name, low word first */
};

/* The bare block function. */
void pq_philox4x32(const uint32_t counter[4], const uint32_t key[2],
                   uint32_t out[4]);

void pq_rng_init(struct pq_rng *r, uint64_t seed, const char *name);
/* Block `index` of the stream: four independent 32-bit numbers. */
void pq_rng_at(const struct pq_rng *r, uint64_t index, uint32_t out[4]);

/* A 32-bit number as a float in [0, 1), a multiple of 2^-24. */
static inline float pq_rng_unit(uint32_t x)
{
    return (float)(x >> 8) * (1.0f / 16777216.0f);
}

/* Numbers [first, first + n) of the stream, in [0, 1); 4 make up a block. */
void pq_rng_uniform(const struct pq_rng *r, uint64_t first, float *out,
                    uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
