/*
 * The .pq reader: open, read every part, read again what has passed, finish;
 * then decode what is encoded.
 *
 * The mutator takes a stream apart into records, changes one, and puts it
 * together with right checksums, index and end, so that mutants get beyond
 * them; some keep a wrong one.
 */
#include <xxhash.h>
#include <zstd.h>

#include "decode.h"

#define BLOCK   64u
#define RECORDS 64u /* of a stream that is taken apart */
#define MORE    1u  /* flags of a TENS record */
#define PACKED  2u
#define SPARSE  4u

/* A regular file can be read again; what comes must be the same. */
static int read_again(struct pq_source *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->catalog;
    unsigned char b[64];

    for (size_t i = c->n_tensors; s->rewind && i-- > 0;)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *p = &c->tensors[i].parts[k];
            const size_t n = p->bytes < sizeof b ? (size_t)p->bytes : sizeof b;
            if (p->bytes <= FUZZ_PART &&
                pq_source_read(s, p, p->bytes - n, b, n, e) != 0)
                return -1;
        }
    return 0;
}

static void use(const char *path, int *writer, struct fuzz_result *r)
{
    struct pq_source *s = fuzz_open(path, writer, &r->e);

    r->ok = s && fuzz_read_all(s, r) == 0;
    if (r->ok && read_again(s, &r->e) != 0)
        fuzz_broken("what was read cannot be read again", r->e.msg, "");
    pq_source_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    fuzz_both(data, n, use);
    fuzz_both(data, n, use_decode);
    return 0;
}

/* ---- The mutator ------------------------------------------------------- */

struct record {
    uint8_t prefix[BLOCK];
    uint8_t *head, *body;
    size_t head_n, body_n;
};

struct stream {
    uint8_t header[BLOCK];
    struct record rec[RECORDS];
    size_t n;
};

/* Where the bytes of a stream being put together go; n may pass max. */
struct output {
    uint8_t *p;
    size_t n, max;
};

static void put(struct output *o, const void *p, size_t n)
{
    if (n > 0 && o->n + n <= o->max)
        memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void put_zeros(struct output *o, size_t n)
{
    static const uint8_t zeros[BLOCK];

    put(o, zeros, n);
}

static uint8_t *copy(const uint8_t *p, size_t n)
{
    uint8_t *const to = malloc(n + 1);

    if (!to)
        abort();
    memcpy(to, p, n);
    return to;
}

static size_t pad(size_t n)
{
    return -n % BLOCK;
}

/* The records up to INDX or the first that does not fit. */
static bool take_apart(const uint8_t *p, size_t n, struct stream *s)
{
    size_t at = BLOCK;

    s->n = 0;
    if (n < BLOCK)
        return false;
    memcpy(s->header, p, BLOCK);
    while (n - at >= BLOCK && s->n < RECORDS - 1) {
        struct record *const r = &s->rec[s->n];
        const uint64_t head = fuzz_get64(p + at + 8);
        const uint64_t body = fuzz_get64(p + at + 16);
        if (memcmp(p + at, "INDX", 4) == 0 || memcmp(p + at, "END.", 4) == 0 ||
            head > n || body > n)
            break;
        const size_t body_at = at + BLOCK + (size_t)head + pad((size_t)head);
        const size_t end = body_at + (size_t)body + 8 + pad((size_t)body + 8);
        if (end > n)
            break;
        memcpy(r->prefix, p + at, BLOCK);
        r->head_n = (size_t)head;
        r->body_n = (size_t)body;
        r->head = copy(p + at + BLOCK, r->head_n);
        r->body = copy(p + body_at, r->body_n);
        s->n++;
        at = end;
    }
    return s->n > 0;
}

static void release(struct stream *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->rec[i].head);
        free(s->rec[i].body);
    }
}

static void seal(uint8_t *b)
{
    fuzz_put64(b + 56, XXH3_64bits(b, 56));
}

/* Lengths, place and checksum of a prefix become true. */
static void mend(struct record *r, size_t seq)
{
    fuzz_put64(r->prefix + 8, r->head_n);
    fuzz_put64(r->prefix + 16, r->body_n);
    fuzz_put64(r->prefix + 24, seq);
    if (!(r->prefix[4] & PACKED))
        fuzz_put64(r->prefix + 40, r->body_n);
}

/* Writes a record and its entry in the index. */
static uint64_t put_record(struct output *o, struct record *r, uint8_t *entry)
{
    const uint64_t sum = XXH3_64bits(r->body, r->body_n);
    uint8_t tail[8];

    fuzz_put64(r->prefix + 48, XXH3_64bits(r->head, r->head_n));
    seal(r->prefix);
    memset(entry, 0, BLOCK);
    memcpy(entry, r->prefix, 8);
    fuzz_put64(entry + 8, o->n);
    fuzz_put64(entry + 16, o->n + BLOCK + r->head_n + pad(r->head_n));
    memcpy(entry + 24, r->prefix + 16, 8);
    memcpy(entry + 32, r->prefix + 40, 8);
    memcpy(entry + 40, r->prefix + 32, 8);
    fuzz_put64(entry + 48, sum);
    put(o, r->prefix, BLOCK);
    put(o, r->head, r->head_n);
    put_zeros(o, pad(r->head_n));
    put(o, r->body, r->body_n);
    put_zeros(o, pad(r->body_n + 8));
    fuzz_put64(tail, sum);
    put(o, tail, 8);
    return sum;
}

static void put_end(struct output *o, uint64_t index_at, size_t records,
                    const uint8_t *sums)
{
    uint8_t b[BLOCK] = "END.";

    fuzz_put64(b + 8, index_at);
    fuzz_put64(b + 16, o->n + BLOCK);
    fuzz_put64(b + 24, records);
    fuzz_put64(b + 32, XXH3_64bits(sums, records * 8));
    seal(b);
    put(o, b, BLOCK);
}

static void put_together(struct output *o, struct stream *s)
{
    static uint8_t entries[RECORDS * BLOCK], sums[RECORDS * 8];
    struct record index = {.prefix = "INDX",
                           .head = sums,
                           .body = entries,
                           .body_n = s->n * BLOCK};
    uint8_t own[BLOCK];

    seal(s->header);
    put(o, s->header, BLOCK);
    for (size_t i = 0; i < s->n; i++)
        fuzz_put64(sums + 8 * i,
                   put_record(o, &s->rec[i], entries + BLOCK * i));
    const uint64_t at = o->n;
    mend(&index, s->n);
    fuzz_put64(sums + 8 * s->n, put_record(o, &index, own));
    put_end(o, at, s->n + 1, sums);
}

static void mutate_bytes(uint8_t **p, size_t *n, size_t max, uint32_t *seed)
{
    uint8_t *const to = malloc(max + 1);

    if (!to)
        abort();
    if (*n > max)
        *n = max;
    memcpy(to, *p, *n);
    *n = fuzz_text(to, *n, max, seed);
    free(*p);
    *p = to;
}

/* Drops, doubles or exchanges records. */
static void mutate_order(struct stream *s, size_t i, uint32_t *seed)
{
    const size_t k = fuzz_random(seed, (uint32_t)s->n);
    const struct record r = s->rec[i];

    switch (fuzz_random(seed, 3)) {
    case 0:
        s->rec[i] = s->rec[k];
        s->rec[k] = r;
        break;
    case 1:
        free(r.head);
        free(r.body);
        memmove(&s->rec[i], &s->rec[i + 1], (--s->n - i) * sizeof r);
        break;
    default:
        memmove(&s->rec[k + 1], &s->rec[k], (s->n++ - k) * sizeof r);
        s->rec[k] = r;
        s->rec[k].head = copy(r.head, r.head_n);
        s->rec[k].body = copy(r.body, r.body_n);
    }
}

/* Cuts a tensor's record in two. */
static void split(struct stream *s, size_t i, uint32_t *seed)
{
    struct record *const r = &s->rec[i], *const second = r + 1;

    if (memcmp(r->prefix, "TENS", 4) != 0 || (r->prefix[4] & PACKED) ||
        r->body_n < 2)
        return;
    const size_t at = 1 + fuzz_random(seed, (uint32_t)r->body_n - 1);
    memmove(second, r, (s->n++ - i) * sizeof *r);
    second->head = copy(r->head, r->head_n);
    second->body = copy(r->body + at, r->body_n - at);
    second->body_n = r->body_n - at;
    r->body_n = at;
    r->prefix[4] |= MORE;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static void put32(uint8_t *p, size_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* A section, opened if it is a frame. */
static uint8_t *open_section(const uint8_t *at, size_t *n)
{
    uint8_t *const p = malloc(FUZZ_INPUT);

    if (!p)
        abort();
    const size_t got = ZSTD_decompress(p, FUZZ_INPUT, at, *n);
    if (!ZSTD_isError(got)) {
        *n = got;
        return p;
    }
    free(p);
    return copy(at, *n);
}

/* Puts `n` bytes in the place of `old` ones at `at` of the body. */
static void exchange(struct record *r, size_t at, size_t old, const uint8_t *p,
                     size_t n)
{
    uint8_t *const body = malloc(r->body_n - old + n + 1);

    if (!body)
        abort();
    memcpy(body, r->body, at);
    memcpy(body + at, p, n);
    memcpy(body + at + n, r->body + at + old, r->body_n - at - old);
    free(r->body);
    r->body = body;
    r->body_n += n - old;
}

/* A frame of n bytes; *n becomes its length. */
static uint8_t *make_frame(const uint8_t *p, size_t *n)
{
    const size_t room = ZSTD_compressBound(*n);
    uint8_t *const frame = malloc(room);
    const size_t k = frame ? ZSTD_compress(frame, room, p, *n, 1) : room;

    if (!frame || ZSTD_isError(k))
        abort();
    *n = k;
    return frame;
}

/* Changes what is in the section at `at`, and its size with it. */
static void mutate_section(struct record *r, size_t at, uint8_t *size,
                           size_t max, uint32_t *seed)
{
    const size_t old = get32(size);
    size_t n = old;

    if (n > r->body_n - at)
        return;
    uint8_t *p = open_section(r->body + at, &n);
    mutate_bytes(&p, &n, fuzz_random(seed, 4) ? n : max, seed);
    if (fuzz_random(seed, 3)) {
        uint8_t *const frame = make_frame(p, &n);
        free(p);
        p = frame;
    }
    put32(size, n);
    exchange(r, at, old, p, n);
    free(p);
}

/* One of the sections of a packed record, if it has so many. */
static void mutate_packed(struct record *r, size_t max, uint32_t *seed)
{
    const size_t sparse = r->prefix[4] & SPARSE ? 1 : 0;
    const size_t n = ((size_t)1 << fuzz_random(seed, 4)) + sparse;
    const size_t k = fuzz_random(seed, (uint32_t)n);
    size_t at = 4 * (n + sparse);

    if (r->body_n < at)
        return;
    for (size_t i = 0; i < k && at <= r->body_n; i++)
        at += get32(r->body + 4 * (i + sparse));
    if (at <= r->body_n)
        mutate_section(r, at, r->body + 4 * (k + sparse), max, seed);
}

/* Changes the sections of a packed record, or makes a record of bytes one. */
static void pack(struct record *r, size_t max, uint32_t *seed)
{
    const size_t raw = r->body_n;
    size_t n = raw;
    uint8_t size[4];

    if (memcmp(r->prefix, "TENS", 4) != 0)
        return;
    if (r->prefix[4] & PACKED) {
        mutate_packed(r, max, seed);
        return;
    }
    uint8_t *const frame = make_frame(r->body, &n);
    put32(size, n);
    exchange(r, 0, raw, frame, n);
    exchange(r, 0, 0, size, 4);
    free(frame);
    r->prefix[4] |= PACKED;
    fuzz_put64(r->prefix + 40, raw);
}

static void mutate_stream(struct stream *s, size_t max, uint32_t *seed)
{
    const size_t i = fuzz_random(seed, (uint32_t)s->n);
    struct record *const r = &s->rec[i];
    bool mended = true;

    switch (fuzz_random(seed, 10)) {
    case 5:
        split(s, i, seed);
        break;
    case 6:
        pack(r, max, seed);
        break;
    case 0:
        (void)LLVMFuzzerMutate(r->prefix, 56, 56);
        mended = fuzz_random(seed, 2);
        break;
    case 1:
        mutate_bytes(&r->head, &r->head_n, 512, seed);
        break;
    case 2:
        mutate_order(s, i, seed);
        break;
    case 3:
        (void)LLVMFuzzerMutate(s->header, 56, 56);
        break;
    case 4: /* the catalogue is where the rules are */
        mutate_bytes(&s->rec[0].body, &s->rec[0].body_n, max, seed);
        break;
    default:
        mutate_bytes(&r->body, &r->body_n, max, seed);
    }
    for (size_t k = 0; mended && k < s->n; k++)
        mend(&s->rec[k], k);
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    static struct stream s;
    uint32_t rnd = seed;

    if (fuzz_random(&rnd, 24) == 0 || !take_apart(p, n, &s))
        return LLVMFuzzerMutate(p, n, max);
    mutate_stream(&s, max, &rnd);
    struct output o = {.p = malloc(max + 1), .max = max};
    if (!o.p)
        abort();
    put_together(&o, &s);
    release(&s);
    const bool fits = o.n <= max;
    if (fits)
        memcpy(p, o.p, o.n);
    free(o.p);
    return fits ? o.n : LLVMFuzzerMutate(p, n, max);
}
