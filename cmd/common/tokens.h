/*
 * The vocabulary of a tokenizer.json: which token has which number.
 *
 *     "added_tokens": [{"id": 0, "content": "<s>", ...}, ...]
 *     "model": {"vocab": {"a": 3, ...}}       BPE, WordPiece, WordLevel
 *     "model": {"vocab": [["a", -1.5], ...]}  Unigram: numbered as they come
 */
#ifndef CMD_TOKENS_H
#define CMD_TOKENS_H

#include "pq_tensor.h"

#define TOKENS_MAX (1u << 24) /* numbers are below this */

struct token {
    const char *text; /* NUL characters in it are C0 80 */
    const char *json; /* [json_n] as it stands in the file, without quotes */
    size_t json_n;
    const char *added; /* [added_n] its entry of added_tokens, or NULL */
    size_t added_n;
    uint32_t id;
};

struct tokens {
    struct pq_arena arena;
    struct token *list; /* [n], sorted by number */
    size_t n, cap;
    struct pq_names index; /* text -> place in the list */
    uint64_t top;          /* one more than the largest number */
};

/*
 * Of zeroed tokens; release them also after a failure.  `text` is borrowed
 * for as long as they live.  Two tokens of one number fail, as do two numbers
 * of one token.
 */
PQ_MUST_USE int tokens_read(struct tokens *t, const char *text, size_t n,
                            struct pq_error *e);
void tokens_release(struct tokens *t);
/* The token, or NULL. */
const struct token *tokens_find(const struct tokens *t, const char *text);

/*
 * A tokenizer.json to which `new` tokens (of other files) are added under the
 * numbers from `first` on; all other text stays as it is.  Appended to `out`.
 */
PQ_MUST_USE int tokens_append(const char *text, size_t n,
                              const struct token *const *new /* [n_new] */,
                              size_t n_new, uint64_t first, struct pq_buf *out,
                              struct pq_error *e);

#endif
