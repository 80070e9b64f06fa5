/*
 * Checksums: XXH3 in its 64-bit and 128-bit forms, of bytes at hand or of
 * bytes that pass by.  Not cryptographic.
 */
#ifndef PQ_HASH_H
#define PQ_HASH_H

#include "pq_error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_hash128 {
    uint64_t high, low;
};

uint64_t pq_hash64_of(const void *p, size_t n);
struct pq_hash128 pq_hash128_of(const void *p, size_t n);

/*
 * Adds a piece to the digest of a part, which begins as zeros and is made of
 * its 1 MiB pieces: d = H(hex of d, hex of H(piece)), with the NUL of each.
 * It can be taken in parallel and still be combined in order.
 */
void pq_hash128_chain(struct pq_hash128 *d, const struct pq_hash128 *piece);

/* The hash of a stream; both widths can be asked for at any time. */
struct pq_hash;

/* A hash of no bytes yet; NULL when memory is short. */
PQ_MUST_USE struct pq_hash *pq_hash_new(struct pq_error *e);
/* Back to no bytes. */
void pq_hash_clear(struct pq_hash *h);
void pq_hash_add(struct pq_hash *h, const void *p, size_t n);
uint64_t pq_hash64(const struct pq_hash *h);
struct pq_hash128 pq_hash128(const struct pq_hash *h);
void pq_hash_free(struct pq_hash *h);

/* Hexadecimal, high digits first, as xxhsum prints them. */
void pq_hash64_hex(uint64_t v, char s[17]);
void pq_hash128_hex(struct pq_hash128 v, char s[33]);

#ifdef __cplusplus
}
#endif
#endif
