/*
 * Chat templates: methods of strings, dicts, lists and loops.  Those that
 * change something are not allowed, as in Jinja's immutable sandbox.
 */
#include "chat.h"

#include <string.h>

struct call {
    struct chat_run *r;
    const char *name;
    struct chat_value of;
    struct chat_value a[CHAT_PARAMS];
    const struct chat_args *all;
    struct chat_value *out;
};

struct method {
    const char *name;
    const char *params; /* NULL: takes them as they come */
    int (*f)(struct call *c);
};

/* ---- strings ------------------------------------------------------------ */

/* strip, lstrip, rstrip: by the first letter. */
static int strip(struct call *c)
{
    return chat_strip_value(c->r, c->name, c->of.s, c->a[0], *c->name != 'r',
                            *c->name != 'l', c->out);
}

static int split(struct call *c)
{
    struct tok_text set, *by = NULL;
    int64_t most = -1;

    if (c->a[0].type != CHAT_ABSENT && c->a[0].type != CHAT_NONE) {
        if (chat_want_text(c->r, c->name, c->a[0], &set))
            return -1;
        by = &set;
    }
    if (chat_want_int(c->r, c->name, c->a[1], &most))
        return -1;
    return chat_split(c->r, c->of.s, by, most, *c->name == 'r', c->out);
}

static int split_lines(struct call *c)
{
    return chat_split_lines(c->r, c->of.s, c->out);
}

static bool has_edge(struct tok_text t, struct tok_text part, bool end)
{
    return part.n <= t.n &&
           memcmp(t.s + (end ? t.n - part.n : 0), part.s, part.n) == 0;
}

/* startswith, endswith; of a tuple any. */
static int edge(struct call *c)
{
    const bool many = c->a[0].type == CHAT_TUPLE, end = *c->name == 'e';
    const size_t n = many ? c->a[0].list->n : 1;
    struct tok_text part;
    bool yes = false;

    for (size_t i = 0; !yes && i < n; i++) {
        if (chat_want_text(c->r, c->name, many ? c->a[0].list->v[i] : c->a[0],
                           &part) ||
            chat_spend(c->r, 1 + part.n / 64))
            return -1;
        yes = has_edge(c->of.s, part, end);
    }
    *c->out = chat_bool(yes);
    return 0;
}

/* removeprefix, removesuffix */
static int remove_edge(struct call *c)
{
    const bool end = c->name[6] == 's';
    struct tok_text part, t = c->of.s;

    if (chat_want_text(c->r, c->name, c->a[0], &part) ||
        chat_spend(c->r, part.n / 64))
        return -1;
    if (has_edge(t, part, end))
        t = (struct tok_text){t.s + (end ? 0 : part.n), t.n - part.n};
    *c->out = chat_string(t.s, t.n);
    return 0;
}

static int replace(struct call *c)
{
    struct tok_text from, to;
    int64_t most = -1;

    if (chat_want_text(c->r, c->name, c->a[0], &from) ||
        chat_want_text(c->r, c->name, c->a[1], &to) ||
        chat_want_int(c->r, c->name, c->a[2], &most))
        return -1;
    return chat_replace(c->r, c->of.s, from, to, most, c->out);
}

static int change_case(struct call *c)
{
    const enum chat_case how = *c->name == 'u'   ? CHAT_UPPER
                               : *c->name == 'l' ? CHAT_LOWER
                               : *c->name == 't' ? CHAT_TITLE
                                                 : CHAT_CAPITAL;

    return chat_case(c->r, c->of.s, how, c->out);
}

static int join(struct call *c)
{
    struct pq_buf b = {0};
    struct chat_list *l;
    struct tok_text t;

    if (chat_elements(c->r, c->a[0], &l))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        if (chat_want_text(c->r, c->name, l->v[i], &t) ||
            chat_spend_on(c->r, &b, 1 + c->of.s.n / 16 + t.n / 64)) {
            pq_buf_release(&b);
            return -1;
        }
        if (i > 0)
            pq_buf_add(&b, c->of.s.s, c->of.s.n);
        pq_buf_add(&b, t.s, t.n);
    }
    return chat_keep(c->r, &b, c->out);
}

/* find, index: in characters */
static int find(struct call *c)
{
    struct tok_text part;

    if (chat_want_text(c->r, c->name, c->a[0], &part) ||
        chat_spend(c->r, c->of.s.n / 16))
        return -1;
    const size_t at = chat_search(c->of.s, part, 0);
    if (at > c->of.s.n && *c->name == 'i')
        return chat_fail(c->r, PQ_EARG, "index(): it is not there");
    *c->out = chat_int(at > c->of.s.n ? -1
                                      : (int64_t)chat_characters(
                                            (struct tok_text){c->of.s.s, at}));
    return 0;
}

static int count(struct call *c)
{
    struct tok_text part;
    int64_t n = 0;

    if (chat_want_text(c->r, c->name, c->a[0], &part) ||
        chat_spend(c->r, c->of.s.n))
        return -1;
    for (size_t at = 0; part.n > 0; n++) {
        at = chat_search(c->of.s, part, at);
        if (at > c->of.s.n)
            break;
        at += part.n;
    }
    if (part.n == 0)
        n = (int64_t)chat_characters(c->of.s) + 1;
    *c->out = chat_int(n);
    return 0;
}

/* isspace, isdigit */
static int consists(struct call *c)
{
    const struct tok_text t = c->of.s;
    bool yes = t.n > 0;

    for (size_t at = 0, k; yes && at < t.n; at += k) {
        const uint32_t x = tok_char(t.s + at, t.n - at, &k);
        if (c->name[2] == 'd' && x >= 0x80)
            return chat_fail(c->r, PQ_EUNSUPPORTED,
                             "isdigit() of U+%04X is not supported",
                             (unsigned)x);
        yes = c->name[2] == 'd' ? x >= '0' && x <= '9' : chat_is_space(x);
    }
    *c->out = chat_bool(yes);
    return chat_spend(c->r, t.n / 16);
}

static const struct method of_strings[] = {
    {"strip", "chars", strip},
    {"lstrip", "chars", strip},
    {"rstrip", "chars", strip},
    {"split", "sep maxsplit", split},
    {"rsplit", "sep maxsplit", split},
    {"splitlines", "", split_lines},
    {"startswith", "prefix", edge},
    {"endswith", "suffix", edge},
    {"removeprefix", "prefix", remove_edge},
    {"removesuffix", "suffix", remove_edge},
    {"replace", "old new count", replace},
    {"upper", "", change_case},
    {"lower", "", change_case},
    {"title", "", change_case},
    {"capitalize", "", change_case},
    {"join", "iterable", join},
    {"find", "sub", find},
    {"index", "sub", find},
    {"count", "sub", count},
    {"isspace", "", consists},
    {"isdigit", "", consists},
    {NULL, NULL, NULL},
};

/* ---- dicts -------------------------------------------------------------- */

static int get(struct call *c)
{
    if (c->a[0].type == CHAT_ABSENT)
        return chat_fail(c->r, PQ_EARG, "get() of no key");
    const int found = chat_find(c->r, c->of.dict, c->a[0], c->out);
    if (found == 0)
        *c->out = c->a[1].type == CHAT_ABSENT ? chat_none() : c->a[1];
    return found < 0 ? -1 : 0;
}

/* keys, values, items */
static int list(struct call *c)
{
    struct chat_value made, pair;

    if (chat_new_list(c->r, CHAT_LIST, &made))
        return -1;
    made.list->lazy = CHAT_VIEW;
    for (size_t i = 0; i < c->of.dict->n; i++) {
        const struct chat_pair *const p = &c->of.dict->p[i];
        if (*c->name == 'i' && (chat_new_list(c->r, CHAT_TUPLE, &pair) ||
                                chat_add(c->r, pair.list, p->key) ||
                                chat_add(c->r, pair.list, p->value)))
            return -1;
        if (chat_add(c->r, made.list,
                     *c->name == 'i'   ? pair
                     : *c->name == 'k' ? p->key
                                       : p->value))
            return -1;
    }
    *c->out = made;
    return 0;
}

/* It cannot be changed, so it is its own copy. */
static int copy(struct call *c)
{
    *c->out = c->of;
    return 0;
}

static const struct method of_dicts[] = {
    {"get", "key default", get}, {"keys", "", list}, {"values", "", list},
    {"items", "", list},         {"copy", "", copy}, {NULL, NULL, NULL},
};

/* ---- lists -------------------------------------------------------------- */

/* index, count */
static int find_element(struct call *c)
{
    const struct chat_list *const l = c->of.list;
    int64_t n = 0;

    if (c->a[0].type == CHAT_ABSENT)
        return chat_fail(c->r, PQ_EARG, "%s() of nothing", c->name);
    for (size_t i = 0; i < l->n; i++) {
        bool equal;
        if (chat_equal(c->r, l->v[i], c->a[0], &equal))
            return -1;
        if (equal && *c->name == 'i') {
            *c->out = chat_int((int64_t)i);
            return 0;
        }
        n += equal;
    }
    *c->out = chat_int(n);
    return *c->name == 'i'
               ? chat_fail(c->r, PQ_EARG, "index(): it is not there")
               : 0;
}

static const struct method of_lists[] = {
    {"index", "value", find_element},
    {"count", "value", find_element},
    {"copy", "", copy},
    {NULL, NULL, NULL},
};

/* ---- loops -------------------------------------------------------------- */

static int cycle(struct call *c)
{
    if (c->all->n == 0)
        return chat_fail(c->r, PQ_EARG, "loop.cycle() of nothing");
    *c->out = c->all->v[c->of.loop->at % c->all->n];
    return 0;
}

static int changed(struct call *c)
{
    struct chat_list *const last = &c->of.loop->changed;
    bool equal = last->n == c->all->n && last->cap > 0;

    for (size_t i = 0; equal && i < last->n; i++)
        if (chat_equal(c->r, last->v[i], c->all->v[i], &equal))
            return -1;
    *last = (struct chat_list){.v = c->all->v, .n = c->all->n, .cap = 1};
    *c->out = chat_bool(!equal);
    return 0;
}

static const struct method of_loops[] = {
    {"cycle", NULL, cycle},
    {"changed", NULL, changed},
    {NULL, NULL, NULL},
};

/* ---- which there are ---------------------------------------------------- */

static const struct method *methods_of(struct chat_value v)
{
    static const struct method none[] = {{NULL, NULL, NULL}};

    return v.type == CHAT_STRING                         ? of_strings
           : v.type == CHAT_DICT                         ? of_dicts
           : v.type == CHAT_LIST || v.type == CHAT_TUPLE ? of_lists
           : v.type == CHAT_LOOP                         ? of_loops
                                                         : none;
}

static const struct method *find_method(struct chat_value v,
                                        struct tok_text name)
{
    for (const struct method *m = methods_of(v); m->name; m++)
        if (chat_is(name, m->name))
            return m;
    return NULL;
}

/* Those that Python has and this does not, or that change something. */
static bool is_refused(struct chat_value v, struct tok_text name)
{
    static const char strings[] =
        " casefold center encode expandtabs format format_map isalnum isalpha "
        "isascii isdecimal isidentifier islower isnumeric isprintable istitle "
        "isupper ljust maketrans partition rfind rindex rjust rpartition "
        "swapcase translate zfill ";
    static const char dicts[] =
        " clear fromkeys pop popitem setdefault update ";
    static const char lists[] =
        " append clear extend insert pop remove reverse sort ";
    const char *const all = v.type == CHAT_STRING ? strings
                            : v.type == CHAT_DICT ? dicts
                            : v.type == CHAT_LIST || v.type == CHAT_TUPLE
                                ? lists
                                : "";
    char word[32];

    if (name.n + 3 > sizeof word)
        return false;
    word[0] = ' ';
    memcpy(word + 1, name.s, name.n);
    memcpy(word + 1 + name.n, " ", 2);
    return strstr(all, word) != NULL;
}

int chat_has_method(struct chat_run *r, struct chat_value of,
                    struct tok_text name)
{
    if (find_method(of, name))
        return 1;
    if (is_refused(of, name))
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "the method \"%.*s\" of a %s is not supported",
                         (int)name.n, name.s, chat_type_name(of));
    return 0;
}

int chat_call_method(struct chat_run *r, const struct chat_method *m,
                     const struct chat_args *a, struct chat_value *out)
{
    const struct method *const x = find_method(m->of, m->name);
    struct call c = {.r = r, .of = m->of, .all = a, .out = out};

    c.name = x->name;
    if (m->of.safe)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "methods of what | safe gave are not supported");
    if (!x->params)
        return x->f(&c);
    return chat_bind(r, x->name, x->params, a, c.a) || x->f(&c) ? -1 : 0;
}
