/*
 * Reading data files; see data.h.
 */
#include "data.h"

#include "cmd.h"
#include "pq_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct span {
    const char *s; /* [n], or NULL: not there */
    size_t n;
};

/* What a line of JSON says. */
struct line {
    struct pq_arena arena; /* of its texts */
    int32_t *ids;          /* [n_ids], or NULL */
    size_t n_ids;
    struct span text, prompt, completion, answer;
    uint64_t answer_number; /* where the answer is no text, or UINT64_MAX */
    struct span *choices;   /* [n_choices], or NULL */
    struct span messages;   /* the line itself, where it has "messages" */
    size_t n_choices, cap_choices;
};

/* ---- a line ------------------------------------------------------------- */

/* An array of ids behind its key. */
static int read_ids(struct pq_json *j, struct line *l, struct pq_error *e)
{
    size_t cap = 0;

    if (l->ids)
        return pq_fail(e, PQ_EFORMAT, "has \"ids\" twice");
    if (pq_json_next(j) != PQ_JSON_ARRAY)
        return pq_fail(e, PQ_EFORMAT, "\"ids\" is not a list");
    l->ids = pq_alloc(1, sizeof *l->ids);
    for (;;) {
        const enum pq_json_type t = pq_json_next(j);
        uint64_t v;
        if (t == PQ_JSON_ARRAY_END)
            return l->ids ? 0 : pq_fail_nomem(e);
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_NUMBER || pq_json_u64(j, &v) || v > INT32_MAX) {
            if (e)
                e->code = PQ_OK;
            return pq_fail(e, PQ_EFORMAT,
                           "number %zu of \"ids\" is no token id",
                           l->n_ids + 1);
        }
        int32_t *grown = pq_grow(l->ids, l->n_ids, &cap, sizeof *grown);
        if (!grown)
            return pq_fail_nomem(e);
        l->ids = grown;
        l->ids[l->n_ids++] = (int32_t)v;
    }
}

/* A text behind its key; what is no text is left alone. */
static int read_text(struct pq_json *j, struct line *l, struct span *t)
{
    const enum pq_json_type type = pq_json_next(j);

    if (type != PQ_JSON_STRING)
        return pq_json_skip(j, type);
    return pq_json_string(j, &l->arena, &t->s, &t->n);
}

static int read_choices(struct pq_json *j, struct line *l, struct pq_error *e)
{
    if (l->choices)
        return pq_fail(e, PQ_EFORMAT, "has \"choices\" twice");
    if (pq_json_next(j) != PQ_JSON_ARRAY)
        return pq_fail(e, PQ_EFORMAT, "\"choices\" is not a list");
    for (;;) {
        const enum pq_json_type t = pq_json_next(j);
        if (t == PQ_JSON_ARRAY_END)
            return 0;
        if (t == PQ_JSON_ERROR)
            return -1;
        if (t != PQ_JSON_STRING)
            return pq_fail(e, PQ_EFORMAT, "choice %zu is no text",
                           l->n_choices);
        struct span *grown = pq_grow(l->choices, l->n_choices, &l->cap_choices,
                                     sizeof *grown);
        if (!grown)
            return pq_fail_nomem(e);
        l->choices = grown;
        struct span *x = &grown[l->n_choices++];
        if (pq_json_string(j, &l->arena, &x->s, &x->n))
            return -1;
    }
}

static int read_answer(struct pq_json *j, struct line *l)
{
    const enum pq_json_type type = pq_json_next(j);

    if (type == PQ_JSON_NUMBER)
        return pq_json_u64(j, &l->answer_number);
    if (type == PQ_JSON_STRING)
        return pq_json_string(j, &l->arena, &l->answer.s, &l->answer.n);
    return pq_json_skip(j, type);
}

static int read_key(struct pq_json *j, struct line *l, struct pq_error *e)
{
    if (pq_json_is(j, "ids"))
        return read_ids(j, l, e);
    if (pq_json_is(j, "text"))
        return read_text(j, l, &l->text);
    if (pq_json_is(j, "prompt"))
        return read_text(j, l, &l->prompt);
    if (pq_json_is(j, "completion"))
        return read_text(j, l, &l->completion);
    if (pq_json_is(j, "choices"))
        return read_choices(j, l, e);
    if (pq_json_is(j, "answer"))
        return read_answer(j, l);
    if (pq_json_is(j, "messages"))
        l->messages = (struct span){j->text, j->n};
    return pq_json_skip(j, PQ_JSON_KEY);
}

static int read_line(const char *s, size_t n, struct line *l,
                     struct pq_error *e)
{
    struct pq_json j;
    enum pq_json_type t;

    pq_json_init(&j, s, n, e);
    t = pq_json_next(&j);
    if (t != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "is not a JSON object");
    while ((t = pq_json_next(&j)) == PQ_JSON_KEY)
        if (read_key(&j, l, e))
            return -1;
    if (t == PQ_JSON_ERROR || pq_json_next(&j) != PQ_JSON_END)
        return pq_fail(e, PQ_EFORMAT, "is not one JSON object");
    return 0;
}

/* ---- its examples ------------------------------------------------------- */

bool cmd_data_speaks(const struct pq_catalog *model)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model",
                                        "spiece.model"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (pq_catalog_blob(model, names[i]))
            return true;
    return false;
}

int cmd_data_tokenizer(struct cmd_data *d, struct pq_error *e)
{
    if (d->tokenizer)
        return 0;
    if (pq_tokenizer_of_model(d->model, &d->tokenizer, e))
        return pq_error_in(e, "the model's tokenizer");
    return 0;
}

bool cmd_data_counts(const struct cmd_example *x, size_t k)
{
    return k >= x->from && (!x->counts || x->counts[k]);
}

/* The ids are the data's, or freed. */
static struct cmd_example *add(struct cmd_data *d, int32_t *ids, size_t n,
                               size_t line, struct pq_error *e)
{
    struct cmd_example *grown = pq_grow(d->items, d->n, &d->cap, sizeof *grown);

    if (!grown) {
        free(ids);
        pq_fail_nomem(e);
        return NULL;
    }
    d->items = grown;
    grown += d->n++;
    *grown = (struct cmd_example){
        .ids = ids, .n = n, .from = 1, .line = line, .end = d->bytes};
    return grown;
}

struct cmd_example *cmd_data_add(struct cmd_data *d, struct pq_ids *ids,
                                 size_t line, struct pq_error *e)
{
    if (!ids->list && !(ids->list = pq_alloc(1, sizeof *ids->list))) {
        pq_fail_nomem(e);
        return NULL;
    }
    return add(d, (int32_t *)ids->list, ids->n, line, e);
}

static int encode(struct cmd_data *d, const char *s, size_t n,
                  struct pq_ids *ids, struct pq_error *e)
{
    return cmd_data_tokenizer(d, e) ? -1
                                    : pq_tokenizer_encode(d->tokenizer, s, n,
                                                          PQ_ENCODE_BOUNDS, ids,
                                                          e);
}

static struct cmd_example *add_text(struct cmd_data *d, const char *s, size_t n,
                                    size_t line, struct pq_error *e)
{
    struct pq_ids ids = {0};

    if (encode(d, s, n, &ids, e)) {
        free(ids.list);
        return NULL;
    }
    struct cmd_example *x = cmd_data_add(d, &ids, line, e);
    if (x)
        x->tokenized = true;
    return x;
}

int cmd_data_add_text(struct cmd_data *d, const char *text, size_t n,
                      size_t line, struct pq_error *e)
{
    if (d->chat)
        return cmd_data_add_user(d, text, n, line, e);
    return add_text(d, text, n, line, e) ? 0 : -1;
}

/* A prompt and what follows; `alone` are the ids of the prompt. */
static struct cmd_example *add_pair(struct cmd_data *d, struct span prompt,
                                    struct span rest,
                                    const struct pq_ids *alone, size_t line,
                                    struct pq_error *e)
{
    struct pq_buf b = {0};
    struct cmd_example *x = NULL;

    pq_buf_add(&b, prompt.s, prompt.n);
    pq_buf_add(&b, rest.s, rest.n);
    if (b.failed)
        pq_fail_nomem(e);
    else
        x = add_text(d, b.s ? b.s : "", b.n, line, e);
    pq_buf_release(&b);
    if (!x)
        return NULL;
    x->from = 0;
    while (x->from < x->n && x->from < alone->n &&
           (uint32_t)x->ids[x->from] == alone->list[x->from])
        x->from++;
    if (x->from == 0)
        x->from = 1; /* nothing is known of the first token */
    x->bytes = rest.n;
    return x;
}

static int find_answer(const struct line *l, size_t *answer,
                       struct pq_error *e)
{
    if (l->n_choices < 2)
        return pq_fail(e, PQ_EFORMAT, "has fewer than two choices");
    for (size_t i = 0; i < l->n_choices; i++)
        if (l->choices[i].n == 0)
            return pq_fail(e, PQ_EFORMAT, "choice %zu is empty", i);
    *answer = (size_t)l->answer_number;
    for (size_t i = 0; l->answer.s && i < l->n_choices; i++)
        if (l->choices[i].n == l->answer.n &&
            memcmp(l->choices[i].s, l->answer.s, l->answer.n) == 0)
            *answer = i;
    if (*answer >= l->n_choices)
        return pq_fail(e, PQ_EFORMAT,
                       "\"answer\" is neither one of the %zu choices nor its "
                       "number from 0",
                       l->n_choices);
    return 0;
}

static int add_prompt(struct cmd_data *d, const struct line *l, size_t line,
                      struct pq_error *e)
{
    const struct span *rest = l->completion.s ? &l->completion : l->choices;
    const size_t n = l->completion.s ? 1 : l->n_choices;
    struct pq_ids alone = {0};
    size_t answer = 0;

    if (!rest)
        return pq_fail(e, PQ_EFORMAT,
                       "has a \"prompt\", but no \"completion\" or "
                       "\"choices\"");
    if (!l->completion.s && find_answer(l, &answer, e))
        return -1;
    int rc = encode(d, l->prompt.s, l->prompt.n, &alone, e);
    for (size_t i = 0; !rc && i < n; i++) {
        struct cmd_example *x =
            add_pair(d, l->prompt, rest[i], &alone, line, e);
        rc = x ? 0 : -1;
        if (x && !l->completion.s) {
            x->choice = i;
            x->n_choices = n;
            x->answer = answer;
        }
    }
    free(alone.list);
    return rc;
}

static int add_line(struct cmd_data *d, struct line *l, size_t line,
                    struct pq_error *e)
{
    if (l->ids) {
        int32_t *const ids = l->ids;
        l->ids = NULL;
        return add(d, ids, l->n_ids, line, e) ? 0 : -1;
    }
    if (l->text.s)
        return cmd_data_add_text(d, l->text.s, l->text.n, line, e);
    if (!l->prompt.s && l->messages.s)
        return cmd_data_add_messages(d, l->messages.s, l->messages.n, line, e);
    if (!l->prompt.s)
        return pq_fail(e, PQ_EFORMAT,
                       "has none of \"ids\", \"messages\" and the strings "
                       "\"text\" and \"prompt\"");
    if (d->prompts)
        return cmd_data_add_text(d, l->prompt.s, l->prompt.n, line, e);
    return add_prompt(d, l, line, e);
}

/* ---- a file ------------------------------------------------------------- */

static const char blank[] = " \t\r\n";

static bool is_blank(const char *s, size_t n)
{
    return strspn(s, blank) >= n;
}

/* "{ ...", and the rest on the lines behind it? */
static bool is_cut(const char *s, size_t n)
{
    const size_t at = strspn(s, blank);

    while (n > 0 && strchr(blank, s[n - 1]))
        n--;
    return at < n && s[at] == '{' && s[n - 1] != '}';
}

static int take_line(struct cmd_data *d, const char *s, size_t n, size_t line,
                     struct pq_error *e)
{
    struct line l = {.answer_number = UINT64_MAX};

    const int rc = is_cut(s, n)
                       ? pq_fail(e, PQ_EFORMAT,
                                 "does not end with a brace: all of an example "
                                 "stands on one line")
                       : read_line(s, n, &l, e) || add_line(d, &l, line, e);
    free(l.ids);
    free(l.choices);
    pq_arena_release(&l.arena);
    return rc ? pq_error_in(e, "line %zu", line) : 0;
}

static int take_lines(struct cmd_data *d, const char *s, size_t n,
                      struct pq_error *e)
{
    size_t line = 0;

    for (size_t at = 0, k; at < n; at += k) {
        const char *end = memchr(s + at, '\n', n - at);
        k = end ? (size_t)(end - (s + at)) + 1 : n - at;
        d->bytes = at + k;
        line++;
        if (!is_blank(s + at, k) && take_line(d, s + at, k, line, e))
            return -1;
    }
    return 0;
}

static int read_file(FILE *f, struct pq_buf *b, struct pq_error *e)
{
    char part[65536];
    size_t n;

    errno = 0;
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        pq_buf_add(b, part, n);
    if (ferror(f))
        return pq_fail_sys(e, errno, "cannot be read");
    pq_buf_add(b, "", 1); /* so that strspn() ends */
    if (b->failed)
        return pq_fail_nomem(e);
    b->n--;
    return 0;
}

/*
 * A text, or an example a line.  All examples in one array would be taken for
 * a text, brackets and all, which nobody means.
 */
static int take(struct cmd_data *d, const char *s, size_t n,
                struct pq_error *e)
{
    const char *at = s + strspn(s, blank);

    if (*at == '[' && at[1 + strspn(at + 1, blank)] == '{')
        return pq_fail(e, PQ_EFORMAT,
                       "is a JSON array, not an object a line: jq -c '.[]' "
                       "makes lines of it");
    return *at == '{' ? take_lines(d, s, n, e)
                      : cmd_data_add_text(d, s, n, 1, e);
}

/* The bytes of the mark that some editors put before UTF-8. */
static size_t mark(const char *s)
{
    return strncmp(s, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

int cmd_data_read(const char *path, struct cmd_data *d, struct pq_error *e)
{
    const bool standard = cmd_is_standard(path);
    FILE *f = standard ? stdin : fopen(path, "rb");
    struct pq_buf b = {0};

    if (!f)
        return pq_fail_sys(e, errno, "%s", path);
    int rc = read_file(f, &b, e);
    if (!standard)
        fclose(f);
    const size_t skip = rc ? 0 : mark(b.s);
    if (!rc && !is_blank(b.s + skip, b.n - skip)) {
        d->bytes = b.n;
        rc = take(d, b.s + skip, b.n - skip, e);
    }
    d->bytes = b.n;
    pq_buf_release(&b);
    return rc ? pq_error_in(e, "%s", path) : 0;
}

int cmd_data_check(const struct cmd_data *d, const char *path, size_t vocab,
                   struct pq_error *e)
{
    for (size_t i = 0; i < d->n; i++)
        for (size_t k = 0; k < d->items[i].n; k++)
            if ((size_t)d->items[i].ids[k] >= vocab)
                return pq_fail(e, PQ_EARG,
                               "%s: line %zu: id %ld is not in the vocabulary "
                               "of %zu",
                               path, d->items[i].line,
                               (long)d->items[i].ids[k], vocab);
    return 0;
}

void cmd_data_release(struct cmd_data *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->items[i].ids);
        free(d->items[i].counts);
    }
    free(d->items);
    pq_chat_free(d->template);
    if (!d->lent)
        pq_tokenizer_free(d->tokenizer);
    memset(d, 0, sizeof *d);
}
