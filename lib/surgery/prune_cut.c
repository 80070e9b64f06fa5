/*
 * Finding the k-th smallest score without sorting; how: pq_prune.h.
 */
#include "prune_internal.h"

#include "pq_mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Scores are counted as what they differ from nothing. */
static const float nothing[PQ_PRUNE_TILE];

uint64_t pq_prune_count(double sparsity, uint64_t n)
{
    const double k = nearbyint(sparsity * (double)n);

    return k >= (double)n ? n : (uint64_t)k;
}

/* The class (bin) in which the k-th from below is; k becomes its rank. */
static uint32_t class_of(const uint64_t *count, uint32_t n, uint64_t *k)
{
    for (uint32_t i = 0; i < n; i++) {
        if (*k <= count[i])
            return i;
        *k -= count[i];
    }
    return n - 1;
}

/* What a pass over all scores has found. */
static void settle(struct pq_cut *c, unsigned pass, uint64_t *count)
{
    if (c->k > 0 && pass == 0) {
        c->left = c->k;
        c->high = class_of(count, PQ_HIGH_COUNT, &c->left);
    } else if (c->k > 0 && pass == 1) {
        c->bits = c->high << PQ_LOW_BITS |
                  class_of(count, PQ_LOW_COUNT, &c->left);
        c->place = c->left;
    }
    memset(count, 0, PQ_HIGH_COUNT * sizeof *count);
}

/* ---- counting ------------------------------------------------------------ */

static void count_tile(const struct pq_kernels *k, unsigned pass,
                       const struct pq_cut *c, const float *score, size_t n,
                       struct pq_prune_part *p)
{
    if (pass == 0)
        k->count_high(score, nothing, n, p->count);
    else if (pass == 1)
        k->count_low(score, nothing, n, c->high, p->count);
    else
        p->ties += k->count_equal(score, nothing, n, c->bits);
}

static size_t tile_at(uint64_t n, uint64_t at)
{
    return n - at < PQ_PRUNE_TILE ? (size_t)(n - at) : PQ_PRUNE_TILE;
}

size_t pq_cut_scratch(const struct pq_pruner *m, uint64_t unit_items)
{
    if (m->how->block_rows)
        return (pq_prune_block_floats(m) + unit_items * m->scores) *
               sizeof(float);
    return PQ_PRUNE_TILE * sizeof(float);
}

int pq_cut_gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    const struct pq_cut *c = &((const struct pq_prune_state *)state)->cut;
    struct pq_prune_part *p = u->partial;
    float *room = u->scratch;
    const float *blocks = NULL;

    p->first = u->first;
    p->n = u->in_bytes[0] / (pq_dtype_bits(m->in->dtype) / 8);
    if (m->how->block_rows) {
        p->n = u->count * m->scores;
        blocks = room + pq_prune_block_floats(m);
        if (pq_prune_blocks(m, u, room + pq_prune_block_floats(m), room, e))
            return -1;
    }
    for (uint64_t at = 0; at < p->n; at += PQ_PRUNE_TILE) {
        const size_t n = tile_at(p->n, at);
        const float *x = blocks ? blocks + at : pq_prune_load(m, u, at, n, room);
        if (!blocks && pq_prune_look(m, u, at, x, n, e))
            return -1;
        count_tile(m->q->kernels, pass, c, x, n, p);
    }
    return 0;
}

/* The unit that begins with item `unit` has `ties` of the cut's score. */
static void pass_unit(struct pq_cut *c, uint64_t step, uint64_t unit,
                      uint64_t ties)
{
    if (c->found || c->k == 0)
        return;
    if (ties < c->place) {
        c->place -= ties;
        return;
    }
    c->found = true;
    c->step = step;
    c->unit = unit;
}

static void add_counts(unsigned pass, const struct pq_prune_part *p,
                       uint64_t *count)
{
    const uint32_t n = pass == 0 ? PQ_HIGH_COUNT : PQ_LOW_COUNT;

    for (uint32_t i = 0; i < n; i++)
        count[i] += p->count[i];
}

int pq_cut_combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    struct pq_prune_state *t = state;
    const struct pq_prune_part *p = partial;

    (void)e;
    if (pass == s->n_gather) {
        t->done.n += p->done.n;
        t->done.zeros += p->done.zeros;
        t->done.pruned += p->done.pruned;
        t->done.signal += p->done.signal;
        t->done.noise += p->done.noise;
        return 0;
    }
    if (pass < 2)
        add_counts(pass, p, t->count);
    else
        pass_unit(&t->cut, 0, p->first, p->ties);
    t->seen += p->n;
    if (t->seen < m->n_scores)
        return 0;
    t->seen = 0;
    if (pass == 0)
        t->cut.k = pq_prune_count(m->how->sparsity, m->n_scores);
    settle(&t->cut, pass, t->count);
    return 0;
}

/* ---- what is kept -------------------------------------------------------- */

void pq_cut_ties(const float *score, uint32_t bits, uint64_t n, uint8_t *keep)
{
    for (size_t i = 0; n > 0; i++) {
        uint32_t v;
        memcpy(&v, score + i, sizeof v);
        if ((v & 0x7fffffff) != bits)
            continue;
        keep[i / 8] &= (uint8_t)~(1u << i % 8);
        n--;
    }
}

/* -1 the unit is before that of the last one that goes, 0 it is it, 1 after */
static int side_of(const struct pq_pruner *m, const struct pq_cut *c,
                   const struct pq_unit *u)
{
    if (m->step != c->step)
        return m->step < c->step ? -1 : 1;
    return u->first < c->unit ? -1 : u->first > c->unit;
}

void pq_cut_keep(const struct pq_pruner *m, const struct pq_cut *c,
                 const struct pq_unit *u, const float *score, size_t n,
                 uint64_t *taken, uint8_t *keep)
{
    const struct pq_kernels *k = m->q->kernels;
    const int side = side_of(m, c, u);

    if (c->k == 0) {
        k->keep_from(score, n, 0, keep);
        return;
    }
    k->keep_from(score, n, side < 0 ? c->bits + 1 : c->bits, keep);
    if (side != 0 || *taken == c->place)
        return;
    const uint64_t here = k->count_equal(score, nothing, n, c->bits);
    const uint64_t go = c->place - *taken < here ? c->place - *taken : here;
    pq_cut_ties(score, c->bits, go, keep);
    *taken += go;
}
