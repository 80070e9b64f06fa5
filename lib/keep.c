/*
 * A view of a source that may be read from its start again and be finished
 * by several runs: for tools that look at everything before they write.
 *
 *   a file     read through; reading again is reading
 *   a pipe     everything is kept by a hold, in memory as far as the budget
 *              goes and in a temporary file beyond
 */
#include "pq_hold.h"

#include <stdlib.h>
#include <string.h>

struct kept {
    struct pq_source base;
    struct pq_source *inner;
    struct pq_hold *hold; /* of a pipe, else NULL */
    struct pq_spool_budget budget;
    const struct pq_part **parts; /* [n] of a pipe, by offset */
    size_t n;
    bool finished;
};

static int compare_parts(const void *a, const void *b)
{
    const struct pq_part *const *x = a, *const *y = b;

    if ((*x)->offset != (*y)->offset)
        return (*x)->offset < (*y)->offset ? -1 : 1;
    return (*x)->bytes < (*y)->bytes ? -1 : (*x)->bytes > (*y)->bytes;
}

/* The last part that begins at or before `offset`, or NULL. */
static const struct pq_part *find(const struct kept *k, uint64_t offset)
{
    size_t low = 0, high = k->n;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (k->parts[middle]->offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? k->parts[low - 1] : NULL;
}

static int kept_read(struct pq_source *base, uint64_t offset, void *buf,
                     size_t n, struct pq_error *e)
{
    struct kept *k = (struct kept *)base;

    if (!k->hold)
        return k->inner->ops->read(k->inner, offset, buf, n, e);
    const struct pq_part *p = find(k, offset);
    if (!p)
        return pq_fail(e, PQ_EARG, "a read before the first tensor");
    return pq_hold_read(k->hold, p, offset - p->offset, buf, n, e);
}

/* What no run has asked for yet, another one may: keeps all that is left. */
static int keep_rest(struct kept *k, struct pq_error *e)
{
    unsigned char byte;

    if (k->n == 0)
        return 0;
    const struct pq_part *last = k->parts[k->n - 1];
    return pq_hold_read(k->hold, last, last->bytes - 1, &byte, 1, e);
}

static int kept_finish(struct pq_source *base, struct pq_error *e)
{
    struct kept *k = (struct kept *)base;

    if (k->finished || !k->inner->ops->finish)
        return 0;
    if (k->hold && keep_rest(k, e))
        return -1;
    k->finished = true;
    return k->inner->ops->finish(k->inner, e);
}

static void kept_free(struct pq_source *base)
{
    struct kept *k = (struct kept *)base;

    pq_hold_free(k->hold);
    pq_source_free(k->inner);
    free(k->parts);
    free(k);
}

static const struct pq_source_ops kept_ops = {kept_read, kept_finish,
                                              kept_free};

static int keep_all(struct kept *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->inner->catalog;
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    k->parts = pq_alloc(n, sizeof *k->parts);
    k->hold = pq_hold_new(k->inner, &k->budget, e);
    if (!k->parts || !k->hold)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t j = 0; j < c->tensors[i].n_parts; j++) {
            const struct pq_part *p = &c->tensors[i].parts[j];
            pq_hold_expect(k->hold, p, 2);
            if (p->bytes > 0)
                k->parts[k->n++] = p;
        }
    qsort(k->parts, k->n, sizeof *k->parts, compare_parts);
    return 0;
}

int pq_kept_new(struct pq_source *inner, uint64_t memory, const char *tmpdir,
                struct pq_source **s, struct pq_error *e)
{
    struct kept *k = pq_zalloc(1, sizeof *k);

    if (!k)
        return pq_fail_nomem(e);
    k->base = *inner;
    k->base.ops = &kept_ops;
    k->base.hold = NULL;
    k->budget = (struct pq_spool_budget){.left = memory, .dir = tmpdir};
    k->inner = inner;
    if (inner->sequential && !inner->rewind) {
        k->base.rewind = true;
        k->base.skips = false;
        if (keep_all(k, e)) {
            k->inner = NULL;
            kept_free(&k->base);
            return -1;
        }
    }
    *s = &k->base;
    return 0;
}
