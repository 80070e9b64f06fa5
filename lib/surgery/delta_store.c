/*
 * The description of a delta: from a model to metadata of a .pq.
 *
 *     kind    delta
 *     base    digest of the model it starts from, as pq-info --digest
 *     result  digest of the model it leads to
 *     delta   {"version":1,"directory":true,"files":["model.safetensors"],
 *              "metadata":[["format","pt"]],"provenance":["{...}"],
 *              "blobs":[{"name":"config.json","digest":"...","base":true}],
 *              "removed":["lm_head.weight"],
 *              "tensors":[
 *                {"name":"w","dtype":"BF16","shape":[64,64],"how":"sub",
 *                 "base":"model.w","digest":"..."},
 *                {"name":"q","dtype":"BF16","shape":[64,64],
 *                 "encoding":"nf4","block":64,"nested":0,
 *                 "parts":[{"name":"q","dtype":"U8","shape":[2048,1],
 *                           "digest":"..."}, ...]}]}
 *
 * (the last on one line).  A plain tensor is its own and only part.  "how" is
 * xor, sub or whole, and the delta has a tensor of the part's name, of unsigned
 * words in one dimension for the first two; without it the part is that of the
 * base.  "base" is the part there, where its name is another one; a file that
 * the base has too is not stored.  So the result has its order, shards,
 * encodings and metadata back.
 */
#include "pq_diff.h"
#include "pq_json.h"
#include "surgery/delta_text.h"

#include <stdlib.h>
#include <string.h>

const char *const pq_delta_how_names[PQ_DELTA_N_HOW] = {"same", "xor", "sub",
                                                        "whole"};

void pq_delta_init(struct pq_delta *d)
{
    memset(d, 0, sizeof *d);
    pq_catalog_init(&d->result);
}

void pq_delta_release(struct pq_delta *d)
{
    pq_catalog_release(&d->result);
    free(d->parts);
    memset(d, 0, sizeof *d);
}

/* ---- parts by name ----------------------------------------------------- */

struct pq_delta_index {
    struct pq_names names;
    const struct pq_part **parts; /* [n] */
};

static size_t count_parts(const struct pq_catalog *c)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    return n;
}

struct pq_delta_index *pq_delta_index_new(const struct pq_catalog *c,
                                          struct pq_error *e)
{
    struct pq_delta_index *x = pq_zalloc(1, sizeof *x);
    size_t n = 0;

    if (x)
        x->parts = pq_alloc(count_parts(c), sizeof *x->parts);
    bool failed = !x || !x->parts;
    for (size_t i = 0; !failed && i < c->n_tensors; i++)
        for (size_t k = 0; !failed && k < c->tensors[i].n_parts; k++, n++) {
            x->parts[n] = &c->tensors[i].parts[k];
            failed = pq_names_add(&x->names, x->parts[n]->name, n, NULL, e) < 0;
        }
    if (!failed)
        return x;
    pq_fail_nomem(e);
    pq_delta_index_free(x);
    return NULL;
}

const struct pq_part *pq_delta_find(const struct pq_delta_index *x,
                                    const char *part)
{
    const size_t i = pq_names_find(&x->names, part);

    return i == SIZE_MAX ? NULL : x->parts[i];
}

void pq_delta_index_free(struct pq_delta_index *x)
{
    if (!x)
        return;
    pq_names_release(&x->names);
    free(x->parts);
    free(x);
}

/* ---- the text ---------------------------------------------------------- */

static void put_array(struct pq_buf *b, const char *name, enum pq_dtype dtype,
                      const uint64_t *shape, int rank)
{
    pq_buf_puts(b, "{\"name\":");
    pq_json_quote(b, name);
    pq_buf_printf(b, ",\"dtype\":\"%s\",\"shape\":[", pq_dtype_name(dtype));
    for (int i = 0; i < rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "", (unsigned long long)shape[i]);
    pq_buf_puts(b, "]");
}

/* How a part comes about, in the object that describes it. */
static void put_how(struct pq_buf *b, const struct pq_part *p,
                    const struct pq_delta_part *d)
{
    char hex[33];

    if (p->role != PQ_ROLE_DATA)
        pq_buf_printf(b, ",\"role\":%u", (unsigned)p->role);
    if (p->file)
        pq_buf_printf(b, ",\"file\":%u", (unsigned)p->file);
    if (d->how != PQ_DELTA_SAME)
        pq_buf_printf(b, ",\"how\":\"%s\"", pq_delta_how_names[d->how]);
    if (d->base && strcmp(d->base, p->name) != 0) {
        pq_buf_puts(b, ",\"base\":");
        pq_json_quote(b, d->base);
    }
    pq_hash128_hex(d->digest, hex);
    pq_buf_printf(b, ",\"digest\":\"%s\"", hex);
}

/* The tensor is its only part, so that the part need not be written. */
static bool is_own_part(const struct pq_tensor *t)
{
    const struct pq_part *p = t->parts;

    return t->codec.encoding == PQ_PLAIN && t->n_parts == 1 &&
           strcmp(p->name, t->name) == 0 && p->dtype == t->dtype &&
           p->rank == t->rank &&
           (t->rank == 0 || memcmp(p->shape, t->shape,
                                   (size_t)t->rank * sizeof *t->shape) == 0);
}

static void put_tensor(struct pq_buf *b, const struct pq_tensor *t,
                       const struct pq_delta_part *d)
{
    put_array(b, t->name, t->dtype, t->shape, t->rank);
    if (is_own_part(t)) {
        put_how(b, t->parts, d);
        pq_buf_puts(b, "}");
        return;
    }
    if (t->codec.encoding != PQ_PLAIN)
        pq_buf_printf(b, ",\"encoding\":\"%s\",\"block\":%u,\"nested\":%u",
                      pq_encoding_name(t->codec.encoding),
                      (unsigned)t->codec.block,
                      (unsigned)t->codec.nested_block);
    pq_buf_puts(b, ",\"parts\":[");
    for (size_t k = 0; k < t->n_parts; k++) {
        const struct pq_part *p = &t->parts[k];
        pq_buf_puts(b, k ? "," : "");
        put_array(b, p->name, p->dtype, p->shape, p->rank);
        put_how(b, p, &d[k]);
        pq_buf_puts(b, "}");
    }
    pq_buf_puts(b, "]}");
}

static void put_tensors(struct pq_buf *b, const struct pq_delta *d)
{
    const struct pq_catalog *c = &d->result;
    size_t n = 0;

    pq_buf_puts(b, ",\"tensors\":[");
    for (size_t i = 0; i < c->n_tensors; i++) {
        pq_buf_puts(b, i ? "," : "");
        put_tensor(b, &c->tensors[i], &d->parts[n]);
        n += c->tensors[i].n_parts;
    }
    pq_buf_puts(b, "]");
}

static void put_strings(struct pq_buf *b, const char *key,
                        const char *const *list, size_t n)
{
    pq_buf_printf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        pq_buf_puts(b, i ? "," : "");
        pq_json_quote(b, list[i]);
    }
    pq_buf_puts(b, "]");
}

static void put_metadata(struct pq_buf *b, const struct pq_catalog *c)
{
    pq_buf_puts(b, ",\"metadata\":[");
    for (size_t i = 0; i < c->n_metadata; i++) {
        pq_buf_puts(b, i ? ",[" : "[");
        pq_json_quote(b, c->metadata[i].key);
        pq_buf_puts(b, ",");
        pq_json_quote(b, c->metadata[i].value);
        pq_buf_puts(b, "]");
    }
    pq_buf_puts(b, "]");
}

static bool has_blob(const struct pq_catalog *c, const struct pq_blob *want)
{
    const struct pq_blob *b = pq_catalog_blob(c, want->name);

    return b && b->bytes == want->bytes &&
           (b->bytes == 0 || memcmp(b->data, want->data, b->bytes) == 0);
}

/* The files of the result; those that the base has not go to the delta. */
static int put_blobs(struct pq_buf *b, const struct pq_catalog *c,
                     const struct pq_catalog *base, struct pq_catalog *delta,
                     struct pq_error *e)
{
    char hex[33];

    pq_buf_puts(b, ",\"blobs\":[");
    for (size_t i = 0; i < c->n_blobs; i++) {
        const struct pq_blob *f = &c->blobs[i];
        const bool same = has_blob(base, f);
        pq_buf_puts(b, i ? ",{\"name\":" : "{\"name\":");
        pq_json_quote(b, f->name);
        pq_hash128_hex(pq_hash128_of(f->data, (size_t)f->bytes), hex);
        pq_buf_printf(b, ",\"digest\":\"%s\",\"base\":%s}", hex,
                      same ? "true" : "false");
        if (!same && pq_catalog_add_blob(delta, f->name, f->data,
                                         (size_t)f->bytes, e))
            return -1;
    }
    pq_buf_puts(b, "]");
    return 0;
}

/* Names of the base that the result has not; for people, nobody reads it. */
static int put_removed(struct pq_buf *b, const struct pq_delta *d,
                       const struct pq_catalog *base, struct pq_error *e)
{
    struct pq_names used = {0};
    bool first = true;
    int rc = 0;

    for (size_t i = 0; rc >= 0 && i < d->n_parts; i++)
        if (d->parts[i].base)
            rc = pq_names_add(&used, d->parts[i].base, i, NULL, e);
    pq_buf_puts(b, ",\"removed\":[");
    for (size_t i = 0; rc >= 0 && i < base->n_tensors; i++) {
        const char *name = base->tensors[i].parts[0].name;
        if (pq_names_find(&used, name) != SIZE_MAX)
            continue;
        pq_buf_puts(b, first ? "" : ",");
        pq_json_quote(b, name);
        first = false;
    }
    pq_buf_puts(b, "]");
    pq_names_release(&used);
    return rc < 0 ? pq_fail_nomem(e) : 0;
}

static int describe(struct pq_buf *b, const struct pq_delta *d,
                    const struct pq_catalog *base, struct pq_catalog *delta,
                    struct pq_error *e)
{
    const struct pq_catalog *c = &d->result;

    pq_buf_printf(b, "{\"version\":%d,\"directory\":%s,\"counts\":%s",
                  PQ_DELTA_VERSION, c->directory ? "true" : "false",
                  c->counts_parameters ? "true" : "false");
    put_strings(b, "files", c->files, c->n_files);
    put_metadata(b, c);
    put_strings(b, "provenance", c->prov, c->n_prov);
    if (put_blobs(b, c, base, delta, e) || put_removed(b, d, base, e))
        return -1;
    put_tensors(b, d);
    pq_buf_puts(b, "}");
    return b->failed ? pq_fail_nomem(e) : 0;
}

/* ---- the catalogue ----------------------------------------------------- */

/* The tensor that holds what is stored of a part. */
static int add_tensor(struct pq_catalog *delta, const struct pq_part *p,
                      enum pq_delta_how how, struct pq_error *e)
{
    const enum pq_dtype word =
        how == PQ_DELTA_WHOLE ? p->dtype : pq_delta_word(p->dtype);
    const uint64_t words = p->bytes * 8 / pq_dtype_bits(word);
    struct pq_tensor *t = pq_catalog_add(delta, p->name, 1, e);

    if (!t)
        return -1;
    t->dtype = word;
    t->rank = how == PQ_DELTA_WHOLE ? p->rank : 1;
    t->shape = pq_catalog_shape(
        delta, how == PQ_DELTA_WHOLE ? p->shape : &words, t->rank);
    t->n_elements = words;
    if (!t->shape)
        return pq_fail_nomem(e);
    t->parts[0] = (struct pq_part){.name = t->name,
                                   .dtype = word,
                                   .rank = t->rank,
                                   .shape = t->shape,
                                   .bytes = p->bytes};
    return 0;
}

int pq_delta_store(const struct pq_delta *d, const struct pq_catalog *base,
                   struct pq_catalog *delta, struct pq_error *e)
{
    const struct pq_catalog *c = &d->result;
    struct pq_buf text = {0};
    size_t n = 0;
    int rc = describe(&text, d, base, delta, e);

    if (!rc)
        rc = pq_catalog_set(delta, "kind", "delta", e) ||
             pq_catalog_set(delta, "base", d->base_digest, e) ||
             pq_catalog_set(delta, "result", d->result_digest, e) ||
             pq_catalog_set(delta, "delta", text.s, e);
    pq_buf_release(&text);
    for (size_t i = 0; !rc && i < c->n_extra; i++)
        rc = pq_catalog_add_extra(delta, &c->extra[i], e);
    for (size_t i = 0; !rc && i < c->n_tensors; i++)
        for (size_t k = 0; !rc && k < c->tensors[i].n_parts; k++, n++)
            if (d->parts[n].how != PQ_DELTA_SAME)
                rc = add_tensor(delta, &c->tensors[i].parts[k],
                                d->parts[n].how, e);
    return rc ? -1 : 0;
}
