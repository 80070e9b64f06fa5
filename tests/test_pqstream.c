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

#include "stream.h"

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
    b.p[r[5].at + 4] |= 8;
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
            fill(t == 3 ? 5 : t + p, o, want, n);
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
