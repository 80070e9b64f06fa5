/*
 * Arrays of the program as a source of tensors; the address space is theirs
 * end to end.
 */
#include "pq_made.h"

#include <stdlib.h>
#include <string.h>

struct lent {
    struct pq_source source;
    struct pq_catalog catalog;
    const char **data; /* [cap], one for each tensor of the catalogue */
    size_t cap;
    uint64_t end; /* of the address space */
};

static struct lent *lent_of(struct pq_source *s)
{
    return (struct lent *)(void *)s;
}

/* Parts do not touch: each range lies in one tensor. */
static int read_lent(struct pq_source *s, uint64_t offset, void *buf, size_t n,
                     struct pq_error *e)
{
    const struct lent *l = lent_of(s);

    (void)e;
    if (n == 0)
        return 0;
    const size_t i = pq_catalog_tensor_at(&l->catalog, offset);
    memcpy(buf, l->data[i] + (offset - l->catalog.tensors[i].parts[0].offset),
           n);
    return 0;
}

static void free_lent(struct pq_source *s)
{
    struct lent *l = lent_of(s);

    free((void *)l->data);
    pq_catalog_release(&l->catalog);
    free(l);
}

static const struct pq_source_ops lent_ops = {read_lent, NULL, free_lent};

int pq_lent_new(const char *name, size_t n, struct pq_source **s,
                struct pq_error *e)
{
    struct lent *l = pq_zalloc(1, sizeof *l);

    if (!l)
        return pq_fail_nomem(e);
    pq_catalog_init(&l->catalog);
    l->source.ops = &lent_ops;
    l->source.catalog = &l->catalog;
    l->source.name = name;
    l->source.format = "made";
    l->cap = n;
    l->data = pq_zalloc(n, sizeof *l->data);
    l->catalog.tensors = pq_zalloc(n, sizeof *l->catalog.tensors);
    if (!l->data || !l->catalog.tensors) {
        free_lent(&l->source);
        return pq_fail_nomem(e);
    }
    l->catalog.cap_tensors = n;
    *s = &l->source;
    return 0;
}

static const struct pq_tensor *add(struct pq_source *s, const char *name,
                                   enum pq_dtype dtype, const uint64_t *shape,
                                   int rank, const void *data,
                                   struct pq_error *e)
{
    struct lent *l = lent_of(s);
    const size_t i = l->catalog.n_tensors;

    if (i == l->cap) {
        pq_fail(e, PQ_ELIMIT, "%s: more than %zu tensors", l->source.name,
                l->cap);
        return NULL;
    }
    struct pq_tensor *t =
        pq_catalog_add_plain(&l->catalog, name, dtype, shape, rank, l->end, e);
    if (!t)
        return NULL;
    l->data[i] = data;
    l->end += t->parts[0].bytes;
    return t;
}

const struct pq_tensor *pq_lent_add(struct pq_source *s, const char *name,
                                    const uint64_t *shape, int rank,
                                    const float *data, struct pq_error *e)
{
    return add(s, name, PQ_F32, shape, rank, data, e);
}

const struct pq_tensor *pq_lent_add_bytes(struct pq_source *s, const char *name,
                                          const uint64_t *shape, int rank,
                                          const uint8_t *data,
                                          struct pq_error *e)
{
    return add(s, name, PQ_U8, shape, rank, data, e);
}
