/*
 * Chat templates: JSON to values.
 */
#include "chat.h"

#include <string.h>

static int read_string(struct chat_run *r, struct pq_json *j,
                       struct chat_value *out)
{
    const char *s;
    size_t n;

    if (pq_json_string(j, &r->arena, &s, &n) || chat_count(r, n))
        return -1;
    *out = chat_string(s, n);
    return 0;
}

/* With a dot or an exponent it is a float, as for Python. */
static int read_number(struct chat_run *r, struct pq_json *j,
                       struct chat_value *out)
{
    const struct tok_text t = {j->text + j->start, j->length};
    const bool minus = *t.s == '-';
    uint64_t v = 0;
    double f;

    for (size_t i = minus; i < t.n; i++)
        if (t.s[i] < '0' || t.s[i] > '9') {
            if (pq_json_double(j, &f))
                return -1;
            *out = chat_float(f);
            return 0;
        }
    for (size_t i = minus; i < t.n; i++)
        if (!pq_mul(v, 10, &v) || !pq_add(v, (uint64_t)(t.s[i] - '0'), &v) ||
            v > INT64_MAX)
            return pq_fail(r->e, PQ_ELIMIT, "byte %zu: an integer is too large",
                           j->start);
    *out = chat_int(minus ? -(int64_t)v : (int64_t)v);
    return 0;
}

static int read_list(struct chat_run *r, struct pq_json *j,
                     struct chat_value *out)
{
    struct chat_value made, v;
    enum pq_json_type t;

    if (chat_new_list(r, CHAT_LIST, &made))
        return -1;
    while ((t = pq_json_next(j)) != PQ_JSON_ARRAY_END)
        if (t == PQ_JSON_ERROR || chat_read_json(r, j, t, &v) ||
            chat_add(r, made.list, v))
            return -1;
    *out = made;
    return 0;
}

static int read_dict(struct chat_run *r, struct pq_json *j,
                     struct chat_value *out)
{
    struct chat_value made, key, v;
    enum pq_json_type t;

    if (chat_new_dict(r, CHAT_DICT, &made))
        return -1;
    while ((t = pq_json_next(j)) == PQ_JSON_KEY)
        if (read_string(r, j, &key) ||
            chat_read_json(r, j, pq_json_next(j), &v) ||
            chat_put(r, made.dict, key, v))
            return -1;
    *out = made;
    return t == PQ_JSON_OBJECT_END ? 0 : -1;
}

int chat_read_json(struct chat_run *r, struct pq_json *j, enum pq_json_type t,
                   struct chat_value *out)
{
    switch (t) {
    case PQ_JSON_OBJECT:
        return read_dict(r, j, out);
    case PQ_JSON_ARRAY:
        return read_list(r, j, out);
    case PQ_JSON_STRING:
        return read_string(r, j, out);
    case PQ_JSON_NUMBER:
        return read_number(r, j, out);
    case PQ_JSON_TRUE:
    case PQ_JSON_FALSE:
        *out = chat_bool(t == PQ_JSON_TRUE);
        return 0;
    case PQ_JSON_NULL:
        *out = chat_none();
        return 0;
    default:
        return pq_fail(r->e, PQ_EFORMAT, "is not JSON");
    }
}
