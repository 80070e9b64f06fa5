/*
 * Memory and sizes that cannot wrap.
 *
 * Counts from files are multiplied and added only through pq_mul and pq_add,
 * which return false instead of wrapping.  Allocation takes (count, size) and
 * returns NULL when the product does not fit; nothing here aborts.
 */
#ifndef PQ_MEM_H
#define PQ_MEM_H

#include "pq_error.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* *r = a op b; false (and *r unspecified) when it does not fit in 64 bits. */
PQ_MUST_USE bool pq_mul(uint64_t a, uint64_t b, uint64_t *r);
PQ_MUST_USE bool pq_add(uint64_t a, uint64_t b, uint64_t *r);

/* x rounded up to a multiple of `to` (> 0), false when it does not fit. */
PQ_MUST_USE bool pq_round_up(uint64_t x, uint64_t to, uint64_t *r);

/* Uninitialised, zeroed and resized arrays; release with free(). n = 0 is 1. */
PQ_MUST_USE void *pq_alloc(size_t n, size_t size);
PQ_MUST_USE void *pq_zalloc(size_t n, size_t size);
PQ_MUST_USE void *pq_resize(void *p, size_t n, size_t size);
PQ_MUST_USE char *pq_strndup(const char *s, size_t n);

PQ_MUST_USE bool pq_ends_with(const char *s, const char *suffix);

/*
 * Makes room for one more element in a growing array: `p` holds `n` elements
 * and has room for *cap.  Returns the (possibly moved) array, or NULL with
 * the old one untouched.
 */
PQ_MUST_USE void *pq_grow(void *p, size_t n, size_t *cap, size_t size);

/*
 * An arena: many small objects that live and die together (a catalogue's
 * names and shapes).  Zero-initialise; nothing is freed singly.
 */
struct pq_arena {
    struct pq_arena_block *block;
    size_t used;
};

/* Zeroed and aligned to 16, or NULL. */
PQ_MUST_USE void *pq_arena_alloc(struct pq_arena *a, size_t n, size_t size);
/* A copy of s[0..n) with a NUL behind it, or NULL. */
PQ_MUST_USE char *pq_arena_strndup(struct pq_arena *a, const char *s, size_t n);
/* printf into the arena, or NULL. */
PQ_MUST_USE char *pq_arena_printf(struct pq_arena *a, const char *fmt, ...)
    PQ_PRINTF(2, 3);
void pq_arena_release(struct pq_arena *a);

/*
 * A growing byte string.  Zero-initialise.  `failed` is sticky: append
 * freely, look at it once at the end.
 */
struct pq_buf {
    char *s; /* NUL-terminated once anything was appended */
    size_t n, cap;
    bool failed;
};

void pq_buf_add(struct pq_buf *b, const void *s, size_t n);
void pq_buf_puts(struct pq_buf *b, const char *s);
void pq_buf_printf(struct pq_buf *b, const char *fmt, ...) PQ_PRINTF(2, 3);
void pq_buf_release(struct pq_buf *b);

#ifdef __cplusplus
}
#endif
#endif
