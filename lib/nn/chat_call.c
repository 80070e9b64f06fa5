/*
 * Chat templates: arguments, and the functions that there are.
 *
 *     range(stop), range(start, stop, step)   dict(a=1)   namespace(a=1)
 *     raise_exception(message)                strftime_now(format)
 */
#include "chat.h"

#include <string.h>

enum function { RANGE, DICT, NAMESPACE, RAISE, NOW };

static const char *const functions[] = {"range", "dict", "namespace",
                                        "raise_exception", "strftime_now"};

int chat_function_named(const struct chat_run *r, struct tok_text name)
{
    for (int i = 0; i < (int)(sizeof functions / sizeof *functions); i++)
        if (chat_is(name, functions[i]))
            return i == NOW && !r->now ? -1 : i;
    return -1;
}

/* ---- arguments ---------------------------------------------------------- */

/* The place of a name in "a b c", or -1. */
static int place_of(const char *params, struct tok_text name)
{
    for (int at = 0; *params; at++) {
        const size_t n = strcspn(params, " ");
        if (n == name.n && memcmp(params, name.s, n) == 0)
            return at;
        params += n + (params[n] == ' ');
    }
    return -1;
}

static size_t count_words(const char *s)
{
    size_t n = *s != '\0';

    for (; *s; s++)
        n += *s == ' ';
    return n;
}

int chat_bind(struct chat_run *r, const char *what, const char *params,
              const struct chat_args *a, struct chat_value *out)
{
    memset(out, 0, CHAT_PARAMS * sizeof *out);
    if (a->n > count_words(params))
        return chat_fail(r, PQ_EARG, "%s has too many arguments", what);
    for (size_t i = 0; i < a->n; i++)
        out[i] = a->v[i];
    for (size_t i = 0; i < a->named.n; i++) {
        const struct tok_text name = a->named.p[i].key.s;
        const int at = place_of(params, name);
        if (at < 0 || out[at].type != CHAT_ABSENT)
            return chat_fail(r, at < 0 ? PQ_EUNSUPPORTED : PQ_EARG,
                             at < 0 ? "%s has no argument \"%.*s\""
                                    : "%s has twice the argument \"%.*s\"",
                             what, chat_shown(name, 64), name.s);
        out[at] = a->named.p[i].value;
    }
    return 0;
}

int chat_want_text(struct chat_run *r, const char *what, struct chat_value v,
                   struct tok_text *t)
{
    if (chat_defined(r, v))
        return -1;
    if (v.type != CHAT_STRING)
        return chat_fail(r, PQ_EARG, "%s: a %s is no text", what,
                         chat_type_name(v));
    *t = v.s;
    return 0;
}

int chat_want_int(struct chat_run *r, const char *what, struct chat_value v,
                  int64_t *i)
{
    if (v.type == CHAT_ABSENT)
        return 0;
    if (chat_defined(r, v))
        return -1;
    if (v.type != CHAT_INT && v.type != CHAT_BOOL)
        return chat_fail(r, PQ_EARG, "%s: a %s is no integer", what,
                         chat_type_name(v));
    *i = v.type == CHAT_INT ? v.i : v.b;
    return 0;
}

/* ---- functions ---------------------------------------------------------- */

static int range(struct chat_run *r, const struct chat_args *a,
                 struct chat_value *out)
{
    struct chat_value v[CHAT_PARAMS];
    int64_t at[3] = {0, 0, 1};

    if (chat_bind(r, "range()", "start stop step", a, v))
        return -1;
    if (a->n == 0 || a->named.n > 0)
        return chat_fail(r, PQ_EARG, "range() needs an argument");
    for (size_t i = 0; i < 3; i++)
        if (chat_want_int(r, "range()", v[i], &at[i]))
            return -1;
    if (a->n == 1) {
        at[1] = at[0];
        at[0] = 0;
    }
    if (at[2] == 0)
        return chat_fail(r, PQ_EARG, "range() in steps of zero");
    if (chat_new_list(r, CHAT_LIST, out))
        return -1;
    for (int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1];) {
        if (out->list->n == 100000)
            return chat_fail(r, PQ_ELIMIT, "range() of more than 100000");
        if (chat_add(r, out->list, chat_int(i)))
            return -1;
        if (__builtin_add_overflow(i, at[2], &i))
            break;
    }
    return 0;
}

/* Names and values, behind those of one dict or of pairs. */
static int dict(struct chat_run *r, const struct chat_args *a,
                enum chat_type type, struct chat_value *out)
{
    if (chat_new_dict(r, type, out))
        return -1;
    if (a->n > 1 || (a->n == 1 && a->v[0].type != CHAT_DICT))
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "dict() and namespace() take one dict and names");
    for (size_t i = 0; a->n == 1 && i < a->v[0].dict->n; i++)
        if (chat_put(r, out->dict, a->v[0].dict->p[i].key,
                     a->v[0].dict->p[i].value))
            return -1;
    for (size_t i = 0; i < a->named.n; i++)
        if (chat_put(r, out->dict, a->named.p[i].key, a->named.p[i].value))
            return -1;
    return 0;
}

static int refuse(struct chat_run *r, const struct chat_args *a)
{
    struct chat_value v[CHAT_PARAMS], text;

    if (chat_bind(r, "raise_exception()", "message", a, v) ||
        chat_to_string(r, v[0].type ? v[0] : chat_word(""), &text))
        return -1;
    return chat_fail(r, PQ_EARG, "the template says: %.*s",
                     chat_shown(text.s, 300), text.s.s);
}

/* The format is the template's. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static int now(struct chat_run *r, const struct chat_args *a,
               struct chat_value *out)
{
    struct chat_value v[CHAT_PARAMS];
    struct pq_buf b = {0};
    struct tok_text t = {NULL, 0};
    char format[128], text[512];

    if (chat_bind(r, "strftime_now()", "format", a, v) ||
        chat_want_text(r, "strftime_now()", v[0], &t))
        return -1;
    if (t.n >= sizeof format || memchr(t.s, '\0', t.n))
        return chat_fail(r, PQ_ELIMIT,
                         "strftime_now(): the format is longer "
                         "than 127 bytes, or has a NUL");
    memcpy(format, t.s, t.n);
    format[t.n] = '\0';
    pq_buf_add(&b, text, strftime(text, sizeof text, format, r->now));
    return chat_keep(r, &b, out);
}
#pragma GCC diagnostic pop

int chat_call(struct chat_run *r, struct chat_value f,
              const struct chat_args *a, struct chat_value *out)
{
    if (chat_defined(r, f))
        return -1;
    if (f.type == CHAT_MACRO)
        return chat_call_macro(r, f.macro, a, out);
    if (f.type == CHAT_METHOD)
        return chat_call_method(r, f.method, a, out);
    if (f.type != CHAT_FUNCTION)
        return chat_fail(r, PQ_EARG, "a %s cannot be called",
                         chat_type_name(f));
    switch ((enum function)f.function) {
    case RANGE:
        return range(r, a, out);
    case DICT:
        return dict(r, a, CHAT_DICT, out);
    case NAMESPACE:
        return dict(r, a, CHAT_NAMESPACE, out);
    case RAISE:
        return refuse(r, a);
    default:
        return now(r, a, out);
    }
}
