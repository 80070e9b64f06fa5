/*
 * Chat templates: a conversation to its text.
 *
 *     the template's scope      messages, tools, ... of the JSON
 *       the model's scope       bos_token, eos_token, ...
 */
#include "chat.h"

#include <stdlib.h>
#include <string.h>

int pq_chat_parse(const char *text, size_t n, struct pq_chat **out,
                  struct pq_error *e)
{
    struct pq_chat *const c = pq_zalloc(1, sizeof *c);

    if (!c)
        return pq_fail_nomem(e);
    if (chat_parse(c, n ? text : "", n, e)) {
        pq_chat_free(c);
        return -1;
    }
    *out = c;
    return 0;
}

void pq_chat_free(struct pq_chat *c)
{
    if (!c)
        return;
    pq_arena_release(&c->arena);
    free(c->names);
    free(c->texts);
    free(c);
}

const char *pq_chat_token(const struct pq_chat *c, const char *name, size_t *n)
{
    for (size_t i = 0; i < c->n_names; i++)
        if (chat_is(c->names[i], name)) {
            *n = c->texts[i].n;
            return c->texts[i].s;
        }
    return NULL;
}

/* ---- what the template sees --------------------------------------------- */

static int put_first(struct chat_run *r, struct chat_dict *d,
                     struct chat_value key, struct chat_value v)
{
    if (chat_put(r, d, key, v))
        return -1;
    memmove(d->p + 1, d->p, (d->n - 1) * sizeof *d->p);
    d->p[0] = (struct chat_pair){key, v};
    return 0;
}

/* Older names of what the model thought, as transformers sees to them. */
static int alias_thoughts(struct chat_run *r, struct chat_dict *m)
{
    static const char *const names[] = {"reasoning_content", "thinking",
                                        "reasoning"};
    struct chat_value v, old;
    int found = 0;

    for (size_t i = 0; !found && i < 3; i++)
        if ((found = chat_find(r, m, chat_word(names[i]), &v)) < 0)
            return -1;
    if (!found)
        return 0;
    found = chat_find(r, m, chat_word("thinking"), &old);
    if (found < 0 || (!found && put_first(r, m, chat_word("thinking"), v)))
        return -1;
    return chat_put(r, m, chat_word("reasoning_content"), v);
}

/* The messages that are asked for, without keys that are null. */
static int prepare_messages(struct chat_run *r, const struct pq_chat_input *in,
                            struct chat_value *v)
{
    struct chat_list *const l = v->list;

    if (v->type != CHAT_LIST)
        return pq_fail(r->e, PQ_EFORMAT, "\"messages\" is not a list");
    if (l->n > in->messages)
        l->n = in->messages;
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].type != CHAT_DICT)
            return pq_fail(r->e, PQ_EFORMAT, "message %zu is not an object", i);
        struct chat_dict *const m = l->v[i].dict;
        size_t k = 0;
        for (size_t x = 0; x < m->n; x++)
            if (m->p[x].value.type != CHAT_NONE)
                m->p[k++] = m->p[x];
        m->n = k;
        if (alias_thoughts(r, m))
            return -1;
    }
    return 0;
}

/* Of a key that is there twice the last one is seen, as in Python. */
static int declare_input(struct chat_run *r, const struct pq_chat_input *in)
{
    static const char *const nothing[] = {"tools", "documents"};
    struct pq_json j;
    struct chat_value all, v;
    struct chat_dict *const names = &r->scope->names;

    for (size_t i = 0; i < 2; i++)
        if (chat_put(r, names, chat_word(nothing[i]), chat_none()))
            return -1;
    pq_json_init(&j, in->json, in->n, r->e);
    if (chat_read_json(r, &j, pq_json_next(&j), &all))
        return -1;
    if (all.type != CHAT_DICT || pq_json_next(&j) != PQ_JSON_END)
        return pq_fail(r->e, PQ_EFORMAT, "is not one JSON object");
    for (size_t i = 0; i < all.dict->n; i++)
        if (chat_put(r, names, all.dict->p[i].key, all.dict->p[i].value))
            return -1;
    const int found = chat_find(r, names, chat_word("messages"), &v);
    if (found <= 0)
        return found ? -1 : pq_fail(r->e, PQ_EFORMAT, "has no \"messages\"");
    if (prepare_messages(r, in, &v))
        return -1;
    return chat_put(r, names, chat_word("add_generation_prompt"),
                    chat_bool(in->prompt));
}

static int declare_all(struct chat_run *r, const struct pq_chat *c,
                       const struct pq_chat_input *in)
{
    if (chat_enter(r, NULL))
        return -1;
    for (size_t i = 0; i < c->n_names; i++)
        if (chat_declare(r, c->names[i],
                         chat_string(c->texts[i].s, c->texts[i].n)))
            return -1;
    return chat_enter(r, r->scope) || declare_input(r, in) ? -1 : 0;
}

int pq_chat_render(const struct pq_chat *c, const struct pq_chat_input *in,
                   struct pq_buf *out, struct pq_chat_spans *spans,
                   struct pq_error *e)
{
    struct pq_error own = PQ_ERROR_INIT;
    struct pq_buf text = {0};
    struct chat_run r = {
        .out = &text, .now = in->now, .spans = spans, .e = e ? e : &own};
    int rc = declare_all(&r, c, in);

    if (!rc && chat_run_body(&r, c->body))
        rc = pq_error_in(r.e, "chat template");
    if (!rc && text.n > 0) {
        pq_buf_add(out, text.s, text.n);
        rc = out->failed ? pq_fail_nomem(e) : 0;
    }
    pq_buf_release(&text);
    pq_arena_release(&r.arena);
    return rc ? -1 : 0;
}
