/* Spools, and random access to a source that only goes forwards. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "pq_hold.h"

enum { PARTS = 5, PART_BYTES = 600000, GAP = 64 };

/* A source whose byte at `x` is a function of x; refuses to go back. */
struct fake {
    struct pq_source base;
    struct pq_catalog catalog;
    uint64_t at, reads, backward;
    uint64_t fail_at; /* an error beyond this offset; 0 = never */
};

static unsigned char byte_at(uint64_t x)
{
    return (unsigned char)((x * 2654435761u) >> 13);
}

static bool in_a_part(const struct fake *f, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < f->catalog.n_tensors; i++) {
        const struct pq_part *const p = f->catalog.tensors[i].parts;
        if (from >= p->offset && to <= p->offset + p->bytes)
            return true;
    }
    return false;
}

static int fake_read(struct pq_source *s, uint64_t offset, void *buf, size_t n,
                     struct pq_error *e)
{
    struct fake *const f = (struct fake *)s;
    cr_assert(in_a_part(f, offset, offset + n));
    if (f->fail_at != 0 && offset + n > f->fail_at)
        return pq_fail(e, PQ_ETRUNCATED, "the input ends");
    if (offset < f->at) {
        cr_assert(s->rewind);
        f->backward++;
    } else {
        f->at = offset + n;
    }
    f->reads++;
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)buf)[i] = byte_at(offset + i);
    return 0;
}

static const struct pq_source_ops fake_ops = {.read = fake_read};

static struct pq_part *add_part(struct fake *f, const char *name,
                                uint64_t offset, uint64_t bytes)
{
    struct pq_tensor *const t = pq_catalog_add(&f->catalog, name, 1, NULL);
    t->parts[0] = (struct pq_part){
        .name = t->name, .dtype = PQ_U8, .offset = offset, .bytes = bytes};
    return t->parts;
}

static void fake_init(struct fake *f)
{
    *f = (struct fake){
        .base = {.ops = &fake_ops, .name = "fake", .sequential = true}};
    pq_catalog_init(&f->catalog);
    f->base.catalog = &f->catalog;
    for (size_t i = 0; i < PARTS; i++) {
        const char name[] = {'p', (char)('0' + i), '\0'};
        add_part(f, name, 1000 + i * (PART_BYTES + GAP), PART_BYTES);
    }
}

static struct pq_part *part(const struct fake *f, size_t i)
{
    return f->catalog.tensors[i].parts;
}

static void expect_read(struct pq_hold *h, const struct pq_part *p,
                        uint64_t offset, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char *const buf = pq_alloc(n, 1);
    cr_assert_eq(pq_hold_read(h, p, offset, buf, n, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(buf[i], byte_at(p->offset + offset + i));
    free(buf);
}

static void spool_round_trip(struct pq_spool_budget *b)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_spool s;
    char buf[8] = {0};
    cr_assert_eq(pq_spool_init(&s, b, 1000, &e), 0, "%s", e.msg);
    cr_expect_eq(pq_spool_write(&s, 990, "0123456789", 10, &e), 0);
    cr_expect_eq(pq_spool_write(&s, 0, "abc", 3, &e), 0);
    cr_expect_eq(pq_spool_read(&s, 992, buf, 8, &e), 0);
    cr_expect_eq(memcmp(buf, "23456789", 8), 0);
    cr_expect_eq(pq_spool_read(&s, 0, buf, 3, &e), 0);
    cr_expect_eq(memcmp(buf, "abc", 3), 0);
    cr_expect_eq(e.code, PQ_OK);
    cr_expect_eq(pq_spool_read(&s, 993, buf, 8, &e), -1);
    cr_expect_eq(pq_spool_write(&s, UINT64_MAX, buf, 8, NULL), -1);
    pq_spool_release(&s);
    pq_spool_release(&s);
}

Test(spool, memory_then_file)
{
    struct pq_spool_budget b = {.left = 1500};
    struct pq_spool first, second, none;
    cr_assert_eq(pq_spool_init(&first, &b, 1000, NULL), 0);
    cr_expect(first.memory != NULL && first.fd == -1 && b.left == 500);
    cr_assert_eq(pq_spool_init(&second, &b, 1000, NULL), 0);
    cr_expect(second.memory == NULL && second.fd >= 0 && b.left == 500);
    cr_assert_eq(pq_spool_init(&none, &b, 0, NULL), 0);
    cr_expect(none.memory == NULL && none.fd == -1);
    pq_spool_release(&first);
    pq_spool_release(&second);
    pq_spool_release(&none);
    cr_expect_eq(b.left, 1500);
    spool_round_trip(&b);
    b.left = 0;
    spool_round_trip(&b);
}

Test(spool, no_directory)
{
    struct pq_spool_budget b = {.dir = "/nonexistent"};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_spool s;
    cr_expect_eq(pq_spool_init(&s, &b, 10, &e), -1);
    cr_expect_eq(e.code, PQ_EIO);
    cr_expect_not_null(strstr(e.msg, "/nonexistent"));
    pq_spool_release(&s);
}

Test(hold, in_order_keeps_nothing)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 0, .dir = "/nonexistent"};
    fake_init(&f);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    for (size_t i = 0; i < PARTS; i++)
        for (uint64_t at = 0; at < PART_BYTES; at += 100000)
            expect_read(h, part(&f, i), at, 100000);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

static void interleave(uint64_t budget)
{
    struct fake f;
    struct pq_spool_budget b = {.left = budget};
    fake_init(&f);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    for (uint64_t at = 0; at < PART_BYTES; at += 50000)
        for (size_t i = PARTS; i-- > 0;)
            expect_read(h, part(&f, (i + 3) % PARTS), at, 50000);
    pq_hold_free(h);
    cr_expect_eq(b.left, budget);
    pq_catalog_release(&f.catalog);
}

Test(hold, interleaved_in_memory)
{
    interleave(64 << 20);
}

Test(hold, interleaved_in_file)
{
    interleave(0);
}

/* Only what is behind the stream's place in the part takes room. */
Test(hold, spools_the_rest_only)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 1 << 30};
    fake_init(&f);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    expect_read(h, part(&f, 0), 0, PART_BYTES - 10);
    expect_read(h, part(&f, 1), 0, 10);
    cr_expect_eq(b.left, (1 << 30) - 10);
    expect_read(h, part(&f, 0), PART_BYTES - 10, 10);
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char buf[20];
    cr_expect_eq(pq_hold_read(h, part(&f, 0), PART_BYTES - 20, buf, 20, &e),
                 -1);
    cr_expect_str_eq(e.msg, "fake: tensor p0: byte 599980 has passed and was "
                            "not kept");
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

/* A range that begins behind the stream and ends ahead of it. */
Test(hold, across_the_stream)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 1 << 30};
    fake_init(&f);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    expect_read(h, part(&f, 2), 300000, 10);
    expect_read(h, part(&f, 2), 0, PART_BYTES);
    expect_read(h, part(&f, 0), 100, 1000);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

Test(hold, keep_and_drop)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 1 << 30};
    fake_init(&f);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    pq_hold_expect(h, part(&f, 0), 2);
    pq_hold_expect(h, part(&f, 1), 0);
    for (int pass = 0; pass < 3; pass++)
        for (uint64_t at = 0; at < PART_BYTES; at += 100000)
            expect_read(h, part(&f, 0), at, 100000);
    cr_expect_eq(b.left, (1 << 30) - PART_BYTES);
    expect_read(h, part(&f, 2), 0, 10);
    cr_expect_eq(b.left, (1 << 30) - PART_BYTES);
    pq_hold_drop(h, part(&f, 0));
    cr_expect_eq(b.left, 1 << 30);

    struct pq_error e = PQ_ERROR_INIT;
    unsigned char byte;
    cr_expect_eq(pq_hold_read(h, part(&f, 0), 0, &byte, 1, &e), -1);
    cr_expect_eq(pq_hold_read(h, part(&f, 1), 0, &byte, 1, NULL), -1);
    cr_expect_eq(e.code, PQ_EARG);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

/* As a pipe's: the rest goes by. */
static int drain(struct pq_source *s, struct pq_error *e)
{
    (void)e;
    ((struct fake *)s)->at = UINT64_MAX;
    return 0;
}

static void release(struct pq_source *s)
{
    pq_catalog_release(&((struct fake *)s)->catalog);
}

Test(hold, kept_for_runs_that_want_what_the_first_did_not)
{
    const struct pq_source_ops ops = {fake_read, drain, release};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *kept;
    struct fake f;

    fake_init(&f);
    f.base.ops = &ops;
    cr_assert_eq(pq_kept_new(&f.base, 1 << 30, NULL, &kept, &e), 0, "%s",
                 e.msg);
    for (size_t run = 0; run < PARTS; run++) {
        const struct pq_part *p = part(&f, (run + 1) % PARTS);
        unsigned char buf[100];
        cr_assert_eq(pq_source_read(kept, p, 77, buf, sizeof buf, &e), 0, "%s",
                     e.msg);
        for (size_t i = 0; i < sizeof buf; i++)
            cr_assert_eq(buf[i], byte_at(p->offset + 77 + i));
        cr_assert_eq(pq_source_finish(kept, &e), 0, "%s", e.msg);
    }
    pq_source_free(kept);
}

Test(hold, rewind)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 0, .dir = "/nonexistent"};
    fake_init(&f);
    f.base.rewind = true;
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    expect_read(h, part(&f, 4), 0, PART_BYTES);
    expect_read(h, part(&f, 1), 10, 1000);
    expect_read(h, part(&f, 4), 10, 1000);
    cr_expect_eq(f.backward, 2);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

/* Two names for the same bytes, one inside of another, and none at all. */
Test(hold, shared_bytes)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 1 << 30};
    fake_init(&f);
    const struct pq_part *const p = part(&f, 1);
    const struct pq_part *const same =
        add_part(&f, "same", p->offset, p->bytes);
    const struct pq_part *const inner =
        add_part(&f, "inner", p->offset + 100, 1000);
    const struct pq_part *const empty = add_part(&f, "empty", p->offset, 0);
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    expect_read(h, part(&f, 1), 0, PART_BYTES);
    expect_read(h, part(&f, 2), 0, 10);
    expect_read(h, same, 0, PART_BYTES);
    expect_read(h, inner, 0, 1000);
    expect_read(h, empty, 0, 0);
    expect_read(h, part(&f, 0), 0, PART_BYTES);
    struct pq_part copy = *part(&f, 3);
    copy.name = "renamed";
    expect_read(h, &copy, 0, PART_BYTES);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

Test(hold, constant_is_not_read)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 0};
    fake_init(&f);
    struct pq_part *const p = add_part(&f, "constant", 0, 4);
    p->constant = "abcd";
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    char s[2];
    cr_expect_eq(pq_hold_read(h, p, 1, s, 2, NULL), 0);
    cr_expect_eq(memcmp(s, "bc", 2), 0);
    cr_expect_eq(f.reads, 0);
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}

Test(hold, errors_name_the_part)
{
    struct fake f;
    struct pq_spool_budget b = {.left = 1 << 30};
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char byte;
    fake_init(&f);
    f.fail_at = part(&f, 1)->offset + 10;
    struct pq_hold *const h = pq_hold_new(&f.base, &b, NULL);
    cr_expect_eq(pq_hold_read(h, part(&f, 3), 0, &byte, 1, &e), -1);
    cr_expect_str_eq(e.msg, "fake: tensor p1: the input ends");
    cr_expect_eq(e.code, PQ_ETRUNCATED);

    struct pq_error range = PQ_ERROR_INIT;
    cr_expect_eq(pq_hold_read(h, part(&f, 0), PART_BYTES, &byte, 1, &range),
                 -1);
    cr_expect_eq(range.code, PQ_EARG);
    const struct pq_part stranger = {.name = "q", .bytes = 1};
    struct pq_error other = PQ_ERROR_INIT;
    cr_expect_eq(pq_hold_read(h, &stranger, 0, &byte, 1, &other), -1);
    cr_expect_str_eq(other.msg, "fake: tensor q: not in the catalogue");
    pq_hold_free(h);
    pq_catalog_release(&f.catalog);
}
