/*
 * Tokenizers: the ids that the reference libraries give, and back.
 *
 * testdata/tokenizers/goldens.json is made by tests/oracle/make_tokenizers.py.
 */
#include "tokenizer.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "pq_json.h"

/* ---- goldens -------------------------------------------------------- */

struct text {
    const char *s; /* NULL: null */
    size_t n;
};

struct golden {
    struct pq_tokenizer *t;
    struct text file;
    uint64_t before, after;
    struct pq_ids *ids;             /* [n_texts] */
    struct text *decoded, *skipped; /* [n_texts], or NULL */
};

struct goldens {
    struct pq_buf file;
    struct pq_arena arena;
    struct pq_error e;
    struct pq_json j;
    struct text texts[100];
    size_t n_texts, n;
    struct golden list[40];
};

static void expect(struct goldens *g, enum pq_json_type type)
{
    cr_assert_eq(pq_json_next(&g->j), type, "goldens: %s", g->e.msg);
}

static struct text get_text(struct goldens *g)
{
    struct text t = {NULL, 0};
    cr_assert_eq(pq_json_string(&g->j, &g->arena, &t.s, &t.n), 0);
    return t;
}

/* A list of texts, or null. */
static struct text *get_texts(struct goldens *g, size_t *n)
{
    struct text *const list = pq_arena_alloc(&g->arena, 100, sizeof *list);
    enum pq_json_type k = pq_json_next(&g->j);
    *n = 0;
    if (k == PQ_JSON_NULL)
        return NULL;
    while ((k = pq_json_next(&g->j)) != PQ_JSON_ARRAY_END) {
        if (k == PQ_JSON_STRING)
            list[*n] = get_text(g);
        cr_assert_lt(++*n, 100u);
    }
    return list;
}

static uint64_t get_number(struct goldens *g)
{
    uint64_t v;
    cr_assert_eq(pq_json_u64(&g->j, &v), 0);
    return v;
}

static struct pq_ids *get_ids(struct goldens *g)
{
    struct pq_ids *const list =
        pq_arena_alloc(&g->arena, g->n_texts, sizeof *list);
    expect(g, PQ_JSON_ARRAY);
    for (size_t i = 0; i < g->n_texts; i++) {
        uint32_t *const ids = pq_arena_alloc(&g->arena, 400, sizeof *ids);
        expect(g, PQ_JSON_ARRAY);
        list[i].list = ids;
        while (pq_json_next(&g->j) == PQ_JSON_NUMBER) {
            ids[list[i].n++] = (uint32_t)get_number(g);
            cr_assert_lt(list[i].n, 400u);
        }
    }
    expect(g, PQ_JSON_ARRAY_END);
    return list;
}

static void get_golden(struct goldens *g, struct golden *x)
{
    char path[300];
    size_t n;
    while (pq_json_next(&g->j) == PQ_JSON_KEY) {
        if (pq_json_is(&g->j, "file")) {
            expect(g, PQ_JSON_STRING);
            x->file = get_text(g);
        } else if (pq_json_is(&g->j, "before")) {
            expect(g, PQ_JSON_NUMBER);
            x->before = get_number(g);
        } else if (pq_json_is(&g->j, "after")) {
            expect(g, PQ_JSON_NUMBER);
            x->after = get_number(g);
        } else if (pq_json_is(&g->j, "ids")) {
            x->ids = get_ids(g);
        } else if (pq_json_is(&g->j, "decoded")) {
            x->decoded = get_texts(g, &n);
        } else {
            cr_assert(pq_json_is(&g->j, "skipped"));
            x->skipped = get_texts(g, &n);
        }
    }
    snprintf(path, sizeof path, DIR "%.*s", (int)x->file.n, x->file.s);
    x->t = load(path);
}

static struct goldens *get_goldens(void)
{
    struct goldens *const g = calloc(1, sizeof *g);
    g->file = read_file(DIR "goldens.json");
    pq_json_init(&g->j, g->file.s, g->file.n, &g->e);
    expect(g, PQ_JSON_OBJECT);
    expect(g, PQ_JSON_KEY);
    struct text *const texts = get_texts(g, &g->n_texts);
    memcpy(g->texts, texts, g->n_texts * sizeof *texts);
    expect(g, PQ_JSON_KEY);
    expect(g, PQ_JSON_ARRAY);
    while (pq_json_next(&g->j) == PQ_JSON_OBJECT)
        get_golden(g, &g->list[g->n++]);
    cr_assert(g->n_texts > 30 && g->n > 15);
    return g;
}

static void free_goldens(struct goldens *g)
{
    for (size_t i = 0; i < g->n; i++)
        pq_tokenizer_free(g->list[i].t);
    pq_arena_release(&g->arena);
    pq_buf_release(&g->file);
    free(g);
}

/* ---- texts to ids --------------------------------------------------- */

static bool encodes(const struct golden *x, struct text text, size_t i)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ids ids = {0}, plain = {0};
    const struct pq_ids *const want = &x->ids[i];

    cr_assert_eq(
        pq_tokenizer_encode(x->t, text.s, text.n, PQ_ENCODE_BOUNDS, &ids, &e),
        0, "%s", e.msg);
    cr_assert_eq(pq_tokenizer_encode(x->t, text.s, text.n, 0, &plain, &e), 0);
    const bool same =
        ids.n == want->n &&
        (want->n == 0 || memcmp(ids.list, want->list, want->n * 4) == 0) &&
        plain.n + x->before + x->after == want->n &&
        (plain.n == 0 ||
         memcmp(plain.list, want->list + x->before, plain.n * 4) == 0);
    free(ids.list);
    free(plain.list);
    return same;
}

Test(tokenizer, ids_are_the_libraries)
{
    struct goldens *const g = get_goldens();
    for (size_t i = 0; i < g->n; i++)
        for (size_t k = 0; k < g->n_texts; k++)
            cr_expect(encodes(&g->list[i], g->texts[k], k), "%.*s: text %zu",
                      (int)g->list[i].file.n, g->list[i].file.s, k);
    free_goldens(g);
}

/* A long text, of which words repeat: the cache gives what it was given. */
Test(tokenizer, long_texts_are_as_short_ones)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *const t = load(DIR "llama3.json");
    struct pq_ids whole = {0}, parts = {0};
    struct pq_buf b = {0};
    static const char *const words[] = {" the", " cat",     " caf\xc3\xa9",
                                        "\n\n", " 1234567", " !?",
                                        "\tx",  " don't"};

    for (unsigned i = 0; i < 4000; i++) {
        const char *const w = words[i * 2654435761u >> 13 & 7];
        pq_buf_puts(&b, w);
        pq_buf_puts(&b, ",\n");
        pq_buf_puts(&b, i % 5 ? "" : "z");
    }
    /* pieces end behind a newline, where a word ends, too, but for "\n\n" */
    for (size_t i = 0, n; i < b.n; i += n) {
        const char *p = memmem(b.s + i, b.n - i, ",\nz", 3);
        n = p ? (size_t)(p - b.s) + 2 - i : b.n - i;
        cr_assert_eq(pq_tokenizer_encode(t, b.s + i, n, 0, &parts, &e), 0);
    }
    cr_assert_eq(pq_tokenizer_encode(t, b.s, b.n, 0, &whole, &e), 0);
    cr_expect_eq(whole.n, parts.n);
    cr_expect(whole.n == parts.n &&
              memcmp(whole.list, parts.list, whole.n * 4) == 0);
    free(whole.list);
    free(parts.list);
    pq_buf_release(&b);
    pq_tokenizer_free(t);
}

/* ---- ids to text ---------------------------------------------------- */

static void expect_text(const struct golden *x, const struct pq_ids *ids,
                        unsigned flags, struct text want, size_t k)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf whole = {0}, parts = {0};
    struct pq_decoder *d;

    cr_assert_eq(
        pq_tokenizer_decode(x->t, ids->list, ids->n, flags, &whole, &e), 0,
        "%s", e.msg);
    cr_expect(whole.n == want.n &&
                  (want.n == 0 || memcmp(whole.s, want.s, want.n) == 0),
              "%.*s: text %zu: %.*s", (int)x->file.n, x->file.s, k,
              (int)whole.n, whole.s);
    cr_assert_eq(pq_decoder_new(x->t, flags, &d, &e), 0);
    for (int round = 0; round < 2; round++) { /* a decoder begins again */
        parts.n = 0;
        for (size_t i = 0; i < ids->n; i++) {
            const size_t before = parts.n;
            cr_assert_eq(pq_decoder_push(d, ids->list[i], &parts, &e), 0);
            const size_t n = parts.n - before;
            cr_expect(n == 0 || pq_utf8_prefix(parts.s + before, n) == n,
                      "a piece is cut inside of a character");
        }
        cr_assert_eq(pq_decoder_finish(d, &parts, &e), 0);
        cr_expect(parts.n == whole.n &&
                  (whole.n == 0 || memcmp(parts.s, whole.s, whole.n) == 0));
    }
    pq_decoder_free(d);
    pq_buf_release(&whole);
    pq_buf_release(&parts);
}

static void decodes(const struct goldens *g, const struct golden *x,
                    unsigned flags, const struct text *want)
{
    for (size_t k = 0; want && k < g->n_texts; k++)
        expect_text(x, &x->ids[k], flags, want[k].s ? want[k] : g->texts[k], k);
}

Test(tokenizer, text_is_the_libraries)
{
    struct goldens *const g = get_goldens();
    for (size_t i = 0; i < g->n; i++) {
        const struct golden *const x = &g->list[i];
        decodes(g, x, 0, x->decoded);
        /* sentencepiece leaves unknown pieces out where we have asked it to */
        decodes(g, x, PQ_DECODE_SKIP, x->skipped);
    }
    free_goldens(g);
}

/* Characters come when their last byte does, never before. */
Test(tokenizer, characters_are_held_back)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *const t = load(DIR "gpt2.json");
    struct pq_decoder *d;
    struct pq_buf out = {0};
    /* U+1F999 is F0 9F A6 99; as byte-level text each is a token of its own */
    static const char *const bytes[] = {"\xc3\xb0", "\xc5\x81", "\xc2\xa6",
                                        "\xc4\xbb"};

    cr_assert_eq(pq_decoder_new(t, 0, &d, &e), 0);
    for (int i = 0; i < 4; i++) {
        const uint32_t id = pq_tokenizer_id(t, bytes[i], 2);
        cr_assert_neq(id, PQ_TOKEN_NONE);
        cr_expect_eq(out.n, 0);
        cr_assert_eq(pq_decoder_push(d, id, &out, &e), 0);
    }
    cr_expect(out.n == 4 && memcmp(out.s, "\xf0\x9f\xa6\x99", 4) == 0);
    /* three of them and a letter: one U+FFFD, then the letter */
    out.n = 0;
    for (int i = 0; i < 3; i++)
        cr_assert_eq(
            pq_decoder_push(d, pq_tokenizer_id(t, bytes[i], 2), &out, &e), 0);
    cr_expect_eq(out.n, 0);
    cr_assert_eq(pq_decoder_push(d, pq_tokenizer_id(t, "a", 1), &out, &e), 0);
    cr_expect(out.n == 4 && memcmp(out.s,
                                   "\xef\xbf\xbd"
                                   "a",
                                   4) == 0);
    /* and no id is not an error */
    cr_assert_eq(pq_decoder_push(d, 4000000000u, &out, &e), 0);
    cr_expect_eq(out.n, 4);
    pq_decoder_free(d);
    pq_buf_release(&out);
    pq_tokenizer_free(t);
}

/* ---- questions ------------------------------------------------------ */

Test(tokenizer, knows_its_tokens)
{
    struct pq_tokenizer *const t = load(DIR "roberta.json");
    const uint32_t mask = pq_tokenizer_id(t, "<mask>", 6);
    size_t n;

    cr_assert_neq(mask, PQ_TOKEN_NONE);
    cr_expect(pq_tokenizer_special(t, mask));
    cr_expect(!pq_tokenizer_special(t, pq_tokenizer_id(t, "a", 1)));
    cr_expect(!pq_tokenizer_special(t, UINT32_MAX));
    const char *const s = pq_tokenizer_text(t, mask, &n);
    cr_expect(s && n == 6 && memcmp(s, "<mask>", 6) == 0);
    cr_expect_null(pq_tokenizer_text(t, pq_tokenizer_top(t), &n));
    cr_expect_eq(pq_tokenizer_id(t, "no such token", 13), PQ_TOKEN_NONE);
    pq_tokenizer_free(t);
}

/* Text from strangers has no special tokens in it. */
Test(tokenizer, plain_text_has_no_special_tokens)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *const t = load(DIR "llama2.json");
    struct pq_ids a = {0}, b = {0};
    static const char text[] = "a</s>b";

    cr_assert_eq(pq_tokenizer_encode(t, text, 6, 0, &a, &e), 0);
    cr_assert_eq(pq_tokenizer_encode(t, text, 6, PQ_ENCODE_PLAIN, &b, &e), 0);
    const uint32_t eos = pq_tokenizer_id(t, "</s>", 4);
    unsigned in_a = 0, in_b = 0;
    for (size_t i = 0; i < a.n; i++)
        in_a += a.list[i] == eos;
    for (size_t i = 0; i < b.n; i++)
        in_b += b.list[i] == eos;
    cr_expect_eq(in_a, 1);
    cr_expect_eq(in_b, 0);
    cr_expect_gt(b.n, a.n);
    free(a.list);
    free(b.list);
    pq_tokenizer_free(t);
}

Test(tokenizer, broken_text_is_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *const t = load(DIR "gpt2.json");
    struct pq_ids ids = {0};

    cr_assert_eq(pq_tokenizer_encode(t, "ok", 2, 0, &ids, &e), 0);
    const size_t before = ids.n;
    cr_expect_eq(pq_tokenizer_encode(t, "ab\xff", 3, 0, &ids, &e), -1);
    cr_expect_eq(e.code, PQ_EVALUE);
    cr_expect_str_eq(e.msg, "text: byte 2 is not UTF-8");
    cr_expect_eq(ids.n, before);
    free(ids.list);
    pq_tokenizer_free(t);
}

/* ---- threads -------------------------------------------------------- */

struct job {
    const struct goldens *g;
    size_t bad;
};

static void *work(void *arg)
{
    struct job *const job = arg;
    for (size_t i = 0; i < job->g->n; i++)
        for (size_t k = 0; k < job->g->n_texts; k++)
            job->bad += !encodes(&job->g->list[i], job->g->texts[k], k);
    return NULL;
}

Test(tokenizer, threads_share_one)
{
    struct goldens *const g = get_goldens();
    struct job jobs[4] = {{g, 0}, {g, 0}, {g, 0}, {g, 0}};
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, work, &jobs[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(jobs[i].bad, 0);
    }
    free_goldens(g);
}
