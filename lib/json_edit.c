/*
 * JSON: changing one key of an object and nothing else.
 *
 * The text is tokenized to learn where the members of the outer object lie;
 * the result is made of pieces of the text around the new value:
 *
 *     {\n  "a": 1,\n  "b": [2]\n}
 *           ^    ^    ^  ^   ^
 *           |    |    |  |   end of member b
 *           |    |    |  value
 *           |    |    key
 *           |    end of member a
 *           key of member a
 */
#include "pq_json.h"

#include <string.h>

struct member {
    size_t key, key_end; /* with its quotes */
    size_t value, end;
};

/* What is known of the object after one pass. */
struct outline {
    size_t open, close; /* of the braces */
    size_t n;
    bool found, has_next;
    struct member hit, before, next, last; /* the key and its neighbours */
};

static int read_member(struct pq_json *j, struct member *m)
{
    m->key = j->start - 1;
    m->key_end = j->start + j->length + 1;
    const enum pq_json_type t = pq_json_next(j);
    if (t == PQ_JSON_ERROR)
        return -1;
    m->value = t == PQ_JSON_STRING ? j->start - 1 : j->start;
    if (pq_json_skip(j, t) != 0)
        return -1;
    m->end = j->at;
    return 0;
}

static int read_outline(struct pq_json *j, const char *key, struct outline *o)
{
    enum pq_json_type t = pq_json_next(j);
    if (t == PQ_JSON_ERROR)
        return -1;
    if (t != PQ_JSON_OBJECT)
        return pq_fail(j->e, PQ_EFORMAT, "JSON: not an object");
    o->open = j->start;
    while ((t = pq_json_next(j)) == PQ_JSON_KEY) {
        const bool hit = pq_json_is(j, key);
        if (hit && o->found)
            return pq_fail(j->e, PQ_EFORMAT, "JSON: byte %zu: duplicate key",
                           j->start);
        struct member m;
        if (read_member(j, &m) != 0)
            return -1;
        if (hit) {
            o->found = true;
            o->hit = m;
            o->before = o->last;
        } else if (o->found && !o->has_next) {
            o->has_next = true;
            o->next = m;
        }
        o->last = m;
        o->n++;
    }
    if (t != PQ_JSON_OBJECT_END)
        return -1;
    o->close = j->start;
    return pq_json_next(j) == PQ_JSON_END ? 0 : -1;
}

/* Removes [from, to) of the text. */
static void cut(const char *text, size_t n, size_t from, size_t to,
                struct pq_buf *out)
{
    pq_buf_add(out, text, from);
    pq_buf_add(out, text + to, n - to);
}

/* The first member and those between go with the comma behind them. */
static void remove_member(const char *text, size_t n, const struct outline *o,
                          struct pq_buf *out)
{
    if (o->has_next)
        cut(text, n, o->hit.key, o->next.key, out);
    else if (o->n > 1)
        cut(text, n, o->before.end, o->hit.end, out);
    else
        cut(text, n, o->open + 1, o->close, out);
}

/* Adds the first member of an empty object, on a line of its own if any. */
static void add_first(const char *text, size_t n, const struct outline *o,
                      const char *key, const char *value, struct pq_buf *out)
{
    const size_t inside = o->open + 1;
    const bool lines = memchr(text + inside, '\n', o->close - inside) != NULL;
    pq_buf_add(out, text, inside);
    pq_buf_puts(out, lines ? "\n  " : "");
    pq_json_quote(out, key);
    pq_buf_puts(out, ": ");
    pq_buf_puts(out, value);
    pq_buf_puts(out, lines ? "\n" : "");
    pq_buf_add(out, text + o->close, n - o->close);
}

/* Adds behind the last member, spaced as that one is. */
static void add_last(const char *text, size_t n, const struct outline *o,
                     const char *key, const char *value, struct pq_buf *out)
{
    const struct member *const m = &o->last;
    size_t space = m->key;
    while (strchr(" \t\r\n", text[space - 1]) != NULL)
        space--;
    pq_buf_add(out, text, m->end);
    pq_buf_puts(out, ",");
    /* In {"a": 1} nothing stands before the key, but ": " shows the style. */
    if (space == m->key && text[m->value - 1] == ' ')
        pq_buf_puts(out, " ");
    pq_buf_add(out, text + space, m->key - space);
    pq_json_quote(out, key);
    pq_buf_add(out, text + m->key_end, m->value - m->key_end);
    pq_buf_puts(out, value);
    pq_buf_add(out, text + m->end, n - m->end);
}

int pq_json_edit(const char *text, size_t n, const char *key, const char *value,
                 struct pq_buf *out, struct pq_error *e)
{
    struct pq_json j;
    struct outline o = {0};
    if (value != NULL && pq_json_check(value, strlen(value), e) != 0)
        return pq_error_in(e, "value of %s", key);
    pq_json_init(&j, text, n, e);
    if (read_outline(&j, key, &o) != 0)
        return -1;

    if (o.found && value != NULL) {
        pq_buf_add(out, text, o.hit.value);
        pq_buf_puts(out, value);
        pq_buf_add(out, text + o.hit.end, n - o.hit.end);
    } else if (o.found) {
        remove_member(text, n, &o, out);
    } else if (value == NULL) {
        pq_buf_add(out, text, n);
    } else if (o.n == 0) {
        add_first(text, n, &o, key, value, out);
    } else {
        add_last(text, n, &o, key, value, out);
    }
    return out->failed ? pq_fail_nomem(e) : 0;
}
