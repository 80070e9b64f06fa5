/*
 * Matrices put together: one below the other, side by side, or summed.
 *
 *     below   [c1 A1; c2 A2]     beside   [c1 B1, c2 B2]     added   sum c T
 *
 * Made for the factors of adapters, which are small: a step is one unit.
 */
#include "pq_kernels.h"
#include "pq_surgery.h"

#include <string.h>

struct concat {
    const struct pq_piece *pieces;
    size_t n;
    enum pq_joint joint;
    const struct pq_tensor *out;
    const struct pq_quant *quant;
};

static uint64_t columns_of(const struct pq_tensor *t)
{
    return t->rank && t->shape[0] ? t->n_elements / t->shape[0] : 0;
}

/* Puts piece x [rows][cols] where it belongs; returns where the next one is. */
static float *place(const struct concat *c, const float *x, uint64_t rows,
                    uint64_t cols, float scale, float *to)
{
    const bool beside = c->joint == PQ_BESIDE;
    const uint64_t stride = beside ? columns_of(c->out) : cols;

    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t k = 0; k < cols; k++)
            to[i * stride + k] += scale * x[i * cols + k];
    return c->joint == PQ_ADDED ? to : to + (beside ? cols : rows * cols);
}

static int emit(const struct pq_step *s, const struct pq_unit *u,
                const void *state, struct pq_error *e)
{
    const struct concat *c = s->params;
    const struct pq_kernels *k = c->quant->kernels;
    const uint64_t n = c->out->n_elements;
    float *all = u->scratch, *next = all, *x = all + n;

    (void)state;
    memset(all, 0, n * sizeof *all);
    for (size_t i = 0; i < c->n; i++) {
        const struct pq_tensor *t = c->pieces[i].tensor;
        pq_load_f32(k, t->dtype, u->in[i], t->n_elements, x);
        next = place(c, x, t->shape[0], columns_of(t),
                     (float)c->pieces[i].scale, next);
    }
    if (!c->quant->allow_nonfinite && k->count_nonfinite(all, n))
        return pq_fail(e, PQ_EVALUE, "has NaN or infinite elements");
    pq_store_f32(k, c->out->dtype, all, n, u->out[0]);
    return 0;
}

static bool fits(const struct concat *c, const struct pq_tensor *t)
{
    const struct pq_tensor *out = c->out;

    switch (c->joint) {
    case PQ_BELOW:
        return t->rank >= 2 && columns_of(t) == columns_of(out);
    case PQ_BESIDE:
        return t->rank >= 2 && t->shape[0] == out->shape[0];
    default:
        return t->rank == out->rank && t->rank > 0 &&
               memcmp(t->shape, out->shape,
                      (size_t)t->rank * sizeof *t->shape) == 0;
    }
}

/* The pieces fill the output, no more and no less. */
static int check(const struct concat *c, struct pq_error *e)
{
    const struct pq_tensor *out = c->out;
    uint64_t rows = 0, cols = 0;

    for (size_t i = 0; i < c->n; i++) {
        const struct pq_tensor *t = c->pieces[i].tensor;
        if (!fits(c, t))
            return pq_fail(e, PQ_EARG,
                           "%s: tensor %s: its shape does not fit the other "
                           "adapters (made for another model?)",
                           c->pieces[i].source->name, t->name);
        rows += t->shape[0];
        cols += columns_of(t);
    }
    if (c->joint == PQ_BESIDE  ? cols != columns_of(out)
        : c->joint == PQ_BELOW ? rows != out->shape[0]
                               : false)
        return pq_fail(e, PQ_EARG, "tensor %s: the pieces do not fill it",
                       out->name);
    return 0;
}

struct pq_step *pq_step_concat(struct pq_plan *p, const struct pq_catalog *out,
                               size_t tensor, const struct pq_piece *pieces,
                               size_t n, enum pq_joint joint,
                               const struct pq_quant *q, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, n, 1, e);
    struct concat *c = pq_arena_alloc(&p->arena, 1, sizeof *c);
    uint64_t largest = 0;

    if (!s || !c) {
        pq_fail_nomem(e);
        return NULL;
    }
    *c = (struct concat){pieces, n, joint, &out->tensors[tensor], q};
    if (check(c, e))
        return NULL;
    for (size_t i = 0; i < n; i++) {
        s->in[i].source = pieces[i].source;
        s->in[i].part = &pieces[i].tensor->parts[0];
        s->in[i].access = PQ_WHOLE;
        if (pieces[i].tensor->n_elements > largest)
            largest = pieces[i].tensor->n_elements;
    }
    s->name = c->out->name;
    s->tensor = tensor;
    s->params = c;
    s->emit = emit;
    s->items = s->unit_items = 1;
    s->out[0].item_bits = c->out->parts[0].bytes * 8;
    s->scratch_bytes = (c->out->n_elements + largest) * sizeof(float);
    return s;
}
