/*
 * Tokenizers from anywhere: tokenizer.json and tokenizer.model, and what is
 * then made of some texts.
 *
 * Promises: all ids are tokens of the tokenizer; encoding again gives the
 * same; what is decoded is UTF-8, and token by token the same as at once.
 */
#include "fuzz.h"
#include "pq_json.h"
#include "pq_tokenizer.h"

static const char *const texts[] = {
    "",
    " a  ab\n",
    "<s>ab</s> <x>",
    "e\xcc\x81\xcc\xa3 \xc3\xa9\xef\xac\x81",
    "\xf0\x9f\xa6\x99\xe2\x96\x81"
    "a\xe6\x97\xa5 12'll",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static void decode(const struct pq_tokenizer *t, const struct pq_ids *ids,
                   unsigned flags)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf whole = {0}, parts = {0};
    struct pq_decoder *d;

    if (pq_tokenizer_decode(t, ids->list, ids->n, flags, &whole, &e) != 0 ||
        pq_decoder_new(t, flags, &d, &e) != 0)
        fuzz_broken("cannot decode", e.msg, "");
    for (size_t i = 0; i < ids->n; i++)
        if (pq_decoder_push(d, ids->list[i], &parts, &e) != 0)
            fuzz_broken("cannot decode a token", e.msg, "");
    if (pq_decoder_finish(d, &parts, &e) != 0)
        fuzz_broken("cannot end", e.msg, "");
    if (parts.n != whole.n || (whole.n && memcmp(parts.s, whole.s, whole.n)))
        fuzz_broken("pieces are another text", whole.s, parts.s);
    if (whole.n && pq_utf8_prefix(whole.s, whole.n) < whole.n)
        fuzz_broken("decoded text is not UTF-8", whole.s, "");
    pq_decoder_free(d);
    pq_buf_release(&whole);
    pq_buf_release(&parts);
}

static void encode(const struct pq_tokenizer *t, const char *text, size_t n,
                   unsigned flags)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ids ids = {0}, again = {0};
    size_t length;

    if (pq_tokenizer_encode(t, text, n, flags, &ids, &e) != 0) {
        if (e.code == PQ_OK || ids.n > 0)
            fuzz_broken("a refusal without a message, or with ids", "", "");
        free(ids.list);
        return;
    }
    for (size_t i = 0; i < ids.n; i++)
        if (!pq_tokenizer_text(t, ids.list[i], &length))
            fuzz_broken("an id that is no token", text, "");
    if (pq_tokenizer_encode(t, text, n, flags, &again, &e) != 0 ||
        again.n != ids.n ||
        (ids.n && memcmp(ids.list, again.list, ids.n * sizeof *ids.list)))
        fuzz_broken("encoding again gives something else", text, "");
    decode(t, &ids, 0);
    decode(t, &ids, PQ_DECODE_SKIP);
    free(ids.list);
    free(again.list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *t;
    char *const copy = fuzz_copy(data, n);
    const int rc = n > 0 && copy[0] == '{'
                       ? pq_tokenizer_parse(copy, n, &t, &e)
                       : pq_tokenizer_parse_model(copy, n, true, true, &t, &e);
    free(copy);
    if (rc != 0) {
        if (e.code == PQ_OK)
            fuzz_broken("a refusal without a message", "", "");
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (unsigned flags = 0; flags < 4; flags++)
            encode(t, texts[i], strlen(texts[i]), flags);
    /* the end of the input as a text: it knows the tokens best */
    const size_t tail = n < 64 ? n : 64;
    encode(t, (const char *)data + n - tail, tail, PQ_ENCODE_BOUNDS);
    pq_tokenizer_free(t);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;

    return n > 0 && p[0] == '{' ? fuzz_text(p, n, max, &s)
                                : LLVMFuzzerMutate(p, n, max);
}
