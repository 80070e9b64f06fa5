/*
 * Copy steps: the bytes of parts as they are, 256 KiB at a time.
 */
#include "quant_internal.h"

#include <string.h>

#define COPY_UNIT (1u << 18)

static int emit_copy(const struct pq_step *s, const struct pq_unit *u,
                     const void *state, struct pq_error *e)
{
    (void)s;
    (void)state;
    (void)e;
    memcpy(u->out[0], u->in[0], u->out_bytes[0]);
    return 0;
}

int pq_step_copy_part(struct pq_plan *p, struct pq_source *src,
                      const struct pq_part *in, const char *name, size_t tensor,
                      size_t part, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, 1, 1, e);

    if (!s)
        return -1;
    s->name = name;
    s->tensor = tensor;
    s->first_part = part;
    s->n_parts = 1;
    s->items = in->bytes;
    s->unit_items = COPY_UNIT;
    s->in[0].source = src;
    s->in[0].part = in;
    s->in[0].item_bits = 8;
    s->out[0].part = part;
    s->out[0].item_bits = 8;
    s->emit = emit_copy;
    return 0;
}

int pq_step_copy(struct pq_plan *p, struct pq_source *src,
                 const struct pq_tensor *in, size_t tensor, struct pq_error *e)
{
    for (size_t i = 0; i < in->n_parts; i++)
        if (pq_step_copy_part(p, src, &in->parts[i], in->name, tensor, i, e))
            return -1;
    return 0;
}
