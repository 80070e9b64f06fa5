/*
 * Chat templates: tests, what may stand behind `is`.
 *
 *     boolean callable defined divisibleby eq equalto even false float ge
 *     greaterthan gt in integer iterable le lessthan lower lt mapping ne none
 *     number odd sameas sequence string true undefined upper
 */
#include "chat.h"

#include <string.h>
#include <utf8proc.h>

struct question {
    struct chat_run *r;
    struct chat_value v, with; /* with: its argument */
    bool yes;
};

/* ---- what it is --------------------------------------------------------- */

static int kind(struct question *q, bool yes)
{
    q->yes = yes;
    return 0;
}

static int is_defined(struct question *q)
{
    return kind(q, q->v.type != CHAT_UNDEFINED);
}

static int is_undefined(struct question *q)
{
    return kind(q, q->v.type == CHAT_UNDEFINED);
}

static int is_none(struct question *q)
{
    return kind(q, q->v.type == CHAT_NONE);
}

static int is_boolean(struct question *q)
{
    return kind(q, q->v.type == CHAT_BOOL);
}

static int is_true(struct question *q)
{
    return kind(q, q->v.type == CHAT_BOOL && q->v.b);
}

static int is_false(struct question *q)
{
    return kind(q, q->v.type == CHAT_BOOL && !q->v.b);
}

static int is_integer(struct question *q)
{
    return kind(q, q->v.type == CHAT_INT);
}

static int is_float(struct question *q)
{
    return kind(q, q->v.type == CHAT_FLOAT);
}

static int is_number(struct question *q)
{
    return kind(q, chat_is_number(q->v));
}

static int is_string(struct question *q)
{
    return kind(q, q->v.type == CHAT_STRING);
}

static int is_mapping(struct question *q)
{
    return kind(q, q->v.type == CHAT_DICT);
}

/* Also what is undefined: it has no elements, but one can ask for them. */
static int is_iterable(struct question *q)
{
    return kind(q, q->v.type == CHAT_UNDEFINED ||
                       (q->v.type >= CHAT_STRING && q->v.type <= CHAT_DICT));
}

static int is_sequence(struct question *q)
{
    const bool list = q->v.type == CHAT_LIST || q->v.type == CHAT_TUPLE;

    if (is_iterable(q))
        return -1;
    return kind(q, q->yes && (!list || q->v.list->lazy == CHAT_PLAIN));
}

static int is_callable(struct question *q)
{
    return kind(q, q->v.type == CHAT_UNDEFINED || q->v.type >= CHAT_LOOP);
}

/* Has it letters, all of the one case? */
static int is_case(struct question *q, utf8proc_category_t wanted,
                   utf8proc_category_t other)
{
    struct chat_value t;
    bool any = false;

    if (chat_to_string(q->r, q->v, &t))
        return -1;
    q->yes = true;
    for (size_t at = 0, k; at < t.s.n; at += k) {
        const utf8proc_category_t c = utf8proc_category(
            (utf8proc_int32_t)tok_char(t.s.s + at, t.s.n - at, &k));
        any = any || c == wanted;
        if (c == other || c == UTF8PROC_CATEGORY_LT)
            q->yes = false;
    }
    q->yes = q->yes && any;
    return chat_spend(q->r, t.s.n / 16);
}

static int is_upper(struct question *q)
{
    return is_case(q, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LL);
}

static int is_lower(struct question *q)
{
    return is_case(q, UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LU);
}

/* ---- beside another ----------------------------------------------------- */

static int compare(struct question *q, const char *op)
{
    return chat_compare(q->r, (struct tok_text){op, strlen(op)}, q->v, q->with,
                        &q->yes);
}

static int is_equal(struct question *q)
{
    return compare(q, "==");
}

static int is_other(struct question *q)
{
    return compare(q, "!=");
}

static int is_less(struct question *q)
{
    return compare(q, "<");
}

static int is_at_most(struct question *q)
{
    return compare(q, "<=");
}

static int is_greater(struct question *q)
{
    return compare(q, ">");
}

static int is_at_least(struct question *q)
{
    return compare(q, ">=");
}

static int is_in(struct question *q)
{
    return compare(q, "in");
}

/* Of what there is one of: None, True, False. */
static int is_same(struct question *q)
{
    if (q->with.type != CHAT_NONE && q->with.type != CHAT_BOOL)
        return chat_fail(q->r, PQ_EUNSUPPORTED,
                         "sameas is supported of none, true and false only");
    return kind(q, q->v.type == q->with.type &&
                       (q->v.type == CHAT_NONE || q->v.b == q->with.b));
}

static int is_divisible(struct question *q)
{
    struct chat_value rest;

    if (chat_binary(q->r, (struct tok_text){"%", 1}, q->v, q->with, &rest))
        return -1;
    q->yes = !chat_truth(rest);
    return 0;
}

static int is_even(struct question *q)
{
    q->with = chat_int(2);
    return is_divisible(q);
}

static int is_odd(struct question *q)
{
    struct chat_value rest;

    return chat_binary(q->r, (struct tok_text){"%", 1}, q->v, chat_int(2),
                       &rest) ||
                   chat_equal(q->r, rest, chat_int(1), &q->yes)
               ? -1
               : 0;
}

/* ---- which there are ---------------------------------------------------- */

static const struct {
    const char *name;
    size_t arguments;
    int (*f)(struct question *q);
} tests[] = {
    {"boolean", 0, is_boolean},
    {"callable", 0, is_callable},
    {"defined", 0, is_defined},
    {"divisibleby", 1, is_divisible},
    {"eq", 1, is_equal},
    {"equalto", 1, is_equal},
    {"==", 1, is_equal},
    {"even", 0, is_even},
    {"false", 0, is_false},
    {"float", 0, is_float},
    {"ge", 1, is_at_least},
    {">=", 1, is_at_least},
    {"greaterthan", 1, is_greater},
    {"gt", 1, is_greater},
    {">", 1, is_greater},
    {"in", 1, is_in},
    {"integer", 0, is_integer},
    {"iterable", 0, is_iterable},
    {"le", 1, is_at_most},
    {"<=", 1, is_at_most},
    {"lessthan", 1, is_less},
    {"lt", 1, is_less},
    {"<", 1, is_less},
    {"lower", 0, is_lower},
    {"mapping", 0, is_mapping},
    {"ne", 1, is_other},
    {"!=", 1, is_other},
    {"none", 0, is_none},
    {"number", 0, is_number},
    {"odd", 0, is_odd},
    {"sameas", 1, is_same},
    {"sequence", 0, is_sequence},
    {"string", 0, is_string},
    {"true", 0, is_true},
    {"undefined", 0, is_undefined},
    {"upper", 0, is_upper},
};

#define TESTS (sizeof tests / sizeof *tests)

static size_t find_test(struct tok_text name)
{
    size_t i = 0;

    while (i < TESTS && !chat_is(name, tests[i].name))
        i++;
    return i;
}

bool chat_has_test(struct tok_text name)
{
    return find_test(name) < TESTS;
}

int chat_test(struct chat_run *r, struct tok_text test, struct chat_value in,
              const struct chat_args *a, bool *yes)
{
    const size_t i = find_test(test);
    struct question q = {.r = r, .v = in};

    if (i == TESTS)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "the test \"%.*s\" is not supported",
                         chat_shown(test, 64), test.s);
    if (a->n != tests[i].arguments || a->named.n > 0)
        return chat_fail(r, PQ_EARG, "the test %s has %zu arguments",
                         tests[i].name, tests[i].arguments);
    if (a->n > 0)
        q.with = a->v[0];
    if (tests[i].f(&q))
        return -1;
    *yes = q.yes;
    return 0;
}
