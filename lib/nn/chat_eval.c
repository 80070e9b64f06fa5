/*
 * Chat templates: expressions are computed.
 *
 * x.name is a method or an attribute, or else what stands under that key;
 * x["name"] is what stands under the key, or else the other.  What is not
 * there is undefined: it prints as nothing, is false, has no elements, and
 * fails, named, where it is asked for more.
 */
#include "chat.h"

#include <string.h>

/* ---- names and attributes ----------------------------------------------- */

static int name_of(struct chat_run *r, struct tok_text name,
                   struct chat_value *out)
{
    const struct chat_value key = chat_string(name.s, name.n);

    for (const struct chat_scope *s = r->scope; s; s = s->outer) {
        const int found = chat_find(r, &s->names, key, out);
        if (found)
            return found < 0 ? -1 : 0;
    }
    const int f = chat_function_named(r, name);
    *out = f < 0 ? chat_undefined(name.s, name.n)
                 : (struct chat_value){.type = CHAT_FUNCTION, .function = f};
    return 0;
}

static int loop_attribute(struct chat_run *r, const struct chat_loop *l,
                          struct tok_text name, struct chat_value *out)
{
    const int64_t n = (int64_t)l->of->n, at = (int64_t)l->at;

    if (chat_is(name, "index"))
        *out = chat_int(at + 1);
    else if (chat_is(name, "index0"))
        *out = chat_int(at);
    else if (chat_is(name, "revindex"))
        *out = chat_int(n - at);
    else if (chat_is(name, "revindex0"))
        *out = chat_int(n - at - 1);
    else if (chat_is(name, "first"))
        *out = chat_bool(at == 0);
    else if (chat_is(name, "last"))
        *out = chat_bool(at + 1 == n);
    else if (chat_is(name, "length"))
        *out = chat_int(n);
    else if (chat_is(name, "depth"))
        *out = chat_int(1);
    else if (chat_is(name, "depth0"))
        *out = chat_int(0);
    else if (chat_is(name, "previtem"))
        *out = at > 0 ? l->of->v[at - 1] : chat_undefined("previtem", 8);
    else if (chat_is(name, "nextitem"))
        *out = at + 1 < n ? l->of->v[at + 1] : chat_undefined("nextitem", 8);
    else
        return chat_fail(r, PQ_EUNSUPPORTED, "loop.%.*s is not supported",
                         chat_shown(name, 64), name.s);
    return 0;
}

/* A message for what is not there. */
static int missing(struct chat_run *r, struct chat_value of,
                   struct tok_text name, struct chat_value *out)
{
    struct pq_buf b = {0};

    pq_buf_printf(&b, "%.*s of a %s", chat_shown(name, 64), name.s,
                  chat_type_name(of));
    if (chat_keep(r, &b, out))
        return -1;
    *out = chat_undefined(out->s.s, out->s.n);
    return 0;
}

static int bind_method(struct chat_run *r, struct chat_value of,
                       struct tok_text name, struct chat_value *out)
{
    struct chat_method *const m = chat_take(r, 1, sizeof *m);

    if (!m)
        return -1;
    *m = (struct chat_method){of, name};
    *out = (struct chat_value){.type = CHAT_METHOD, .method = m};
    return 0;
}

/* 1: what stands under a key, or at a place; 0: nothing does. */
static int element_of(struct chat_run *r, struct chat_value of,
                      struct chat_value key, struct chat_value *out)
{
    int64_t at = key.type == CHAT_BOOL ? key.b : key.i, n;

    if (of.type == CHAT_DICT)
        return chat_find(r, of.dict, key, out);
    if ((key.type != CHAT_INT && key.type != CHAT_BOOL) ||
        of.type < CHAT_STRING || of.type > CHAT_TUPLE)
        return 0;
    if (chat_plain(r, of) || chat_length(r, of, &n))
        return -1;
    at += at < 0 ? n : 0;
    if (at < 0 || at >= n)
        return 0;
    if (of.type != CHAT_STRING) {
        *out = of.list->v[at];
        return 1;
    }
    const size_t from = chat_bytes(of.s, (size_t)at);
    *out = chat_string(of.s.s + from, tok_char_length(of.s.s[from]));
    return 1;
}

/* 1: an attribute or a method; 0: there is none. */
static int attribute_of(struct chat_run *r, struct chat_value of,
                        struct tok_text name, struct chat_value *out)
{
    int found;

    if (name.n > 0 && *name.s == '_')
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "the attribute \"%.*s\" is not allowed",
                         chat_shown(name, 64), name.s);
    if (of.type == CHAT_LOOP && !chat_is(name, "cycle") &&
        !chat_is(name, "changed"))
        return loop_attribute(r, of.loop, name, out) ? -1 : 1;
    if (of.type == CHAT_NAMESPACE)
        return chat_find(r, of.dict, chat_string(name.s, name.n), out);
    found = chat_has_method(r, of, name);
    return found <= 0 ? found : bind_method(r, of, name, out) ? -1 : 1;
}

static int get(struct chat_run *r, struct chat_value of, struct tok_text name,
               struct chat_value *out)
{
    if (chat_defined(r, of))
        return -1;
    int found = attribute_of(r, of, name, out);
    if (found == 0)
        found = element_of(r, of, chat_string(name.s, name.n), out);
    return found < 0 ? -1 : found ? 0 : missing(r, of, name, out);
}

int chat_item(struct chat_run *r, struct chat_value of, struct chat_value key,
              struct chat_value *out)
{
    if (chat_defined(r, of))
        return -1;
    int found = element_of(r, of, key, out);
    if (found == 0 && key.type == CHAT_STRING)
        found = attribute_of(r, of, key.s, out);
    if (found)
        return found < 0 ? -1 : 0;
    return missing(
        r, of,
        key.type == CHAT_STRING ? key.s : (struct tok_text){"an item", 7}, out);
}

/* ---- what is made of parts ---------------------------------------------- */

static int make_list(struct chat_run *r, const struct chat_node *x,
                     struct chat_value *out)
{
    struct chat_value made, v;

    if (chat_new_list(r, x->op == CHAT_MAKE_LIST ? CHAT_LIST : CHAT_TUPLE,
                      &made))
        return -1;
    for (const struct chat_node *k = x->a; k; k = k->next)
        if (chat_eval(r, k, &v) || chat_add(r, made.list, v))
            return -1;
    *out = made;
    return 0;
}

static int make_dict(struct chat_run *r, const struct chat_node *x,
                     struct chat_value *out)
{
    struct chat_value made, key, v;

    if (chat_new_dict(r, CHAT_DICT, &made))
        return -1;
    for (const struct chat_node *k = x->a; k; k = k->next->next)
        if (chat_eval(r, k, &key) || chat_eval(r, k->next, &v) ||
            chat_put(r, made.dict, key, v))
            return -1;
    *out = made;
    return 0;
}

/* An argument, or with * or ** those that it holds. */
static int add_argument(struct chat_run *r, struct tok_text name,
                        struct chat_value v, struct chat_list *places,
                        struct chat_dict *named)
{
    struct chat_list *l;

    if (name.n == 0)
        return chat_add(r, places, v);
    if (*name.s != '*')
        return chat_put(r, named, chat_string(name.s, name.n), v);
    if (name.n == 1) {
        if (chat_elements(r, v, &l))
            return -1;
        for (size_t i = 0; i < l->n; i++)
            if (chat_add(r, places, l->v[i]))
                return -1;
        return 0;
    }
    if (v.type != CHAT_DICT)
        return chat_fail(r, PQ_EARG, "** before a %s", chat_type_name(v));
    for (size_t i = 0; i < v.dict->n; i++)
        if (v.dict->p[i].key.type != CHAT_STRING)
            return chat_fail(r, PQ_EARG, "an argument's name is no text");
        else if (chat_put(r, named, v.dict->p[i].key, v.dict->p[i].value))
            return -1;
    return 0;
}

int chat_call_block(struct chat_run *r, const struct chat_node *x,
                    struct chat_value caller, struct chat_value *out)
{
    struct chat_value f;
    struct chat_args a;

    if (chat_eval(r, x->a, &f) || chat_args(r, x->b, &a))
        return -1;
    r->line = x->line;
    if (f.type != CHAT_MACRO)
        return chat_fail(r, PQ_EARG, "call of a %s", chat_type_name(f));
    return chat_put(r, &a.named, chat_word("caller"), caller) ||
                   chat_call(r, f, &a, out)
               ? -1
               : 0;
}

int chat_args(struct chat_run *r, const struct chat_node *list,
              struct chat_args *a)
{
    struct chat_list places = {0};
    struct chat_value v;

    *a = (struct chat_args){0};
    for (const struct chat_node *x = list; x; x = x->next)
        if (chat_eval(r, x->a, &v) ||
            add_argument(r, x->text, v, &places, &a->named))
            return -1;
    a->v = places.v;
    a->n = places.n;
    return 0;
}

/* ---- operators ---------------------------------------------------------- */

static int compare_chain(struct chat_run *r, const struct chat_node *x,
                         struct chat_value *out)
{
    struct chat_value left, right;
    bool yes = true;

    if (chat_eval(r, x->a, &left))
        return -1;
    for (const struct chat_node *k = x->b; k && yes; k = k->next) {
        if (chat_eval(r, k->a, &right) ||
            chat_compare(r, k->text, left, right, &yes))
            return -1;
        left = right;
    }
    *out = chat_bool(yes);
    return 0;
}

static int sign(struct chat_run *r, const struct chat_node *x,
                struct chat_value *out)
{
    struct chat_value v;

    if (chat_eval(r, x->a, &v) || chat_defined(r, v))
        return -1;
    if (!chat_is_number(v))
        return chat_fail(r, PQ_EARG, "a sign before a %s", chat_type_name(v));
    if (v.type == CHAT_BOOL)
        v = chat_int(v.b);
    if (x->op == CHAT_MINUS && v.type == CHAT_FLOAT)
        v.f = -v.f;
    else if (x->op == CHAT_MINUS && v.i == INT64_MIN)
        return chat_fail(r, PQ_ELIMIT, "an integer is too large");
    else if (x->op == CHAT_MINUS)
        v.i = -v.i;
    *out = v;
    return 0;
}

static int slice(struct chat_run *r, const struct chat_node *x,
                 struct chat_value *out)
{
    const struct chat_node *const parts[] = {x->b, x->c, x->d};
    struct chat_value of, at[3] = {{0}};

    if (chat_eval(r, x->a, &of))
        return -1;
    for (size_t i = 0; i < 3; i++)
        if (parts[i] && chat_eval(r, parts[i], &at[i]))
            return -1;
    return chat_slice(r, of, at, out);
}

static int choose(struct chat_run *r, const struct chat_node *x,
                  struct chat_value *out)
{
    struct chat_value v;

    if (chat_eval(r, x->b, &v))
        return -1;
    if (chat_truth(v))
        return chat_eval(r, x->a, out);
    if (x->c)
        return chat_eval(r, x->c, out);
    *out = chat_undefined("an if without else", 18);
    return 0;
}

/* Calls, filters and tests: what stands before, then the arguments. */
static int apply(struct chat_run *r, const struct chat_node *x,
                 struct chat_value *out)
{
    struct chat_value in;
    struct chat_args a;
    bool yes;

    if (chat_eval(r, x->a, &in) || chat_args(r, x->b, &a))
        return -1;
    r->line = x->line;
    if (x->op == CHAT_CALL)
        return chat_call(r, in, &a, out);
    if (x->op == CHAT_FILTER)
        return chat_apply(r, x->text, in, &a, out);
    if (chat_test(r, x->text, in, &a, &yes))
        return -1;
    *out = chat_bool(yes);
    return 0;
}

static int eval_two(struct chat_run *r, const struct chat_node *x,
                    struct chat_value *out)
{
    struct chat_value a, b;

    if (chat_eval(r, x->a, &a) || chat_eval(r, x->b, &b))
        return -1;
    r->line = x->line;
    return x->op == CHAT_ITEM ? chat_item(r, a, b, out)
                              : chat_binary(r, x->text, a, b, out);
}

/* Those that look at the left side before they compute the right one. */
static int eval_one(struct chat_run *r, const struct chat_node *x,
                    struct chat_value *out)
{
    struct chat_value v;

    if (chat_eval(r, x->a, &v))
        return -1;
    r->line = x->line;
    if (x->op == CHAT_GET)
        return get(r, v, x->text, out);
    if (x->op == CHAT_NOT) {
        *out = chat_bool(!chat_truth(v));
        return 0;
    }
    if (chat_truth(v) == (x->op == CHAT_AND))
        return chat_eval(r, x->b, out);
    *out = v;
    return 0;
}

static int eval_node(struct chat_run *r, const struct chat_node *x,
                     struct chat_value *out)
{
    switch (x->op) {
    case CHAT_CONST:
        *out = x->value;
        return 0;
    case CHAT_HOLE:
        *out = r->hole;
        return 0;
    case CHAT_NAME:
        return name_of(r, x->text, out);
    case CHAT_MAKE_LIST:
    case CHAT_MAKE_TUPLE:
        return make_list(r, x, out);
    case CHAT_MAKE_DICT:
        return make_dict(r, x, out);
    case CHAT_CHOOSE:
        return choose(r, x, out);
    case CHAT_COMPARE:
        return compare_chain(r, x, out);
    case CHAT_MINUS:
    case CHAT_PLUS:
        return sign(r, x, out);
    case CHAT_SLICE:
        return slice(r, x, out);
    case CHAT_CALL:
    case CHAT_FILTER:
    case CHAT_TEST:
        return apply(r, x, out);
    case CHAT_ITEM:
    case CHAT_BINARY:
        return eval_two(r, x, out);
    default:
        return eval_one(r, x, out);
    }
}

int chat_eval(struct chat_run *r, const struct chat_node *x,
              struct chat_value *out)
{
    r->line = x->line;
    if (chat_spend(r, 1))
        return -1;
    if (r->frames == CHAT_FRAMES)
        return chat_fail(r, PQ_ELIMIT, "goes deeper than %u", CHAT_FRAMES);
    r->frames++;
    const int rc = eval_node(r, x, out);
    r->frames--;
    return rc;
}
