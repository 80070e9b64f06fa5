/*
 * Tokenizers: what both file formats need once the vocabulary is there, and
 * questions about tokens.
 */
#include "token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int tok_find_bytes(struct pq_tokenizer *t, struct pq_error *e)
{
    for (unsigned b = 0; b < 256; b++) {
        const char raw = (char)b;
        char name[8];
        t->byte_ids[b] = NONE;
        if (t->byte_level)
            t->byte_ids[b] = tok_vocab_find(&t->vocab, &raw, 1);
        else if (t->byte_fallback)
            t->byte_ids[b] = tok_vocab_find(
                &t->vocab, name,
                (size_t)snprintf(name, sizeof name, "<0x%02X>", b));
        if (t->byte_level && t->byte_fallback && t->byte_ids[b] == NONE)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "model: byte_fallback for byte %u of ByteLevel is "
                           "not supported",
                           b);
    }
    return 0;
}

void tok_watch_cut(struct pq_tokenizer *t, struct tok_text left,
                   struct tok_text right)
{
    static const struct tok_text mark = {TOK_MARK, TOK_MARK_BYTES};
    const bool from = left.n >= mark.n &&
                      memcmp(left.s + left.n - mark.n, mark.s, mark.n) == 0;
    if (tok_starts(right, mark) && !from)
        t->cut = false;
}

int tok_index_pieces(struct pq_tokenizer *t, struct pq_error *e)
{
    for (uint32_t i = 0; i < t->vocab.top; i++) {
        const struct tok_text key = t->vocab.key[i];
        if (key.s != NULL && key.n > 0 &&
            tok_trie_put(&t->pieces, key, i, e) != 0)
            return -1;
    }
    return 0;
}

/* A token that the vocabulary lacks, or has with the same text. */
static int add_text(struct pq_tokenizer *t, const struct tok_added *x,
                    struct pq_error *e)
{
    struct tok_text *const text = &t->vocab.text[x->id];
    if (x->content.n > PQ_TOKEN_BYTES)
        return pq_fail(e, PQ_ELIMIT, "token %u is longer than %u bytes", x->id,
                       PQ_TOKEN_BYTES);
    if (text->s == NULL)
        *text = x->content;
    else if (text->n != x->content.n || !tok_starts(*text, x->content))
        return pq_fail(e, PQ_EFORMAT,
                       "added token %u is another in the vocabulary", x->id);
    return 0;
}

/* The library spells a normalized token as it is after that. */
static int index_added(struct pq_tokenizer *t, uint32_t i, struct tok_run *r)
{
    const struct tok_added *const x = &t->added[i];
    struct tok_text s = x->content;
    bool first = true;
    if (s.n == 0)
        return 0;
    if (x->normalized) {
        if (tok_normalize(r, s, &first, &s) != 0)
            return -1;
        s.s = pq_arena_strndup(&t->arena, s.s, s.n);
        if (s.s == NULL)
            return pq_fail_nomem(r->e);
        t->vocab.text[x->id] = s;
    }
    if (s.n == 0)
        return 0;
    return tok_trie_put(x->normalized ? &t->normal : &t->raw, s, i, r->e);
}

int tok_index_added(struct pq_tokenizer *t, struct pq_error *e)
{
    struct tok_run r = {.t = t, .e = e};
    int rc = 0;

    t->n_special = t->vocab.top;
    t->special = pq_zalloc(t->n_special, 1);
    if (t->special == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; rc == 0 && i < t->n_added; i++) {
        rc = add_text(t, &t->added[i], e);
        if (rc == 0)
            rc = index_added(t, (uint32_t)i, &r);
        if (rc == 0 && t->added[i].special)
            t->special[t->added[i].id] = 1;
    }
    tok_matcher_free(r.matcher);
    pq_buf_release(&r.normal[0]);
    pq_buf_release(&r.normal[1]);
    return rc;
}

static void release_steps(struct tok_steps *s)
{
    for (size_t i = 0; i < s->n; i++)
        tok_regex_free(s->list[i].re);
}

void pq_tokenizer_free(struct pq_tokenizer *t)
{
    if (t == NULL)
        return;
    release_steps(&t->normalizers);
    release_steps(&t->splits);
    release_steps(&t->decoders);
    tok_vocab_release(&t->vocab);
    tok_trie_release(&t->pieces);
    tok_trie_release(&t->raw);
    tok_trie_release(&t->normal);
    free(t->merges.slots);
    free(t->scores);
    free(t->added);
    free(t->special);
    pq_arena_release(&t->arena);
    free(t);
}

uint32_t pq_tokenizer_top(const struct pq_tokenizer *t)
{
    return t->vocab.top;
}

const char *pq_tokenizer_text(const struct pq_tokenizer *t, uint32_t id,
                              size_t *n)
{
    if (id >= t->vocab.top)
        return NULL;
    *n = t->vocab.text[id].n;
    return t->vocab.text[id].s;
}

uint32_t pq_tokenizer_id(const struct pq_tokenizer *t, const char *s, size_t n)
{
    for (size_t i = 0; i < t->n_added; i++) {
        const struct tok_text x = t->added[i].content;
        if (x.n == n && memcmp(x.s, s, n) == 0)
            return t->added[i].id;
    }
    for (uint32_t i = 0; i < t->vocab.top; i++) {
        const struct tok_text x = t->vocab.text[i];
        if (x.s != NULL && x.n == n && memcmp(x.s, s, n) == 0)
            return i;
    }
    return NONE;
}

bool pq_tokenizer_special(const struct pq_tokenizer *t, uint32_t id)
{
    return id < t->n_special && t->special[id];
}
