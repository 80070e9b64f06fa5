/*
 * Pruning a tensor: which weights go is told by bits, and those bits are
 * applied to what was read, so that all others keep theirs.
 *
 *     read W --> widen --> score --> keep bits --> W with +0 where they are 0
 *
 * A unit is about 2^19 elements in whole items: rows, where a row is cut or
 * the tensor has them; M rows of turned groups; the rows of a row of blocks.
 */
#include "prune_internal.h"

#include "pq_mem.h"
#include "pq_quant.h"

#include <string.h>

#define FLAT_ITEM 64u /* elements, where there are no rows */
#define N_AREAS   6   /* of a unit's scratch */

/* ---- may it be ----------------------------------------------------------- */

static uint64_t columns_of(const struct pq_tensor *t)
{
    return t->rank ? t->shape[t->rank - 1] : 1;
}

static int check_groups(const struct pq_prune *how, const struct pq_tensor *t,
                        struct pq_error *e)
{
    const uint64_t n = how->turned ? t->shape[0] : columns_of(t);

    if (n % how->m)
        return pq_fail(e, PQ_EARG, "rows of %llu do not divide into groups of "
                                   "%u",
                       (unsigned long long)n, how->m);
    return 0;
}

static int check_blocks(const struct pq_prune *how, const struct pq_tensor *t,
                        struct pq_error *e)
{
    char shape[256];
    const uint64_t cols = columns_of(t), rows = cols ? t->n_elements / cols : 0;

    if (rows % how->block_rows == 0 && cols % how->block_cols == 0)
        return 0;
    pq_shape_text(t->shape, t->rank, shape, sizeof shape);
    return pq_fail(e, PQ_EARG, "%s does not divide into blocks of %llux%llu",
                   shape, (unsigned long long)how->block_rows,
                   (unsigned long long)how->block_cols);
}

int pq_prune_check(const struct pq_prune *how, const struct pq_tensor *t,
                   struct pq_error *e)
{
    const bool in_rows = how->scope == PQ_PRUNE_ROW ||
                         how->scope == PQ_PRUNE_GROUPS || how->block_rows;

    if (t->codec.encoding != PQ_PLAIN)
        return pq_fail(e, PQ_EARG, "is %s: dequantize first",
                       pq_encoding_name(t->codec.encoding));
    if (!pq_dtype_is_float(t->dtype))
        return pq_fail(e, PQ_EARG, "is %s, not floating",
                       pq_dtype_name(t->dtype));
    if (in_rows && t->rank < 2)
        return pq_fail(e, PQ_EARG, "has no rows");
    if (how->turned && t->rank != 2)
        return pq_fail(e, PQ_EARG, "has not two dimensions");
    if (t->n_elements == 0)
        return 0;
    if ((how->block_rows && check_blocks(how, t, e)) ||
        (how->norm && pq_norm_check(how, t, e)))
        return -1;
    return how->scope == PQ_PRUNE_GROUPS ? check_groups(how, t, e) : 0;
}

/* ---- the emit pass ------------------------------------------------------- */

/* A unit at work, and the parts of its scratch. */
struct work {
    const struct pq_pruner *m;
    const struct pq_unit *u;
    float *room;   /* for what is widened */
    float *scores; /* the same with norms */
    float *pruned; /* [PQ_PRUNE_TILE] */
    uint8_t *keep;
    float *blocks; /* the scores of blocks, and before them what they need */
    float *masks;  /* for pq_masks_apply() */
    struct pq_pruned *done;
};

static uint64_t n_kept(const uint8_t *keep, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < (n + 7) / 8; i++)
        sum += (unsigned)__builtin_popcount(keep[i]);
    return sum;
}

/* The bytes of elements [at, at + n), or zeros. */
static void put(const struct work *w, uint64_t at, size_t n,
                const uint8_t *keep)
{
    const struct pq_kernels *k = w->m->q->kernels;
    const size_t size = pq_dtype_bits(w->m->in->dtype) / 8;
    const unsigned char *in = (const unsigned char *)w->u->in[0] + at * size;
    unsigned char *out = (unsigned char *)w->u->out[0] + at * size;

    if (size == 4) {
        k->keep_u32((const uint32_t *)(const void *)in, keep, n,
                    (uint32_t *)(void *)out);
    } else if (size == 2) {
        k->keep_u16((const uint16_t *)(const void *)in, keep, n,
                    (uint16_t *)(void *)out);
    } else {
        memset(out, 0, n * size);
        for (size_t i = 0; i < n; i++)
            if (keep[i / 8] >> i % 8 & 1)
                memcpy(out + i * size, in + i * size, size);
    }
}

static void measure(const struct work *w, const float *x, size_t n,
                    const uint8_t *keep)
{
    static const float nothing[PQ_PRUNE_TILE];
    const struct pq_kernels *k = w->m->q->kernels;
    float worst = 0;

    for (size_t at = 0; at < n; at += PQ_PRUNE_TILE) {
        const size_t m = n - at < PQ_PRUNE_TILE ? n - at : PQ_PRUNE_TILE;
        k->keep_u32((const uint32_t *)(const void *)(x + at), keep + at / 8, m,
                    (uint32_t *)(void *)w->pruned);
        w->done->zeros += k->count_equal(w->pruned, nothing, m, 0);
        k->error_stats(x + at, w->pruned, m, &w->done->signal, &w->done->noise,
                       &worst);
    }
}

/* Elements [at, at + n) of the unit, which are x, are kept or not. */
static void deliver(const struct work *w, uint64_t at, const float *x, size_t n,
                    const uint8_t *keep)
{
    keep = pq_masks_apply(w->m, w->u, at, n, keep, w->masks);
    put(w, at, n, keep);
    w->done->n += n;
    w->done->pruned += n - n_kept(keep, n);
    if (w->m->q->measure)
        measure(w, x, n, keep);
}

/* What a tensor or a pool is cut at. */
static const struct pq_prune_cut *cut_of(const struct pq_pruner *m,
                                   const struct pq_prune_state *t)
{
    return m->how->scope == PQ_PRUNE_POOL ? &m->how->pool->cut : &t->cut;
}

static int emit_flat(const struct work *w, const struct pq_prune_cut *c,
                     struct pq_error *e)
{
    const struct pq_pruner *m = w->m;
    const uint64_t n = w->u->in_bytes[0] / (pq_dtype_bits(m->in->dtype) / 8);
    uint64_t tile = PQ_PRUNE_TILE, taken = 0;
    const float least = m->how->threshold;
    const uint32_t from = least > 0 ? pq_abs_bits(least) : 0; /* -0: none */

    if (m->how->scope == PQ_PRUNE_GROUPS) /* whole groups, and whole bytes */
        tile = tile / (8 * m->how->m) * (8 * m->how->m);
    for (uint64_t at = 0; at < n; at += tile) {
        const size_t here = (size_t)(n - at < tile ? n - at : tile);
        const float *x = pq_prune_load(m, w->u, at, here, w->room);
        if (pq_prune_look(m, w->u, at, x, here, e))
            return -1;
        if (m->how->scope == PQ_PRUNE_GROUPS)
            m->q->kernels->keep_groups(
                pq_norm_weigh(m, w->u, at, here, x, w->scores), here,
                m->how->m, m->how->m - m->how->n, w->keep);
        else if (m->how->scope == PQ_PRUNE_BELOW)
            m->q->kernels->keep_from(x, here, from, w->keep);
        else if (m->how->scope != PQ_PRUNE_MASKED)
            pq_cut_keep(m, c, w->u, x, here, &taken, w->keep);
        deliver(w, at, x, here, w->keep);
    }
    return 0;
}

static int emit_rows(const struct work *w, struct pq_error *e)
{
    const struct pq_pruner *m = w->m;
    const size_t n = (size_t)m->cols;
    const uint64_t k = (uint64_t)(m->how->sparsity * (double)n);
    struct pq_prune_cut c;

    for (uint64_t i = 0; i < w->u->count; i++) {
        const float *x = pq_prune_load(m, w->u, i * n, n, w->room);
        if (pq_prune_look(m, w->u, i * n, x, n, e))
            return -1;
        const float *score = pq_norm_weigh(m, w->u, i * n, n, x, w->scores);
        pq_prune_select(score, n, k, &c);
        m->q->kernels->keep_from(score, n, c.bits, w->keep);
        pq_cut_ties(score, c.bits, c.left, w->keep);
        deliver(w, i * n, x, n, w->keep);
    }
    return 0;
}

/* Rows of which each column has a cut of its own. */
static int emit_turned_rows(const struct work *w, struct pq_error *e)
{
    const struct pq_pruner *m = w->m;
    const size_t n = (size_t)m->cols;

    for (uint64_t i = 0; i < w->u->count; i++) {
        const float *x = pq_prune_load(m, w->u, i * n, n, w->room);
        if (pq_prune_look(m, w->u, i * n, x, n, e))
            return -1;
        pq_columns_keep(m->how->cuts,
                        pq_norm_weigh(m, w->u, i * n, n, x, w->scores), n,
                        w->u->first + i, w->keep);
        deliver(w, i * n, x, n, w->keep);
    }
    return 0;
}

/* Groups down the columns, a tile of columns at a time. */
static int emit_across(const struct work *w, struct pq_error *e)
{
    const struct pq_pruner *m = w->m;
    const struct pq_prune *how = m->how;

    for (uint64_t i = 0; i < w->u->count; i++)
        for (uint64_t c = 0; c < m->cols; c += PQ_PRUNE_SIDE) {
            const size_t n = (size_t)(m->cols - c < PQ_PRUNE_SIDE
                                          ? m->cols - c
                                          : PQ_PRUNE_SIDE);
            for (unsigned r = 0; r < how->m; r++) {
                const uint64_t at = i * m->item + r * m->cols + c;
                float *to = w->room + r * PQ_PRUNE_SIDE;
                const float *x = pq_prune_load(m, w->u, at, n, to);
                if (pq_prune_look(m, w->u, at, x, n, e))
                    return -1;
                if (x != to)
                    memcpy(to, x, n * sizeof *to);
            }
            for (unsigned r = 0; how->norm && r < how->m; r++)
                pq_norm_weigh(m, w->u, i * m->item + r * m->cols + c, n,
                              w->room + r * PQ_PRUNE_SIDE,
                              w->scores + r * PQ_PRUNE_SIDE);
            m->q->kernels->keep_across(how->norm ? w->scores : w->room,
                                       PQ_PRUNE_SIDE, how->m,
                                       how->m - how->n, n, w->keep,
                                       PQ_PRUNE_SIDE / 8);
            for (unsigned r = 0; r < how->m; r++)
                deliver(w, i * m->item + r * m->cols + c,
                        w->room + r * PQ_PRUNE_SIDE, n,
                        w->keep + r * (PQ_PRUNE_SIDE / 8));
        }
    return 0;
}

/* Bits of blocks to bits of the elements of a row. */
static void widen_bits(const uint8_t *blocks, uint64_t first, uint64_t n,
                       uint64_t width, uint8_t *keep)
{
    memset(keep, 0, (size_t)((n * width + 7) / 8));
    for (uint64_t b = 0; b < n; b++)
        if (blocks[(first + b) / 8] >> (first + b) % 8 & 1)
            for (uint64_t i = b * width; i < (b + 1) * width; i++)
                keep[i / 8] |= (uint8_t)(1u << i % 8);
}

/* The bits of all blocks of the unit lie behind those of a row. */
static int emit_blocks(const struct work *w, const struct pq_prune_cut *c,
                       struct pq_error *e)
{
    const struct pq_pruner *m = w->m;
    const uint64_t n = w->u->count * m->scores;
    float *score = w->blocks + pq_prune_block_floats(m);
    uint8_t *bits = w->keep + (m->cols + 7) / 8;
    uint64_t taken = 0;

    if (pq_prune_blocks(m, w->u, score, w->blocks, e))
        return -1;
    for (uint64_t at = 0; at < n; at += PQ_PRUNE_TILE)
        pq_cut_keep(m, c, w->u, score + at,
                    (size_t)(n - at < PQ_PRUNE_TILE ? n - at : PQ_PRUNE_TILE),
                    &taken, bits + at / 8);
    for (uint64_t i = 0; i < w->u->count; i++) {
        widen_bits(bits, i * m->scores, m->scores, m->how->block_cols, w->keep);
        for (uint64_t r = 0; r < m->how->block_rows; r++) {
            const uint64_t at = i * m->item + r * m->cols;
            deliver(w, at,
                    pq_prune_load(m, w->u, at, (size_t)m->cols, w->room),
                    (size_t)m->cols, w->keep);
        }
    }
    return 0;
}

/*
 * Floats of scratch: widened elements, a pruned tile, bits, blocks, scores,
 * masks.
 */
static void lay_out(const struct pq_pruner *m, uint64_t unit_items,
                    size_t size[N_AREAS])
{
    const struct pq_prune *how = m->how;
    const size_t row = (size_t)m->cols;

    size[0] = PQ_PRUNE_TILE;
    size[2] = PQ_PRUNE_TILE / 32;
    size[1] = PQ_PRUNE_TILE;
    size[3] = 0;
    if (how->scope == PQ_PRUNE_GROUPS && how->turned) {
        size[0] = how->m * PQ_PRUNE_SIDE;
        size[2] = how->m * PQ_PRUNE_SIDE / 32;
    } else if (how->scope == PQ_PRUNE_ROW) {
        size[0] = row;
        size[2] = row / 32 + 1;
    } else if (how->block_rows) {
        size[0] = row;
        size[2] = row / 32 + (size_t)(unit_items * m->scores) / 32 + 2;
        size[3] = pq_cut_scratch(m, unit_items) / sizeof(float);
    }
    size[4] = how->norm ? size[0] : 0;
    size[5] = pq_masks_floats(how, row > PQ_PRUNE_TILE && m->in->rank > 1
                                       ? row
                                       : PQ_PRUNE_TILE);
    for (int i = 0; i < N_AREAS; i++)
        size[i] = (size[i] + 15) / 16 * 16;
}

static int emit_unit(const struct work *w, const struct pq_prune_cut *c,
                     struct pq_error *e)
{
    const struct pq_prune *how = w->m->how;

    if (how->block_rows)
        return emit_blocks(w, c, e);
    if (how->scope == PQ_PRUNE_ROW)
        return how->turned ? emit_turned_rows(w, e) : emit_rows(w, e);
    if (how->scope == PQ_PRUNE_GROUPS && how->turned)
        return emit_across(w, e);
    return emit_flat(w, c, e);
}

static int emit(const struct pq_step *s, const struct pq_unit *u,
                const void *state, struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    struct pq_prune_part *p = u->partial;
    struct work w = {.m = m, .u = u, .room = u->scratch, .done = &p->done};
    size_t size[N_AREAS];

    if (pq_norm_look(m, u, e))
        return -1;
    lay_out(m, s->unit_items, size);
    w.pruned = w.room + size[0];
    w.keep = (uint8_t *)(void *)(w.pruned + size[1]);
    w.blocks = w.pruned + size[1] + size[2];
    w.scores = w.blocks + size[3];
    w.masks = w.scores + size[4];
    if (emit_unit(&w, cut_of(m, state), e))
        return -1;
    pq_mask_beside(m, u, w.pruned);
    return 0;
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    struct pq_prune_state *t = state;
    const struct pq_prune_part *p = partial;

    (void)e;
    if (pass < s->n_gather) {
        pq_cut_add(s->params, pass, t, p);
        return 0;
    }
    t->done.n += p->done.n;
    t->done.zeros += p->done.zeros;
    t->done.pruned += p->done.pruned;
    t->done.signal += p->done.signal;
    t->done.noise += p->done.noise;
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    const struct pq_prune_state *t = state;

    return m->q->report ? m->q->report(s, &t->done, e) : 0;
}

/* ---- the step ------------------------------------------------------------ */

/* What an item is, so that it begins at a whole byte of bits, too. */
static uint64_t item_of(const struct pq_pruner *m)
{
    const struct pq_prune *how = m->how;

    if (how->block_rows)
        return how->block_rows * m->cols;
    if (how->scope == PQ_PRUNE_GROUPS && how->turned)
        return how->m * m->cols;
    if (how->scope == PQ_PRUNE_ROW || how->scope == PQ_PRUNE_GROUPS)
        return m->cols;
    if (m->in->rank < 2)
        return FLAT_ITEM;
    return m->cols > PQ_PRUNE_UNIT && !pq_masks_want_rows(how, m->cols)
               ? FLAT_ITEM
               : m->cols;
}

/* Are the lower bits of all scores 0?  Few bits widened are. */
static bool is_coarse(const struct pq_pruner *m)
{
    const enum pq_dtype t = m->in->dtype;

    return !m->how->block_rows &&
           (t == PQ_BF16 || t == PQ_F8_E4M3 || t == PQ_F8_E5M2);
}

void pq_pruner_init(struct pq_pruner *m, const struct pq_tensor *in,
                    const struct pq_prune *how, const struct pq_pruning *q)
{
    m->how = how;
    m->q = q;
    m->in = in;
    m->cols = columns_of(in);
    m->item = item_of(m);
    m->scores = how->block_rows ? m->cols / how->block_cols : m->item;
    m->n_scores = how->block_rows
                      ? in->n_elements / (how->block_rows * how->block_cols)
                      : in->n_elements;
    m->coarse = is_coarse(m);
    m->masks = how->norm ? 2 : 1;
    m->mask_cols = in->rank < 2 || m->cols % 8 == 0 ? 0 : m->cols;
}

void pq_pruner_aim(struct pq_step *s, struct pq_source *src,
                   const struct pq_pruner *m)
{
    s->name = m->in->name;
    s->params = m;
    s->items = (m->in->n_elements - 1) / m->item + 1;
    s->unit_items = m->item < PQ_PRUNE_UNIT ? PQ_PRUNE_UNIT / m->item : 1;
    s->in[0].source = src;
    s->in[0].part = &m->in->parts[0];
    s->in[0].item_bits = m->item * pq_dtype_bits(m->in->dtype);
}

struct pq_step *pq_step_prune(struct pq_plan *p, struct pq_source *src,
                              const struct pq_tensor *in, size_t tensor,
                              const struct pq_prune *how,
                              const struct pq_pruning *q, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, (how->norm ? 2 : 1) + how->n_masks,
                                     how->beside.sink ? 2 : 1, e);
    struct pq_pruner *m = pq_arena_alloc(&p->arena, 1, sizeof *m);
    size_t size[N_AREAS];

    if (!s || !m) {
        pq_fail_nomem(e);
        return NULL;
    }
    pq_pruner_init(m, in, how, q);
    pq_pruner_aim(s, src, m);
    pq_norm_input(s, how);
    pq_masks_fill(s, m);
    s->tensor = tensor;
    s->out[0].item_bits = s->in[0].item_bits;
    lay_out(m, s->unit_items, size);
    for (int i = 0; i < N_AREAS; i++)
        s->scratch_bytes += size[i] * sizeof(float);
    s->partial_bytes = sizeof(struct pq_prune_part);
    s->state_bytes = sizeof(struct pq_prune_state);
    if (how->scope == PQ_PRUNE_TENSOR)
        pq_cut_plan(s, m);
    s->combine = combine;
    s->emit = emit;
    s->done = done;
    return s;
}
