/*
 * Chat templates: expressions to a tree, with the precedence that Jinja has:
 *
 *     a if b else c    or    and    not    == != < <= > >= in, not in
 *     + -    ~    * / // %    **    unary - +    . [] () | is
 *
 * Operators of one level group from the left; comparisons are a chain, as in
 * Python.  A sign takes what stands behind it without filters: -x|abs is
 * (-x)|abs.
 */
#include "chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse_unary(struct chat_parser *p, bool filters,
                       struct chat_node **out);
static int parse_or(struct chat_parser *p, struct chat_node **out);

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

/* Something may be next's name: the element becomes a node of its own. */
static struct chat_node *wrap(struct chat_parser *p, struct chat_node *in)
{
    struct chat_node *const x = chat_new(p, CHAT_ARG);

    if (x)
        x->a = in;
    return x;
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
static int parse_arguments(struct chat_parser *p, struct chat_node **last)
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

static int parse_primary(struct chat_parser *p, struct chat_node **out)
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

static int parse_call(struct chat_parser *p, struct chat_node *x)
{
    x->op = CHAT_CALL;
    return parse_arguments(p, &x->b);
}

/* Puts a new node above *out and parses it behind one token. */
static int above(struct chat_parser *p, struct chat_node **out,
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
static int grow_chain(struct chat_parser *p, unsigned *length)
{
    return ++*length > CHAT_DEPTH
               ? chat_wrong(p, "more than %u operators in a row", CHAT_DEPTH)
               : 0;
}

static int parse_postfix(struct chat_parser *p, struct chat_node **out)
{
    unsigned length = 0;
    int rc = 0;

    while (!rc) {
        if (chat_at(p, CHAT_T_OP, "."))
            rc = above(p, out, parse_attribute);
        else if (chat_at(p, CHAT_T_OP, "["))
            rc = above(p, out, parse_item);
        else if (chat_at(p, CHAT_T_OP, "("))
            rc = above(p, out, parse_call);
        else
            return 0;
        if (!rc)
            rc = grow_chain(p, &length);
    }
    return -1;
}

/* ---- filters and tests -------------------------------------------------- */

static int unknown(struct chat_parser *p, const char *what, struct tok_text t)
{
    pq_fail(p->e, PQ_EUNSUPPORTED, "the %s \"%.*s\" is not supported", what,
            (int)(t.n & 63), t.s);
    return pq_error_in(p->e, "line %u", p->x.line);
}

/* The name of a filter, the current token, and its arguments. */
static int parse_filter(struct chat_parser *p, struct chat_node *x)
{
    bool is_call;

    x->op = CHAT_FILTER;
    x->text = p->x.text;
    if (p->x.kind == CHAT_T_NAME && !chat_filter_named(x->text))
        return unknown(p, "filter", x->text);
    if (chat_need(p, CHAT_T_NAME, NULL) ||
        chat_may(p, CHAT_T_OP, "(", &is_call))
        return -1;
    return is_call ? parse_arguments(p, &x->b) : 0;
}

int chat_filters(struct chat_parser *p, struct chat_node *in, bool first,
                 struct chat_node **out)
{
    unsigned length = 0;

    *out = in;
    while (first || chat_at(p, CHAT_T_OP, "|")) {
        struct chat_node *const x = chat_new(p, CHAT_FILTER);
        if (!x || grow_chain(p, &length) || chat_down(p))
            return -1;
        x->a = *out;
        *out = x;
        if ((!first && chat_step(p)) || parse_filter(p, x))
            return -1;
        chat_up(p);
        first = false;
    }
    return 0;
}

/* An argument of a test without brackets: x is equalto 3. */
static int parse_bare(struct chat_parser *p, struct chat_node *x)
{
    const bool starts =
        chat_at(p, CHAT_T_OP, "[") || chat_at(p, CHAT_T_OP, "{") ||
        (p->x.kind >= CHAT_T_NAME && p->x.kind <= CHAT_T_FLOAT);

    if (!starts || chat_at(p, CHAT_T_NAME, "else") ||
        chat_at(p, CHAT_T_NAME, "or") || chat_at(p, CHAT_T_NAME, "and"))
        return 0;
    if (chat_at(p, CHAT_T_NAME, "is"))
        return chat_wrong(p, "tests are no chain");
    struct chat_node *arg;
    if (parse_primary(p, &arg) || parse_postfix(p, &arg))
        return -1;
    x->b = wrap(p, arg);
    return x->b ? 0 : -1;
}

/* Behind the "is". */
static int parse_test(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *x = chat_new(p, CHAT_TEST), *no;
    bool negated, is_call;

    if (!x || chat_down(p) || chat_may(p, CHAT_T_NAME, "not", &negated))
        return -1;
    x->a = *out;
    x->text = p->x.text;
    if (p->x.kind == CHAT_T_NAME && !chat_has_test(x->text))
        return unknown(p, "test", x->text);
    if (chat_need(p, CHAT_T_NAME, NULL) ||
        chat_may(p, CHAT_T_OP, "(", &is_call) ||
        (is_call ? parse_arguments(p, &x->b) : parse_bare(p, x)))
        return -1;
    chat_up(p);
    *out = x;
    if (!negated)
        return 0;
    if (!(no = chat_new(p, CHAT_NOT)))
        return -1;
    no->a = x;
    *out = no;
    return 0;
}

/* | and is and calls, in any order. */
static int parse_filters(struct chat_parser *p, struct chat_node **out)
{
    unsigned length = 0;
    int rc = 0;

    while (!rc) {
        if (chat_at(p, CHAT_T_OP, "|"))
            rc = chat_filters(p, *out, false, out);
        else if (chat_at(p, CHAT_T_NAME, "is"))
            rc = chat_step(p) || parse_test(p, out) ? -1 : 0;
        else if (chat_at(p, CHAT_T_OP, "("))
            rc = above(p, out, parse_call);
        else
            return 0;
        if (!rc)
            rc = grow_chain(p, &length);
    }
    return -1;
}

static int parse_sign(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *const x = chat_new(
        p, chat_at(p, CHAT_T_OP, "-") ? CHAT_MINUS : CHAT_PLUS);

    if (!x || chat_down(p))
        return -1;
    *out = x;
    const int rc =
        chat_step(p) || parse_unary(p, false, &x->a) ? -1 : 0;
    chat_up(p);
    return rc;
}

static int parse_unary(struct chat_parser *p, bool filters,
                       struct chat_node **out)
{
    const bool sign = chat_at(p, CHAT_T_OP, "-") || chat_at(p, CHAT_T_OP, "+");

    if (sign ? parse_sign(p, out) : parse_primary(p, out))
        return -1;
    return parse_postfix(p, out) || (filters && parse_filters(p, out)) ? -1 : 0;
}

/* ---- operators ---------------------------------------------------------- */

/* The levels of arithmetic, the loosest first. */
static const char *const levels[][5] = {
    {"+", "-", NULL}, {"~", NULL}, {"*", "/", "//", "%", NULL}, {"**", NULL}};

#define LEVELS (sizeof levels / sizeof *levels)

static bool at_level(const struct chat_parser *p, size_t level)
{
    for (size_t i = 0; levels[level][i]; i++)
        if (chat_at(p, CHAT_T_OP, levels[level][i]))
            return true;
    return false;
}

static int parse_level(struct chat_parser *p, size_t level,
                       struct chat_node **out)
{
    unsigned length = 0;

    if (level == LEVELS)
        return parse_unary(p, true, out);
    if (parse_level(p, level + 1, out))
        return -1;
    while (at_level(p, level)) {
        struct chat_node *const x = chat_new(p, CHAT_BINARY);
        if (!x || grow_chain(p, &length))
            return -1;
        x->text = p->x.text;
        x->a = *out;
        *out = x;
        if (chat_step(p) || parse_level(p, level + 1, &x->b))
            return -1;
    }
    return 0;
}

/* A comparison is the current token: 1, its text in *op; also "not in". */
static int at_comparison(struct chat_parser *p, struct tok_text *op)
{
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    struct chat_lexer ahead = p->x;

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (chat_at(p, CHAT_T_OP, ops[i])) {
            *op = p->x.text;
            return 1;
        }
    *op = (struct tok_text){"in", 2};
    if (chat_at(p, CHAT_T_NAME, "in"))
        return 1;
    ahead.e = NULL;
    if (!chat_at(p, CHAT_T_NAME, "not") || chat_lex(&ahead) ||
        ahead.kind != CHAT_T_NAME || !chat_is(ahead.text, "in"))
        return 0;
    *op = (struct tok_text){"not in", 6};
    return chat_step(p) ? -1 : 1;
}

static int parse_comparison(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *x = NULL, **last = NULL;
    struct tok_text op;
    int rc;

    if (parse_level(p, 0, out))
        return -1;
    while ((rc = at_comparison(p, &op)) == 1) {
        if (!x) {
            if (!(x = chat_new(p, CHAT_COMPARE)))
                return -1;
            x->a = *out;
            *out = x;
            last = &x->b;
        }
        if (!(*last = chat_new(p, CHAT_BINARY)))
            return -1;
        (*last)->text = op;
        if (chat_step(p) || parse_level(p, 0, &(*last)->a))
            return -1;
        last = &(*last)->next;
    }
    return rc;
}

static int parse_not(struct chat_parser *p, struct chat_node **out)
{
    if (!chat_at(p, CHAT_T_NAME, "not"))
        return parse_comparison(p, out);
    struct chat_node *const x = chat_new(p, CHAT_NOT);
    if (!x || chat_down(p))
        return -1;
    *out = x;
    const int rc = chat_step(p) || parse_not(p, &x->a) ? -1 : 0;
    chat_up(p);
    return rc;
}

static int parse_and(struct chat_parser *p, struct chat_node **out)
{
    unsigned length = 0;

    if (parse_not(p, out))
        return -1;
    while (chat_at(p, CHAT_T_NAME, "and")) {
        struct chat_node *const x = chat_new(p, CHAT_AND);
        if (!x || grow_chain(p, &length))
            return -1;
        x->a = *out;
        *out = x;
        if (chat_step(p) || parse_not(p, &x->b))
            return -1;
    }
    return 0;
}

static int parse_or(struct chat_parser *p, struct chat_node **out)
{
    unsigned length = 0;

    if (parse_and(p, out))
        return -1;
    while (chat_at(p, CHAT_T_NAME, "or")) {
        struct chat_node *const x = chat_new(p, CHAT_OR);
        if (!x || grow_chain(p, &length))
            return -1;
        x->a = *out;
        *out = x;
        if (chat_step(p) || parse_and(p, &x->b))
            return -1;
    }
    return 0;
}

/* a if b else c; without the else it is undefined where b is false. */
static int parse_choice(struct chat_parser *p, struct chat_node **out)
{
    unsigned length = 0;
    bool is_else;

    if (parse_or(p, out))
        return -1;
    while (chat_at(p, CHAT_T_NAME, "if")) {
        struct chat_node *const x = chat_new(p, CHAT_CHOOSE);
        if (!x || grow_chain(p, &length) || chat_down(p))
            return -1;
        x->a = *out;
        *out = x;
        if (chat_step(p) || parse_or(p, &x->b) ||
            chat_may(p, CHAT_T_NAME, "else", &is_else) ||
            (is_else && parse_choice(p, &x->c)))
            return -1;
        chat_up(p);
    }
    return 0;
}

/* Does the current token end a tuple? */
static bool ends_tuple(const struct chat_parser *p)
{
    return p->x.kind == CHAT_T_BLOCK_END || p->x.kind == CHAT_T_PRINT_END ||
           chat_at(p, CHAT_T_OP, ")") || chat_at(p, CHAT_T_OP, "]");
}

int chat_expression(struct chat_parser *p, bool tuples, bool conditions,
                    struct chat_node **out)
{
    int (*const parse)(struct chat_parser *, struct chat_node **) =
        conditions ? parse_choice : parse_or;
    bool more;

    if (chat_down(p) || parse(p, out))
        return -1;
    if (tuples && chat_at(p, CHAT_T_OP, ",")) {
        struct chat_node *const x = chat_new(p, CHAT_MAKE_TUPLE);
        struct chat_node **last = &(*out)->next;
        if (!x)
            return -1;
        x->a = *out;
        *out = x;
        while (!chat_may(p, CHAT_T_OP, ",", &more) && more && !ends_tuple(p)) {
            if (parse(p, last))
                return -1;
            last = &(*last)->next;
        }
        if (more && !ends_tuple(p))
            return -1;
    }
    chat_up(p);
    return 0;
}

/* ---- what is assigned to ------------------------------------------------ */

static int parse_target_name(struct chat_parser *p, bool attributes,
                             struct chat_node **out)
{
    struct chat_node *const x = chat_new(p, CHAT_NAME);
    bool is_dot;

    if (!x)
        return -1;
    *out = x;
    x->text = p->x.text;
    if (chat_need(p, CHAT_T_NAME, NULL) ||
        chat_may(p, CHAT_T_OP, ".", &is_dot))
        return -1;
    if (!is_dot)
        return 0;
    if (!attributes || !(*out = chat_new(p, CHAT_GET)))
        return chat_wrong(p, "an attribute cannot be assigned to here");
    (*out)->a = x;
    (*out)->text = p->x.text;
    return chat_need(p, CHAT_T_NAME, NULL);
}

/* A name, or names in brackets. */
static int parse_target_item(struct chat_parser *p, bool attributes,
                             struct chat_node **out)
{
    bool open;

    if (chat_may(p, CHAT_T_OP, "(", &open))
        return -1;
    if (!open)
        return parse_target_name(p, attributes, out);
    if (chat_down(p) || chat_target(p, attributes, out))
        return -1;
    chat_up(p);
    return chat_need(p, CHAT_T_OP, ")");
}

int chat_target(struct chat_parser *p, bool attributes, struct chat_node **out)
{
    struct chat_node *x, **last;
    bool more;

    if (parse_target_item(p, attributes, out) ||
        chat_may(p, CHAT_T_OP, ",", &more))
        return -1;
    if (!more)
        return 0;
    if (!(x = chat_new(p, CHAT_MAKE_TUPLE)))
        return -1;
    x->a = *out;
    *out = x;
    last = &x->a->next;
    while (more && (chat_at(p, CHAT_T_OP, "(") ||
                    (p->x.kind == CHAT_T_NAME &&
                     !chat_at(p, CHAT_T_NAME, "in")))) {
        if (parse_target_item(p, attributes, last) ||
            chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
        last = &(*last)->next;
    }
    return 0;
}
