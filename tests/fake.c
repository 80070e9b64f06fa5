/*
 * A model in memory; see fake.h.
 */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

static int source_read(struct pq_source *base, uint64_t offset, void *buf,
                       size_t n, struct pq_error *e)
{
    struct fake_source *s = (struct fake_source *)base;

    if (offset + n > s->size || (s->fail_at && offset + n > s->fail_at))
        return pq_fail(e, PQ_ETRUNCATED, "truncated");
    if (base->sequential && offset < s->at && !base->rewind)
        return pq_fail(e, PQ_EARG, "a pipe does not go back");
    memcpy(buf, s->bytes + offset, n);
    if (base->sequential)
        s->at = offset + n;
    return 0;
}

static int source_finish(struct pq_source *base, struct pq_error *e)
{
    (void)e;
    ((struct fake_source *)base)->finished = true;
    return 0;
}

static void source_free(struct pq_source *base)
{
    (void)base;
}

static const struct pq_source_ops source_ops = {source_read, source_finish,
                                                source_free};

void fake_source_init(struct fake_source *s, bool sequential)
{
    memset(s, 0, sizeof *s);
    pq_catalog_init(&s->catalog);
    s->base.ops = &source_ops;
    s->base.catalog = &s->catalog;
    s->base.name = "fake";
    s->base.format = "fake";
    s->base.sequential = sequential;
}

struct pq_tensor *fake_source_add(struct fake_source *s, const char *name,
                                  enum pq_dtype dtype, int rank,
                                  const uint64_t *shape, const void *bytes)
{
    struct pq_tensor *t = pq_catalog_add(&s->catalog, name, 1, NULL);
    struct pq_part *p = &t->parts[0];

    t->dtype = p->dtype = dtype;
    t->rank = p->rank = rank;
    t->shape = p->shape = pq_catalog_shape(&s->catalog, shape, rank);
    p->name = t->name;
    p->offset = s->size;
    if (pq_shape_elements(shape, rank, &t->n_elements, NULL) ||
        pq_shape_bytes(shape, rank, dtype, &p->bytes, NULL))
        abort();
    s->bytes = realloc(s->bytes, s->size + p->bytes + 1);
    if (p->bytes)
        memcpy(s->bytes + s->size, bytes, p->bytes);
    s->size += p->bytes;
    return t;
}

void fake_source_release(struct fake_source *s)
{
    pq_hold_free(s->base.hold);
    pq_catalog_release(&s->catalog);
    free(s->bytes);
}

/* ---- the sink ---------------------------------------------------------- */

static int sink_begin(struct pq_sink *base, struct pq_error *e)
{
    (void)e;
    ((struct fake_sink *)base)->begun = true;
    return 0;
}

static int sink_write(struct pq_sink *base, size_t place, uint64_t offset,
                      const void *buf, size_t n, struct pq_error *e)
{
    struct fake_sink *k = (struct fake_sink *)base;
    const uint64_t at = base->order[place].address + offset;

    if (k->fail_at && at + n > k->fail_at)
        return pq_fail(e, PQ_EIO, "no room");
    if (!base->positional) {
        k->out_of_order = k->out_of_order || at != k->next;
        k->next = at + n;
    }
    memcpy(k->bytes + at, buf, n);
    return 0;
}

static int sink_seal(struct pq_sink *base, struct pq_error *e)
{
    struct fake_sink *k = (struct fake_sink *)base;

    if (k->fail_seal)
        return pq_fail(e, PQ_EIO, "no room before the end");
    k->sealed = true;
    return 0;
}

static int sink_finish(struct pq_sink *base, struct pq_error *e)
{
    struct fake_sink *k = (struct fake_sink *)base;

    if (k->fail_finish)
        return pq_fail(e, PQ_EIO, "no room at the end");
    k->finished = true;
    return 0;
}

static void sink_abort(struct pq_sink *base, const struct pq_error *why)
{
    (void)why;
    ((struct fake_sink *)base)->aborted = true;
}

static void sink_free(struct pq_sink *base)
{
    (void)base;
}

static const struct pq_sink_ops sink_ops = {sink_begin,  sink_write, sink_seal,
                                            sink_finish, sink_abort, sink_free};

/* Appends the parts that are (or are not) of the role that goes last. */
static void place_parts(struct fake_sink *k, int last, bool want)
{
    struct pq_catalog *c = k->base.catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t p = 0; p < c->tensors[i].n_parts; p++) {
            if (((int)c->tensors[i].parts[p].role == last) != want)
                continue;
            struct pq_place *o = &k->base.order[k->base.n_order++];
            o->tensor = i;
            o->part = p;
            o->address = k->base.total_bytes;
            k->base.total_bytes += c->tensors[i].parts[p].bytes;
        }
}

void fake_sink_init(struct fake_sink *k, struct pq_catalog *c, bool positional,
                    int last)
{
    size_t n = 0;

    memset(k, 0, sizeof *k);
    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    k->base.ops = &sink_ops;
    k->base.catalog = c;
    k->base.positional = positional;
    k->base.order = calloc(n + 1, sizeof *k->base.order);
    place_parts(k, last, false);
    place_parts(k, last, true);
    k->bytes = calloc(1, k->base.total_bytes + 1);
}

const void *fake_sink_part(const struct fake_sink *k, size_t t, size_t part)
{
    for (size_t i = 0; i < k->base.n_order; i++)
        if (k->base.order[i].tensor == t && k->base.order[i].part == part)
            return k->bytes + k->base.order[i].address;
    return NULL;
}

void fake_sink_release(struct fake_sink *k)
{
    free(k->base.order);
    free(k->bytes);
}
