/* The JSON tokenizer, the check before cJSON, writing and editing. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pq_json.h"

/* Tokens of a text as one letter each: { } [ ] k s n t f 0 . and ! */
static const char *tokens(const char *text, size_t n, char out[1024])
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_json j;
    pq_json_init(&j, text, n, &e);
    for (size_t i = 0; i < 1000; i++) {
        const enum pq_json_type t = pq_json_next(&j);
        out[i] = "{}[]ksntf0.!"[t];
        out[i + 1] = '\0';
        cr_assert((t == PQ_JSON_ERROR) == (e.code == PQ_EFORMAT));
        if (t == PQ_JSON_ERROR)
            cr_assert_eq(pq_json_next(&j), PQ_JSON_ERROR);
        if (t == PQ_JSON_END || t == PQ_JSON_ERROR)
            break;
    }
    return out;
}

static bool accepts_n(const char *text, size_t n)
{
    char out[1024];
    const char *const s = tokens(text, n, out);
    return s[strlen(s) - 1] == '.';
}

static bool accepts(const char *text)
{
    return accepts_n(text, strlen(text));
}

Test(json, tokens)
{
    static const char *const cases[][2] = {
        {"{}", "{}."},
        {" \t\r\n{ } \n", "{}."},
        {"[]", "[]."},
        {"{\"a\":1,\"b\":[true,false,null,\"x\"],\"c\":{}}", "{knk[tf0s]k{}}."},
        {"1", "n."},
        {"\"\"", "s."},
        {"[[],[[]]]", "[[][[]]]."},
        {"[1 2]", "[n!"},
        {"{\"a\":1,}", "{kn!"},
        {"[1,]", "[n!"},
        {"[,1]", "[!"},
        {"{,}", "{!"},
        {"{\"a\" 1}", "{!"},
        {"{a:1}", "{!"},
        {"{1:1}", "{!"},
        {"{\"a\"}", "{!"},
        {"{\"a\":}", "{k!"},
        {"{} x", "{}!"},
        {"{}{}", "{}!"},
        {"", "!"},
        {" ", "!"},
        {"{", "{!"},
        {"[1", "[n!"},
        {"[1,", "[n!"},
        {"{]", "{!"},
        {"[}", "[!"},
        {"{\"a\":1]", "{kn!"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[1024];
        cr_expect_str_eq(tokens(cases[i][0], strlen(cases[i][0]), out),
                         cases[i][1], "%s: %s", cases[i][0], out);
    }
}

Test(json, accepted)
{
    static const char *const good[] = {
        "0",
        "-0",
        "-0.0",
        "10",
        "1.5",
        "1e5",
        "1E+5",
        "1e-05",
        "1e999",
        "18446744073709551616",
        "\"\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\x7f\"",
        "\"\xc3\xa9\"",
        "\"\xe2\x82\xac\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\xf4\x8f\xbf\xbf\"",
        "\"\xef\xbf\xbf\"",
        "\"\xed\x9f\xbf\"",
        "\"\xee\x80\x80\"",
        "true",
        "false",
        "null",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect(accepts(good[i]), "%s", good[i]);
}

Test(json, refused)
{
    static const char *const bad[] = {
        "01",
        "-01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "-",
        "+1",
        "1x",
        "0x1",
        "NaN",
        "Infinity",
        "tru",
        "truex",
        "True",
        "nul",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\ud83d\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"\x1f\"",
        "\"\x80\"",
        "\"\xc0\x80\"",
        "\"\xc1\xbf\"",
        "\"\xe0\x9f\xbf\"",
        "\"\xed\xa0\x80\"",
        "\"\xf0\x8f\xbf\xbf\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xf5\x80\x80\x80\"",
        "\"\xe2\x82\"",
        "\"\xc3\"",
        "\xef\xbb\xbf{}",
        "{}\v",
        "\f{}",
        "\xc2\xa0{}",
        "/**/1",
        "[1]//",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect(!accepts(bad[i]), "%s", bad[i]);
    cr_expect(!accepts_n("\"\0\"", 3));
    cr_expect(!accepts_n("{}\0", 3));
    cr_expect(!accepts_n("\0{}", 3));
}

/* Every special byte at every place in an eight-byte word is noticed. */
Test(json, word_scan)
{
    for (size_t n = 1; n < 40; n++) {
        char text[64];
        text[0] = '"';
        memset(text + 1, 'a', n);
        text[n + 1] = '"';
        cr_assert(accepts_n(text, n + 2));
        for (size_t i = 1; i <= n; i++) {
            for (int c = 0; c < 256; c++) {
                text[i] = (char)c;
                const bool plain = c >= 0x20 && c < 0x80 && c != '\\';
                const bool fine = plain && (c != '"' || i == n + 1);
                cr_assert_eq(accepts_n(text, n + 2), fine, "%zu %zu %d", n, i,
                             c);
            }
            text[i] = 'a';
        }
    }
}

static void nest(char *text, size_t n)
{
    memset(text, '[', n);
    memset(text + n, ']', n);
    text[2 * n] = '\0';
}

Test(json, depth)
{
    char text[512];
    nest(text, 127);
    cr_expect(accepts(text));
    nest(text, 128);
    cr_expect(!accepts(text));
    nest(text, 64);
    cr_expect_eq(pq_json_check(text, strlen(text), NULL), 0);
    nest(text, 65);
    cr_expect_eq(pq_json_check(text, strlen(text), NULL), -1);
}

/* Every prefix of a text is refused, and read no further than it goes. */
Test(json, truncated)
{
    static const char text[] =
        "{\"a\\u00e9\\ud83d\\ude00\": [1.5e+10, true, \"\xe2\x82\xac\"]}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *const copy = pq_alloc(n, 1);
        memcpy(copy, text, n);
        cr_expect(!accepts_n(copy, n), "%zu", n);
        free(copy);
    }
    cr_expect(accepts(text));
}

Test(json, strings)
{
    static const char text[] =
        "[\"plain\",\"a\\u0000b\",\"\\u00e9\\u20ac\\ud83d\\ude00\\n\"]";
    static const char last[] = "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n";
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_arena a = {0};
    struct pq_json j;
    const char *s;
    size_t n;
    pq_json_init(&j, text, strlen(text), &e);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_ARRAY);

    cr_assert_eq(pq_json_next(&j), PQ_JSON_STRING);
    cr_assert_eq(pq_json_string(&j, &a, &s, &n), 0);
    cr_expect(n == 5 && s == text + 2);
    cr_expect(pq_json_is(&j, "plain") && !pq_json_is(&j, "plai"));

    cr_assert_eq(pq_json_next(&j), PQ_JSON_STRING);
    cr_assert_eq(pq_json_string(&j, &a, &s, &n), 0);
    cr_expect(n == 3 && memcmp(s, "a\0b", 4) == 0);
    cr_expect(!pq_json_is(&j, "a") && !pq_json_is(&j, "ab"));

    cr_assert_eq(pq_json_next(&j), PQ_JSON_STRING);
    cr_assert_eq(pq_json_string(&j, &a, &s, &n), 0);
    cr_expect(n == strlen(last) && strcmp(s, last) == 0);
    cr_expect(pq_json_is(&j, last) && !pq_json_is(&j, "\xc3\xa9"));
    cr_expect(!pq_json_is(&j, ""));
    pq_arena_release(&a);
}

static bool u64(const char *text, uint64_t *v)
{
    struct pq_json j;
    pq_json_init(&j, text, strlen(text), NULL);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_NUMBER);
    return pq_json_u64(&j, v) == 0;
}

Test(json, numbers)
{
    uint64_t v;
    cr_expect(u64("0", &v) && v == 0);
    cr_expect(u64("18446744073709551615", &v) && v == UINT64_MAX);
    cr_expect(u64("9007199254740993", &v) && v == 9007199254740993u);
    cr_expect(!u64("18446744073709551616", &v));
    cr_expect(!u64("-0", &v) && !u64("-1", &v) && !u64("1.0", &v));
    cr_expect(!u64("1e3", &v) && !u64("99999999999999999999999", &v));

    static const struct {
        const char *text;
        double v;
    } reals[] = {{"-0.0", -0.0}, {"1.5e3", 1500}, {"1e-400", 0}, {"0.1", 0.1}};
    struct pq_json j;
    double d;
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        pq_json_init(&j, reals[i].text, strlen(reals[i].text), NULL);
        cr_assert_eq(pq_json_next(&j), PQ_JSON_NUMBER);
        cr_assert_eq(pq_json_double(&j, &d), 0);
        cr_expect(d == reals[i].v && signbit(d) == signbit(reals[i].v));
    }
    pq_json_init(&j, "1e999", 5, NULL);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_NUMBER);
    cr_expect_eq(pq_json_double(&j, &d), -1);
    char digits[200];
    memset(digits, '1', sizeof digits);
    pq_json_init(&j, digits, sizeof digits, NULL);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_NUMBER);
    cr_assert_eq(pq_json_double(&j, &d), 0);
    cr_expect(d > 1e199 && d < 1.2e199);
}

Test(json, skip)
{
    static const char text[] = "{\"a\":{\"b\":[1,{}]},\"c\":2,\"d\":[{]}";
    struct pq_json j;
    pq_json_init(&j, text, strlen(text), NULL);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_OBJECT);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_KEY);
    cr_assert_eq(pq_json_skip(&j, PQ_JSON_KEY), 0);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_KEY);
    cr_expect(pq_json_is(&j, "c"));
    cr_assert_eq(pq_json_skip(&j, pq_json_next(&j)), 0);
    cr_assert_eq(pq_json_next(&j), PQ_JSON_KEY);
    cr_assert_eq(pq_json_skip(&j, pq_json_next(&j)), -1);
}

Test(json, check)
{
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"{\"a\":1,\"b\":{\"a\":1},\"c\":[{\"a\":1},{\"a\":2}]}", 0},
        {"{\"a\":1,\"a\":2}", -1},
        {"{\"a\":1,\"\\u0061\":2}", -1},
        {"{\"b\":{\"a\":1,\"c\":{},\"a\":2}}", -1},
        {"{\"b\":{\"a\":1},\"a\":2,\"b\":1}", -1},
        {"[\"a\\u0000\"]", -1},
        {"[\"a\\\\u0000\"]", 0},
        {"[\"a\\\\\\u0000\"]", -1},
        {"{\"\\u0000\":1}", -1},
        {"{\"\":1,\" \":2}", 0},
        {"{} 1", -1},
        {"1e999", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        const char *const s = cases[i].text;
        cr_expect_eq(pq_json_check(s, strlen(s), &e), cases[i].rc, "%s", s);
        cr_expect_eq(e.code, cases[i].rc ? PQ_EFORMAT : PQ_OK);
    }
}

static void put_header(struct pq_buf *b, int tensors)
{
    for (int i = 0; i < tensors; i++)
        pq_buf_printf(b,
                      "%c\"model.layers.%d.self_attn.q_proj.weight\":"
                      "{\"dtype\":\"BF16\",\"shape\":[4096,4096],"
                      "\"data_offsets\":[%llu,%llu]}",
                      i ? ',' : '{', i, i * 33554432ull, (i + 1) * 33554432ull);
    pq_buf_puts(b, "}");
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A header of 100,000 tensors: 12 MB.  The limit is lax for slow machines. */
Test(json, large)
{
    struct pq_buf b = {0};
    struct pq_json j;
    put_header(&b, 100000);
    cr_assert(!b.failed);
    const double start = seconds();
    pq_json_init(&j, b.s, b.n, NULL);
    enum pq_json_type t;
    size_t n = 0;
    while ((t = pq_json_next(&j)) != PQ_JSON_END && t != PQ_JSON_ERROR)
        n++;
    const double middle = seconds();
    cr_expect_eq(t, PQ_JSON_END);
    cr_expect_eq(n, 2 + 100000 * 15);
    cr_expect_eq(pq_json_check(b.s, b.n, NULL), 0);
    cr_log_info("%zu bytes: tokens %.1f ms, check %.1f ms", b.n,
                1e3 * (middle - start), 1e3 * (seconds() - middle));
    cr_expect(seconds() - start < 5);
    pq_buf_release(&b);
}

Test(json, quote)
{
    struct pq_buf b = {0};
    pq_json_quote(&b, "a\"b\\c/\n\r\t\b\f\x01\x7f");
    cr_expect_str_eq(b.s, "\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\\u0001\x7f\"");
    b.n = 0;
    pq_json_quote(&b, "\xe2\x82\xac\xff\xe2\x82\xf0\x9f\x98\x80\xc3");
    cr_expect_str_eq(b.s, "\"\xe2\x82\xac\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                          "\xf0\x9f\x98\x80\xef\xbf\xbd\"");
    b.n = 0;
    pq_json_quote(&b, "");
    cr_expect_str_eq(b.s, "\"\"");
    pq_buf_release(&b);
}

static void expect_f32(float v, const char *text)
{
    struct pq_buf b = {0};
    pq_json_put_f32(&b, v);
    cr_expect_str_eq(b.s, text);
    pq_buf_release(&b);
}

static void expect_f64(double v, const char *text)
{
    struct pq_buf b = {0};
    pq_json_put_f64(&b, v);
    cr_expect_str_eq(b.s, text);
    pq_buf_release(&b);
}

Test(json, floats)
{
    expect_f32(0.1f, "0.1");
    expect_f32(1.0f, "1");
    expect_f32(-0.0f, "-0");
    expect_f32(16777216.0f, "16777216");
    expect_f32(1e10f, "1e+10");
    expect_f32(0x1p-149f, "1.4013e-45");
    expect_f32(3.40282347e38f, "3.4028235e+38");
    expect_f32(NAN, "null");
    expect_f32(INFINITY, "null");
    expect_f64(0.1, "0.1");
    expect_f64(1e6, "1000000");
    expect_f64(9007199254740992.0, "9007199254740992");
    expect_f64(0.1 + 0.2, "0.30000000000000004");
    expect_f64(1e300, "1e+300");
    expect_f64(-INFINITY, "null");

    uint32_t bits = 1;
    for (int i = 0; i < 20000; i++) {
        bits = bits * 1664525u + 1013904223u;
        float v;
        memcpy(&v, &bits, 4);
        struct pq_buf b = {0};
        pq_json_put_f32(&b, v);
        cr_assert(accepts(b.s), "%s", b.s);
        if (isfinite(v))
            cr_assert_eq(strtof(b.s, NULL), v, "%s", b.s);
        pq_buf_release(&b);
    }
}

static void expect_edit(const char *text, const char *key, const char *value,
                        const char *want)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf b = {0};
    const int rc = pq_json_edit(text, strlen(text), key, value, &b, &e);
    if (want == NULL) {
        cr_expect_eq(rc, -1, "%s", text);
        cr_expect_neq(e.code, PQ_OK);
    } else {
        cr_expect_eq(rc, 0, "%s: %s", text, e.msg);
        cr_expect_str_eq(b.s, want);
    }
    pq_buf_release(&b);
}

Test(json, edit_replace)
{
    expect_edit("{\"a\": 1.0, \"b\": 2}\n", "b", "3",
                "{\"a\": 1.0, \"b\": 3}\n");
    expect_edit("{\"a\" :\t\"x\" , \"b\":2}", "a", "null",
                "{\"a\" :\tnull , \"b\":2}");
    expect_edit("{\"x\": {\"a\": 1}, \"a\": [1,{}]}", "a", "\"z\"",
                "{\"x\": {\"a\": 1}, \"a\": \"z\"}");
    expect_edit("{\"\\u0061\": 1}", "a", "2", "{\"\\u0061\": 2}");
}

Test(json, edit_add)
{
    expect_edit("{\n  \"a\": 1.0,\n  \"b\": {}\n}\n", "c", "true",
                "{\n  \"a\": 1.0,\n  \"b\": {},\n  \"c\": true\n}\n");
    expect_edit("{\r\n\t\"a\":1\r\n}", "c", "2",
                "{\r\n\t\"a\":1,\r\n\t\"c\":2\r\n}");
    expect_edit("{\"a\":1,\"b\":2}", "c", "3", "{\"a\":1,\"b\":2,\"c\":3}");
    expect_edit("{\"a\": 1, \"b\": 2}", "c", "3",
                "{\"a\": 1, \"b\": 2, \"c\": 3}");
    expect_edit("{\"a\": 1}", "c", "3", "{\"a\": 1, \"c\": 3}");
    expect_edit("{\"a\":1}", "c", "3", "{\"a\":1,\"c\":3}");
    expect_edit("{}", "a", "1", "{\"a\": 1}");
    expect_edit(" { } \n", "a", "1", " {\"a\": 1} \n");
    expect_edit("{\n}\n", "a", "1", "{\n  \"a\": 1\n}\n");
    expect_edit("{\"a\": {\"c\": 1}}", "c", "2",
                "{\"a\": {\"c\": 1}, \"c\": 2}");
}

Test(json, edit_remove)
{
    static const char text[] = "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n";
    expect_edit(text, "a", NULL, "{\n  \"b\": 2,\n  \"c\": 3\n}\n");
    expect_edit(text, "b", NULL, "{\n  \"a\": 1,\n  \"c\": 3\n}\n");
    expect_edit(text, "c", NULL, "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
    expect_edit(text, "d", NULL, text);
    expect_edit("{ \"a\": 1 }", "a", NULL, "{}");
}

Test(json, edit_refused)
{
    expect_edit("[1]", "a", "1", NULL);
    expect_edit("{\"a\":1,\"a\":2}", "a", "3", NULL);
    expect_edit("{\"a\":1} x", "a", "3", NULL);
    expect_edit("{\"a\":1", "a", "3", NULL);
    expect_edit("{\"a\":1}", "a", "{", NULL);
    expect_edit("{\"a\":1}", "a", "", NULL);
}
