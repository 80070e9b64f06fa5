/*
 * A strict reader of JSON: is this one document, and what is its KEY?
 */
#include "helper.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct json {
    const unsigned char *p, *end;
    const char *key; /* of the outermost object, whose value is printed */
    int depth;
    bool found;
};

static void blanks(struct json *j)
{
    while (j->p < j->end && strchr(" \t\r\n", *j->p) && *j->p)
        j->p++;
}

static bool literal(struct json *j, const char *s)
{
    const size_t n = strlen(s);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, s, n) != 0)
        return false;
    j->p += n;
    return true;
}

/* One character of UTF-8, not overlong, no surrogate. */
static bool utf8(struct json *j)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char c = *j->p;
    const int n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3
                  : c >> 3 == 30 ? 4 : 0;
    uint32_t v = n == 1 ? c : n ? c & (0x7fu >> n) : 0;

    if (n == 0 || j->end - j->p < n)
        return false;
    for (int i = 1; i < n; i++) {
        if (j->p[i] >> 6 != 2)
            return false;
        v = v << 6 | (j->p[i] & 63u);
    }
    j->p += n;
    return n == 1 || (v >= least[n] && v <= 0x10ffff &&
                      (v < 0xd800 || v > 0xdfff));
}

static bool string(struct json *j)
{
    if (!literal(j, "\""))
        return false;
    while (j->p < j->end && *j->p != '"') {
        if (*j->p < 0x20)
            return false;
        if (*j->p != '\\') {
            if (!utf8(j))
                return false;
            continue;
        }
        if (j->end - j->p < 2)
            return false;
        const int c = j->p[1];
        j->p += 2;
        if (c == 'u') {
            for (int i = 0; i < 4; i++, j->p++)
                if (j->p >= j->end || !*j->p ||
                    !strchr("0123456789abcdefABCDEF", *j->p))
                    return false;
        } else if (!c || !strchr("\"\\/bfnrt", c)) {
            return false;
        }
    }
    return literal(j, "\"");
}

static size_t digits(struct json *j)
{
    size_t n = 0;

    for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; n++)
        j->p++;
    return n;
}

static bool json_number(struct json *j)
{
    (void)literal(j, "-");
    if (!literal(j, "0") && digits(j) == 0)
        return false;
    if (literal(j, ".") && digits(j) == 0)
        return false;
    if (literal(j, "e") || literal(j, "E")) {
        if (!literal(j, "+"))
            (void)literal(j, "-");
        return digits(j) > 0;
    }
    return true;
}

static bool json_value(struct json *j);

static bool member(struct json *j, bool object)
{
    bool wanted = false;

    blanks(j);
    if (object) {
        const unsigned char *k = j->p;
        if (!string(j))
            return false;
        const size_t n = (size_t)(j->p - k) - 2;
        wanted = j->depth == 1 && j->key && strlen(j->key) == n &&
                 memcmp(j->key, k + 1, n) == 0;
        blanks(j);
        if (!literal(j, ":"))
            return false;
    }
    blanks(j);
    const unsigned char *v = j->p;
    if (!json_value(j))
        return false;
    if (wanted) {
        printf("%.*s\n", (int)(j->p - v), (const char *)v);
        j->found = true;
    }
    blanks(j);
    return true;
}

static bool json_value(struct json *j)
{
    const bool object = j->p < j->end && *j->p == '{';

    if (j->p >= j->end)
        return false;
    if (!object && *j->p != '[')
        return *j->p == '"' ? string(j)
                            : literal(j, "true") || literal(j, "false") ||
                                  literal(j, "null") || json_number(j);
    const char *end = object ? "}" : "]";
    if (++j->depth > 100)
        return false;
    j->p++;
    blanks(j);
    if (!literal(j, end)) {
        do
            if (!member(j, object))
                return false;
        while (literal(j, ","));
        if (!literal(j, end))
            return false;
    }
    j->depth--;
    return true;
}

/* json FILE [KEY]: one strict document; prints the value of KEY. */
int cmd_json(int argc, char **argv)
{
    size_t n;
    unsigned char *text = load(argv[0], &n);
    struct json j = {text, text + n, argc > 1 ? argv[1] : NULL, 0, false};

    blanks(&j);
    if (!json_value(&j))
        die("%s: no JSON at byte %td of %zu", argv[0], j.p - text, n);
    blanks(&j);
    if (j.p != j.end)
        die("%s: more than one document, at byte %td", argv[0], j.p - text);
    if (j.key && !j.found)
        die("%s: no key %s", argv[0], j.key);
    return 0;
}
