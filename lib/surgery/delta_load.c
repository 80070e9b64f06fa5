/*
 * The description of a delta: from metadata of a .pq to a model.
 *
 * What it may say is drawn in delta_store.c.  Nothing in it is believed:
 * every part that it names must be in the base or in the delta with the type
 * and size that follow, and files must have the digests it gives.  Keys that
 * are not known are passed over.
 */
#include "pq_json.h"
#include "surgery/delta_text.h"

#include <stdlib.h>
#include <string.h>

struct loader {
    struct pq_json j;
    struct pq_delta *d;
    const struct pq_catalog *base, *delta;
    struct pq_delta_index *in_base, *in_delta;
    size_t cap_parts;
    struct pq_error *e;
};

static int bad(struct loader *l, const char *what)
{
    return pq_fail(l->e, PQ_EFORMAT, "the description of the delta: %s", what);
}

/* ---- values ------------------------------------------------------------ */

static int string(struct loader *l, const char **s)
{
    struct pq_arena *a = &l->d->result.arena;
    size_t n;

    if (pq_json_next(&l->j) != PQ_JSON_STRING)
        return bad(l, "a string is missing");
    if (pq_json_string(&l->j, a, s, &n))
        return -1;
    if (memchr(*s, 0, n))
        return bad(l, "a NUL in a string");
    *s = pq_arena_strndup(a, *s, n);
    return *s ? 0 : pq_fail_nomem(l->e);
}

static int number(struct loader *l, uint64_t most, uint64_t *v)
{
    if (pq_json_next(&l->j) != PQ_JSON_NUMBER || pq_json_u64(&l->j, v) ||
        *v > most)
        return bad(l, "a number is missing or too large");
    return 0;
}

static int boolean(struct loader *l, bool *v)
{
    const enum pq_json_type t = pq_json_next(&l->j);

    *v = t == PQ_JSON_TRUE;
    return t == PQ_JSON_TRUE || t == PQ_JSON_FALSE
               ? 0
               : bad(l, "true or false is missing");
}

static int one_of(struct loader *l, int (*find)(const char *s), int *v)
{
    const char *s;

    if (string(l, &s))
        return -1;
    *v = find(s);
    return *v < 0 ? bad(l, "an unknown name") : 0;
}

static int dtype_named(const char *s)
{
    return pq_dtype_from_name(s, strlen(s));
}

static int how_named(const char *s)
{
    for (int i = 0; i < PQ_DELTA_N_HOW; i++)
        if (strcmp(pq_delta_how_names[i], s) == 0)
            return i;
    return -1;
}

static int digest(struct loader *l, struct pq_hash128 *h)
{
    const char *s;

    if (string(l, &s))
        return -1;
    if (strlen(s) != 32 || s[strspn(s, "0123456789abcdef")])
        return bad(l, "a digest is malformed");
    h->high = h->low = 0;
    for (int i = 0; i < 32; i++) {
        uint64_t *half = i < 16 ? &h->high : &h->low;
        const char c = s[i];
        *half = *half << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return 0;
}

/* Calls item() at the start of every element of an array. */
static int array(struct loader *l,
                 int (*item)(struct loader *l, enum pq_json_type t, void *arg),
                 void *arg)
{
    enum pq_json_type t;

    if (pq_json_next(&l->j) != PQ_JSON_ARRAY)
        return bad(l, "an array is missing");
    while ((t = pq_json_next(&l->j)) != PQ_JSON_ARRAY_END)
        if (t == PQ_JSON_ERROR || item(l, t, arg))
            return -1;
    return 0;
}

/* Calls member() behind every key of an object that has begun. */
static int object(struct loader *l, enum pq_json_type begun,
                  int (*member)(struct loader *l, void *arg), void *arg)
{
    enum pq_json_type t;

    if (begun != PQ_JSON_OBJECT)
        return bad(l, "an object is missing");
    while ((t = pq_json_next(&l->j)) != PQ_JSON_OBJECT_END)
        if (t != PQ_JSON_KEY || member(l, arg))
            return -1;
    return 0;
}

static int skip_value(struct loader *l)
{
    return pq_json_skip(&l->j, pq_json_next(&l->j));
}

struct shape {
    uint64_t *dims; /* [n] */
    size_t n, cap;
};

static int dimension(struct loader *l, enum pq_json_type t, void *arg)
{
    struct shape *s = arg;
    uint64_t *dims = pq_grow(s->dims, s->n, &s->cap, sizeof *dims);

    if (!dims)
        return pq_fail_nomem(l->e);
    s->dims = dims;
    if (t != PQ_JSON_NUMBER || pq_json_u64(&l->j, &dims[s->n]))
        return bad(l, "a shape is malformed");
    s->n++;
    return 0;
}

static int shape(struct loader *l, const uint64_t **dims, int *rank)
{
    struct shape s = {.n = 0};
    int rc = array(l, dimension, &s);

    if (!rc) {
        *rank = (int)s.n;
        *dims = pq_catalog_shape(&l->d->result, s.dims, *rank);
        rc = *dims ? 0 : pq_fail_nomem(l->e);
    }
    free(s.dims);
    return rc;
}

/* ---- tensors ----------------------------------------------------------- */

/* What is said about a part, or about a tensor that is its own part. */
struct piece {
    struct pq_part p;
    struct pq_delta_part d;
    bool typed, shaped, summed;
};

/* A tensor while it is read: its parts are not known before their end. */
struct draft {
    struct piece own;
    struct pq_codec codec;
    struct pq_part *parts;
    size_t n, cap;
};

static int piece_member(struct loader *l, void *arg)
{
    struct piece *x = arg;
    uint64_t v = 0;
    int i = 0, rc;

    if (pq_json_is(&l->j, "name"))
        return string(l, &x->p.name);
    if (pq_json_is(&l->j, "base"))
        return string(l, &x->d.base);
    if (pq_json_is(&l->j, "digest")) {
        x->summed = true;
        return digest(l, &x->d.digest);
    }
    if (pq_json_is(&l->j, "shape")) {
        x->shaped = true;
        return shape(l, &x->p.shape, &x->p.rank);
    }
    if (pq_json_is(&l->j, "dtype")) {
        x->typed = true;
        rc = one_of(l, dtype_named, &i);
        x->p.dtype = (enum pq_dtype)i;
    } else if (pq_json_is(&l->j, "how")) {
        rc = one_of(l, how_named, &i);
        x->d.how = (enum pq_delta_how)i;
    } else if (pq_json_is(&l->j, "role")) {
        rc = number(l, PQ_ROLE_WEIGHT_FORMAT, &v);
        x->p.role = (enum pq_role)v;
    } else if (pq_json_is(&l->j, "file")) {
        rc = number(l, UINT32_MAX, &v);
        x->p.file = (uint32_t)v;
    } else {
        rc = skip_value(l);
    }
    return rc;
}

/* Is what the part is made of there, in the right type and size? */
static int check_piece(struct loader *l, const struct piece *x)
{
    const bool stored = x->d.how != PQ_DELTA_SAME;
    const bool based = x->d.how != PQ_DELTA_WHOLE;
    const enum pq_dtype type =
        based ? pq_delta_word(x->p.dtype) : x->p.dtype;
    const struct pq_part *a =
        based && x->d.base ? pq_delta_find(l->in_base, x->d.base) : NULL;
    const struct pq_part *p =
        stored ? pq_delta_find(l->in_delta, x->p.name) : NULL;

    if (based && (!a || a->dtype != x->p.dtype || a->bytes != x->p.bytes))
        return pq_fail(l->e, PQ_EARG,
                       "tensor %s: the base has none of this name, type and "
                       "size",
                       x->p.name);
    if (stored && (!p || p->dtype != type || p->bytes != x->p.bytes))
        return pq_fail(l->e, PQ_EFORMAT,
                       "tensor %s: its difference is missing from the delta",
                       x->p.name);
    return 0;
}

/* Adds a complete part to the tensor and to the delta. */
static int keep_piece(struct loader *l, struct draft *t, struct piece *x)
{
    struct pq_delta *d = l->d;

    if (!x->p.name || !x->typed || !x->shaped || !x->summed)
        return bad(l, "a part lacks a key");
    if (!x->d.base && x->d.how != PQ_DELTA_WHOLE)
        x->d.base = x->p.name;
    if (pq_shape_bytes(x->p.shape, x->p.rank, x->p.dtype, &x->p.bytes, l->e) ||
        check_piece(l, x))
        return -1;
    struct pq_part *parts = pq_grow(t->parts, t->n, &t->cap, sizeof *parts);
    if (!parts)
        return pq_fail_nomem(l->e);
    t->parts = parts;
    parts[t->n++] = x->p;
    struct pq_delta_part *all =
        pq_grow(d->parts, d->n_parts, &l->cap_parts, sizeof *all);
    if (!all)
        return pq_fail_nomem(l->e);
    d->parts = all;
    all[d->n_parts++] = x->d;
    return 0;
}

static int part_item(struct loader *l, enum pq_json_type t, void *arg)
{
    struct piece x = {.p.role = PQ_ROLE_DATA};

    return object(l, t, piece_member, &x) ? -1 : keep_piece(l, arg, &x);
}

static int tensor_member(struct loader *l, void *arg)
{
    struct draft *x = arg;
    uint64_t v = 0;
    int i = 0, rc;

    if (pq_json_is(&l->j, "parts"))
        return array(l, part_item, x);
    if (pq_json_is(&l->j, "encoding")) {
        rc = one_of(l, pq_encoding_from_name, &i);
        x->codec.encoding = (enum pq_encoding)i;
    } else if (pq_json_is(&l->j, "block")) {
        rc = number(l, UINT32_MAX, &v);
        x->codec.block = (uint32_t)v;
    } else if (pq_json_is(&l->j, "nested")) {
        rc = number(l, UINT32_MAX, &v);
        x->codec.nested_block = (uint32_t)v;
    } else {
        rc = piece_member(l, &x->own);
    }
    return rc;
}

static int add_tensor(struct loader *l, struct draft *x)
{
    const struct pq_part *own = &x->own.p;
    uint64_t elements;

    if (x->n == 0 && keep_piece(l, x, &x->own))
        return -1;
    if (!own->name || !x->own.typed || !x->own.shaped)
        return bad(l, "a tensor lacks a key");
    if (pq_shape_elements(own->shape, own->rank, &elements, l->e))
        return -1;
    struct pq_tensor *t = pq_catalog_add(&l->d->result, own->name, x->n, l->e);
    if (!t)
        return -1;
    t->dtype = own->dtype;
    t->rank = own->rank;
    t->shape = own->shape;
    t->n_elements = elements;
    t->codec = x->codec;
    memcpy(t->parts, x->parts, x->n * sizeof *t->parts);
    return 0;
}

static int tensor_item(struct loader *l, enum pq_json_type t, void *arg)
{
    struct draft x = {.n = 0};
    int rc = object(l, t, tensor_member, &x);

    (void)arg;
    if (!rc)
        rc = add_tensor(l, &x);
    free(x.parts);
    return rc;
}

/* ---- everything else --------------------------------------------------- */

static int metadata_item(struct loader *l, enum pq_json_type t, void *arg)
{
    const char *key, *value;

    (void)arg;
    if (t != PQ_JSON_ARRAY || string(l, &key) || string(l, &value) ||
        pq_json_next(&l->j) != PQ_JSON_ARRAY_END)
        return bad(l, "metadata is malformed");
    return pq_catalog_set(&l->d->result, key, value, l->e);
}

/* The current string token, in the arena. */
static int current(struct loader *l, enum pq_json_type t, const char **s)
{
    size_t n;

    if (t != PQ_JSON_STRING)
        return bad(l, "a string is missing");
    if (pq_json_string(&l->j, &l->d->result.arena, s, &n))
        return -1;
    *s = pq_arena_strndup(&l->d->result.arena, *s, n);
    return *s ? 0 : pq_fail_nomem(l->e);
}

static int prov_item(struct loader *l, enum pq_json_type t, void *arg)
{
    const char *s;

    (void)arg;
    return current(l, t, &s) ? -1
                             : pq_catalog_add_prov(&l->d->result, s, l->e);
}

struct files {
    const char **names;
    size_t n, cap;
};

static int file_item(struct loader *l, enum pq_json_type t, void *arg)
{
    struct files *f = arg;
    void *names = pq_grow((void *)f->names, f->n, &f->cap, sizeof *f->names);

    if (!names)
        return pq_fail_nomem(l->e);
    f->names = names;
    return current(l, t, &f->names[f->n++]);
}

static int files(struct loader *l)
{
    struct pq_catalog *c = &l->d->result;
    struct files f = {.n = 0};
    int rc = array(l, file_item, &f);

    if (!rc && f.n) {
        c->files = pq_arena_alloc(&c->arena, f.n, sizeof *c->files);
        rc = c->files ? 0 : pq_fail_nomem(l->e);
    }
    if (!rc && f.n) {
        memcpy((void *)c->files, (const void *)f.names,
               f.n * sizeof *c->files);
        c->n_files = f.n;
    }
    free((void *)f.names);
    return rc;
}

struct file {
    const char *name;
    struct pq_hash128 digest;
    bool base, summed;
};

static int blob_member(struct loader *l, void *arg)
{
    struct file *f = arg;

    if (pq_json_is(&l->j, "name"))
        return string(l, &f->name);
    if (pq_json_is(&l->j, "base"))
        return boolean(l, &f->base);
    if (!pq_json_is(&l->j, "digest"))
        return skip_value(l);
    f->summed = true;
    return digest(l, &f->digest);
}

static int blob_item(struct loader *l, enum pq_json_type t, void *arg)
{
    struct file f = {.name = NULL};

    (void)arg;
    if (object(l, t, blob_member, &f))
        return -1;
    if (!f.name || !f.summed)
        return bad(l, "a file lacks a key");
    const struct pq_blob *b =
        pq_catalog_blob(f.base ? l->base : l->delta, f.name);
    if (!b)
        return pq_fail(l->e, PQ_EARG, "file %s: the %s does not have it",
                       f.name, f.base ? "base" : "delta");
    const struct pq_hash128 h = pq_hash128_of(b->data, (size_t)b->bytes);
    if (h.high != f.digest.high || h.low != f.digest.low)
        return pq_fail(l->e, PQ_ECHECKSUM,
                       "file %s: not what the delta was made with", f.name);
    return pq_catalog_add_blob(&l->d->result, f.name, b->data,
                               (size_t)b->bytes, l->e);
}

static int top_member(struct loader *l, void *arg)
{
    struct pq_catalog *c = &l->d->result;
    uint64_t version = 0;

    (void)arg;
    if (pq_json_is(&l->j, "version")) {
        if (number(l, UINT64_MAX, &version))
            return -1;
        return version == PQ_DELTA_VERSION
                   ? 0
                   : pq_fail(l->e, PQ_EUNSUPPORTED,
                             "the delta is of version %llu",
                             (unsigned long long)version);
    }
    if (pq_json_is(&l->j, "directory"))
        return boolean(l, &c->directory);
    if (pq_json_is(&l->j, "counts"))
        return boolean(l, &c->counts_parameters);
    if (pq_json_is(&l->j, "files"))
        return files(l);
    if (pq_json_is(&l->j, "metadata"))
        return array(l, metadata_item, NULL);
    if (pq_json_is(&l->j, "provenance"))
        return array(l, prov_item, NULL);
    if (pq_json_is(&l->j, "blobs"))
        return array(l, blob_item, NULL);
    if (pq_json_is(&l->j, "tensors"))
        return array(l, tensor_item, NULL);
    return skip_value(l);
}

static int parse(struct loader *l, const char *text)
{
    const size_t n = strlen(text);

    if (pq_json_check(text, n, l->e))
        return pq_error_in(l->e, "the description of the delta");
    pq_json_init(&l->j, text, n, l->e);
    if (object(l, pq_json_next(&l->j), top_member, NULL))
        return bad(l, "malformed");
    for (size_t i = 0; i < l->delta->n_extra; i++)
        if (pq_catalog_add_extra(&l->d->result, &l->delta->extra[i], l->e))
            return -1;
    return 0;
}

int pq_delta_load(struct pq_delta *d, const struct pq_catalog *base,
                  const struct pq_catalog *delta, struct pq_error *e)
{
    struct loader l = {.d = d, .base = base, .delta = delta, .e = e};
    const char *kind = pq_catalog_get(delta, "kind");
    const char *text = pq_catalog_get(delta, "delta");

    d->base_digest = pq_catalog_get(delta, "base");
    d->result_digest = pq_catalog_get(delta, "result");
    if (!kind || strcmp(kind, "delta") != 0 || !text || !d->base_digest ||
        !d->result_digest)
        return pq_fail(e, PQ_EARG, "is no delta (pq-diff --delta makes them)");
    l.in_base = pq_delta_index_new(base, e);
    l.in_delta = l.in_base ? pq_delta_index_new(delta, e) : NULL;
    const int rc = l.in_delta ? parse(&l, text) : -1;
    pq_delta_index_free(l.in_base);
    pq_delta_index_free(l.in_delta);
    return rc;
}
