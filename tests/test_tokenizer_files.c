/*
 * Files of tokenizers: what is refused and how, what a directory has, and
 * texts that mean harm.
 */
#include "tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- what is refused ------------------------------------------------ */

#define BPE(rest) "{\"model\": {\"type\": \"BPE\", \"vocab\": " rest
#define FINE      BPE("{\"a\": 0}, \"merges\": []}")

static const struct refusal {
    const char *text;
    enum pq_code code;
    const char *message; /* a part of it */
} refusals[] = {
    {"", PQ_EFORMAT, "JSON"},
    {"[]", PQ_EFORMAT, "not an object"},
    {"{}", PQ_EFORMAT, "\"model\""},
    {"{\"model\": {}, \"model\": {}}", PQ_EFORMAT, "twice"},
    {"{\"model\": {\"type\": \"BPE\"}}", PQ_EFORMAT, "\"vocab\""},
    {"{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}", PQ_EUNSUPPORTED,
     "\"WordPiece\""},
    {BPE("{}}}"), PQ_EFORMAT, "\"merges\""},
    {BPE("[]}}"), PQ_EFORMAT, "\"vocab\""},
    {BPE("{\"a\": 0, \"a\": 1}, \"merges\": []}}"), PQ_EFORMAT, "the same"},
    {BPE("{\"a\": 0, \"b\": 0}, \"merges\": []}}"), PQ_EFORMAT, "the id 0"},
    {BPE("{\"a\": 16777216}, \"merges\": []}}"), PQ_ELIMIT, "16777216"},
    {BPE("{\"a\": -1}, \"merges\": []}}"), PQ_EFORMAT, "unsigned"},
    {BPE("{\"a\": 0}, \"merges\": [\"a a\"]}}"), PQ_EFORMAT, "merge 0"},
    {BPE("{\"a\": 0}, \"merges\": [\"a\"]}}"), PQ_EFORMAT, "\"merges\""},
    {BPE("{\"a\": 0}, \"merges\": [[\"a\"]]}}"), PQ_EFORMAT, "\"merges\""},
    {BPE("{\"a\": 0}, \"merges\": [], \"dropout\": 0.1}}"), PQ_EUNSUPPORTED,
     "dropout"},
    {BPE("{}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"}}"),
     PQ_EUNSUPPORTED, "end_of_word_suffix"},
    {BPE("{\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}}"), PQ_EFORMAT,
     "\"unk_token\""},
    {FINE ", \"normalizer\": {\"type\": \"BertNormalizer\"}}", PQ_EUNSUPPORTED,
     "normalizer: type \"BertNormalizer\""},
    {FINE ", \"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}}",
     PQ_EUNSUPPORTED, "pre_tokenizer: type \"UnicodeScripts\""},
    {FINE ", \"decoder\": {\"type\": \"CTC\"}}", PQ_EUNSUPPORTED,
     "decoder: type \"CTC\""},
    {FINE ", \"post_processor\": {\"type\": \"X\"}}", PQ_EUNSUPPORTED,
     "post_processor: type \"X\""},
    {FINE ", \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": "
          "\"Isolated\", \"pattern\": {\"Regex\": \"[a&&b]\"}}}",
     PQ_EUNSUPPORTED, "&&"},
    {FINE ", \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": "
          "\"Isolated\", \"pattern\": {\"Regex\": \"a{1,3}+\"}}}",
     PQ_EUNSUPPORTED, "{n,m}+"},
    {FINE ", \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": "
          "\"Isolated\", \"pattern\": {\"Regex\": \"(a\"}}}",
     PQ_EFORMAT, "pattern (a"},
    {FINE ", \"normalizer\": {\"type\": \"Precompiled\", "
          "\"precompiled_charsmap\": \"AAA\"}}",
     PQ_EFORMAT, "\"precompiled_charsmap\""},
    {FINE ", \"normalizer\": {\"type\": \"Precompiled\", "
          "\"precompiled_charsmap\": \"AAEAAAAAAAA=\"}}",
     PQ_EFORMAT, "trie of 256"},
    {FINE ", \"added_tokens\": [{\"id\": 0, \"content\": \"b\"}]}", PQ_EFORMAT,
     "added token 0"},
    {FINE ", \"post_processor\": {\"type\": \"BertProcessing\", \"cls\": "
          "[\"a\", 0], \"sep\": [\"b\", 7]}}",
     PQ_EFORMAT, "no token 7"},
    {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", PQ_EFORMAT,
     "\"vocab\""},
    {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], "
     "\"unk_id\": 1}}",
     PQ_EFORMAT, "\"unk_id\""},
};

Test(tokenizer, unknown_parts_are_refused_by_name)
{
    struct pq_tokenizer *t;
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_tokenizer_parse(FINE "}", strlen(FINE "}"), &t, &e), 0,
                 "%s", e.msg);
    pq_tokenizer_free(t);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *const x = &refusals[i];
        e = (struct pq_error)PQ_ERROR_INIT;
        cr_expect_eq(pq_tokenizer_parse(x->text, strlen(x->text), &t, &e), -1,
                     "%s", x->text);
        cr_expect_eq(e.code, x->code, "%s: %s", x->text, e.msg);
        cr_expect(strstr(e.msg, x->message), "%s: %s", x->text, e.msg);
    }
}

/* Cut short anywhere: refused, or a tokenizer of fewer pieces; no more. */
Test(tokenizer, files_cut_short)
{
    static const char *const files[] = {DIR "gpt2.json", DIR "spm-bpe.model"};
    for (size_t k = 0; k < 2; k++) {
        struct pq_buf b = read_file(files[k]);
        for (size_t n = 0; n < b.n; n += 1 + n / 50) {
            struct pq_error e = PQ_ERROR_INIT;
            struct pq_tokenizer *t = NULL;
            char *const copy = malloc(n ? n : 1);
            memcpy(copy, b.s, n);
            if (k == 0)
                cr_expect_eq(pq_tokenizer_parse(copy, n, &t, &e), -1);
            else if (pq_tokenizer_parse_model(copy, n, true, true, &t, &e) == 0)
                pq_tokenizer_free(t);
            else
                cr_expect_neq(e.code, PQ_OK);
            free(copy);
        }
        pq_buf_release(&b);
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/*
 * A million of the same: one word without end, marks without a letter.  What
 * grows as the square would take an hour.
 */
Test(tokenizer, long_words_take_no_squares)
{
    static const char *const files[] = {DIR "gpt2.json", DIR "llama2.json",
                                        DIR "qwen2.json", DIR "albert.json",
                                        DIR "spm-bpe.model"};
    static const char *const parts[] = {"a", " ", "\xcc\x81\xcc\xa3", "<"};
    const double start = seconds();
    for (size_t k = 0; k < 20; k++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_tokenizer *const t = load(files[k / 4]);
        struct pq_ids ids = {0};
        struct pq_buf b = {0};
        while (b.n < 400000)
            pq_buf_puts(&b, parts[k % 4]);
        cr_expect_eq(pq_tokenizer_encode(t, b.s, b.n, 0, &ids, &e), 0, "%s",
                     e.msg);
        cr_expect(ids.n > 0 || k % 4 == 2); /* marks are stripped */
        free(ids.list);
        pq_buf_release(&b);
        pq_tokenizer_free(t);
    }
    cr_expect(seconds() - start < 60);
}

/* ---- directories ---------------------------------------------------- */

static void copy_file(const char *from, const char *dir, const char *name)
{
    char path[300];
    struct pq_buf b = read_file(from);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *const f = fopen(path, "wb");
    cr_assert(f && fwrite(b.s, 1, b.n, f) == b.n && fclose(f) == 0);
    pq_buf_release(&b);
}

static void put_file(const char *dir, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *const f = fopen(path, "wb");
    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* The number of ids of "a" with bounds, or of -1 with the message in e. */
static int count_in(const char *dir, struct pq_error *e)
{
    struct pq_tokenizer *t;
    struct pq_ids ids = {0};
    *e = (struct pq_error)PQ_ERROR_INIT;
    if (pq_tokenizer_open(dir, &t, e) != 0)
        return -1;
    cr_assert_eq(pq_tokenizer_encode(t, "a", 1, PQ_ENCODE_BOUNDS, &ids, e), 0);
    free(ids.list);
    pq_tokenizer_free(t);
    return (int)ids.n;
}

Test(tokenizer, directories)
{
    struct pq_error e;
    char dir[] = "/tmp/pq-tokenizer-XXXXXX", command[100];

    cr_expect_eq(count_in("testdata/tiny-llama", &e), 2);
    cr_expect_eq(count_in("/nonexistent", &e), -1);
    cr_expect_eq(e.sys, ENOENT);
    cr_assert_not_null(mkdtemp(dir));
    cr_expect_eq(count_in(dir, &e), -1);
    cr_expect_eq(e.code, PQ_EARG);
    copy_file(DIR "spm-unigram.model", dir, "spiece.model");
    cr_expect_eq(count_in(dir, &e), 1, "%s", e.msg);
    copy_file(DIR "spm-bpe.model", dir, "tokenizer.model");
    cr_expect_eq(count_in(dir, &e), 2, "%s", e.msg);
    put_file(dir, "tokenizer_config.json",
             "{\"add_bos_token\": true, \"add_eos_token\": true}");
    cr_expect_eq(count_in(dir, &e), 3, "%s", e.msg);
    put_file(dir, "tokenizer_config.json", "{\"add_bos_token\": false}");
    cr_expect_eq(count_in(dir, &e), 1, "%s", e.msg);
    put_file(dir, "tokenizer_config.json", "{");
    cr_expect_eq(count_in(dir, &e), -1);
    cr_expect(strstr(e.msg, "tokenizer_config.json: "), "%s", e.msg);
    put_file(dir, "tokenizer.json", "{}");
    cr_expect_eq(count_in(dir, &e), -1);
    cr_expect(strstr(e.msg, "tokenizer.json: "), "%s", e.msg);
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}
