/*
 * Chat templates: filters of lists.
 *
 *     dictsort first join last list map max min reject rejectattr reverse
 *     select selectattr sort sum unique
 *
 * An attribute of an element is a.b.c, of which parts that are numbers are
 * places.
 */
#include "chat.h"

#include <string.h>

#define FILTER(name)                                                           \
    static int name(struct chat_run *r, struct chat_value in,                  \
                    const struct chat_value *a, const struct chat_args *all,   \
                    struct chat_value *out)

/* ---- attributes --------------------------------------------------------- */

static bool is_number(struct tok_text t)
{
    for (size_t i = 0; i < t.n; i++)
        if (t.s[i] < '0' || t.s[i] > '9')
            return false;
    return t.n > 0 && t.n < 10;
}

static struct chat_value key_of(struct tok_text t)
{
    int64_t i = 0;

    if (!is_number(t))
        return chat_string(t.s, t.n);
    for (size_t k = 0; k < t.n; k++)
        i = i * 10 + (t.s[k] - '0');
    return chat_int(i);
}

static int attribute(struct chat_run *r, struct chat_value v,
                     struct chat_value name, struct chat_value *out)
{
    struct tok_text t = name.s;

    *out = v;
    if (name.type == CHAT_INT)
        return chat_item(r, v, name, out);
    if (name.type != CHAT_STRING)
        return chat_fail(r, PQ_EARG, "a %s is no attribute",
                         chat_type_name(name));
    for (;;) {
        const char *const dot = memchr(t.s, '.', t.n);
        const size_t n = dot ? (size_t)(dot - t.s) : t.n;
        if (chat_item(r, *out, key_of((struct tok_text){t.s, n}), out))
            return -1;
        if (!dot)
            return 0;
        t = (struct tok_text){dot + 1, t.n - n - 1};
    }
}

/* An attribute of an element, or what stands for it where it has none. */
static int attribute_or(struct chat_run *r, struct chat_value v,
                        struct chat_value name, struct chat_value otherwise,
                        struct chat_value *out)
{
    if (attribute(r, v, name, out))
        return -1;
    if (out->type == CHAT_UNDEFINED && otherwise.type != CHAT_ABSENT)
        *out = otherwise;
    return 0;
}

/* ---- map, select and their like ----------------------------------------- */

/* The arguments behind the first n. */
static struct chat_args behind(const struct chat_args *a, size_t n)
{
    struct chat_args rest = *a;

    rest.v = a->n > n ? a->v + n : NULL;
    rest.n = a->n > n ? a->n - n : 0;
    return rest;
}

static int map_attribute(struct chat_run *r, const struct chat_list *l,
                         const struct chat_args *all, struct chat_list *out)
{
    struct chat_value a[CHAT_PARAMS], v;

    if (chat_bind(r, "map", "attribute default",
                  &(struct chat_args){.named = all->named}, a))
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (attribute_or(r, l->v[i], a[0], a[1], &v) || chat_add(r, out, v))
            return -1;
    return 0;
}

FILTER(map)
{
    const struct chat_args rest = behind(all, 1);
    struct chat_list *l;
    struct chat_value made, v;
    struct tok_text filter;

    (void)a;
    if (chat_new_generator(r, &made))
        return -1;
    *out = made;
    if (!chat_truth(in))
        return 0;
    if (chat_elements(r, in, &l))
        return -1;
    if (all->n == 0)
        return map_attribute(r, l, all, made.list);
    if (chat_want_text(r, "map", all->v[0], &filter))
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (chat_apply(r, filter, l->v[i], &rest, &v) ||
            chat_add(r, made.list, v))
            return -1;
    return 0;
}

/* With an attribute that is the first argument, the test is the next one. */
static int choose(struct chat_run *r, struct chat_value in,
                  const struct chat_args *all, bool attributes, bool wanted,
                  struct chat_value *out)
{
    const size_t at = attributes;
    const struct chat_args rest = behind(all, at + 1);
    struct chat_list *l;
    struct chat_value made, v;
    struct tok_text test;
    bool yes;

    if (chat_new_generator(r, &made))
        return -1;
    *out = made;
    if (!chat_truth(in))
        return 0;
    if (chat_elements(r, in, &l))
        return -1;
    if (all->n < at)
        return chat_fail(r, PQ_EARG,
                         "selectattr and rejectattr need an "
                         "attribute");
    if (all->n > at && chat_want_text(r, "select", all->v[at], &test))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        v = l->v[i];
        if (attributes && attribute(r, l->v[i], all->v[0], &v))
            return -1;
        yes = chat_truth(v);
        if ((all->n > at && chat_test(r, test, v, &rest, &yes)) ||
            (yes == wanted && chat_add(r, made.list, l->v[i])))
            return -1;
    }
    return 0;
}

FILTER(select_those)
{
    (void)a;
    return choose(r, in, all, false, true, out);
}

FILTER(reject)
{
    (void)a;
    return choose(r, in, all, false, false, out);
}

FILTER(selectattr)
{
    (void)a;
    return choose(r, in, all, true, true, out);
}

FILTER(rejectattr)
{
    (void)a;
    return choose(r, in, all, true, false, out);
}

/* ---- one of them, or all ------------------------------------------------ */

static int edge(struct chat_run *r, struct chat_value in, bool last,
                struct chat_value *out)
{
    struct chat_list *l;

    if (chat_elements(r, in, &l))
        return -1;
    *out = l->n ? l->v[last ? l->n - 1 : 0]
                : chat_undefined("an element of nothing", 21);
    return 0;
}

FILTER(first)
{
    (void)a, (void)all;
    return edge(r, in, false, out);
}

FILTER(last)
{
    (void)a, (void)all;
    return edge(r, in, true, out);
}

FILTER(list)
{
    struct chat_list *l;

    (void)a, (void)all;
    if (chat_elements(r, in, &l) || chat_new_list(r, CHAT_LIST, out))
        return -1;
    out->list->v = l->v; /* lists do not change */
    out->list->n = out->list->cap = l->n;
    return 0;
}

FILTER(join)
{
    struct chat_list *l;
    struct chat_value by = chat_word(""), v;
    struct pq_buf b = {0};

    (void)all;
    if (chat_elements(r, in, &l) ||
        (a[0].type != CHAT_ABSENT && chat_to_string(r, a[0], &by)))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        v = l->v[i];
        if ((a[1].type != CHAT_ABSENT && a[1].type != CHAT_NONE &&
             attribute(r, l->v[i], a[1], &v)) ||
            chat_spend_on(r, &b, 1 + by.s.n / 16)) {
            pq_buf_release(&b);
            return -1;
        }
        if (i > 0)
            pq_buf_add(&b, by.s.s, by.s.n);
        if (chat_str(r, v, &b)) {
            pq_buf_release(&b);
            return -1;
        }
    }
    return chat_keep(r, &b, out);
}

FILTER(reverse)
{
    struct chat_value bounds[3] = {{0}};

    (void)a, (void)all;
    bounds[2] = chat_int(-1);
    if (in.type == CHAT_STRING)
        return chat_slice(r, in, bounds, out);
    if (list(r, in, a, all, &in) || chat_slice(r, in, bounds, out))
        return -1;
    out->list->lazy = CHAT_GENERATOR;
    return 0;
}

FILTER(sum)
{
    struct chat_value total = a[1].type == CHAT_ABSENT ? chat_int(0) : a[1], v;
    struct chat_list *l;

    (void)all;
    if (chat_elements(r, in, &l))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        v = l->v[i];
        if ((a[0].type != CHAT_ABSENT && a[0].type != CHAT_NONE &&
             attribute(r, l->v[i], a[0], &v)) ||
            chat_binary(r, (struct tok_text){"+", 1}, total, v, &total))
            return -1;
    }
    *out = total;
    return 0;
}

/* ---- order -------------------------------------------------------------- */

/* What an element is ordered by. */
static int sort_key(struct chat_run *r, struct chat_value v,
                    struct chat_value name, bool cased, struct chat_value *out)
{
    *out = v;
    if (name.type != CHAT_ABSENT && name.type != CHAT_NONE) {
        if (name.type == CHAT_STRING && memchr(name.s.s, ',', name.s.n))
            return chat_fail(r, PQ_EUNSUPPORTED,
                             "several attributes are not supported");
        if (attribute(r, v, name, out))
            return -1;
    }
    return cased || out->type != CHAT_STRING
               ? 0
               : chat_case(r, out->s, CHAT_LOWER, out);
}

struct keyed {
    struct chat_value key, value;
};

/* Merges two sorted runs; of equals those of the left come first. */
static int merge(struct chat_run *r, const struct keyed *from, size_t mid,
                 size_t n, bool down, struct keyed *to)
{
    size_t i = 0, k = mid;
    int x = 0;

    for (size_t at = 0; at < n; at++) {
        if (i < mid && k < n) {
            bool equal; /* equals need no order, so None may be there twice */
            if (chat_equal(r, from[i].key, from[k].key, &equal) ||
                (!equal && chat_order(r, from[i].key, from[k].key, &x)))
                return -1;
            x = equal ? 0 : x;
            to[at] = (down ? x >= 0 : x <= 0) ? from[i++] : from[k++];
        } else {
            to[at] = i < mid ? from[i++] : from[k++];
        }
    }
    return 0;
}

static int sort_keyed(struct chat_run *r, struct keyed *x, size_t n, bool down,
                      struct keyed *room)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t at = 0; at < n; at += 2 * width) {
            const size_t left = n - at;
            if (merge(r, x + at, left < width ? left : width,
                      left < 2 * width ? left : 2 * width, down, room + at))
                return -1;
        }
        memcpy(x, room, n * sizeof *x);
    }
    return 0;
}

static int sorted(struct chat_run *r, const struct chat_list *l,
                  struct chat_value name, bool cased, bool down,
                  struct chat_value *out)
{
    struct keyed *const x = chat_take(r, l->n, sizeof *x);
    struct keyed *const room = x ? chat_take(r, l->n, sizeof *x) : NULL;
    struct chat_value made;

    if (!room || chat_new_list(r, CHAT_LIST, &made))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        x[i].value = l->v[i];
        if (sort_key(r, l->v[i], name, cased, &x[i].key))
            return -1;
    }
    if (sort_keyed(r, x, l->n, down, room))
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (chat_add(r, made.list, x[i].value))
            return -1;
    *out = made;
    return 0;
}

FILTER(sort)
{
    struct chat_list *l;

    (void)all;
    return chat_elements(r, in, &l)
               ? -1
               : sorted(r, l, a[2], chat_truth(a[1]), chat_truth(a[0]), out);
}

FILTER(dictsort)
{
    const struct chat_args none = {0};
    const bool by_value = a[1].type == CHAT_STRING && chat_is(a[1].s, "value");
    struct chat_value pairs;

    (void)all;
    if (in.type != CHAT_DICT)
        return chat_fail(r, PQ_EARG, "dictsort of a %s", chat_type_name(in));
    if (a[1].type != CHAT_ABSENT && !by_value &&
        (a[1].type != CHAT_STRING || !chat_is(a[1].s, "key")))
        return chat_fail(r, PQ_EARG, "dictsort by neither key nor value");
    if (chat_call_method(r, &(struct chat_method){in, {"items", 5}}, &none,
                         &pairs))
        return -1;
    return sorted(r, pairs.list, chat_int(by_value), chat_truth(a[0]),
                  chat_truth(a[2]), out);
}

static int extreme(struct chat_run *r, struct chat_value in,
                   const struct chat_value *a, bool most,
                   struct chat_value *out)
{
    struct chat_value all;
    struct chat_list *l;

    if (chat_elements(r, in, &l) ||
        sorted(r, l, a[1], chat_truth(a[0]), most, &all))
        return -1;
    *out = all.list->n ? all.list->v[0]
                       : chat_undefined("an element of nothing", 21);
    return 0;
}

FILTER(most)
{
    (void)all;
    return extreme(r, in, a, true, out);
}

FILTER(least)
{
    (void)all;
    return extreme(r, in, a, false, out);
}

FILTER(unique)
{
    struct chat_list *l;
    struct chat_value made, seen, key, v;

    (void)all;
    if (chat_elements(r, in, &l) || chat_new_generator(r, &made) ||
        chat_new_dict(r, CHAT_DICT, &seen))
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        if (sort_key(r, l->v[i], a[1], chat_truth(a[0]), &key))
            return -1;
        const int found = chat_find(r, seen.dict, key, &v);
        if (found < 0 || (!found && (chat_put(r, seen.dict, key, chat_none()) ||
                                     chat_add(r, made.list, l->v[i]))))
            return -1;
    }
    *out = made;
    return 0;
}

const struct chat_filter chat_filters_of_lists[] = {
    {"dictsort", "case_sensitive by reverse", dictsort},
    {"first", "", first},
    {"join", "d attribute", join},
    {"last", "", last},
    {"list", "", list},
    {"map", NULL, map},
    {"max", "case_sensitive attribute", most},
    {"min", "case_sensitive attribute", least},
    {"reject", NULL, reject},
    {"rejectattr", NULL, rejectattr},
    {"reverse", "", reverse},
    {"select", NULL, select_those},
    {"selectattr", NULL, selectattr},
    {"sort", "reverse case_sensitive attribute", sort},
    {"sum", "attribute start", sum},
    {"unique", "case_sensitive attribute", unique},
    {NULL, NULL, NULL},
};
