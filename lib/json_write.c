/*
 * JSON: writing strings and numbers.
 *
 * Numbers are the shortest decimal that reads back as the same float or
 * double, found by trying; integers are written without an exponent.
 */
#include "pq_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_special(struct pq_buf *b, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *const p = c ? strchr(from, c) : NULL;
    if (p != NULL)
        pq_buf_printf(b, "\\%c", to[p - from]);
    else
        pq_buf_printf(b, "\\u%04x", c);
}

void pq_json_quote(struct pq_buf *b, const char *s)
{
    pq_json_quote_n(b, s, strlen(s));
}

void pq_json_quote_n(struct pq_buf *b, const char *s, size_t n)
{
    const char *const end = s + n;
    const char *valid = s + pq_utf8_prefix(s, (size_t)(end - s));
    pq_buf_puts(b, "\"");
    while (s < end) {
        const char *p = s;
        while (p < valid && (unsigned char)*p >= 0x20 && *p != '"' &&
               *p != '\\')
            p++;
        pq_buf_add(b, s, (size_t)(p - s));
        if (p < valid) {
            put_special(b, (unsigned char)*p++);
        } else if (p < end) {
            pq_buf_puts(b, "\xef\xbf\xbd");
            p++;
            valid = p + pq_utf8_prefix(p, (size_t)(end - p));
        }
        s = p;
    }
    pq_buf_puts(b, "\"");
}

void pq_json_put_f32(struct pq_buf *b, float v)
{
    char s[32];
    if (!isfinite(v)) {
        pq_buf_puts(b, "null");
        return;
    }
    /* Up to 2^24 every integer is a float. */
    if (v == floorf(v) && fabsf(v) <= 0x1p24f) {
        pq_buf_printf(b, "%.0f", (double)v);
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, (double)v);
        if (strtof(s, NULL) == v)
            break;
    }
    pq_buf_puts(b, s);
}

void pq_json_put_f64(struct pq_buf *b, double v)
{
    char s[32];
    if (!isfinite(v)) {
        pq_buf_puts(b, "null");
        return;
    }
    if (v == floor(v) && fabs(v) <= 0x1p53) {
        pq_buf_printf(b, "%.0f", v);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        if (strtod(s, NULL) == v)
            break;
    }
    pq_buf_puts(b, s);
}
