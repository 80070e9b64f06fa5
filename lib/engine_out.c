/*
 * The engine's outputs: from units to places of the sink, trailing parts
 * through spools, constants where nothing else fills a part.
 */
#include "engine_internal.h"

#include <stdlib.h>
#include <string.h>

#define COPY_BYTES (1u << 16)

static struct pq_tensor *tensor_of(const struct pq_engine *g,
                                   const struct pq_step *s)
{
    return &g->plan->sink->catalog->tensors[s->tensor];
}

static size_t place_of(const struct pq_engine *g, size_t tensor, size_t part)
{
    return g->place[g->first_place[tensor] + part];
}

int pq_engine_places(struct pq_engine *g, struct pq_error *e)
{
    const struct pq_sink *k = g->plan->sink;
    size_t n = 0;

    if (!k)
        return 0;
    g->first_place =
        pq_alloc(k->catalog->n_tensors, sizeof *g->first_place);
    g->place = pq_alloc(k->n_order, sizeof *g->place);
    if (!g->first_place || !g->place)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < k->catalog->n_tensors; i++) {
        g->first_place[i] = n;
        n += k->catalog->tensors[i].n_parts;
    }
    for (size_t i = 0; i < k->n_order; i++)
        g->place[g->first_place[k->order[i].tensor] + k->order[i].part] = i;
    return 0;
}

uint64_t pq_output_bytes(const struct pq_engine *g, const struct pq_step *s,
                         size_t i, uint64_t first, uint64_t count)
{
    const struct pq_part *p = &tensor_of(g, s)->parts[s->out[i].part];
    const struct pq_input as_input = {.part = p,
                                      .access = PQ_RANGE,
                                      .item_bits = s->out[i].item_bits};

    return pq_input_bytes(&as_input, first, count);
}

/* A trailing part that nobody changes needs no spool in a positional sink. */
int pq_engine_open_trail(struct pq_engine *g, const struct pq_step *s,
                         struct pq_live *l, struct pq_error *e)
{
    for (size_t i = 0; i < s->n_out; i++) {
        const struct pq_output *o = &s->out[i];
        if (!o->trail || (g->plan->sink->positional && !s->finish))
            continue;
        /* finish() may store another type: the spool holds what units make */
        uint64_t bits, bytes;
        if (!pq_mul(s->items, o->item_bits, &bits) ||
            !pq_add(bits, 7, &bytes))
            return pq_fail(e, PQ_ELIMIT, "trailing part is too large");
        if (pq_spool_init(&l->trail[i], &g->budget, bytes / 8, e))
            return -1;
        l->spooled[i] = true;
    }
    return 0;
}

static int sink_write(struct pq_engine *g, size_t tensor, size_t part,
                      uint64_t offset, const void *buf, uint64_t n,
                      struct pq_error *e)
{
    struct pq_sink *k = g->plan->sink;

    return k->ops->write(k, place_of(g, tensor, part), offset, buf, (size_t)n,
                         e);
}

int pq_engine_spool(struct pq_engine *g, const struct pq_slot *s,
                    struct pq_live *l, struct pq_error *e)
{
    const struct pq_step *step = &g->plan->steps[s->step];

    for (size_t i = 0; i < step->n_out; i++) {
        const uint64_t at = s->unit.first * step->out[i].item_bits / 8;
        if (l->spooled[i] && pq_spool_write(&l->trail[i], at, s->out[i],
                                            (size_t)s->out_bytes[i], e))
            return -1;
    }
    return 0;
}

int pq_engine_write(struct pq_engine *g, const struct pq_slot *s,
                    const struct pq_live *l, struct pq_error *e)
{
    const struct pq_step *step = &g->plan->steps[s->step];

    for (size_t i = 0; i < step->n_out; i++) {
        const struct pq_output *o = &step->out[i];
        const uint64_t at = s->unit.first * o->item_bits / 8;
        if (!l->spooled[i] && s->out_bytes[i] > 0 &&
            sink_write(g, step->tensor, o->part, at, s->out[i],
                       s->out_bytes[i], e))
            return -1;
    }
    return 0;
}

/* ---- the end of a step ------------------------------------------------- */

int pq_trail_read(struct pq_trail *t, size_t output, uint64_t offset, void *buf,
                  size_t n, struct pq_error *e)
{
    return pq_spool_read(&t->live->trail[output], offset, buf, n, e);
}

int pq_trail_write(struct pq_trail *t, size_t part, uint64_t offset,
                   const void *buf, size_t n, struct pq_error *e)
{
    t->live->written[part] = true;
    return sink_write(t->g, t->step->tensor, part, offset, buf, n, e);
}

static int copy_spool(struct pq_engine *g, const struct pq_step *s, size_t part,
                      const struct pq_spool *from, struct pq_error *e)
{
    const uint64_t bytes = tensor_of(g, s)->parts[part].bytes;
    unsigned char *buf = pq_alloc(COPY_BYTES, 1);
    int rc = buf ? 0 : pq_fail_nomem(e);

    for (uint64_t at = 0; !rc && at < bytes; at += COPY_BYTES) {
        const size_t n =
            bytes - at < COPY_BYTES ? (size_t)(bytes - at) : COPY_BYTES;
        rc = pq_spool_read(from, at, buf, n, e);
        if (!rc)
            rc = sink_write(g, s->tensor, part, at, buf, n, e);
    }
    free(buf);
    return rc;
}

/* Constants whose place comes later are left to pq_engine_write_deferred. */
static bool is_deferred(const struct pq_engine *g, const struct pq_step *s,
                        size_t part)
{
    const struct pq_tensor *t = tensor_of(g, s);

    return !g->plan->sink->positional && part > 0 &&
           t->parts[part].constant &&
           place_of(g, s->tensor, part) !=
               place_of(g, s->tensor, part - 1) + 1;
}

static int write_rest(struct pq_engine *g, const struct pq_step *s,
                      struct pq_live *l, size_t part, struct pq_error *e)
{
    const struct pq_part *p = &tensor_of(g, s)->parts[part];

    if (p->constant) {
        if (is_deferred(g, s, part))
            return 0;
        return sink_write(g, s->tensor, part, 0, p->constant, p->bytes, e);
    }
    if (p->bytes == 0)
        return sink_write(g, s->tensor, part, 0, "", 0, e);
    for (size_t i = 0; i < s->n_out; i++)
        if (s->out[i].part == part)
            return l->spooled[i] ? copy_spool(g, s, part, &l->trail[i], e) : 0;
    return pq_fail(e, PQ_EARG, "part %s has no bytes", p->name);
}

int pq_engine_close_outputs(struct pq_engine *g, const struct pq_step *s,
                            struct pq_live *l, struct pq_error *e)
{
    struct pq_trail t = {g, s, l};

    if (s->finish && s->finish(s, l->state, &t, e))
        return -1;
    const size_t end =
        s->n_parts ? s->first_part + s->n_parts : tensor_of(g, s)->n_parts;
    for (size_t i = s->first_part; i < end; i++)
        if (!l->written[i] && write_rest(g, s, l, i, e))
            return -1;
    return 0;
}

int pq_engine_write_deferred(struct pq_engine *g, struct pq_error *e)
{
    struct pq_sink *k = g->plan->sink;

    if (!k || k->positional)
        return 0;
    for (size_t i = 0; i < k->n_order; i++) {
        const struct pq_place *o = &k->order[i];
        const struct pq_part *p =
            &k->catalog->tensors[o->tensor].parts[o->part];
        if (!p->constant || o->part == 0 ||
            place_of(g, o->tensor, o->part - 1) + 1 == i)
            continue;
        if (k->ops->write(k, i, 0, p->constant, (size_t)p->bytes, e))
            return -1;
    }
    return 0;
}
