/*
 * The catalogue of a .pq stream, from JSON (drawn in pqstream_catalog.c).
 *
 * Nothing in it is believed: names are unique and without NUL, every size is
 * computed from dtype and shape, and the parts of an encoded tensor hold at
 * least what its encoding needs, so that a decoder cannot run off their ends.
 * Unknown keys are skipped; a known key may stand once in an object.
 */
#include "pqstream.h"

#include "pq_quant.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

/* The keys of a tensor and of a part. */
enum {
    K_NAME = 1u << 0,
    K_DTYPE = 1u << 1,
    K_SHAPE = 1u << 2,
    K_ENCODING = 1u << 3,
    K_BLOCK = 1u << 4,
    K_NESTED_BLOCK = 1u << 5,
    K_PARTS = 1u << 6,
    K_ROLE = 1u << 7,
    K_FILE = 1u << 8
};

static const char *const key_names[] = {"name",     "dtype", "shape",
                                        "encoding", "block", "nested_block",
                                        "parts",    "role",  "file"};
#define N_KEYS (sizeof(key_names) / sizeof(key_names[0]))

/* What an object of "tensors" or "parts" said. */
struct item {
    unsigned keys; /* that were seen */
    const char *name;
    int dtype, encoding, role;
    uint64_t block, nested_block, file;
    const uint64_t *shape;
    int rank;
};

struct parser {
    struct pq_json j;
    struct pq_catalog *c;
    struct pq_names tensor_names, part_names;
    struct pq_part *parts; /* of the tensor at hand */
    size_t n_parts, cap_parts;
    uint64_t *dims; /* of the shape at hand */
    size_t cap_dims;
    const char **files;
    size_t n_files, cap_files;
    unsigned keys; /* at the top: tensors, files, directory */
    uint64_t total, max_file;
    struct pq_error *e;
};

static int expect(struct parser *p, enum pq_json_type want, const char *what)
{
    const enum pq_json_type t = pq_json_next(&p->j);

    if (t == PQ_JSON_ERROR)
        return -1;
    if (t != want)
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected %s", p->j.start,
                       what);
    return 0;
}

/* The current string, NUL-terminated, in the catalogue's arena. */
static int take_string(struct parser *p, const char **s)
{
    const char *text;
    size_t n;

    if (pq_json_string(&p->j, &p->c->arena, &text, &n))
        return -1;
    if (memchr(text, 0, n))
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: NUL in a name", p->j.start);
    *s = pq_arena_strndup(&p->c->arena, text, n);
    return *s ? 0 : pq_fail_nomem(p->e);
}

/* A string that must be in a table; *v is its number there. */
static int take_word(struct parser *p, int (*find)(const char *), int *v,
                     const char *what)
{
    const char *s;

    if (expect(p, PQ_JSON_STRING, "a string") || take_string(p, &s))
        return -1;
    *v = find(s);
    if (*v < 0)
        return pq_fail(p->e, PQ_EUNSUPPORTED, "byte %zu: unknown %s",
                       p->j.start, what);
    return 0;
}

static int find_dtype(const char *s)
{
    return pq_dtype_from_name(s, strlen(s));
}

static int take_number(struct parser *p, uint64_t max, uint64_t *v)
{
    if (expect(p, PQ_JSON_NUMBER, "a number") || pq_json_u64(&p->j, v))
        return -1;
    if (*v > max)
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: the number is too large",
                       p->j.start);
    return 0;
}

static int take_shape(struct parser *p, struct item *it)
{
    size_t n = 0;

    if (expect(p, PQ_JSON_ARRAY, "an array"))
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_ARRAY_END)
            break;
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_NUMBER)
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected a number",
                           p->j.start);
        uint64_t *dims = pq_grow(p->dims, n, &p->cap_dims, sizeof(*dims));
        if (!dims)
            return pq_fail_nomem(p->e);
        p->dims = dims;
        if (pq_json_u64(&p->j, &dims[n++]))
            return -1;
    }
    it->rank = (int)n; /* a text has at most 100,000,000 bytes */
    it->shape = pq_catalog_shape(p->c, p->dims, it->rank);
    return it->shape ? 0 : pq_fail_nomem(p->e);
}

static int take_parts(struct parser *p);

static int take_value(struct parser *p, unsigned key, struct item *it)
{
    switch (key) {
    case K_NAME:
        if (expect(p, PQ_JSON_STRING, "a string"))
            return -1;
        return take_string(p, &it->name);
    case K_DTYPE:
        return take_word(p, find_dtype, &it->dtype, "dtype");
    case K_SHAPE:
        return take_shape(p, it);
    case K_ENCODING:
        return take_word(p, pq_encoding_from_name, &it->encoding, "encoding");
    case K_BLOCK:
        return take_number(p, UINT32_MAX, &it->block);
    case K_NESTED_BLOCK:
        return take_number(p, UINT32_MAX, &it->nested_block);
    case K_PARTS:
        return take_parts(p);
    case K_ROLE:
        return take_word(p, pq_stream_role_from_name, &it->role, "role");
    default:
        return take_number(p, UINT32_MAX, &it->file);
    }
}

/* The key at hand as a bit of those allowed, 0 when it is unknown. */
static unsigned which_key(const struct parser *p, unsigned allowed)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        if ((allowed & 1u << i) && pq_json_is(&p->j, key_names[i]))
            return 1u << i;
    }
    return 0;
}

/* An object whose { was just read. */
static int take_item(struct parser *p, unsigned allowed, struct item *it)
{
    const unsigned needed = allowed & (K_NAME | K_DTYPE | K_SHAPE | K_ROLE);

    memset(it, 0, sizeof(*it));
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_OBJECT_END)
            break;
        if (t != PQ_JSON_KEY)
            return -1;
        const unsigned key = which_key(p, allowed);
        if (it->keys & key)
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: the key stands twice",
                           p->j.start);
        it->keys |= key;
        if (key ? take_value(p, key, it)
                : pq_json_skip(&p->j, pq_json_next(&p->j)))
            return -1;
    }
    if ((it->keys & needed) != needed)
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: an entry is incomplete",
                       p->j.start);
    return 0;
}

static int add_part(struct parser *p, const struct item *it)
{
    struct pq_part *all =
        pq_grow(p->parts, p->n_parts, &p->cap_parts, sizeof(*all));
    struct pq_part part = {.name = it->name,
                           .dtype = (enum pq_dtype)it->dtype,
                           .role = (enum pq_role)it->role,
                           .rank = it->rank,
                           .shape = it->shape,
                           .file = (uint32_t)it->file};

    if (!all)
        return pq_fail_nomem(p->e);
    p->parts = all;
    if (pq_shape_bytes(it->shape, it->rank, part.dtype, &part.bytes, p->e))
        return pq_error_in(p->e, "%s", it->name);
    if (it->file > p->max_file)
        p->max_file = it->file;
    all[p->n_parts++] = part;
    return 0;
}

static int take_parts(struct parser *p)
{
    struct item it;

    if (expect(p, PQ_JSON_ARRAY, "an array"))
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_ARRAY_END)
            return 0;
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_OBJECT)
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected an object",
                           p->j.start);
        if (take_item(p, K_NAME | K_DTYPE | K_SHAPE | K_ROLE | K_FILE, &it) ||
            add_part(p, &it))
            return -1;
    }
}

/* The data come first, and no two parts have the same role. */
static bool distinct(const struct parser *p)
{
    unsigned roles = 0;

    for (size_t i = 0; i < p->n_parts; i++) {
        const unsigned role = 1u << p->parts[i].role;
        if (roles & role)
            return false;
        roles |= role;
    }
    return p->n_parts > 0 && p->parts[0].role == PQ_ROLE_DATA;
}

static int unique(struct parser *p, struct pq_names *names, const char *name,
                  size_t number)
{
    size_t old;
    const int rc = pq_names_add(names, name, number, &old, p->e);

    if (rc > 0)
        return pq_fail(p->e, PQ_EFORMAT, "%s: the name stands twice", name);
    return rc;
}

/* Gives the tensor its parts and the parts their places. */
static int place_parts(struct parser *p, struct pq_tensor *t)
{
    for (size_t i = 0; i < p->n_parts; i++) {
        struct pq_part *part = &t->parts[i];
        *part = p->parts[i];
        part->offset = p->total;
        if (!pq_add(p->total, part->bytes, &p->total) || p->total > INT64_MAX)
            return pq_fail(p->e, PQ_EFORMAT, "%s: the sizes are impossible",
                           part->name);
        if (unique(p, &p->part_names, part->name, i))
            return -1;
    }
    return 0;
}

static int add_tensor(struct parser *p, const struct item *it)
{
    if (!(it->keys & K_PARTS) && add_part(p, it))
        return -1;
    if (!distinct(p))
        return pq_fail(p->e, PQ_EFORMAT,
                       "%s: its parts are not the data and one of each role",
                       it->name);
    struct pq_tensor *t = pq_catalog_add(p->c, it->name, p->n_parts, p->e);
    if (!t)
        return -1;
    t->dtype = (enum pq_dtype)it->dtype;
    t->rank = it->rank;
    t->shape = it->shape;
    t->codec.encoding = (enum pq_encoding)it->encoding;
    t->codec.block = (uint32_t)it->block;
    t->codec.nested_block = (uint32_t)it->nested_block;
    if (pq_shape_elements(t->shape, t->rank, &t->n_elements, p->e))
        return pq_error_in(p->e, "%s", it->name);
    if (place_parts(p, t) ||
        unique(p, &p->tensor_names, t->name, p->c->n_tensors - 1))
        return -1;
    if (!pq_codec_sound(t))
        return pq_fail(p->e, PQ_EFORMAT,
                       "%s: the parts do not suit the encoding", it->name);
    return 0;
}

static int take_tensors(struct parser *p)
{
    const unsigned allowed = K_NAME | K_DTYPE | K_SHAPE | K_ENCODING | K_BLOCK |
                             K_NESTED_BLOCK | K_PARTS | K_FILE;
    struct item it;

    if (expect(p, PQ_JSON_ARRAY, "an array"))
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_ARRAY_END)
            return 0;
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_OBJECT)
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected an object",
                           p->j.start);
        p->n_parts = 0;
        if (take_item(p, allowed, &it) || add_tensor(p, &it))
            return -1;
    }
}

bool pq_stream_base_name(const char *name)
{
    return name[0] != '\0' && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0 && !strchr(name, '/');
}

static int take_files(struct parser *p)
{
    if (expect(p, PQ_JSON_ARRAY, "an array"))
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_ARRAY_END)
            return 0;
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_STRING)
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected a string",
                           p->j.start);
        void *all = pq_grow((void *)p->files, p->n_files, &p->cap_files,
                            sizeof(*p->files));
        if (!all)
            return pq_fail_nomem(p->e);
        p->files = all;
        if (take_string(p, &p->files[p->n_files]))
            return -1;
        if (!pq_stream_base_name(p->files[p->n_files++]))
            return pq_fail(p->e, PQ_EFORMAT, "byte %zu: not a file's name",
                           p->j.start);
    }
}

static int take_top(struct parser *p)
{
    static const char *const names[] = {"tensors", "files", "directory"};
    unsigned k = 0;

    while (k < 3 && !pq_json_is(&p->j, names[k]))
        k++;
    if (k == 3)
        return pq_json_skip(&p->j, pq_json_next(&p->j));
    if (p->keys & 1u << k)
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: the key stands twice",
                       p->j.start);
    p->keys |= 1u << k;
    if (k == 0)
        return take_tensors(p);
    if (k == 1)
        return take_files(p);
    const enum pq_json_type t = pq_json_next(&p->j);
    if (t != PQ_JSON_TRUE && t != PQ_JSON_FALSE)
        return pq_fail(p->e, PQ_EFORMAT, "byte %zu: expected true or false",
                       p->j.start);
    p->c->directory = t == PQ_JSON_TRUE;
    return 0;
}

/* The list of shards, into the catalogue's arena. */
static int keep_files(struct parser *p)
{
    if (p->max_file > 0 && p->max_file >= p->n_files)
        return pq_fail(p->e, PQ_EFORMAT, "a tensor of an unknown file");
    if (p->n_files == 0)
        return 0;
    p->c->files =
        pq_arena_alloc(&p->c->arena, p->n_files, sizeof(*p->c->files));
    if (!p->c->files)
        return pq_fail_nomem(p->e);
    memcpy((void *)p->c->files, (const void *)p->files,
           p->n_files * sizeof(*p->files));
    p->c->n_files = p->n_files;
    return 0;
}

static int parse(struct parser *p)
{
    if (expect(p, PQ_JSON_OBJECT, "an object"))
        return -1;
    for (;;) {
        const enum pq_json_type t = pq_json_next(&p->j);
        if (t == PQ_JSON_OBJECT_END)
            break;
        if (t != PQ_JSON_KEY || take_top(p))
            return -1;
    }
    if (expect(p, PQ_JSON_END, "the end"))
        return -1;
    if (!(p->keys & 1u))
        return pq_fail(p->e, PQ_EFORMAT, "there is no list of tensors");
    return keep_files(p);
}

int pq_stream_parse_catalog(const char *text, size_t n, struct pq_catalog *c,
                            uint64_t *total, struct pq_error *e)
{
    struct parser p = {.c = c, .e = e};

    pq_json_init(&p.j, text, n, e);
    const int rc = parse(&p);
    *total = p.total;
    pq_names_release(&p.tensor_names);
    pq_names_release(&p.part_names);
    free(p.parts);
    free(p.dims);
    free((void *)p.files);
    return rc ? pq_error_in(e, "catalogue") : 0;
}
