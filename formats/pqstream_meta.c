/*
 * The META records of a .pq stream: files and string metadata.
 *
 *     head {"kind":"file","name":"config.json"}   body: the file
 *     head {"kind":"metadata"}                    body: {"format":"pt",...}
 */
#include "pqstream.h"

#include <string.h>

#include "pq_json.h"

/* The current key or string as a C string in c's arena. */
static int take(struct pq_json *j, struct pq_catalog *c, const char **s)
{
    const char *text;
    size_t n;

    if (pq_json_string(j, &c->arena, &text, &n))
        return -1;
    if (memchr(text, 0, n))
        return pq_fail(j->e, PQ_EFORMAT, "NUL in a string");
    *s = pq_arena_strndup(&c->arena, text, n);
    return *s ? 0 : pq_fail_nomem(j->e);
}

int pq_stream_parse_head(const char *text, size_t n, struct pq_catalog *c,
                         const char **kind, const char **name,
                         struct pq_error *e)
{
    struct pq_json j;

    *kind = *name = NULL;
    if (pq_json_check(text, n, e))
        return pq_error_in(e, "META head");
    pq_json_init(&j, text, n, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "META head: not an object");
    while (pq_json_next(&j) == PQ_JSON_KEY) {
        const char **to = pq_json_is(&j, "kind")   ? kind
                          : pq_json_is(&j, "name") ? name
                                                   : NULL;
        const enum pq_json_type t = pq_json_next(&j);
        if (to && t != PQ_JSON_STRING)
            return pq_fail(e, PQ_EFORMAT, "META head: expected a string");
        if (to ? take(&j, c, to) : pq_json_skip(&j, t))
            return -1;
    }
    if (!*kind)
        return pq_fail(e, PQ_EFORMAT, "META head: no kind");
    return 0;
}

int pq_stream_parse_metadata(const char *text, size_t n, struct pq_catalog *c,
                             struct pq_error *e)
{
    struct pq_json j;

    /* The check refuses a key that stands twice. */
    if (pq_json_check(text, n, e))
        return pq_error_in(e, "metadata");
    pq_json_init(&j, text, n, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "metadata: not an object");
    while (pq_json_next(&j) == PQ_JSON_KEY) {
        const char *key, *value;
        if (take(&j, c, &key))
            return -1;
        if (pq_json_next(&j) != PQ_JSON_STRING)
            return pq_fail(e, PQ_EFORMAT, "metadata: %s is not a string", key);
        if (take(&j, c, &value) || pq_catalog_set(c, key, value, e))
            return -1;
    }
    return 0;
}
