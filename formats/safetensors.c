/*
 * Reading safetensors: one file, or a stream that holds one.
 *
 *     | u64 N | N bytes of JSON, padded with spaces | data ............ |
 *                                                   ^ address 0
 *
 * The data have no holes and end with the file, so a file's size is known
 * from its header, and what is missing is noticed before any tensor is read;
 * of a pipe, when it ends.  Reference: the safetensors library, tensor.rs.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

enum {
    FIRST_CHUNK = 1 << 20, /* of a header whose length is not yet believed */
    SKIP_BYTES = 1 << 16
};

/* Whose bytes these are, for messages. */
struct span {
    const char *name;
    uint64_t begin, end;
};

struct st_source {
    struct pq_source base;
    struct pq_in in;
    struct pq_catalog catalog;
    uint64_t body; /* where the data begin in the file */
    uint64_t data_bytes;
    uint64_t at;        /* of a pipe: next byte of the data */
    struct span *spans; /* [n_spans] of a pipe, in the order of the data */
    size_t n_spans;
};

static uint64_t get_u64(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* A plausible length, and JSON that begins as an object. */
static bool sniff(const unsigned char *p, size_t n)
{
    if (n <= PQ_ST_LENGTH)
        return false;
    const uint64_t length = get_u64(p);
    if (length < 2 || length > PQ_ST_MAX_HEADER)
        return false;
    for (size_t i = PQ_ST_LENGTH; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\n' && p[i] != '\r')
            return p[i] == '{';
    return true;
}

/* ---- Opening --------------------------------------------------------- */

static int read_length(struct pq_in *in, uint64_t *length, struct pq_error *e)
{
    unsigned char raw[PQ_ST_LENGTH];
    if (pq_in_read_all(in, raw, sizeof raw, e) != 0)
        return pq_error_in(e, "header");
    *length = get_u64(raw);
    if (*length > PQ_ST_MAX_HEADER)
        return pq_fail(e, PQ_EFORMAT, "header: %llu bytes, more than %u",
                       (unsigned long long)*length, PQ_ST_MAX_HEADER);
    if (in->regular && *length > in->size - PQ_ST_LENGTH)
        return pq_fail(e, PQ_ETRUNCATED,
                       "header: truncated at byte %llu of %llu",
                       (unsigned long long)(in->size - PQ_ST_LENGTH),
                       (unsigned long long)*length);
    return 0;
}

/* Reads n bytes, taking memory only as they come.  NULL after a failure. */
static char *read_text(struct pq_in *in, size_t n, struct pq_error *e)
{
    char *text = NULL;
    size_t have = 0;
    do {
        size_t want = have ? 2 * have : FIRST_CHUNK;
        if (want > n)
            want = n;
        char *const more = pq_resize(text, want, 1);
        if (more == NULL) {
            pq_fail_nomem(e);
            break;
        }
        text = more;
        if (pq_in_read_all(in, text + have, want - have, e) != 0) {
            pq_error_in(e, "header");
            break;
        }
        have = want;
        if (have == n)
            return text;
    } while (true);
    free(text);
    return NULL;
}

static int make_spans(struct st_source *s, struct pq_error *e)
{
    struct pq_catalog *const c = &s->catalog;
    s->spans = pq_arena_alloc(&c->arena, c->n_tensors, sizeof *s->spans);
    if (s->spans == NULL)
        return pq_fail_nomem(e);
    s->n_spans = c->n_tensors;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_part *const p = &c->tensors[i].parts[0];
        s->spans[i] = (struct span){p->name, p->offset, p->offset + p->bytes};
    }
    return 0;
}

/* The span that holds byte `at` of the data, or NULL. */
static const struct span *find_span(const struct st_source *s, uint64_t at)
{
    size_t low = 0, high = s->n_spans;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (s->spans[mid].end > at)
            high = mid;
        else
            low = mid + 1;
    }
    return low < s->n_spans ? &s->spans[low] : NULL;
}

/* Says that the data end at `at`; `reading` is named by the caller. */
static int fail_truncated(const struct st_source *s, uint64_t at,
                          const struct span *reading, struct pq_error *e)
{
    const struct span *const x = find_span(s, at);
    if (x == NULL)
        return pq_fail(e, PQ_ETRUNCATED, "truncated");
    pq_fail(e, PQ_ETRUNCATED, "truncated at byte %llu of %llu",
            (unsigned long long)(at - x->begin),
            (unsigned long long)(x->end - x->begin));
    return x == reading ? -1 : pq_error_in(e, "tensor %s", x->name);
}

/* A file must be as long as its header says. */
static int check_size(struct st_source *s, struct pq_error *e)
{
    const uint64_t have = s->in.size - s->body;
    if (have < s->data_bytes)
        return make_spans(s, e) != 0 ? -1 : fail_truncated(s, have, NULL, e);
    if (have > s->data_bytes)
        return pq_fail(e, PQ_EFORMAT, "%llu bytes follow the last tensor",
                       (unsigned long long)(have - s->data_bytes));
    return 0;
}

static int read_header(struct st_source *s, struct pq_error *e)
{
    uint64_t length = 0;
    if (read_length(&s->in, &length, e) != 0)
        return -1;
    char *const text = read_text(&s->in, (size_t)length, e);
    if (text == NULL)
        return -1;
    const int rc =
        pq_st_parse(text, (size_t)length, &s->catalog, &s->data_bytes, e);
    free(text);
    if (rc != 0 || pq_st_check_names(&s->catalog, e) != 0)
        return -1;
    s->body = PQ_ST_LENGTH + length;
    if (!pq_add(s->body, s->data_bytes, &s->base.total_bytes))
        return pq_fail(e, PQ_EFORMAT, "header: more data than a file can hold");
    return s->in.regular ? check_size(s, e) : make_spans(s, e);
}

/* ---- The source ------------------------------------------------------ */

static int read_random(struct pq_source *base, uint64_t offset, void *buf,
                       size_t n, struct pq_error *e)
{
    const struct st_source *const s = (const struct st_source *)base;
    return pq_in_pread(&s->in, s->body + offset, buf, n, e);
}

/* Reads n bytes of a pipe's data in sequence. */
static int read_next(struct st_source *s, void *buf, size_t n,
                     const struct span *reading, struct pq_error *e)
{
    size_t got;
    if (pq_in_read(&s->in, buf, n, &got, e) != 0)
        return -1;
    s->at += got;
    return got == n ? 0 : fail_truncated(s, s->at, reading, e);
}

static int skip_to(struct st_source *s, uint64_t to, struct pq_error *e)
{
    unsigned char sink[SKIP_BYTES];
    while (s->at < to) {
        const uint64_t left = to - s->at;
        const size_t n = left < sizeof sink ? (size_t)left : sizeof sink;
        if (read_next(s, sink, n, NULL, e) != 0)
            return -1;
    }
    return 0;
}

static int read_sequential(struct pq_source *base, uint64_t offset, void *buf,
                           size_t n, struct pq_error *e)
{
    struct st_source *const s = (struct st_source *)base;
    if (offset < s->at)
        return pq_fail(e, PQ_EARG, "byte %llu of a pipe has passed",
                       (unsigned long long)offset);
    if (skip_to(s, offset, e) != 0)
        return -1;
    return read_next(s, buf, n, find_span(s, offset), e);
}

/* The rest of the pipe must be as the header says; then it must end. */
static int finish(struct pq_source *base, struct pq_error *e)
{
    struct st_source *const s = (struct st_source *)base;
    unsigned char byte;
    size_t got;
    if (!base->sequential)
        return 0;
    if (skip_to(s, s->data_bytes, e) != 0 ||
        pq_in_read(&s->in, &byte, 1, &got, e) != 0)
        return -1;
    return got == 0 ? 0
                    : pq_fail(e, PQ_EFORMAT, "bytes follow the last tensor");
}

static void free_source(struct pq_source *base)
{
    struct st_source *const s = (struct st_source *)base;
    pq_in_close(&s->in);
    pq_catalog_release(&s->catalog);
    free(s);
}

static const struct pq_source_ops random_ops = {
    .read = read_random, .finish = finish, .free = free_source};
static const struct pq_source_ops sequential_ops = {
    .read = read_sequential, .finish = finish, .free = free_source};

static int open_source(struct pq_in *in, struct pq_source **source,
                       struct pq_error *e)
{
    struct st_source *const s = pq_zalloc(1, sizeof *s);
    if (s == NULL) {
        pq_in_close(in);
        return pq_fail_nomem(e);
    }
    s->in = *in;
    in->fd = -1;
    pq_catalog_init(&s->catalog);
    s->base.ops = s->in.regular ? &random_ops : &sequential_ops;
    s->base.catalog = &s->catalog;
    s->base.format = pq_format_safetensors.name;
    s->base.sequential = !s->in.regular;
    s->base.name =
        pq_arena_strndup(&s->catalog.arena, s->in.name, strlen(s->in.name));
    if ((s->base.name == NULL ? pq_fail_nomem(e) : read_header(s, e)) != 0) {
        free_source(&s->base);
        return -1;
    }
    s->in.name = s->base.name;
    *source = &s->base;
    return 0;
}

static const char *const suffixes[] = {".safetensors", NULL};

const struct pq_format pq_format_safetensors = {
    .name = "safetensors",
    .suffixes = suffixes,
    .can_write = true,
    .sniff = sniff,
    .open = open_source,
    .create = pq_st_create,
};
