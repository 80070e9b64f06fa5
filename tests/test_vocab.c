/*
 * Vocabularies: reading and extending tokenizer.json, and a model whose token
 * tables get the rows of another vocabulary.
 */
#include "fake.h"

#include <criterion/criterion.h>
#include <string.h>

#include "pq_vocab.h"
#include "tokens.h"

/* ---- tokenizer.json ------------------------------------------------- */

static const char bpe[] =
    "{\n"
    "  \"version\": \"1.0\",\n"
    "  \"added_tokens\": [\n"
    "    {\"id\": 3, \"content\": \"<|x|>\", \"special\": true},\n"
    "    {\"id\": 0, \"content\": \"<s>\", \"special\": true}\n"
    "  ],\n"
    "  \"model\": {\"type\": \"BPE\", \"vocab\": {\"<s>\": 0, \"\\u0120a\": 1, "
    "\"b\\u0000\": 2}, \"merges\": [[\"a\", 1.0]]}\n"
    "}\n";

static int read(struct tokens *t, const char *text, struct pq_error *e)
{
    memset(t, 0, sizeof *t);
    memset(e, 0, sizeof *e);
    return tokens_read(t, text, strlen(text), e);
}

Test(vocab, tokens_are_read)
{
    struct pq_error e;
    struct tokens t;

    cr_assert_eq(read(&t, bpe, &e), 0, "%s", e.msg);
    cr_assert(t.n == 4 && t.top == 4);
    cr_assert_eq(tokens_find(&t, "\xc4\xa0"
                                 "a")->id,
                 1);
    cr_assert_eq(tokens_find(&t, "b\xc0\x80")->id, 2);
    cr_assert_eq(tokens_find(&t, "<|x|>")->id, 3);
    cr_assert(tokens_find(&t, "<s>")->added);
    cr_assert_null(tokens_find(&t, "a"));
    for (size_t i = 0; i < t.n; i++)
        cr_assert_eq(t.list[i].id, i);
    tokens_release(&t);

    cr_assert_eq(read(&t, "{\"model\": {\"vocab\": [[\"a\", -1], [\"b\", 0]]}}",
                      &e),
                 0, "%s", e.msg);
    cr_assert(t.n == 2 && tokens_find(&t, "b")->id == 1);
    tokens_release(&t);
}

Test(vocab, bad_tokenizers)
{
    static const char *const bad[] = {
        "", "[]", "{}", "{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}}}",
        "{\"model\": {\"vocab\": {\"a\": -1}}}",
        "{\"model\": {\"vocab\": {\"a\": 1.5}}}",
        "{\"model\": {\"vocab\": {\"a\": 99999999999}}}",
        "{\"model\": {\"vocab\": 3}}", "{\"model\": 1}",
        "{\"model\": {\"vocab\": {\"a\": 1}}} x",
        "{\"model\": {\"vocab\": {\"a\": 1}}, \"added_tokens\": [{\"id\": 2}]}",
        "{\"model\": {\"vocab\": {\"a\": 1}}, \"added_tokens\": "
        "[{\"id\": 2, \"content\": \"a\"}]}",
        "{\"model\": {\"vocab\": [[\"a\"]]}}"};
    struct pq_error e;
    struct tokens t;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_eq(read(&t, bad[i], &e), -1, "accepted: %s", bad[i]);
        cr_assert_neq(e.code, PQ_OK);
        tokens_release(&t);
    }
}

Test(vocab, tokens_are_appended)
{
    struct tokens t, again;
    struct pq_buf out = {0};
    struct pq_error e;

    cr_assert_eq(read(&t, bpe, &e), 0);
    const struct token *const new[2] = {tokens_find(&t, "\xc4\xa0"
                                                        "a"),
                                        tokens_find(&t, "<|x|>")};
    const char *other =
        "{\"model\": {\"vocab\": {\"q\": 0}, \"x\": 1.0}, \"y\": 1e5}";
    cr_assert_eq(tokens_append(other, strlen(other), new, 2, 7, &out, &e), 0,
                 "%s", e.msg);
    cr_assert(strncmp(out.s, other, strlen(other) - 1) == 0, "%s", out.s);
    cr_assert_eq(read(&again, out.s, &e), 0, "%s: %s", e.msg, out.s);
    cr_assert(again.n == 3 && again.top == 9);
    cr_assert_eq(tokens_find(&again, "\xc4\xa0"
                                     "a")->id,
                 7);
    cr_assert_eq(tokens_find(&again, "<|x|>")->id, 8);
    cr_assert(strstr(out.s, "\"special\": true"), "its settings are lost");
    tokens_release(&again);
    pq_buf_release(&out);

    /* to a list that is there */
    cr_assert_eq(tokens_append(bpe, strlen(bpe), new, 1, 9, &out, &e), 0);
    tokens_release(&t);
    cr_assert_eq(read(&t, out.s, &e), -1, "two numbers of one token");
    tokens_release(&t);
    pq_buf_release(&out);
}

/* ---- the view ------------------------------------------------------- */

static const float table0[3][2] = {{0, 1}, {2, 3}, {4, 5}};
static const float table1[4][2] = {{10, 11}, {12, 13}, {14, 15}, {16, 17}};
static const uint16_t half[4][2] = {
    {0x4900, 0x4980}, {0x4a00, 0x4a80}, {0x4b00, 0x4b80}, {0x4c00, 0x4c40}};

struct pair {
    struct fake_source a, b;
    struct pq_source *models[2], *view;
    const struct pq_tensor *from[2];
    struct pq_vocab_table table;
    struct pq_row_map map;
};

static void pair_init(struct pair *p, bool halves)
{
    const uint64_t three[2] = {3, 2}, four[2] = {4, 2}, two[1] = {2};
    const float norm[2] = {7, 8};

    memset(p, 0, sizeof *p);
    fake_source_init(&p->a, false);
    fake_source_init(&p->b, false);
    fake_source_add(&p->a, "norm", PQ_F32, 1, two, norm);
    fake_source_add(&p->a, "embed", PQ_F32, 2, three, table0);
    fake_source_add(&p->b, "embed", halves ? PQ_F16 : PQ_F32, 2, four,
                    halves ? (const void *)half : table1);
    p->models[0] = &p->a.base;
    p->models[1] = &p->b.base;
    p->from[0] = &p->a.catalog.tensors[1];
    p->from[1] = &p->b.catalog.tensors[0];
    p->table = (struct pq_vocab_table){1, p->from};
}

static int pair_view(struct pair *p, const struct pq_row *rows, uint64_t n,
                     struct pq_error *e)
{
    static const struct pq_row owners[2] = {{0, 0}, {1, 3}};
    static const struct pq_row_mean mean = {owners, 2};

    memset(e, 0, sizeof *e);
    p->map = (struct pq_row_map){rows, n, &mean, 1};
    return pq_vocab_new(p->models, 2, 0, &p->map, &p->table, 1,
                        pq_kernels_best(), &p->view, e);
}

static void pair_release(struct pair *p)
{
    pq_source_free(p->view);
    fake_source_release(&p->a);
    fake_source_release(&p->b);
}

static const struct pq_row rows[7] = {{0, 2}, {0, 0}, {0, 1}, {1, 1}, {1, 2},
                                      {PQ_ROW_ZERO, 0}, {PQ_ROW_MEAN, 0}};
static const float want[7][2] = {{4, 5},   {0, 1},   {2, 3}, {12, 13},
                                 {14, 15}, {0, 0}, {8, 9}};

/* Every range of the table, byte by byte. */
static void check_view(struct pair *p)
{
    const struct pq_tensor *t = &p->view->catalog->tensors[1];
    struct pq_error e = PQ_ERROR_INIT;
    unsigned char got[sizeof want];
    float norm[2];

    cr_assert(t->shape[0] == 7 && t->n_elements == 14);
    cr_assert_eq(t->parts[0].bytes, sizeof want);
    for (size_t from = 0; from < sizeof want; from++)
        for (size_t n = 0; n <= sizeof want - from; n++) {
            memset(got, 0xee, sizeof got);
            cr_assert_eq(pq_source_read(p->view, &t->parts[0], from, got, n,
                                        &e),
                         0, "%s", e.msg);
            cr_assert(memcmp(got, (const char *)want + from, n) == 0,
                      "[%zu, +%zu)", from, n);
        }
    cr_assert_eq(pq_source_read(p->view, &p->view->catalog->tensors[0].parts[0],
                                0, norm, sizeof norm, &e),
                 0);
    cr_assert(norm[0] == 7 && norm[1] == 8);
}

Test(vocab, rows_come_from_where_they_are)
{
    struct pq_error e;
    struct pair p;

    pair_init(&p, false);
    cr_assert_eq(pair_view(&p, rows, 7, &e), 0, "%s", e.msg);
    check_view(&p);
    pair_release(&p);
}

Test(vocab, rows_are_converted)
{
    struct pq_error e;
    struct pair p;

    pair_init(&p, true);
    cr_assert_eq(pair_view(&p, rows, 7, &e), 0, "%s", e.msg);
    check_view(&p);
    pair_release(&p);
}

static void refuse(struct pair *p, const struct pq_row *r, const char *what)
{
    struct pq_error e;

    cr_assert_eq(pair_view(p, r, 1, &e), -1);
    cr_assert(strstr(e.msg, what), "'%s'", e.msg);
}

Test(vocab, rows_that_are_not_there)
{
    static const struct pq_row bad[] = {{0, 3}, {1, 4}, {2, 0},
                                        {PQ_ROW_MEAN, 1}};
    const uint64_t wide[2] = {4, 3};
    float x[12] = {0};
    struct pair p;

    pair_init(&p, false);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(&p, &bad[i], "embed: there is no");
    p.from[1] = NULL;
    refuse(&p, &rows[3], "there is no row");
    p.from[1] = fake_source_add(&p.b, "wide", PQ_F32, 2, wide, x);
    refuse(&p, &rows[0], "not as long");
    p.from[1] = &p.b.catalog.tensors[0];
    p.b.base.sequential = true;
    refuse(&p, &rows[0], "stream");
    p.b.base.sequential = false;
    pair_release(&p);
}
