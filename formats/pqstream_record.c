/*
 * The fixed structures of a .pq stream, to bytes and back.  All are 64 bytes
 * and end with the XXH3-64 of the 56 before it.
 *
 *              0      4      8       16      24      32      40      48     56
 *     HEADER   89 P Q T CR LF ^Z LF  v  w    incompat/compat 0 ............ sum
 *     PREFIX   type   flags  head    body    seq     number  raw     head's sum
 *     END      "END." 0      INDX at total   records sums    0 ............ sum
 *     entry    type   flags  at      body at body    raw     number  sum    0
 *
 * Only an index entry has no checksum of its own; INDX as a whole has one.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>

#define MAJOR 1u
#define MINOR 0u

static const unsigned char magic[8] = {0x89, 'P',  'Q',  'T',
                                       0x0d, 0x0a, 0x1a, 0x0a};
static const unsigned char zeros[PQ_STREAM_BLOCK];

uint64_t pq_stream_get64(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

void pq_stream_put64(unsigned char *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

uint32_t pq_stream_get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

void pq_stream_put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

static void seal(unsigned char *b)
{
    pq_stream_put64(b + 56, XXH3_64bits(b, 56));
}

static bool sealed(const unsigned char *b)
{
    return pq_stream_get64(b + 56) == XXH3_64bits(b, 56);
}

void pq_stream_put_header(unsigned char b[PQ_STREAM_BLOCK])
{
    memset(b, 0, PQ_STREAM_BLOCK);
    memcpy(b, magic, sizeof(magic));
    b[8] = MAJOR;
    b[10] = MINOR;
    seal(b);
}

int pq_stream_get_header(const unsigned char b[PQ_STREAM_BLOCK],
                         struct pq_error *e)
{
    if (memcmp(b, magic, 4) != 0)
        return pq_fail(e, PQ_EFORMAT, "not a .pq stream");
    if (memcmp(b, magic, sizeof(magic)) != 0)
        return pq_fail(e, PQ_EFORMAT,
                       "the first bytes were damaged, as by a "
                       "transfer in text mode");
    if (!sealed(b))
        return pq_fail(e, PQ_ECHECKSUM, "the header's checksum is wrong");
    const unsigned major = pq_stream_get32(b + 8) & 0xffff;
    if (major != MAJOR)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "stream version %u; this program reads version %u",
                       major, MAJOR);
    if (pq_stream_get32(b + 12) != 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "the stream needs features that this program does not "
                       "have (bits 0x%x)",
                       (unsigned)pq_stream_get32(b + 12));
    if (memcmp(b + 20, zeros, 36) != 0)
        return pq_fail(e, PQ_EFORMAT, "the header's reserved bytes are set");
    return 0;
}

void pq_stream_put_prefix(unsigned char b[PQ_STREAM_BLOCK],
                          const struct pq_stream_prefix *p)
{
    memcpy(b, p->type, 4);
    pq_stream_put32(b + 4, p->flags);
    pq_stream_put64(b + 8, p->head_bytes);
    pq_stream_put64(b + 16, p->body_bytes);
    pq_stream_put64(b + 24, p->seq);
    pq_stream_put64(b + 32, p->number);
    pq_stream_put64(b + 40, p->raw_bytes);
    pq_stream_put64(b + 48, p->head_sum);
    seal(b);
}

static bool letter(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* What holds for every record, known or not. */
static int check_prefix(const struct pq_stream_prefix *p, struct pq_error *e)
{
    for (int i = 0; i < 4; i++) {
        if (!letter(p->type[i]))
            return pq_fail(e, PQ_EFORMAT, "a record's type is not a name");
    }
    if ((p->flags & ~(uint32_t)(PQ_STREAM_MORE | PQ_STREAM_PACKED |
                              PQ_STREAM_SPARSE)) != 0)
        return pq_fail(e, PQ_EUNSUPPORTED, "%s record with unknown flags 0x%x",
                       p->type, (unsigned)p->flags);
    if (strcmp(p->type, "TENS") != 0 && (p->flags != 0 || p->number != 0))
        return pq_fail(e, PQ_EFORMAT, "%s record marked as a tensor's",
                       p->type);
    if (p->head_bytes > PQ_STREAM_MAX_HEAD)
        return pq_fail(e, PQ_ELIMIT, "%s record with a head of %llu bytes",
                       p->type, (unsigned long long)p->head_bytes);
    if ((p->flags & PQ_STREAM_SPARSE) != 0 &&
        (p->flags & PQ_STREAM_PACKED) == 0)
        return pq_fail(e, PQ_EFORMAT, "sparse record that is not compressed");
    if ((p->flags & PQ_STREAM_PACKED) == 0 && p->raw_bytes != p->body_bytes)
        return pq_fail(e, PQ_EFORMAT, "%s record with two lengths", p->type);
    if ((p->flags & PQ_STREAM_PACKED) != 0 &&
        (p->raw_bytes > PQ_STREAM_RUN || p->body_bytes >= p->raw_bytes))
        return pq_fail(e, PQ_EFORMAT, "compressed record of a wrong length");
    return 0;
}

int pq_stream_get_prefix(const unsigned char b[PQ_STREAM_BLOCK],
                         struct pq_stream_prefix *p, struct pq_error *e)
{
    uint64_t whole = 0;

    if (!sealed(b))
        return pq_fail(e, PQ_ECHECKSUM, "a record's prefix is damaged");
    memset(p, 0, sizeof(*p));
    memcpy(p->type, b, 4);
    p->flags = pq_stream_get32(b + 4);
    p->head_bytes = pq_stream_get64(b + 8);
    p->body_bytes = pq_stream_get64(b + 16);
    p->seq = pq_stream_get64(b + 24);
    p->number = pq_stream_get64(b + 32);
    p->raw_bytes = pq_stream_get64(b + 40);
    p->head_sum = pq_stream_get64(b + 48);
    if (!pq_stream_add_record(&whole, p->head_bytes, p->body_bytes))
        return pq_fail(e, PQ_EFORMAT, "a record of an impossible length");
    return check_prefix(p, e);
}

void pq_stream_put_end(unsigned char b[PQ_STREAM_BLOCK],
                       const struct pq_stream_end *end)
{
    memset(b, 0, PQ_STREAM_BLOCK);
    memcpy(b, "END.", 4);
    pq_stream_put64(b + 8, end->index_offset);
    pq_stream_put64(b + 16, end->total_bytes);
    pq_stream_put64(b + 24, end->records);
    pq_stream_put64(b + 32, end->sum);
    seal(b);
}

bool pq_stream_is_end(const unsigned char b[PQ_STREAM_BLOCK])
{
    return memcmp(b, "END.", 4) == 0 && sealed(b);
}

int pq_stream_get_end(const unsigned char b[PQ_STREAM_BLOCK],
                      struct pq_stream_end *end, struct pq_error *e)
{
    if (!pq_stream_is_end(b))
        return pq_fail(e, PQ_ECHECKSUM, "the end record is damaged");
    if (pq_stream_get32(b + 4) != 0 || memcmp(b + 40, zeros, 16) != 0)
        return pq_fail(e, PQ_EFORMAT,
                       "the end record's reserved bytes are set");
    end->index_offset = pq_stream_get64(b + 8);
    end->total_bytes = pq_stream_get64(b + 16);
    end->records = pq_stream_get64(b + 24);
    end->sum = pq_stream_get64(b + 32);
    return 0;
}

bool pq_stream_optional(const struct pq_stream_prefix *p)
{
    return p->type[0] >= 'a' && p->type[0] <= 'z';
}

size_t pq_stream_head_pad(uint64_t head_bytes)
{
    return (size_t)(-head_bytes % PQ_STREAM_BLOCK);
}

size_t pq_stream_body_pad(uint64_t body_bytes)
{
    return (size_t)(-(body_bytes + 8) % PQ_STREAM_BLOCK);
}

bool pq_stream_add_record(uint64_t *sum, uint64_t head_bytes,
                          uint64_t body_bytes)
{
    return pq_round_up(head_bytes, PQ_STREAM_BLOCK, &head_bytes) &&
           pq_add(body_bytes, 8, &body_bytes) &&
           pq_round_up(body_bytes, PQ_STREAM_BLOCK, &body_bytes) &&
           pq_add(*sum, PQ_STREAM_BLOCK, sum) &&
           pq_add(*sum, head_bytes, sum) && pq_add(*sum, body_bytes, sum);
}

int pq_stream_tally_init(struct pq_stream_tally *t, bool keep,
                         struct pq_error *e)
{
    memset(t, 0, sizeof(*t));
    t->keep = keep;
    t->index = XXH3_createState();
    t->sums = XXH3_createState();
    if (!t->index || !t->sums || XXH3_64bits_reset(t->index) != XXH_OK ||
        XXH3_64bits_reset(t->sums) != XXH_OK)
        return pq_fail_nomem(e);
    return 0;
}

void pq_stream_tally_add(struct pq_stream_tally *t,
                         const struct pq_stream_prefix *p, uint64_t offset,
                         uint64_t body_sum)
{
    unsigned char b[PQ_STREAM_BLOCK] = {0};
    const uint64_t body_offset = offset + PQ_STREAM_BLOCK + p->head_bytes +
                                 pq_stream_head_pad(p->head_bytes);

    memcpy(b, p->type, 4);
    pq_stream_put32(b + 4, p->flags);
    pq_stream_put64(b + 8, offset);
    pq_stream_put64(b + 16, body_offset);
    pq_stream_put64(b + 24, p->body_bytes);
    pq_stream_put64(b + 32, p->raw_bytes);
    pq_stream_put64(b + 40, p->number);
    pq_stream_put64(b + 48, body_sum);
    t->records++;
    (void)XXH3_64bits_update(t->index, b, sizeof(b));
    (void)XXH3_64bits_update(t->sums, b + 48, 8);
    if (t->keep)
        pq_buf_add(&t->entries, b, sizeof(b));
}

void pq_stream_tally_release(struct pq_stream_tally *t)
{
    (void)XXH3_freeState(t->index);
    (void)XXH3_freeState(t->sums);
    pq_buf_release(&t->entries);
    memset(t, 0, sizeof(*t));
}
