/*
 * Reading and extending tokenizer.json; see tokens.h.
 */
#include "tokens.h"

#include "pq_json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ----------------------------------------------------------- */

static int broken(struct pq_json *j, const char *what)
{
    return pq_fail(j->e, PQ_EFORMAT, "byte %zu: %s", j->start, what);
}

/* The current string with NUL characters put in another way. */
static const char *text_of(struct tokens *t, struct pq_json *j)
{
    const char *s;
    size_t n, nuls = 0, k = 0;

    if (pq_json_string(j, &t->arena, &s, &n))
        return NULL;
    for (size_t i = 0; i < n; i++)
        nuls += s[i] == '\0';
    char *copy = pq_arena_alloc(&t->arena, n + nuls + 1, 1);
    if (!copy) {
        pq_fail_nomem(j->e);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\0') {
            copy[k++] = (char)0xc0;
            copy[k++] = (char)0x80;
        } else {
            copy[k++] = s[i];
        }
    }
    return copy;
}

/* A token at the current string; its number comes later. */
static int begin(struct tokens *t, struct pq_json *j, struct token *new)
{
    new->json = j->text + j->start;
    new->json_n = j->length;
    new->text = text_of(t, j);
    return new->text ? 0 : -1;
}

static int add(struct tokens *t, struct pq_json *j, const struct token *new,
               uint64_t id)
{
    size_t old;

    if (id >= TOKENS_MAX)
        return broken(j, "the number of a token is too large");
    const int rc = pq_names_add(&t->index, new->text, t->n, &old, j->e);
    if (rc < 0)
        return -1;
    if (rc == 1) {
        struct token *same = &t->list[old];
        if (same->id != id)
            return broken(j, "a token has two numbers");
        if (new->added) {
            same->added = new->added;
            same->added_n = new->added_n;
        }
        return 0;
    }
    struct token *list = pq_grow(t->list, t->n, &t->cap, sizeof *list);
    if (!list)
        return pq_fail_nomem(j->e);
    t->list = list;
    list[t->n] = *new;
    list[t->n++].id = (uint32_t)id;
    if (id >= t->top)
        t->top = id + 1;
    return 0;
}

/* {"a": 3, ...}, of which the bracket was read. */
static int read_map(struct tokens *t, struct pq_json *j)
{
    enum pq_json_type type;

    while ((type = pq_json_next(j)) == PQ_JSON_KEY) {
        struct token new = {0};
        uint64_t id;
        if (begin(t, j, &new))
            return -1;
        if (pq_json_next(j) != PQ_JSON_NUMBER)
            return broken(j, "a token without a number");
        if (pq_json_u64(j, &id) || add(t, j, &new, id))
            return -1;
    }
    return type == PQ_JSON_OBJECT_END ? 0 : -1;
}

/* [["a", -1.5], ...], of which the bracket was read. */
static int read_list(struct tokens *t, struct pq_json *j)
{
    enum pq_json_type type;
    uint64_t id = 0;

    while ((type = pq_json_next(j)) == PQ_JSON_ARRAY) {
        struct token new = {0};
        if (pq_json_next(j) != PQ_JSON_STRING)
            return broken(j, "not a token and its score");
        if (begin(t, j, &new) || add(t, j, &new, id++))
            return -1;
        if (pq_json_next(j) != PQ_JSON_NUMBER ||
            pq_json_next(j) != PQ_JSON_ARRAY_END)
            return broken(j, "not a token and its score");
    }
    return type == PQ_JSON_ARRAY_END ? 0
                                     : broken(j, "not a token and its score");
}

static int read_model(struct tokens *t, struct pq_json *j)
{
    enum pq_json_type type;

    if (pq_json_next(j) != PQ_JSON_OBJECT)
        return broken(j, "\"model\" is not an object");
    while ((type = pq_json_next(j)) == PQ_JSON_KEY) {
        const bool vocab = pq_json_is(j, "vocab");
        type = pq_json_next(j);
        if (!vocab) {
            if (pq_json_skip(j, type))
                return -1;
        } else if (type == PQ_JSON_OBJECT ? read_map(t, j)
                   : type == PQ_JSON_ARRAY
                       ? read_list(t, j)
                       : broken(j, "\"vocab\" is not a vocabulary")) {
            return -1;
        }
    }
    return type == PQ_JSON_OBJECT_END ? 0 : -1;
}

/* One entry of added_tokens, of which the bracket was read. */
static int read_added(struct tokens *t, struct pq_json *j)
{
    const size_t from = j->start;
    struct token new = {0};
    enum pq_json_type type;
    uint64_t id = UINT64_MAX;

    while ((type = pq_json_next(j)) == PQ_JSON_KEY) {
        const bool is_id = pq_json_is(j, "id");
        const bool is_text = pq_json_is(j, "content");
        type = pq_json_next(j);
        if (is_id ? type != PQ_JSON_NUMBER || pq_json_u64(j, &id)
            : is_text ? type != PQ_JSON_STRING || begin(t, j, &new)
                      : pq_json_skip(j, type) != 0)
            return broken(j, "not an added token");
    }
    if (type != PQ_JSON_OBJECT_END)
        return -1;
    if (!new.text || id == UINT64_MAX)
        return broken(j, "an added token without id or content");
    new.added = j->text + from;
    new.added_n = j->at - from;
    return add(t, j, &new, id);
}

static int read_all_added(struct tokens *t, struct pq_json *j)
{
    enum pq_json_type type = pq_json_next(j);

    if (type == PQ_JSON_NULL)
        return 0;
    if (type != PQ_JSON_ARRAY)
        return broken(j, "\"added_tokens\" is not a list");
    while ((type = pq_json_next(j)) == PQ_JSON_OBJECT)
        if (read_added(t, j))
            return -1;
    return type == PQ_JSON_ARRAY_END ? 0 : broken(j, "not an added token");
}

static int by_id(const void *a, const void *b)
{
    const struct token *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* Sorts by number; the index must be told. */
static int sort(struct tokens *t, struct pq_error *e)
{
    if (t->n)
        qsort(t->list, t->n, sizeof *t->list, by_id);
    pq_names_release(&t->index);
    memset(&t->index, 0, sizeof t->index);
    for (size_t i = 0; i < t->n; i++) {
        if (i && t->list[i].id == t->list[i - 1].id)
            return pq_fail(e, PQ_EFORMAT, "the tokens '%s' and '%s' have one "
                                          "number, %u",
                           t->list[i - 1].text, t->list[i].text,
                           t->list[i].id);
        if (pq_names_add(&t->index, t->list[i].text, i, NULL, e) < 0)
            return -1;
    }
    return 0;
}

int tokens_read(struct tokens *t, const char *text, size_t n,
                struct pq_error *e)
{
    struct pq_json j;
    enum pq_json_type type;

    pq_json_init(&j, text, n, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return broken(&j, "not a tokenizer");
    while ((type = pq_json_next(&j)) == PQ_JSON_KEY) {
        if (pq_json_is(&j, "model") ? read_model(t, &j)
            : pq_json_is(&j, "added_tokens")
                ? read_all_added(t, &j)
                : pq_json_skip(&j, pq_json_next(&j)))
            return -1;
    }
    if (type != PQ_JSON_OBJECT_END || pq_json_next(&j) != PQ_JSON_END)
        return -1;
    return t->n ? sort(t, e) : pq_fail(e, PQ_EFORMAT, "holds no token");
}

void tokens_release(struct tokens *t)
{
    pq_names_release(&t->index);
    pq_arena_release(&t->arena);
    free(t->list);
    memset(t, 0, sizeof *t);
}

const struct token *tokens_find(const struct tokens *t, const char *text)
{
    const size_t i = pq_names_find(&t->index, text);

    return i == SIZE_MAX ? NULL : &t->list[i];
}

/* ---- extending --------------------------------------------------------- */

/* What stands under added_tokens: "[...]", or nothing. */
static int find_added(const char *text, size_t n, const char **s, size_t *k,
                      struct pq_error *e)
{
    struct pq_json j;
    enum pq_json_type type;

    *s = "[]";
    *k = 2;
    pq_json_init(&j, text, n, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return broken(&j, "not a tokenizer");
    while ((type = pq_json_next(&j)) == PQ_JSON_KEY) {
        const bool here = pq_json_is(&j, "added_tokens");
        type = pq_json_next(&j);
        const size_t from = j.start;
        if (pq_json_skip(&j, type))
            return -1;
        if (here && type == PQ_JSON_ARRAY) {
            *s = text + from;
            *k = j.at - from;
        }
    }
    return type == PQ_JSON_OBJECT_END ? 0 : -1;
}

/* Its own entry under another number, or a plain one. */
static int put_token(struct pq_buf *b, const struct token *t, uint64_t id,
                     struct pq_error *e)
{
    char number[32];

    snprintf(number, sizeof number, "%llu", (unsigned long long)id);
    if (t->added)
        return pq_json_edit(t->added, t->added_n, "id", number, b, e);
    pq_buf_printf(b, "{\"id\": %s, \"content\": \"", number);
    pq_buf_add(b, t->json, t->json_n);
    pq_buf_puts(b, "\", \"single_word\": false, \"lstrip\": false, "
                   "\"rstrip\": false, \"normalized\": true, "
                   "\"special\": false}");
    return 0;
}

int tokens_append(const char *text, size_t n, const struct token *const *new,
                  size_t n_new, uint64_t first, struct pq_buf *out,
                  struct pq_error *e)
{
    struct pq_buf list = {0};
    const char *old;
    size_t k;
    int rc;

    if (find_added(text, n, &old, &k, e))
        return -1;
    k--; /* the bracket */
    while (k > 1 && isspace((unsigned char)old[k - 1]))
        k--;
    pq_buf_add(&list, old, k);
    rc = 0;
    for (size_t i = 0; !rc && i < n_new; i++) {
        pq_buf_puts(&list, i || k > 1 ? ",\n    " : "\n    ");
        rc = put_token(&list, new[i], first + i, e);
    }
    pq_buf_puts(&list, "\n  ]");
    if (!rc && list.failed)
        rc = pq_fail_nomem(e);
    if (!rc)
        rc = pq_json_edit(text, n, "added_tokens", list.s, out, e);
    pq_buf_release(&list);
    return rc;
}
