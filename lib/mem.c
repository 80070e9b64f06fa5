/*
 * Memory: checked sizes, arrays, arenas and growing byte strings.
 *
 * An arena is a list of blocks that double in size up to 256 KiB.  What is
 * large beside a block gets one of its own, behind the one being filled.
 */
#include "pq_mem.h"

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, BLOCK_MIN = 4096, BLOCK_MAX = 256 << 10 };

struct pq_arena_block {
    alignas(ALIGN) struct pq_arena_block *next;
    size_t bytes; /* of data */
    alignas(ALIGN) unsigned char data[];
};

bool pq_mul(uint64_t a, uint64_t b, uint64_t *r)
{
    return !__builtin_mul_overflow(a, b, r);
}

bool pq_add(uint64_t a, uint64_t b, uint64_t *r)
{
    return !__builtin_add_overflow(a, b, r);
}

bool pq_round_up(uint64_t x, uint64_t to, uint64_t *r)
{
    const uint64_t over = x % to;
    return pq_add(x, over ? to - over : 0, r);
}

/* The bytes of an array, at least 1; SIZE_MAX, which no malloc grants. */
static size_t array_bytes(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return SIZE_MAX;
    return bytes ? bytes : 1;
}

void *pq_alloc(size_t n, size_t size)
{
    const size_t bytes = array_bytes(n, size);
    return bytes > PTRDIFF_MAX ? NULL : malloc(bytes);
}

void *pq_zalloc(size_t n, size_t size)
{
    const size_t bytes = array_bytes(n, size);
    return bytes > PTRDIFF_MAX ? NULL : calloc(1, bytes);
}

void *pq_resize(void *p, size_t n, size_t size)
{
    const size_t bytes = array_bytes(n, size);
    return bytes > PTRDIFF_MAX ? NULL : realloc(p, bytes);
}

char *pq_strndup(const char *s, size_t n)
{
    char *const p = n < PTRDIFF_MAX ? pq_alloc(n + 1, 1) : NULL;
    if (p == NULL)
        return NULL;
    if (n > 0)
        memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

bool pq_ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), k = strlen(suffix);

    return n >= k && memcmp(s + n - k, suffix, k) == 0;
}

void *pq_grow(void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    const size_t more = *cap < 8              ? 8
                        : *cap > SIZE_MAX / 2 ? SIZE_MAX
                                              : *cap * 2;
    void *const q = pq_resize(p, more, size);
    if (q != NULL)
        *cap = more;
    return q;
}

static struct pq_arena_block *new_block(size_t bytes)
{
    if (bytes > PTRDIFF_MAX - sizeof(struct pq_arena_block))
        return NULL;
    struct pq_arena_block *const b = calloc(1, sizeof *b + bytes);
    if (b != NULL)
        b->bytes = bytes;
    return b;
}

/* A block of its own for something large: the current one stays in use. */
static void *arena_large(struct pq_arena *a, size_t bytes)
{
    struct pq_arena_block *const b = new_block(bytes);
    if (b == NULL)
        return NULL;
    if (a->block == NULL) {
        a->block = b;
        a->used = bytes;
    } else {
        b->next = a->block->next;
        a->block->next = b;
    }
    return b->data;
}

static void *arena_take(struct pq_arena *a, size_t bytes, size_t align)
{
    const size_t at = (a->used + align - 1) / align * align;
    if (a->block != NULL && at <= a->block->bytes &&
        bytes <= a->block->bytes - at) {
        a->used = at + bytes;
        return a->block->data + at;
    }
    size_t room = a->block ? a->block->bytes * 2 : BLOCK_MIN;
    if (room > BLOCK_MAX)
        room = BLOCK_MAX;
    if (bytes > room / 4)
        return arena_large(a, bytes);
    struct pq_arena_block *const b = new_block(room);
    if (b == NULL)
        return NULL;
    b->next = a->block;
    a->block = b;
    a->used = bytes;
    return b->data;
}

void *pq_arena_alloc(struct pq_arena *a, size_t n, size_t size)
{
    return arena_take(a, array_bytes(n, size), ALIGN);
}

char *pq_arena_strndup(struct pq_arena *a, const char *s, size_t n)
{
    char *const p = n < PTRDIFF_MAX ? arena_take(a, n + 1, 1) : NULL;
    if (p != NULL && n > 0)
        memcpy(p, s, n);
    return p;
}

char *pq_arena_printf(struct pq_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    char *const p = n < 0 ? NULL : arena_take(a, (size_t)n + 1, 1);
    if (p != NULL)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}

void pq_arena_release(struct pq_arena *a)
{
    while (a->block != NULL) {
        struct pq_arena_block *const next = a->block->next;
        free(a->block);
        a->block = next;
    }
    a->used = 0;
}

/* Makes room for n more bytes and a NUL. */
static bool buf_room(struct pq_buf *b, size_t n)
{
    if (b->failed)
        return false;
    if (n < b->cap && b->n < b->cap - n)
        return true;
    uint64_t want;
    if (!pq_add(b->n, n, &want) || want > PTRDIFF_MAX - 64) {
        b->failed = true;
        return false;
    }
    const size_t cap = (size_t)want + (size_t)want / 2 + 64;
    char *const s = pq_resize(b->s, cap, 1);
    if (s == NULL) {
        b->failed = true;
        return false;
    }
    b->s = s;
    b->cap = cap;
    return true;
}

void pq_buf_add(struct pq_buf *b, const void *s, size_t n)
{
    if (!buf_room(b, n))
        return;
    if (n > 0)
        memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = '\0';
}

void pq_buf_puts(struct pq_buf *b, const char *s)
{
    pq_buf_add(b, s, strlen(s));
}

void pq_buf_printf(struct pq_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0)
        b->failed = true;
    else if (buf_room(b, (size_t)n)) {
        vsnprintf(b->s + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void pq_buf_release(struct pq_buf *b)
{
    free(b->s);
    *b = (struct pq_buf){0};
}
