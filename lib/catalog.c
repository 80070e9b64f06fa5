/*
 * Catalogues: what a model has, shapes and their sizes, tables of names.
 *
 * The table of names uses open addressing with linear probing at a load of
 * at most 2/3, hashed by XXH3-64.
 */
#include "pq_tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void pq_catalog_init(struct pq_catalog *c)
{
    *c = (struct pq_catalog){0};
}

void pq_catalog_release(struct pq_catalog *c)
{
    free(c->tensors);
    free(c->metadata);
    free(c->blobs);
    free((void *)c->prov);
    free(c->extra);
    pq_names_release(&c->metadata_keys);
    pq_arena_release(&c->arena);
    *c = (struct pq_catalog){0};
}

int pq_catalog_reserve(struct pq_catalog *c, size_t n, struct pq_error *e)
{
    struct pq_tensor *const all =
        pq_resize(c->tensors, c->n_tensors + n, sizeof *all);

    if (all == NULL)
        return pq_fail_nomem(e);
    c->tensors = all;
    c->cap_tensors = c->n_tensors + n;
    return 0;
}

struct pq_tensor *pq_catalog_add(struct pq_catalog *c, const char *name,
                                 size_t n_parts, struct pq_error *e)
{
    struct pq_tensor *const all =
        pq_grow(c->tensors, c->n_tensors, &c->cap_tensors, sizeof *all);
    if (all != NULL)
        c->tensors = all;
    char *const copy = pq_arena_strndup(&c->arena, name, strlen(name));
    struct pq_part *const parts =
        pq_arena_alloc(&c->arena, n_parts, sizeof *parts);
    if (all == NULL || copy == NULL || parts == NULL) {
        pq_fail_nomem(e);
        return NULL;
    }
    struct pq_tensor *const t = &all[c->n_tensors++];
    *t = (struct pq_tensor){.name = copy, .parts = parts, .n_parts = n_parts};
    return t;
}

const uint64_t *pq_catalog_shape(struct pq_catalog *c, const uint64_t *shape,
                                 int rank)
{
    uint64_t *const copy =
        pq_arena_alloc(&c->arena, (size_t)rank, sizeof *copy);
    if (copy != NULL && rank > 0)
        memcpy(copy, shape, (size_t)rank * sizeof *copy);
    return copy;
}

struct pq_tensor *pq_catalog_add_plain(struct pq_catalog *c, const char *name,
                                       enum pq_dtype dtype,
                                       const uint64_t *shape, int rank,
                                       uint64_t offset, struct pq_error *e)
{
    uint64_t n, bytes;

    if (pq_shape_elements(shape, rank, &n, e) ||
        pq_shape_bytes(shape, rank, dtype, &bytes, e))
        return NULL;
    struct pq_tensor *const t = pq_catalog_add(c, name, 1, e);
    const uint64_t *const dims = t ? pq_catalog_shape(c, shape, rank) : NULL;
    if (dims == NULL) {
        c->n_tensors -= t != NULL;
        pq_fail_nomem(e);
        return NULL;
    }
    t->dtype = dtype;
    t->rank = rank;
    t->shape = dims;
    t->n_elements = n;
    t->parts[0] = (struct pq_part){.name = t->name,
                                   .dtype = dtype,
                                   .rank = rank,
                                   .shape = dims,
                                   .bytes = bytes,
                                   .offset = offset};
    return t;
}

/* Brings the table of metadata keys up to date. */
static int index_metadata(struct pq_catalog *c, struct pq_error *e)
{
    struct pq_names *const t = &c->metadata_keys;
    if (t->n > c->n_metadata)
        pq_names_release(t);
    for (size_t i = t->n; i < c->n_metadata; i++)
        if (pq_names_add(t, c->metadata[i].key, i, NULL, e) < 0)
            return -1;
    return 0;
}

/*
 * The pair with a key, or NULL in *m.  The table is there because a header
 * of a million keys must not take quadratic time.  Who takes a pair out of
 * the array does not tell it: a wrong answer shows, and it is made anew.
 */
static int find_metadata(struct pq_catalog *c, const char *key,
                         struct pq_pair **m, struct pq_error *e)
{
    *m = NULL;
    while (index_metadata(c, e) == 0) {
        const size_t i = pq_names_find(&c->metadata_keys, key);
        if (i == SIZE_MAX)
            return 0;
        if (i < c->n_metadata && strcmp(c->metadata[i].key, key) == 0) {
            *m = &c->metadata[i];
            return 0;
        }
        pq_names_release(&c->metadata_keys);
    }
    return -1;
}

int pq_catalog_set(struct pq_catalog *c, const char *key, const char *value,
                   struct pq_error *e)
{
    struct pq_pair *old;
    if (find_metadata(c, key, &old, e) != 0)
        return -1;
    char *const copy = pq_arena_strndup(&c->arena, value, strlen(value));
    if (copy == NULL)
        return pq_fail_nomem(e);
    if (old != NULL) {
        old->value = copy;
        return 0;
    }
    struct pq_pair *const all =
        pq_grow(c->metadata, c->n_metadata, &c->cap_metadata, sizeof *all);
    if (all == NULL)
        return pq_fail_nomem(e);
    c->metadata = all;
    char *const name = pq_arena_strndup(&c->arena, key, strlen(key));
    if (name == NULL)
        return pq_fail_nomem(e);
    all[c->n_metadata++] = (struct pq_pair){name, copy};
    return 0;
}

int pq_catalog_add_blob(struct pq_catalog *c, const char *name,
                        const void *data, size_t bytes, struct pq_error *e)
{
    struct pq_blob *const all =
        pq_grow(c->blobs, c->n_blobs, &c->cap_blobs, sizeof *all);
    if (all == NULL)
        return pq_fail_nomem(e);
    c->blobs = all;
    char *const key = pq_arena_strndup(&c->arena, name, strlen(name));
    char *const copy = pq_arena_strndup(&c->arena, data, bytes);
    if (key == NULL || copy == NULL)
        return pq_fail_nomem(e);
    all[c->n_blobs++] = (struct pq_blob){key, copy, bytes};
    return 0;
}

int pq_catalog_add_prov(struct pq_catalog *c, const char *line,
                        struct pq_error *e)
{
    /* The array goes through void *, as const char ** is no const void *. */
    void *const all =
        pq_grow((void *)c->prov, c->n_prov, &c->cap_prov, sizeof *c->prov);
    if (all == NULL)
        return pq_fail_nomem(e);
    c->prov = all;
    char *const copy = pq_arena_strndup(&c->arena, line, strlen(line));
    if (copy == NULL)
        return pq_fail_nomem(e);
    c->prov[c->n_prov++] = copy;
    return 0;
}

int pq_catalog_add_extra(struct pq_catalog *c, const struct pq_extra *x,
                         struct pq_error *e)
{
    struct pq_extra *const all =
        pq_grow(c->extra, c->n_extra, &c->cap_extra, sizeof *all);
    if (all == NULL)
        return pq_fail_nomem(e);
    c->extra = all;
    all[c->n_extra] = *x;
    all[c->n_extra].head =
        pq_arena_strndup(&c->arena, x->head, (size_t)x->head_bytes);
    all[c->n_extra].body =
        pq_arena_strndup(&c->arena, x->body, (size_t)x->body_bytes);
    if (all[c->n_extra].head == NULL || all[c->n_extra].body == NULL)
        return pq_fail_nomem(e);
    c->n_extra++;
    return 0;
}

const char *pq_catalog_get(const struct pq_catalog *c, const char *key)
{
    for (size_t i = 0; i < c->n_metadata; i++)
        if (strcmp(c->metadata[i].key, key) == 0)
            return c->metadata[i].value;
    return NULL;
}

struct pq_blob *pq_catalog_blob(const struct pq_catalog *c, const char *name)
{
    for (size_t i = 0; i < c->n_blobs; i++)
        if (strcmp(c->blobs[i].name, name) == 0)
            return &c->blobs[i];
    return NULL;
}

size_t pq_catalog_tensor_at(const struct pq_catalog *c, uint64_t offset)
{
    size_t low = 0, high = c->n_tensors;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (c->tensors[middle].parts[0].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int copy_files(struct pq_catalog *c, const struct pq_catalog *from,
                      struct pq_error *e)
{
    c->directory = from->directory;
    c->counts_parameters = from->counts_parameters;
    if (from->files == NULL)
        return 0;
    const char **const files =
        pq_arena_alloc(&c->arena, from->n_files, sizeof *files);
    if (files == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < from->n_files; i++) {
        const char *const s = from->files[i];
        files[i] = pq_arena_strndup(&c->arena, s, strlen(s));
        if (files[i] == NULL)
            return pq_fail_nomem(e);
    }
    c->files = files;
    c->n_files = from->n_files;
    return 0;
}

int pq_catalog_copy_meta(struct pq_catalog *c, const struct pq_catalog *from,
                         struct pq_error *e)
{
    for (size_t i = 0; i < from->n_metadata; i++) {
        const struct pq_pair *const m = &from->metadata[i];
        if (pq_catalog_set(c, m->key, m->value, e) != 0)
            return -1;
    }
    for (size_t i = 0; i < from->n_blobs; i++) {
        const struct pq_blob *const b = &from->blobs[i];
        if (pq_catalog_add_blob(c, b->name, b->data, b->bytes, e) != 0)
            return -1;
    }
    for (size_t i = 0; i < from->n_prov; i++)
        if (pq_catalog_add_prov(c, from->prov[i], e) != 0)
            return -1;
    for (size_t i = 0; i < from->n_extra; i++)
        if (pq_catalog_add_extra(c, &from->extra[i], e) != 0)
            return -1;
    return copy_files(c, from, e);
}

uint64_t pq_catalog_bytes(const struct pq_catalog *c)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++)
            sum += c->tensors[i].parts[k].bytes;
    return sum;
}

int pq_shape_elements(const uint64_t *shape, int rank, uint64_t *n,
                      struct pq_error *e)
{
    uint64_t product = 1;
    for (int i = 0; i < rank; i++)
        if (!pq_mul(product, shape[i], &product))
            return pq_fail(e, PQ_EFORMAT, "shape: too many elements");
    *n = product;
    return 0;
}

int pq_shape_bytes(const uint64_t *shape, int rank, enum pq_dtype dtype,
                   uint64_t *bytes, struct pq_error *e)
{
    uint64_t n, bits;
    if (pq_shape_elements(shape, rank, &n, e) != 0)
        return -1;
    if (!pq_mul(n, pq_dtype_bits(dtype), &bits))
        return pq_fail(e, PQ_EFORMAT, "shape: too many elements for %s",
                       pq_dtype_name(dtype));
    if (bits % 8 != 0)
        return pq_fail(e, PQ_EFORMAT,
                       "shape: %llu elements of %s do not fill whole bytes",
                       (unsigned long long)n, pq_dtype_name(dtype));
    *bytes = bits / 8;
    return 0;
}

static const char *const encoding_names[PQ_N_ENCODINGS] = {
    [PQ_PLAIN] = "plain",
    [PQ_NF4] = "nf4",
    [PQ_FP4] = "fp4",
    [PQ_INT8] = "int8",
    [PQ_INT8_BLOCK] = "int8_block",
};

const char *pq_encoding_name(enum pq_encoding e)
{
    return encoding_names[e];
}

int pq_encoding_from_name(const char *name)
{
    for (int i = 0; i < PQ_N_ENCODINGS; i++)
        if (strcmp(encoding_names[i], name) == 0)
            return i;
    return -1;
}

/* The slot that holds `key`, or the free one where it belongs. */
static size_t names_slot(const struct pq_names *t, const char *key)
{
    size_t i = (size_t)XXH3_64bits(key, strlen(key)) & (t->cap - 1);
    while (t->keys[i] != NULL && strcmp(t->keys[i], key) != 0)
        i = (i + 1) & (t->cap - 1);
    return i;
}

static int names_resize(struct pq_names *t, struct pq_error *e)
{
    struct pq_names more = {.n = t->n, .cap = t->cap ? t->cap * 2 : 16};
    more.keys = pq_zalloc(more.cap, sizeof *more.keys);
    more.values = pq_alloc(more.cap, sizeof *more.values);
    if (more.keys == NULL || more.values == NULL) {
        pq_names_release(&more);
        return pq_fail_nomem(e);
    }
    for (size_t i = 0; i < t->cap; i++) {
        if (t->keys[i] == NULL)
            continue;
        const size_t to = names_slot(&more, t->keys[i]);
        more.keys[to] = t->keys[i];
        more.values[to] = t->values[i];
    }
    pq_names_release(t);
    *t = more;
    return 0;
}

int pq_names_add(struct pq_names *t, const char *key, size_t value, size_t *old,
                 struct pq_error *e)
{
    if (t->n + t->n / 2 >= t->cap && names_resize(t, e) != 0)
        return -1;
    const size_t i = names_slot(t, key);
    if (t->keys[i] != NULL) {
        if (old != NULL)
            *old = t->values[i];
        return 1;
    }
    t->keys[i] = key;
    t->values[i] = value;
    t->n++;
    return 0;
}

size_t pq_names_find(const struct pq_names *t, const char *key)
{
    if (t->n == 0)
        return SIZE_MAX;
    const size_t i = names_slot(t, key);
    return t->keys[i] != NULL ? t->values[i] : SIZE_MAX;
}

void pq_names_release(struct pq_names *t)
{
    free((void *)t->keys);
    free(t->values);
    *t = (struct pq_names){0};
}

void pq_shape_text(const uint64_t *shape, int rank, char *s, size_t n)
{
    size_t at = (size_t)snprintf(s, n, "[");

    for (int i = 0; i < rank && at < n; i++)
        at += (size_t)snprintf(s + at, n - at, "%s%llu", i ? ", " : "",
                               (unsigned long long)shape[i]);
    if (at < n)
        snprintf(s + at, n - at, "]");
}
