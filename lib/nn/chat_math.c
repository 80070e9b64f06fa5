/*
 * Chat templates: operators, as Python has them.  Integers have 64 bits; what
 * does not fit fails.
 */
#include "chat.h"

#include <math.h>
#include <string.h>

static int no_such(struct chat_run *r, struct tok_text op, struct chat_value a,
                   struct chat_value b)
{
    return chat_fail(r, PQ_EARG, "%s %.*s %s is not possible",
                     chat_type_name(a), (int)op.n, op.s, chat_type_name(b));
}

/* ---- numbers ------------------------------------------------------------ */

static int64_t as_int(struct chat_value v)
{
    return v.type == CHAT_BOOL ? v.b : v.i;
}

static int power(struct chat_run *r, int64_t a, int64_t b,
                 struct chat_value *out)
{
    int64_t x = 1;

    if (b < 0) {
        *out = chat_float(pow((double)a, (double)b));
        return a ? 0 : chat_fail(r, PQ_EARG, "divides by zero");
    }
    for (; b > 0 && (a < -1 || a > 1); b--)
        if (__builtin_mul_overflow(x, a, &x))
            return chat_fail(r, PQ_ELIMIT, "an integer is too large");
    *out = chat_int(b == 0 ? x : a == -1 && b % 2 == 0 ? 1 : a);
    return 0;
}

/* The quotient rounded down, and what is left, of the sign of b. */
static void divide(int64_t a, int64_t b, int64_t *quotient, int64_t *rest)
{
    *quotient = a / b;
    *rest = a % b;
    if (*rest != 0 && (*rest < 0) != (b < 0)) {
        --*quotient;
        *rest += b;
    }
}

static int integers(struct chat_run *r, struct tok_text op, int64_t a,
                    int64_t b, struct chat_value *out)
{
    int64_t x = 0, rest = 0;
    bool over = false;

    if (chat_is(op, "**"))
        return power(r, a, b, out);
    if ((*op.s == '/' || *op.s == '%') && b == 0)
        return chat_fail(r, PQ_EARG, "divides by zero");
    if (chat_is(op, "/")) {
        *out = chat_float((double)a / (double)b);
        return 0;
    }
    if (*op.s == '+') {
        over = __builtin_add_overflow(a, b, &x);
    } else if (*op.s == '-') {
        over = __builtin_sub_overflow(a, b, &x);
    } else if (*op.s == '*') {
        over = __builtin_mul_overflow(a, b, &x);
    } else {
        over = a == INT64_MIN && b == -1;
        if (!over)
            divide(a, b, &x, &rest);
        x = *op.s == '%' ? rest : x;
    }
    *out = chat_int(x);
    return over ? chat_fail(r, PQ_ELIMIT, "an integer is too large") : 0;
}

static int floats(struct chat_run *r, struct tok_text op, double a, double b,
                  struct chat_value *out)
{
    double rest;

    if ((*op.s == '/' || *op.s == '%') && b == 0)
        return chat_fail(r, PQ_EARG, "divides by zero");
    if (chat_is(op, "**")) {
        *out = chat_float(pow(a, b));
        return isfinite(out->f) || !isfinite(a) || !isfinite(b)
                   ? 0
                   : chat_fail(r, PQ_EARG, "a power that is no number");
    }
    rest = fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0))
        rest += b;
    *out = chat_float(*op.s == '+'        ? a + b
                      : *op.s == '-'      ? a - b
                      : *op.s == '*'      ? a * b
                      : *op.s == '%'      ? rest
                      : chat_is(op, "//") ? floor((a - rest) / b + 0.5)
                                          : a / b);
    return 0;
}

/* ---- texts and lists ---------------------------------------------------- */

static int join_texts(struct chat_run *r, struct tok_text a, struct tok_text b,
                      struct chat_value *out)
{
    char *const s = chat_take(r, a.n + b.n + 1, 1);

    if (!s || chat_spend(r, (a.n + b.n) / 64))
        return -1;
    memcpy(s, a.s, a.n);
    memcpy(s + a.n, b.s, b.n);
    *out = chat_string(s, a.n + b.n);
    return 0;
}

static int add_all(struct chat_run *r, struct chat_list *to,
                   const struct chat_list *l)
{
    const size_t n = l->n;

    for (size_t i = 0; i < n; i++)
        if (chat_add(r, to, l->v[i]))
            return -1;
    return 0;
}

static int join_lists(struct chat_run *r, struct chat_value a,
                      struct chat_value b, struct chat_value *out)
{
    return chat_plain(r, a) || chat_plain(r, b) ||
                   chat_new_list(r, a.type, out) ||
                   add_all(r, out->list, a.list) ||
                   add_all(r, out->list, b.list)
               ? -1
               : 0;
}

static int repeat(struct chat_run *r, struct chat_value v, int64_t n,
                  struct chat_value *out)
{
    struct pq_buf b = {0};

    if (v.type != CHAT_STRING && chat_new_list(r, v.type, out))
        return -1;
    for (int64_t i = 0; i < n; i++) {
        if (chat_spend_on(r, &b,
                          1 + (v.type == CHAT_STRING ? v.s.n / 16 : 0)) ||
            (v.type != CHAT_STRING && add_all(r, out->list, v.list))) {
            pq_buf_release(&b);
            return -1;
        }
        if (v.type == CHAT_STRING)
            pq_buf_add(&b, v.s.s, v.s.n);
    }
    return v.type == CHAT_STRING ? chat_keep(r, &b, out) : 0;
}

/* | safe marks a text, and what it is added to would be escaped for HTML. */
static int check_safe(struct chat_run *r, struct chat_value a,
                      struct chat_value b)
{
    return !a.safe && !b.safe
               ? 0
               : chat_fail(r, PQ_EUNSUPPORTED,
                           "operators on what | safe gave are not supported");
}

static bool repeats(struct chat_value v, struct chat_value n)
{
    return v.type >= CHAT_STRING && v.type <= CHAT_TUPLE &&
           (n.type == CHAT_INT || n.type == CHAT_BOOL);
}

static int concatenate(struct chat_run *r, struct chat_value a,
                       struct chat_value b, struct chat_value *out)
{
    struct chat_value x, y;

    return chat_to_string(r, a, &x) || chat_to_string(r, b, &y) ||
                   join_texts(r, x.s, y.s, out)
               ? -1
               : 0;
}

int chat_binary(struct chat_run *r, struct tok_text op, struct chat_value a,
                struct chat_value b, struct chat_value *out)
{
    if (*op.s == '~')
        return concatenate(r, a, b, out);
    if (chat_is(op, "%") && a.type == CHAT_STRING)
        return chat_fail(r, PQ_EUNSUPPORTED, "%% of a text is not supported");
    if (chat_defined(r, a) || chat_defined(r, b) || check_safe(r, a, b))
        return -1;
    if (chat_is_number(a) && chat_is_number(b))
        return a.type == CHAT_FLOAT || b.type == CHAT_FLOAT
                   ? floats(r, op, chat_as_float(a), chat_as_float(b), out)
                   : integers(r, op, as_int(a), as_int(b), out);
    if (chat_is(op, "*") && repeats(a, b))
        return repeat(r, a, as_int(b), out);
    if (chat_is(op, "*") && repeats(b, a))
        return repeat(r, b, as_int(a), out);
    if (!chat_is(op, "+") || a.type != b.type)
        return no_such(r, op, a, b);
    if (a.type == CHAT_STRING)
        return join_texts(r, a.s, b.s, out);
    if (a.type == CHAT_LIST || a.type == CHAT_TUPLE)
        return join_lists(r, a, b, out);
    return no_such(r, op, a, b);
}

/* ---- comparisons -------------------------------------------------------- */

static int is_in(struct chat_run *r, struct chat_value a, struct chat_value of,
                 bool *yes)
{
    struct chat_list *l;
    struct chat_value v;

    *yes = false;
    if (of.type == CHAT_STRING) {
        if (chat_defined(r, a))
            return -1;
        if (a.type != CHAT_STRING)
            return no_such(r, (struct tok_text){"in", 2}, a, of);
        *yes = chat_search(of.s, a.s, 0) <= of.s.n;
        return chat_spend(r, of.s.n / 16);
    }
    if (of.type == CHAT_DICT) {
        const int found = chat_find(r, of.dict, a, &v);
        *yes = found > 0;
        return found < 0 ? -1 : 0;
    }
    if (chat_elements(r, of, &l))
        return -1;
    for (size_t i = 0; !*yes && i < l->n; i++)
        if (chat_equal(r, a, l->v[i], yes))
            return -1;
    return 0;
}

int chat_compare(struct chat_run *r, struct tok_text op, struct chat_value a,
                 struct chat_value b, bool *yes)
{
    const bool nan = (a.type == CHAT_FLOAT && isnan(a.f)) ||
                     (b.type == CHAT_FLOAT && isnan(b.f));
    int order;

    if (chat_is(op, "==") || chat_is(op, "!=")) {
        const int rc = chat_equal(r, a, b, yes);
        *yes = *yes != (*op.s == '!');
        return rc;
    }
    if (chat_is(op, "in") || chat_is(op, "not in")) {
        const int rc = is_in(r, a, b, yes);
        *yes = *yes != (*op.s == 'n');
        return rc;
    }
    if (chat_order(r, a, b, &order))
        return -1;
    *yes = !nan && (*op.s == '<' ? order < 0 : order > 0);
    *yes = *yes || (!nan && op.n == 2 && order == 0);
    return 0;
}

/* ---- slices ------------------------------------------------------------- */

/* A bound within 0..n for a step forward, within -1..n-1 for one back. */
static int64_t clamp(int64_t at, int64_t n, bool back)
{
    const int64_t least = back ? -1 : 0, most = back ? n - 1 : n;

    if (at < 0)
        at = at < -n ? least : at + n;
    return at < least ? least : at > most ? most : at;
}

static int bound(struct chat_run *r, struct chat_value v, int64_t otherwise,
                 int64_t *at)
{
    *at = otherwise;
    if (v.type == CHAT_ABSENT || v.type == CHAT_NONE)
        return 0;
    return chat_want_int(r, "a slice", v, at);
}

static int slice_list(struct chat_run *r, const struct chat_list *l,
                      const int64_t *at /* from, to, step */,
                      struct chat_list *out)
{
    for (int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1];) {
        if (chat_add(r, out, l->v[i]))
            return -1;
        if (__builtin_add_overflow(i, at[2], &i))
            break;
    }
    return 0;
}

/* The characters of a list, put together. */
static int join_characters(struct chat_run *r, const struct chat_list *l,
                           struct chat_value *out)
{
    struct pq_buf b = {0};

    for (size_t i = 0; i < l->n; i++)
        pq_buf_add(&b, l->v[i].s.s, l->v[i].s.n);
    return chat_keep(r, &b, out);
}

int chat_slice(struct chat_run *r, struct chat_value of,
               const struct chat_value *bounds, struct chat_value *out)
{
    int64_t n, at[3];
    struct chat_list *l;
    struct chat_value part;

    if (chat_defined(r, of) || chat_plain(r, of))
        return -1;
    if (of.type < CHAT_STRING || of.type > CHAT_TUPLE)
        return chat_fail(r, PQ_EARG, "a %s has no slices", chat_type_name(of));
    if (chat_length(r, of, &n) || bound(r, bounds[2], 1, &at[2]))
        return -1;
    const bool back = at[2] < 0;
    if (at[2] == 0)
        return chat_fail(r, PQ_EARG, "a slice in steps of zero");
    if (bound(r, bounds[0], back ? INT64_MAX : 0, &at[0]) ||
        bound(r, bounds[1], back ? INT64_MIN : INT64_MAX, &at[1]))
        return -1;
    at[0] = clamp(at[0], n, back);
    at[1] = clamp(at[1], n, back);
    if (of.type == CHAT_STRING && at[2] == 1) {
        const size_t from = chat_bytes(of.s, (size_t)at[0]);
        const size_t to = chat_bytes(of.s, (size_t)at[1]);
        *out = chat_string(of.s.s + from, to > from ? to - from : 0);
        return 0;
    }
    if (chat_elements(r, of, &l) ||
        chat_new_list(r, of.type == CHAT_STRING ? CHAT_LIST : of.type, &part) ||
        slice_list(r, l, at, part.list))
        return -1;
    *out = part;
    return of.type == CHAT_STRING ? join_characters(r, part.list, out) : 0;
}
