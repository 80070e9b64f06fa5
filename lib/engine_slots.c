/*
 * The engine's slots: how many tickets may be in flight, what memory each
 * has, and how a unit's buffers are cut from it.
 *
 *     | in[0] | in[1] | ... | out[0] | ... | partial | scratch |
 *
 * each aligned to 64 bytes.
 */
#include "engine_internal.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN       64u
#define SPARE_SLOTS 3u

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes that the buffers of a full unit of this step take. */
static int step_bytes(const struct pq_step *s, uint64_t *bytes,
                      struct pq_error *e)
{
    const uint64_t count = s->items < s->unit_items ? s->items : s->unit_items;
    uint64_t sum = aligned(s->scratch_bytes) + aligned(s->partial_bytes);

    for (size_t i = 0; i < s->n_in; i++)
        if (s->in[i].access != PQ_WHOLE &&
            !pq_add(sum, pq_input_bytes(&s->in[i], 0, count) + 2 * ALIGN,
                    &sum))
            return pq_fail(e, PQ_ELIMIT, "unit is too large");
    for (size_t i = 0; i < s->n_out; i++) {
        uint64_t n;
        if (!pq_mul(count, s->out[i].item_bits, &n) ||
            !pq_add(sum, n / 8 + 2 * ALIGN, &sum))
            return pq_fail(e, PQ_ELIMIT, "unit is too large");
    }
    *bytes = sum;
    return 0;
}

static int slot_init(struct pq_slot *s, size_t bytes, size_t n_in, size_t n_out)
{
    s->in = pq_zalloc(n_in, sizeof *s->in);
    s->in_bytes = pq_zalloc(n_in, sizeof *s->in_bytes);
    s->out = pq_zalloc(n_out, sizeof *s->out);
    s->out_bytes = pq_zalloc(n_out, sizeof *s->out_bytes);
    s->buffer = aligned_alloc(ALIGN, bytes);
    return s->in && s->in_bytes && s->out && s->out_bytes && s->buffer ? 0 : -1;
}

int pq_engine_slots(struct pq_engine *g, struct pq_error *e)
{
    const struct pq_plan *p = g->plan;
    size_t n_in = 1, n_out = 1;
    uint64_t most = ALIGN, state = 0;

    for (size_t i = 0; i < p->n_steps; i++) {
        uint64_t n = 0, all;
        if (step_bytes(&p->steps[i], &n, e))
            return pq_error_in(e, "tensor %s", p->steps[i].name);
        if (!pq_add(n, p->steps[i].state_bytes, &all) ||
            all > g->run->memory)
            return pq_fail(e, PQ_ELIMIT,
                           "tensor %s: needs %llu MiB of buffers; give more "
                           "with --memory",
                           p->steps[i].name,
                           (unsigned long long)(all >> 20) + 1);
        most = n > most ? n : most;
        state = all - n > state ? all - n : state;
        n_in = p->steps[i].n_in > n_in ? p->steps[i].n_in : n_in;
        n_out = p->steps[i].n_out > n_out ? p->steps[i].n_out : n_out;
    }
    g->slot_bytes = aligned((size_t)most);
    g->n_slots = g->run->threads + SPARE_SLOTS;
    const uint64_t half = g->run->memory / 2, rest = g->run->memory - state;
    const uint64_t fit = (half < rest ? half : rest) / g->slot_bytes;
    if (fit < g->n_slots)
        g->n_slots = fit ? (size_t)fit : 1;
    g->slots = pq_zalloc(g->n_slots, sizeof *g->slots);
    if (!g->slots)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < g->n_slots; i++)
        if (slot_init(&g->slots[i], g->slot_bytes, n_in, n_out))
            return pq_fail_nomem(e);
    const uint64_t used = (uint64_t)g->n_slots * g->slot_bytes;
    g->budget.left = used < g->run->memory ? g->run->memory - used : 0;
    g->budget.dir = g->run->tmpdir;
    return 0;
}

void pq_slot_lay_out(struct pq_engine *g, struct pq_slot *s)
{
    const struct pq_step *step = &g->plan->steps[s->step];
    const struct pq_live *l = g->live[s->step];
    size_t at = 0;

    for (size_t i = 0; i < step->n_in; i++) {
        s->in_bytes[i] =
            pq_input_bytes(&step->in[i], s->unit.first, s->unit.count);
        if (step->in[i].access == PQ_WHOLE) {
            s->in[i] = l->whole[i];
            continue;
        }
        s->in[i] = s->buffer + at;
        at += aligned((size_t)s->in_bytes[i] + 1);
    }
    for (size_t i = 0; i < step->n_out; i++) {
        s->out[i] = s->buffer + at;
        s->out_bytes[i] = step->out[i].trail && l->spooled[i]
                              ? s->unit.count * step->out[i].item_bits / 8
                              : pq_output_bytes(g, step, i, s->unit.first,
                                                s->unit.count);
        at += aligned((size_t)s->out_bytes[i] + 1);
    }
    s->unit.in = (const void *const *)s->in;
    s->unit.in_bytes = s->in_bytes;
    s->unit.out = s->out;
    s->unit.out_bytes = s->out_bytes;
    s->unit.partial = step->partial_bytes ? s->buffer + at : NULL;
    if (step->partial_bytes)
        memset(s->unit.partial, 0, step->partial_bytes);
    at += aligned(step->partial_bytes);
    s->unit.scratch = s->buffer + at;
}

void pq_engine_slots_free(struct pq_engine *g)
{
    for (size_t i = 0; g->slots && i < g->n_slots; i++) {
        free(g->slots[i].in);
        free(g->slots[i].in_bytes);
        free(g->slots[i].out);
        free(g->slots[i].out_bytes);
        free(g->slots[i].buffer);
    }
    free(g->slots);
}
