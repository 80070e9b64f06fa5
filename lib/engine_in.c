/*
 * The engine's inputs: which bytes of which part a unit needs, and where
 * they come from: straight from a random-access source, or through a hold
 * (pq_hold.h) from a sequential one.
 */
#include "engine_internal.h"

#include <stdlib.h>
#include <string.h>

/* Bytes [*from, *from + result) of the part that items [first, +count) take. */
static uint64_t item_range(uint64_t item_bits, uint64_t part_bytes,
                           uint64_t first, uint64_t count, uint64_t *from)
{
    const uint64_t total = part_bytes * 8;
    uint64_t begin, end;

    if (!pq_mul(first, item_bits, &begin) || begin > total)
        begin = total;
    if (!pq_mul(first + count, item_bits, &end) || end > total)
        end = total;
    *from = begin / 8;
    return (end + 7) / 8 - begin / 8;
}

/* Columns [*from, *from + result) that items [first, +count) take. */
static uint64_t column_range(const struct pq_input *in, uint64_t first,
                             uint64_t count, uint64_t *from)
{
    const uint64_t cols = in->part->shape[1];
    const uint64_t end = (first + count) * in->item_columns;

    *from = first * in->item_columns;
    return (end < cols ? end : cols) - *from;
}

uint64_t pq_input_bytes(const struct pq_input *in, uint64_t first,
                        uint64_t count)
{
    uint64_t from;

    if (in->access == PQ_WHOLE)
        return in->part->bytes;
    if (in->access == PQ_COLUMNS)
        return in->part->shape[0] * column_range(in, first, count, &from) *
               (pq_dtype_bits(in->part->dtype) / 8);
    return item_range(in->item_bits, in->part->bytes, first, count, &from);
}

static struct pq_hold *find_hold(const struct pq_engine *g,
                                 const struct pq_source *s)
{
    for (size_t i = 0; i < g->n_feeds; i++)
        if (g->feeds[i].source == s)
            return g->feeds[i].hold;
    return NULL;
}

static int read_range(struct pq_engine *g, const struct pq_input *in,
                      uint64_t from, void *buf, uint64_t n, struct pq_error *e)
{
    if (in->source->sequential)
        return pq_hold_read(find_hold(g, in->source), in->part, from, buf,
                            (size_t)n, e);
    return pq_source_read(in->source, in->part, from, buf, (size_t)n, e);
}

/* The columns of a unit of a part [rows][cols], as [rows][columns]. */
static int read_columns(struct pq_engine *g, const struct pq_input *in,
                        const struct pq_unit *u, unsigned char *buf,
                        struct pq_error *e)
{
    const uint64_t size = pq_dtype_bits(in->part->dtype) / 8;
    const uint64_t rows = in->part->shape[0], cols = in->part->shape[1];
    uint64_t from;
    const uint64_t columns = column_range(in, u->first, u->count, &from);

    for (uint64_t r = 0; r < rows; r++)
        if (read_range(g, in, (r * cols + from) * size,
                       buf + r * columns * size, columns * size, e))
            return -1;
    return 0;
}

int pq_engine_read(struct pq_engine *g, struct pq_slot *s, bool sequential,
                   struct pq_error *e)
{
    const struct pq_step *step = &g->plan->steps[s->step];

    for (size_t i = 0; i < step->n_in; i++) {
        const struct pq_input *in = &step->in[i];
        uint64_t from;
        if (in->access == PQ_WHOLE || in->source->sequential != sequential)
            continue;
        if (in->access == PQ_COLUMNS) {
            if (read_columns(g, in, &s->unit, s->in[i], e))
                return -1;
            continue;
        }
        const uint64_t n = item_range(in->item_bits, in->part->bytes,
                                      s->unit.first, s->unit.count, &from);
        if (read_range(g, in, from, s->in[i], n, e))
            return -1;
    }
    return 0;
}

int pq_engine_read_whole(struct pq_engine *g, const struct pq_step *s,
                         struct pq_live *l, struct pq_error *e)
{
    for (size_t i = 0; i < s->n_in; i++) {
        const struct pq_input *in = &s->in[i];
        if (in->access != PQ_WHOLE || l->whole[i])
            continue;
        l->whole[i] = pq_alloc((size_t)in->part->bytes, 1);
        if (!l->whole[i])
            return pq_fail_nomem(e);
        if (read_range(g, in, 0, l->whole[i], in->part->bytes, e))
            return -1;
    }
    return 0;
}

/* ---- sequential sources ------------------------------------------------ */

static int compare_uses(const void *a, const void *b)
{
    const struct pq_use *x = a, *y = b;

    return x->part < y->part ? -1 : x->part > y->part;
}

static struct pq_use *find_use(const struct pq_engine *g,
                               const struct pq_part *p)
{
    const struct pq_use key = {p, 0, 0};

    return bsearch(&key, g->uses, g->n_uses, sizeof key, compare_uses);
}

/* How often a step goes over an input; columns come in many small reads. */
static unsigned times_read(const struct pq_step *s, const struct pq_input *in)
{
    const unsigned passes = s->n_gather + (s->emit ? 1 : 0);

    return in->access == PQ_COLUMNS ? 2 : in->access == PQ_WHOLE ? 1 : passes;
}

/* Adds up uses of the same part; the array is sorted by part. */
static void merge_uses(struct pq_engine *g)
{
    size_t n = 0;

    for (size_t i = 0; i < g->n_uses; i++) {
        struct pq_use *last = n ? &g->uses[n - 1] : NULL;
        if (last && last->part == g->uses[i].part) {
            last->times += g->uses[i].times;
            if (g->uses[i].last_step > last->last_step)
                last->last_step = g->uses[i].last_step;
        } else {
            g->uses[n++] = g->uses[i];
        }
    }
    g->n_uses = n;
}

static int collect_uses(struct pq_engine *g, struct pq_error *e)
{
    size_t cap = 0;

    for (size_t i = 0; i < g->plan->n_steps; i++) {
        const struct pq_step *s = &g->plan->steps[i];
        for (size_t k = 0; k < s->n_in; k++) {
            if (!s->in[k].source->sequential)
                continue;
            struct pq_use *u =
                pq_grow(g->uses, g->n_uses, &cap, sizeof *g->uses);
            if (!u)
                return pq_fail_nomem(e);
            g->uses = u;
            u[g->n_uses].part = s->in[k].part;
            u[g->n_uses].last_step = i;
            u[g->n_uses++].times = times_read(s, &s->in[k]);
        }
    }
    if (g->n_uses)
        qsort(g->uses, g->n_uses, sizeof *g->uses, compare_uses);
    merge_uses(g);
    return 0;
}

static void expect_parts(struct pq_engine *g, const struct pq_feed *f)
{
    const struct pq_catalog *c = f->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *p = &c->tensors[i].parts[k];
            const struct pq_use *u = g->n_uses ? find_use(g, p) : NULL;
            /* a hold that others use too: they know about the rest */
            if (u || f->own)
                pq_hold_expect(f->hold, p, u ? u->times : 0);
        }
}

int pq_engine_feeds(struct pq_engine *g, struct pq_error *e)
{
    const struct pq_plan *p = g->plan;

    if (collect_uses(g, e))
        return -1;
    g->feeds = pq_zalloc(p->n_sources, sizeof *g->feeds);
    if (!g->feeds)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < p->n_sources; i++) {
        if (!p->sources[i]->sequential)
            continue;
        struct pq_feed *f = &g->feeds[g->n_feeds];
        f->source = p->sources[i];
        f->hold = f->source->hold;
        f->own = !f->hold;
        if (f->own)
            f->hold = pq_hold_new(f->source, &g->budget, e);
        if (!f->hold)
            return -1;
        g->n_feeds++;
        expect_parts(g, f);
    }
    return 0;
}

void pq_engine_feeds_free(struct pq_engine *g)
{
    for (size_t i = 0; i < g->n_feeds; i++)
        if (g->feeds[i].own)
            pq_hold_free(g->feeds[i].hold);
    free(g->feeds);
    free(g->uses);
}

void pq_engine_drop(struct pq_engine *g, size_t closed)
{
    for (; g->dropped < closed; g->dropped++) {
        const struct pq_step *s = &g->plan->steps[g->dropped];
        for (size_t i = 0; i < s->n_in && g->n_uses; i++) {
            const struct pq_use *u = find_use(g, s->in[i].part);
            if (u && u->last_step == g->dropped)
                pq_hold_drop(find_hold(g, s->in[i].source), u->part);
        }
    }
}
