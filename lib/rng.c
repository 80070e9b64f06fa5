/*
 * Random numbers: Philox4x32-10, keyed by seed and tensor name.
 *
 * One round multiplies two of the four words by constants and mixes the high
 * halves with the other two and the key; the key moves on by Weyl constants.
 */
#include "rng.h"

#include <string.h>
#include <xxhash.h>

void pq_philox4x32(const uint32_t counter[4], const uint32_t key[2],
                   uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3],
             k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)PQ_PHILOX_M0 * c0;
        const uint64_t b = (uint64_t)PQ_PHILOX_M1 * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += PQ_PHILOX_W0;
        k1 += PQ_PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void pq_rng_init(struct pq_rng *r, uint64_t seed, const char *name)
{
    const uint64_t stream = XXH3_64bits(name, strlen(name));
    r->key[0] = (uint32_t)seed;
    r->key[1] = (uint32_t)(seed >> 32);
    r->stream[0] = (uint32_t)stream;
    r->stream[1] = (uint32_t)(stream >> 32);
}

void pq_rng_at(const struct pq_rng *r, uint64_t index, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32),
                                 r->stream[0], r->stream[1]};
    pq_philox4x32(counter, r->key, out);
}

void pq_rng_uniform(const struct pq_rng *r, uint64_t first, float *out,
                    uint64_t n)
{
    uint32_t block[4] = {0};
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = first + i;
        if (i == 0 || at % 4 == 0)
            pq_rng_at(r, at / 4, block);
        out[i] = pq_rng_unit(block[at % 4]);
    }
}
