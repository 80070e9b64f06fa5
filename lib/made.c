/*
 * Tensors that the program made, as a source: one spool a tensor, the
 * address space is theirs end to end.
 */
#include "pq_made.h"

#include <stdlib.h>
#include <string.h>

struct made {
    struct pq_source source;
    struct pq_catalog catalog;
    struct pq_spool_budget budget;
    struct pq_spool *spools; /* [n], one for each tensor that was added: the
                                catalogue may have been folded since */
    uint64_t *starts;        /* [n] where they begin */
    size_t n, cap;
    uint64_t end; /* of the address space */
};

static struct made *made_of(struct pq_source *s)
{
    return (struct made *)(void *)s;
}

/* The spool that an offset is in: the last one that begins there or before. */
static size_t spool_at(const struct made *m, uint64_t offset)
{
    size_t low = 0, high = m->n;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (m->starts[middle] <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Parts do not touch: each range lies in one tensor. */
static int read_made(struct pq_source *s, uint64_t offset, void *buf, size_t n,
                     struct pq_error *e)
{
    const struct made *m = made_of(s);

    if (n == 0)
        return 0;
    const size_t i = spool_at(m, offset);
    return pq_spool_read(&m->spools[i], offset - m->starts[i], buf, n, e);
}

static void free_made(struct pq_source *s)
{
    struct made *m = made_of(s);

    for (size_t i = 0; i < m->n; i++)
        pq_spool_release(&m->spools[i]);
    free(m->spools);
    free(m->starts);
    pq_catalog_release(&m->catalog);
    free(m);
}

static const struct pq_source_ops made_ops = {read_made, NULL, free_made};

int pq_made_new(const char *name, size_t n, uint64_t memory,
                const char *tmpdir, struct pq_source **s, struct pq_error *e)
{
    struct made *m = pq_zalloc(1, sizeof *m);

    if (!m)
        return pq_fail_nomem(e);
    pq_catalog_init(&m->catalog);
    m->source.ops = &made_ops;
    m->source.catalog = &m->catalog;
    m->source.name = name;
    m->source.format = "made";
    m->budget.left = memory;
    m->budget.dir = tmpdir;
    m->cap = n;
    m->spools = pq_zalloc(n, sizeof *m->spools);
    m->starts = pq_zalloc(n, sizeof *m->starts);
    m->catalog.tensors = pq_zalloc(n, sizeof *m->catalog.tensors);
    if (!m->spools || !m->starts || !m->catalog.tensors) {
        free_made(&m->source);
        return pq_fail_nomem(e);
    }
    m->catalog.cap_tensors = n;
    *s = &m->source;
    return 0;
}

/* A tensor with a spool of its own, whose bytes are not there yet. */
static struct pq_tensor *add_empty(struct made *m, const char *name,
                                   enum pq_dtype dtype, const uint64_t *shape,
                                   int rank, struct pq_error *e)
{
    const size_t i = m->n;

    if (i == m->cap) {
        pq_fail(e, PQ_ELIMIT, "%s: more than %zu tensors", m->source.name,
                m->cap);
        return NULL;
    }
    struct pq_tensor *t =
        pq_catalog_add_plain(&m->catalog, name, dtype, shape, rank, m->end, e);
    if (!t)
        return NULL;
    if (pq_spool_init(&m->spools[i], &m->budget, t->parts[0].bytes, e)) {
        m->catalog.n_tensors--;
        return NULL;
    }
    m->starts[m->n++] = m->end;
    m->end += t->parts[0].bytes;
    return t;
}

const struct pq_tensor *pq_made_add(struct pq_source *s, const char *name,
                                    enum pq_dtype dtype, const uint64_t *shape,
                                    int rank, const void *data,
                                    struct pq_error *e)
{
    struct made *m = made_of(s);
    struct pq_tensor *t = add_empty(m, name, dtype, shape, rank, e);

    if (!t)
        return NULL;
    const size_t i = m->n - 1;
    if (pq_spool_write(&m->spools[i], 0, data, (size_t)t->parts[0].bytes, e)) {
        pq_spool_release(&m->spools[i]);
        m->end -= t->parts[0].bytes;
        m->n--;
        m->catalog.n_tensors--;
        return NULL;
    }
    return t;
}

/* ---- as a sink --------------------------------------------------------- */

struct into {
    struct pq_sink sink;
    struct made *made;
    size_t first; /* the sink's first part there */
};

static int begin(struct pq_sink *k, struct pq_error *e)
{
    (void)k;
    (void)e;
    return 0;
}

static int write_made(struct pq_sink *k, size_t place, uint64_t offset,
                      const void *buf, size_t n, struct pq_error *e)
{
    struct into *x = (struct into *)(void *)k;

    return pq_spool_write(&x->made->spools[x->first + place], offset, buf, n,
                          e);
}

static void abort_made(struct pq_sink *k, const struct pq_error *why)
{
    (void)k;
    (void)why;
}

static void free_into(struct pq_sink *k)
{
    free(k->order);
    free(k);
}

static const struct pq_sink_ops into_ops = {begin, write_made, NULL,
                                            begin, abort_made, free_into};

/* A part of tensor i of the sink is a tensor of the source. */
static int add_place(struct into *x, const struct pq_tensor *t, size_t i,
                     size_t part, struct pq_error *e)
{
    const struct pq_part *p = &t->parts[part];
    struct pq_place *place = &x->sink.order[x->sink.n_order++];
    const struct pq_tensor *made;

    place->tensor = i;
    place->part = part;
    place->address = x->made->end;
    x->sink.total_bytes += p->bytes;
    if (t->codec.encoding == PQ_PLAIN) /* its part may have no name */
        made = add_empty(x->made, t->name, t->dtype, t->shape, t->rank, e);
    else
        made = add_empty(x->made, p->name, p->dtype, p->shape, p->rank, e);
    return made ? 0 : -1;
}

int pq_made_sink(struct pq_source *s, struct pq_catalog *c,
                 struct pq_sink **k, struct pq_error *e)
{
    struct into *x = pq_zalloc(1, sizeof *x);

    if (!x)
        return pq_fail_nomem(e);
    x->made = made_of(s);
    x->first = x->made->n;
    x->sink.ops = &into_ops;
    x->sink.catalog = c;
    x->sink.positional = true;
    size_t parts = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        parts += c->tensors[i].n_parts;
    x->sink.order = pq_zalloc(parts, sizeof *x->sink.order);
    int rc = x->sink.order ? 0 : pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < c->n_tensors; i++)
        for (size_t part = 0; !rc && part < c->tensors[i].n_parts; part++)
            rc = add_place(x, &c->tensors[i], i, part, e);
    if (rc) {
        free_into(&x->sink);
        return -1;
    }
    *k = &x->sink;
    return 0;
}
