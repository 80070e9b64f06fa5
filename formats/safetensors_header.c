/*
 * The header of a safetensors file, read strictly.
 *
 *     {"__metadata__":{"format":"pt"},
 *      "a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, ...}
 *
 * Accepts and rejects what the reference library does (safetensors 0.8,
 * safetensors/src/tensor.rs: HashMetadata, Metadata::validate), down to what
 * its deserializer allows by accident: a tensor as an array of its three
 * fields, a dtype as {"F32":null}.  Stricter in two
 * points only: names that come twice and names with a NUL are rejected.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

enum field { DTYPE, SHAPE, OFFSETS, N_FIELDS };

static const char *const field_names[N_FIELDS] = {
    [DTYPE] = "dtype",
    [SHAPE] = "shape",
    [OFFSETS] = "data_offsets",
};

struct parser {
    struct pq_json j;
    struct pq_catalog *c;
    struct pq_arena scratch;
    struct pq_buf key, value; /* used again and again */
    uint64_t *dims;           /* of the current shape */
    size_t cap_dims;
    bool has_metadata;
    struct pq_error *e;
};

/* Says what should have been where token `t` is. */
static int expected(struct parser *p, enum pq_json_type t, const char *what)
{
    if (t == PQ_JSON_ERROR)
        return -1;
    return pq_fail(p->e, PQ_EFORMAT, "header: %s expected at byte %zu", what,
                   p->j.start);
}

static int expect(struct parser *p, enum pq_json_type want, const char *what)
{
    const enum pq_json_type t = pq_json_next(&p->j);
    return t == want ? 0 : expected(p, t, what);
}

/*
 * Skips an unknown field.  The reference library looks at all of it, so that
 * 1e999 is an error there too.
 */
static int skip(struct parser *p, enum pq_json_type t)
{
    const bool nested = t == PQ_JSON_OBJECT || t == PQ_JSON_ARRAY;
    const unsigned depth = p->j.depth - (nested ? 1 : 0);
    for (; t != PQ_JSON_ERROR; t = pq_json_next(&p->j)) {
        double v;
        if (t == PQ_JSON_NUMBER && pq_json_double(&p->j, &v) != 0)
            return -1;
        if (p->j.depth == depth)
            return 0;
    }
    return -1;
}

/* The current string as C text; a NUL in it becomes U+FFFD. */
static const char *text(struct parser *p, struct pq_buf *b)
{
    const char *s;
    size_t n;
    if (pq_json_string(&p->j, &p->scratch, &s, &n) != 0)
        return NULL;
    b->n = 0;
    for (const char *nul; (nul = memchr(s, '\0', n)) != NULL;) {
        const size_t before = (size_t)(nul - s);
        pq_buf_add(b, s, before);
        pq_buf_puts(b, "\xEF\xBF\xBD");
        s += before + 1;
        n -= before + 1;
    }
    pq_buf_add(b, s, n);
    if (!b->failed)
        return b->s;
    pq_fail_nomem(p->e);
    return NULL;
}

/* Takes the lines of `value` as the provenance. */
static int set_prov(struct parser *p, char *value)
{
    p->c->n_prov = 0;
    while (*value) {
        const size_t n = strcspn(value, "\n");
        const bool last = value[n] == '\0';
        value[n] = '\0';
        if (n > 0 && pq_catalog_add_prov(p->c, value, p->e) != 0)
            return -1;
        value += n + !last;
    }
    return 0;
}

static int parse_pair(struct parser *p)
{
    const char *const key = text(p, &p->key);
    if (key == NULL || expect(p, PQ_JSON_STRING, "a string") != 0)
        return -1;
    const char *const value = text(p, &p->value);
    if (value == NULL)
        return -1;
    if (strcmp(key, PQ_ST_PROV) == 0)
        return set_prov(p, p->value.s);
    return pq_catalog_set(p->c, key, value, p->e);
}

static int parse_metadata(struct parser *p)
{
    if (p->has_metadata)
        return pq_fail(p->e, PQ_EFORMAT, "header: two " PQ_ST_META);
    p->has_metadata = true;
    enum pq_json_type t = pq_json_next(&p->j);
    if (t == PQ_JSON_NULL)
        return 0;
    if (t != PQ_JSON_OBJECT)
        return expected(p, t, "an object");
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY)
        if (parse_pair(p) != 0)
            return -1;
    return t == PQ_JSON_OBJECT_END ? 0 : expected(p, t, "a string");
}

static int parse_dtype(struct parser *p, struct pq_tensor *x,
                       enum pq_json_type t)
{
    const bool object = t == PQ_JSON_OBJECT;
    if (object)
        t = pq_json_next(&p->j);
    if (t != (object ? PQ_JSON_KEY : PQ_JSON_STRING))
        return expected(p, t, "a dtype");
    const char *s;
    size_t n;
    if (pq_json_string(&p->j, &p->scratch, &s, &n) != 0)
        return -1;
    const int dtype = pq_dtype_from_name(s, n);
    if (dtype < 0)
        return pq_fail(p->e, PQ_EFORMAT, "unknown dtype %.*s",
                       (int)(n < 32 ? n : 32), s);
    x->dtype = (enum pq_dtype)dtype;
    if (!object)
        return 0;
    if (expect(p, PQ_JSON_NULL, "null") != 0)
        return -1;
    return expect(p, PQ_JSON_OBJECT_END, "}");
}

static int parse_shape(struct parser *p, struct pq_tensor *x,
                       enum pq_json_type t)
{
    if (t != PQ_JSON_ARRAY)
        return expected(p, t, "an array");
    size_t n = 0;
    while ((t = pq_json_next(&p->j)) == PQ_JSON_NUMBER) {
        uint64_t *const all =
            pq_grow(p->dims, n, &p->cap_dims, sizeof *p->dims);
        if (all == NULL)
            return pq_fail_nomem(p->e);
        p->dims = all;
        if (pq_json_u64(&p->j, &all[n++]) != 0)
            return -1;
    }
    if (t != PQ_JSON_ARRAY_END)
        return expected(p, t, "a number");
    x->rank = (int)n;
    x->shape = pq_catalog_shape(p->c, p->dims, x->rank);
    return x->shape != NULL ? 0 : pq_fail_nomem(p->e);
}

static int parse_offsets(struct parser *p, struct pq_tensor *x,
                         enum pq_json_type t)
{
    uint64_t begin, end;
    if (t != PQ_JSON_ARRAY)
        return expected(p, t, "an array");
    if (expect(p, PQ_JSON_NUMBER, "a number") != 0 ||
        pq_json_u64(&p->j, &begin) != 0 ||
        expect(p, PQ_JSON_NUMBER, "a number") != 0 ||
        pq_json_u64(&p->j, &end) != 0 || expect(p, PQ_JSON_ARRAY_END, "]") != 0)
        return -1;
    if (end < begin)
        return pq_fail(p->e, PQ_EFORMAT, "data ends before it begins");
    x->parts[0].offset = begin;
    x->parts[0].bytes = end - begin;
    return 0;
}

static int parse_field(struct parser *p, struct pq_tensor *x, enum field f)
{
    const enum pq_json_type t = pq_json_next(&p->j);
    switch (f) {
    case DTYPE:
        return parse_dtype(p, x, t);
    case SHAPE:
        return parse_shape(p, x, t);
    case OFFSETS:
        return parse_offsets(p, x, t);
    default:
        return skip(p, t);
    }
}

static enum field current_field(const struct parser *p)
{
    int f = 0;
    while (f < N_FIELDS && !pq_json_is(&p->j, field_names[f]))
        f++;
    return (enum field)f;
}

/* {"dtype":..,"shape":..,"data_offsets":..}, in any order. */
static int parse_object(struct parser *p, struct pq_tensor *x)
{
    bool seen[N_FIELDS] = {false};
    enum pq_json_type t;
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY) {
        const enum field f = current_field(p);
        if (f < N_FIELDS && seen[f])
            return pq_fail(p->e, PQ_EFORMAT, "%s comes twice", field_names[f]);
        if (f < N_FIELDS)
            seen[f] = true;
        if (parse_field(p, x, f) != 0)
            return -1;
    }
    if (t != PQ_JSON_OBJECT_END)
        return expected(p, t, "a field");
    for (int f = 0; f < N_FIELDS; f++)
        if (!seen[f])
            return pq_fail(p->e, PQ_EFORMAT, "%s is missing", field_names[f]);
    return 0;
}

/* ["F32",[2,3],[0,24]] */
static int parse_array(struct parser *p, struct pq_tensor *x)
{
    for (int f = 0; f < N_FIELDS; f++)
        if (parse_field(p, x, (enum field)f) != 0)
            return -1;
    return expect(p, PQ_JSON_ARRAY_END, "]");
}

/*
 * A tensor of one part.  Until the data are sorted, n_elements holds its
 * number in the header.
 */
static int parse_tensor(struct parser *p)
{
    const char *name;
    size_t n;
    if (pq_json_string(&p->j, &p->scratch, &name, &n) != 0)
        return -1;
    if (memchr(name, '\0', n) != NULL)
        return pq_fail(p->e, PQ_EFORMAT, "header: a NUL in a name at byte %zu",
                       p->j.start);
    p->key.n = 0;
    pq_buf_add(&p->key, name, n);
    if (p->key.failed)
        return pq_fail_nomem(p->e);
    const size_t number = p->c->n_tensors;
    struct pq_tensor *const x = pq_catalog_add(p->c, p->key.s, 1, p->e);
    if (x == NULL)
        return -1;
    x->n_elements = number;
    const enum pq_json_type t = pq_json_next(&p->j);
    const int rc = t == PQ_JSON_OBJECT  ? parse_object(p, x)
                   : t == PQ_JSON_ARRAY ? parse_array(p, x)
                                        : expected(p, t, "an object");
    return rc == 0 ? 0 : pq_error_in(p->e, "tensor %s", x->name);
}

static int parse_all(struct parser *p)
{
    if (expect(p, PQ_JSON_OBJECT, "an object") != 0)
        return -1;
    enum pq_json_type t;
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY)
        if ((pq_json_is(&p->j, PQ_ST_META) ? parse_metadata(p)
                                           : parse_tensor(p)) != 0)
            return -1;
    if (t != PQ_JSON_OBJECT_END)
        return expected(p, t, "a tensor");
    return expect(p, PQ_JSON_END, "the end");
}

/* By place in the data; what is empty first; else as in the header. */
static int compare(const void *a, const void *b)
{
    const struct pq_tensor *const s = a, *const t = b;
    const struct pq_part *const x = s->parts, *const y = t->parts;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return s->n_elements < t->n_elements ? -1 : s->n_elements > t->n_elements;
}

/* Most files come sorted; qsort would move them about all the same. */
static void sort_tensors(struct pq_catalog *c)
{
    for (size_t i = 1; i < c->n_tensors; i++)
        if (compare(&c->tensors[i - 1], &c->tensors[i]) > 0) {
            qsort(c->tensors, c->n_tensors, sizeof *c->tensors, compare);
            return;
        }
}

/* The data begin where the last ones ended and are as long as the shape. */
static int check_tensor(const struct pq_tensor *x, uint64_t begin,
                        struct pq_error *e)
{
    const struct pq_part *const p = &x->parts[0];
    uint64_t bytes;
    if (p->offset != begin)
        return pq_fail(e, PQ_EFORMAT,
                       "data begins at byte %llu, %llu expected: %s",
                       (unsigned long long)p->offset, (unsigned long long)begin,
                       p->offset < begin ? "an overlap" : "a hole");
    if (pq_shape_bytes(x->shape, x->rank, x->dtype, &bytes, e) != 0)
        return -1;
    if (bytes != p->bytes)
        return pq_fail(e, PQ_EFORMAT, "%llu bytes of data, %llu expected",
                       (unsigned long long)p->bytes, (unsigned long long)bytes);
    return 0;
}

static int complete_tensor(struct pq_tensor *x, struct pq_error *e)
{
    struct pq_part *const p = &x->parts[0];
    p->name = x->name;
    p->dtype = x->dtype;
    p->role = PQ_ROLE_DATA;
    p->rank = x->rank;
    p->shape = x->shape;
    return pq_shape_elements(x->shape, x->rank, &x->n_elements, e);
}

/* Puts the tensors in the order of their data, which leave no hole. */
static int complete(struct pq_catalog *c, uint64_t *data_bytes,
                    struct pq_error *e)
{
    uint64_t at = 0;
    sort_tensors(c);
    for (size_t i = 0; i < c->n_tensors; i++) {
        struct pq_tensor *const x = &c->tensors[i];
        if (check_tensor(x, at, e) != 0 || complete_tensor(x, e) != 0)
            return pq_error_in(e, "tensor %s", x->name);
        at += x->parts[0].bytes;
    }
    *data_bytes = at;
    return 0;
}

int pq_st_parse(const char *header, size_t n, struct pq_catalog *c,
                uint64_t *data_bytes, struct pq_error *e)
{
    struct parser p = {.c = c, .e = e};
    pq_json_init(&p.j, header, n, e);
    int rc = parse_all(&p);
    if (rc == 0)
        rc = complete(c, data_bytes, e);
    free(p.dims);
    pq_buf_release(&p.value);
    pq_buf_release(&p.key);
    pq_arena_release(&p.scratch);
    return rc;
}

int pq_st_check_names(const struct pq_catalog *c, struct pq_error *e)
{
    struct pq_names names = {0};
    int rc = 0;
    for (size_t i = 0; i < c->n_tensors && rc == 0; i++) {
        const char *const name = c->tensors[i].name;
        rc = pq_names_add(&names, name, i, NULL, e);
        if (rc > 0)
            rc = pq_fail(e, PQ_EFORMAT, "tensor %s: comes twice", name);
    }
    pq_names_release(&names);
    return rc;
}
