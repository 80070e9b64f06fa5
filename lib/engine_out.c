/*
 * The engine's outputs: from units to places of the sinks, trailing parts
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

/* The tensor that output i of a step is a part of, in its sink. */
static size_t tensor_number(const struct pq_step *s, size_t i)
{
    return s->out[i].sink ? s->out[i].tensor : s->tensor;
}

static size_t place_of(const struct pq_outlet *o, size_t tensor, size_t part)
{
    return o->place[o->first_place[tensor] + part];
}

/* ---- the sinks --------------------------------------------------------- */

static int find_places(struct pq_outlet *o, struct pq_error *e)
{
    const struct pq_sink *k = o->sink;
    size_t n = 0;

    o->first_place = pq_alloc(k->catalog->n_tensors, sizeof *o->first_place);
    o->place = pq_alloc(k->n_order, sizeof *o->place);
    if (!o->first_place || !o->place)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < k->catalog->n_tensors; i++) {
        o->first_place[i] = n;
        n += k->catalog->tensors[i].n_parts;
    }
    for (size_t i = 0; i < k->n_order; i++)
        o->place[o->first_place[k->order[i].tensor] + k->order[i].part] = i;
    return 0;
}

int pq_engine_places(struct pq_engine *g, struct pq_error *e)
{
    const struct pq_plan *p = g->plan;

    g->outlets = pq_zalloc(1 + p->n_sides, sizeof *g->outlets);
    if (!g->outlets)
        return pq_fail_nomem(e);
    for (size_t i = 0; i <= p->n_sides; i++) {
        g->outlets[i].sink = i ? p->sides[i - 1] : p->sink;
        if (g->outlets[i].sink && find_places(&g->outlets[i], e))
            return -1;
    }
    return 0;
}

void pq_engine_places_free(struct pq_engine *g)
{
    for (size_t i = 0; g->outlets && i <= g->plan->n_sides; i++) {
        free(g->outlets[i].first_place);
        free(g->outlets[i].place);
    }
    free(g->outlets);
}

/* The i-th outlet to be begun and finished: the main one is the last. */
static struct pq_outlet *in_turn(const struct pq_engine *g, size_t i)
{
    return &g->outlets[i < g->plan->n_sides ? i + 1 : 0];
}

int pq_engine_begin(struct pq_engine *g, struct pq_error *e)
{
    for (size_t i = 0; i <= g->plan->n_sides; i++) {
        struct pq_sink *k = in_turn(g, i)->sink;
        if (!k)
            continue;
        k->begun = true;
        if (k->ops->begin(k, e))
            return -1;
    }
    return 0;
}

int pq_engine_finish(struct pq_engine *g, struct pq_error *e)
{
    for (size_t i = 0; i <= g->plan->n_sides; i++) {
        struct pq_sink *k = in_turn(g, i)->sink;
        if (k && k->ops->seal && k->ops->seal(k, e))
            return -1;
    }
    for (size_t i = 0; i <= g->plan->n_sides; i++) {
        struct pq_outlet *o = in_turn(g, i);
        if (o->sink && o->sink->ops->finish(o->sink, e))
            return -1;
        o->finished = true;
    }
    return 0;
}

void pq_engine_abort(struct pq_engine *g, const struct pq_error *why)
{
    const struct pq_plan *p = g->plan;

    for (size_t i = 0; i <= p->n_sides; i++) {
        struct pq_sink *k = i ? p->sides[i - 1] : p->sink;
        if (k && !(g->outlets && g->outlets[i].finished))
            k->ops->abort(k, why);
    }
}

/* ---- units ------------------------------------------------------------- */

uint64_t pq_output_bytes(const struct pq_engine *g, const struct pq_step *s,
                         size_t i, uint64_t first, uint64_t count)
{
    const struct pq_catalog *c = g->outlets[s->out[i].sink].sink->catalog;
    const struct pq_input as_input = {.part = &c->tensors[tensor_number(s, i)]
                                                   .parts[s->out[i].part],
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
        if (o->trail && o->sink)
            return pq_fail(e, PQ_EARG, "a side output cannot trail");
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

static int sink_write(const struct pq_outlet *o, size_t tensor, size_t part,
                      uint64_t offset, const void *buf, uint64_t n,
                      struct pq_error *e)
{
    struct pq_sink *k = o->sink;

    return k->ops->write(k, place_of(o, tensor, part), offset, buf, (size_t)n,
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
            sink_write(&g->outlets[o->sink], tensor_number(step, i), o->part,
                       at, s->out[i], s->out_bytes[i], e))
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
    return sink_write(t->g->outlets, t->step->tensor, part, offset, buf, n, e);
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
            rc = sink_write(g->outlets, s->tensor, part, at, buf, n, e);
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
           place_of(g->outlets, s->tensor, part) !=
               place_of(g->outlets, s->tensor, part - 1) + 1;
}

static int write_rest(struct pq_engine *g, const struct pq_step *s,
                      struct pq_live *l, size_t part, struct pq_error *e)
{
    const struct pq_part *p = &tensor_of(g, s)->parts[part];

    if (p->constant) {
        if (is_deferred(g, s, part))
            return 0;
        return sink_write(g->outlets, s->tensor, part, 0, p->constant, p->bytes, e);
    }
    if (p->bytes == 0)
        return sink_write(g->outlets, s->tensor, part, 0, "", 0, e);
    for (size_t i = 0; i < s->n_out; i++)
        if (!s->out[i].sink && s->out[i].part == part)
            return l->spooled[i] ? copy_spool(g, s, part, &l->trail[i], e) : 0;
    return pq_fail(e, PQ_EARG, "part %s has no bytes", p->name);
}

/* Does the step write to the main sink?  One without outputs: constants. */
static bool writes_main(const struct pq_engine *g, const struct pq_step *s)
{
    bool main = s->n_out == 0;

    for (size_t i = 0; i < s->n_out; i++)
        main = main || s->out[i].sink == 0;
    return main && g->plan->sink;
}

static int close_main(struct pq_engine *g, const struct pq_step *s,
                      struct pq_live *l, struct pq_error *e)
{
    const size_t end =
        s->n_parts ? s->first_part + s->n_parts : tensor_of(g, s)->n_parts;

    for (size_t i = s->first_part; i < end; i++)
        if (!l->written[i] && write_rest(g, s, l, i, e))
            return -1;
    return 0;
}

int pq_engine_close_outputs(struct pq_engine *g, const struct pq_step *s,
                            struct pq_live *l, struct pq_error *e)
{
    struct pq_trail t = {g, s, l};

    if (s->finish && s->finish(s, l->state, &t, e))
        return -1;
    if (writes_main(g, s) && close_main(g, s, l, e))
        return -1;
    /* a sink wants to hear of every part, of empty ones too */
    for (size_t i = 0; i < s->n_out; i++) {
        const struct pq_output *o = &s->out[i];
        if (o->sink && pq_output_bytes(g, s, i, 0, s->items) == 0 &&
            sink_write(&g->outlets[o->sink], o->tensor, o->part, 0, "", 0, e))
            return -1;
    }
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
            place_of(g->outlets, o->tensor, o->part - 1) + 1 == i)
            continue;
        if (k->ops->write(k, i, 0, p->constant, (size_t)p->bytes, e))
            return -1;
    }
    return 0;
}
