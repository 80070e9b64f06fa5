/*
 * The .pq stream: what is written is read again, and nothing else is.
 *
 * Streams are made in a memory file, changed there, and read both as a
 * regular file and through a pipe: the two readers must agree.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "pq_format.h"

struct bytes {
    unsigned char *p;
    size_t n;
};

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

static void add_plain(struct pq_catalog *c, const char *name, enum pq_dtype t,
                      uint64_t rows, uint64_t cols)
{
    struct pq_tensor *x = add(c, name, t, rows, cols, 1);

    part(c, x->parts, x->name, t, PQ_ROLE_DATA, rows, cols);
}

static void add_nf4(struct pq_catalog *c, const char *name, uint64_t rows,
                    uint64_t cols)
{
    struct pq_tensor *x = add(c, name, PQ_BF16, rows, cols, 2);
    const uint64_t n = rows * cols;
    char absmax[100];

    snprintf(absmax, sizeof(absmax), "%s.absmax", name);
    x->codec = (struct pq_codec){.encoding = PQ_NF4, .block = 64};
    part(c, &x->parts[0], name, PQ_U8, PQ_ROLE_DATA, (n + 1) / 2, 1);
    part(c, &x->parts[1], absmax, PQ_F32, PQ_ROLE_ABSMAX, (n + 63) / 64, 1);
}

static void small_model(struct pq_catalog *c)
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

/* Byte i of part k: noise in the low bytes, as floats have it. */
static unsigned char byte_of(size_t k, uint64_t i)
{
    const uint64_t x = (i + 77 * k + 1) * 0x9e3779b97f4a7c15ull;

    return i % 4 == 3 ? 0x3e
           : i % 2    ? (unsigned char)(x >> 62)
                      : (unsigned char)(x >> 40);
}

static void fill(size_t k, uint64_t offset, unsigned char *to, size_t n)
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

static struct bytes write_file(struct pq_catalog *c, int level,
                               unsigned threads)
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
static struct bytes write_pipe(struct pq_catalog *c, int level, size_t stop)
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

struct feed {
    int fd;
    struct bytes b;
};

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

struct input {
    struct pq_in in;
    struct feed f;
    pthread_t thread;
    bool threaded;
};

static void input_file(struct input *x, struct bytes b)
{
    const int fd = memfd_create("pq", 0);

    memset(x, 0, sizeof(*x));
    cr_assert_eq(write(fd, b.p, b.n), (ssize_t)b.n);
    x->in =
        (struct pq_in){.fd = fd, .name = "file", .regular = true, .size = b.n};
}

static void input_pipe(struct input *x, struct bytes b)
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

static void input_end(struct input *x)
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

static int read_stream(struct bytes b, bool through_pipe, size_t piece,
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
static void refused(struct bytes b, enum pq_code code, const char *why)
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

static void accepted(struct bytes b, const char *why)
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

static void put64(unsigned char *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static size_t record_bytes(const unsigned char *p)
{
    return 64 + (get64(p + 8) + 63) / 64 * 64 + (get64(p + 16) + 71) / 64 * 64;
}

struct record {
    size_t at, n;
};

/* Finds the records; returns how many (INDX is the last). */
static size_t records_of(struct bytes b, struct record r[64])
{
    size_t n = 0;

    for (size_t at = 64; memcmp(b.p + at, "END.", 4) != 0; at += r[n++].n) {
        r[n].at = at;
        r[n].n = record_bytes(b.p + at);
    }
    return n;
}

static void append(struct bytes *to, const unsigned char *p, size_t n)
{
    memcpy(to->p + to->n, p, n);
    to->n += n;
}

static void reseal(unsigned char *b)
{
    put64(b + 56, XXH3_64bits(b, 56));
}

/* Renumbers the records and makes INDX and END anew, as a forger would. */
static struct bytes forge(struct bytes b, const size_t *order, size_t n)
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

/* ---- tests --------------------------------------------------------------- */

static bool same_part(const struct pq_part *a, const struct pq_part *b)
{
    return strcmp(a->name, b->name) == 0 && a->dtype == b->dtype &&
           a->role == b->role && a->rank == b->rank && a->bytes == b->bytes &&
           a->file == b->file &&
           memcmp(a->shape, b->shape, 8 * (size_t)a->rank) == 0;
}

static void same_catalog(const struct pq_catalog *a, const struct pq_catalog *b)
{
    cr_assert_eq(a->n_tensors, b->n_tensors);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct pq_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        cr_assert_str_eq(x->name, y->name);
        cr_assert(x->dtype == y->dtype && x->n_elements == y->n_elements);
        cr_assert(x->codec.encoding == y->codec.encoding &&
                  x->codec.block == y->codec.block &&
                  x->codec.nested_block == y->codec.nested_block);
        cr_assert_eq(x->n_parts, y->n_parts);
        for (size_t p = 0; p < x->n_parts; p++)
            cr_assert(same_part(&x->parts[p], &y->parts[p]));
    }
    cr_assert_eq(a->n_metadata, b->n_metadata);
    for (size_t i = 0; i < a->n_metadata; i++) {
        cr_assert_str_eq(a->metadata[i].key, b->metadata[i].key);
        cr_assert_str_eq(a->metadata[i].value, b->metadata[i].value);
    }
    cr_assert(a->n_blobs == b->n_blobs && a->n_prov == b->n_prov &&
              a->n_extra == b->n_extra && a->n_files == b->n_files &&
              a->directory == b->directory);
    for (size_t i = 0; i < a->n_blobs; i++) {
        cr_assert_str_eq(a->blobs[i].name, b->blobs[i].name);
        cr_assert_eq(a->blobs[i].bytes, b->blobs[i].bytes);
        cr_assert_arr_eq(a->blobs[i].data, b->blobs[i].data, a->blobs[i].bytes);
    }
    for (size_t i = 0; i < a->n_extra; i++) {
        const struct pq_extra *x = &a->extra[i], *y = &b->extra[i];
        cr_assert(memcmp(x->type, y->type, 4) == 0 &&
                  x->body_bytes == y->body_bytes &&
                  memcmp(x->head, y->head, (size_t)x->head_bytes) == 0 &&
                  memcmp(x->body, y->body, (size_t)x->body_bytes) == 0);
    }
    for (size_t i = 0; i < a->n_files; i++)
        cr_assert_str_eq(a->files[i], b->files[i]);
}

Test(pqstream, round_trip)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;
    struct input x;

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1), p = write_pipe(&c, 0, 0);
    cr_assert(pq_format_pqstream.sniff(b.p, b.n));
    cr_assert(b.n == p.n && memcmp(b.p, p.p, b.n) == 0);
    accepted(b, "as written");
    input_file(&x, b);
    cr_assert(pq_format_pqstream.open(&x.in, &s, &e) == 0, "%s", e.msg);
    cr_assert(s->sequential && s->rewind && s->total_bytes == b.n);
    same_catalog(&c, s->catalog);
    cr_assert_str_eq(s->catalog->prov[0], c.prov[0]);
    pq_source_free(s);
    free(b.p);
    free(p.p);
    pq_catalog_release(&c);
}

Test(pqstream, no_tensors)
{
    struct pq_catalog c;

    pq_catalog_init(&c);
    for (int level = 0; level < 2; level++) {
        const struct bytes b = write_file(&c, level, 1);
        accepted(b, "nothing in it");
        free(b.p);
    }
    pq_catalog_release(&c);
}

Test(pqstream, truncated)
{
    struct pq_catalog c;

    small_model(&c);
    for (int level = 0; level < 2; level++) {
        const struct bytes b = write_file(&c, level, 1);
        for (size_t n = 0; n < b.n; n++)
            refused((struct bytes){b.p, n}, PQ_ETRUNCATED, "cut");
        free(b.p);
    }
    pq_catalog_release(&c);
}

static void flip(int level)
{
    struct pq_catalog c;

    small_model(&c);
    const struct bytes b = write_file(&c, level, 1);
    for (size_t i = 0; i < b.n * 8; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        b.p[i / 8] ^= (unsigned char)(1u << i % 8);
        cr_assert(read_stream(b, false, i % 2 ? 31 : 0, &e) != 0, "bit %zu", i);
        e = (struct pq_error)PQ_ERROR_INIT;
        cr_assert(read_stream(b, true, i % 2 ? 0 : 31, &e) != 0, "bit %zu", i);
        b.p[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    free(b.p);
    pq_catalog_release(&c);
}

Test(pqstream, every_bit_counts)
{
    flip(0);
}

Test(pqstream, every_bit_counts_compressed)
{
    flip(3);
}

/* Records left out, doubled, exchanged: with and without forged numbers. */
Test(pqstream, records_in_order)
{
    struct pq_catalog c;
    struct record r[64];
    size_t order[64];

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    const size_t n = records_of(b, r) - 1;
    struct bytes f = {malloc(3 * b.n), 0};
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    struct bytes whole = forge(b, order, n);
    cr_assert(whole.n == b.n && memcmp(whole.p, b.p, b.n) == 0);
    free(whole.p);
    for (size_t i = 0; i <= n; i++) {
        f.n = 0; /* without record i */
        append(&f, b.p, r[i].at);
        append(&f, b.p + r[i].at + r[i].n, b.n - r[i].at - r[i].n);
        refused(f, PQ_OK, "dropped");
        f.n = 0; /* record i twice */
        append(&f, b.p, r[i].at + r[i].n);
        append(&f, b.p + r[i].at, b.n - r[i].at);
        refused(f, PQ_OK, "doubled");
        for (size_t k = i + 1; k <= n; k++) {
            f.n = 0;
            append(&f, b.p, r[i].at);
            append(&f, b.p + r[k].at, r[k].n);
            append(&f, b.p + r[i].at + r[i].n, r[k].at - r[i].at - r[i].n);
            append(&f, b.p + r[i].at, r[i].n);
            append(&f, b.p + r[k].at + r[k].n, b.n - r[k].at - r[k].n);
            refused(f, PQ_OK, "exchanged");
        }
    }
    /* Forged: CTLG META META PROV noTe TENS*4; tensors must stay. */
    for (size_t i = 0; i < n; i++) {
        size_t m = 0;
        for (size_t k = 0; k < n; k++)
            if (k != i)
                order[m++] = k;
        struct bytes x = forge(b, order, m);
        if (i == 0 || i >= n - 4)
            refused(x, PQ_EFORMAT, "forged: dropped");
        else
            accepted(x, "forged: an optional one dropped");
        free(x.p);
    }
    free(f.p);
    free(b.p);
    pq_catalog_release(&c);
}

Test(pqstream, unknown_records)
{
    struct pq_catalog c;
    struct record r[64];
    size_t order[64];

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    const size_t n = records_of(b, r) - 1;
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    cr_assert(memcmp(b.p + r[4].at, "noTe", 4) == 0);
    memcpy(b.p + r[4].at, "what", 4);
    struct bytes f = forge(b, order, n);
    accepted(f, "another optional record");
    free(f.p);
    memcpy(b.p + r[4].at, "What", 4);
    f = forge(b, order, n);
    refused(f, PQ_EUNSUPPORTED, "a record that must be known");
    free(f.p);
    memcpy(b.p + r[4].at, "wh t", 4);
    f = forge(b, order, n);
    refused(f, PQ_EFORMAT, "no name");
    free(f.p);
    memcpy(b.p + r[4].at, "what", 4);
    order[4] = 5; /* behind a tensor */
    order[5] = 4;
    f = forge(b, order, n);
    refused(f, PQ_EFORMAT, "optional, but too late");
    free(f.p);
    order[4] = 4;
    order[5] = 5;
    b.p[r[5].at + 4] |= 4;
    f = forge(b, order, n);
    refused(f, PQ_EUNSUPPORTED, "unknown flag");
    free(f.p);
    free(b.p);
    pq_catalog_release(&c);
}

Test(pqstream, header)
{
    struct pq_catalog c;

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    b.p[10] = 7; /* a later minor version, a compatible feature */
    b.p[16] = 1;
    reseal(b.p);
    accepted(b, "compatible");
    b.p[12] = 1;
    reseal(b.p);
    refused(b, PQ_EUNSUPPORTED, "incompatible");
    b.p[12] = 0;
    b.p[8] = 2;
    reseal(b.p);
    refused(b, PQ_EUNSUPPORTED, "major");
    b.p[8] = 1;
    b.p[30] = 1;
    reseal(b.p);
    refused(b, PQ_EFORMAT, "reserved");
    free(b.p);
    pq_catalog_release(&c);
}

Test(pqstream, two_in_a_row)
{
    struct pq_catalog c;

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    struct bytes f = {malloc(2 * b.n), 0};
    append(&f, b.p, b.n);
    append(&f, (const unsigned char *)"", 1);
    refused(f, PQ_OK, "a byte behind the end");
    f.n = b.n;
    append(&f, b.p, b.n);
    refused(f, PQ_EFORMAT, "two streams");
    free(f.p);
    free(b.p);
    pq_catalog_release(&c);
}

/* A tool that fails says so to the next, wherever it was. */
Test(pqstream, upstream_failed)
{
    for (int level = 0; level < 2; level++) {
        const size_t pieces = level ? 3 : 5;
        for (size_t stop = 1; stop <= pieces; stop++) {
            struct pq_catalog c;
            struct pq_error e = PQ_ERROR_INIT;
            small_model(&c);
            const struct bytes b = write_pipe(&c, level, stop);
            refused(b, PQ_EUPSTREAM, "ABRT");
            cr_assert(read_stream(b, true, 5, &e) != 0);
            cr_assert(strstr(e.msg, "upstream tool: m: a?NaN"), "%s", e.msg);
            /* Cut within the message it is at least a failure. */
            refused((struct bytes){b.p, b.n - 8}, PQ_OK, "cut ABRT");
            free(b.p);
            pq_catalog_release(&c);
        }
    }
}

Test(pqstream, damage_is_not_blamed_on_upstream)
{
    struct pq_catalog c;
    struct record r[64];

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    const size_t n = records_of(b, r);
    b.p[r[n - 3].at + 64] ^= 1;
    refused(b, PQ_ECHECKSUM, "body");
    free(b.p);
    pq_catalog_release(&c);
}

/* Every dtype, compressed, more than one run, any number of threads. */
Test(pqstream, compressed)
{
    struct pq_catalog c;
    struct bytes b[3];

    pq_catalog_init(&c);
    for (int t = 0; t < PQ_N_DTYPES; t++)
        add_plain(&c, pq_dtype_name((enum pq_dtype)t), (enum pq_dtype)t, 8,
                  301);
    add_plain(&c, "long", PQ_BF16, 1024, 4500);
    add_plain(&c, "none", PQ_BF16, 0, 1);
    add_nf4(&c, "nf4", 1024, 8200);
    add_plain(&c, "end", PQ_F32, 1, 1);
    const struct bytes plain = write_file(&c, 0, 1);
    for (unsigned i = 0; i < 3; i++)
        b[i] = write_file(&c, 3, 1 + 2 * i);
    cr_assert(b[0].n < plain.n * 3 / 4);
    for (int i = 0; i < 3; i++) {
        cr_assert(b[i].n == b[0].n && memcmp(b[i].p, b[0].p, b[0].n) == 0);
        for (int through_pipe = 0; through_pipe < 2; through_pipe++) {
            struct pq_error e = PQ_ERROR_INIT;
            cr_assert(read_stream(b[i], through_pipe, 70001, &e) == 0, "%s",
                      e.msg);
        }
    }
    for (int i = 0; i < 3; i++)
        free(b[i].p);
    free(plain.p);
    pq_catalog_release(&c);
}

/* Any range again, forwards and back; what was left out is verified. */
Test(pqstream, random_access)
{
    struct pq_catalog c;
    unsigned char got[3000], want[3000];

    pq_catalog_init(&c);
    add_plain(&c, "a", PQ_BF16, 1000, 3000);
    add_plain(&c, "b", PQ_U8, 0, 1);
    add_nf4(&c, "c", 1024, 9000);
    add_plain(&c, "d", PQ_F32, 10, 1000);
    for (int level = 0; level < 2; level++) {
        const struct bytes b = write_file(&c, level, 1);
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_source *s;
        struct input x;
        uint32_t seed = 1;
        input_file(&x, b);
        cr_assert(pq_format_pqstream.open(&x.in, &s, &e) == 0, "%s", e.msg);
        for (int i = 0; i < 400; i++) {
            const size_t t = (size_t[]){0, 2, 2, 3}[seed % 4];
            const size_t p = t == 2 ? seed / 4 % 2 : 0;
            const struct pq_part *part = &s->catalog->tensors[t].parts[p];
            const uint64_t o = seed / 8 % part->bytes % (i * 40000 + 1);
            const uint64_t left = part->bytes - o;
            const size_t n = left < 3000 ? (size_t)left : 3000;
            cr_assert(pq_source_read(s, part, o, got, n, &e) == 0, "%s", e.msg);
            fill(t == 3 ? 4 : t + p, o, want, n);
            cr_assert_arr_eq(got, want, n);
            seed = seed * 1664525u + 1013904223u;
        }
        cr_assert(pq_source_finish(s, &e) == 0, "%s", e.msg);
        pq_source_free(s);
        free(b.p);
    }
    pq_catalog_release(&c);
}

/* Encoded tensors are folded after open: the catalogue changes. */
Test(pqstream, folded)
{
    struct pq_catalog c;

    small_model(&c);
    for (int level = 0; level < 2; level++) {
        const struct bytes b = write_file(&c, level, 1);
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_source *s;
        struct input x;
        unsigned char got[8], want[8];
        input_pipe(&x, b);
        cr_assert(pq_format_pqstream.open(&x.in, &s, &e) == 0, "%s", e.msg);
        s->catalog->tensors[0] = s->catalog->tensors[2];
        s->catalog->n_tensors = 1;
        const struct pq_part *p = &s->catalog->tensors[0].parts[1];
        cr_assert(pq_source_read(s, p, 0, got, 8, &e) == 0, "%s", e.msg);
        fill(3, 0, want, 8);
        cr_assert_arr_eq(got, want, 8);
        cr_assert(pq_source_finish(s, &e) == 0, "%s", e.msg);
        pq_source_free(s);
        input_end(&x);
        free(b.p);
    }
    pq_catalog_release(&c);
}

Test(pqstream, a_pipe_cannot_go_back)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;
    struct input x;
    unsigned char got[60];

    small_model(&c);
    const struct bytes b = write_file(&c, 0, 1);
    input_pipe(&x, b);
    cr_assert(pq_format_pqstream.open(&x.in, &s, &e) == 0, "%s", e.msg);
    const struct pq_part *p = s->catalog->tensors[1].parts;
    cr_assert(!s->rewind);
    cr_assert(pq_source_read(s, p, 10, got, 20, &e) == 0, "%s", e.msg);
    cr_assert(pq_source_read(s, p, 29, got, 20, &e) != 0);
    cr_assert_eq(e.code, PQ_EARG);
    pq_source_free(s);
    input_end(&x);
    free(b.p);
    pq_catalog_release(&c);
}

/* A catalogue of any text in an otherwise sound stream without bodies. */
static struct bytes with_catalogue(const char *text)
{
    const size_t n = strlen(text), order[1] = {0};
    struct bytes b = {calloc(n + 512, 1), 64};
    struct pq_catalog c;

    pq_catalog_init(&c);
    const struct bytes empty = write_file(&c, 0, 1);
    memcpy(b.p, empty.p, 64);
    unsigned char *p = b.p + 64;
    memcpy(p, "CTLG", 4);
    put64(p + 16, n);
    put64(p + 40, n);
    put64(p + 48, XXH3_64bits(NULL, 0));
    reseal(p);
    memcpy(p + 64, text, n);
    b.n += record_bytes(p);
    put64(b.p + b.n - 8, XXH3_64bits(text, n));
    memcpy(b.p + b.n, "END.", 4);
    const struct bytes f = forge(b, order, 1);
    free(b.p);
    free(empty.p);
    pq_catalog_release(&c);
    return f;
}

#define T(name, more) "{\"name\":\"" name "\",\"dtype\":\"U8\"," more "}"

Test(pqstream, catalogues)
{
    static const char *const good[] = {
        "{\"tensors\":[]}",
        "{\"what\":[{}],\"tensors\":[],\"files\":[],\"directory\":false}",
    };
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"tensors\":[],\"tensors\":[]}",
        "{\"tensors\":[]} ]",
        "{\"tensors\":[{}]}",
        "{\"tensors\":[" T("a", "\"shape\":[-1]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[1.5]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[4294967296,4294967296]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[9223372036854775808]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0],\"shape\":[0]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0],\"file\":1") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0],\"encoding\":\"q9\"") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0],\"encoding\":\"nf4\"") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0],\"parts\":[]") "]}",
        "{\"tensors\":[" T("a\\u0000", "\"shape\":[0]") "]}",
        "{\"tensors\":[" T("a\xff", "\"shape\":[0]") "]}",
        "{\"tensors\":[" T("a", "\"shape\":[0]") "," T("\\u0061",
                                                       "\"shape\":[0]") "]}",
        "{\"tensors\":[],\"files\":[\"../x\"]}",
        "{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[0],"
        "\"parts\":["
        "{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[0],\"role\":\"data\"},"
        "{\"name\":\"b\",\"dtype\":\"U8\",\"shape\":[0],\"role\":\"data\"}]}"
        "]}",
        "{\"tensors\":[{\"name\":\"a\",\"dtype\":\"BF16\",\"shape\":[64],"
        "\"encoding\":\"nf4\",\"block\":64,\"parts\":["
        "{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[32],\"role\":\"data\"}]}"
        "]}",
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct bytes b = with_catalogue(good[i]);
        accepted(b, good[i]);
        free(b.p);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct bytes b = with_catalogue(bad[i]);
        refused(b, PQ_OK, bad[i]);
        free(b.p);
    }
}

/* Lengths that a checksummed prefix claims are still not believed. */
Test(pqstream, lengths)
{
    static const uint64_t lengths[] = {100000001, UINT64_MAX, UINT64_MAX - 71,
                                       (uint64_t)1 << 63, 99999999};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        for (int head = 0; head < 2; head++) {
            struct bytes b = with_catalogue("{\"tensors\":[]}");
            put64(b.p + 64 + (head ? 8 : 16), lengths[i]);
            if (!head)
                put64(b.p + 64 + 40, lengths[i]);
            reseal(b.p + 64);
            refused(b, PQ_OK, "length");
            free(b.p);
        }
    }
}

/* Many small records must not be a way around the limits. */
Test(pqstream, many_records)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_write_options w = {.level = 0};
    struct pq_catalog c;
    struct pq_sink *k;

    pq_catalog_init(&c);
    for (int i = 1; i < 16384; i++)
        cr_assert(pq_catalog_add_prov(&c, "{}", NULL) == 0);
    struct bytes b = write_file(&c, 0, 1);
    cr_assert(read_stream(b, true, 1, &e) == 0, "%s", e.msg);
    cr_assert(read_stream(b, false, 1, &e) == 0, "%s", e.msg);
    free(b.p);
    cr_assert(pq_catalog_add_prov(&c, "{}", NULL) == 0);
    cr_assert(pq_format_pqstream.create(&c, "/x", -1, &w, &k, &e) != 0);
    cr_assert_eq(e.code, PQ_ELIMIT);
    pq_catalog_release(&c);
}

/* The sink refuses what the source would refuse. */
Test(pqstream, unwritable)
{
    const struct pq_write_options w = {.level = 0};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_catalog c;
    struct pq_sink *k;

    pq_catalog_init(&c);
    add_plain(&c, "a", PQ_U8, 1, 1);
    add_plain(&c, "a", PQ_U8, 1, 1);
    cr_assert(pq_format_pqstream.create(&c, "/x", -1, &w, &k, &e) != 0);
    pq_catalog_release(&c);
    pq_catalog_init(&c);
    add_plain(&c, "a\xff", PQ_U8, 1, 1);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_format_pqstream.create(&c, "/x", -1, &w, &k, &e) != 0);
    pq_catalog_release(&c);
}
