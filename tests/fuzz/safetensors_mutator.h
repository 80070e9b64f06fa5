/*
 * Mutates a safetensors file and keeps it whole: the length field says how
 * long the header is, and most of the time the data is as long as the header
 * wants it.  Without this nearly every mutant dies at the first check.
 */
#ifndef PQ_FUZZ_SAFETENSORS_MUTATOR_H
#define PQ_FUZZ_SAFETENSORS_MUTATOR_H

#include "fuzz.h"

/* The end that a "data_offsets":[x,y] at the start of p says, or 0. */
static inline size_t offsets_end(const char *p, const char *end)
{
    const char *comma = memchr(p, ',', (size_t)(end - p));
    size_t v = 0;

    if (!comma)
        return 0;
    for (p = comma + 1; p < end && *p == ' '; p++)
        continue;
    for (; p < end && *p >= '0' && *p <= '9' && v < FUZZ_INPUT; p++)
        v = v * 10 + (size_t)(*p - '0');
    return v;
}

/* How much data the header asks for: the largest end. */
static inline size_t wanted_data(const uint8_t *header, size_t n)
{
    static const char key[] = "\"data_offsets\"";
    const char *p = (const char *)header, *const end = p + n;
    size_t most = 0;

    while ((p = memmem(p, (size_t)(end - p), key, sizeof key - 1)) != NULL) {
        p += sizeof key - 1;
        const size_t v = offsets_end(p, end);
        most = v > most ? v : most;
    }
    return most;
}

/* A JSON text inside the data changes in place, padded with spaces. */
static inline void mutate_state(uint8_t *data, size_t n, uint32_t *s)
{
    uint8_t *const open = memchr(data, '{', n);
    uint8_t *close = open;

    for (size_t i = 0; open && open + i < data + n && i < 4096; i++)
        if (open[i] == '}' || open[i] == ' ')
            close = open + i + 1;
    if (!open || close - open < 8)
        return;
    const size_t room = (size_t)(close - open);
    size_t used = room;
    while (used > 0 && open[used - 1] == ' ')
        used--;
    used = fuzz_text(open, used, room, s);
    memset(open + used, ' ', room - used);
}

static inline size_t mutate_data(uint8_t *data, size_t n, size_t max,
                                 uint32_t *s)
{
    if (n > 0 && fuzz_random(s, 2)) {
        mutate_state(data, n, s);
        return n;
    }
    return max > 0 ? LLVMFuzzerMutate(data, n, max) : n;
}

/* Moves the data to where the changed header ends. */
static inline size_t mutate_header(uint8_t *p, size_t h, size_t n, size_t max,
                                   uint32_t *s)
{
    const size_t data = n - 8 - h;
    uint8_t *header = malloc(max), *rest = malloc(data + 1);

    if (!header || !rest)
        abort();
    memcpy(header, p + 8, h);
    memcpy(rest, p + 8 + h, data);
    h = fuzz_text(header, h, max - 8 - data, s);
    memcpy(p + 8, header, h);
    memcpy(p + 8 + h, rest, data);
    fuzz_put64(p, h);
    free(header);
    free(rest);
    return 8 + h + data;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;
    const uint64_t h = n >= 8 ? fuzz_get64(p) : UINT64_MAX;

    if (n < 8 || h > n - 8 || n > max || fuzz_random(&s, 10) == 0)
        return LLVMFuzzerMutate(p, n, max);
    if (fuzz_random(&s, 3) == 0)
        return 8 + (size_t)h +
               mutate_data(p + 8 + h, n - 8 - h, max - 8 - h, &s);
    n = mutate_header(p, (size_t)h, n, max, &s);
    const size_t front = 8 + (size_t)fuzz_get64(p);
    const size_t want = front + wanted_data(p + 8, front - 8);
    if (want > max || fuzz_random(&s, 5) == 0)
        return n;
    if (want > n)
        memset(p + n, 0, want - n);
    return want;
}

#endif
