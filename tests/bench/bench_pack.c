/*
 * What `-z` makes of weights, and how fast, on one core and in memory.
 *
 *     bench_pack MODEL KIND [FILE]
 *
 * KIND is f32, bf16, f16, or f16-half: f16 with the smaller half of each
 * matrix set to zero.  The floats of the model are cast to it; what is no
 * float counts as it is.  Lines out, in parts of the raw size and in 10^9 raw
 * bytes per second of CPU time, the best of several passes:
 *
 *     pq RATIO PACK UNPACK       records as in a .pq, their prefixes counted
 *     zstd-3 RATIO PACK UNPACK   all bytes at once
 *     zstd-19 ...
 *
 * The raw bytes go to FILE, for programs that are no library here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

#include "pq_quant.h"
#include "pqstream.h"

#define PASSES 5

struct piece {
    enum pq_dtype dtype;
    size_t at, bytes;
};

static unsigned char *raw, *back; /* [n_raw] */
static size_t n_raw;
static struct piece *pieces; /* [n_pieces], runs of at most PQ_STREAM_RUN */
static size_t n_pieces;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_pack: %s: %s\n", what, why);
    exit(2);
}

static void *space(size_t n)
{
    void *p = malloc(n + 1);

    if (!p)
        die("memory", "none left");
    return p;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the weights -------------------------------------------------------- */

/* Sets the n / 2 smallest magnitudes to zero; of equal ones, the first. */
static void halve(uint16_t *x, size_t n)
{
    static size_t count[32768];
    size_t below = 0;
    unsigned limit = 0;

    memset(count, 0, sizeof count);
    for (size_t i = 0; i < n; i++)
        count[x[i] & 0x7fff]++;
    while (below + count[limit] < n / 2)
        below += count[limit++];
    size_t equal = n / 2 - below;
    for (size_t i = 0; i < n; i++) {
        const unsigned a = x[i] & 0x7fffu;
        if (a < limit || (a == limit && equal > 0)) {
            equal -= a == limit;
            x[i] = 0;
        }
    }
}

static void cast(const float *x, size_t n, enum pq_dtype t, bool half,
                 unsigned char *out)
{
    void *y = space(4 * n); /* aligned, as `out` may not be */

    pq_store_f32(pq_kernels_best(), t, x, n, y);
    if (half)
        halve(y, n);
    memcpy(out, y, n * pq_dtype_bits(t) / 8);
    free(y);
}

/* A part as it is in the model, as floats if it is of floats, or NULL. */
static float *floats(const struct pq_part *p, const unsigned char *bytes,
                     size_t *n)
{
    float *x;

    *n = (size_t)(p->bytes * 8 / pq_dtype_bits(p->dtype));
    if (p->dtype != PQ_F32 && p->dtype != PQ_BF16 && p->dtype != PQ_F16)
        return NULL;
    x = space(4 * *n);
    pq_load_f32(pq_kernels_best(), p->dtype, bytes, *n, x);
    return x;
}

static void add_pieces(enum pq_dtype t, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += PQ_STREAM_RUN) {
        const size_t left = bytes - i;
        pieces = realloc(pieces, (n_pieces + 1) * sizeof *pieces);
        if (!pieces)
            die("memory", "none left");
        pieces[n_pieces++] = (struct piece){
            t, n_raw + i, left < PQ_STREAM_RUN ? left : PQ_STREAM_RUN};
    }
    n_raw += bytes;
}

static void add_part(struct pq_source *s, const struct pq_part *p,
                     const char *kind)
{
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char *bytes = space((size_t)p->bytes);
    size_t n;

    if (pq_source_read(s, p, 0, bytes, (size_t)p->bytes, &e))
        die(p->name, e.msg);
    float *x = floats(p, bytes, &n);
    const enum pq_dtype t = !x                          ? p->dtype
                            : strcmp(kind, "f32") == 0  ? PQ_F32
                            : strcmp(kind, "bf16") == 0 ? PQ_BF16
                                                        : PQ_F16;
    const size_t all = n * pq_dtype_bits(t) / 8;
    raw = realloc(raw, n_raw + all + 1);
    if (!raw)
        die("memory", "none left");
    if (x)
        cast(x, n, t, strcmp(kind, "f16-half") == 0 && p->rank > 1,
             raw + n_raw);
    else
        memcpy(raw + n_raw, bytes, all);
    add_pieces(t, all);
    free(x);
    free(bytes);
}

static void read_model(const char *path, const char *kind)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;

    if (pq_open_model(path, NULL, &s, &e))
        die(path, e.msg);
    for (size_t i = 0; i < s->catalog->n_tensors; i++)
        for (size_t p = 0; p < s->catalog->tensors[i].n_parts; p++)
            add_part(s, &s->catalog->tensors[i].parts[p], kind);
    pq_source_free(s);
    back = space(n_raw);
}

/* ---- ours --------------------------------------------------------------- */

struct packed {
    unsigned char *body;
    size_t bytes;
    bool packed, sparse;
};

static double pack_all(struct pq_stream_press *z, struct packed *out)
{
    struct pq_stream_run r = {.raw = space(PQ_STREAM_RUN),
                              .work = space(PQ_STREAM_RUN)};
    double spent = 0;

    for (size_t i = 0; i < n_pieces; i++) {
        r.dtype = pieces[i].dtype;
        r.raw_bytes = pieces[i].bytes;
        memcpy(r.raw, raw + pieces[i].at, r.raw_bytes);
        const double t = now();
        pq_stream_press(z, &r);
        spent += now() - t;
        if (r.failed)
            die("pack", "memory");
        free(out[i].body);
        out[i] = (struct packed){space(r.body_bytes), r.body_bytes, r.packed,
                                 r.sparse};
        memcpy(out[i].body, r.body, r.body_bytes);
    }
    free(r.raw);
    free(r.work);
    return spent;
}

static double unpack_all(struct pq_stream_unpacker *u, const struct packed *in)
{
    struct pq_error e = PQ_ERROR_INIT;
    const double t = now();

    for (size_t i = 0; i < n_pieces; i++) {
        const struct pq_stream_packed p = {pieces[i].dtype, in[i].sparse,
                                           in[i].body, in[i].bytes,
                                           pieces[i].bytes};
        unsigned char *const to = back + pieces[i].at;
        if (!in[i].packed)
            memcpy(to, in[i].body, in[i].bytes);
        else if (pq_stream_unpack(u, &p, to, &e))
            die("unpack", e.msg);
    }
    return now() - t;
}

static void line(const char *what, size_t bytes, double pack, double unpack)
{
    if (memcmp(raw, back, n_raw) != 0)
        die(what, "other bytes came back");
    printf("%s %.4f %.3f %.3f\n", what, (double)bytes / (double)n_raw,
           (double)n_raw / pack / 1e9, (double)n_raw / unpack / 1e9);
    fflush(stdout);
    memset(back, 0, n_raw);
}

static void ours(void)
{
    const struct pq_kernels *k = pq_kernels_best();
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_stream_press *z = pq_stream_press_new(1, k);
    struct pq_stream_unpacker *u = pq_stream_unpacker_new(k, &e);
    struct packed *all = calloc(n_pieces + 1, sizeof *all);
    double pack = 1e9, unpack = 1e9;
    uint64_t bytes = 0;

    if (!z || !u || !all)
        die("memory", "none left");
    for (int i = 0; i < PASSES; i++) {
        const double p = pack_all(z, all);
        const double q = unpack_all(u, all);
        pack = p < pack ? p : pack;
        unpack = q < unpack ? q : unpack;
    }
    for (size_t i = 0; i < n_pieces; i++)
        if (!pq_stream_add_record(&bytes, 0, all[i].bytes))
            die("sizes", "too large");
    line("pq", (size_t)bytes, pack, unpack);
    for (size_t i = 0; i < n_pieces; i++)
        free(all[i].body);
    free(all);
    pq_stream_press_free(z);
    pq_stream_unpacker_free(u);
}

/* ---- zstd alone --------------------------------------------------------- */

static void zstd(int level)
{
    const size_t room = ZSTD_compressBound(n_raw);
    unsigned char *to = space(room);
    char what[16];
    double unpack = 1e9, t = now();
    const size_t n = ZSTD_compress(to, room, raw, n_raw, level);
    const double pack = now() - t;

    if (ZSTD_isError(n))
        die("zstd", ZSTD_getErrorName(n));
    for (int i = 0; i < PASSES; i++) {
        t = now();
        const size_t got = ZSTD_decompress(back, n_raw, to, n);
        t = now() - t;
        unpack = t < unpack ? t : unpack;
        if (got != n_raw)
            die("zstd", "other lengths");
    }
    snprintf(what, sizeof what, "zstd-%d", level);
    line(what, n, pack, unpack);
    free(to);
}

static void save(const char *path)
{
    FILE *f = fopen(path, "wb");

    if (!f || fwrite(raw, 1, n_raw, f) != n_raw || fclose(f) != 0)
        die(path, "cannot be written");
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"f32", "bf16", "f16", "f16-half"};
    bool known = false;

    for (size_t i = 0; argc > 2 && i < 4; i++)
        known = known || strcmp(argv[2], kinds[i]) == 0;
    if (!known)
        die("usage", "bench_pack MODEL f32|bf16|f16|f16-half [FILE]");
    read_model(argv[1], argv[2]);
    if (argc > 3)
        save(argv[3]);
    ours();
    zstd(3);
    if (argc > 3)
        zstd(19);
    free(raw);
    free(back);
    free(pieces);
    return 0;
}
