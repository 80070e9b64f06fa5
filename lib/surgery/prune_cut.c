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

/* All scores below `bits` go, and of those nothing. */
static void cut_between(struct pq_prune_cut *c, uint32_t bits)
{
    c->bits = bits;
    c->step = c->unit = c->place = 0;
    c->found = true;
}

/* The k-th has this score, as the rank-th of so many. */
static void cut_at(struct pq_prune_cut *c, uint32_t bits, uint64_t ties)
{
    if (c->left == ties) {
        cut_between(c, bits + 1);
        return;
    }
    c->bits = bits;
    c->place = c->left;
}

/* What a pass over all scores has found; the counts begin anew. */
static void settle(struct pq_prune_cut *c, enum pq_cut_pass pass, bool coarse,
                   uint64_t *count)
{
    uint32_t i;

    if (c->k == 0) {
        cut_between(c, 0);
    } else if (pass == PQ_CUT_HIGH) {
        c->left = c->k;
        c->high = i = class_of(count, PQ_HIGH_COUNT, &c->left);
        if (coarse)
            cut_at(c, i << PQ_LOW_BITS, count[i]);
    } else if (pass == PQ_CUT_LOW) {
        i = class_of(count, PQ_LOW_COUNT, &c->left);
        cut_at(c, c->high << PQ_LOW_BITS | i, count[i]);
    }
    memset(count, 0, PQ_HIGH_COUNT * sizeof *count);
}

/* ---- counting ------------------------------------------------------------ */

static void count_tile(const struct pq_kernels *k, enum pq_cut_pass pass,
                       const struct pq_prune_cut *c, const float *score,
                       size_t n, struct pq_prune_part *p)
{
    if (pass == PQ_CUT_HIGH)
        k->count_high(score, nothing, n, p->count);
    else if (pass == PQ_CUT_LOW)
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

static int count_unit(const struct pq_pruner *m, const struct pq_unit *u,
                      enum pq_cut_pass pass, const struct pq_prune_cut *c,
                      struct pq_error *e)
{
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
static void pass_unit(struct pq_prune_cut *c, uint64_t step, uint64_t unit,
                      uint64_t ties)
{
    if (c->found)
        return;
    if (ties < c->place) {
        c->place -= ties;
        return;
    }
    c->found = true;
    c->step = step;
    c->unit = unit;
}

static void add_part(struct pq_prune_cut *c, enum pq_cut_pass pass,
                     uint64_t step, const struct pq_prune_part *p,
                     uint64_t *count)
{
    if (pass == PQ_CUT_TIES)
        pass_unit(c, step, p->first, p->ties);
    for (uint32_t i = 0; pass == PQ_CUT_HIGH && i < PQ_HIGH_COUNT; i++)
        count[i] += p->count[i];
    for (uint32_t i = 0; pass == PQ_CUT_LOW && i < PQ_LOW_COUNT; i++)
        count[i] += p->count[i];
}

/* ---- of a tensor ----------------------------------------------------------- */

static enum pq_cut_pass kind_of(const struct pq_pruner *m, unsigned pass)
{
    return pass > 0 && m->coarse ? PQ_CUT_TIES : (enum pq_cut_pass)pass;
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct pq_prune_state *t = state;

    return count_unit(s->params, u, kind_of(s->params, pass), &t->cut, e);
}

void pq_cut_add(const struct pq_pruner *m, unsigned pass,
                struct pq_prune_state *t, const struct pq_prune_part *p)
{
    const enum pq_cut_pass kind = kind_of(m, pass);

    add_part(&t->cut, kind, 0, p, t->count);
    t->seen += p->n;
    if (t->seen < m->n_scores)
        return;
    t->seen = 0;
    t->cut.k = pq_prune_count(m->how->sparsity, m->n_scores);
    settle(&t->cut, kind, m->coarse, t->count);
}

void pq_cut_plan(struct pq_step *s, const struct pq_pruner *m)
{
    s->n_gather = m->coarse ? 2 : 3;
    s->gather = gather;
    s->partial_bytes += PQ_HIGH_COUNT * sizeof(uint32_t);
    s->state_bytes += PQ_HIGH_COUNT * sizeof(uint64_t);
}

/* ---- of a pool ------------------------------------------------------------- */

struct pq_prune_pool *pq_prune_pool_new(double sparsity, struct pq_error *e)
{
    struct pq_prune_pool *p = pq_zalloc(1, sizeof *p);

    if (!p) {
        pq_fail_nomem(e);
        return NULL;
    }
    p->sparsity = sparsity;
    p->coarse = true;
    return p;
}

void pq_prune_pool_free(struct pq_prune_pool *p)
{
    free(p);
}

bool pq_prune_pool_next(struct pq_prune_pool *p)
{
    const enum pq_cut_pass pass = p->pass;

    if (pass == PQ_CUT_HIGH)
        p->cut.k = pq_prune_count(p->sparsity, p->n_scores);
    settle(&p->cut, pass, p->coarse, p->count);
    p->pass = pass == PQ_CUT_HIGH && !p->coarse ? PQ_CUT_LOW : PQ_CUT_TIES;
    return !p->cut.found;
}

static int pool_gather(const struct pq_step *s, unsigned pass,
                       const struct pq_unit *u, const void *state,
                       struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    const struct pq_prune_pool *p = m->how->pool;

    (void)pass;
    (void)state;
    return count_unit(m, u, p->pass, &p->cut, e);
}

static int pool_combine(const struct pq_step *s, unsigned pass, void *state,
                        const void *partial, struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    const struct pq_prune_part *part = partial;
    struct pq_prune_pool *p = m->how->pool;

    (void)pass;
    (void)state;
    (void)e;
    if (p->pass == PQ_CUT_HIGH)
        p->n_scores += part->n;
    add_part(&p->cut, p->pass, m->how->pool_index, part, p->count);
    return 0;
}

struct pq_step *pq_step_prune_count(struct pq_plan *p, struct pq_source *src,
                                    const struct pq_tensor *in,
                                    const struct pq_prune *how,
                                    const struct pq_pruning *q,
                                    struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, 1, 0, e);
    struct pq_pruner *m = pq_arena_alloc(&p->arena, 1, sizeof *m);

    if (!s || !m) {
        pq_fail_nomem(e);
        return NULL;
    }
    pq_pruner_init(m, in, how, q);
    pq_pruner_aim(s, src, m);
    how->pool->coarse = how->pool->coarse && m->coarse;
    s->scratch_bytes = pq_cut_scratch(m, s->unit_items);
    s->partial_bytes = sizeof(struct pq_prune_part) +
                       PQ_HIGH_COUNT * sizeof(uint32_t);
    s->n_gather = 1;
    s->gather = pool_gather;
    s->combine = pool_combine;
    return s;
}

/* ---- what is kept -------------------------------------------------------- */

void pq_cut_ties(const float *score, uint32_t bits, uint64_t n, uint8_t *keep)
{
    for (size_t i = 0; n > 0; i++) {
        if (pq_abs_bits(score[i]) != bits)
            continue;
        keep[i / 8] &= (uint8_t)~(1u << i % 8);
        n--;
    }
}

/* -1 the unit is before that of the last one that goes, 0 it is it, 1 after */
static int side_of(const struct pq_pruner *m, const struct pq_prune_cut *c,
                   const struct pq_unit *u)
{
    const uint64_t step = m->how->pool ? m->how->pool_index : 0;

    if (step != c->step)
        return step < c->step ? -1 : 1;
    return u->first < c->unit ? -1 : u->first > c->unit;
}

void pq_cut_keep(const struct pq_pruner *m, const struct pq_prune_cut *c,
                 const struct pq_unit *u, const float *score, size_t n,
                 uint64_t *taken, uint8_t *keep)
{
    const struct pq_kernels *k = m->q->kernels;
    const int side = side_of(m, c, u);

    k->keep_from(score, n, side < 0 ? c->bits + 1 : c->bits, keep);
    if (side != 0 || *taken == c->place)
        return;
    const uint64_t here = k->count_equal(score, nothing, n, c->bits);
    const uint64_t go = c->place - *taken < here ? c->place - *taken : here;
    pq_cut_ties(score, c->bits, go, keep);
    *taken += go;
}
