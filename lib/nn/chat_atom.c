/*
 * Chat templates: the parts of expressions that bind closest, to a tree.
 *
 *     "a" 1 x (a, b) [a] {a: b}      and behind them    .x [x] [a:b:c] (a, b=c)
 */
#include "chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- constants ---------------------------------------------------------- */

static int hex_digits(struct chat_parser *p, struct tok_text t, size_t n,
                      uint32_t *c)
{
    *c = 0;
    for (size_t i = 0; i < n; i++) {
        const char x = i < t.n ? (char)(t.s[i] | 32) : ' ';
        if (!((x >= '0' && x <= '9') || (x >= 'a' && x <= 'f')))
            return chat_wrong(p, "a bad escape in a string");
        *c = *c * 16 + (uint32_t)(x <= '9' ? x - '0' : x - 'a' + 10);
    }
    return *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000)
               ? chat_wrong(p, "an escape that is no character")
               : 0;
}

/* An escape behind its backslash; how many bytes it has in *k. */
static int unescape(struct chat_parser *p, struct tok_text t, struct pq_buf *b,
                    size_t *k)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *const at = *t.s ? strchr(from, *t.s) : NULL;
    uint32_t c = 0;

    *k = 1;
    if (at) {
        pq_buf_add(b, to + (at - from), 1);
    } else if (*t.s == 'x' || *t.s == 'u' || *t.s == 'U') {
        *k = *t.s == 'x' ? 3 : *t.s == 'u' ? 5 : 9;
        if (hex_digits(p, (struct tok_text){t.s + 1, t.n - 1}, *k - 1, &c))
            return -1;
        tok_put_char(b, c);
    } else if (*t.s >= '0' && *t.s <= '7') {
        for (*k = 0; *k < 3 && *k < t.n && t.s[*k] >= '0' && t.s[*k] <= '7';
             ++*k)
            c = c * 8 + (uint32_t)(t.s[*k] - '0');
        tok_put_char(b, c);
    } else if (*t.s == 'N') {
        return chat_wrong(p, "\\N in a string is not supported");
    } else if (*t.s != '\n') {
        pq_buf_add(b, t.s - 1, 2); /* it stands for itself */
    }
    return 0;
}

/* Appends the text of the string that is the current token. */
static int put_string(struct chat_parser *p, struct pq_buf *b)
{
    struct tok_text t = {p->x.text.s + 1, p->x.text.n - 2};

    while (t.n > 0) {
        size_t k = 1;
        if (*t.s != '\\') {
            pq_buf_add(b, t.s, 1);
        } else {
            t = (struct tok_text){t.s + 1, t.n - 1};
            if ((unsigned char)*t.s >= 0x80) {
                pq_buf_add(b, "\\", 1);
                continue;
            }
            if (unescape(p, t, b, &k))
                return -1;
        }
        t = (struct tok_text){t.s + k, t.n - k};
    }
    return 0;
}

/* Strings behind each other are one. */
static int parse_string(struct chat_parser *p, struct chat_node *x)
{
    struct pq_buf b = {0};
    int rc = 0;

    while (!rc && p->x.kind == CHAT_T_STRING)
        rc = put_string(p, &b) || chat_step(p) ? -1 : 0;
    const char *const s =
        b.failed || rc ? NULL : pq_arena_strndup(&p->chat->arena, b.s, b.n);
    if (s)
        x->value = chat_string(s, b.n);
    else if (!rc)
        rc = pq_fail_nomem(p->e);
    pq_buf_release(&b);
    return rc;
}

static int parse_number(struct chat_parser *p, struct chat_node *x)
{
    char s[64], *end;
    size_t n = 0;

    for (size_t i = 0; i < p->x.text.n; i++) {
        if (n + 1 == sizeof s)
            return chat_wrong(p, "a number is too long");
        if (p->x.text.s[i] != '_')
            s[n++] = p->x.text.s[i];
    }
    s[n] = '\0';
    errno = 0;
    x->value = p->x.kind == CHAT_T_INT ? chat_int(strtoll(s, &end, 10))
                                       : chat_float(strtod(s, &end));
    if (p->x.kind == CHAT_T_INT && errno)
        return chat_wrong(p, "an integer is too large");
    return chat_step(p);
}

/* ---- lists and arguments ------------------------------------------------ */

/* a, b, ... up to `end`; with pairs k: v, ... */
static int parse_elements(struct chat_parser *p, const char *end, bool pairs,
                          struct chat_node **last)
{
    bool is_end, more = true;

    for (;;) {
        if (chat_may(p, CHAT_T_OP, end, &is_end))
            return -1;
        if (is_end)
            return 0;
        if (!more)
            return chat_need(p, CHAT_T_OP, end);
        if (chat_expression(p, false, true, last))
            return -1;
        last = &(*last)->next;
        if (pairs) {
            if (chat_need(p, CHAT_T_OP, ":") ||
                chat_expression(p, false, true, last))
                return -1;
            last = &(*last)->next;
        }
        if (chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
    }
}

/* Is the current name followed by one "="? */
static bool is_named(const struct chat_parser *p)
{
    struct chat_lexer ahead = p->x;

    ahead.e = NULL;
    return p->x.kind == CHAT_T_NAME && chat_lex(&ahead) == 0 &&
           ahead.kind == CHAT_T_OP && chat_is(ahead.text, "=");
}

/* * or ** before an argument, which then has that for a name. */
static int parse_stars(struct chat_parser *p, struct chat_node *x)
{
    if (!chat_at(p, CHAT_T_OP, "*") && !chat_at(p, CHAT_T_OP, "**"))
        return 0;
    x->text = p->x.text;
    return chat_step(p);
}

/* Behind the "(". */
int chat_arguments(struct chat_parser *p, struct chat_node **last)
{
    bool is_end, more = true, named = false;

    for (;;) {
        if (chat_may(p, CHAT_T_OP, ")", &is_end))
            return -1;
        if (is_end)
            return 0;
        if (!more)
            return chat_need(p, CHAT_T_OP, ")");
        struct chat_node *const x = chat_new(p, CHAT_ARG);
        if (!x)
            return -1;
        if (is_named(p)) {
            x->text = p->x.text;
            named = true;
            if (chat_step(p) || chat_step(p))
                return -1;
        } else if (parse_stars(p, x)) {
            return -1;
        } else if (named && x->text.n == 0) {
            return chat_wrong(p, "an argument without a name behind those "
                                 "with names");
        }
        if (chat_expression(p, false, true, &x->a))
            return -1;
        *last = x;
        last = &x->next;
        if (chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
    }
}

/* ---- from the inside out ------------------------------------------------ */

static int parse_name(struct chat_parser *p, struct chat_node *x)
{
    const struct tok_text t = p->x.text;

    x->op = CHAT_CONST;
    if (chat_is(t, "true") || chat_is(t, "True"))
        x->value = chat_bool(true);
    else if (chat_is(t, "false") || chat_is(t, "False"))
        x->value = chat_bool(false);
    else if (chat_is(t, "none") || chat_is(t, "None"))
        x->value = chat_none();
    else {
        x->op = CHAT_NAME;
        x->text = t;
    }
    return chat_step(p);
}

/* ( ) [ ] { } */
static int parse_brackets(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *const x = *out;
    int rc = chat_down(p);

    if (!rc && chat_at(p, CHAT_T_OP, "(")) {
        x->op = CHAT_MAKE_TUPLE;
        rc = chat_step(p);
        if (!rc && chat_at(p, CHAT_T_OP, ")"))
            rc = chat_step(p);
        else if (!rc)
            rc = chat_expression(p, true, true, out) ||
                         chat_need(p, CHAT_T_OP, ")")
                     ? -1
                     : 0;
    } else if (!rc && chat_at(p, CHAT_T_OP, "[")) {
        x->op = CHAT_MAKE_LIST;
        rc = chat_step(p) || parse_elements(p, "]", false, &x->a) ? -1 : 0;
    } else if (!rc && chat_at(p, CHAT_T_OP, "{")) {
        x->op = CHAT_MAKE_DICT;
        rc = chat_step(p) || parse_elements(p, "}", true, &x->a) ? -1 : 0;
    } else if (!rc) {
        rc = chat_need(p, CHAT_T_NAME, NULL);
        rc = rc ? rc : chat_wrong(p, "expected an expression");
    }
    chat_up(p);
    return rc;
}

int chat_primary(struct chat_parser *p, struct chat_node **out)
{
    *out = chat_new(p, CHAT_CONST);
    if (!*out)
        return -1;
    switch (p->x.kind) {
    case CHAT_T_NAME:
        return parse_name(p, *out);
    case CHAT_T_STRING:
        return parse_string(p, *out);
    case CHAT_T_INT:
    case CHAT_T_FLOAT:
        return parse_number(p, *out);
    case CHAT_T_OP:
        return parse_brackets(p, out);
    default:
        return chat_wrong(p, "expected an expression");
    }
}

/* Behind the "[". */
static int parse_item(struct chat_parser *p, struct chat_node *x)
{
    struct chat_node **const parts[] = {&x->b, &x->c, &x->d};
    size_t at = 0;
    bool is_colon = false;

    x->op = CHAT_ITEM;
    for (;;) {
        if (!chat_at(p, CHAT_T_OP, ":") && !chat_at(p, CHAT_T_OP, "]") &&
            chat_expression(p, at == 0, true, parts[at]))
            return -1;
        if (chat_may(p, CHAT_T_OP, ":", &is_colon))
            return -1;
        if (!is_colon)
            break;
        x->op = CHAT_SLICE;
        if (++at == 3)
            return chat_wrong(p, "a slice has too many parts");
    }
    if (x->op == CHAT_ITEM && !x->b)
        return chat_wrong(p, "expected an expression between [ and ]");
    return chat_need(p, CHAT_T_OP, "]");
}

/* Behind the "." */
static int parse_attribute(struct chat_parser *p, struct chat_node *x)
{
    x->op = CHAT_GET;
    x->text = p->x.text;
    if (p->x.kind != CHAT_T_INT)
        return chat_need(p, CHAT_T_NAME, NULL);
    x->op = CHAT_ITEM;
    x->b = chat_new(p, CHAT_CONST);
    return x->b ? parse_number(p, x->b) : -1;
}

int chat_call_of(struct chat_parser *p, struct chat_node *x)
{
    x->op = CHAT_CALL;
    return chat_arguments(p, &x->b);
}

/* Puts a new node chat_above *out and parses it behind one token. */
int chat_above(struct chat_parser *p, struct chat_node **out,
               int (*parse)(struct chat_parser *p, struct chat_node *x))
{
    struct chat_node *const x = chat_new(p, CHAT_CALL);

    if (!x || chat_down(p))
        return -1;
    x->a = *out;
    *out = x;
    const int rc = chat_step(p) || parse(p, x) ? -1 : 0;
    chat_up(p);
    return rc;
}

/*
 * A chain such as a.b[c](d) is a tree as deep as it is long, but the parser
 * does not go down for it; so its length counts by itself.
 */
int chat_chain(struct chat_parser *p, unsigned *length)
{
    return ++*length > CHAT_DEPTH
               ? chat_wrong(p, "more than %u operators in a row", CHAT_DEPTH)
               : 0;
}

int chat_series(struct chat_parser *p, struct chat_node **out, chat_part *next)
{
    unsigned length = 0;
    int found;

    while ((found = next(p, out)) > 0)
        if (chat_chain(p, &length))
            return -1;
    return found;
}

static int next_postfix(struct chat_parser *p, struct chat_node **out)
{
    int rc;

    if (chat_at(p, CHAT_T_OP, "."))
        rc = chat_above(p, out, parse_attribute);
    else if (chat_at(p, CHAT_T_OP, "["))
        rc = chat_above(p, out, parse_item);
    else if (chat_at(p, CHAT_T_OP, "("))
        rc = chat_above(p, out, chat_call_of);
    else
        return 0;
    return rc ? -1 : 1;
}

int chat_postfix(struct chat_parser *p, struct chat_node **out)
{
    return chat_series(p, out, next_postfix);
}
