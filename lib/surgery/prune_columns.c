/*
 * Turned tensors, [in][out], in scope row: each column makes one output, and
 * has its own k-th smallest score.  A run over the columns finds those; the
 * step that prunes goes over the rows, as they lie.
 */
#include "prune_internal.h"

#include "pq_mem.h"
#include "pq_quant.h"

#include <math.h>
#include <string.h>

#define UNIT_ELEMENTS 65536u /* of some columns */

/* The row behind the n-th tie. */
static uint32_t rows_of_ties(const float *x, size_t rows, uint32_t bits,
                             uint64_t n)
{
    size_t i = 0;

    for (; n > 0 && i < rows; i++)
        n -= pq_abs_bits(x[i]) == bits;
    return (uint32_t)i;
}

static int check(const struct pq_pruner *m, const float *x, size_t rows,
                 uint64_t column, struct pq_error *e)
{
    if (m->q->allow_nonfinite ||
        m->q->kernels->absmax_bits(x, rows) <= PQ_ABS_INF)
        return 0;
    size_t i = 0;
    while (pq_abs_bits(x[i]) <= PQ_ABS_INF)
        i++;
    return pq_fail(e, PQ_EVALUE, "element %llu is NaN",
                   (unsigned long long)(i * m->cols + column));
}

/* Columns [rows][count] are widened, turned, and cut one by one. */
static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct pq_pruner *m = s->params;
    const size_t rows = (size_t)m->in->shape[0], n = (size_t)u->count;
    const uint64_t k = (uint64_t)(m->how->sparsity * (double)rows);
    float *wide = u->scratch, *turned = wide + rows * s->unit_items;
    const float *norm = m->how->norm ? u->in[1] : NULL;
    struct pq_prune_cut c;

    (void)pass;
    (void)state;
    if (pq_norm_look(m, u, e))
        return -1;
    pq_load_f32(m->q->kernels, m->in->dtype, u->in[0], rows * n, wide);
    m->q->kernels->transpose(wide, turned, rows, n, sizeof *wide);
    for (size_t i = 0; i < n; i++, turned += rows) {
        struct pq_column_cut *cut = &m->how->cuts[u->first + i];
        if (check(m, turned, rows, u->first + i, e))
            return -1;
        for (size_t r = 0; norm && r < rows; r++)
            turned[r] = fabsf(turned[r]) * norm[r];
        pq_prune_select(turned, rows, k, &c);
        cut->bits = c.bits;
        cut->rows = rows_of_ties(turned, rows, c.bits, c.left);
    }
    return 0;
}

void pq_columns_keep(const struct pq_column_cut *cuts, const float *score,
                     size_t n, uint64_t row, uint8_t *keep)
{
    memset(keep, 0, (n + 7) / 8);
    for (size_t i = 0; i < n; i++) {
        const uint32_t v = pq_abs_bits(score[i]);
        const bool stays = v > cuts[i].bits ||
                           (v == cuts[i].bits && row >= cuts[i].rows);
        keep[i / 8] |= (uint8_t)((unsigned)stays << i % 8);
    }
}

struct pq_step *pq_step_prune_columns(struct pq_plan *p, struct pq_source *src,
                                      const struct pq_tensor *in,
                                      const struct pq_prune *how,
                                      const struct pq_pruning *q,
                                      struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, how->norm ? 2 : 1, 0, e);
    struct pq_pruner *m = pq_arena_alloc(&p->arena, 1, sizeof *m);
    uint64_t bytes;

    if (!s || !m) {
        pq_fail_nomem(e);
        return NULL;
    }
    pq_pruner_init(m, in, how, q);
    pq_pruner_aim(s, src, m);
    s->items = m->cols;
    s->unit_items = in->shape[0] < UNIT_ELEMENTS
                        ? UNIT_ELEMENTS / in->shape[0]
                        : 1;
    if (s->unit_items > s->items)
        s->unit_items = s->items;
    s->in[0].access = PQ_COLUMNS;
    s->in[0].item_columns = 1;
    pq_norm_input(s, how);
    if (!pq_mul(in->shape[0], 2 * s->unit_items * sizeof(float), &bytes)) {
        pq_fail(e, PQ_ELIMIT, "tensor %s: too many rows", in->name);
        return NULL;
    }
    s->scratch_bytes = (size_t)bytes;
    s->n_gather = 1;
    s->gather = gather;
    return s;
}
