/*
 * Reading safetensors: what the reference library accepts is accepted, what
 * it rejects is rejected.
 *
 * Files are made in memory and opened as a regular file and through a pipe;
 * both must agree.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include "pq_format.h"

/* ---- Files in memory --------------------------------------------------- */

struct bytes {
    unsigned char *p;
    size_t n;
};

/* Length, header, so many bytes of data 0, 1, 2, ... */
static struct bytes make(const char *header, size_t n, size_t data)
{
    struct bytes b = {malloc(8 + n + data + 1), 8 + n + data};
    for (int i = 0; i < 8; i++)
        b.p[i] = (unsigned char)((uint64_t)n >> 8 * i & 0xff);
    memcpy(b.p + 8, header, n);
    for (size_t i = 0; i < data; i++)
        b.p[8 + n + i] = (unsigned char)i;
    return b;
}

static int memory_file(const unsigned char *p, size_t n)
{
    const int fd = memfd_create("model", MFD_CLOEXEC);
    cr_assert(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    return fd;
}

struct writer {
    int fd;
    const unsigned char *p;
    size_t n;
};

static void *feed(void *arg)
{
    struct writer *const w = arg;
    size_t done = 0;
    while (done < w->n) {
        const ssize_t k = write(w->fd, w->p + done, w->n - done);
        if (k <= 0)
            break;
        done += (size_t)k;
    }
    close(w->fd);
    return NULL;
}

static struct pq_source *open_fd(int fd, struct pq_error *e)
{
    char path[40];
    struct pq_source *s = NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return pq_open_model(path, NULL, &s, e) == 0 ? s : NULL;
}

/* Is it accepted as a file?  The reason, if not, is in *e. */
static bool file_ok(const unsigned char *p, size_t n, struct pq_error *e)
{
    const int fd = memory_file(p, n);
    struct pq_source *const s = open_fd(fd, e);
    const bool ok = s != NULL && pq_source_finish(s, e) == 0;
    pq_source_free(s);
    close(fd);
    return ok;
}

/* The same through a pipe; n must fit into it. */
static bool pipe_ok(const unsigned char *p, size_t n, struct pq_error *e)
{
    int fds[2];
    cr_assert(pipe(fds) == 0);
    cr_assert(write(fds[1], p, n) == (ssize_t)n);
    char path[40];
    struct pq_in in = {0};
    struct pq_source *s = NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[0]);
    const int opened = pq_in_open(&in, path, e);
    close(fds[1]);
    const bool ok = opened == 0 && pq_format_open(&in, &s, e) == 0 &&
                    pq_source_finish(s, e) == 0;
    pq_source_free(s);
    close(fds[0]);
    return ok;
}

static bool accepted(const struct bytes *b, struct pq_error *e)
{
    struct pq_error pipe_error = PQ_ERROR_INIT;
    const bool ok = file_ok(b->p, b->n, e);
    cr_assert(pipe_ok(b->p, b->n, &pipe_error) == ok, "file: %s; pipe: %s",
              e->msg, pipe_error.msg);
    return ok;
}

static void check(const char *header, size_t n, size_t data, bool want)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct bytes b = make(header, n, data);
    cr_expect(accepted(&b, &e) == want, "%s: %s", header, e.msg);
    cr_expect(want == (e.code == PQ_OK));
    free(b.p);
}

static void good(const char *header, size_t data)
{
    check(header, strlen(header), data, true);
}

static void bad(const char *header, size_t data)
{
    check(header, strlen(header), data, false);
}

/* A header with one F32 tensor [1], with `extra` behind its fields. */
static void one(const char *extra, bool want)
{
    char s[2048];
    snprintf(s, sizeof s,
             "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"
             "%s}}",
             extra);
    check(s, strlen(s), 4, want);
}

static void field(const char *dtype, const char *shape, const char *offsets,
                  size_t data, bool want)
{
    char s[1024];
    snprintf(s, sizeof s,
             "{\"a\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}", dtype,
             shape, offsets);
    check(s, strlen(s), data, want);
}

/* ---- Acceptance --------------------------------------------------------- */

#define F32_1(begin, end)                                                      \
    "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" #begin "," #end "]}"
#define EMPTY(at)                                                              \
    "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[" #at "," #at "]}"

Test(safetensors, layouts)
{
    good("{}", 0);
    good(" \n\t\r{ }\n\t ", 0);
    bad("{}", 1);
    good("{\"a\":" F32_1(0, 4) "}", 4);
    bad("{\"a\":" F32_1(0, 4) "}", 3);
    bad("{\"a\":" F32_1(0, 4) "}", 5);
    good("{\"b\":" F32_1(4, 8) ",\"a\":" F32_1(0, 4) "}", 8);
    bad("{\"a\":" F32_1(0, 4) ",\"b\":" F32_1(5, 9) "}", 9);
    bad("{\"a\":" F32_1(0, 4) ",\"b\":" F32_1(0, 4) "}", 4);
    bad("{\"a\":" F32_1(1, 5) "}", 5);
    bad("{\"a\":" F32_1(4, 0) "}", 4);
    good("{\"a\":" F32_1(0, 4) ",\"e\":" EMPTY(4) ",\"f\":" EMPTY(4) "}", 4);
    good("{\"e\":" EMPTY(0) ",\"a\":" F32_1(0, 4) "}", 4);
    bad("{\"a\":" F32_1(0, 4) ",\"e\":" EMPTY(2) "}", 4);
    bad("{\"a\":" F32_1(0, 4) ",\"e\":" EMPTY(5) "}", 4);
}

Test(safetensors, headers)
{
    bad("", 0);
    bad("[]", 0);
    bad("null", 0);
    bad("{}x", 0);
    bad("{}{}", 0);
    check("{}\0", 3, 0, false);
    bad("\xEF\xBB\xBF{}", 0);
    bad("{\"a\":1}", 0);
    bad("{\"a\":null}", 0);
    bad("{\"a\":{}}", 0);
    bad("{\"\xFF\":" EMPTY(0) "}", 0);
    bad("{\"\\ud800\":" EMPTY(0) "}", 0);
    good("{\"\":" EMPTY(0) "}", 0);
    good("{\"\\u00e9\\n\":" EMPTY(0) "}", 0);
    /* Stricter than the reference library: */
    bad("{\"a\":" F32_1(0, 4) ",\"a\":" F32_1(4, 8) "}", 8);
    bad("{\"a\":" EMPTY(0) ",\"\\u0061\":" EMPTY(0) "}", 0);
    bad("{\"a\\u0000\":" EMPTY(0) "}", 0);
}

Test(safetensors, lengths)
{
    static const uint64_t lengths[] = {3, 100000000, 100000001, 1ull << 63,
                                       UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct bytes b = make("{}", 2, 0);
        memcpy(b.p, &lengths[i], 8);
        cr_expect(!accepted(&b, &e));
        free(b.p);
    }
}

Test(safetensors, metadata)
{
    good("{\"__metadata__\":null}", 0);
    good("{\"__metadata__\":{}}", 0);
    good("{\"__metadata__\":{\"a\":\"x\",\"a\":\"y\"}}", 0);
    good("{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0);
    bad("{\"__metadata__\":{\"a\":1}}", 0);
    bad("{\"__metadata__\":{\"a\":null}}", 0);
    bad("{\"__metadata__\":[]}", 0);
    bad("{\"__metadata__\":1}", 0);
    bad("{\"__metadata__\":{},\"__metadata__\":{}}", 0);
    bad("{\"__metadata__\":null,\"\\u005f_metadata__\":null}", 0);
}

Test(safetensors, fields)
{
    one("", true);
    one(",\"x\":[1,{\"y\":null}]", true);
    one(",\"x\":1,\"x\":2", true);
    one(",\"dtype\":\"F32\"", false);
    one(",\"shape\":[1]", false);
    one(",\"data_offsets\":[0,4]", false);
    one(",\"x\":1e999", false);
    one(",\"x\":0e999", true);
    one(",\"x\":-0", true);
    one(",\"x\":\"\\ud800\"", false);
    field("\"F31\"", "[1]", "[0,4]", 4, false);
    field("\"f32\"", "[1]", "[0,4]", 4, false);
    field("\"\\u0046\\u00332\"", "[1]", "[0,4]", 4, true);
    field("7", "[1]", "[0,4]", 4, false);
    field("{\"F32\":null}", "[1]", "[0,4]", 4, true);
    field("{\"F32\":{}}", "[1]", "[0,4]", 4, false);
    field("{\"F32\":null,\"F32\":null}", "[1]", "[0,4]", 4, false);
    bad("{\"a\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0);
    bad("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0);
    bad("{\"a\":{\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
    good("{\"a\":[\"F32\",[1],[0,4]]}", 4);
    bad("{\"a\":[\"F32\",[1],[0,4],0]}", 4);
    bad("{\"a\":[\"F32\",[1]]}", 4);
}

Test(safetensors, depth)
{
    for (size_t depth = 120; depth < 132; depth++) {
        char s[300] = ",\"x\":";
        memset(s + 5, '[', depth - 2);
        memset(s + 5 + depth - 2, ']', depth - 2);
        one(s, depth <= 127);
    }
}

Test(safetensors, shapes)
{
    struct pq_buf ones = {0};
    for (int i = 0; i < 70; i++)
        pq_buf_printf(&ones, "%c1", i ? ',' : '[');
    pq_buf_puts(&ones, "]");
    field("\"F32\"", ones.s, "[0,4]", 4, true);
    pq_buf_release(&ones);
    field("\"F32\"", "[]", "[0,4]", 4, true);
    field("\"F32\"", "[2]", "[0,4]", 4, false);
    field("\"F32\"", "[-1]", "[0,4]", 4, false);
    field("\"F32\"", "[1.0]", "[0,4]", 4, false);
    field("\"F32\"", "{}", "[0,4]", 4, false);
    field("\"F32\"", "null", "[0,4]", 4, false);
    field("\"F32\"", "[4294967296,4294967296,0]", "[0,0]", 0, false);
    field("\"F32\"", "[0,4294967296,4294967296]", "[0,0]", 0, true);
    field("\"F32\"", "[4611686018427387904]", "[0,0]", 0, false);
    field("\"F4\"", "[2]", "[0,1]", 1, true);
    field("\"F4\"", "[3]", "[0,1]", 1, false);
    field("\"F6_E2M3\"", "[4]", "[0,3]", 3, true);
    field("\"F6_E3M2\"", "[2]", "[0,2]", 2, false);
    field("\"C64\"", "[1]", "[0,8]", 8, true);
}

Test(safetensors, offsets)
{
    field("\"F32\"", "[1]", "[0,4.0]", 4, false);
    field("\"F32\"", "[1]", "[-0,4]", 4, false);
    field("\"F32\"", "[1]", "[0,4,4]", 4, false);
    field("\"F32\"", "[1]", "[4]", 4, false);
    field("\"F32\"", "[1]", "[00,4]", 4, false);
    field("\"F32\"", "[1]", "[0,18446744073709551616]", 4, false);
    field("\"U8\"", "[18446744073709551615]", "[0,18446744073709551615]", 4,
          false);
    field("\"U8\"", "[2305843009213693951]", "[0,2305843009213693951]", 4,
          false);
}

/* ---- Against the verdicts of the reference library --------------------- */

static struct bytes load_mutants(void)
{
    FILE *const f = fopen("testdata/safetensors/mutants.bin", "rb");
    cr_assert(f != NULL);
    struct stat st;
    cr_assert(fstat(fileno(f), &st) == 0);
    unsigned char *const packed = malloc((size_t)st.st_size);
    cr_assert(fread(packed, 1, (size_t)st.st_size, f) == (size_t)st.st_size);
    fclose(f);
    const unsigned long long n =
        ZSTD_getFrameContentSize(packed, (size_t)st.st_size);
    cr_assert(n < 1ull << 30);
    struct bytes b = {malloc(n), n};
    cr_assert(ZSTD_decompress(b.p, n, packed, (size_t)st.st_size) == n);
    free(packed);
    return b;
}

Test(safetensors, agrees_with_the_reference_library)
{
    const struct bytes all = load_mutants();
    size_t at = 12, tally[4] = {0};
    uint32_t count, n;
    cr_assert(memcmp(all.p, "PQMUT001", 8) == 0);
    memcpy(&count, all.p + 8, 4);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&n, all.p + at, 4);
        const unsigned verdict = all.p[at + 4];
        const struct bytes b = {all.p + at + 5, n};
        struct pq_error e = PQ_ERROR_INIT;
        cr_assert(verdict == 0 || verdict == 1 || verdict == 3);
        cr_expect(accepted(&b, &e) == (verdict == 1),
                  "mutant %u, verdict %u: %s\n%.*s", i, verdict, e.msg, (int)n,
                  (const char *)b.p + 8);
        tally[verdict]++;
        at += 5 + n;
    }
    cr_expect(at == all.n);
    /* Duplicate names and NUL in names, which pq refuses by design. */
    cr_expect(tally[3] > 0 && tally[3] < count / 20);
    cr_expect(tally[1] > 1000 && tally[0] > 1000);
    free(all.p);
}

/* ---- What a catalogue says ---------------------------------------------- */

Test(safetensors, catalogue)
{
    const char *const header =
        "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
        "\"a\":" F32_1(0, 4) ",\"z\":" EMPTY(
            4) ","
               "\"__metadata__\":{\"k\":\"1\",\"format\":\"pt\",\"k\":\"2\","
               "\"n\":\"x\\u0000y\",\"pq.prov\":\"one\\ntwo\"}}";
    struct pq_error e = PQ_ERROR_INIT;
    struct bytes b = make(header, strlen(header), 16);
    const int fd = memory_file(b.p, b.n);
    struct pq_source *const s = open_fd(fd, &e);
    cr_assert(s != NULL, "%s", e.msg);
    const struct pq_catalog *const c = s->catalog;
    cr_assert(c->n_tensors == 3 && c->n_prov == 2 && c->n_metadata == 3);
    cr_expect(!s->sequential && s->total_bytes == b.n);
    cr_expect(strcmp(s->format, "safetensors") == 0);
    cr_expect(strcmp(c->tensors[0].name, "a") == 0);
    cr_expect(strcmp(c->tensors[1].name, "z") == 0);
    const struct pq_tensor *const t = &c->tensors[2];
    cr_expect(strcmp(t->name, "b") == 0 && t->dtype == PQ_BF16 &&
              t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3 &&
              t->n_elements == 6 && t->n_parts == 1 &&
              t->parts[0].offset == 4 && t->parts[0].bytes == 12);
    cr_expect(strcmp(c->prov[1], "two") == 0);
    cr_expect(strcmp(pq_catalog_get(c, "k"), "2") == 0);
    cr_expect(strcmp(pq_catalog_get(c, "n"), "x\xEF\xBF\xBDy") == 0);
    unsigned char data[12];
    cr_assert(pq_source_read(s, &t->parts[0], 5, data, 7, &e) == 0);
    cr_expect(data[0] == 9 && data[6] == 15);
    pq_source_free(s);
    close(fd);
    free(b.p);
}

Test(safetensors, a_name_of_4_kib)
{
    struct pq_buf s = {0};
    pq_buf_puts(&s, "{\"");
    for (int i = 0; i < 4096; i++)
        pq_buf_puts(&s, "n");
    pq_buf_puts(&s, "\":" EMPTY(0) "}");
    good(s.s, 0);
    pq_buf_release(&s);
}

/* ---- Truncation --------------------------------------------------------- */

Test(safetensors, truncated_at_every_byte)
{
    const char *const header = "{\"a\":" F32_1(0, 4) ",\"b\":" F32_1(4, 8) "}";
    struct bytes b = make(header, strlen(header), 8);
    for (size_t n = 0; n < b.n; n++) {
        struct pq_error e = PQ_ERROR_INIT;
        const struct bytes cut = {b.p, n};
        cr_expect(!accepted(&cut, &e), "%zu bytes", n);
    }
    free(b.p);
}

Test(safetensors, truncated_says_where)
{
    const char *const header = "{\"a\":" F32_1(0, 4) ",\"b\":" F32_1(4, 8) "}";
    struct bytes b = make(header, strlen(header), 8);
    struct pq_error e = PQ_ERROR_INIT;
    cr_expect(!file_ok(b.p, b.n - 3, &e));
    cr_expect(e.code == PQ_ETRUNCATED);
    cr_expect(strstr(e.msg, ": tensor b: truncated at byte 1 of 4") != NULL,
              "%s", e.msg);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_expect(!pipe_ok(b.p, b.n - 6, &e));
    cr_expect(strstr(e.msg, ": tensor a: truncated at byte 2 of 4") != NULL,
              "%s", e.msg);
    free(b.p);
}

/* ---- Pipes -------------------------------------------------------------- */

static struct pq_source *open_pipe(struct writer *w, pthread_t *thread,
                                   struct pq_error *e)
{
    int fds[2];
    char path[40];
    struct pq_in in = {0};
    struct pq_source *s = NULL;
    cr_assert(pipe(fds) == 0);
    w->fd = fds[1];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[0]);
    cr_assert(pq_in_open(&in, path, e) == 0, "%s", e->msg);
    close(fds[0]);
    pthread_create(thread, NULL, feed, w);
    cr_assert(pq_format_open(&in, &s, e) == 0, "%s", e->msg);
    return s;
}

Test(safetensors, pipe_in_sequence)
{
    const char *const header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[300000],"
                               "\"data_offsets\":[0,300000]},"
                               "\"b\":{\"dtype\":\"U8\",\"shape\":[3],"
                               "\"data_offsets\":[300000,300003]}}";
    struct bytes b = make(header, strlen(header), 300003);
    struct writer w = {.p = b.p, .n = b.n};
    struct pq_error e = PQ_ERROR_INIT;
    pthread_t thread;
    struct pq_source *const s = open_pipe(&w, &thread, &e);
    unsigned char byte[2];
    cr_expect(s->sequential && !s->rewind && s->total_bytes == b.n);
    const struct pq_part *const a = s->catalog->tensors[0].parts;
    const struct pq_part *const last = s->catalog->tensors[1].parts;
    cr_expect(pq_source_read(s, a, 258, byte, 2, &e) == 0 && byte[0] == 2);
    cr_expect(pq_source_read(s, last, 1, byte, 1, &e) == 0 &&
              byte[0] == (unsigned char)300001);
    cr_expect(pq_source_read(s, a, 0, byte, 1, &e) != 0 && e.code == PQ_EARG);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_expect(pq_source_finish(s, &e) == 0, "%s", e.msg);
    pq_source_free(s);
    pthread_join(thread, NULL);
    free(b.p);
}

Test(safetensors, pipe_cut_while_reading)
{
    const char *const header = "{\"a\":" F32_1(0, 4) ",\"b\":" F32_1(4, 8) "}";
    struct bytes b = make(header, strlen(header), 8);
    struct writer w = {.p = b.p, .n = b.n - 2};
    struct pq_error e = PQ_ERROR_INIT;
    pthread_t thread;
    unsigned char data[4];
    struct pq_source *const s = open_pipe(&w, &thread, &e);
    cr_expect(pq_source_read(s, s->catalog->tensors[1].parts, 0, data, 4, &e) !=
              0);
    cr_expect(strstr(e.msg, ": tensor b: truncated at byte 2 of 4") != NULL,
              "%s", e.msg);
    pq_source_free(s);
    pthread_join(thread, NULL);
    free(b.p);
}

/* ---- Many tensors ------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { MANY = 100000 };

static struct bytes many(void)
{
    struct pq_buf s = {0};
    for (int i = 0; i < MANY; i++)
        pq_buf_printf(
            &s,
            "%c\"model.layers.%d.mlp.experts.%d.down_proj.weight\":"
            "{\"dtype\":\"BF16\",\"shape\":[1,1],\"data_offsets\":[%d,%d]}",
            i ? ',' : '{', i / 100, i % 100, 2 * i, 2 * i + 2);
    pq_buf_puts(&s, "}");
    cr_assert(!s.failed);
    const struct bytes b = make(s.s, s.n, (size_t)2 * MANY);
    pq_buf_release(&s);
    return b;
}

Test(safetensors, a_hundred_thousand_tensors)
{
    struct bytes b = many();
    struct pq_error e = PQ_ERROR_INIT;
    const int fd = memory_file(b.p, b.n);
    const double begin = now();
    struct pq_source *const s = open_fd(fd, &e);
    const double opened = now();
    cr_assert(s != NULL, "%s", e.msg);
    cr_expect(s->catalog->n_tensors == MANY);
    const struct pq_write_options w = {.threads = 1};
    struct pq_sink *k = NULL;
    cr_assert(pq_format_safetensors.create(s->catalog, "/dev/null", -1, &w, &k,
                                           &e) == 0);
    cr_expect(k->total_bytes > b.n && k->total_bytes < b.n + 64);
    const double created = now();
    pq_sink_free(k);
    pq_source_free(s);
    close(fd);
    free(b.p);
    cr_log_info("open %.0f ms, create %.0f ms", 1e3 * (opened - begin),
                1e3 * (created - opened));
    /* Far above what it takes; what is quadratic takes minutes. */
    cr_expect(created - begin < 10);
}

/* Metadata of many keys must not take quadratic time. */
Test(safetensors, a_million_metadata_keys)
{
    const int n = 1000000;
    struct pq_buf s = {0};
    pq_buf_puts(&s, "{\"__metadata__\":{");
    for (int i = 0; i < n; i++)
        pq_buf_printf(&s, "%s\"%d\":\"\"", i ? "," : "", i);
    pq_buf_puts(&s, "}}");
    cr_assert(!s.failed);
    struct bytes b = make(s.s, s.n, 0);
    struct pq_error e = PQ_ERROR_INIT;
    const double begin = now();
    cr_expect(file_ok(b.p, b.n, &e), "%s", e.msg);
    cr_expect(now() - begin < 20);
    pq_buf_release(&s);
    free(b.p);
}
