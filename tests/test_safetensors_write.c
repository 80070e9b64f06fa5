/*
 * Writing safetensors: the bytes are those of the documented order, the same
 * to a file and to a pipe, and what is written is read again.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pq_format.h"

struct bytes {
    unsigned char *p;
    size_t n;
};

static struct pq_part *add_part(struct pq_tensor *t, size_t i, const char *name,
                                enum pq_dtype dtype, const uint64_t *shape,
                                uint64_t bytes)
{
    t->parts[i] = (struct pq_part){.name = name,
                                   .dtype = dtype,
                                   .rank = 1,
                                   .shape = shape,
                                   .bytes = bytes};
    return &t->parts[i];
}

/* Writes parts full of 'a', 'b', ... in the order of the sink. */
static void write_all(struct pq_sink *k, struct pq_error *e)
{
    cr_assert(k->ops->begin(k, e) == 0, "%s", e->msg);
    for (size_t i = 0; i < k->n_order; i++) {
        const struct pq_place *const x = &k->order[i];
        const uint64_t n = k->catalog->tensors[x->tensor].parts[x->part].bytes;
        for (uint64_t at = 0; at < n; at++) {
            const char c = (char)('a' + i);
            cr_assert(k->ops->write(k, i, at, &c, 1, e) == 0, "%s", e->msg);
        }
    }
}

static struct bytes slurp(const char *path)
{
    struct bytes b = {malloc(1 << 16), 0};
    const int fd = open(path, O_RDONLY);
    cr_assert(fd >= 0, "%s", path);
    b.n = (size_t)read(fd, b.p, 1 << 16);
    close(fd);
    return b;
}

/* `text` is the header without its padding. */
static void expect_file(const char *path, const char *text, const char *data)
{
    char header[1024];
    const size_t n = (strlen(text) + 7) / 8 * 8;
    snprintf(header, sizeof header, "%-*s", (int)n, text);
    const struct bytes have = slurp(path);
    cr_assert(have.n == 8 + n + strlen(data));
    cr_expect(have.p[0] + 256u * have.p[1] == n);
    cr_expect(memcmp(have.p + 2, "\0\0\0\0\0", 6) == 0);
    cr_expect(memcmp(have.p + 8, header, n) == 0, "%.*s", (int)n,
              (const char *)have.p + 8);
    cr_expect(memcmp(have.p + 8 + n, data, strlen(data)) == 0);
    free(have.p);
}

/* codes + weight_format + absmax, then a plain tensor. */
static void quantized(struct pq_catalog *c)
{
    static const uint64_t two[] = {2}, one_[] = {1};
    struct pq_tensor *t;
    pq_catalog_init(c);
    t = pq_catalog_add(c, "w", 3, NULL);
    add_part(t, 0, "w", PQ_U8, two, 2);
    add_part(t, 1, "w.weight_format", PQ_U8, one_, 1)->role =
        PQ_ROLE_WEIGHT_FORMAT;
    t->parts[1].rank = 0;
    add_part(t, 2, "w.absmax", PQ_F32, one_, 4);
    t = pq_catalog_add(c, "b", 1, NULL);
    add_part(t, 0, "b", PQ_F32, one_, 4);
}

static struct pq_sink *create(struct pq_catalog *c, const char *path,
                              bool canonical)
{
    const struct pq_write_options w = {.canonical = canonical, .threads = 1};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *k = NULL;
    cr_assert(pq_format_safetensors.create(c, path, -1, &w, &k, &e) == 0, "%s",
              e.msg);
    return k;
}

static void write_file(struct pq_catalog *c, const char *path, bool canonical)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *const k = create(c, path, canonical);
    struct stat st;
    write_all(k, &e);
    cr_expect(k->positional);
    cr_assert(k->ops->finish(k, &e) == 0, "%s", e.msg);
    cr_assert(stat(path, &st) == 0);
    cr_expect((uint64_t)st.st_size == k->total_bytes);
    pq_sink_free(k);
}

#define FLOAT(a, b)                                                            \
    "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" #a "," #b "]}"
#define WEIGHT_FORMAT(a, b)                                                    \
    "\"w.weight_format\":{\"dtype\":\"U8\",\"shape\":[],"                      \
    "\"data_offsets\":[" #a "," #b "]}"
#define CODES(a, b)                                                            \
    "\"w\":{\"dtype\":\"U8\",\"shape\":[2],"                                   \
    "\"data_offsets\":[" #a "," #b "]}"

#define HEAD "{\"__metadata__\":{\"format\":\"pt\"},"

Test(safetensors_write, default_order)
{
    struct pq_catalog c;
    char path[] = "/tmp/pq-test-XXXXXX";
    close(mkstemp(path));
    quantized(&c);
    write_file(&c, path, false);
    expect_file(path,
                HEAD CODES(0, 2) ",\"w.absmax\":" FLOAT(2, 6) ",\"b\":" FLOAT(
                    6, 10) "," WEIGHT_FORMAT(10, 11) "}",
                "aabbbbccccd");
    pq_catalog_release(&c);
    unlink(path);
}

Test(safetensors_write, canonical_order)
{
    struct pq_catalog c;
    char path[] = "/tmp/pq-test-XXXXXX";
    close(mkstemp(path));
    quantized(&c);
    write_file(&c, path, true);
    expect_file(path,
                HEAD "\"b\":" FLOAT(0, 4) ",\"w.absmax\":" FLOAT(
                    4, 8) "," CODES(8, 10) "," WEIGHT_FORMAT(10, 11) "}",
                "aaaabbbbccd");
    pq_catalog_release(&c);
    unlink(path);
}

Test(safetensors_write, metadata_written)
{
    struct pq_catalog c;
    char path[] = "/tmp/pq-test-XXXXXX";
    close(mkstemp(path));
    pq_catalog_init(&c);
    cr_assert(pq_catalog_set(&c, "k", "\"\n", NULL) == 0);
    cr_assert(pq_catalog_set(&c, "format", "mlx", NULL) == 0);
    cr_assert(pq_catalog_add_prov(&c, "{\"a\":1}", NULL) == 0);
    cr_assert(pq_catalog_add_prov(&c, "two", NULL) == 0);
    write_file(&c, path, false);
    expect_file(path,
                "{\"__metadata__\":{\"format\":\"mlx\",\"k\":\"\\\"\\n\","
                "\"pq.prov\":\"{\\\"a\\\":1}\\ntwo\"}}",
                "");
    pq_catalog_release(&c);
    unlink(path);
}

Test(safetensors_write, read_again)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;
    char path[] = "/tmp/pq-test-XXXXXX";
    close(mkstemp(path));
    quantized(&c);
    cr_assert(pq_catalog_set(&c, "\xC3\xA9\x7f", "", NULL) == 0);
    cr_assert(pq_catalog_add_prov(&c, "one", NULL) == 0);
    write_file(&c, path, false);
    cr_assert(pq_open_model(path, NULL, &s, &e) == 0, "%s", e.msg);
    cr_assert(s->catalog->n_tensors == 4 && s->catalog->n_prov == 1);
    cr_expect(strcmp(pq_catalog_get(s->catalog, "\xC3\xA9\x7f"), "") == 0);
    cr_expect(strcmp(s->catalog->tensors[3].name, "w.weight_format") == 0);
    pq_source_free(s);
    pq_catalog_release(&c);
    unlink(path);
}

/* A pipe gets the same bytes as a file, and only in order. */
Test(safetensors_write, ordered_and_positional_agree)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    char path[] = "/tmp/pq-test-XXXXXX", fifo[40];
    int fds[2];
    unsigned char piped[4096];
    close(mkstemp(path));
    quantized(&c);
    write_file(&c, path, false);
    cr_assert(pipe(fds) == 0);
    snprintf(fifo, sizeof fifo, "/proc/self/fd/%d", fds[1]);
    struct pq_sink *const k = create(&c, fifo, false);
    write_all(k, &e);
    cr_expect(!k->positional);
    cr_expect(k->ops->write(k, 0, 0, "x", 1, &e) != 0);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(k->ops->finish(k, &e) == 0, "%s", e.msg);
    pq_sink_free(k);
    const struct bytes b = slurp(path);
    cr_expect(read(fds[0], piped, sizeof piped) == (ssize_t)b.n);
    cr_expect(memcmp(piped, b.p, b.n) == 0);
    free(b.p);
    pq_catalog_release(&c);
    unlink(path);
}

Test(safetensors_write, refuses_to_finish_with_a_hole)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    char path[] = "/tmp/pq-test-XXXXXX";
    close(mkstemp(path));
    unlink(path);
    quantized(&c);
    struct pq_sink *const k = create(&c, path, false);
    cr_assert(k->ops->begin(k, &e) == 0);
    cr_expect(k->ops->write(k, 0, 1, "xx", 2, &e) != 0);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_expect(k->ops->finish(k, &e) != 0);
    k->ops->abort(k, &e);
    pq_sink_free(k);
    cr_expect(access(path, F_OK) != 0);
    pq_catalog_release(&c);
}

static enum pq_code create_code(struct pq_catalog *c, int level)
{
    const struct pq_write_options w = {.level = level, .threads = 1};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *k = NULL;
    if (pq_format_safetensors.create(c, "x", -1, &w, &k, &e) == 0)
        pq_sink_free(k);
    return e.code;
}

Test(safetensors_write, refuses_to_create)
{
    static const uint64_t zero[] = {0};
    struct pq_catalog c;
    quantized(&c);
    cr_expect(create_code(&c, 0) == PQ_OK);
    cr_expect(create_code(&c, 3) == PQ_EUNSUPPORTED);
    c.tensors[1].parts[0].name = "w";
    cr_expect(create_code(&c, 0) == PQ_EARG);
    c.tensors[1].parts[0].name = "__metadata__";
    cr_expect(create_code(&c, 0) == PQ_EARG);
    c.tensors[1].parts[0].name = "b";
    c.tensors[1].parts[0].shape = zero;
    char *const huge = malloc(100000001);
    memset(huge, 'x', 100000000);
    huge[100000000] = '\0';
    c.tensors[1].parts[0].name = huge;
    cr_expect(create_code(&c, 0) == PQ_ELIMIT);
    free(huge);
    pq_catalog_release(&c);
}
