/*
 * quant_state: the parameters of a blockwise encoding as JSON in a U8 part.
 *
 *   {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16",
 *    "shape": [64, 128]}
 * and with double quantization, before the brace:
 *   , "nested_blocksize": 256, "nested_dtype": "float32",
 *   "nested_offset": 0.05164909362792969
 *
 * on one line, with Python's separators.  The offset is known only when all
 * blocks are, the size of the part before: the text is padded with spaces to
 * a length that fits every offset, and that brings what follows back to a
 * multiple of 8 bytes.
 * Source: bitsandbytes 0.50 functional.py, QuantState.as_dict.
 */
#include "pq_json.h"
#include "quant_internal.h"

#include <string.h>

#define OFFSET_CHARS 24 /* "-1.2345678901234567e-308" */

static void write_head(struct pq_buf *b, const struct pq_tensor *t,
                       enum pq_dtype dtype)
{
    pq_buf_printf(b, "{\"quant_type\": \"%s\", \"blocksize\": %u, ",
                  pq_encoding_name(t->codec.encoding),
                  (unsigned)t->codec.block);
    pq_buf_printf(b, "\"dtype\": \"%s\", \"shape\": [",
                  pq_dtype_torch_name(dtype));
    for (int i = 0; i < t->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? ", " : "",
                      (unsigned long long)t->shape[i]);
    pq_buf_puts(b, "]");
    if (t->codec.nested_block)
        pq_buf_printf(b,
                      ", \"nested_blocksize\": %u, \"nested_dtype\": "
                      "\"float32\", \"nested_offset\": ",
                      (unsigned)t->codec.nested_block);
}

size_t pq_state_length(const struct pq_tensor *t, enum pq_dtype dtype,
                       uint64_t before)
{
    struct pq_buf b = {0};

    write_head(&b, t, dtype);
    size_t n = b.n + 1 + (t->codec.nested_block ? OFFSET_CHARS : 0);
    if (b.failed)
        n = 0;
    pq_buf_release(&b);
    if (n == 0)
        return 0;
    while ((before + n) % 8)
        n++;
    return n;
}

int pq_state_write(struct pq_buf *b, const struct pq_tensor *t,
                   enum pq_dtype dtype, double nested_offset, size_t length,
                   struct pq_error *e)
{
    write_head(b, t, dtype);
    if (t->codec.nested_block)
        pq_json_put_f64(b, nested_offset);
    pq_buf_puts(b, "}");
    while (!b->failed && b->n < length)
        pq_buf_puts(b, " ");
    return b->failed ? pq_fail_nomem(e) : 0;
}

/* ---- reading ----------------------------------------------------------- */

struct state {
    char type[16], dtype[16], nested_dtype[16];
    uint64_t block, nested_block;
    double offset;
    uint64_t shape[PQ_MAX_RANK];
    int rank;
};

static int read_text(struct pq_json *j, char *to, size_t room)
{
    struct pq_arena a = {0};
    const char *s;
    size_t n;
    int rc = pq_json_next(j) == PQ_JSON_STRING ? pq_json_string(j, &a, &s, &n)
                                               : -1;

    if (!rc && n < room) {
        memcpy(to, s, n);
        to[n] = '\0';
    } else {
        rc = -1;
    }
    pq_arena_release(&a);
    return rc;
}

static int read_shape(struct pq_json *j, struct state *s)
{
    if (pq_json_next(j) != PQ_JSON_ARRAY)
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(j);
        if (t == PQ_JSON_ARRAY_END)
            return 0;
        if (t != PQ_JSON_NUMBER || s->rank == PQ_MAX_RANK ||
            pq_json_u64(j, &s->shape[s->rank]))
            return -1;
        s->rank++;
    }
}

static int read_number(struct pq_json *j, uint64_t *v)
{
    return pq_json_next(j) == PQ_JSON_NUMBER ? pq_json_u64(j, v) : -1;
}

/* The value after the current key; -1 also for keys that bnb refuses. */
static int read_value(struct pq_json *j, struct state *s)
{
    if (pq_json_is(j, "quant_type"))
        return read_text(j, s->type, sizeof s->type);
    if (pq_json_is(j, "dtype"))
        return read_text(j, s->dtype, sizeof s->dtype);
    if (pq_json_is(j, "nested_dtype"))
        return read_text(j, s->nested_dtype, sizeof s->nested_dtype);
    if (pq_json_is(j, "blocksize"))
        return read_number(j, &s->block);
    if (pq_json_is(j, "nested_blocksize"))
        return read_number(j, &s->nested_block);
    if (pq_json_is(j, "shape"))
        return read_shape(j, s);
    if (pq_json_is(j, "nested_offset"))
        return pq_json_next(j) == PQ_JSON_NUMBER ? pq_json_double(j, &s->offset)
                                                 : -1;
    return -1;
}

static int read_object(struct pq_json *j, struct state *s)
{
    if (pq_json_next(j) != PQ_JSON_OBJECT)
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(j);
        if (t == PQ_JSON_OBJECT_END)
            return pq_json_next(j) == PQ_JSON_END ? 0 : -1;
        if (t != PQ_JSON_KEY || read_value(j, s))
            return -1;
    }
}

int pq_state_offset(const char *text, size_t n, double *offset,
                    struct pq_error *e)
{
    struct state s = {.rank = 0};
    struct pq_json j;

    pq_json_init(&j, text, n, NULL);
    if (read_object(&j, &s))
        return pq_fail(e, PQ_EFORMAT, "quant_state is not as expected");
    *offset = s.offset;
    return 0;
}

int pq_state_read(const char *text, size_t n, struct pq_catalog *c,
                  struct pq_tensor *t, struct pq_error *e)
{
    struct state s = {.rank = 0};
    struct pq_json j;

    pq_json_init(&j, text, n, NULL);
    if (read_object(&j, &s))
        return pq_fail(e, PQ_EFORMAT, "quant_state is not as expected");
    const int encoding = pq_encoding_from_name(s.type);
    const int dtype = pq_dtype_from_torch_name(s.dtype);
    if (encoding <= PQ_PLAIN || dtype < 0 ||
        !pq_dtype_is_float((enum pq_dtype)dtype) || s.block == 0 ||
        s.block > UINT32_MAX || s.nested_block > UINT32_MAX)
        return pq_fail(e, PQ_EFORMAT, "quant_state has unknown values");
    t->codec.encoding = (enum pq_encoding)encoding;
    t->codec.block = (uint32_t)s.block;
    t->codec.nested_block = (uint32_t)s.nested_block;
    t->dtype = (enum pq_dtype)dtype;
    t->rank = s.rank;
    t->shape = pq_catalog_shape(c, s.shape, s.rank);
    if (!t->shape)
        return pq_fail_nomem(e);
    return pq_shape_elements(s.shape, s.rank, &t->n_elements, e);
}
