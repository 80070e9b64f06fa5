/*
 * Masks: their description, and their bits.  What they look like is drawn in
 * pq_mask.h.
 *
 * A mask may come from anywhere: its description is read strictly, and each
 * of its tensors must have the type and size that follow from it.
 */
#include "pq_mask.h"

#include "pq_json.h"
#include "pq_sparsity.h"

#include <string.h>

#define VERSION  1u
#define MOST_RANK 64

/* ---- describing ---------------------------------------------------------- */

static uint64_t columns_of(const uint64_t *shape, int rank)
{
    return rank ? shape[rank - 1] : 1;
}

/* Rows and bytes of a row of the mask for such weights; how many they are. */
static int mask_shape(const uint64_t *shape, int rank, uint64_t bytes[2],
                      uint64_t *n, struct pq_error *e)
{
    const uint64_t cols = columns_of(shape, rank);

    if (pq_shape_elements(shape, rank, n, e))
        return -1;
    bytes[0] = cols ? *n / cols : 0;
    bytes[1] = pq_mask_row(cols);
    return 0;
}

static int declare(struct pq_catalog *mask, const struct pq_tensor *w,
                   struct pq_error *e)
{
    uint64_t shape[2], n;
    struct pq_tensor *t = pq_catalog_add(mask, w->name, 1, e);

    if (!t || mask_shape(w->shape, w->rank, shape, &n, e))
        return -1;
    t->dtype = t->parts[0].dtype = PQ_U8;
    t->rank = t->parts[0].rank = 2;
    t->shape = t->parts[0].shape = pq_catalog_shape(mask, shape, 2);
    t->n_elements = t->parts[0].bytes = shape[0] * shape[1];
    t->parts[0].name = t->name;
    return t->shape ? 0 : pq_fail_nomem(e);
}

static void put_shape(struct pq_buf *b, const struct pq_tensor *w)
{
    pq_json_quote(b, w->name);
    pq_buf_puts(b, ":[");
    for (int i = 0; i < w->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)w->shape[i]);
    pq_buf_puts(b, "]");
}

int pq_mask_declare(struct pq_catalog *mask,
                    const struct pq_tensor *const *tensors, size_t n,
                    struct pq_error *e)
{
    struct pq_buf b = {0};
    int rc = 0;

    pq_buf_printf(&b, "{\"version\":%u,\"shapes\":{", VERSION);
    for (size_t i = 0; !rc && i < n; i++) {
        pq_buf_puts(&b, i ? "," : "");
        put_shape(&b, tensors[i]);
        rc = declare(mask, tensors[i], e);
    }
    pq_buf_puts(&b, "}}");
    if (!rc)
        rc = b.failed ? pq_fail_nomem(e)
                      : pq_catalog_set(mask, PQ_MASK_KEY, b.s, e);
    pq_buf_release(&b);
    return rc;
}

/* ---- reading the description --------------------------------------------- */

bool pq_mask_is(const struct pq_catalog *c)
{
    return pq_catalog_get(c, PQ_MASK_KEY) != NULL;
}

static int bad(const struct pq_mask *m, const char *what, struct pq_error *e)
{
    return pq_fail(e, PQ_EFORMAT, "%s: the description of the mask: %s",
                   m->source->name, what);
}

/* The shape behind a key, which is read. */
static int read_shape(struct pq_mask *m, struct pq_json *j,
                      struct pq_masked *w, struct pq_error *e)
{
    uint64_t shape[MOST_RANK], *copy;
    enum pq_json_type t;
    int rank = 0;

    if (pq_json_next(j) != PQ_JSON_ARRAY)
        return bad(m, "a shape is missing", e);
    while ((t = pq_json_next(j)) == PQ_JSON_NUMBER && rank < MOST_RANK)
        if (pq_json_u64(j, &shape[rank++]))
            return -1;
    if (t != PQ_JSON_ARRAY_END)
        return bad(m, "a shape is malformed", e);
    copy = pq_arena_alloc(&m->arena, (size_t)rank, sizeof *copy);
    if (!copy)
        return pq_fail_nomem(e);
    if (rank)
        memcpy(copy, shape, (size_t)rank * sizeof *copy);
    w->rank = rank;
    w->shape = copy;
    return 0;
}

/* The number of the tensor that the current key names, or SIZE_MAX. */
static size_t tensor_of_key(struct pq_mask *m, struct pq_json *j)
{
    struct pq_arena a = {0};
    const char *key;
    size_t n, i = SIZE_MAX;

    if (pq_json_string(j, &a, &key, &n) == 0 && !memchr(key, 0, n)) {
        const char *name = pq_arena_strndup(&a, key, n);
        i = name ? pq_names_find(&m->names, name) : SIZE_MAX;
    }
    pq_arena_release(&a);
    return i;
}

static int read_shapes(struct pq_mask *m, struct pq_json *j,
                       struct pq_error *e)
{
    enum pq_json_type t;

    if (pq_json_next(j) != PQ_JSON_OBJECT)
        return bad(m, "the shapes are missing", e);
    while ((t = pq_json_next(j)) == PQ_JSON_KEY) {
        const size_t i = tensor_of_key(m, j);
        if (i == SIZE_MAX ? pq_json_skip(j, t)
                          : read_shape(m, j, &m->weights[i], e))
            return -1;
    }
    return t == PQ_JSON_OBJECT_END ? 0 : bad(m, "the shapes are malformed", e);
}

static int read_text(struct pq_mask *m, const char *text, struct pq_error *e)
{
    enum pq_json_type t;
    struct pq_json j;
    uint64_t version = 0;

    if (pq_json_check(text, strlen(text), e))
        return pq_error_in(e, "%s: the description of the mask",
                           m->source->name);
    pq_json_init(&j, text, strlen(text), e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return bad(m, "it is no object", e);
    while ((t = pq_json_next(&j)) == PQ_JSON_KEY) {
        int rc;
        if (pq_json_is(&j, "version"))
            rc = pq_json_next(&j) != PQ_JSON_NUMBER ||
                 pq_json_u64(&j, &version);
        else if (pq_json_is(&j, "shapes"))
            rc = read_shapes(m, &j, e);
        else
            rc = pq_json_skip(&j, t);
        if (rc)
            return e && e->code ? -1 : bad(m, "it is malformed", e);
    }
    if (version != VERSION)
        return bad(m, "it is of another version", e);
    return 0;
}

/* Has each tensor the size that follows from its shape? */
static int check_tensors(const struct pq_mask *m, struct pq_error *e)
{
    const struct pq_catalog *c = m->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        struct pq_masked *w = &m->weights[i];
        uint64_t want[2];
        if (!w->shape)
            return pq_fail(e, PQ_EFORMAT,
                           "%s: tensor %s: the mask does not say its shape",
                           m->source->name, t->name);
        if (mask_shape(w->shape, w->rank, want, &w->n_elements, e))
            return pq_error_in(e, "%s: tensor %s", m->source->name, t->name);
        if (t->codec.encoding != PQ_PLAIN || t->dtype != PQ_U8 ||
            t->rank != 2 || t->shape[0] != want[0] || t->shape[1] != want[1])
            return pq_fail(e, PQ_EFORMAT,
                           "%s: tensor %s: is not U8 [%llu, %llu], as its mask "
                           "would be",
                           m->source->name, t->name,
                           (unsigned long long)want[0],
                           (unsigned long long)want[1]);
    }
    return 0;
}

int pq_mask_open(struct pq_mask *m, struct pq_source *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->catalog;
    const char *text = pq_catalog_get(c, PQ_MASK_KEY);

    memset(m, 0, sizeof *m);
    m->source = s;
    if (!text)
        return pq_fail(e, PQ_EFORMAT, "%s: is no mask", s->name);
    m->weights = pq_arena_alloc(&m->arena, c->n_tensors, sizeof *m->weights);
    if (!m->weights)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_names_add(&m->names, c->tensors[i].name, i, NULL, e) < 0)
            return -1;
    return read_text(m, text, e) || check_tensors(m, e) ? -1 : 0;
}

void pq_mask_release(struct pq_mask *m)
{
    pq_names_release(&m->names);
    pq_arena_release(&m->arena);
}

const struct pq_tensor *pq_mask_find(const struct pq_mask *m,
                                     const struct pq_tensor *weights,
                                     struct pq_error *e)
{
    const size_t i = pq_names_find(&m->names, weights->name);
    char mine[256], theirs[256];

    if (i == SIZE_MAX)
        return NULL;
    const struct pq_masked *w = &m->weights[i];
    if (w->rank == weights->rank &&
        (w->rank == 0 || memcmp(w->shape, weights->shape,
                                (size_t)w->rank * sizeof *w->shape) == 0))
        return &m->source->catalog->tensors[i];
    pq_shape_text(w->shape, w->rank, mine, sizeof mine);
    pq_shape_text(weights->shape, weights->rank, theirs, sizeof theirs);
    pq_fail(e, PQ_EARG, "is %s, and its mask in %s is for %s", theirs,
            m->source->name, mine);
    return NULL;
}

/* ---- bits ---------------------------------------------------------------- */

static void bits_of_run(const struct pq_kernels *k, enum pq_dtype dtype,
                        const unsigned char *w, uint64_t n, float *room,
                        uint8_t *bits)
{
    const size_t size = pq_dtype_bits(dtype) / 8;

    for (uint64_t at = 0; at < n; at += PQ_MASK_ROOM)
        pq_nonzero_bits(k, dtype, w + at * size,
                        (size_t)(n - at < PQ_MASK_ROOM ? n - at : PQ_MASK_ROOM),
                        room, bits + at / 8);
}

void pq_mask_of(const struct pq_kernels *k, enum pq_dtype dtype, const void *w,
                uint64_t n, uint64_t cols, float *room, uint8_t *bits)
{
    const size_t size = pq_dtype_bits(dtype) / 8;
    const uint64_t run = cols == 0 || cols % 8 == 0 ? n : cols;

    for (uint64_t at = 0, row = 0; at < n; at += run, row++)
        bits_of_run(k, dtype, (const unsigned char *)w + at * size, run, room,
                    bits + row * pq_mask_row(cols));
}

void pq_mask_get(const uint8_t *bits, uint64_t cols, uint64_t at, size_t n,
                 uint8_t *to)
{
    if (cols == 0 || cols % 8 == 0) {
        if (at % 8 == 0) {
            memcpy(to, bits + at / 8, (n + 7) / 8);
            if (n % 8)
                to[n / 8] &= (uint8_t)((1u << n % 8) - 1);
            return;
        }
        cols = UINT64_MAX / 2; /* one long row */
    }
    memset(to, 0, (n + 7) / 8);
    for (size_t i = 0; i < n; i++) {
        const uint64_t row = (at + i) / cols, c = (at + i) % cols;
        const uint8_t *line = bits + row * pq_mask_row(cols);
        to[i / 8] |= (uint8_t)((line[c / 8] >> c % 8 & 1) << i % 8);
    }
}
