/*
 * Chat templates: filters of single values, and how a filter is found.
 *
 *     abs capitalize count d default float indent int items length lower
 *     replace safe string title tojson trim upper
 *
 * Those of lists are in chat_lists.c.
 */
#include "chat.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct chat_filter *chat_filter_named(struct tok_text name)
{
    const struct chat_filter *const all[] = {chat_filters_of_text,
                                             chat_filters_of_lists};

    for (size_t i = 0; i < 2; i++)
        for (const struct chat_filter *f = all[i]; f->name; f++)
            if (chat_is(name, f->name))
                return f;
    return NULL;
}

int chat_apply(struct chat_run *r, struct tok_text filter, struct chat_value in,
               const struct chat_args *a, struct chat_value *out)
{
    const struct chat_filter *const f = chat_filter_named(filter);
    struct chat_value bound[CHAT_PARAMS] = {{0}};

    if (!f)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "the filter \"%.*s\" is not supported",
                         chat_shown(filter, 64), filter.s);
    if (f->params && chat_bind(r, f->name, f->params, a, bound))
        return -1;
    return f->f(r, in, bound, a, out);
}

#define FILTER(name)                                                           \
    static int name(struct chat_run *r, struct chat_value in,                  \
                    const struct chat_value *a, const struct chat_args *all,   \
                    struct chat_value *out)

/* ---- texts -------------------------------------------------------------- */

/* What a filter of texts works on. */
static int text_of(struct chat_run *r, struct chat_value in, struct tok_text *t)
{
    struct chat_value v;

    if (in.safe)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "filters of what | safe gave are not supported");
    if (chat_to_string(r, in, &v))
        return -1;
    *t = v.s;
    return 0;
}

FILTER(trim)
{
    struct tok_text t;

    (void)all;
    return text_of(r, in, &t) ||
                   chat_strip_value(r, "trim", t, a[0], true, true, out)
               ? -1
               : 0;
}

static int change_case(struct chat_run *r, struct chat_value in,
                       enum chat_case how, struct chat_value *out)
{
    struct tok_text t;

    return text_of(r, in, &t) ? -1 : chat_case(r, t, how, out);
}

FILTER(upper)
{
    (void)a, (void)all;
    return change_case(r, in, CHAT_UPPER, out);
}

FILTER(lower)
{
    (void)a, (void)all;
    return change_case(r, in, CHAT_LOWER, out);
}

FILTER(title)
{
    (void)a, (void)all;
    return change_case(r, in, CHAT_WORDS, out);
}

FILTER(capitalize)
{
    (void)a, (void)all;
    return change_case(r, in, CHAT_CAPITAL, out);
}

FILTER(string)
{
    (void)a, (void)all;
    return chat_to_string(r, in, out);
}

FILTER(safe)
{
    (void)a, (void)all;
    if (chat_to_string(r, in, out))
        return -1;
    out->safe = true;
    return 0;
}

FILTER(replace)
{
    struct tok_text t, from, to;
    int64_t most = -1;

    (void)all;
    if (a[0].type == CHAT_ABSENT || a[1].type == CHAT_ABSENT)
        return chat_fail(r, PQ_EARG, "replace needs two arguments");
    if (text_of(r, in, &t) || text_of(r, a[0], &from) ||
        text_of(r, a[1], &to) ||
        (a[2].type != CHAT_NONE && chat_want_int(r, "replace", a[2], &most)))
        return -1;
    return chat_replace(r, t, from, to, most, out);
}

/* Lines behind the first, if they are not empty, get spaces before them. */
FILTER(indent)
{
    struct chat_value lines;
    struct tok_text t = {NULL, 0}, by = {NULL, 0};
    struct pq_buf b = {0};
    int64_t width = 4;

    (void)all;
    if (chat_want_text(r, "indent", in, &t) || text_of(r, in, &t))
        return -1;
    if (a[0].type == CHAT_STRING)
        by = a[0].s;
    else if (chat_want_int(r, "indent", a[0], &width))
        return -1;
    if (width < 0 || width > 1000)
        return chat_fail(r, PQ_ELIMIT, "indent by more than 1000");
    pq_buf_add(&b, t.s, t.n);
    pq_buf_add(&b, "\n", 1);
    if (chat_keep(r, &b, &lines) || chat_split_lines(r, lines.s, &lines))
        return -1;
    for (size_t i = 0; i < lines.list->n; i++) {
        const struct tok_text line = lines.list->v[i].s;
        if (chat_spend_on(r, &b, 1 + (line.n + by.n + (size_t)width) / 64)) {
            pq_buf_release(&b);
            return -1;
        }
        pq_buf_puts(&b, i ? "\n" : "");
        if (i == 0 ? chat_truth(a[1]) : line.n || chat_truth(a[2]))
            by.s ? pq_buf_add(&b, by.s, by.n)
                 : pq_buf_printf(&b, "%*s", (int)width, "");
        pq_buf_add(&b, line.s, line.n);
    }
    return chat_keep(r, &b, out);
}

/* ---- what is missing ---------------------------------------------------- */

FILTER(or_default)
{
    const bool other =
        in.type == CHAT_UNDEFINED || (chat_truth(a[1]) && !chat_truth(in));

    (void)r, (void)all;
    *out = !other ? in : a[0].type == CHAT_ABSENT ? chat_word("") : a[0];
    return 0;
}

/* ---- numbers ------------------------------------------------------------ */

FILTER(length)
{
    int64_t n;

    (void)a, (void)all;
    if (chat_length(r, in, &n))
        return -1;
    *out = chat_int(n);
    return 0;
}

FILTER(absolute)
{
    (void)a, (void)all;
    if (chat_defined(r, in))
        return -1;
    if (!chat_is_number(in) || (in.type == CHAT_INT && in.i == INT64_MIN))
        return chat_fail(r, PQ_EARG, "abs of a %s", chat_type_name(in));
    *out = in.type == CHAT_FLOAT  ? chat_float(fabs(in.f))
           : in.type == CHAT_BOOL ? chat_int(in.b)
                                  : chat_int(in.i < 0 ? -in.i : in.i);
    return 0;
}

/* A text that is a number and nothing else but white space around it. */
static bool read_number(struct chat_value in, bool integer, int64_t *i,
                        double *f)
{
    const struct tok_text t = chat_strip(in.s, NULL, true, true);
    char s[64], *end = s;
    size_t digits = 0;

    if (t.n == 0 || t.n >= sizeof s)
        return false;
    for (size_t k = 0; k < t.n; k++) {
        const bool digit = t.s[k] >= '0' && t.s[k] <= '9';
        digits += digit;
        if (!digit && !strchr(integer ? "+-" : "+-.eE", t.s[k]))
            return false; /* no hexadecimal, no "inf", no NUL */
        s[k] = t.s[k];
    }
    s[t.n] = '\0';
    errno = 0;
    if (integer)
        *i = strtoll(s, &end, 10);
    else
        *f = strtod(s, &end);
    return digits && *end == '\0' && (!integer || errno == 0);
}

FILTER(to_int)
{
    int64_t i = 0, base = 10;
    double f = 0;

    (void)all;
    if (chat_defined(r, in) || chat_want_int(r, "int", a[1], &base))
        return -1;
    if (base != 10)
        return chat_fail(r, PQ_EUNSUPPORTED, "int to another base than 10");
    *out = a[0].type == CHAT_ABSENT ? chat_int(0) : a[0];
    if (in.type == CHAT_STRING && read_number(in, true, &i, &f)) {
        *out = chat_int(i);
        return 0;
    }
    if (in.type == CHAT_STRING ? read_number(in, false, &i, &f)
                               : chat_is_number(in)) {
        f = in.type == CHAT_STRING ? f : chat_as_float(in);
        if (in.type == CHAT_INT)
            *out = in;
        else if (fabs(f) < 9e18)
            *out = chat_int((int64_t)f);
        else if (isfinite(f))
            return chat_fail(r, PQ_ELIMIT, "an integer is too large");
    }
    return 0;
}

FILTER(to_float)
{
    int64_t i;
    double f;

    (void)all;
    if (chat_defined(r, in))
        return -1;
    *out = a[0].type == CHAT_ABSENT ? chat_float(0) : a[0];
    if (chat_is_number(in))
        *out = chat_float(chat_as_float(in));
    else if (in.type == CHAT_STRING && read_number(in, false, &i, &f))
        *out = chat_float(f);
    return 0;
}

/* ---- dicts -------------------------------------------------------------- */

FILTER(items)
{
    const struct chat_args none = {0};
    struct chat_method m = {in, {"items", 5}};

    (void)a, (void)all;
    if (in.type == CHAT_UNDEFINED)
        return chat_new_generator(r, out);
    if (in.type != CHAT_DICT)
        return chat_fail(r, PQ_EARG, "items of a %s", chat_type_name(in));
    if (chat_call_method(r, &m, &none, out))
        return -1;
    out->list->lazy = CHAT_GENERATOR;
    return 0;
}

/* ---- JSON --------------------------------------------------------------- */

static int json_style(struct chat_run *r, const struct chat_args *all,
                      struct chat_json_style *j)
{
    static const char params[] = "ensure_ascii indent separators sort_keys";
    struct chat_value a[CHAT_PARAMS];
    int64_t indent = -1;

    if (chat_bind(r, "tojson", params, all, a))
        return -1;
    if (a[1].type != CHAT_NONE && chat_want_int(r, "tojson", a[1], &indent))
        return -1;
    if (indent > 1000)
        return chat_fail(r, PQ_ELIMIT, "tojson with an indent above 1000");
    *j = (struct chat_json_style){
        .indent = indent < 0 && a[1].type != CHAT_INT ? -1
                  : indent < 0                        ? 0
                                                      : (int)indent,
        .item = {",", 1},
        .key = {": ", 2},
        .sort = chat_truth(a[3]),
        .ascii = chat_truth(a[0]),
    };
    if (j->indent < 0)
        j->item = (struct tok_text){", ", 2};
    if (a[2].type == CHAT_ABSENT || a[2].type == CHAT_NONE)
        return 0;
    if ((a[2].type != CHAT_TUPLE && a[2].type != CHAT_LIST) ||
        a[2].list->n != 2)
        return chat_fail(r, PQ_EARG, "tojson: separators are two texts");
    return chat_want_text(r, "tojson", a[2].list->v[0], &j->item) ||
                   chat_want_text(r, "tojson", a[2].list->v[1], &j->key)
               ? -1
               : 0;
}

FILTER(tojson)
{
    struct chat_json_style j;
    struct pq_buf b = {0};

    (void)a;
    if (json_style(r, all, &j))
        return -1;
    if (chat_to_json(r, in, &j, 0, &b)) {
        pq_buf_release(&b);
        return -1;
    }
    return chat_keep(r, &b, out);
}

const struct chat_filter chat_filters_of_text[] = {
    {"abs", "", absolute},
    {"capitalize", "", capitalize},
    {"count", "", length},
    {"d", "default_value boolean", or_default},
    {"default", "default_value boolean", or_default},
    {"float", "default", to_float},
    {"indent", "width first blank", indent},
    {"int", "default base", to_int},
    {"items", "", items},
    {"length", "", length},
    {"lower", "", lower},
    {"replace", "old new count", replace},
    {"safe", "", safe},
    {"string", "", string},
    {"title", "", title},
    {"tojson", NULL, tojson},
    {"trim", "chars", trim},
    {"upper", "", upper},
    {NULL, NULL, NULL},
};
