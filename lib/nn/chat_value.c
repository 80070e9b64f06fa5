/*
 * Chat templates: values, and what Python says of them: which are true,
 * which are equal, which come first.
 */
#include "chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int chat_fail(struct chat_run *r, enum pq_code code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)pq_vfail(r->e, code, fmt, ap);
    va_end(ap);
    return pq_error_in(r->e, "line %u", r->line);
}

int chat_spend(struct chat_run *r, uint64_t n)
{
    r->steps += n < PQ_CHAT_STEPS ? n : PQ_CHAT_STEPS;
    return r->steps < PQ_CHAT_STEPS
               ? 0
               : chat_fail(r, PQ_ELIMIT, "takes more than %u steps",
                           PQ_CHAT_STEPS);
}

int chat_count(struct chat_run *r, uint64_t bytes)
{
    r->bytes += bytes < PQ_CHAT_MEMORY ? bytes : PQ_CHAT_MEMORY + 1;
    return r->bytes <= PQ_CHAT_MEMORY
               ? 0
               : chat_fail(r, PQ_ELIMIT, "its values take more than %u bytes",
                           PQ_CHAT_MEMORY);
}

int chat_spend_on(struct chat_run *r, const struct pq_buf *b, uint64_t n)
{
    const uint64_t before = r->bytes;

    if (chat_count(r, b->n) || chat_spend(r, n))
        return -1;
    r->bytes = before;
    return 0;
}

void *chat_take(struct chat_run *r, size_t n, size_t size)
{
    uint64_t bytes;

    if (chat_count(r, pq_mul(n, size, &bytes) ? bytes : UINT64_MAX) ||
        chat_count(r, 16))
        return NULL;
    void *const p = pq_arena_alloc(&r->arena, n, size);
    if (!p)
        pq_fail_nomem(r->e);
    return p;
}

/* Makes room for one more of a growing array of a run. */
static void *grow(struct chat_run *r, void *p, size_t n, size_t *cap,
                  size_t size)
{
    if (n < *cap)
        return p;
    const size_t more = *cap ? *cap * 2 : 4;
    void *const q = chat_take(r, more, size);
    if (!q)
        return NULL;
    if (n > 0)
        memcpy(q, p, n * size);
    *cap = more;
    return q;
}

/* ---- making ------------------------------------------------------------- */

struct chat_value chat_none(void)
{
    return (struct chat_value){.type = CHAT_NONE};
}

struct chat_value chat_bool(bool b)
{
    return (struct chat_value){.type = CHAT_BOOL, .b = b};
}

struct chat_value chat_int(int64_t i)
{
    return (struct chat_value){.type = CHAT_INT, .i = i};
}

struct chat_value chat_float(double f)
{
    return (struct chat_value){.type = CHAT_FLOAT, .f = f};
}

struct chat_value chat_string(const char *s, size_t n)
{
    return (struct chat_value){.type = CHAT_STRING, .s = {n ? s : "", n}};
}

struct chat_value chat_word(const char *s)
{
    return chat_string(s, strlen(s));
}

struct chat_value chat_undefined(const char *s, size_t n)
{
    return (struct chat_value){.type = CHAT_UNDEFINED, .s = {s, n}};
}

int chat_keep(struct chat_run *r, struct pq_buf *b, struct chat_value *out)
{
    char *s = NULL;

    if (b->failed)
        pq_fail_nomem(r->e);
    else if (chat_spend(r, b->n / 64) == 0)
        s = chat_take(r, b->n + 1, 1);
    if (s && b->n > 0)
        memcpy(s, b->s, b->n);
    if (s)
        *out = chat_string(s, b->n);
    pq_buf_release(b);
    return s ? 0 : -1;
}

int chat_new_list(struct chat_run *r, enum chat_type type,
                  struct chat_value *out)
{
    struct chat_list *const l = chat_take(r, 1, sizeof *l);

    if (!l)
        return -1;
    *out = (struct chat_value){.type = type, .list = l};
    return 0;
}

int chat_new_generator(struct chat_run *r, struct chat_value *out)
{
    if (chat_new_list(r, CHAT_LIST, out))
        return -1;
    out->list->lazy = CHAT_GENERATOR;
    return 0;
}

int chat_add(struct chat_run *r, struct chat_list *l, struct chat_value v)
{
    struct chat_value *const grown =
        grow(r, l->v, l->n, &l->cap, sizeof *grown);

    if (!grown || chat_spend(r, 1))
        return -1;
    l->v = grown;
    l->v[l->n++] = v;
    return 0;
}

int chat_new_dict(struct chat_run *r, enum chat_type type,
                  struct chat_value *out)
{
    struct chat_dict *const d = chat_take(r, 1, sizeof *d);

    if (!d)
        return -1;
    *out = (struct chat_value){.type = type, .dict = d};
    return 0;
}

static bool can_be_key(struct chat_value v)
{
    if (v.type != CHAT_TUPLE)
        return v.type != CHAT_LIST && v.type != CHAT_DICT;
    for (size_t i = 0; i < v.list->n; i++)
        if (v.list->v[i].type >= CHAT_LIST)
            return false;
    return true;
}

/* Its place, d->n: there is none; or SIZE_MAX: a failure. */
static size_t place_of(struct chat_run *r, const struct chat_dict *d,
                       struct chat_value key)
{
    bool equal;

    if (chat_spend(r, 1 + d->n / 8))
        return SIZE_MAX;
    if (!can_be_key(key)) {
        chat_fail(r, PQ_EARG, "a %s cannot be a key", chat_type_name(key));
        return SIZE_MAX;
    }
    for (size_t i = 0; i < d->n; i++) {
        const struct chat_value k = d->p[i].key;
        if (k.type == CHAT_STRING && key.type == CHAT_STRING) {
            if (k.s.n != key.s.n)
                continue;
            if (chat_spend(r, k.s.n / 64))
                return SIZE_MAX;
            if (memcmp(k.s.s, key.s.s, k.s.n) == 0)
                return i;
        } else if (chat_equal(r, k, key, &equal)) {
            return SIZE_MAX;
        } else if (equal) {
            return i;
        }
    }
    return d->n;
}

int chat_put(struct chat_run *r, struct chat_dict *d, struct chat_value key,
             struct chat_value v)
{
    const size_t at = place_of(r, d, key);

    if (at == SIZE_MAX)
        return -1;
    if (at == d->n) {
        struct chat_pair *const grown =
            grow(r, d->p, d->n, &d->cap, sizeof *grown);
        if (!grown)
            return -1;
        d->p = grown;
        d->p[d->n++].key = key;
    }
    d->p[at].value = v;
    return 0;
}

int chat_find(struct chat_run *r, const struct chat_dict *d,
              struct chat_value key, struct chat_value *out)
{
    const size_t at = place_of(r, d, key);

    if (at == SIZE_MAX)
        return -1;
    if (at == d->n)
        return 0;
    *out = d->p[at].value;
    return 1;
}

/* ---- asking ------------------------------------------------------------- */

bool chat_is(struct tok_text t, const char *s)
{
    return t.n == strlen(s) && memcmp(t.s, s, t.n) == 0;
}

int chat_shown(struct tok_text t, size_t most)
{
    size_t n = t.n < most ? t.n : most;

    while (n > 0 && n < t.n && ((unsigned char)t.s[n] & 0xc0) == 0x80)
        n--;
    return (int)n;
}

bool chat_truth(struct chat_value v)
{
    switch (v.type) {
    case CHAT_ABSENT:
    case CHAT_UNDEFINED:
    case CHAT_NONE:
        return false;
    case CHAT_BOOL:
        return v.b;
    case CHAT_INT:
        return v.i != 0;
    case CHAT_FLOAT:
        return v.f != 0;
    case CHAT_STRING:
        return v.s.n > 0;
    case CHAT_LIST:
    case CHAT_TUPLE:
        return v.list->n > 0 || v.list->lazy == CHAT_GENERATOR;
    case CHAT_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

bool chat_is_number(struct chat_value v)
{
    return v.type == CHAT_BOOL || v.type == CHAT_INT || v.type == CHAT_FLOAT;
}

double chat_as_float(struct chat_value v)
{
    return v.type == CHAT_FLOAT ? v.f
           : v.type == CHAT_INT ? (double)v.i
                                : (double)v.b;
}

const char *chat_type_name(struct chat_value v)
{
    static const char *const names[] = {
        "nothing",   "undefined", "None",  "bool",     "int",
        "float",     "string",    "list",  "tuple",    "dict",
        "namespace", "loop",      "macro", "function", "method"};

    return names[v.type];
}

int chat_plain(struct chat_run *r, struct chat_value v)
{
    if ((v.type != CHAT_LIST && v.type != CHAT_TUPLE) ||
        v.list->lazy == CHAT_PLAIN)
        return 0;
    return chat_fail(r, PQ_EUNSUPPORTED,
                     "this is not supported of %s: | list makes a list of it",
                     v.list->lazy == CHAT_VIEW ? "keys, values or items"
                                               : "what a filter gives");
}

int chat_defined(struct chat_run *r, struct chat_value v)
{
    return v.type != CHAT_UNDEFINED ? 0
                                    : chat_fail(r, PQ_EARG, "%.*s is undefined",
                                                chat_shown(v.s, 200), v.s.s);
}

/* ---- comparing ---------------------------------------------------------- */

static bool equal_numbers(struct chat_value a, struct chat_value b)
{
    if (a.type == CHAT_FLOAT || b.type == CHAT_FLOAT)
        return chat_as_float(a) == chat_as_float(b);
    return (a.type == CHAT_BOOL ? a.b : a.i) ==
           (b.type == CHAT_BOOL ? b.b : b.i);
}

static int equal_at(struct chat_run *r, struct chat_value a,
                    struct chat_value b, unsigned depth, bool *equal);

static int equal_lists(struct chat_run *r, const struct chat_list *a,
                       const struct chat_list *b, unsigned depth, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++)
        if (equal_at(r, a->v[i], b->v[i], depth + 1, equal))
            return -1;
    return 0;
}

static int equal_dicts(struct chat_run *r, const struct chat_dict *a,
                       const struct chat_dict *b, unsigned depth, bool *equal)
{
    struct chat_value v;

    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        const int found = chat_find(r, b, a->p[i].key, &v);
        if (found < 0 ||
            (found && equal_at(r, a->p[i].value, v, depth + 1, equal)))
            return -1;
        *equal = *equal && found;
    }
    return 0;
}

static int equal_at(struct chat_run *r, struct chat_value a,
                    struct chat_value b, unsigned depth, bool *equal)
{
    if (depth > CHAT_NESTED)
        return chat_fail(r, PQ_ELIMIT, "values are nested deeper than %u",
                         CHAT_NESTED);
    if (chat_spend(r, 1))
        return -1;
    if (chat_is_number(a) && chat_is_number(b)) {
        *equal = equal_numbers(a, b);
        return 0;
    }
    *equal = a.type == b.type;
    if (!*equal)
        return 0;
    if (a.type == CHAT_STRING) {
        *equal = a.s.n == b.s.n && memcmp(a.s.s, b.s.s, a.s.n) == 0;
        return chat_spend(r, a.s.n / 64);
    }
    if (a.type == CHAT_LIST || a.type == CHAT_TUPLE)
        return chat_plain(r, a) || chat_plain(r, b)
                   ? -1
                   : equal_lists(r, a.list, b.list, depth, equal);
    if (a.type == CHAT_DICT)
        return equal_dicts(r, a.dict, b.dict, depth, equal);
    if (a.type > CHAT_DICT)
        *equal = a.type == CHAT_FUNCTION ? a.function == b.function
                                         : a.list == b.list;
    return 0; /* None equals None, undefined what is undefined */
}

int chat_equal(struct chat_run *r, struct chat_value a, struct chat_value b,
               bool *equal)
{
    return equal_at(r, a, b, 0, equal);
}

static int order_texts(struct tok_text a, struct tok_text b)
{
    const int x = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);

    return x ? x : (a.n > b.n) - (a.n < b.n); /* UTF-8 is in order */
}

static int order_at(struct chat_run *r, struct chat_value a,
                    struct chat_value b, unsigned depth, int *order);

static int order_lists(struct chat_run *r, const struct chat_list *a,
                       const struct chat_list *b, unsigned depth, int *order)
{
    bool equal;

    for (size_t i = 0; i < a->n && i < b->n; i++) {
        if (chat_equal(r, a->v[i], b->v[i], &equal))
            return -1;
        if (!equal)
            return order_at(r, a->v[i], b->v[i], depth + 1, order);
    }
    *order = (a->n > b->n) - (a->n < b->n);
    return 0;
}

static int order_at(struct chat_run *r, struct chat_value a,
                    struct chat_value b, unsigned depth, int *order)
{
    if (chat_defined(r, a) || chat_defined(r, b) || chat_spend(r, 1))
        return -1;
    if (depth > CHAT_NESTED)
        return chat_fail(r, PQ_ELIMIT, "values are nested deeper than %u",
                         CHAT_NESTED);
    if (a.type == CHAT_INT && b.type == CHAT_INT) {
        *order = (a.i > b.i) - (a.i < b.i);
        return 0;
    }
    if (chat_is_number(a) && chat_is_number(b)) {
        const double x = chat_as_float(a), y = chat_as_float(b);
        *order = (x > y) - (x < y);
        return 0;
    }
    if (a.type == CHAT_STRING && b.type == CHAT_STRING) {
        *order = order_texts(a.s, b.s);
        return chat_spend(r, a.s.n / 64);
    }
    if (a.type == b.type && (a.type == CHAT_LIST || a.type == CHAT_TUPLE))
        return order_lists(r, a.list, b.list, depth, order);
    return chat_fail(r, PQ_EARG, "a %s and a %s have no order",
                     chat_type_name(a), chat_type_name(b));
}

int chat_order(struct chat_run *r, struct chat_value a, struct chat_value b,
               int *order)
{
    return order_at(r, a, b, 0, order);
}

/* ---- elements ----------------------------------------------------------- */

static int add_characters(struct chat_run *r, struct tok_text t,
                          struct chat_list *l)
{
    for (size_t at = 0, k; at < t.n; at += k) {
        k = tok_char_length(t.s[at]);
        if (chat_add(r, l, chat_string(t.s + at, k)))
            return -1;
    }
    return 0;
}

int chat_elements(struct chat_run *r, struct chat_value v,
                  struct chat_list **out)
{
    struct chat_value made;

    if (v.type == CHAT_LIST || v.type == CHAT_TUPLE) {
        if (v.list->lazy == CHAT_GENERATOR && v.list->used)
            return chat_fail(r, PQ_EUNSUPPORTED,
                             "what a filter gives is not supported twice: "
                             "| list makes a list of it");
        v.list->used = true;
        *out = v.list;
        return 0;
    }
    if (v.type != CHAT_UNDEFINED && v.type != CHAT_STRING &&
        v.type != CHAT_DICT)
        return chat_fail(r, PQ_EARG, "a %s has no elements", chat_type_name(v));
    if (chat_new_list(r, CHAT_LIST, &made))
        return -1;
    *out = made.list;
    if (v.type == CHAT_STRING)
        return add_characters(r, v.s, made.list);
    for (size_t i = 0; v.type == CHAT_DICT && i < v.dict->n; i++)
        if (chat_add(r, made.list, v.dict->p[i].key))
            return -1;
    return 0;
}

int chat_length(struct chat_run *r, struct chat_value v, int64_t *n)
{
    switch (v.type) {
    case CHAT_UNDEFINED:
        *n = 0;
        return 0;
    case CHAT_STRING:
        *n = (int64_t)chat_characters(v.s);
        return chat_spend(r, v.s.n / 64);
    case CHAT_LIST:
    case CHAT_TUPLE:
        *n = (int64_t)v.list->n;
        return v.list->lazy == CHAT_GENERATOR
                   ? chat_fail(r, PQ_EARG, "what a filter gives has no length")
                   : 0;
    case CHAT_DICT:
        *n = (int64_t)v.dict->n;
        return 0;
    default:
        return chat_fail(r, PQ_EARG, "a %s has no length", chat_type_name(v));
    }
}
