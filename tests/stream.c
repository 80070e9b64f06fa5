/*
 * Making, reading and forging streams; see stream.h.
 */
#include "stream.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- catalogues --------------------------------------------------------- */

static struct pq_tensor *add(struct pq_catalog *c, const char *name,
                             enum pq_dtype t, uint64_t rows, uint64_t cols,
                             size_t n_parts)
{
    const uint64_t shape[2] = {rows, cols};
    struct pq_tensor *x = pq_catalog_add(c, name, n_parts, NULL);

    x->dtype = t;
    x->rank = 2;
    x->shape = pq_catalog_shape(c, shape, 2);
    x->n_elements = rows * cols;
    return x;
}

static void part(struct pq_catalog *c, struct pq_part *p, const char *name,
                 enum pq_dtype t, enum pq_role role, uint64_t rows,
                 uint64_t cols)
{
    const uint64_t shape[2] = {rows, cols};

    p->name = pq_arena_printf(&c->arena, "%s", name);
    p->dtype = t;
    p->role = role;
    p->rank = 2;
    p->shape = pq_catalog_shape(c, shape, 2);
    p->bytes = rows * cols * pq_dtype_bits(t) / 8;
}

void add_plain(struct pq_catalog *c, const char *name, enum pq_dtype t,
               uint64_t rows, uint64_t cols)
{
    struct pq_tensor *x = add(c, name, t, rows, cols, 1);

    part(c, x->parts, x->name, t, PQ_ROLE_DATA, rows, cols);
}

void add_nf4(struct pq_catalog *c, const char *name, uint64_t rows,
             uint64_t cols)
{
    struct pq_tensor *x = add(c, name, PQ_BF16, rows, cols, 3);
    const uint64_t n = rows * cols;
    char absmax[100], map[100];

    snprintf(absmax, sizeof(absmax), "%s.absmax", name);
    snprintf(map, sizeof(map), "%s.quant_map", name);
    x->codec = (struct pq_codec){.encoding = PQ_NF4, .block = 64};
    part(c, &x->parts[0], name, PQ_U8, PQ_ROLE_DATA, (n + 1) / 2, 1);
    part(c, &x->parts[1], absmax, PQ_F32, PQ_ROLE_ABSMAX, (n + 63) / 64, 1);
    part(c, &x->parts[2], map, PQ_F32, PQ_ROLE_QUANT_MAP, 16, 1);
}

void small_model(struct pq_catalog *c)
{
    const struct pq_extra x = {"noTe", "{\"a\":1}", "\0binary", 7, 7};
    const char **files;

    pq_catalog_init(c);
    add_plain(c, "nothing", PQ_F32, 0, 4);
    add_plain(c, "a \"quoted\" n\xc3\xa4me", PQ_F32, 3, 5);
    add_nf4(c, "w", 8, 9);
    add_plain(c, "last", PQ_U8, 7, 0);
    cr_assert(pq_catalog_set(c, "z", "first", NULL) == 0);
    cr_assert(pq_catalog_set(c, "a", "second\n", NULL) == 0);
    cr_assert(pq_catalog_add_blob(c, "config.json", "{}\n", 3, NULL) == 0);
    cr_assert(pq_catalog_add_prov(c, "{\"tool\":\"t\"}", NULL) == 0);
    cr_assert(pq_catalog_add_extra(c, &x, NULL) == 0);
    files = pq_arena_alloc(&c->arena, 2, sizeof(*files));
    files[0] = "m-1.safetensors";
    files[1] = "m-2.safetensors";
    c->files = files;
    c->n_files = 2;
    c->tensors[2].parts[1].file = 1;
    c->directory = true;
}

/* ---- writing ------------------------------------------------------------ */

unsigned fill_step = 1;

/* Byte i of part k: noise in the low bytes, as floats have it. */
static unsigned char byte_of(size_t k, uint64_t i)
{
    const uint64_t x = (i + 77 * k + 1) * 0x9e3779b97f4a7c15ull;

    if (i / 4 % fill_step != 0)
        return 0;
    return i % 4 == 3 ? 0x3e
           : i % 2    ? (unsigned char)(x >> 62)
                      : (unsigned char)(x >> 40);
}

void fill(size_t k, uint64_t offset, unsigned char *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = byte_of(k, offset + i);
}

/* Writes all parts in pieces; stops after `stop` pieces (0: never). */
static int write_parts(struct pq_sink *k, size_t piece, size_t stop,
                       struct pq_error *e)
{
    unsigned char *buf = malloc(piece);
    size_t done = 0;
    int rc = 0;

    for (size_t i = 0; i < k->n_order && !rc; i++) {
        const struct pq_place *at = &k->order[i];
        const uint64_t bytes =
            k->catalog->tensors[at->tensor].parts[at->part].bytes;
        for (uint64_t o = 0; o < bytes && !rc; o += piece) {
            const size_t n = bytes - o < piece ? (size_t)(bytes - o) : piece;
            fill(i, o, buf, n);
            rc = k->ops->write(k, i, o, buf, n, e);
            if (!rc && ++done == stop)
                rc = pq_fail(e, PQ_EVALUE, "tool: m: a\nNaN");
        }
    }
    free(buf);
    return rc;
}

/* Writes to a path; checks the size that was promised. */
static int write_to(struct pq_catalog *c, const char *path, int level,
                    unsigned threads, size_t stop, uint64_t *promised,
                    struct pq_error *e)
{
    const struct pq_write_options w = {.level = level, .threads = threads};
    struct pq_sink *k;

    if (pq_format_pqstream.create(c, path, -1, &w, &k, e))
        return -1;
    cr_assert_eq(k->at_most, level > 0);
    *promised = k->total_bytes;
    int rc = k->ops->begin(k, e);
    if (!rc)
        rc = write_parts(k, level ? 100003 : 33, stop, e);
    if (!rc)
        rc = k->ops->finish(k, e);
    if (rc)
        k->ops->abort(k, e);
    pq_sink_free(k);
    return rc;
}

static struct bytes load(const char *path)
{
    struct bytes b = {NULL, 0};
    FILE *f = fopen(path, "rb");

    cr_assert(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    b.n = (size_t)ftell(f);
    b.p = malloc(b.n + 1);
    rewind(f);
    cr_assert_eq(fread(b.p, 1, b.n, f), b.n);
    fclose(f);
    return b;
}

struct bytes write_file(struct pq_catalog *c, int level, unsigned threads)
{
    struct pq_error e = PQ_ERROR_INIT;
    char path[] = "/tmp/pqstream-XXXXXX";
    uint64_t promised;
    const int fd = mkstemp(path);

    cr_assert(fd >= 0);
    close(fd);
    cr_assert(write_to(c, path, level, threads, 0, &promised, &e) == 0, "%s",
              e.msg);
    struct bytes b = load(path);
    unlink(path);
    cr_assert(level ? b.n <= promised : b.n == promised);
    return b;
}

struct drain {
    int fd;
    struct bytes got;
};

static void *drain(void *arg)
{
    struct drain *d = arg;
    ssize_t n;

    d->got.p = malloc(1 << 20);
    while ((n = read(d->fd, d->got.p + d->got.n, (1 << 20) - d->got.n)) > 0)
        d->got.n += (size_t)n;
    return NULL;
}

/* What comes out of a pipe when the tool stops after `stop` pieces. */
struct bytes write_pipe(struct pq_catalog *c, int level, size_t stop)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct drain d = {0, {NULL, 0}};
    pthread_t thread;
    int fds[2];
    char path[32];
    uint64_t promised;

    cr_assert(pipe(fds) == 0);
    d.fd = fds[0];
    snprintf(path, sizeof(path), "/dev/fd/%d", fds[1]);
    cr_assert(pthread_create(&thread, NULL, drain, &d) == 0);
    cr_assert_eq(write_to(c, path, level, 1, stop, &promised, &e),
                 stop ? -1 : 0, "%s", e.msg);
    close(fds[1]);
    pthread_join(thread, NULL);
    close(fds[0]);
    return d.got;
}

/* ---- reading ------------------------------------------------------------ */

static void *feed(void *arg)
{
    const struct feed *f = arg;

    for (size_t i = 0; i < f->b.n;) {
        const ssize_t n = write(f->fd, f->b.p + i, f->b.n - i);
        if (n <= 0)
            break;
        i += (size_t)n;
    }
    close(f->fd);
    return NULL;
}

void input_file(struct input *x, struct bytes b)
{
    const int fd = memfd_create("pq", 0);

    memset(x, 0, sizeof(*x));
    cr_assert_eq(write(fd, b.p, b.n), (ssize_t)b.n);
    x->in =
        (struct pq_in){.fd = fd, .name = "file", .regular = true, .size = b.n};
}

void input_pipe(struct input *x, struct bytes b)
{
    int fds[2];

    memset(x, 0, sizeof(*x));
    cr_assert(pipe(fds) == 0);
    x->in = (struct pq_in){.fd = fds[0], .name = "pipe"};
    x->f = (struct feed){fds[1], b};
    x->threaded = b.n > 60000;
    if (x->threaded)
        cr_assert(pthread_create(&x->thread, NULL, feed, &x->f) == 0);
    else
        feed(&x->f);
}

void input_end(struct input *x)
{
    if (x->threaded)
        pthread_join(x->thread, NULL);
}

/* Reads and compares every part, in pieces; 1 when the bytes are others. */
static int read_parts(struct pq_source *s, size_t piece, struct pq_error *e)
{
    unsigned char *buf = malloc(piece), *want = malloc(piece);
    size_t k = 0;
    int rc = 0, wrong = 0;

    for (size_t i = 0; i < s->catalog->n_tensors && !rc; i++) {
        for (size_t p = 0; p < s->catalog->tensors[i].n_parts && !rc; p++) {
            const struct pq_part *part = &s->catalog->tensors[i].parts[p];
            for (uint64_t o = 0; o < part->bytes && !rc; o += piece) {
                const uint64_t left = part->bytes - o;
                const size_t n = left < piece ? (size_t)left : piece;
                rc = pq_source_read(s, part, o, buf, n, e);
                fill(k, o, want, n);
                wrong = wrong || memcmp(buf, want, n) != 0;
            }
            k++;
        }
    }
    free(buf);
    free(want);
    return rc ? rc : wrong;
}

int read_stream(struct bytes b, bool through_pipe, size_t piece,
                struct pq_error *e)
{
    struct input x;
    struct pq_source *s = NULL;

    (through_pipe ? input_pipe : input_file)(&x, b);
    int rc = pq_format_pqstream.open(&x.in, &s, e), wrong = 0;
    if (!rc && piece)
        wrong = read_parts(s, piece, e);
    /* A body is handed out as it comes; finish() has the last word. */
    if (!rc)
        rc = wrong < 0 ? -1 : pq_source_finish(s, e);
    pq_source_free(s);
    input_end(&x);
    return !rc && wrong ? pq_fail(e, PQ_EVALUE, "other bytes") : rc;
}

/* Both readers refuse it, for that reason if one is given. */
void refused(struct bytes b, enum pq_code code, const char *why)
{
    for (int through_pipe = 0; through_pipe < 2; through_pipe++) {
        for (size_t piece = 0; piece < 40; piece += 17) {
            struct pq_error e = PQ_ERROR_INIT;
            cr_assert(read_stream(b, through_pipe, piece, &e) != 0, "%s", why);
            cr_assert(e.code != PQ_OK && e.code != PQ_EVALUE, "%s: %s", why,
                      e.msg);
            cr_assert(code == PQ_OK || e.code == code, "%s: %s", why, e.msg);
        }
    }
}

void accepted(struct bytes b, const char *why)
{
    for (int through_pipe = 0; through_pipe < 2; through_pipe++) {
        for (size_t piece = 0; piece < 40; piece += 17) {
            struct pq_error e = PQ_ERROR_INIT;
            cr_assert(read_stream(b, through_pipe, piece, &e) == 0, "%s: %s",
                      why, e.msg);
        }
    }
}

/* ---- records of a stream in memory --------------------------------------- */

static uint64_t get64(const unsigned char *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

void put64(unsigned char *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

size_t record_bytes(const unsigned char *p)
{
    return 64 + (get64(p + 8) + 63) / 64 * 64 + (get64(p + 16) + 71) / 64 * 64;
}

/* Finds the records; returns how many (INDX is the last). */
size_t records_of(struct bytes b, struct record r[64])
{
    size_t n = 0;

    for (size_t at = 64; memcmp(b.p + at, "END.", 4) != 0; at += r[n++].n) {
        r[n].at = at;
        r[n].n = record_bytes(b.p + at);
    }
    return n;
}

void append(struct bytes *to, const unsigned char *p, size_t n)
{
    memcpy(to->p + to->n, p, n);
    to->n += n;
}

void reseal(unsigned char *b)
{
    put64(b + 56, XXH3_64bits(b, 56));
}

/* Renumbers the records and makes INDX and END anew, as a forger would. */
struct bytes forge(struct bytes b, const size_t *order, size_t n)
{
    struct record r[64];
    struct bytes f = {calloc(2 * b.n + 8192, 1), 0};
    unsigned char sums[64 * 8], entry[64];
    struct bytes index = {calloc(64, 64), 0};

    records_of(b, r);
    append(&f, b.p, 64);
    for (size_t i = 0; i < n; i++) {
        const struct record *x = &r[order[i]];
        unsigned char *p = f.p + f.n;
        append(&f, b.p + x->at, x->n);
        put64(p + 24, i);
        reseal(p);
        memset(entry, 0, 64);
        memcpy(entry, p, 8);
        put64(entry + 8, f.n - x->n);
        put64(entry + 16, f.n - (get64(p + 16) + 71) / 64 * 64);
        put64(entry + 24, get64(p + 16));
        put64(entry + 32, get64(p + 40));
        put64(entry + 40, get64(p + 32));
        memcpy(entry + 48, f.p + f.n - 8, 8);
        memcpy(sums + 8 * i, f.p + f.n - 8, 8);
        append(&index, entry, 64);
    }
    unsigned char *p = f.p + f.n;
    const uint64_t index_at = f.n;
    memcpy(p, "INDX", 4);
    put64(p + 16, index.n);
    put64(p + 24, n);
    put64(p + 40, index.n);
    put64(p + 48, XXH3_64bits(NULL, 0));
    reseal(p);
    memcpy(p + 64, index.p, index.n);
    f.n += record_bytes(p);
    put64(f.p + f.n - 8, XXH3_64bits(index.p, index.n));
    memcpy(sums + 8 * n, f.p + f.n - 8, 8);
    p = f.p + f.n;
    memcpy(p, "END.", 4);
    put64(p + 8, index_at);
    put64(p + 16, f.n + 64);
    put64(p + 24, n + 1);
    put64(p + 32, XXH3_64bits(sums, 8 * (n + 1)));
    reseal(p);
    f.n += 64;
    free(index.p);
    return f;
}
