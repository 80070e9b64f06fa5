/*
 * tokenizer.json from anywhere: reading its vocabulary, and adding to it.
 *
 * Promises: tokens are sorted, found again by their text, and below the top;
 * a tokenizer that was extended is read again and has the new token.
 */
#include "fuzz.h"
#include "pq_json.h"
#include "tokens.h"

static const char other[] =
    "{\"added_tokens\": [{\"id\": 1, \"content\": \"\\u00e9<new>\"}], "
    "\"model\": {\"vocab\": {\"plain new\": 0}}}";

static void check(const struct tokens *t)
{
    for (size_t i = 0; i < t->n; i++) {
        if (i && t->list[i].id <= t->list[i - 1].id)
            fuzz_broken("tokens are not sorted", t->list[i].text, "");
        if (tokens_find(t, t->list[i].text) != &t->list[i])
            fuzz_broken("a token is not found", t->list[i].text, "");
        if (t->list[i].id >= t->top)
            fuzz_broken("a token beyond the top", t->list[i].text, "");
    }
}

/* Adds one token with settings and one without. */
static void extend(const char *text, size_t n, const struct tokens *t)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct tokens more = {0}, again = {0};
    struct pq_buf out = {0};

    if (tokens_read(&more, other, sizeof other - 1, &e) != 0)
        abort();
    const struct token *const new[2] = {&more.list[0], &more.list[1]};
    if (!tokens_find(t, new[0]->text) && !tokens_find(t, new[1]->text) &&
        t->top + 2 <= TOKENS_MAX &&
        tokens_append(text, n, new, 2, t->top, &out, &e) == 0) {
        if (tokens_read(&again, out.s, out.n, &e) != 0)
            fuzz_broken("an extended tokenizer is broken", e.msg, out.s);
        const struct token *x = tokens_find(&again, new[1]->text);
        if (again.n != t->n + 2 || !x || x->id != t->top + 1)
            fuzz_broken("a token was not added", out.s, "");
    }
    pq_buf_release(&out);
    tokens_release(&more);
    tokens_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct tokens t = {0};
    char *const text = malloc(n ? n : 1);

    if (!text)
        abort();
    if (n > 0)
        memcpy(text, data, n);
    if (tokens_read(&t, text, n, &e) == 0) {
        check(&t);
        extend(text, n, &t);
    } else if (e.code == PQ_OK) {
        fuzz_broken("a refusal without a message", "", "");
    }
    tokens_release(&t);
    free(text);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;

    return fuzz_text(p, n, max, &s);
}
