/*
 * What the tests of tokenizers share: tokenizers of files.
 */
#ifndef TESTS_TOKENIZER_H
#define TESTS_TOKENIZER_H

#include <criterion/criterion.h>

#include "model.h"
#include "pq_tokenizer.h"

#define DIR "testdata/tokenizers/"

static inline struct pq_tokenizer *load(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *t;
    struct pq_buf b = read_file(path);
    const int rc =
        b.s[0] == '{' ? pq_tokenizer_parse(b.s, b.n, &t, &e)
                      : pq_tokenizer_parse_model(b.s, b.n, true, false, &t, &e);

    cr_assert_eq(rc, 0, "%s: %s", path, e.msg);
    pq_buf_release(&b); /* the tokenizer keeps nothing of it */
    return t;
}

#endif
