/*
 * The catalogue of a .pq stream, to JSON.
 *
 *     {"tensors":[
 *       {"name":"norm","dtype":"F32","shape":[64]},
 *       {"name":"w","dtype":"BF16","shape":[64,64],
 *        "encoding":"nf4","block":64,
 *        "parts":[{"name":"w","dtype":"U8","shape":[2048,1],"role":"data"},
 *                 {"name":"w.absmax","dtype":"F32","shape":[64],
 *                  "role":"absmax"}]}],
 *      "files":["a.safetensors","b.safetensors"],"directory":true}
 *
 * (all on one line).  A plain tensor is its own and only part.  What can be
 * left out is: nothing depends on the defaults of whoever wrote it.
 */
#include "pqstream.h"

#include <string.h>

#include "pq_json.h"

static const char *const role_names[] = {
    [PQ_ROLE_DATA] = "data",
    [PQ_ROLE_ABSMAX] = "absmax",
    [PQ_ROLE_QUANT_STATE] = "quant_state",
    [PQ_ROLE_QUANT_MAP] = "quant_map",
    [PQ_ROLE_NESTED_ABSMAX] = "nested_absmax",
    [PQ_ROLE_NESTED_QUANT_MAP] = "nested_quant_map",
    [PQ_ROLE_SCB] = "scb",
    [PQ_ROLE_WEIGHT_FORMAT] = "weight_format",
};
#define N_ROLES (sizeof(role_names) / sizeof(role_names[0]))

static const char *role_name(enum pq_role role)
{
    return role_names[role];
}

int pq_stream_role_from_name(const char *name)
{
    for (size_t i = 0; i < N_ROLES; i++) {
        if (strcmp(name, role_names[i]) == 0)
            return (int)i;
    }
    return -1;
}

uint64_t pq_stream_tensor_bytes(const struct pq_tensor *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < t->n_parts; i++)
        sum += t->parts[i].bytes;
    return sum;
}

/* {"name":...,"dtype":...,"shape":[...]   and no closing brace. */
static void print_array(struct pq_buf *out, const char *name, enum pq_dtype t,
                        const uint64_t *shape, int rank)
{
    pq_buf_puts(out, "{\"name\":");
    pq_json_quote(out, name);
    pq_buf_puts(out, ",\"dtype\":\"");
    pq_buf_puts(out, pq_dtype_name(t));
    pq_buf_puts(out, "\",\"shape\":[");
    for (int i = 0; i < rank; i++)
        pq_buf_printf(out, "%s%llu", i ? "," : "",
                      (unsigned long long)shape[i]);
    pq_buf_puts(out, "]");
}

static void print_file(struct pq_buf *out, const struct pq_part *p)
{
    if (p->file != 0)
        pq_buf_printf(out, ",\"file\":%u", (unsigned)p->file);
}

/* The tensor is its only part, so that the part need not be written. */
static bool is_own_part(const struct pq_tensor *t)
{
    const struct pq_part *p = t->parts;

    return t->codec.encoding == PQ_PLAIN && t->n_parts == 1 &&
           strcmp(p->name, t->name) == 0 && p->dtype == t->dtype &&
           p->role == PQ_ROLE_DATA && p->rank == t->rank &&
           (t->rank == 0 || memcmp(p->shape, t->shape,
                                   (size_t)t->rank * sizeof(*t->shape)) == 0);
}

static void print_tensor(struct pq_buf *out, const struct pq_tensor *t)
{
    print_array(out, t->name, t->dtype, t->shape, t->rank);
    if (is_own_part(t)) {
        print_file(out, t->parts);
        pq_buf_puts(out, "}");
        return;
    }
    pq_buf_printf(out, ",\"encoding\":\"%s\"",
                  pq_encoding_name(t->codec.encoding));
    if (t->codec.block)
        pq_buf_printf(out, ",\"block\":%u", (unsigned)t->codec.block);
    if (t->codec.nested_block)
        pq_buf_printf(out, ",\"nested_block\":%u",
                      (unsigned)t->codec.nested_block);
    pq_buf_puts(out, ",\"parts\":[");
    for (size_t i = 0; i < t->n_parts; i++) {
        const struct pq_part *p = &t->parts[i];
        pq_buf_puts(out, i ? "," : "");
        print_array(out, p->name, p->dtype, p->shape, p->rank);
        pq_buf_printf(out, ",\"role\":\"%s\"", role_name(p->role));
        print_file(out, p);
        pq_buf_puts(out, "}");
    }
    pq_buf_puts(out, "]}");
}

static int text_done(const struct pq_buf *out, const char *what,
                     struct pq_error *e)
{
    if (out->failed)
        return pq_fail_nomem(e);
    if (out->n > PQ_STREAM_MAX_TEXT)
        return pq_fail(e, PQ_ELIMIT, "a %s of more than %u bytes", what,
                       PQ_STREAM_MAX_TEXT);
    return 0;
}

int pq_stream_print_catalog(const struct pq_catalog *c, struct pq_buf *out,
                            struct pq_error *e)
{
    pq_buf_puts(out, "{\"tensors\":[");
    for (size_t i = 0; i < c->n_tensors && !out->failed; i++) {
        pq_buf_puts(out, i ? "," : "");
        print_tensor(out, &c->tensors[i]);
    }
    pq_buf_puts(out, "]");
    for (size_t i = 0; c->files && i < c->n_files; i++) {
        pq_buf_puts(out, i ? "," : ",\"files\":[");
        pq_json_quote(out, c->files[i]);
    }
    if (c->files && c->n_files > 0)
        pq_buf_puts(out, "]");
    pq_buf_puts(out, c->directory ? ",\"directory\":true}" : "}");
    return text_done(out, "catalogue", e);
}

int pq_stream_print_metadata(const struct pq_catalog *c, struct pq_buf *out,
                             struct pq_error *e)
{
    pq_buf_puts(out, "{");
    for (size_t i = 0; i < c->n_metadata && !out->failed; i++) {
        pq_buf_puts(out, i ? "," : "");
        pq_json_quote(out, c->metadata[i].key);
        pq_buf_puts(out, ":");
        pq_json_quote(out, c->metadata[i].value);
    }
    pq_buf_puts(out, "}");
    return text_done(out, "metadata record", e);
}
