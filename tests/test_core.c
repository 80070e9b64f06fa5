/* Errors, memory, element types, catalogues, hashes and random numbers. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pq_hash.h"
#include "pq_tensor.h"
#include "rng.h"

Test(error, first_wins)
{
    struct pq_error e = PQ_ERROR_INIT;
    cr_expect_eq(pq_error_in(&e, "nowhere"), -1);
    cr_expect_eq(e.code, PQ_OK);
    cr_expect_eq(pq_fail(&e, PQ_EFORMAT, "bad %d", 7), -1);
    cr_expect_eq(pq_fail_sys(&e, ENOENT, "open"), -1);
    cr_expect_eq(pq_fail_nomem(&e), -1);
    cr_expect(e.code == PQ_EFORMAT && e.sys == 0);
    pq_error_in(&e, "tensor %s", "x");
    pq_error_in(&e, "m.safetensors");
    cr_expect_str_eq(e.msg, "m.safetensors: tensor x: bad 7");
    pq_error_in(&e, "m.safetensors: tensor x");
    cr_expect_str_eq(e.msg, "m.safetensors: tensor x: bad 7");
    pq_error_in(&e, "m");
    cr_expect_str_eq(e.msg, "m: m.safetensors: tensor x: bad 7");
    cr_expect_eq(pq_fail(NULL, PQ_EFORMAT, "x"), -1);
    cr_expect_eq(pq_error_in(NULL, "x"), -1);
}

Test(error, system)
{
    struct pq_error e = PQ_ERROR_INIT;
    pq_fail_sys(&e, ENOENT, "%s", "a/b");
    cr_expect(e.code == PQ_EIO && e.sys == ENOENT);
    cr_expect_str_eq(e.msg, "a/b: No such file or directory");
}

Test(error, one_line_and_bounded)
{
    struct pq_error e = PQ_ERROR_INIT;
    char name[5000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    name[3] = '\n';
    pq_fail(&e, PQ_ETRUNCATED, "the cause");
    pq_error_in(&e, "tensor %s", name);
    cr_expect_null(strchr(e.msg, '\n'));
    cr_expect_not_null(strstr(e.msg, "...: the cause"));
    for (int i = 0; i < 5; i++)
        pq_error_in(&e, "%s", name);
    cr_expect_eq(strlen(e.msg), sizeof e.msg - 1);
    cr_expect_str_eq(e.msg + sizeof e.msg - 4, "...");

    struct pq_error f = PQ_ERROR_INIT;
    pq_fail_sys(&f, EIO, "%s", name);
    cr_expect_not_null(strstr(f.msg, "...: Input/output error"));
}

Test(mem, checked_sizes)
{
    uint64_t r;
    cr_expect(pq_mul(1ull << 32, (1ull << 32) - 1, &r));
    cr_expect(!pq_mul(1ull << 32, 1ull << 32, &r));
    cr_expect(pq_add(UINT64_MAX, 0, &r) && !pq_add(UINT64_MAX, 1, &r));
    cr_expect(pq_round_up(0, 64, &r) && r == 0);
    cr_expect(pq_round_up(1, 64, &r) && r == 64);
    cr_expect(pq_round_up(64, 64, &r) && r == 64);
    cr_expect(pq_round_up(7, 3, &r) && r == 9);
    cr_expect(!pq_round_up(UINT64_MAX, 64, &r));
    cr_expect(pq_round_up(UINT64_MAX, 1, &r) && r == UINT64_MAX);
}

Test(mem, arrays)
{
    cr_expect_null(pq_alloc(SIZE_MAX / 2, 4));
    cr_expect_null(pq_zalloc(SIZE_MAX, 2));
    void *p = pq_alloc(0, 8);
    cr_expect_not_null(p);
    p = pq_resize(p, 0, 0);
    cr_expect_not_null(p);
    free(p);

    int *a = NULL;
    size_t cap = 0;
    for (int i = 0; i < 1000; i++) {
        int *const more = pq_grow(a, (size_t)i, &cap, sizeof *a);
        cr_assert_not_null(more);
        a = more;
        a[i] = i;
    }
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(a[i], i);
    free(a);

    char *const s = pq_strndup("abcdef", 3);
    cr_expect_str_eq(s, "abc");
    free(s);
}

Test(mem, arena)
{
    struct pq_arena a = {0};
    for (size_t i = 0; i < 3000; i++) {
        const size_t n = i % 7 == 0 ? 5000 : i % 100;
        unsigned char *const p = pq_arena_alloc(&a, n, 1);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % 16, 0);
        for (size_t k = 0; k < n; k++)
            cr_assert_eq(p[k], 0);
        memset(p, 0xff, n);
        char *const s = pq_arena_strndup(&a, "xyz", i % 4);
        cr_assert_eq(strlen(s), i % 4);
    }
    cr_expect_str_eq(pq_arena_printf(&a, "%s-%d", "t", 42), "t-42");
    cr_expect_null(pq_arena_alloc(&a, SIZE_MAX / 2, 4));
    cr_expect_not_null(pq_arena_alloc(&a, 1 << 20, 1));
    pq_arena_release(&a);
    cr_expect_null(a.block);
}

Test(mem, buf)
{
    struct pq_buf b = {0};
    pq_buf_puts(&b, "");
    cr_expect_str_eq(b.s, "");
    for (int i = 0; i < 1000; i++)
        pq_buf_printf(&b, "%d,", i);
    pq_buf_add(&b, "a\0b", 3);
    cr_expect(!b.failed);
    cr_expect_eq(b.n, 10 * 2 + 90 * 3 + 900 * 4 + 3);
    cr_expect_eq(memcmp(b.s + b.n - 4, ",a\0b", 5), 0);
    pq_buf_release(&b);
    cr_expect_null(b.s);
}

Test(dtype, names)
{
    for (int t = 0; t < PQ_N_DTYPES; t++) {
        const char *const s = pq_dtype_name(t);
        cr_expect_eq(pq_dtype_from_name(s, strlen(s)), t);
        cr_expect_eq(pq_dtype_from_name(s, strlen(s) - 1) == t, 0);
        if (pq_dtype_torch_name(t) != NULL)
            cr_expect_eq(pq_dtype_from_torch_name(pq_dtype_torch_name(t)), t);
    }
    cr_expect_eq(pq_dtype_from_name("bf16", 4), -1);
    cr_expect_eq(pq_dtype_from_name("", 0), -1);
    cr_expect_eq(pq_dtype_from_torch_name("torch.float32"), -1);
    cr_expect_eq(pq_dtype_bits(PQ_C64), 64);
    cr_expect_eq(pq_dtype_bits(PQ_BOOL), 8);
    cr_expect_eq(pq_dtype_bits(PQ_F6_E2M3), 6);
    cr_expect(pq_dtype_is_float(PQ_F8_E5M2) && !pq_dtype_is_float(PQ_C64));
}

static int shape_bytes(enum pq_dtype t, int rank, const uint64_t *shape,
                       uint64_t *bytes)
{
    struct pq_error e = PQ_ERROR_INIT;
    const int rc = pq_shape_bytes(shape, rank, t, bytes, &e);
    cr_expect_eq(e.code, rc ? PQ_EFORMAT : PQ_OK);
    return rc;
}

Test(catalog, shapes)
{
    const uint64_t big = 1ull << 32;
    uint64_t n;
    cr_expect(shape_bytes(PQ_F32, 0, NULL, &n) == 0 && n == 4);
    cr_expect(shape_bytes(PQ_F32, 2, (uint64_t[]){2, 3}, &n) == 0 && n == 24);
    cr_expect(shape_bytes(PQ_F4, 1, (uint64_t[]){6}, &n) == 0 && n == 3);
    cr_expect(shape_bytes(PQ_F4, 1, (uint64_t[]){5}, &n) != 0);
    cr_expect(shape_bytes(PQ_F6_E2M3, 1, (uint64_t[]){4}, &n) == 0 && n == 3);
    cr_expect(shape_bytes(PQ_F6_E2M3, 1, (uint64_t[]){2}, &n) != 0);
    cr_expect(shape_bytes(PQ_U8, 3, (uint64_t[]){big, big, 0}, &n) != 0);
    cr_expect(shape_bytes(PQ_U8, 3, (uint64_t[]){0, big, big}, &n) == 0);
    cr_expect_eq(n, 0);
    cr_expect(shape_bytes(PQ_U8, 2, (uint64_t[]){big, big / 8}, &n) != 0);
    cr_expect(shape_bytes(PQ_U8, 2, (uint64_t[]){big, big / 16}, &n) == 0);
    cr_expect(shape_bytes(PQ_F4, 2, (uint64_t[]){big, big / 8}, &n) == 0);
    cr_expect_eq(n, 1ull << 60);
}

Test(catalog, tensors)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_catalog c;
    pq_catalog_init(&c);
    for (size_t i = 0; i < 1000; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%zu", i);
        struct pq_tensor *const t = pq_catalog_add(&c, name, i % 3, &e);
        cr_assert_not_null(t);
        cr_assert(t->n_parts == i % 3 && t->rank == 0);
        for (size_t k = 0; k < t->n_parts; k++)
            t->parts[k].bytes = 10;
        t->shape = pq_catalog_shape(&c, (uint64_t[]){i, i}, 2);
    }
    cr_expect_str_eq(c.tensors[999].name, "t999");
    cr_expect_eq(c.tensors[7].shape[1], 7);
    cr_expect_not_null(pq_catalog_shape(&c, NULL, 0));
    cr_expect_eq(pq_catalog_bytes(&c), 10 * (333 * 3));
    pq_catalog_release(&c);
}

Test(catalog, metadata)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_catalog c, d;
    pq_catalog_init(&c);
    pq_catalog_init(&d);
    const struct pq_extra extra = {.type = "note",
                                   .head = "h",
                                   .body = "b",
                                   .head_bytes = 1,
                                   .body_bytes = 1};
    cr_assert_eq(pq_catalog_set(&c, "format", "pt", &e), 0);
    cr_assert_eq(pq_catalog_set(&c, "x", "1", &e), 0);
    cr_assert_eq(pq_catalog_set(&c, "format", "np", &e), 0);
    cr_assert_eq(pq_catalog_add_blob(&c, "config.json", "{}", 2, &e), 0);
    cr_assert_eq(pq_catalog_add_blob(&c, "empty", NULL, 0, &e), 0);
    cr_assert_eq(pq_catalog_add_prov(&c, "{\"tool\":1}", &e), 0);
    cr_assert_eq(pq_catalog_add_extra(&c, &extra, &e), 0);
    c.files = (const char *[]){"a.safetensors", "b.safetensors"};
    c.n_files = 2;
    c.directory = true;
    cr_assert_eq(pq_catalog_copy_meta(&d, &c, &e), 0);
    pq_catalog_release(&c);

    cr_expect_eq(d.n_metadata, 2);
    cr_expect_str_eq(d.metadata[0].key, "format");
    cr_expect_str_eq(pq_catalog_get(&d, "format"), "np");
    cr_expect_null(pq_catalog_get(&d, "y"));
    cr_expect_eq(pq_catalog_blob(&d, "config.json")->bytes, 2);
    cr_expect_str_eq(pq_catalog_blob(&d, "config.json")->data, "{}");
    cr_expect_eq(pq_catalog_blob(&d, "empty")->bytes, 0);
    cr_expect_null(pq_catalog_blob(&d, "none"));
    cr_expect_str_eq(d.prov[0], "{\"tool\":1}");
    cr_expect(d.n_extra == 1 && *(const char *)d.extra[0].body == 'b');
    cr_expect(d.n_files == 2 && d.directory);
    cr_expect_str_eq(d.files[1], "b.safetensors");
    pq_catalog_release(&d);
}

/* Setting stays right when the array was edited behind its back. */
Test(catalog, metadata_edited)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_catalog c;
    pq_catalog_init(&c);
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        cr_assert_eq(pq_catalog_set(&c, key, "old", &e), 0);
    }
    memmove(c.metadata, c.metadata + 1, 99 * sizeof *c.metadata);
    c.n_metadata--;
    cr_assert_eq(pq_catalog_set(&c, "k0", "new", &e), 0);
    cr_assert_eq(pq_catalog_set(&c, "k50", "new", &e), 0);
    cr_expect_eq(c.n_metadata, 100);
    cr_expect_str_eq(pq_catalog_get(&c, "k0"), "new");
    cr_expect_str_eq(pq_catalog_get(&c, "k50"), "new");
    cr_expect_str_eq(pq_catalog_get(&c, "k51"), "old");
    pq_catalog_release(&c);
}

Test(catalog, encodings)
{
    for (int i = 0; i < PQ_N_ENCODINGS; i++)
        cr_expect_eq(pq_encoding_from_name(pq_encoding_name(i)), i);
    cr_expect_eq(pq_encoding_from_name("nf5"), -1);
}

Test(names, hundred_thousand)
{
    enum { N = 100000 };
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_names t = {0};
    struct pq_arena a = {0};
    char key[64];
    size_t old;
    cr_expect_eq(pq_names_find(&t, "x"), SIZE_MAX);
    for (size_t i = 0; i < N; i++) {
        const char *const s = pq_arena_printf(&a, "layers.%zu.weight", i);
        cr_assert_eq(pq_names_add(&t, s, i, &old, &e), 0);
    }
    for (size_t i = 0; i < N; i++) {
        snprintf(key, sizeof key, "layers.%zu.weight", i);
        cr_assert_eq(pq_names_find(&t, key), i);
    }
    cr_expect_eq(pq_names_add(&t, key, 5, &old, &e), 1);
    cr_expect_eq(old, N - 1);
    cr_expect_eq(pq_names_add(&t, key, 5, NULL, &e), 1);
    cr_expect_eq(pq_names_find(&t, "layers.100000.weight"), SIZE_MAX);
    cr_expect_eq(pq_names_find(&t, ""), SIZE_MAX);
    pq_names_release(&t);
    pq_arena_release(&a);
}

Test(hash, streaming)
{
    unsigned char bytes[3000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 131 >> 3);
    struct pq_hash *const h = pq_hash_new(NULL);
    cr_assert_not_null(h);
    for (size_t n = 0; n <= sizeof bytes; n += n < 300 ? 1 : 37) {
        pq_hash_clear(h);
        for (size_t i = 0; i < n; i += 100)
            pq_hash_add(h, bytes + i, n - i < 100 ? n - i : 100);
        const struct pq_hash128 a = pq_hash128(h), b = pq_hash128_of(bytes, n);
        cr_assert_eq(pq_hash64(h), pq_hash64_of(bytes, n), "%zu", n);
        cr_assert(a.high == b.high && a.low == b.low, "%zu", n);
    }
    pq_hash_free(h);
    pq_hash_free(NULL);
}

Test(hash, hex)
{
    char s[33];
    pq_hash64_hex(pq_hash64_of("", 0), s);
    cr_expect_str_eq(s, "2d06800538d394c2");
    pq_hash128_hex(pq_hash128_of("", 0), s);
    cr_expect_str_eq(s, "99aa06d3014798d86001c324468d497f");
}

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
Test(rng, known_answers)
{
    static const uint32_t cases[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
         0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        pq_philox4x32(cases[i], cases[i] + 4, out);
        cr_expect_eq(memcmp(out, cases[i] + 6, sizeof out), 0);
    }
}

Test(rng, streams)
{
    struct pq_rng a, b, c;
    uint32_t x[4], y[4];
    pq_rng_init(&a, 1, "t");
    pq_rng_init(&b, 1, "u");
    pq_rng_init(&c, 1ull << 32, "t");
    pq_rng_at(&a, 5, x);
    pq_rng_at(&b, 5, y);
    cr_expect_neq(memcmp(x, y, sizeof x), 0);
    pq_rng_at(&c, 5, y);
    cr_expect_neq(memcmp(x, y, sizeof x), 0);
    pq_rng_at(&a, 5 + (1ull << 32), y);
    cr_expect_neq(memcmp(x, y, sizeof x), 0);

    float all[100], some[50];
    double sum = 0;
    pq_rng_uniform(&a, 0, all, 100);
    for (size_t first = 0; first < 50; first++) {
        pq_rng_uniform(&a, first, some, 50);
        cr_assert_eq(memcmp(some, all + first, sizeof some), 0);
    }
    for (int i = 0; i < 100; i++) {
        cr_expect(all[i] >= 0 && all[i] < 1);
        sum += (double)all[i];
    }
    cr_expect(sum > 40 && sum < 60);
    cr_expect(pq_rng_unit(0xffffffff) < 1 && pq_rng_unit(255) == 0);
}
