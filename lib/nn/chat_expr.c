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

#include <string.h>

static int parse_unary(struct chat_parser *p, bool filters,
                       struct chat_node **out);

/* ---- filters and tests -------------------------------------------------- */

/* An argument is a node of its own. */
static struct chat_node *wrap(struct chat_parser *p, struct chat_node *in)
{
    struct chat_node *const x = chat_new(p, CHAT_ARG);

    if (x)
        x->a = in;
    return x;
}

static int unknown(struct chat_parser *p, const char *what, struct tok_text t)
{
    pq_fail(p->e, PQ_EUNSUPPORTED, "the %s \"%.*s\" is not supported", what,
            chat_shown(t, 64), t.s);
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
    return is_call ? chat_arguments(p, &x->b) : 0;
}

int chat_filters(struct chat_parser *p, struct chat_node *in, bool first,
                 struct chat_node **out)
{
    unsigned length = 0;

    *out = in;
    while (first || chat_at(p, CHAT_T_OP, "|")) {
        struct chat_node *const x = chat_new(p, CHAT_FILTER);
        if (!x || chat_chain(p, &length) || chat_down(p))
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
    const bool starts = chat_at(p, CHAT_T_OP, "[") ||
                        chat_at(p, CHAT_T_OP, "{") ||
                        (p->x.kind >= CHAT_T_NAME && p->x.kind <= CHAT_T_FLOAT);

    if (!starts || chat_at(p, CHAT_T_NAME, "else") ||
        chat_at(p, CHAT_T_NAME, "or") || chat_at(p, CHAT_T_NAME, "and"))
        return 0;
    if (chat_at(p, CHAT_T_NAME, "is"))
        return chat_wrong(p, "tests are no chain");
    struct chat_node *arg;
    if (chat_primary(p, &arg) || chat_postfix(p, &arg))
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
        (is_call ? chat_arguments(p, &x->b) : parse_bare(p, x)))
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
static int next_filter(struct chat_parser *p, struct chat_node **out)
{
    int rc;

    if (chat_at(p, CHAT_T_OP, "|"))
        rc = chat_filters(p, *out, false, out);
    else if (chat_at(p, CHAT_T_NAME, "is"))
        rc = chat_step(p) || parse_test(p, out);
    else if (chat_at(p, CHAT_T_OP, "("))
        rc = chat_above(p, out, chat_call_of);
    else
        return 0;
    return rc ? -1 : 1;
}

static int parse_sign(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *const x =
        chat_new(p, chat_at(p, CHAT_T_OP, "-") ? CHAT_MINUS : CHAT_PLUS);

    if (!x || chat_down(p))
        return -1;
    *out = x;
    const int rc = chat_step(p) || parse_unary(p, false, &x->a) ? -1 : 0;
    chat_up(p);
    return rc;
}

static int parse_unary(struct chat_parser *p, bool filters,
                       struct chat_node **out)
{
    const bool sign = chat_at(p, CHAT_T_OP, "-") || chat_at(p, CHAT_T_OP, "+");

    if (sign ? parse_sign(p, out) : chat_primary(p, out))
        return -1;
    return chat_postfix(p, out) || (filters && chat_series(p, out, next_filter))
               ? -1
               : 0;
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
        if (!x || chat_chain(p, &length))
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

/* Operands that `below` reads, with `word` between them. */
static int parse_joined(struct chat_parser *p, const char *word,
                        enum chat_op op, chat_part *below,
                        struct chat_node **out)
{
    unsigned length = 0;

    if (below(p, out))
        return -1;
    while (chat_at(p, CHAT_T_NAME, word)) {
        struct chat_node *const x = chat_new(p, op);
        if (!x || chat_chain(p, &length))
            return -1;
        x->a = *out;
        *out = x;
        if (chat_step(p) || below(p, &x->b))
            return -1;
    }
    return 0;
}

static int parse_and(struct chat_parser *p, struct chat_node **out)
{
    return parse_joined(p, "and", CHAT_AND, parse_not, out);
}

static int parse_or(struct chat_parser *p, struct chat_node **out)
{
    return parse_joined(p, "or", CHAT_OR, parse_and, out);
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
        if (!x || chat_chain(p, &length) || chat_down(p))
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
    if (chat_need(p, CHAT_T_NAME, NULL) || chat_may(p, CHAT_T_OP, ".", &is_dot))
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
    while (more &&
           (chat_at(p, CHAT_T_OP, "(") ||
            (p->x.kind == CHAT_T_NAME && !chat_at(p, CHAT_T_NAME, "in")))) {
        if (parse_target_item(p, attributes, last) ||
            chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
        last = &(*last)->next;
    }
    return 0;
}
