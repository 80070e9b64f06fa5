/*
 * Tokenizers: text to token ids and back.
 *
 *     text -> special and added tokens cut out -> normalizers
 *          -> pre-tokenizers: words -> model: ids -> BOS and EOS around
 *
 * Read are tokenizer.json (models BPE, byte-level or with byte fallback, and
 * Unigram) and SentencePiece's tokenizer.model (BPE and Unigram).  The ids
 * are those of the libraries `tokenizers` and `sentencepiece`.  A part of a
 * tokenizer that is not known fails with PQ_EUNSUPPORTED and its name, when
 * the tokenizer is read and never later.
 *
 * A tokenizer does not change once it is read: any number of threads may
 * encode and decode with it at a time.
 */
#ifndef PQ_TOKENIZER_H
#define PQ_TOKENIZER_H

#include "pq_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_TOKEN_NONE  UINT32_MAX   /* instead of an id: there is none */
#define PQ_TOKEN_IDS   (1u << 24)   /* ids are below this, else PQ_ELIMIT */
#define PQ_TOKEN_BYTES 1024u        /* of one token's text, else PQ_ELIMIT */
#define PQ_TOKEN_FILE  (256u << 20) /* bytes of a tokenizer's file */

struct pq_tokenizer;

/*
 * Reads the tokenizer of a model directory: tokenizer.json, or, where there
 * is none, tokenizer.model (or spiece.model) with add_bos_token and
 * add_eos_token of tokenizer_config.json, which without that key are true
 * and false for BPE, and false and false for Unigram.  Failures name the
 * file.  *t is the caller's, for pq_tokenizer_free.
 */
PQ_MUST_USE int pq_tokenizer_open(const char *dir, struct pq_tokenizer **t,
                                  struct pq_error *e);
/*
 * The same of the files that a model's catalogue carries, whatever it was
 * read from.
 */
PQ_MUST_USE int pq_tokenizer_of_model(const struct pq_catalog *c,
                                      struct pq_tokenizer **t,
                                      struct pq_error *e);
/* Of the text of a tokenizer.json, which may go afterwards. */
PQ_MUST_USE int pq_tokenizer_parse(const char *json, size_t n,
                                   struct pq_tokenizer **t, struct pq_error *e);
/*
 * Of the bytes of a tokenizer.model, which may go afterwards.  `bos`, `eos`:
 * whether PQ_ENCODE_BOUNDS adds the model's.
 */
PQ_MUST_USE int pq_tokenizer_parse_model(const void *bytes, size_t n, bool bos,
                                         bool eos, struct pq_tokenizer **t,
                                         struct pq_error *e);
void pq_tokenizer_free(struct pq_tokenizer *t);

/* One more than the largest id. */
uint32_t pq_tokenizer_top(const struct pq_tokenizer *t);
/*
 * The text of a token as the file spells it ("\u0120the"), its length in *n;
 * NULL when no token has this id.  Lives as long as the tokenizer.
 */
const char *pq_tokenizer_text(const struct pq_tokenizer *t, uint32_t id,
                              size_t *n);
/* The id of the token that is spelled so, or PQ_TOKEN_NONE. */
uint32_t pq_tokenizer_id(const struct pq_tokenizer *t, const char *s, size_t n);
/* Is it one of the special tokens, which decoding may leave out? */
bool pq_tokenizer_special(const struct pq_tokenizer *t, uint32_t id);

/* Token ids: a growing array.  Zero-initialise, free(list). */
struct pq_ids {
    uint32_t *list; /* [n] */
    size_t n, cap;
};

enum pq_encode_flags {
    PQ_ENCODE_BOUNDS = 1u << 0, /* add BOS, EOS as the tokenizer's post-
                                   processor says; not for rendered chats,
                                   which have them already */
    PQ_ENCODE_PLAIN = 1u << 1   /* special tokens in the text are just text:
                                   for text from strangers */
};

/*
 * Appends the ids of text[0..n), which must be UTF-8 (else PQ_EVALUE names
 * the byte); NUL is a character like others.  After a failure *ids has what
 * it had.  Time and memory grow as n log n at worst.
 */
PQ_MUST_USE int pq_tokenizer_encode(const struct pq_tokenizer *t,
                                    const char *text, size_t n, unsigned flags,
                                    struct pq_ids *ids, struct pq_error *e);

/*
 * Decoding, a token at a time: the text as it comes.
 *
 * Bytes of a character that is not complete are held back until the next
 * token completes it or shows that it is none (U+FFFD).  All the pieces
 * together are what the reference library decodes at once.
 */
struct pq_decoder;

enum pq_decode_flags {
    PQ_DECODE_SKIP = 1u << 0 /* leave special tokens out */
};

/* A decoder at the start of a text; borrows `t`. */
PQ_MUST_USE int pq_decoder_new(const struct pq_tokenizer *t, unsigned flags,
                               struct pq_decoder **d, struct pq_error *e);
/* Appends what is known now that `id` follows; ids without a token add "". */
PQ_MUST_USE int pq_decoder_push(struct pq_decoder *d, uint32_t id,
                                struct pq_buf *out, struct pq_error *e);
/* Appends what was held back; then the decoder is at a start again. */
PQ_MUST_USE int pq_decoder_finish(struct pq_decoder *d, struct pq_buf *out,
                                  struct pq_error *e);
void pq_decoder_free(struct pq_decoder *d);

/* All of it at once. */
PQ_MUST_USE int pq_tokenizer_decode(const struct pq_tokenizer *t,
                                    const uint32_t *ids /* [n] */, size_t n,
                                    unsigned flags, struct pq_buf *out,
                                    struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
