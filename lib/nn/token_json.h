/*
 * Tokenizers: a tokenizer.json while it is read, for token_json.c and
 * token_merges.c.
 */
#ifndef NN_TOKEN_JSON_H
#define NN_TOKEN_JSON_H

#include "token.h"

struct span {
    size_t from, to; /* of the value's text; to 0: not there */
};

enum { ADDED, NORMALIZER, SPLITS, POST, DECODER, MODEL, N_SECTIONS };
enum {
    TYPE,
    VOCAB,
    MERGES,
    UNK_TOKEN,
    UNK_ID,
    FUSE_UNK,
    BYTE_FALLBACK,
    IGNORE_MERGES,
    DROPOUT,
    PREFIX,
    SUFFIX,
    N_KEYS
};

struct file {
    const char *text; /* [n] */
    size_t n;
    struct span sections[N_SECTIONS], keys[N_KEYS];
    struct pq_tokenizer *t;
    struct tok_entry *entries; /* [n_entries] */
    double *scores;            /* beside them, of Unigram */
    size_t n_entries, cap, scores_cap;
    uint64_t top;
    struct pq_error *e;
};

/* Reads text within a span; messages count bytes from the file's start. */
static inline void start(const struct file *f, struct span s, struct pq_json *j)
{
    pq_json_init(j, f->text, s.to, f->e);
    j->at = s.from;
}

static inline int wrong(const struct file *f, const char *what)
{
    return pq_fail(f->e, PQ_EFORMAT, "bad or missing \"%s\"", what);
}

/* The key of a token's text: raw bytes of a byte-level tokenizer. */
bool tok_key_of(const struct file *f, struct tok_text *text, struct pq_buf *b);
/* The merges of BPE, once the vocabulary is there. */
PQ_MUST_USE int tok_read_merges(struct file *f);

#endif
