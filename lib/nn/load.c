/*
 * Reading a model into memory.
 *
 * First all places are made and bound to the model (bind.c), so that a wrong
 * shape is found before anything is read; then the parts are read in the
 * order of the file.  Vectors are widened; absmax of a double quantization
 * becomes float.
 */
#include "load.h"

#include <stdlib.h>
#include <string.h>

#include "pq_hold.h"
#include "pq_quant.h"
#include "quant/quant_internal.h"

static void *own(struct nn_loader *l, size_t n, size_t size)
{
    struct nn_model *m = l->m;
    void *p = pq_alloc(n, size);
    void **grown = pq_grow(m->owned, m->n_owned, &m->cap_owned, sizeof *grown);

    if (grown)
        m->owned = grown;
    if (!p || !grown) {
        free(p);
        pq_fail_nomem(l->e);
        l->failed = true;
        return NULL;
    }
    m->owned[m->n_owned++] = p;
    m->bytes += (uint64_t)n * size;
    return p;
}

/* Places for the parts of tensor i and for what is made of them. */
static int reserve(struct nn_loader *l, size_t i)
{
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    struct nn_stored *s = &l->t[i];

    s->skipped = nn_is_no_weight(t->name);
    if (s->skipped)
        return 0;
    if (!pq_codec_sound(t))
        return pq_fail(l->e, PQ_EFORMAT,
                       "tensor %s: lacks parts of its encoding", t->name);
    if (t->codec.encoding == PQ_PLAIN && !pq_dtype_is_float(t->dtype))
        return pq_fail(l->e, PQ_EUNSUPPORTED, "tensor %s: a weight of type %s",
                       t->name, pq_dtype_name(t->dtype));
    s->parts = pq_arena_alloc(&l->m->arena, t->n_parts, sizeof *s->parts);
    for (size_t p = 0; s->parts && p < t->n_parts; p++)
        s->parts[p] = own(l, (size_t)t->parts[p].bytes, 1);
    if (t->rank == 1 && t->codec.encoding == PQ_PLAIN)
        s->vector = own(l, (size_t)t->n_elements, sizeof(float));
    if (t->codec.nested_block)
        s->scale = own(l, (size_t)pq_blocks_of(t->n_elements, t->codec.block),
                       sizeof(float));
    return s->parts && !l->failed ? 0 : pq_fail_nomem(l->e);
}

/* ---- reading ------------------------------------------------------------ */

struct place {
    const struct pq_part *part;
    void *to;
};

static int by_offset(const void *a, const void *b)
{
    const uint64_t x = ((const struct place *)a)->part->offset;
    const uint64_t y = ((const struct place *)b)->part->offset;

    return (x > y) - (x < y);
}

static int read_part(struct nn_loader *l, const struct place *p)
{
    struct pq_source *s = l->s;
    const size_t n = (size_t)p->part->bytes;

    return pq_source_reach(s, p->part, 0, p->to, n, l->e);
}

static int read_parts(struct nn_loader *l)
{
    const struct pq_catalog *c = l->s->catalog;
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += l->t[i].skipped ? 0 : c->tensors[i].n_parts;
    struct place *all = pq_alloc(n, sizeof *all);
    if (!all)
        return pq_fail_nomem(l->e);
    n = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t p = 0; !l->t[i].skipped && p < c->tensors[i].n_parts; p++)
            all[n++] =
                (struct place){&c->tensors[i].parts[p], l->t[i].parts[p]};
    qsort(all, n, sizeof *all, by_offset);
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++)
        rc = read_part(l, &all[i]);
    free(all);
    return rc;
}

/* ---- what is made of what was read -------------------------------------- */

void *nn_part_of(const struct nn_loader *l, size_t i, enum pq_role role)
{
    const size_t p = pq_part_number(&l->s->catalog->tensors[i], role);

    return p == SIZE_MAX ? NULL : l->t[i].parts[p];
}

/* absmax of all blocks from their 8-bit codes. */
static int undo_nested(struct nn_loader *l, size_t i)
{
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    const uint8_t *codes = nn_part_of(l, i, PQ_ROLE_ABSMAX);
    const float *nested = nn_part_of(l, i, PQ_ROLE_NESTED_ABSMAX);
    const float *map = nn_part_of(l, i, PQ_ROLE_NESTED_QUANT_MAP);
    const struct pq_part *state = pq_part_of(t, PQ_ROLE_QUANT_STATE);
    double offset;

    if (!codes || !nested || !map || !state)
        return pq_fail(l->e, PQ_EFORMAT,
                       "tensor %s: a part of its encoding is missing", t->name);
    if (pq_state_offset(nn_part_of(l, i, PQ_ROLE_QUANT_STATE),
                        (size_t)state->bytes, &offset, l->e))
        return pq_error_in(l->e, "tensor %s", t->name);
    pq_nested_undo(codes, map, nested, 0,
                   pq_blocks_of(t->n_elements, t->codec.block),
                   t->codec.nested_block, offset, l->t[i].scale);
    return 0;
}

static int widen(struct nn_loader *l)
{
    const struct pq_catalog *c = l->s->catalog;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct nn_stored *s = &l->t[i];
        if (s->vector)
            pq_load_f32(l->k, c->tensors[i].dtype, s->parts[0],
                        (size_t)c->tensors[i].n_elements, s->vector);
        if (s->scale && undo_nested(l, i))
            return -1;
    }
    return 0;
}

/* ---- the model ---------------------------------------------------------- */

static int read_config(struct nn_loader *l)
{
    const struct pq_blob *b = pq_catalog_blob(l->s->catalog, "config.json");

    if (!b)
        return pq_fail(l->e, PQ_EARG,
                       "has no config.json, which says how to run it: give "
                       "a model's directory, or a .pq file made of one");
    return nn_config_read(&l->m->c, b->data, (size_t)b->bytes, &l->m->arena,
                          l->e);
}

static int load(struct nn_loader *l)
{
    const struct pq_catalog *c = l->s->catalog;

    if (read_config(l))
        return -1;
    l->t = pq_zalloc(c->n_tensors, sizeof *l->t);
    if (!l->t)
        return pq_fail_nomem(l->e);
    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_names_add(&l->names, c->tensors[i].name, i, NULL, l->e) < 0 ||
            reserve(l, i))
            return -1;
    return nn_bind_model(l) || read_parts(l) || pq_source_finish(l->s, l->e) ||
                   widen(l)
               ? -1
               : 0;
}

int nn_model_load(struct nn_model *m, struct pq_source *s,
                  const struct pq_kernels *k, struct pq_error *e)
{
    struct nn_loader l = {.m = m, .s = s, .k = k, .e = e};

    memset(m, 0, sizeof *m);
    int rc = load(&l);
    pq_names_release(&l.names);
    free(l.t);
    if (!rc)
        return 0;
    nn_model_release(m);
    return pq_error_in(e, "%s", s->name);
}

void nn_model_release(struct nn_model *m)
{
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m->owned);
    pq_arena_release(&m->arena);
    memset(m, 0, sizeof *m);
}
