/*
 * Chat templates: statements are run.
 *
 * A scope is a list of names.  Loops have a new one in each round, and so
 * have macros, with, filter, generation and the body of a set; if has none.
 * `set` puts a name into the innermost scope, so what a loop sets is gone
 * after the round, but for the attributes of a namespace.
 */
#include "chat.h"

#include <string.h>

int chat_enter(struct chat_run *r, struct chat_scope *outer)
{
    struct chat_scope *const s = chat_take(r, 1, sizeof *s);

    if (!s)
        return -1;
    s->outer = outer;
    r->scope = s;
    return 0;
}

int chat_declare(struct chat_run *r, struct tok_text name, struct chat_value v)
{
    return chat_put(r, &r->scope->names, chat_string(name.s, name.n), v);
}

static int write_text(struct chat_run *r, const char *s, size_t n)
{
    if (n > PQ_CHAT_TEXT || r->out->n > PQ_CHAT_TEXT - n)
        return chat_fail(r, PQ_ELIMIT, "writes more than %u bytes",
                         PQ_CHAT_TEXT);
    if (r->inner && chat_count(r, n))
        return -1;
    pq_buf_add(r->out, s, n);
    return r->out->failed ? pq_fail_nomem(r->e) : chat_spend(r, n / 64);
}

/* ---- bodies whose text is a value --------------------------------------- */

/* Runs a body in the present scope; what it writes is a value. */
static int capture(struct chat_run *r, const struct chat_node *body,
                   struct chat_value *out)
{
    struct pq_buf b = {0}, *const before = r->out;
    const bool inner = r->inner;

    r->out = &b;
    r->inner = true;
    const int rc = chat_run_body(r, body);
    r->out = before;
    r->inner = inner;
    r->bytes -= b.n; /* chat_keep() counts it */
    if (!rc)
        return chat_keep(r, &b, out);
    pq_buf_release(&b);
    return -1;
}

/* The same in a scope of its own, then through filters. */
static int capture_apart(struct chat_run *r, const struct chat_node *body,
                         const struct chat_node *filters,
                         struct chat_value *out)
{
    struct chat_scope *const before = r->scope;
    const struct chat_value hole = r->hole;

    if (chat_enter(r, before))
        return -1;
    int rc = capture(r, body, out);
    r->scope = before;
    if (!rc && filters) {
        r->hole = *out;
        rc = chat_eval(r, filters, out);
        r->hole = hole;
    }
    return rc;
}

/* ---- set ---------------------------------------------------------------- */

static int set_attribute(struct chat_run *r, const struct chat_node *to,
                         struct chat_value v)
{
    struct chat_value of;

    if (chat_eval(r, to->a, &of))
        return -1;
    if (of.type != CHAT_NAMESPACE)
        return chat_fail(r, PQ_EARG, "an attribute of a %s cannot be set",
                         chat_type_name(of));
    if (*to->text.s == '_')
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "the attribute \"%.*s\" is not allowed",
                         chat_shown(to->text, 64), to->text.s);
    return chat_put(r, of.dict, chat_string(to->text.s, to->text.n), v);
}

static int assign(struct chat_run *r, const struct chat_node *to,
                  struct chat_value v)
{
    struct chat_list *l;
    size_t i = 0;

    if (to->op == CHAT_NAME)
        return chat_declare(r, to->text, v);
    if (to->op == CHAT_GET)
        return set_attribute(r, to, v);
    if (chat_elements(r, v, &l))
        return -1;
    for (const struct chat_node *x = to->a; x; x = x->next, i++)
        if (i < l->n && assign(r, x, l->v[i]))
            return -1;
    return i == l->n
               ? 0
               : chat_fail(r, PQ_EARG, "%zu values for %zu names", l->n, i);
}

static int run_set(struct chat_run *r, const struct chat_node *x)
{
    struct chat_value v;

    return (x->op == CHAT_SET ? chat_eval(r, x->b, &v)
                              : capture_apart(r, x->c, x->b, &v)) ||
                   assign(r, x->a, v)
               ? -1
               : 0;
}

static int run_with(struct chat_run *r, const struct chat_node *x)
{
    struct chat_scope *const outer = r->scope, *inner;
    struct chat_value v;
    int rc = chat_enter(r, outer);

    inner = r->scope;
    for (const struct chat_node *k = x->a; !rc && k; k = k->next) {
        r->scope = outer; /* the values are not yet in it */
        rc = chat_eval(r, k->b, &v);
        r->scope = inner;
        rc = rc ? rc : assign(r, k->a, v);
    }
    rc = rc ? rc : chat_run_body(r, x->b);
    r->scope = outer;
    return rc;
}

/* ---- loops -------------------------------------------------------------- */

/* The elements that the condition of a loop lets through. */
static int filter_elements(struct chat_run *r, const struct chat_node *x,
                           struct chat_list **of)
{
    struct chat_scope *const outer = r->scope;
    struct chat_value made, yes;
    const struct chat_list *const all = *of;
    int rc = chat_new_list(r, CHAT_LIST, &made);

    for (size_t i = 0; !rc && i < all->n; i++) {
        rc = chat_enter(r, outer) || assign(r, x->a, all->v[i]) ||
             chat_eval(r, x->e, &yes);
        if (!rc && chat_truth(yes))
            rc = chat_add(r, made.list, all->v[i]);
    }
    r->scope = outer;
    *of = made.list;
    return rc ? -1 : 0;
}

static int run_round(struct chat_run *r, const struct chat_node *x,
                     struct chat_loop *l, struct chat_scope *outer)
{
    const struct chat_value v = {.type = CHAT_LOOP, .loop = l};

    if (chat_enter(r, outer) ||
        chat_declare(r, (struct tok_text){"loop", 4}, v) ||
        assign(r, x->a, l->of->v[l->at]))
        return -1;
    return chat_run_body(r, x->c);
}

static int run_for(struct chat_run *r, const struct chat_node *x)
{
    struct chat_scope *const outer = r->scope;
    struct chat_loop *const l = chat_take(r, 1, sizeof *l);
    struct chat_value of;
    struct chat_list *list;
    int rc = 0;

    if (!l || chat_eval(r, x->b, &of) || chat_elements(r, of, &list) ||
        (x->e && filter_elements(r, x, &list)))
        return -1;
    *l = (struct chat_loop){.of = list};
    for (; !rc && l->at < list->n && r->flow != CHAT_LEAVE; l->at++) {
        rc = run_round(r, x, l, outer);
        if (r->flow == CHAT_NEXT)
            r->flow = CHAT_GO_ON;
    }
    r->scope = outer;
    r->flow = CHAT_GO_ON;
    if (rc || list->n > 0 || !x->d)
        return rc;
    rc = chat_enter(r, outer) || chat_run_body(r, x->d) ? -1 : 0;
    r->scope = outer;
    return rc;
}

/* ---- macros ------------------------------------------------------------- */

static int define(struct chat_run *r, const struct chat_node *x)
{
    struct chat_macro *const m = chat_take(r, 1, sizeof *m);

    if (!m)
        return -1;
    *m = (struct chat_macro){x, r->scope};
    return chat_declare(r, x->text,
                        (struct chat_value){.type = CHAT_MACRO, .macro = m});
}

/* Parameters get their arguments, or defaults, or are undefined. */
static int take_parameters(struct chat_run *r, const struct chat_node *x,
                           const struct chat_args *a)
{
    struct chat_value v;
    size_t at = 0, named = 0;
    int found;

    for (const struct chat_node *k = x->a; k; k = k->next, at++) {
        found = chat_find(r, &a->named, chat_string(k->text.s, k->text.n), &v);
        if (found < 0)
            return -1;
        if (found && at < a->n)
            return chat_fail(r, PQ_EARG, "the macro has \"%.*s\" twice",
                             chat_shown(k->text, 64), k->text.s);
        named += (size_t)found;
        if (at < a->n)
            v = a->v[at];
        else if (!found && !k->a)
            v = chat_undefined(k->text.s, k->text.n);
        else if (!found && chat_eval(r, k->a, &v))
            return -1;
        if (chat_declare(r, k->text, v))
            return -1;
    }
    found = chat_find(r, &a->named, chat_word("caller"), &v);
    if (found < 0 ||
        (found && chat_declare(r, (struct tok_text){"caller", 6}, v)))
        return -1;
    named += (size_t)found;
    return at >= a->n && named == a->named.n
               ? 0
               : chat_fail(r, PQ_EARG,
                           "the macro \"%.*s\" has no such arguments",
                           chat_shown(x->text, 64), x->text.s);
}

int chat_call_macro(struct chat_run *r, const struct chat_macro *m,
                    const struct chat_args *a, struct chat_value *out)
{
    struct chat_scope *const before = r->scope;

    if (r->calls == CHAT_CALLS)
        return chat_fail(r, PQ_ELIMIT, "more than %u macros in each other",
                         CHAT_CALLS);
    r->calls++;
    const int rc = chat_enter(r, m->scope) || take_parameters(r, m->node, a) ||
                           capture(r, m->node->b, out)
                       ? -1
                       : 0;
    r->calls--;
    r->scope = before;
    return rc;
}

static int run_block_call(struct chat_run *r, const struct chat_node *x)
{
    struct chat_macro *const m = chat_take(r, 1, sizeof *m);
    struct chat_value v;

    if (!m)
        return -1;
    *m = (struct chat_macro){x->b, r->scope};
    v = (struct chat_value){.type = CHAT_MACRO, .macro = m};
    return chat_call_block(r, x->a, v, &v) || chat_to_string(r, v, &v)
               ? -1
               : write_text(r, v.s.s, v.s.n);
}

/* ---- what the model is to write ----------------------------------------- */

static int run_span(struct chat_run *r, const struct chat_node *x)
{
    struct chat_scope *const outer = r->scope;
    struct pq_chat_spans *const s = r->spans;
    const size_t from = r->out->n;

    if (r->inner)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "generation in a macro, a set or a filter is not "
                         "supported");
    const int rc = chat_enter(r, outer) || chat_run_body(r, x->a) ? -1 : 0;
    r->scope = outer;
    return rc || !s ? rc : chat_add_span(s, from, r->out->n, r->e);
}

/* ---- all of them -------------------------------------------------------- */

static int run_print(struct chat_run *r, const struct chat_node *x)
{
    struct chat_value v;

    if (chat_eval(r, x->a, &v) || chat_to_string(r, v, &v))
        return -1;
    return write_text(r, v.s.s, v.s.n);
}

static int run_if(struct chat_run *r, const struct chat_node *x)
{
    struct chat_value v;

    for (;;) {
        if (chat_eval(r, x->a, &v))
            return -1;
        if (chat_truth(v))
            return chat_run_body(r, x->b);
        if (!x->c || x->c->op != CHAT_IF || x->c->next)
            return chat_run_body(r, x->c);
        x = x->c; /* elif */
    }
}

static int run_filtered(struct chat_run *r, const struct chat_node *x)
{
    struct chat_value v;

    return capture_apart(r, x->b, x->a, &v) || chat_to_string(r, v, &v)
               ? -1
               : write_text(r, v.s.s, v.s.n);
}

static int run_statement(struct chat_run *r, const struct chat_node *x)
{
    switch (x->op) {
    case CHAT_TEXT:
        return write_text(r, x->text.s, x->text.n);
    case CHAT_PRINT:
        return run_print(r, x);
    case CHAT_IF:
        return run_if(r, x);
    case CHAT_FOR:
        return run_for(r, x);
    case CHAT_DEFINE:
        return define(r, x);
    case CHAT_WITH:
        return run_with(r, x);
    case CHAT_FILTERED:
        return run_filtered(r, x);
    case CHAT_BLOCK:
        return run_block_call(r, x);
    case CHAT_SPAN:
        return run_span(r, x);
    case CHAT_BREAK:
    case CHAT_CONTINUE:
        r->flow = x->op == CHAT_BREAK ? CHAT_LEAVE : CHAT_NEXT;
        return 0;
    default:
        return run_set(r, x);
    }
}

int chat_run_body(struct chat_run *r, const struct chat_node *x)
{
    int rc = 0;

    if (r->frames == CHAT_FRAMES)
        return chat_fail(r, PQ_ELIMIT, "goes deeper than %u", CHAT_FRAMES);
    r->frames++;
    for (; !rc && x && r->flow == CHAT_GO_ON; x = x->next) {
        r->line = x->line;
        rc = chat_spend(r, 1) ? -1 : run_statement(r, x);
    }
    r->frames--;
    return rc;
}
