/*
 * Chat templates: statements to a tree.
 *
 *     body := (text | {{ expression }} | {% statement %})*
 *
 * Blocks are in each other at most CHAT_DEPTH deep, brackets of expressions
 * counted; so everything that walks the tree has an end.
 */
#include "chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int chat_wrong(struct chat_parser *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)pq_vfail(p->e, PQ_EFORMAT, fmt, ap);
    va_end(ap);
    return pq_error_in(p->e, "line %u", p->x.line);
}

struct chat_node *chat_new(struct chat_parser *p, enum chat_op op)
{
    struct chat_node *const x = pq_arena_alloc(&p->chat->arena, 1, sizeof *x);

    if (!x) {
        pq_fail_nomem(p->e);
        return NULL;
    }
    x->op = op;
    x->line = p->x.line;
    return x;
}

int chat_step(struct chat_parser *p)
{
    return chat_lex(&p->x);
}

bool chat_at(const struct chat_parser *p, enum chat_token kind, const char *s)
{
    return p->x.kind == kind && (!s || chat_is(p->x.text, s));
}

int chat_need(struct chat_parser *p, enum chat_token kind, const char *s)
{
    static const char *const kinds[] = {
        "text",   "a block",  "the end of the tag", "{{",       "}}",
        "a name", "a string", "a number",           "a number", "an operator",
        "the end"};

    if (chat_at(p, kind, s))
        return chat_step(p);
    if (p->x.kind >= CHAT_T_NAME && p->x.kind < CHAT_T_END)
        return chat_wrong(p, "expected %s, found \"%.*s\"", s ? s : kinds[kind],
                          chat_shown(p->x.text, 64), p->x.text.s);
    return chat_wrong(p, "expected %s, found %s", s ? s : kinds[kind],
                      kinds[p->x.kind]);
}

int chat_may(struct chat_parser *p, enum chat_token kind, const char *s,
             bool *was)
{
    *was = chat_at(p, kind, s);
    return *was ? chat_step(p) : 0;
}

int chat_down(struct chat_parser *p)
{
    if (p->depth >= CHAT_DEPTH)
        return chat_wrong(p, "more than %u blocks and brackets in each other",
                          CHAT_DEPTH);
    p->depth++;
    return 0;
}

void chat_up(struct chat_parser *p)
{
    p->depth--;
}

/* ---- bodies ------------------------------------------------------------- */

static int parse_statement(struct chat_parser *p, struct chat_node **out);

/* Is the word one of those, "else endif", that end a body? */
static bool ends_body(const struct chat_parser *p, const char *ends)
{
    char list[64], *at = list, *word;

    snprintf(list, sizeof list, "%s", ends);
    while ((word = strsep(&at, " ")))
        if (chat_at(p, CHAT_T_NAME, word))
            return true;
    return false;
}

static int parse_print(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *const x = chat_new(p, CHAT_PRINT);

    *out = x;
    return !x || chat_step(p) || chat_expression(p, true, true, &x->a) ||
                   chat_need(p, CHAT_T_PRINT_END, NULL)
               ? -1
               : 0;
}

static int parse_text(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *const x = p->x.text.n ? chat_new(p, CHAT_TEXT) : NULL;

    if (p->x.text.n && !x)
        return -1;
    if (x)
        x->text = p->x.text;
    *out = x;
    return chat_step(p);
}

/*
 * Statements up to one of `ends`, whose name is then the current token; ""
 * stands for the end of the template.
 */
static int parse_body(struct chat_parser *p, const char *ends,
                      struct chat_node **out)
{
    struct chat_node **last = out;
    int rc = 0;

    *out = NULL;
    while (!rc && p->x.kind != CHAT_T_END) {
        if (p->x.kind == CHAT_T_TEXT) {
            rc = parse_text(p, last);
        } else if (p->x.kind == CHAT_T_PRINT) {
            rc = parse_print(p, last);
        } else {
            if (chat_need(p, CHAT_T_BLOCK, NULL))
                return -1;
            if (ends_body(p, ends))
                return 0;
            rc = parse_statement(p, last);
        }
        if (!rc && *last)
            last = &(*last)->next;
    }
    if (!rc && *ends)
        return chat_wrong(p, "the template ends where %s should be", ends);
    return rc;
}

/* ... %} body {% end %} */
static int parse_block(struct chat_parser *p, const char *end,
                       struct chat_node **out)
{
    return chat_need(p, CHAT_T_BLOCK_END, NULL) || chat_down(p) ||
                   parse_body(p, end, out) || chat_step(p) ||
                   chat_need(p, CHAT_T_BLOCK_END, NULL)
               ? -1
               : (chat_up(p), 0);
}

/* ---- statements --------------------------------------------------------- */

/* if and elif; the latter are one in the else of the other, side by side. */
static int parse_if(struct chat_parser *p, struct chat_node *x)
{
    if (chat_down(p))
        return -1;
    for (;;) {
        if (chat_expression(p, false, true, &x->a) ||
            chat_need(p, CHAT_T_BLOCK_END, NULL) ||
            parse_body(p, "elif else endif", &x->b))
            return -1;
        if (!chat_at(p, CHAT_T_NAME, "elif"))
            break;
        if (chat_step(p) || !(x->c = chat_new(p, CHAT_IF)))
            return -1;
        x = x->c;
    }
    if (chat_at(p, CHAT_T_NAME, "else") &&
        (chat_step(p) || chat_need(p, CHAT_T_BLOCK_END, NULL) ||
         parse_body(p, "endif", &x->c)))
        return -1;
    chat_up(p);
    return chat_step(p) || chat_need(p, CHAT_T_BLOCK_END, NULL) ? -1 : 0;
}

static int parse_for(struct chat_parser *p, struct chat_node *x)
{
    bool is_if;

    if (chat_target(p, false, &x->a) || chat_need(p, CHAT_T_NAME, "in") ||
        chat_expression(p, true, false, &x->b) ||
        chat_may(p, CHAT_T_NAME, "if", &is_if) ||
        (is_if && chat_expression(p, false, true, &x->e)))
        return -1;
    if (chat_at(p, CHAT_T_NAME, "recursive"))
        return pq_fail(p->e, PQ_EUNSUPPORTED,
                       "line %u: recursive loops are not supported", p->x.line);
    p->loops++;
    if (chat_need(p, CHAT_T_BLOCK_END, NULL) || chat_down(p) ||
        parse_body(p, "else endfor", &x->c))
        return -1;
    p->loops--;
    if (chat_at(p, CHAT_T_NAME, "else") &&
        (chat_step(p) || chat_need(p, CHAT_T_BLOCK_END, NULL) ||
         parse_body(p, "endfor", &x->d)))
        return -1;
    chat_up(p);
    return chat_step(p) || chat_need(p, CHAT_T_BLOCK_END, NULL) ? -1 : 0;
}

/* A body whose loops are not those around it, which it cannot leave. */
static int parse_apart(struct chat_parser *p, const char *end,
                       struct chat_node **out)
{
    const unsigned loops = p->loops;

    p->loops = 0;
    const int rc = parse_block(p, end, out);
    p->loops = loops;
    return rc;
}

/* | a | b behind what a block will give. */
static int parse_hole(struct chat_parser *p, bool first, struct chat_node **out)
{
    struct chat_node *const hole = chat_new(p, CHAT_HOLE);

    return hole ? chat_filters(p, hole, first, out) : -1;
}

static int parse_set(struct chat_parser *p, struct chat_node *x)
{
    bool is_value;

    if (chat_target(p, true, &x->a) || chat_may(p, CHAT_T_OP, "=", &is_value))
        return -1;
    if (is_value)
        return chat_expression(p, true, true, &x->b) ||
                       chat_need(p, CHAT_T_BLOCK_END, NULL)
                   ? -1
                   : 0;
    x->op = CHAT_SET_TEXT;
    if (chat_at(p, CHAT_T_OP, "|") && parse_hole(p, false, &x->b))
        return -1;
    return parse_apart(p, "endset", &x->c);
}

/* name, name = default, ... ) */
static int parse_parameters(struct chat_parser *p, struct chat_node **last)
{
    bool more, is_default, is_end;

    for (;;) {
        if (chat_may(p, CHAT_T_OP, ")", &is_end) || is_end)
            return is_end ? 0 : -1;
        struct chat_node *const x = chat_new(p, CHAT_ARG);
        if (!x)
            return -1;
        x->text = p->x.text;
        *last = x;
        last = &x->next;
        if (chat_need(p, CHAT_T_NAME, NULL) ||
            chat_may(p, CHAT_T_OP, "=", &is_default) ||
            (is_default && chat_expression(p, false, true, &x->a)) ||
            chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
        if (!more)
            return chat_need(p, CHAT_T_OP, ")");
    }
}

static int parse_macro(struct chat_parser *p, struct chat_node *x)
{
    x->text = p->x.text;
    return chat_need(p, CHAT_T_NAME, NULL) || chat_need(p, CHAT_T_OP, "(") ||
                   parse_parameters(p, &x->a) ||
                   parse_apart(p, "endmacro", &x->b)
               ? -1
               : 0;
}

/* {% call(x) m(1) %}: the body is a macro that m sees as `caller`. */
static int parse_block_call(struct chat_parser *p, struct chat_node *x)
{
    bool open;

    x->b = chat_new(p, CHAT_DEFINE);
    if (!x->b || chat_may(p, CHAT_T_OP, "(", &open) ||
        (open && parse_parameters(p, &x->b->a)) ||
        chat_expression(p, false, true, &x->a))
        return -1;
    x->b->text = (struct tok_text){"caller", 6};
    if (x->a->op != CHAT_CALL)
        return chat_wrong(p, "expected a call");
    return parse_apart(p, "endcall", &x->b->b);
}

static int parse_with(struct chat_parser *p, struct chat_node *x)
{
    struct chat_node **last = &x->a;
    bool more = p->x.kind == CHAT_T_NAME;

    while (more) {
        struct chat_node *const set = chat_new(p, CHAT_SET);
        if (!set)
            return -1;
        *last = set;
        last = &set->next;
        if (chat_target(p, false, &set->a) || chat_need(p, CHAT_T_OP, "=") ||
            chat_expression(p, false, true, &set->b) ||
            chat_may(p, CHAT_T_OP, ",", &more))
            return -1;
    }
    return parse_block(p, "endwith", &x->b);
}

static int parse_filtered(struct chat_parser *p, struct chat_node *x)
{
    return parse_hole(p, true, &x->a) || parse_apart(p, "endfilter", &x->b) ? -1
                                                                            : 0;
}

static int parse_span(struct chat_parser *p, struct chat_node *x)
{
    p->chat->spans = true;
    return parse_apart(p, "endgeneration", &x->a);
}

static int parse_leave(struct chat_parser *p, struct chat_node *x)
{
    (void)x;
    if (p->loops == 0)
        return chat_wrong(p, "break or continue outside of a loop");
    return chat_need(p, CHAT_T_BLOCK_END, NULL);
}

static const struct {
    const char *name;
    enum chat_op op;
    int (*parse)(struct chat_parser *p, struct chat_node *x);
} statements[] = {
    {"if", CHAT_IF, parse_if},
    {"for", CHAT_FOR, parse_for},
    {"set", CHAT_SET, parse_set},
    {"macro", CHAT_DEFINE, parse_macro},
    {"with", CHAT_WITH, parse_with},
    {"call", CHAT_BLOCK, parse_block_call},
    {"filter", CHAT_FILTERED, parse_filtered},
    {"generation", CHAT_SPAN, parse_span},
    {"break", CHAT_BREAK, parse_leave},
    {"continue", CHAT_CONTINUE, parse_leave},
};

static int parse_statement(struct chat_parser *p, struct chat_node **out)
{
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!chat_at(p, CHAT_T_NAME, statements[i].name))
            continue;
        *out = chat_new(p, statements[i].op);
        return !*out || chat_step(p) || statements[i].parse(p, *out) ? -1 : 0;
    }
    if (p->x.kind != CHAT_T_NAME)
        return chat_need(p, CHAT_T_NAME, NULL);
    pq_fail(p->e, PQ_EUNSUPPORTED, "the statement \"%.*s\" is not supported",
            chat_shown(p->x.text, 64), p->x.text.s);
    return pq_error_in(p->e, "line %u", p->x.line);
}

int chat_parse(struct pq_chat *c, const char *s, size_t n, struct pq_error *e)
{
    struct chat_parser p = {.chat = c, .e = e};
    const size_t valid = pq_utf8_prefix(s, n);

    if (n > PQ_CHAT_TEMPLATE)
        return pq_fail(e, PQ_ELIMIT, "longer than %u bytes", PQ_CHAT_TEMPLATE);
    if (valid < n)
        return pq_fail(e, PQ_EFORMAT, "byte %zu is not UTF-8", valid);
    return chat_lex_begin(&p.x, &c->arena, s, n, e) || chat_step(&p) ||
                   parse_body(&p, "", &c->body)
               ? -1
               : 0;
}
