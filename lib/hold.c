/*
 * Holds: random access to a source that can only be read onwards.
 *
 * The parts of the catalogue are sorted by offset once.  The stream is at
 * `at`; parts end behind each other, so that `cursor` is the first one that
 * was not passed yet.  Whatever is read goes through take(), which gives
 * every part that overlaps it and still has a reader its share: two tensors
 * may name the same bytes.
 *
 * The spool of a part begins where the stream was when the first byte of it
 * had to be kept; from there on everything is kept, without holes:
 *
 *     part    [ read directly | kept ................. ]
 *                             ^ base       ^ stream
 *
 * Parts whose bytes are known (part->constant) are never read.
 */
#include "pq_hold.h"

#include <stdlib.h>
#include <string.h>

enum { SCRATCH_BYTES = 256 << 10 };

struct entry {
    const struct pq_part *part;
    uint64_t start, end; /* in the source */
    unsigned times;      /* pq_hold_expect */
    bool spooled;
    uint64_t base; /* offset in the source of the spool's first byte */
    struct pq_spool spool;
};

struct pq_hold {
    struct pq_source *source;
    struct pq_spool_budget *budget;
    struct entry *entries; /* [n], by (start, end, name) */
    size_t n, cursor;
    uint64_t at;
    unsigned char *scratch; /* [SCRATCH_BYTES], made when needed */
};

static bool same_range(const struct entry *a, const struct entry *b)
{
    return a->start == b->start && a->end == b->end;
}

static int compare(const struct entry *a, const struct entry *b)
{
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->part->name, b->part->name);
}

static int compare_void(const void *a, const void *b)
{
    return compare(a, b);
}

static int list_parts(struct pq_hold *h, struct pq_error *e)
{
    const struct pq_catalog *const c = h->source->catalog;
    size_t n = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    h->entries = pq_zalloc(n, sizeof *h->entries);
    if (h->entries == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++) {
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *const p = &c->tensors[i].parts[k];
            uint64_t end;
            if (p->constant != NULL)
                continue;
            if (!pq_add(p->offset, p->bytes, &end))
                return pq_fail(e, PQ_EFORMAT, "%s: tensor %s: size overflows",
                               h->source->name, p->name);
            h->entries[h->n++] = (struct entry){
                .part = p, .start = p->offset, .end = end, .times = 1};
        }
    }
    qsort(h->entries, h->n, sizeof *h->entries, compare_void);
    return 0;
}

struct pq_hold *pq_hold_new(struct pq_source *s, struct pq_spool_budget *b,
                            struct pq_error *e)
{
    struct pq_hold *const h = pq_zalloc(1, sizeof *h);
    if (h == NULL) {
        pq_fail_nomem(e);
        return NULL;
    }
    h->source = s;
    h->budget = b;
    if (list_parts(h, e) != 0) {
        pq_hold_free(h);
        return NULL;
    }
    return h;
}

void pq_hold_free(struct pq_hold *h)
{
    if (h == NULL)
        return;
    for (size_t i = 0; i < h->n; i++)
        if (h->entries[i].spooled)
            pq_spool_release(&h->entries[i].spool);
    free(h->entries);
    free(h->scratch);
    free(h);
}

/*
 * The entry of a part.  Parts are copied when tensors are folded and may be
 * renamed, so their address says nothing: the range does, and the name where
 * several parts have the same range.
 */
static struct entry *find(const struct pq_hold *h, const struct pq_part *p)
{
    const struct entry key = {
        .part = p, .start = p->offset, .end = p->offset + p->bytes};
    size_t lo = 0, hi = h->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (compare(&h->entries[mid], &key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < h->n && same_range(&h->entries[lo], &key))
        return &h->entries[lo];
    if (lo > 0 && same_range(&h->entries[lo - 1], &key))
        return &h->entries[lo - 1];
    return NULL;
}

void pq_hold_expect(struct pq_hold *h, const struct pq_part *p, unsigned times)
{
    struct entry *const x = find(h, p);
    if (x == NULL)
        return;
    x->times = times;
    if (times == 0 && x->spooled) {
        pq_spool_release(&x->spool);
        x->spooled = false;
    }
}

void pq_hold_drop(struct pq_hold *h, const struct pq_part *p)
{
    pq_hold_expect(h, p, 0);
}

/* Reads from the source itself and says what was being read if that fails. */
static int source_read(struct pq_hold *h, const struct pq_part *p, uint64_t at,
                       void *buf, size_t n, struct pq_error *e)
{
    struct pq_source *const s = h->source;
    if (s->ops->read(s, at, buf, n, e) != 0)
        return pq_error_in(e, "%s: tensor %s", s->name, p->name);
    return 0;
}

/* Gives part x its share of the bytes [from, from + n) at `buf`. */
static int keep(struct pq_hold *h, struct entry *x, uint64_t from,
                const unsigned char *buf, size_t n, struct pq_error *e)
{
    const uint64_t lo = from > x->start ? from : x->start;
    const uint64_t hi = from + n < x->end ? from + n : x->end;
    if (lo >= hi)
        return 0;
    if (!x->spooled) {
        if (pq_spool_init(&x->spool, h->budget, x->end - lo, e) != 0)
            return pq_error_in(e, "%s: tensor %s", h->source->name,
                               x->part->name);
        x->spooled = true;
        x->base = lo;
    }
    if (pq_spool_write(&x->spool, lo - x->base, buf + (lo - from),
                       (size_t)(hi - lo), e) != 0)
        return pq_error_in(e, "%s: tensor %s", h->source->name, x->part->name);
    return 0;
}

/*
 * Moves the stream over [from, from + n), into `buf`.  `reader` is the part
 * it is read for, or NULL when it is only passed over.
 */
static int take(struct pq_hold *h, const struct entry *reader, uint64_t from,
                unsigned char *buf, size_t n, struct pq_error *e)
{
    const struct pq_part *const p =
        reader ? reader->part : h->entries[h->cursor].part;
    if (source_read(h, p, from, buf, n, e) != 0)
        return -1;
    h->at = from + n;
    if (h->source->rewind)
        return 0;
    for (size_t i = h->cursor; i < h->n && h->entries[i].start < h->at; i++) {
        struct entry *const x = &h->entries[i];
        const bool wanted = x->times > 1 || (x->times == 1 && x != reader);
        if ((wanted || x->spooled) && keep(h, x, from, buf, n, e) != 0)
            return -1;
    }
    return 0;
}

/* Reads on to `target`, part by part; what lies between parts is no data. */
static int pass(struct pq_hold *h, uint64_t target, struct pq_error *e)
{
    for (;;) {
        while (h->cursor < h->n && h->entries[h->cursor].end <= h->at)
            h->cursor++;
        if (h->cursor == h->n)
            break;
        const struct entry *const x = &h->entries[h->cursor];
        if (x->start >= target || h->at >= target)
            break;
        if (x->start == x->end) {
            h->cursor++;
            continue;
        }
        if (h->source->skips && x->times == 0 && !x->spooled) {
            h->at = x->end < target ? x->end : target;
            continue;
        }
        const uint64_t from = h->at > x->start ? h->at : x->start;
        uint64_t n = (x->end < target ? x->end : target) - from;
        if (n > SCRATCH_BYTES)
            n = SCRATCH_BYTES;
        if (h->scratch == NULL)
            h->scratch = pq_alloc(SCRATCH_BYTES, 1);
        if (h->scratch == NULL)
            return pq_fail_nomem(e);
        if (take(h, NULL, from, h->scratch, (size_t)n, e) != 0)
            return -1;
    }
    return 0;
}

/* Reads [from, from + n) of part x, which the stream has passed. */
static int reread(struct pq_hold *h, const struct entry *x, uint64_t from,
                  void *buf, size_t n, struct pq_error *e)
{
    if (h->source->rewind)
        return source_read(h, x->part, from, buf, n, e);
    if (!x->spooled || from < x->base)
        return pq_fail(e, PQ_EARG,
                       "%s: tensor %s: byte %llu has passed and was not kept",
                       h->source->name, x->part->name,
                       (unsigned long long)(from - x->start));
    if (pq_spool_read(&x->spool, from - x->base, buf, n, e) != 0)
        return pq_error_in(e, "%s: tensor %s", h->source->name, x->part->name);
    return 0;
}

int pq_hold_read(struct pq_hold *h, const struct pq_part *p, uint64_t offset,
                 void *buf, size_t n, struct pq_error *e)
{
    if (offset > p->bytes || n > p->bytes - offset)
        return pq_fail(e, PQ_EARG, "%s: tensor %s: range beyond its end",
                       h->source->name, p->name);
    if (n == 0)
        return 0;
    if (p->constant != NULL) {
        memcpy(buf, (const unsigned char *)p->constant + offset, n);
        return 0;
    }
    const struct entry *const x = find(h, p);
    if (x == NULL)
        return pq_fail(e, PQ_EARG, "%s: tensor %s: not in the catalogue",
                       h->source->name, p->name);

    unsigned char *to = buf;
    uint64_t from = x->start + offset;
    if (from < h->at) {
        const uint64_t behind = h->at - from;
        const size_t k = behind < n ? (size_t)behind : n;
        if (reread(h, x, from, to, k, e) != 0)
            return -1;
        to += k;
        from += k;
        n -= k;
    }
    if (n == 0)
        return 0;
    if (pass(h, from, e) != 0)
        return -1;
    return take(h, x, from, to, n, e);
}

int pq_source_hold(struct pq_source *s, uint64_t memory, const char *tmpdir,
                   struct pq_error *e)
{
    if (s->hold == NULL) {
        s->hold_budget = (struct pq_spool_budget){.left = memory,
                                                  .dir = tmpdir};
        s->hold = pq_hold_new(s, &s->hold_budget, e);
    }
    return s->hold != NULL ? 0 : -1;
}

int pq_source_reach(struct pq_source *s, const struct pq_part *p,
                    uint64_t offset, void *buf, size_t n, struct pq_error *e)
{
    return s->hold != NULL ? pq_hold_read(s->hold, p, offset, buf, n, e)
                           : pq_source_read(s, p, offset, buf, n, e);
}
