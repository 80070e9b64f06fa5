/*
 * Chat templates: a conversation to ids, and which of them are the
 * assistant's.
 *
 *     text    <s>[INST] Hi [/INST]Hello</s>[INST] ...
 *     before  <s>[INST] Hi [/INST]            messages 0..k, with a prompt
 *     upto    <s>[INST] Hi [/INST]Hello</s>   messages 0..k+1
 *     span                        |----|
 *
 * Ids are those of the whole text.  Where a token begins and ends in it is
 * known where decoding gives the text back; else a place is found by
 * tokenizing what stands before it: the ids that both begin with are there.
 */
#include "chat.h"

#include <stdlib.h>
#include <string.h>

/* ---- spans of a text ---------------------------------------------------- */

int chat_add_span(struct pq_chat_spans *s, size_t from, size_t to,
                  struct pq_error *e)
{
    struct pq_chat_span *const grown =
        pq_grow(s->list, s->n, &s->cap, sizeof *grown);

    if (!grown)
        return pq_fail_nomem(e);
    s->list = grown;
    s->list[s->n++] = (struct pq_chat_span){from, to};
    return 0;
}

static bool begins(const struct pq_buf *text, const struct pq_buf *with)
{
    return with->n <= text->n && memcmp(text->s, with->s, with->n) == 0;
}

/* An EOS that only the end of a conversation has. */
static void drop_eos(const struct pq_chat *c, const struct pq_buf *text,
                     struct pq_buf *upto)
{
    size_t n;
    const char *const eos = pq_chat_token(c, "eos_token", &n);

    if (eos && !begins(text, upto) && n <= upto->n &&
        memcmp(upto->s + upto->n - n, eos, n) == 0)
        upto->n -= n;
}

/* The span of message k, which is the assistant's. */
static int find_span(const struct pq_chat *c, const struct pq_chat_input *in,
                     size_t k, const struct pq_buf *text,
                     struct pq_chat_spans *spans, struct pq_error *e)
{
    struct pq_chat_input part = *in;
    struct pq_buf before = {0}, upto = {0};

    part.messages = k;
    part.prompt = true;
    int rc = pq_chat_render(c, &part, &before, NULL, e);
    part.messages = k + 1;
    part.prompt = false;
    rc = rc || pq_chat_render(c, &part, &upto, NULL, e) ? -1 : 0;
    pq_buf_add(&before, "", 0);
    pq_buf_add(&upto, "", 0);
    if (!rc && (before.failed || upto.failed))
        rc = pq_fail_nomem(e);
    if (!rc)
        drop_eos(c, text, &upto);
    if (!rc &&
        (!begins(text, &before) || !begins(text, &upto) || upto.n < before.n))
        rc = pq_fail(e, PQ_EUNSUPPORTED,
                     "the chat template writes message %zu, the assistant's, "
                     "otherwise when it is the last: what of it to train on "
                     "only {%% generation %%} could say",
                     k);
    if (!rc)
        rc = chat_add_span(spans, before.n, upto.n, e);
    pq_buf_release(&before);
    pq_buf_release(&upto);
    return rc;
}

/* Numbers of the messages whose role is "assistant". */
static int find_turns(const struct pq_chat_input *in, struct pq_ids *turns,
                      struct pq_error *e)
{
    struct pq_error own = PQ_ERROR_INIT;
    struct chat_run r = {.e = e ? e : &own};
    struct chat_value all, v, role;
    struct pq_json j;
    int rc;

    pq_json_init(&j, in->json, in->n, r.e);
    rc = chat_read_json(&r, &j, pq_json_next(&j), &all) ||
         chat_find(&r, all.dict, chat_word("messages"), &v) != 1;
    for (size_t i = 0; !rc && i < v.list->n && i < in->messages; i++) {
        if (chat_find(&r, v.list->v[i].dict, chat_word("role"), &role) != 1 ||
            role.type != CHAT_STRING || !chat_is(role.s, "assistant"))
            continue;
        uint32_t *const grown =
            pq_grow(turns->list, turns->n, &turns->cap, sizeof *grown);
        if (!grown) {
            rc = pq_fail_nomem(e);
            break;
        }
        turns->list = grown;
        turns->list[turns->n++] = (uint32_t)i;
    }
    pq_arena_release(&r.arena);
    return rc ? -1 : 0;
}

static int find_spans(const struct pq_chat *c, const struct pq_chat_input *in,
                      const struct pq_buf *text, struct pq_chat_spans *spans,
                      struct pq_error *e)
{
    struct pq_ids turns = {0};
    int rc = find_turns(in, &turns, e);

    for (size_t i = 0; !rc && i < turns.n; i++)
        rc = find_span(c, in, turns.list[i], text, spans, e);
    free(turns.list);
    return rc;
}

/* ---- places in the text to places in the ids ---------------------------- */

struct places {
    const struct pq_tokenizer *t;
    const struct pq_buf *text;
    const uint32_t *ids; /* [n] */
    size_t n;
    size_t *ends; /* [n] bytes up to the end of a token, or NULL: not known */
};

/* Where tokens end, if what they decode to is the text. */
static int find_ends(struct places *p, struct pq_error *e)
{
    struct pq_decoder *d = NULL;
    struct pq_buf b = {0};
    int rc = pq_decoder_new(p->t, 0, &d, e);

    p->ends = rc ? NULL : pq_alloc(p->n, sizeof *p->ends);
    if (!rc && !p->ends)
        rc = pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < p->n; i++) {
        rc = pq_decoder_push(d, p->ids[i], &b, e);
        p->ends[i] = b.n;
    }
    rc = rc || pq_decoder_finish(d, &b, e) ? -1 : 0;
    if (!rc && b.failed)
        rc = pq_fail_nomem(e);
    if (rc || b.n != p->text->n || (b.n && memcmp(b.s, p->text->s, b.n) != 0)) {
        free(p->ends);
        p->ends = NULL;
    }
    pq_buf_release(&b);
    pq_decoder_free(d);
    return rc;
}

/*
 * How many tokens end at or before a place of the text, and whether the next
 * one begins there.
 */
static int tokens_before(const struct places *p, size_t at, size_t *n,
                         bool *exact, struct pq_error *e)
{
    struct pq_ids ids = {0};

    *n = 0;
    if (p->ends) {
        while (*n < p->n && p->ends[*n] <= at)
            ++*n;
        while (*n > 0 && p->ends[*n - 1] == (*n > 1 ? p->ends[*n - 2] : 0))
            --*n; /* it gave nothing yet: a part of the next character */
        *exact = (*n > 0 ? p->ends[*n - 1] : 0) == at;
        return 0;
    }
    const int rc = pq_tokenizer_encode(p->t, p->text->s, at, 0, &ids, e);
    while (!rc && *n < p->n && *n < ids.n && p->ids[*n] == ids.list[*n])
        ++*n;
    *exact = *n == ids.n;
    free(ids.list);
    return rc;
}

/* Is token i white space, and not special? */
static int is_blank(const struct places *p, size_t i, bool *blank,
                    struct pq_error *e)
{
    struct pq_buf b = {0};
    int rc;

    *blank = false;
    if (pq_tokenizer_special(p->t, p->ids[i]))
        return 0;
    rc = pq_tokenizer_decode(p->t, p->ids + i, 1, 0, &b, e);
    pq_buf_add(&b, "", 0);
    if (!rc && b.failed)
        rc = pq_fail_nomem(e);
    if (!rc)
        *blank =
            chat_strip((struct tok_text){b.s, b.n}, NULL, true, false).n == 0;
    pq_buf_release(&b);
    return rc;
}

/* Leaves out white space behind a special token that ends [from, *to). */
static int trim_end(const struct places *p, size_t from, size_t *to,
                    struct pq_error *e)
{
    size_t end = *to;
    bool blank = true;

    while (end > from) {
        if (is_blank(p, end - 1, &blank, e))
            return -1;
        if (!blank)
            break;
        end--;
    }
    if (end > from && pq_tokenizer_special(p->t, p->ids[end - 1]))
        *to = end;
    return 0;
}

static int mark(const struct places *p, const struct pq_chat_spans *spans,
                bool trims, unsigned char *mask, struct pq_error *e)
{
    for (size_t i = 0; i < spans->n; i++) {
        const struct pq_chat_span s = spans->list[i];
        size_t from, to;
        bool exact;
        if (s.from == s.to)
            continue;
        if (tokens_before(p, s.from, &from, &exact, e) ||
            tokens_before(p, s.to, &to, &exact, e))
            return -1;
        to += !exact && to < p->n;
        if (trims && trim_end(p, from, &to, e))
            return -1;
        for (size_t k = from; k < to; k++)
            mask[k] = 1;
    }
    return 0;
}

static int make_mask(const struct pq_tokenizer *t, const struct pq_buf *text,
                     const uint32_t *ids, size_t n,
                     const struct pq_chat_spans *spans, bool trims,
                     unsigned char **mask, struct pq_error *e)
{
    struct places p = {t, text, ids, n, NULL};
    unsigned char *const m = pq_zalloc(n, 1);
    const int rc = !m ? pq_fail_nomem(e)
                      : find_ends(&p, e) || mark(&p, spans, trims, m, e);

    free(p.ends);
    if (rc)
        free(m);
    else
        *mask = m;
    return rc ? -1 : 0;
}

int pq_chat_encode(const struct pq_chat *c, const struct pq_tokenizer *t,
                   const struct pq_chat_input *in, struct pq_ids *ids,
                   unsigned char **mask, struct pq_error *e)
{
    struct pq_buf text = {0};
    struct pq_chat_spans spans = {0};
    const size_t before = ids->n;

    int rc = pq_chat_render(c, in, &text, &spans, e);
    pq_buf_add(&text, "", 0);
    if (!rc && text.failed)
        rc = pq_fail_nomem(e);
    if (!rc && mask && !c->spans)
        rc = find_spans(c, in, &text, &spans, e);
    if (!rc)
        rc = pq_tokenizer_encode(t, text.s, text.n, 0, ids, e);
    if (!rc && mask)
        rc = make_mask(t, &text, ids->list + before, ids->n - before, &spans,
                       !c->spans, mask, e);
    if (rc)
        ids->n = before;
    pq_buf_release(&text);
    free(spans.list);
    return rc ? -1 : 0;
}
