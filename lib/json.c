/*
 * JSON: a pull tokenizer with the acceptance of serde_json, the reader of the
 * reference safetensors library, and the check that texts pass before cJSON.
 *
 * Strings are scanned eight bytes at a time; UTF-8 is looked at only when a
 * byte above 0x7f turns up, escapes are checked while scanning, so that what
 * unescapes later cannot fail.  Numbers are checked for syntax only: whether
 * 1e999 is too large is the business of who asks for its value.
 *
 *     state         what may come next
 *     VALUE         a value (at the start, after ':', after ',' in [...])
 *     FIRST_VALUE   a value or ']'
 *     FIRST_KEY     a key or '}'
 *     KEY           a key
 *     AFTER         ',' or the closing bracket; at depth 0 the end
 */
#include "pq_json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { VALUE, FIRST_VALUE, FIRST_KEY, KEY, AFTER, FAILED };

#define CHECK_MAX_DEPTH 64

void pq_json_init(struct pq_json *j, const char *text, size_t n,
                  struct pq_error *e)
{
    *j = (struct pq_json){.text = text, .n = n, .state = VALUE, .e = e};
}

static enum pq_json_type fail(struct pq_json *j, size_t at, const char *what)
{
    j->state = FAILED;
    pq_fail(j->e, PQ_EFORMAT, "JSON: byte %zu: %s", at, what);
    return PQ_JSON_ERROR;
}

static void skip_space(struct pq_json *j)
{
    while (j->at < j->n) {
        const char c = j->text[j->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
        j->at++;
    }
}

/* The length of the UTF-8 sequence at s[0..n), or 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    const unsigned c = s[0];
    if (c < 0x80)
        return 1;
    const size_t want = c < 0xc2   ? 0
                        : c < 0xe0 ? 2
                        : c < 0xf0 ? 3
                        : c < 0xf5 ? 4
                                   : 0;
    if (want == 0 || want > n)
        return 0;
    /* The second byte excludes overlong forms, surrogates, > U+10FFFF. */
    const unsigned low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const unsigned high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < want; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return want;
}

size_t pq_utf8_prefix(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        const size_t k = utf8_length((const unsigned char *)s + i, n - i);
        if (k == 0)
            break;
        i += k;
    }
    return i;
}

/* Bytes of s[0..n) before the next quote, backslash, control or non-ASCII. */
static size_t plain_length(const unsigned char *s, size_t n)
{
    const uint64_t ones = 0x0101010101010101u, tops = ones * 0x80;
    size_t i = 0;
    for (; n - i >= 8; i += 8) {
        uint64_t w;
        memcpy(&w, s + i, 8);
        const uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
        /* A top bit is set where w >= 0x80 or a byte is below the bound. */
        if (((w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) &
             tops) != 0)
            break;
    }
    while (i < n && s[i] >= 0x20 && s[i] < 0x80 && s[i] != '"' && s[i] != '\\')
        i++;
    return i;
}

/* The value of four hexadecimal digits, or -1. */
static int hex4(const char *s)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        const char c = s[i];
        const int d = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/*
 * Decodes the escape that begins with the backslash at s[0..n).  Returns its
 * length, or 0 when it is none; *k is the number of bytes put into out.
 */
static size_t escape(const char *s, size_t n, char out[4], size_t *k)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (n < 2)
        return 0;
    if (s[1] != 'u') {
        const char *const p = s[1] ? strchr(from, s[1]) : NULL;
        if (p == NULL)
            return 0;
        out[0] = to[p - from];
        *k = 1;
        return 2;
    }
    const int high = n < 6 ? -1 : hex4(s + 2);
    if (high < 0 || (high >= 0xdc00 && high < 0xe000))
        return 0;
    if (high < 0xd800 || high >= 0xe000) {
        *k = put_utf8(out, (unsigned)high);
        return 6;
    }
    const int low = n < 12 || s[6] != '\\' || s[7] != 'u' ? -1 : hex4(s + 8);
    if (low < 0xdc00 || low >= 0xe000)
        return 0;
    *k = put_utf8(out, 0x10000u + ((unsigned)(high - 0xd800) << 10) +
                           (unsigned)(low - 0xdc00));
    return 12;
}

/* A string whose opening quote is at j->at; false when it is not one. */
static bool scan_string(struct pq_json *j)
{
    const unsigned char *const s = (const unsigned char *)j->text;
    size_t at = j->at + 1;
    j->start = at;
    j->escaped = false;
    for (;;) {
        at += plain_length(s + at, j->n - at);
        if (at == j->n)
            return fail(j, at, "the text ends in a string"), false;
        if (s[at] == '"')
            break;
        size_t k, length;
        char out[4];
        if (s[at] == '\\') {
            length = escape(j->text + at, j->n - at, out, &k);
            if (length == 0)
                return fail(j, at, "bad escape in a string"), false;
            j->escaped = true;
        } else if (s[at] < 0x20) {
            return fail(j, at, "control character in a string"), false;
        } else {
            length = utf8_length(s + at, j->n - at);
            if (length == 0)
                return fail(j, at, "not UTF-8"), false;
        }
        at += length;
    }
    j->length = at - j->start;
    j->at = at + 1;
    return true;
}

static size_t digits(const struct pq_json *j, size_t at)
{
    while (at < j->n && j->text[at] >= '0' && j->text[at] <= '9')
        at++;
    return at;
}

static enum pq_json_type scan_number(struct pq_json *j)
{
    const char *const s = j->text;
    size_t at = j->start = j->at;
    if (s[at] == '-')
        at++;
    size_t end = digits(j, at);
    if (end == at || (s[at] == '0' && end > at + 1))
        return fail(j, at, "bad number");
    at = end;
    if (at < j->n && s[at] == '.') {
        end = digits(j, at + 1);
        if (end == at + 1)
            return fail(j, at, "bad number");
        at = end;
    }
    if (at < j->n && (s[at] == 'e' || s[at] == 'E')) {
        at++;
        if (at < j->n && (s[at] == '+' || s[at] == '-'))
            at++;
        end = digits(j, at);
        if (end == at)
            return fail(j, at, "bad number");
        at = end;
    }
    j->length = at - j->start;
    j->at = at;
    j->state = AFTER;
    return PQ_JSON_NUMBER;
}

static enum pq_json_type scan_word(struct pq_json *j, const char *word,
                                   enum pq_json_type t)
{
    const size_t n = strlen(word);
    if (j->n - j->at < n || memcmp(j->text + j->at, word, n) != 0)
        return fail(j, j->at, "expected a value");
    j->start = j->at;
    j->length = n;
    j->at += n;
    j->state = AFTER;
    return t;
}

static enum pq_json_type open_bracket(struct pq_json *j, char c)
{
    if (j->depth + 1 >= PQ_JSON_MAX_DEPTH)
        return fail(j, j->at, "nested too deeply");
    j->stack[j->depth++] = (unsigned char)c;
    j->start = j->at++;
    j->length = 1;
    j->state = c == '{' ? FIRST_KEY : FIRST_VALUE;
    return c == '{' ? PQ_JSON_OBJECT : PQ_JSON_ARRAY;
}

static enum pq_json_type close_bracket(struct pq_json *j)
{
    const bool object = j->stack[--j->depth] == '{';
    j->start = j->at++;
    j->length = 1;
    j->state = AFTER;
    return object ? PQ_JSON_OBJECT_END : PQ_JSON_ARRAY_END;
}

static enum pq_json_type scan_value(struct pq_json *j)
{
    const char c = j->text[j->at];
    switch (c) {
    case '{':
    case '[':
        return open_bracket(j, c);
    case '"':
        if (!scan_string(j))
            return PQ_JSON_ERROR;
        j->state = AFTER;
        return PQ_JSON_STRING;
    case 't':
        return scan_word(j, "true", PQ_JSON_TRUE);
    case 'f':
        return scan_word(j, "false", PQ_JSON_FALSE);
    case 'n':
        return scan_word(j, "null", PQ_JSON_NULL);
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(j);
        return fail(j, j->at, "expected a value");
    }
}

/* A key and the colon behind it. */
static enum pq_json_type scan_key(struct pq_json *j)
{
    if (j->text[j->at] != '"')
        return fail(j, j->at, "expected a key");
    if (!scan_string(j))
        return PQ_JSON_ERROR;
    skip_space(j);
    if (j->at == j->n || j->text[j->at] != ':')
        return fail(j, j->at, "expected ':'");
    j->at++;
    j->state = VALUE;
    return PQ_JSON_KEY;
}

/* Behind a value inside of brackets: steps over the comma, or closes. */
static enum pq_json_type scan_after(struct pq_json *j)
{
    const bool object = j->stack[j->depth - 1] == '{';
    const char c = j->text[j->at];
    if (c == (object ? '}' : ']'))
        return close_bracket(j);
    if (c != ',')
        return fail(j, j->at,
                    object ? "expected ',' or '}'" : "expected ',' or ']'");
    j->at++;
    skip_space(j);
    if (j->at == j->n)
        return fail(j, j->at, "the text ends too early");
    return object ? scan_key(j) : scan_value(j);
}

enum pq_json_type pq_json_next(struct pq_json *j)
{
    if (j->state == FAILED)
        return PQ_JSON_ERROR;
    skip_space(j);
    if (j->state == AFTER && j->depth == 0) {
        if (j->at < j->n)
            return fail(j, j->at, "text after the value");
        j->start = j->n;
        j->length = 0;
        return PQ_JSON_END;
    }
    if (j->at == j->n)
        return fail(j, j->at, "the text ends too early");
    switch (j->state) {
    case FIRST_KEY:
        return j->text[j->at] == '}' ? close_bracket(j) : scan_key(j);
    case FIRST_VALUE:
        return j->text[j->at] == ']' ? close_bracket(j) : scan_value(j);
    case AFTER:
        return scan_after(j);
    default:
        return scan_value(j);
    }
}

int pq_json_skip(struct pq_json *j, enum pq_json_type t)
{
    if (t == PQ_JSON_KEY)
        t = pq_json_next(j);
    if (t == PQ_JSON_OBJECT || t == PQ_JSON_ARRAY) {
        const unsigned outside = j->depth - 1;
        while (j->depth > outside && t != PQ_JSON_ERROR)
            t = pq_json_next(j);
    }
    return t == PQ_JSON_ERROR ? -1 : 0;
}

int pq_json_string(struct pq_json *j, struct pq_arena *a, const char **s,
                   size_t *n)
{
    const char *const raw = j->text + j->start;
    *s = raw;
    *n = j->length;
    if (!j->escaped)
        return 0;
    char *const copy = pq_arena_strndup(a, raw, j->length);
    if (copy == NULL)
        return pq_fail_nomem(j->e);
    size_t used = 0, k;
    for (size_t i = 0; i < j->length;) {
        if (raw[i] != '\\') {
            copy[used++] = raw[i++];
            continue;
        }
        char out[4];
        i += escape(raw + i, j->length - i, out, &k);
        memcpy(copy + used, out, k);
        used += k;
    }
    copy[used] = '\0';
    *s = copy;
    *n = used;
    return 0;
}

bool pq_json_is(const struct pq_json *j, const char *s)
{
    const char *const raw = j->text + j->start;
    size_t left = strlen(s), k;
    if (!j->escaped)
        return left == j->length && memcmp(raw, s, left) == 0;
    for (size_t i = 0; i < j->length;) {
        char out[4] = {raw[i]};
        k = 1;
        i += raw[i] == '\\' ? escape(raw + i, j->length - i, out, &k) : 1;
        if (k > left || memcmp(out, s, k) != 0)
            return false;
        s += k;
        left -= k;
    }
    return left == 0;
}

int pq_json_u64(struct pq_json *j, uint64_t *v)
{
    uint64_t r = 0;
    for (size_t i = j->start; i < j->start + j->length; i++) {
        const char c = j->text[i];
        if (c < '0' || c > '9' || !pq_mul(r, 10, &r) ||
            !pq_add(r, (uint64_t)(c - '0'), &r)) {
            fail(j, j->start, "expected an unsigned 64-bit integer");
            return -1;
        }
    }
    *v = r;
    return 0;
}

int pq_json_double(struct pq_json *j, double *v)
{
    char small[64];
    char *const s =
        j->length < sizeof small ? small : pq_alloc(j->length + 1, 1);
    if (s == NULL)
        return pq_fail_nomem(j->e);
    memcpy(s, j->text + j->start, j->length);
    s[j->length] = '\0';
    const double d = strtod(s, NULL);
    if (s != small)
        free(s);
    if (!isfinite(d)) {
        fail(j, j->start, "number out of range");
        return -1;
    }
    *v = d;
    return 0;
}

/* The keys of a text: 128-bit hashes, of which two never agree by chance. */
struct key_set {
    XXH128_hash_t *slots; /* [cap], zero = free */
    size_t n, cap;
};

static bool is_free(XXH128_hash_t h)
{
    return h.low64 == 0 && h.high64 == 0;
}

/* False when it was there. */
static bool key_set_put(struct key_set *t, XXH128_hash_t h)
{
    size_t i = (size_t)h.low64 & (t->cap - 1);
    while (!is_free(t->slots[i])) {
        if (XXH128_isEqual(t->slots[i], h))
            return false;
        i = (i + 1) & (t->cap - 1);
    }
    t->slots[i] = h;
    t->n++;
    return true;
}

static bool key_set_room(struct key_set *t)
{
    if (t->n + t->n / 2 < t->cap)
        return true;
    struct key_set more = {.cap = t->cap ? t->cap * 2 : 64};
    more.slots = pq_zalloc(more.cap, sizeof *more.slots);
    if (more.slots == NULL)
        return false;
    for (size_t i = 0; i < t->cap; i++)
        if (!is_free(t->slots[i]))
            key_set_put(&more, t->slots[i]);
    free(t->slots);
    *t = more;
    return true;
}

/* Refuses a key that the object number `object` has already. */
static int check_key(struct pq_json *j, struct key_set *t, uint64_t object)
{
    struct pq_arena scratch = {0};
    const char *s;
    size_t n;
    if (pq_json_string(j, &scratch, &s, &n) != 0)
        return -1;
    const XXH128_hash_t h = XXH3_128bits_withSeed(s, n, object);
    pq_arena_release(&scratch);
    if (!key_set_room(t))
        return pq_fail_nomem(j->e);
    if (!key_set_put(t, h)) {
        fail(j, j->start, "duplicate key");
        return -1;
    }
    return 0;
}

/* Refuses \u0000, which cJSON takes for the end of a string. */
static int check_no_nul(struct pq_json *j)
{
    const char *const s = j->text + j->start;
    for (size_t i = 0; j->escaped && i + 6 <= j->length; i++) {
        if (s[i] != '\\')
            continue;
        if (memcmp(s + i, "\\u0000", 6) == 0) {
            fail(j, j->start + i, "NUL in a string");
            return -1;
        }
        i++;
    }
    return 0;
}

static int check_token(struct pq_json *j, enum pq_json_type t,
                       struct key_set *keys, const uint64_t *objects)
{
    if (t == PQ_JSON_KEY && check_key(j, keys, objects[j->depth]) != 0)
        return -1;
    if (t == PQ_JSON_KEY || t == PQ_JSON_STRING)
        return check_no_nul(j);
    return 0;
}

int pq_json_check(const char *text, size_t n, struct pq_error *e)
{
    struct pq_json j;
    struct key_set keys = {0};
    uint64_t objects[CHECK_MAX_DEPTH + 1], n_objects = 0;
    int rc = 0;
    pq_json_init(&j, text, n, e);
    while (rc == 0) {
        const enum pq_json_type t = pq_json_next(&j);
        if (t == PQ_JSON_END)
            break;
        if (t == PQ_JSON_ERROR) {
            rc = -1;
        } else if (j.depth > CHECK_MAX_DEPTH) {
            fail(&j, j.start, "nested too deeply");
            rc = -1;
        } else if (t == PQ_JSON_OBJECT) {
            objects[j.depth] = n_objects++;
        } else {
            rc = check_token(&j, t, &keys, objects);
        }
    }
    free(keys.slots);
    return rc;
}
