/*
 * Trimming by magnitude: of n changes d, in the order of falling |d|, equal
 * ones in the order of their places,
 *
 *   largest   the first max(1, int(density n)) are left      TIES 2306.01708
 *   middle    int(density n) are left, behind the first int(gamma n), or
 *             behind fewer if there are not so many
 *                                                   Breadcrumbs 2312.06795
 *
 * A cut at k is found exactly and without sorting.  The bits of a positive
 * float are in the order of the floats: one pass counts by the upper 16 of
 * the 31 bits, which tells the class in which the k-th is and its rank there;
 * one counts that class by the lower 15, which tells the magnitude of the
 * k-th; one counts how often each unit has this very magnitude, which tells
 * in which unit the k-th is.  So any number of equal magnitudes (differences
 * of bf16 are nearly all equal to others) takes no memory.
 */
#include "blend_internal.h"

#include <string.h>

#define NO_BITS  UINT32_MAX /* no |d| is so large */
#define LOW_MASK (PQ_LOW_COUNT - 1)

enum { LAST, ABOVE }; /* the two cuts: above the second nothing is left */

/* Behind the models' cuts in the state. */
static uint64_t *counts_of(const struct pq_blender *m,
                           struct pq_blend_kept *kept, size_t i)
{
    return (uint64_t *)(void *)(kept + m->b->n) + i * PQ_HIGH_COUNT;
}

size_t pq_trim_state_bytes(size_t n_models)
{
    return n_models * PQ_HIGH_COUNT * sizeof(uint64_t);
}

/* Two cuts' counts of lower bits take the room of one of upper bits. */
size_t pq_trim_partial_bytes(size_t n_models)
{
    return n_models * PQ_HIGH_COUNT * sizeof(uint32_t);
}

/* ---- how many ---------------------------------------------------------- */

static void set_ks(const struct pq_blender *m, size_t i, struct pq_blend_cut *c)
{
    const struct pq_blend_input *in = &m->b->in[i];
    const uint64_t n = m->elements;
    const uint64_t left = (uint64_t)(in->density * (double)n);

    if (m->row->sparse == PQ_SPARSE_LARGEST) {
        c[LAST].k = left || in->density == 0 ? left : 1;
        return;
    }
    const uint64_t most = n - left;
    const uint64_t want = (uint64_t)(in->gamma * (double)n);
    c[ABOVE].k = want < most ? want : most;
    c[LAST].k = c[ABOVE].k + left;
}

/* The class (bin) in which the k-th from above is; k becomes its rank. */
static uint32_t class_of(const uint64_t *count, uint32_t n, uint64_t *k)
{
    for (uint32_t i = n; i-- > 0;) {
        if (*k <= count[i])
            return i;
        *k -= count[i];
    }
    return 0;
}

static bool cuts(const struct pq_blend_cut *c)
{
    return c->k > 0;
}

/* ---- the passes -------------------------------------------------------- */

void pq_trim_gather(const struct pq_tile *t)
{
    const struct pq_kernels *k = t->r->kernels;
    const struct pq_blend_kept *kept = t->r->state;
    uint32_t *count = t->r->partial;

    for (size_t i = 0; i < t->m->b->n; i++, count += PQ_HIGH_COUNT) {
        const float *x = t->x + i * t->m->stride;
        if (t->m->b->in[i].density >= 1)
            continue;
        if (t->r->pass == 0) {
            k->count_high(x, t->base, t->n, count);
            continue;
        }
        for (int c = LAST; c <= ABOVE; c++) {
            const struct pq_blend_cut *cut = &kept[i].cut[c];
            if (!cuts(cut))
                continue;
            if (t->r->pass == 1)
                k->count_low(x, t->base, t->n, cut->high,
                             count + (unsigned)c * PQ_LOW_COUNT);
            else
                count[c] +=
                    (uint32_t)k->count_equal(x, t->base, t->n, cut->bits);
        }
    }
}

/* The unit that begins at `before` has `n` of the cut's magnitude. */
static void pass_unit(struct pq_blend_cut *c, uint64_t before, uint64_t n)
{
    if (c->found || !cuts(c))
        return;
    if (n < c->left) {
        c->left -= n;
        return;
    }
    c->found = true;
    c->unit = before;
    c->place = c->left;
}

void pq_trim_combine(const struct pq_blender *m, unsigned pass, uint64_t before,
                     struct pq_blend_kept *kept, const void *partial)
{
    const uint32_t *add = partial;

    for (size_t i = 0; i < m->b->n; i++, add += PQ_HIGH_COUNT) {
        uint64_t *count = counts_of(m, kept, i);
        if (m->b->in[i].density >= 1)
            continue;
        for (uint32_t b = 0; pass < 2 && b < PQ_HIGH_COUNT; b++)
            count[b] += add[b];
        for (int c = LAST; pass == 2 && c <= ABOVE; c++)
            pass_unit(&kept[i].cut[c], before, add[c]);
    }
}

void pq_trim_settle(const struct pq_blender *m, unsigned pass,
                    struct pq_blend_kept *kept)
{
    for (size_t i = 0; i < m->b->n && pass < 2; i++) {
        struct pq_blend_cut *cut = kept[i].cut;
        uint64_t *count = counts_of(m, kept, i);
        if (m->b->in[i].density >= 1)
            continue;
        if (pass == 0)
            set_ks(m, i, cut);
        for (int c = LAST; c <= ABOVE; c++) {
            if (!cuts(&cut[c]))
                continue;
            if (pass == 0) {
                cut[c].left = cut[c].k;
                cut[c].high = class_of(count, PQ_HIGH_COUNT, &cut[c].left);
            } else {
                cut[c].bits = cut[c].high << PQ_LOW_BITS |
                              class_of(count + (unsigned)c * PQ_LOW_COUNT,
                                       PQ_LOW_COUNT, &cut[c].left);
            }
        }
        memset(count, 0, PQ_HIGH_COUNT * sizeof *count);
    }
}

/* ---- what is left ------------------------------------------------------ */

/* Elements [0, result) of the tile come in if they are as large as the cut. */
static uint64_t place_in_tile(const struct pq_tile *t, const float *x,
                              const struct pq_blend_cut *c, uint32_t *taken)
{
    const uint64_t unit = t->r->first * t->m->change.columns;

    if (!cuts(c) || unit > c->unit)
        return 0;
    if (unit < c->unit)
        return t->n;
    const uint64_t room = c->place - *taken;
    const uint32_t here =
        (uint32_t)t->r->kernels->count_equal(x, t->base, t->n, c->bits);
    *taken += here <= room ? here : (uint32_t)room;
    if (here <= room)
        return t->n;
    uint64_t at = 0;
    for (uint64_t n = 0; n < room; at++)
        n += t->r->kernels->count_equal(x + at, t->base + at, 1, c->bits);
    return at;
}

/* Elements [from, to), on one side of both places. */
static void trim_part(const struct pq_tile *t, const float *x,
                      const struct pq_blend_kept *kept, const uint64_t *place,
                      uint64_t from, uint64_t to, float *d)
{
    const struct pq_blend_cut *last = &kept->cut[LAST];
    const struct pq_blend_cut *above = &kept->cut[ABOVE];
    uint32_t low = NO_BITS, high = NO_BITS;

    if (cuts(last))
        low = last->bits + (from >= place[LAST]);
    if (cuts(above)) {
        if (from >= place[ABOVE])
            high = above->bits;
        else if (above->bits == 0)
            low = NO_BITS; /* all of the zeros are above */
        else
            high = above->bits - 1;
    }
    if (low == NO_BITS)
        low = 1, high = 0; /* nothing */
    t->r->kernels->trim(x + from, t->base + from, to - from, low, high,
                        d + from);
}

void pq_trim_tile(const struct pq_tile *t, size_t i,
                  const struct pq_blend_kept *kept, uint32_t *taken, float *d)
{
    const float *x = t->x + i * t->m->stride;
    uint64_t place[2], from = 0;

    for (int c = LAST; c <= ABOVE; c++)
        place[c] = place_in_tile(t, x, &kept->cut[c], &taken[c]);
    while (from < t->n) {
        uint64_t to = t->n;
        for (int c = LAST; c <= ABOVE; c++)
            if (place[c] > from && place[c] < to)
                to = place[c];
        trim_part(t, x, kept, place, from, to, d);
        from = to;
    }
}
