/*
 * Declaring output tensors: names, types and sizes of their parts.
 *
 *   nf4, fp4      X U8 [ceil(n/2), 1]          high nibble first
 *                 X.absmax U8 [blocks]         with double quantization
 *                 X.quant_state.bitsandbytes__nf4 U8, JSON
 *                 X.absmax F32 [blocks]        without
 *                 X.nested_absmax F32 [ceil(blocks/256)]
 *                 X.nested_quant_map F32 [256]
 *                 X.quant_map F32 [16]
 *   int8_block    X U8 [shape], X.quant_state.pq__int8_block, X.absmax F32,
 *                 X.quant_map F32 [256]
 *   int8          P.weight I8 [out, in], P.SCB F32 [out], P.weight_format U8
 *
 * Source: bitsandbytes QuantState.as_dict(packed=True) and Linear8bitLt; the
 * reference library has no packed form for blockwise 8 bits, so that state
 * has a name of ours.
 */
#include "kernels/tables.h"
#include "quant_internal.h"

#include <string.h>

static const uint8_t row_major;

const void *pq_quant_map(enum pq_encoding e)
{
    return e == PQ_NF4   ? (const void *)pq_nf4.value
           : e == PQ_FP4 ? (const void *)pq_fp4.value
                         : (const void *)pq_dyn8_map;
}

size_t pq_part_number(const struct pq_tensor *t, enum pq_role role)
{
    const struct pq_part *p = pq_part_of(t, role);

    return p ? (size_t)(p - t->parts) : SIZE_MAX;
}

static int set_part(struct pq_catalog *c, struct pq_part *p, const char *name,
                    enum pq_role role, enum pq_dtype dtype,
                    const uint64_t *shape, int rank, struct pq_error *e)
{
    p->name = name;
    p->role = role;
    p->dtype = dtype;
    p->rank = rank;
    p->shape = pq_catalog_shape(c, shape, rank);
    if (!name || !p->shape)
        return pq_fail_nomem(e);
    return pq_shape_bytes(shape, rank, dtype, &p->bytes, e);
}

/* A one-dimensional part called NAME.SUFFIX. */
static int add_vector(struct pq_catalog *c, struct pq_tensor *t, size_t i,
                      const char *suffix, enum pq_role role,
                      enum pq_dtype dtype, uint64_t n, struct pq_error *e)
{
    return set_part(c, &t->parts[i],
                    pq_arena_printf(&c->arena, "%s.%s", t->name, suffix),
                    role, dtype, &n, 1, e);
}

static int add_map(struct pq_catalog *c, struct pq_tensor *t, size_t i,
                   bool nested, struct pq_error *e)
{
    const bool small =
        !nested && (t->codec.encoding == PQ_NF4 || t->codec.encoding == PQ_FP4);

    if (add_vector(c, t, i, nested ? "nested_quant_map" : "quant_map",
                   nested ? PQ_ROLE_NESTED_QUANT_MAP : PQ_ROLE_QUANT_MAP,
                   PQ_F32, small ? 16 : 256, e))
        return -1;
    t->parts[i].constant =
        pq_quant_map(nested ? PQ_INT8_BLOCK : t->codec.encoding);
    return 0;
}

static int add_codes(struct pq_catalog *c, struct pq_tensor *t,
                     struct pq_error *e)
{
    const uint64_t packed[2] = {(t->n_elements + 1) / 2, 1};

    if (t->codec.encoding == PQ_INT8_BLOCK)
        return set_part(c, &t->parts[0], t->name, PQ_ROLE_DATA, PQ_U8,
                        t->shape, t->rank, e);
    return set_part(c, &t->parts[0], t->name, PQ_ROLE_DATA, PQ_U8, packed, 2,
                    e);
}

/* The quant_state part; its text is a constant unless an offset is in it. */
static int add_state(struct pq_catalog *c, struct pq_tensor *t, size_t i,
                     struct pq_error *e)
{
    const char *suffix = t->codec.encoding == PQ_NF4
                             ? "quant_state.bitsandbytes__nf4"
                         : t->codec.encoding == PQ_FP4
                             ? "quant_state.bitsandbytes__fp4"
                             : "quant_state.pq__int8_block";
    uint64_t before = 0;
    struct pq_buf text = {0};

    for (size_t k = 0; k < i; k++)
        before += t->parts[k].bytes;
    const size_t length = pq_state_length(t, t->dtype, before);
    if (length == 0)
        return pq_fail_nomem(e);
    if (add_vector(c, t, i, suffix, PQ_ROLE_QUANT_STATE, PQ_U8, length, e))
        return -1;
    if (t->codec.nested_block)
        return 0;
    int rc = pq_state_write(&text, t, t->dtype, 0, length, e);
    if (!rc) {
        t->parts[i].constant = pq_arena_strndup(&c->arena, text.s, text.n);
        rc = t->parts[i].constant ? 0 : pq_fail_nomem(e);
    }
    pq_buf_release(&text);
    return rc;
}

static int declare_blockwise(struct pq_catalog *c, struct pq_tensor *t,
                             struct pq_error *e)
{
    const uint64_t block = t->codec.block;
    const uint64_t blocks = pq_blocks_of(t->n_elements, block);

    if (add_codes(c, t, e))
        return -1;
    if (!t->codec.nested_block)
        return add_state(c, t, 1, e) ||
                       add_vector(c, t, 2, "absmax", PQ_ROLE_ABSMAX, PQ_F32,
                                  blocks, e) ||
                       add_map(c, t, 3, false, e)
                   ? -1
                   : 0;
    const uint64_t nested = pq_blocks_of(blocks, PQ_NESTED_BLOCK);
    return add_vector(c, t, 1, "absmax", PQ_ROLE_ABSMAX, PQ_U8, blocks, e) ||
                   add_state(c, t, 2, e) ||
                   add_vector(c, t, 3, "nested_absmax", PQ_ROLE_NESTED_ABSMAX,
                              PQ_F32, nested, e) ||
                   add_map(c, t, 4, true, e) || add_map(c, t, 5, false, e)
               ? -1
               : 0;
}

/* P of "P.weight", or the name itself. */
static char *module_part(struct pq_catalog *c, const char *name,
                         const char *suffix)
{
    static const char weight[] = ".weight";
    size_t n = strlen(name);

    if (n >= sizeof weight - 1 &&
        strcmp(name + n - (sizeof weight - 1), weight) == 0)
        n -= sizeof weight - 1;
    return pq_arena_printf(&c->arena, "%.*s.%s", (int)n, name, suffix);
}

static int declare_rows(struct pq_catalog *c, struct pq_tensor *t,
                        struct pq_error *e)
{
    if (t->rank != 2)
        return pq_fail(e, PQ_EARG, "int8 needs two dimensions, not %d",
                       t->rank);
    if (set_part(c, &t->parts[0], t->name, PQ_ROLE_DATA, PQ_I8, t->shape, 2,
                 e) ||
        set_part(c, &t->parts[1], module_part(c, t->name, "SCB"),
                 PQ_ROLE_SCB, PQ_F32, t->shape, 1, e) ||
        set_part(c, &t->parts[2], module_part(c, t->name, "weight_format"),
                 PQ_ROLE_WEIGHT_FORMAT, PQ_U8, t->shape, 0, e))
        return -1;
    t->parts[2].constant = &row_major;
    return 0;
}

static int declare_parts(struct pq_catalog *c, struct pq_tensor *t,
                         struct pq_error *e)
{
    switch (t->codec.encoding) {
    case PQ_PLAIN:
        return set_part(c, &t->parts[0], t->name, PQ_ROLE_DATA, t->dtype,
                        t->shape, t->rank, e);
    case PQ_INT8:
        return declare_rows(c, t, e);
    default:
        return declare_blockwise(c, t, e);
    }
}

/* The type that a reader of the codes decodes to: of the source weights. */
static enum pq_dtype logical_dtype(const struct pq_tensor *in,
                                   const struct pq_spec *spec)
{
    if (spec->encoding == PQ_PLAIN)
        return spec->dtype;
    if (in->dtype == PQ_F16 || in->dtype == PQ_BF16 || in->dtype == PQ_F32)
        return in->dtype;
    return in->dtype == PQ_F64 ? PQ_F32 : PQ_BF16;
}

static size_t count_parts(const struct pq_spec *s)
{
    switch (s->encoding) {
    case PQ_PLAIN:
        return 1;
    case PQ_INT8:
        return 3;
    default:
        return s->double_quant ? 6 : 4;
    }
}

struct pq_tensor *pq_quant_declare(struct pq_catalog *out,
                                   const struct pq_tensor *in,
                                   const struct pq_spec *spec, bool transpose,
                                   struct pq_error *e)
{
    struct pq_tensor *t = pq_catalog_add(out, in->name, count_parts(spec), e);
    if (!t)
        return NULL;
    uint64_t turned[2] = {0, 0};
    if (transpose) {
        turned[0] = in->shape[1];
        turned[1] = in->shape[0];
    }
    t->dtype = logical_dtype(in, spec);
    t->rank = in->rank;
    t->shape = pq_catalog_shape(out, transpose ? turned : in->shape, in->rank);
    t->n_elements = in->n_elements;
    t->codec.encoding = spec->encoding;
    t->codec.block = spec->block;
    t->codec.nested_block = spec->double_quant ? PQ_NESTED_BLOCK : 0;
    if (!t->shape) {
        pq_fail_nomem(e);
        return NULL;
    }
    if (declare_parts(out, t, e)) {
        pq_error_in(e, "tensor %s", in->name);
        return NULL;
    }
    for (size_t i = 0; i < t->n_parts; i++)
        t->parts[i].file = in->parts[0].file;
    return t;
}

struct pq_tensor *pq_tensor_copy(struct pq_catalog *out,
                                 const struct pq_tensor *in,
                                 struct pq_error *e)
{
    struct pq_tensor *t = pq_catalog_add(out, in->name, in->n_parts, e);
    if (!t)
        return NULL;
    struct pq_part *parts = t->parts;
    const char *name = t->name;
    *t = *in;
    t->name = name;
    t->parts = parts;
    t->shape = pq_catalog_shape(out, in->shape, in->rank);
    for (size_t i = 0; t->shape && i < in->n_parts; i++) {
        const struct pq_part *p = &in->parts[i];
        parts[i] = *p;
        parts[i].constant = NULL;
        parts[i].name = pq_arena_strndup(&out->arena, p->name, strlen(p->name));
        parts[i].shape = pq_catalog_shape(out, p->shape, p->rank);
        if (!parts[i].name || !parts[i].shape)
            t->shape = NULL;
    }
    if (!t->shape) {
        pq_fail_nomem(e);
        return NULL;
    }
    return t;
}
