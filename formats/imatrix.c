/*
 * Importance matrices; see pq_imatrix.h.  All numbers are little-endian.
 *
 * The old form (.dat), with 32-bit integers and floats:
 *
 *     entries
 *     an entry:  bytes of its name, name, calls, n, [n] calls * mean square
 *     calls, bytes of the dataset's name, name
 *
 * where calls are the chunks that its tokens fill, rounded up.  The new one
 * is GGUF 3 with the keys general.type, imatrix.datasets, imatrix.chunk_count
 * and imatrix.chunk_size and two tensors an entry, F32:
 *
 *     NAME.in_sum2 [n]   sums of squares
 *     NAME.counts  [1]   tokens
 *
 * Entries are in the order of their names, as strcmp() has it.
 * Source: llama.cpp, tools/imatrix; docs/gguf.md of ggml.
 */
#include "pq_imatrix.h"
#include "pq_names.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_ROOM 64
#define ALIGNMENT 32u

enum { GGUF_UINT32 = 4, GGUF_STRING = 8, GGUF_ARRAY = 9 };

struct named {
    char name[NAME_ROOM];
    const struct pq_imatrix_entry *x;
};

struct file {
    struct pq_buf *b;
    const struct pq_imatrix *m;
    struct named *list; /* [m->n], sorted */
    uint32_t chunks;    /* of the entry that has most of them */
};

/* ---- numbers ------------------------------------------------------------ */

static void put(struct pq_buf *b, uint64_t v, size_t bytes)
{
    unsigned char s[8];

    for (size_t i = 0; i < bytes; i++)
        s[i] = (unsigned char)(v >> 8 * i);
    pq_buf_add(b, s, bytes);
}

static void put_float(struct pq_buf *b, double v)
{
    const float f = (float)v;
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    put(b, bits, 4);
}

/* Its length has 4 bytes in the old form, 8 in the new one. */
static void put_string(struct pq_buf *b, const char *s, size_t length_bytes)
{
    put(b, strlen(s), length_bytes);
    pq_buf_puts(b, s);
}

static uint32_t chunks_of(const struct file *f, uint64_t tokens)
{
    return (uint32_t)(tokens / f->m->chunk + (tokens % f->m->chunk != 0));
}

/* ---- entries ------------------------------------------------------------ */

static int check_entry(const struct file *f, const struct pq_imatrix_entry *x,
                       struct pq_error *e)
{
    if (x->n > INT32_MAX || x->tokens / f->m->chunk >= INT32_MAX)
        return pq_fail(e, PQ_ELIMIT,
                       "tensor %s: too much for an importance matrix",
                       x->weight);
    for (size_t i = 0; i < x->n; i++)
        if (!isfinite((float)(x->squares[i] * (double)x->tokens)))
            return pq_fail(e, PQ_EVALUE,
                           "tensor %s: the square of its input %zu is not "
                           "finite",
                           x->weight, i);
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct named *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int name_all(struct file *f, struct pq_error *e)
{
    const struct pq_imatrix *m = f->m;

    f->list = pq_alloc(m->n, sizeof *f->list);
    if (!f->list)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < m->n; i++) {
        struct named *x = &f->list[i];
        x->x = &m->entries[i];
        if (!pq_name_gguf(x->x->weight, x->name, sizeof x->name))
            return pq_fail(e, PQ_EARG, "tensor %s: GGUF has no name for it",
                           x->x->weight);
        if (check_entry(f, x->x, e))
            return -1;
        const uint32_t chunks = chunks_of(f, x->x->tokens);
        f->chunks = chunks > f->chunks ? chunks : f->chunks;
    }
    qsort(f->list, m->n, sizeof *f->list, compare);
    return 0;
}

/* ---- the old form ------------------------------------------------------- */

static void put_dat(const struct file *f)
{
    struct pq_buf *b = f->b;

    put(b, f->m->n, 4);
    for (size_t i = 0; i < f->m->n; i++) {
        const struct pq_imatrix_entry *x = f->list[i].x;
        const uint32_t calls = chunks_of(f, x->tokens);
        put_string(b, f->list[i].name, 4);
        put(b, calls, 4);
        put(b, x->n, 4);
        for (size_t k = 0; k < x->n; k++)
            put_float(b, x->squares[k] * calls);
    }
    put(b, f->chunks, 4);
    put_string(b, f->m->dataset, 4);
}

/* ---- GGUF --------------------------------------------------------------- */

static void put_key(struct pq_buf *b, const char *key, uint32_t type)
{
    put_string(b, key, 8);
    put(b, type, 4);
}

static void put_keys(const struct file *f)
{
    struct pq_buf *b = f->b;

    put_key(b, "general.type", GGUF_STRING);
    put_string(b, "imatrix", 8);
    put_key(b, "imatrix.datasets", GGUF_ARRAY);
    put(b, GGUF_STRING, 4);
    put(b, 1, 8);
    put_string(b, f->m->dataset, 8);
    put_key(b, "imatrix.chunk_count", GGUF_UINT32);
    put(b, f->chunks, 4);
    put_key(b, "imatrix.chunk_size", GGUF_UINT32);
    put(b, f->m->chunk, 4);
}

/* A tensor of n floats at *offset, which moves behind it. */
static void put_tensor(struct pq_buf *b, const char *name, const char *what,
                       uint64_t n, uint64_t *offset)
{
    char s[NAME_ROOM + 16];

    snprintf(s, sizeof s, "%s.%s", name, what);
    put_string(b, s, 8);
    put(b, 1, 4); /* dimensions */
    put(b, n, 8);
    put(b, 0, 4); /* F32 */
    put(b, *offset, 8);
    *offset += (n * 4 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Zeros up to the next multiple of the alignment, counted from `start`. */
static void align(struct pq_buf *b, size_t start)
{
    static const char zeros[ALIGNMENT];
    const size_t over = (b->n - start) % ALIGNMENT;

    pq_buf_add(b, zeros, over ? ALIGNMENT - over : 0);
}

static void put_gguf(const struct file *f)
{
    struct pq_buf *b = f->b;
    const size_t start = b->n;
    uint64_t offset = 0;

    pq_buf_puts(b, "GGUF");
    put(b, 3, 4);
    put(b, 2 * f->m->n, 8);
    put(b, 4, 8); /* keys */
    put_keys(f);
    for (size_t i = 0; i < f->m->n; i++) {
        put_tensor(b, f->list[i].name, "in_sum2", f->list[i].x->n, &offset);
        put_tensor(b, f->list[i].name, "counts", 1, &offset);
    }
    for (size_t i = 0; i < f->m->n; i++) {
        const struct pq_imatrix_entry *x = f->list[i].x;
        align(b, start);
        for (size_t k = 0; k < x->n; k++)
            put_float(b, x->squares[k] * (double)x->tokens);
        align(b, start);
        put_float(b, (double)x->tokens);
    }
    align(b, start);
}

int pq_imatrix_put(struct pq_buf *b, enum pq_imatrix_form form,
                   const struct pq_imatrix *m, struct pq_error *e)
{
    struct file f = {.b = b, .m = m};

    if (m->n == 0 || m->n > INT32_MAX || m->chunk == 0 ||
        strlen(m->dataset) > INT32_MAX)
        return pq_fail(e, PQ_EARG,
                       "an importance matrix of %zu weights, in chunks of %lu "
                       "tokens",
                       m->n, (unsigned long)m->chunk);
    int rc = name_all(&f, e);
    if (!rc && form == PQ_IMATRIX_DAT)
        put_dat(&f);
    else if (!rc)
        put_gguf(&f);
    free(f.list);
    return rc || !b->failed ? rc : pq_fail_nomem(e);
}
