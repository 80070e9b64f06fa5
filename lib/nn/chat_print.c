/*
 * Chat templates: values as text, as Python's str(), repr() and json.dumps()
 * write them.
 */
#include "chat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/*
 * The shortest digits that read back: 1e16 and more, and less than 1e-4, with
 * an exponent of two digits.
 */
static void put_float(struct pq_buf *b, double v)
{
    char s[40], digits[40];
    int precision = 0, exponent, k = 0;

    if (!isfinite(v)) {
        pq_buf_puts(b, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    do
        snprintf(s, sizeof s, "%.*e", precision, v);
    while (strtod(s, NULL) != v && ++precision < 17);
    exponent = (int)strtol(strchr(s, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        *strchr(s, 'e') = '\0';
        pq_buf_printf(b, "%se%c%02d", s, exponent < 0 ? '-' : '+',
                      abs(exponent));
        return;
    }
    k = precision - exponent;
    snprintf(digits, sizeof digits, "%.*f", k < 1 ? 1 : k, v);
    pq_buf_puts(b, digits);
}

/* ---- repr() ------------------------------------------------------------- */

static bool is_printable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return c == ' ';
    default:
        return true;
    }
}

static void repr_text(struct tok_text t, struct pq_buf *b)
{
    const bool twice =
        memchr(t.s, '\'', t.n) != NULL && memchr(t.s, '"', t.n) == NULL;
    const uint32_t quote = twice ? '"' : '\'';

    tok_put_char(b, quote);
    for (size_t at = 0, k; at < t.n; at += k) {
        const uint32_t c = tok_char(t.s + at, t.n - at, &k);
        if (c == quote || c == '\\')
            pq_buf_printf(b, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            pq_buf_puts(b, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (is_printable(c))
            pq_buf_add(b, t.s + at, k);
        else
            pq_buf_printf(b,
                          c < 0x100     ? "\\x%02x"
                          : c < 0x10000 ? "\\u%04x"
                                        : "\\U%08x",
                          (unsigned)c);
    }
    tok_put_char(b, quote);
}

static int repr(struct chat_run *r, struct chat_value v, unsigned depth,
                struct pq_buf *b);

static int repr_list(struct chat_run *r, struct chat_value v, unsigned depth,
                     struct pq_buf *b)
{
    const bool tuple = v.type == CHAT_TUPLE;

    if (chat_plain(r, v))
        return -1;
    pq_buf_puts(b, tuple ? "(" : "[");
    for (size_t i = 0; i < v.list->n; i++) {
        if (i > 0)
            pq_buf_puts(b, ", ");
        if (repr(r, v.list->v[i], depth + 1, b))
            return -1;
    }
    pq_buf_puts(b, !tuple ? "]" : v.list->n == 1 ? ",)" : ")");
    return 0;
}

static int repr_dict(struct chat_run *r, const struct chat_dict *d,
                     unsigned depth, struct pq_buf *b)
{
    pq_buf_puts(b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0)
            pq_buf_puts(b, ", ");
        if (repr(r, d->p[i].key, depth + 1, b))
            return -1;
        pq_buf_puts(b, ": ");
        if (repr(r, d->p[i].value, depth + 1, b))
            return -1;
    }
    pq_buf_puts(b, "}");
    return 0;
}

/* How deep, and how much was written, of what may hold itself many times. */
static int check_room(struct chat_run *r, unsigned depth,
                      const struct pq_buf *b)
{
    if (depth > CHAT_NESTED)
        return chat_fail(r, PQ_ELIMIT, "values are nested deeper than %u",
                         CHAT_NESTED);
    if (b->n > PQ_CHAT_TEXT)
        return chat_fail(r, PQ_ELIMIT, "writes more than %u bytes",
                         PQ_CHAT_TEXT);
    return chat_spend_on(r, b, 1);
}

static int repr(struct chat_run *r, struct chat_value v, unsigned depth,
                struct pq_buf *b)
{
    if (check_room(r, depth, b))
        return -1;
    switch (v.type) {
    case CHAT_NONE:
        pq_buf_puts(b, "None");
        return 0;
    case CHAT_BOOL:
        pq_buf_puts(b, v.b ? "True" : "False");
        return 0;
    case CHAT_INT:
        pq_buf_printf(b, "%lld", (long long)v.i);
        return 0;
    case CHAT_FLOAT:
        put_float(b, v.f);
        return 0;
    case CHAT_STRING:
        repr_text(v.s, b);
        return chat_spend(r, v.s.n / 64);
    case CHAT_UNDEFINED:
        pq_buf_puts(b, "Undefined");
        return 0;
    case CHAT_LIST:
    case CHAT_TUPLE:
        return repr_list(r, v, depth, b);
    case CHAT_DICT:
        return repr_dict(r, v.dict, depth, b);
    default:
        return chat_fail(r, PQ_EUNSUPPORTED, "a %s as text is not supported",
                         chat_type_name(v));
    }
}

int chat_str(struct chat_run *r, struct chat_value v, struct pq_buf *b)
{
    if (v.type == CHAT_UNDEFINED)
        return 0;
    if (v.type != CHAT_STRING)
        return repr(r, v, 0, b);
    pq_buf_add(b, v.s.s, v.s.n);
    return chat_spend(r, v.s.n / 64);
}

int chat_to_string(struct chat_run *r, struct chat_value v,
                   struct chat_value *out)
{
    struct pq_buf b = {0};

    if (v.type == CHAT_STRING) {
        *out = v;
        return 0;
    }
    if (chat_str(r, v, &b)) {
        pq_buf_release(&b);
        return -1;
    }
    return chat_keep(r, &b, out);
}

/* ---- json.dumps() ------------------------------------------------------- */

static void json_text(struct tok_text t, bool ascii, struct pq_buf *b)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";

    pq_buf_puts(b, "\"");
    for (size_t at = 0, k; at < t.n; at += k) {
        const uint32_t c = tok_char(t.s + at, t.n - at, &k);
        const char *const x = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (x)
            pq_buf_printf(b, "\\%c", to[x - from]);
        else if (c < 0x20 || (ascii && c > 0x7e && c < 0x10000))
            pq_buf_printf(b, "\\u%04x", (unsigned)c);
        else if (ascii && c >= 0x10000)
            pq_buf_printf(b, "\\u%04x\\u%04x", 0xd7c0u + (unsigned)(c >> 10),
                          0xdc00u + (unsigned)(c & 0x3ff));
        else
            pq_buf_add(b, t.s + at, k);
    }
    pq_buf_puts(b, "\"");
}

static int json_key(struct chat_run *r, struct chat_value key,
                    const struct chat_json_style *j, struct pq_buf *b)
{
    const bool quoted = key.type != CHAT_STRING;

    if (key.type != CHAT_STRING && key.type != CHAT_NONE &&
        !chat_is_number(key))
        return chat_fail(r, PQ_EARG, "a %s cannot be a key in JSON",
                         chat_type_name(key));
    if (quoted)
        pq_buf_puts(b, "\"");
    const int rc = chat_to_json(r, key, j, CHAT_NESTED, b);
    if (quoted)
        pq_buf_puts(b, "\"");
    return rc;
}

/* What stands before an element, or before the end of all of them. */
static void json_break(const struct chat_json_style *j, unsigned depth,
                       bool comma, struct pq_buf *b)
{
    if (comma)
        pq_buf_add(b, j->item.s, j->item.n);
    if (j->indent >= 0)
        pq_buf_printf(b, "\n%*s", (int)depth * j->indent, "");
}

/* The places of keys in their order, which must be that of strings. */
static int sort_keys(struct chat_run *r, const struct chat_dict *d,
                     size_t **order)
{
    size_t *const at = chat_take(r, d->n, sizeof *at);
    int x;

    if (!at)
        return -1;
    for (size_t i = 0; i < d->n; i++) {
        size_t k = i;
        for (; k > 0; k--) {
            if (chat_order(r, d->p[i].key, d->p[at[k - 1]].key, &x))
                return -1;
            if (x >= 0)
                break;
            at[k] = at[k - 1];
        }
        at[k] = i;
    }
    *order = at;
    return 0;
}

static int json_dict(struct chat_run *r, const struct chat_dict *d,
                     const struct chat_json_style *j, unsigned depth,
                     struct pq_buf *b)
{
    size_t *order = NULL;

    if (j->sort && d->n && sort_keys(r, d, &order))
        return -1;
    pq_buf_puts(b, "{");
    for (size_t i = 0; i < d->n; i++) {
        const struct chat_pair *const p = &d->p[order ? order[i] : i];
        json_break(j, depth + 1, i > 0, b);
        if (json_key(r, p->key, j, b))
            return -1;
        pq_buf_add(b, j->key.s, j->key.n);
        if (chat_to_json(r, p->value, j, depth + 1, b))
            return -1;
    }
    if (d->n)
        json_break(j, depth, false, b);
    pq_buf_puts(b, "}");
    return 0;
}

static int json_list(struct chat_run *r, const struct chat_list *l,
                     const struct chat_json_style *j, unsigned depth,
                     struct pq_buf *b)
{
    pq_buf_puts(b, "[");
    for (size_t i = 0; i < l->n; i++) {
        json_break(j, depth + 1, i > 0, b);
        if (chat_to_json(r, l->v[i], j, depth + 1, b))
            return -1;
    }
    if (l->n)
        json_break(j, depth, false, b);
    pq_buf_puts(b, "]");
    return 0;
}

static void json_float(double f, struct pq_buf *b)
{
    if (isnan(f))
        pq_buf_puts(b, "NaN");
    else if (isinf(f))
        pq_buf_puts(b, f < 0 ? "-Infinity" : "Infinity");
    else
        put_float(b, f);
}

int chat_to_json(struct chat_run *r, struct chat_value v,
                 const struct chat_json_style *j, unsigned depth,
                 struct pq_buf *b)
{
    if (check_room(r, depth, b))
        return -1;
    switch (v.type) {
    case CHAT_NONE:
        pq_buf_puts(b, "null");
        return 0;
    case CHAT_BOOL:
        pq_buf_puts(b, v.b ? "true" : "false");
        return 0;
    case CHAT_INT:
        return repr(r, v, depth, b);
    case CHAT_FLOAT:
        json_float(v.f, b);
        return 0;
    case CHAT_STRING:
        json_text(v.s, j->ascii, b);
        return chat_spend(r, v.s.n / 64);
    case CHAT_LIST:
    case CHAT_TUPLE:
        return chat_plain(r, v) ? -1 : json_list(r, v.list, j, depth, b);
    case CHAT_DICT:
        return json_dict(r, v.dict, j, depth, b);
    default:
        return chat_defined(r, v)
                   ? -1
                   : chat_fail(r, PQ_EARG, "a %s cannot be written as JSON",
                               chat_type_name(v));
    }
}
