/*
 * Decoding steps: codes and scales back to a floating type.
 *
 *   w = f32(map[code] * absmax), rounded once to the output type
 *   w = f32(q * scb) * f32(1/127) for LLM.int8() rows
 *
 * absmax of a double-quantized tensor is restored first (nested.c).  To turn
 * a tensor as well, cast it from a source that decodes (decoded.c).
 */
#include "quant_internal.h"

#include <string.h>

/* Inputs of a blockwise step, by position. */
enum { CODES, ABSMAX, MAP, NESTED_ABSMAX, NESTED_MAP, STATE };

/* For maps that are not bitsandbytes' own: any table will do. */
static void decode_by_map(const struct pq_tensor *t, const uint8_t *codes,
                          const float *absmax, const float *map, size_t n,
                          float *y)
{
    const bool four = t->codec.encoding != PQ_INT8_BLOCK;
    const size_t block = t->codec.block;

    for (size_t i = 0; i < n; i++) {
        const unsigned byte = codes[four ? i / 2 : i];
        const unsigned code = !four ? byte : i % 2 ? byte & 15 : byte >> 4;
        y[i] = map[code] * absmax[i / block];
    }
}

void pq_decode_blocks(const struct pq_kernels *k, const struct pq_tensor *t,
                      const uint8_t *codes, const float *absmax,
                      const float *map, size_t n, float *y)
{
    const enum pq_encoding enc = t->codec.encoding;
    const size_t block = t->codec.block;
    const size_t map_bytes = (enc == PQ_INT8_BLOCK ? 256 : 16) * sizeof *map;

    if (memcmp(map, pq_quant_map(enc), map_bytes) != 0)
        decode_by_map(t, codes, absmax, map, n, y);
    else if (enc == PQ_NF4)
        k->nf4_decode(codes, absmax, n, block, y);
    else if (enc == PQ_FP4)
        k->fp4_decode(codes, absmax, n, block, y);
    else
        k->dyn8_decode(codes, absmax, n, block, y);
}

/* absmax of blocks [first, first + n) from their 8-bit codes. */
static int restore_absmax(const struct pq_quant_step *p,
                          const struct pq_unit *u, uint64_t n, float *absmax,
                          struct pq_error *e)
{
    const float *nested = u->in[NESTED_ABSMAX];
    const uint64_t block = p->in->codec.nested_block;
    double offset;

    if (pq_state_offset(u->in[STATE], (size_t)u->in_bytes[STATE], &offset, e))
        return -1;
    pq_nested_undo(u->in[ABSMAX], u->in[NESTED_MAP], nested + u->first / block,
                   u->first, n, block, offset, absmax);
    return 0;
}

static uint64_t unit_elements(const struct pq_quant_step *p,
                              const struct pq_unit *u, uint64_t per_item)
{
    const uint64_t first = u->first * per_item;
    const uint64_t n = u->count * per_item;

    return n < p->in->n_elements - first ? n : p->in->n_elements - first;
}

static int emit_blocks(const struct pq_step *s, const struct pq_unit *u,
                       const void *state, struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    const uint64_t block = p->in->codec.block;
    const uint64_t n = unit_elements(p, u, block);
    float *y = u->scratch;
    float *restored = y + p->unit_elements;
    const float *absmax = u->in[ABSMAX];

    (void)state;
    if (p->in->codec.nested_block) {
        if (restore_absmax(p, u, pq_blocks_of(n, block), restored, e))
            return -1;
        absmax = restored;
    }
    pq_decode_blocks(p->quant->kernels, p->in, u->in[CODES], absmax, u->in[MAP],
                     n, y);
    pq_store_f32(p->quant->kernels, p->out->dtype, y, n, u->out[0]);
    return 0;
}

static int emit_rows(const struct pq_step *s, const struct pq_unit *u,
                     const void *state, struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    const uint64_t n = unit_elements(p, u, p->in->shape[1]);
    float *y = u->scratch;

    (void)state;
    (void)e;
    p->quant->kernels->int8_rows_decode(u->in[CODES], u->in[ABSMAX],
                                        n / p->in->shape[1], p->in->shape[1],
                                        y);
    pq_store_f32(p->quant->kernels, p->out->dtype, y, n, u->out[0]);
    return 0;
}

static int emit_plain(const struct pq_step *s, const struct pq_unit *u,
                      const void *state, struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    const uint64_t n = unit_elements(p, u, 1);
    float *y = u->scratch;

    (void)state;
    (void)e;
    pq_load_f32(p->quant->kernels, p->in->dtype, u->in[CODES], n, y);
    pq_store_f32(p->quant->kernels, p->out->dtype, y, n, u->out[0]);
    return 0;
}

/* ---- making the step --------------------------------------------------- */

static int add_input(struct pq_step *s, size_t i, struct pq_source *src,
                     const struct pq_tensor *t, enum pq_role role,
                     enum pq_access access, uint64_t bits, struct pq_error *e)
{
    s->in[i].source = src;
    s->in[i].part = pq_part_of(t, role);
    s->in[i].access = access;
    s->in[i].item_bits = bits;
    return s->in[i].part ? 0
                         : pq_fail(e, PQ_EFORMAT,
                                   "tensor %s: a part of its encoding is "
                                   "missing",
                                   t->name);
}

/* Inputs of the encodings in blocks; an item is a block. */
static int add_block_inputs(struct pq_step *s, struct pq_source *src,
                            const struct pq_tensor *t, struct pq_error *e)
{
    const bool nested = t->codec.nested_block > 0;
    const uint64_t bits = t->codec.encoding == PQ_INT8_BLOCK ? 8 : 4;

    if (add_input(s, CODES, src, t, PQ_ROLE_DATA, PQ_RANGE,
                  t->codec.block * bits, e) ||
        add_input(s, ABSMAX, src, t, PQ_ROLE_ABSMAX, PQ_RANGE,
                  nested ? 8 : 32, e) ||
        add_input(s, MAP, src, t, PQ_ROLE_QUANT_MAP, PQ_WHOLE, 0, e))
        return -1;
    if (!nested)
        return 0;
    return add_input(s, NESTED_ABSMAX, src, t, PQ_ROLE_NESTED_ABSMAX, PQ_WHOLE,
                     0, e) ||
                   add_input(s, NESTED_MAP, src, t, PQ_ROLE_NESTED_QUANT_MAP,
                             PQ_WHOLE, 0, e) ||
                   add_input(s, STATE, src, t, PQ_ROLE_QUANT_STATE, PQ_WHOLE, 0,
                             e)
               ? -1
               : 0;
}

static size_t count_inputs(const struct pq_tensor *t)
{
    switch (t->codec.encoding) {
    case PQ_PLAIN:
        return 1;
    case PQ_INT8:
        return 2;
    default:
        return t->codec.nested_block ? 6 : 3;
    }
}

static int set_inputs(struct pq_step *s, struct pq_source *src,
                      const struct pq_quant_step *p, uint64_t item,
                      struct pq_error *e)
{
    const struct pq_tensor *t = p->in;

    switch (t->codec.encoding) {
    case PQ_PLAIN:
        s->emit = emit_plain;
        return add_input(s, CODES, src, t, PQ_ROLE_DATA, PQ_RANGE,
                         pq_dtype_bits(t->dtype), e);
    case PQ_INT8:
        s->emit = emit_rows;
        return add_input(s, CODES, src, t, PQ_ROLE_DATA, PQ_RANGE, item * 8,
                         e) ||
                       add_input(s, ABSMAX, src, t, PQ_ROLE_SCB, PQ_RANGE,
                                 32, e)
                   ? -1
                   : 0;
    default:
        s->emit = emit_blocks;
        return add_block_inputs(s, src, t, e);
    }
}

static uint64_t item_of(const struct pq_tensor *t)
{
    if (t->codec.encoding == PQ_PLAIN)
        return 1;
    if (t->codec.encoding == PQ_INT8)
        return t->shape[1] ? t->shape[1] : 1;
    return t->codec.block;
}

struct pq_step *pq_step_decode(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_quant *q, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, count_inputs(in), 1, e);
    struct pq_quant_step *c = pq_arena_alloc(&p->arena, 1, sizeof *c);

    if (!s)
        return NULL;
    if (!c) {
        pq_fail_nomem(e);
        return NULL;
    }
    c->quant = q;
    c->in = in;
    c->out = &out->tensors[tensor];
    const uint64_t item = item_of(in), n = in->n_elements;
    s->name = in->name;
    s->tensor = tensor;
    s->params = c;
    s->items = n / item + (n % item > 0);
    s->unit_items = PQ_UNIT_ELEMENTS / item ? PQ_UNIT_ELEMENTS / item : 1;
    c->unit_elements = s->unit_items * item;
    s->out[0].item_bits = item * pq_dtype_bits(c->out->dtype);
    s->scratch_bytes = 2 * c->unit_elements * sizeof(float);
    return set_inputs(s, src, c, item, e) ? NULL : s;
}
