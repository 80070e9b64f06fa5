/*
 * Checksums: a thin layer over XXH3 of libxxhash.
 *
 * XXH3 keeps the same state for both widths: they differ in the last step.
 */
#include "pq_hash.h"

#include <xxhash.h>

/* struct pq_hash is an XXH3_state_t, which only this file knows. */
static XXH3_state_t *state(struct pq_hash *h)
{
    return (XXH3_state_t *)(void *)h;
}

static const XXH3_state_t *const_state(const struct pq_hash *h)
{
    return (const XXH3_state_t *)(const void *)h;
}

static struct pq_hash128 from_xxh(XXH128_hash_t v)
{
    return (struct pq_hash128){v.high64, v.low64};
}

uint64_t pq_hash64_of(const void *p, size_t n)
{
    return XXH3_64bits(p, n);
}

struct pq_hash128 pq_hash128_of(const void *p, size_t n)
{
    return from_xxh(XXH3_128bits(p, n));
}

struct pq_hash *pq_hash_new(struct pq_error *e)
{
    struct pq_hash *const h = (struct pq_hash *)(void *)XXH3_createState();
    if (h == NULL)
        pq_fail_nomem(e);
    else
        pq_hash_clear(h);
    return h;
}

void pq_hash_clear(struct pq_hash *h)
{
    XXH3_128bits_reset(state(h));
}

void pq_hash_add(struct pq_hash *h, const void *p, size_t n)
{
    XXH3_128bits_update(state(h), p, n);
}

uint64_t pq_hash64(const struct pq_hash *h)
{
    return XXH3_64bits_digest(const_state(h));
}

struct pq_hash128 pq_hash128(const struct pq_hash *h)
{
    return from_xxh(XXH3_128bits_digest(const_state(h)));
}

void pq_hash_free(struct pq_hash *h)
{
    if (h != NULL)
        XXH3_freeState(state(h));
}

static void hex(uint64_t v, char *s)
{
    for (int i = 0; i < 16; i++)
        s[i] = "0123456789abcdef"[v >> (60 - 4 * i) & 15];
}

void pq_hash64_hex(uint64_t v, char s[17])
{
    hex(v, s);
    s[16] = '\0';
}

void pq_hash128_hex(struct pq_hash128 v, char s[33])
{
    hex(v.high, s);
    hex(v.low, s + 16);
    s[32] = '\0';
}

void pq_hash128_chain(struct pq_hash128 *d, const struct pq_hash128 *piece)
{
    char text[2][33];

    pq_hash128_hex(*d, text[0]);
    pq_hash128_hex(*piece, text[1]);
    *d = pq_hash128_of(text, sizeof text);
}
