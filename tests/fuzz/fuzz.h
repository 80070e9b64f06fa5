/*
 * What the fuzz targets share: bytes as a regular file and as a pipe, reading
 * all of a source within bounds, and mutations that know JSON.
 *
 * Every target reads its input twice, from a memfd and from a pipe.  Both
 * must agree: on acceptance, and on every byte of what was accepted.
 */
#ifndef PQ_FUZZ_H
#define PQ_FUZZ_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pq_format.h"
#include "pq_hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max,
                               unsigned seed);

#ifndef PQ_FUZZ_STANDALONE
/* Undefined behaviour stops the run as a crash does. */
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
    return "halt_on_error=1:print_stacktrace=1";
}
#endif

#define FUZZ_INPUT (512u << 10) /* larger inputs are left alone */
#define FUZZ_PART  (1u << 20)   /* bytes of the largest part that is read */
#define FUZZ_TOTAL (4u << 20)   /* of all parts */

/* A promise that was broken: libFuzzer takes an abort for a crash. */
static inline void fuzz_broken(const char *what, const char *a, const char *b)
{
    fprintf(stderr, "fuzz: %s\n  file: %s\n  pipe: %s\n", what, a, b);
    abort();
}

/* The bytes as a text of their own, where a sanitizer sees both its ends. */
static inline char *fuzz_copy(const uint8_t *data, size_t n)
{
    char *const copy = malloc(n ? n : 1);

    if (!copy)
        abort();
    if (n > 0)
        memcpy(copy, data, n);
    return copy;
}

/* What became of the bytes on one of the two ways. */
struct fuzz_result {
    bool ok;
    struct pq_hash *hash; /* of names and bytes */
    struct pq_error e;
};

/* Made once and refilled: a new one each time is slow. */
static inline int fuzz_memfd(const uint8_t *data, size_t n)
{
    static int fd = -1;

    if (fd < 0 && (fd = memfd_create("fuzz", MFD_CLOEXEC)) < 0)
        abort();
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, n, 0) != (ssize_t)n)
        abort();
    return fd;
}

/* The whole input waits in the pipe, so that no thread has to feed it. */
static inline int fuzz_pipe(const uint8_t *data, size_t n, int *writer)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
        abort();
    if (n > 32768)
        (void)fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    if (n > 0 && write(fds[1], data, n) != (ssize_t)n) {
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    *writer = fds[1];
    return fds[0];
}

/* Opens a path that names a pipe of ours, then lets its writer end. */
static inline struct pq_source *fuzz_open(const char *path, int *writer,
                                          struct pq_error *e)
{
    struct pq_in in = {0};
    struct pq_source *s = NULL;
    const int rc = pq_in_open(&in, path, e);

    if (writer && *writer >= 0) {
        close(*writer);
        *writer = -1;
    }
    return rc == 0 && pq_format_open(&in, &s, e) == 0 ? s : NULL;
}

/* The names and types that a catalogue holds. */
static inline void fuzz_hash_catalog(const struct pq_catalog *c,
                                     struct pq_hash *h)
{
    for (size_t i = 0; i < c->n_metadata; i++) {
        pq_hash_add(h, c->metadata[i].key, strlen(c->metadata[i].key) + 1);
        pq_hash_add(h, c->metadata[i].value, strlen(c->metadata[i].value) + 1);
    }
    for (size_t i = 0; i < c->n_blobs; i++)
        pq_hash_add(h, c->blobs[i].data, (size_t)c->blobs[i].bytes);
    for (size_t i = 0; i < c->n_extra; i++)
        pq_hash_add(h, c->extra[i].body, (size_t)c->extra[i].body_bytes);
    for (size_t i = 0; i < c->n_prov; i++)
        pq_hash_add(h, c->prov[i], strlen(c->prov[i]) + 1);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        pq_hash_add(h, t->name, strlen(t->name) + 1);
        pq_hash_add(h, &t->dtype, sizeof t->dtype);
        if (t->rank > 0)
            pq_hash_add(h, t->shape, (size_t)t->rank * sizeof *t->shape);
    }
}

/* Reads a part in two pieces, so that reads also start in the middle. */
static inline int fuzz_read_part(struct pq_source *s, const struct pq_part *p,
                                 struct fuzz_result *r)
{
    const size_t n = (size_t)p->bytes, half = n / 3;
    unsigned char *buf = malloc(n + 1);

    if (!buf)
        return pq_fail_nomem(&r->e);
    const int rc = pq_source_read(s, p, 0, buf, half, &r->e) != 0 ||
                   pq_source_read(s, p, half, buf + half, n - half, &r->e) != 0;
    if (!rc) {
        pq_hash_add(r->hash, p->name, strlen(p->name) + 1);
        pq_hash_add(r->hash, buf, n);
    }
    free(buf);
    return rc ? -1 : 0;
}

/* Every part in order, then the end of the source. */
static inline int fuzz_read_all(struct pq_source *s, struct fuzz_result *r)
{
    const struct pq_catalog *c = s->catalog;
    uint64_t left = FUZZ_TOTAL;

    fuzz_hash_catalog(c, r->hash);
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *p = &c->tensors[i].parts[k];
            if (p->bytes > FUZZ_PART || p->bytes > left)
                continue;
            left -= p->bytes;
            if (fuzz_read_part(s, p, r) != 0)
                return -1;
        }
    return pq_source_finish(s, &r->e);
}

/* Does `use` with both kinds of descriptor and compares. */
static inline void fuzz_both(const uint8_t *data, size_t n,
                             void (*use)(const char *path, int *writer,
                                         struct fuzz_result *r))
{
    struct fuzz_result a = {.e = PQ_ERROR_INIT}, b = {.e = PQ_ERROR_INIT};
    char path[40];
    int writer = -1;

    if (n > FUZZ_INPUT)
        return;
    a.hash = pq_hash_new(NULL);
    b.hash = pq_hash_new(NULL);
    if (!a.hash || !b.hash)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fuzz_memfd(data, n));
    use(path, &writer, &a);
    const int fd = fuzz_pipe(data, n, &writer);
    if (fd >= 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        use(path, &writer, &b);
        close(fd);
        if (a.ok != b.ok)
            fuzz_broken("file and pipe disagree", a.ok ? "accepted" : a.e.msg,
                        b.ok ? "accepted" : b.e.msg);
        if (a.ok && pq_hash64(a.hash) != pq_hash64(b.hash))
            fuzz_broken("file and pipe differ in content", "", "");
        if (!a.ok && (a.e.msg[0] == '\0' || strchr(a.e.msg, '\n')))
            fuzz_broken("a refusal is not one line", a.e.msg, b.e.msg);
    }
    pq_hash_free(a.hash);
    pq_hash_free(b.hash);
}

/* ---- Mutations --------------------------------------------------------- */

/* A small generator: libFuzzer gives one seed a mutation. */
static inline uint32_t fuzz_random(uint32_t *s, uint32_t below)
{
    *s = *s * 1664525u + 1013904223u;
    return below ? (*s >> 8) % below : 0;
}

static inline uint64_t fuzz_get64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static inline void fuzz_put64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* Pieces of the languages that are read here. */
/* clang-format off */
static const char *const fuzz_tokens[] = {
    "{", "}", "[", "]", ",", ":", "\"", "0", "1", "-1", "64", " ", "\"dtype\"",
    "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "\"F32\"", "\"F16\"",
    "\"BF16\"", "\"U8\"", "\"I8\"", "\"I64\"", "\"F4\"", "\"F6_E2M3\"",
    "\"F8_E4M3\"", "\"F8_E8M0\"", "\"BOOL\"", "18446744073709551615",
    "18446744073709551616", "9223372036854775808", "4294967296", "4294967295",
    "1.0", "1e3", "-0", "1e999", "null", "true", "\\u0000", "\\ud800",
    "\\udc00", "\\n", "\xc3\xa9", "\xff", ".absmax", ".quant_map",
    ".nested_absmax", ".nested_quant_map", ".SCB",
    ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4",
    ".weight_format", "\"nf4\"", "\"fp4\"", "\"int8\"", "\"blocksize\"",
    "\"nested_blocksize\"", "\"nested_offset\"", "\"nested_dtype\"",
    "\"quant_type\"", "\"float32\"", "\"bfloat16\"", "\"name\"",
    "\"encoding\"", "\"parts\"", "\"bytes\"", "\"role\"", "\"block\"",
    "\"weight_map\"", "\"metadata\"", "\"total_size\"", "\"total_parameters\"",
    "model-00001-of-00002.safetensors", "../",
};
/* clang-format on */
#define FUZZ_TOKENS (sizeof fuzz_tokens / sizeof *fuzz_tokens)

/* Inserts a token, or puts it over what is there. */
static inline size_t fuzz_token(uint8_t *p, size_t n, size_t max, uint32_t *s)
{
    const char *t = fuzz_tokens[fuzz_random(s, FUZZ_TOKENS)];
    const size_t k = strlen(t), at = fuzz_random(s, (uint32_t)n + 1);

    if (fuzz_random(s, 2) && at + k <= n) {
        memcpy(p + at, t, k);
        return n;
    }
    if (n + k > max)
        return n;
    memmove(p + at + k, p + at, n - at);
    memcpy(p + at, t, k);
    return n + k;
}

/* Changes one digit, which most often leaves the text well formed. */
static inline void fuzz_digit(uint8_t *p, size_t n, uint32_t *s)
{
    const size_t at = n ? fuzz_random(s, (uint32_t)n) : 0;

    for (size_t i = at; i < n; i++)
        if (p[i] >= '0' && p[i] <= '9') {
            p[i] = (uint8_t)('0' + fuzz_random(s, 10));
            return;
        }
}

/* One mutation of a text: libFuzzer's, a token, or a digit. */
static inline size_t fuzz_text(uint8_t *p, size_t n, size_t max, uint32_t *s)
{
    const uint32_t kind = fuzz_random(s, 6);

    if (max == 0)
        return 0;
    if (kind == 0) {
        fuzz_digit(p, n, s);
        return n;
    }
    return kind < 3 ? fuzz_token(p, n, max, s) : LLVMFuzzerMutate(p, n, max);
}

#endif
