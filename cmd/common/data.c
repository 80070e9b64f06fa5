/*
 * Reading data files; see data.h.
 */
#include "data.h"

#include "pq_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An array of ids behind its key. */
static int read_ids(struct pq_json *j, struct cmd_example *x,
                    struct pq_error *e)
{
    size_t cap = 0;

    if (x->ids)
        return pq_fail(e, PQ_EFORMAT, "has \"ids\" twice");
    if (pq_json_next(j) != PQ_JSON_ARRAY)
        return pq_fail(e, PQ_EFORMAT, "\"ids\" is not a list");
    x->ids = pq_alloc(1, sizeof *x->ids);
    for (;;) {
        const enum pq_json_type t = pq_json_next(j);
        uint64_t v;
        if (t == PQ_JSON_ARRAY_END)
            return x->ids ? 0 : pq_fail_nomem(e);
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_NUMBER || pq_json_u64(j, &v) || v > INT32_MAX) {
            if (e)
                e->code = PQ_OK;
            return pq_fail(e, PQ_EFORMAT, "id %zu is no token id", x->n);
        }
        int32_t *grown = pq_grow(x->ids, x->n, &cap, sizeof *grown);
        if (!grown)
            return pq_fail_nomem(e);
        x->ids = grown;
        x->ids[x->n++] = (int32_t)v;
    }
}

static int read_example(const char *s, size_t n, struct cmd_example *x,
                        struct pq_error *e)
{
    struct pq_json j;
    enum pq_json_type t;

    pq_json_init(&j, s, n, e);
    t = pq_json_next(&j);
    if (t != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "is not a JSON object");
    while ((t = pq_json_next(&j)) == PQ_JSON_KEY) {
        if (pq_json_is(&j, "ids") ? read_ids(&j, x, e)
                                  : pq_json_skip(&j, PQ_JSON_KEY))
            return -1;
    }
    if (t == PQ_JSON_ERROR || pq_json_next(&j) != PQ_JSON_END)
        return pq_fail(e, PQ_EFORMAT, "is not one JSON object");
    return x->ids ? 0 : pq_fail(e, PQ_EFORMAT, "has no \"ids\"");
}

static bool is_blank(const char *s, size_t n)
{
    return strspn(s, " \t\r\n") >= n;
}

static int add_line(struct cmd_data *d, const char *s, size_t n, size_t line,
                    struct pq_error *e)
{
    struct cmd_example x = {.line = line, .end = d->bytes};
    struct cmd_example *grown = pq_grow(d->items, d->n, &d->cap, sizeof x);

    if (!grown)
        return pq_fail_nomem(e);
    d->items = grown;
    if (read_example(s, n, &x, e)) {
        free(x.ids);
        return pq_error_in(e, "line %zu", line);
    }
    d->items[d->n++] = x;
    return 0;
}

static int read_lines(FILE *f, struct cmd_data *d, struct pq_error *e)
{
    char *s = NULL;
    size_t cap = 0, line = 0;
    ssize_t n;
    int rc = 0;

    errno = 0;
    while (!rc && (n = getline(&s, &cap, f)) >= 0) {
        d->bytes += (uint64_t)n;
        line++;
        if (!is_blank(s, (size_t)n))
            rc = add_line(d, s, (size_t)n, line, e);
    }
    if (!rc && ferror(f))
        rc = pq_fail_sys(e, errno, "cannot be read");
    free(s);
    return rc;
}

int cmd_data_read(const char *path, struct cmd_data *d, struct pq_error *e)
{
    const bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");

    if (!f)
        return pq_fail_sys(e, errno, "%s", path);
    const int rc = read_lines(f, d, e);
    if (!standard)
        fclose(f);
    return rc ? pq_error_in(e, "%s", path) : 0;
}

void cmd_data_release(struct cmd_data *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->items[i].ids);
    free(d->items);
    memset(d, 0, sizeof *d);
}
