/*
 * Writing safetensors: header and layout from the catalogue, then the bodies
 * in place (a file) or one after the other (a pipe).
 *
 *     | u64 N | {"__metadata__":{"format":"pt",..},"a":{..},..}   | a | b |
 *     |<------------------ a multiple of 8 --------------------->|
 *
 * The data lie in the order of the catalogue, but for the constant scalars
 * of a quantized tensor (weight_format, one byte each), which would put all
 * behind them out of alignment and so go last.  The canonical order is that
 * of the reference library (tensor.rs, prepare): by dtype, then by name.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

#define FLUSH_BYTES (16u << 20) /* written between two early write-backs */

struct st_sink {
    struct pq_sink base;
    struct pq_buf header; /* with its length in front */
    char *path;           /* NULL: standard output */
    int dirfd;
    unsigned flags;
    struct pq_out out;
    bool open;
    uint64_t body_bytes; /* of all parts */
    uint64_t written;    /* of them; changed atomically */
};

static const struct pq_part *part_at(const struct pq_catalog *c,
                                     const struct pq_place *x)
{
    return &c->tensors[x->tensor].parts[x->part];
}

/* ---- Layout ---------------------------------------------------------- */

/* Appends the parts that are (`last`) or are not to go last. */
static void list_parts(struct pq_sink *k, bool last)
{
    const struct pq_catalog *const c = k->catalog;
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t j = 0; j < c->tensors[i].n_parts; j++) {
            const enum pq_role role = c->tensors[i].parts[j].role;
            if ((role == PQ_ROLE_WEIGHT_FORMAT) == last)
                k->order[k->n_order++] =
                    (struct pq_place){.tensor = i, .part = j};
        }
}

struct canonical {
    const struct pq_part *part;
    struct pq_place place;
};

static int compare_canonical(const void *a, const void *b)
{
    const struct canonical *const x = a, *const y = b;
    if (x->part->dtype != y->part->dtype)
        return x->part->dtype < y->part->dtype ? -1 : 1;
    return strcmp(x->part->name, y->part->name);
}

static int sort_canonical(struct pq_sink *k, struct pq_error *e)
{
    struct canonical *const all = pq_alloc(k->n_order, sizeof *all);
    if (all == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < k->n_order; i++)
        all[i] =
            (struct canonical){part_at(k->catalog, &k->order[i]), k->order[i]};
    qsort(all, k->n_order, sizeof *all, compare_canonical);
    for (size_t i = 0; i < k->n_order; i++)
        k->order[i] = all[i].place;
    free(all);
    return 0;
}

/* Puts the parts one behind the other. */
static int place_parts(struct st_sink *s, struct pq_error *e)
{
    struct pq_sink *const k = &s->base;
    for (size_t i = 0; i < k->n_order; i++) {
        k->order[i].address = s->body_bytes;
        if (!pq_add(s->body_bytes, part_at(k->catalog, &k->order[i])->bytes,
                    &s->body_bytes))
            return pq_fail(e, PQ_ELIMIT, "more than 2^64 bytes of tensors");
    }
    return 0;
}

static int check_names(const struct pq_sink *k, struct pq_error *e)
{
    struct pq_names names = {0};
    int rc = 0;
    for (size_t i = 0; i < k->n_order && rc == 0; i++) {
        const char *const name = part_at(k->catalog, &k->order[i])->name;
        rc = pq_names_add(&names, name, i, NULL, e);
        if (rc > 0 || (rc == 0 && strcmp(name, PQ_ST_META) == 0))
            rc = pq_fail(e, PQ_EARG, "tensor %s: %s in a safetensors file",
                         name, rc > 0 ? "comes twice" : "is a reserved name");
    }
    pq_names_release(&names);
    return rc;
}

static int make_order(struct st_sink *s, bool canonical, struct pq_error *e)
{
    struct pq_sink *const k = &s->base;
    size_t n = 0;
    for (size_t i = 0; i < k->catalog->n_tensors; i++)
        n += k->catalog->tensors[i].n_parts;
    k->order = pq_alloc(n, sizeof *k->order);
    if (k->order == NULL)
        return pq_fail_nomem(e);
    list_parts(k, false);
    list_parts(k, true);
    if (canonical && sort_canonical(k, e) != 0)
        return -1;
    if (check_names(k, e) != 0)
        return -1;
    return place_parts(s, e);
}

/* ---- Header ---------------------------------------------------------- */

/* Decimal; a header of 100,000 tensors holds half a million numbers. */
static void put_number(struct pq_buf *b, uint64_t v)
{
    char s[20];
    size_t at = sizeof s;
    do {
        s[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    pq_buf_add(b, s + at, sizeof s - at);
}

static void put_pair(struct pq_buf *b, const char *key, const char *value)
{
    pq_json_quote(b, key);
    pq_buf_puts(b, ":");
    pq_json_quote(b, value);
}

static void put_prov(struct pq_buf *b, const struct pq_catalog *c)
{
    struct pq_buf lines = {0};
    for (size_t i = 0; i < c->n_prov; i++) {
        pq_buf_puts(&lines, i > 0 ? "\n" : "");
        pq_buf_puts(&lines, c->prov[i]);
    }
    pq_buf_puts(b, ",");
    if (lines.failed)
        b->failed = true;
    else
        put_pair(b, PQ_ST_PROV, lines.s);
    pq_buf_release(&lines);
}

/* transformers refuses a file that does not say its format. */
static void put_metadata(struct pq_buf *b, const struct pq_catalog *c)
{
    const char *const format = pq_catalog_get(c, "format");
    pq_json_quote(b, PQ_ST_META);
    pq_buf_puts(b, ":{");
    put_pair(b, "format", format != NULL ? format : "pt");
    for (size_t i = 0; i < c->n_metadata; i++) {
        const struct pq_pair *const m = &c->metadata[i];
        if (strcmp(m->key, "format") == 0 || strcmp(m->key, PQ_ST_PROV) == 0)
            continue;
        pq_buf_puts(b, ",");
        put_pair(b, m->key, m->value);
    }
    if (c->n_prov > 0)
        put_prov(b, c);
    pq_buf_puts(b, "}");
}

/* ,"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static void put_part(struct pq_buf *b, const struct pq_part *p, uint64_t at)
{
    pq_buf_puts(b, ",");
    pq_json_quote(b, p->name);
    pq_buf_puts(b, ":{\"dtype\":\"");
    pq_buf_puts(b, pq_dtype_name(p->dtype));
    pq_buf_puts(b, "\",\"shape\":[");
    for (int i = 0; i < p->rank; i++) {
        if (i > 0)
            pq_buf_puts(b, ",");
        put_number(b, p->shape[i]);
    }
    pq_buf_puts(b, "],\"data_offsets\":[");
    put_number(b, at);
    pq_buf_puts(b, ",");
    put_number(b, at + p->bytes);
    pq_buf_puts(b, "]}");
}

static int make_header(struct st_sink *s, struct pq_error *e)
{
    const struct pq_sink *const k = &s->base;
    struct pq_buf *const b = &s->header;
    pq_buf_add(b, (unsigned char[PQ_ST_LENGTH]){0}, PQ_ST_LENGTH);
    pq_buf_puts(b, "{");
    put_metadata(b, k->catalog);
    for (size_t i = 0; i < k->n_order; i++)
        put_part(b, part_at(k->catalog, &k->order[i]), k->order[i].address);
    pq_buf_puts(b, "}");
    while (b->n % 8 != 0 && !b->failed)
        pq_buf_puts(b, " ");
    if (b->failed)
        return pq_fail_nomem(e);
    const uint64_t length = b->n - PQ_ST_LENGTH;
    if (length > PQ_ST_MAX_HEADER)
        return pq_fail(e, PQ_ELIMIT,
                       "header: %llu bytes, safetensors allows %u",
                       (unsigned long long)length, PQ_ST_MAX_HEADER);
    for (unsigned i = 0; i < PQ_ST_LENGTH; i++)
        b->s[i] = (char)(length >> 8 * i & 0xff);
    return 0;
}

/* ---- The sink -------------------------------------------------------- */

static int begin(struct pq_sink *k, struct pq_error *e)
{
    struct st_sink *const s = (struct st_sink *)k;
    if ((s->dirfd >= 0 ? pq_out_open_at(&s->out, s->dirfd, s->path, s->flags, e)
                       : pq_out_open(&s->out, s->path, s->flags, e)) != 0)
        return -1;
    s->open = true;
    k->positional = s->out.regular;
    if (pq_out_reserve(&s->out, k->total_bytes, e) != 0)
        return -1;
    return pq_out_write(&s->out, s->header.s, s->header.n, e);
}

/* Lets the disk begin, so that the fsync at the end is short. */
static void flush_early(struct st_sink *s, uint64_t before, size_t n)
{
    if (before / FLUSH_BYTES != (before + n) / FLUSH_BYTES)
        pq_out_flush_early(&s->out, 0, s->base.total_bytes);
}

static int write_part(struct pq_sink *k, size_t place, uint64_t offset,
                      const void *buf, size_t n, struct pq_error *e)
{
    struct st_sink *const s = (struct st_sink *)k;
    const struct pq_part *const p = part_at(k->catalog, &k->order[place]);
    if (offset > p->bytes || n > p->bytes - offset)
        return pq_fail(e, PQ_EARG, "%s: written beyond its end", p->name);
    const uint64_t at = s->header.n + k->order[place].address + offset;
    if (!k->positional && at != s->out.at)
        return pq_fail(e, PQ_EARG, "%s: written out of order", p->name);
    if ((k->positional ? pq_out_pwrite(&s->out, at, buf, n, e)
                       : pq_out_write(&s->out, buf, n, e)) != 0)
        return -1;
    flush_early(s, __atomic_fetch_add(&s->written, n, __ATOMIC_RELAXED), n);
    return 0;
}

static int seal(struct pq_sink *k, struct pq_error *e)
{
    struct st_sink *const s = (struct st_sink *)k;
    if (s->written != s->body_bytes)
        return pq_fail(e, PQ_EARG, "%llu bytes written, %llu expected",
                       (unsigned long long)s->written,
                       (unsigned long long)s->body_bytes);
    return pq_out_seal(&s->out, e);
}

static int finish(struct pq_sink *k, struct pq_error *e)
{
    struct st_sink *const s = (struct st_sink *)k;
    if (!s->out.sealed && seal(k, e) != 0)
        return -1;
    s->open = false;
    return pq_out_commit(&s->out, e);
}

/* A pipe just ends short, which the header reveals. */
static void abort_sink(struct pq_sink *k, const struct pq_error *why)
{
    struct st_sink *const s = (struct st_sink *)k;
    (void)why;
    if (s->open)
        pq_out_abort(&s->out);
    s->open = false;
}

static void free_sink(struct pq_sink *k)
{
    struct st_sink *const s = (struct st_sink *)k;
    abort_sink(k, NULL);
    pq_buf_release(&s->header);
    free(k->order);
    free(s->path);
    free(s);
}

static const struct pq_sink_ops ops = {
    .begin = begin,
    .write = write_part,
    .seal = seal,
    .finish = finish,
    .abort = abort_sink,
    .free = free_sink,
};

static int lay_out(struct st_sink *s, const struct pq_write_options *w,
                   struct pq_error *e)
{
    if (make_order(s, w->canonical, e) != 0 || make_header(s, e) != 0)
        return -1;
    if (!pq_add(s->header.n, s->body_bytes, &s->base.total_bytes))
        return pq_fail(e, PQ_ELIMIT, "more than 2^64 bytes of tensors");
    return 0;
}

int pq_st_create(struct pq_catalog *c, const char *path, int dirfd,
                 const struct pq_write_options *w, struct pq_sink **k,
                 struct pq_error *e)
{
    if (w->level != 0)
        return pq_fail(e, PQ_EUNSUPPORTED, "safetensors has no compression");
    struct st_sink *const s = pq_zalloc(1, sizeof *s);
    if (s == NULL)
        return pq_fail_nomem(e);
    s->base.ops = &ops;
    s->base.catalog = c;
    s->dirfd = dirfd;
    s->flags = w->sync ? PQ_OUT_SYNC : 0;
    s->out.cancel = w->cancel;
    if (path != NULL)
        s->path = pq_strndup(path, strlen(path));
    if ((path != NULL && s->path == NULL ? pq_fail_nomem(e)
                                         : lay_out(s, w, e)) != 0) {
        free_sink(&s->base);
        return -1;
    }
    *k = &s->base;
    return 0;
}
