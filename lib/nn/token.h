/*
 * Tokenizers, inside: what a file is read into, and what its parts offer
 * each other.
 *
 *     token_open.c      a model directory    token_encode.c    added tokens
 *     token_json.c      tokenizer.json       token_norm.c      normalizers
 *     token_steps.c     its small sections   token_charsmap.c  one of them
 *     token_merges.c    its merges
 *     token_post.c      BOS and EOS          token_split.c     pre-tokenizers
 *     token_model.c     tokenizer.model      token_regex.c     patterns
 *     token_vocab.c     strings <-> ids      token_bpe.c       the two models
 *     token_trie.c      longest matches      token_unigram.c
 *     token_text.c      characters           token_decode.c
 *     token.c           what both files need, questions about tokens
 */
#ifndef NN_TOKEN_H
#define NN_TOKEN_H

#include "pq_json.h"
#include "pq_tokenizer.h"

#define NONE PQ_TOKEN_NONE

#define TOK_MARK       "\xe2\x96\x81" /* U+2581, SentencePiece's space */
#define TOK_MARK_BYTES (sizeof TOK_MARK - 1)

/* Bytes of a text; not NUL-terminated. */
struct tok_text {
    const char *s;
    size_t n;
};

/* ---- token_text.c: characters ------------------------------------------- */

/* The character at s[0..n), n > 0, which is UTF-8; its length in *k. */
uint32_t tok_char(const char *s, size_t n, size_t *k);
/* The length of the character that begins with this byte. */
size_t tok_char_length(char c);
/* The last character of s[0..n), n > 0. */
uint32_t tok_char_last(const char *s, size_t n, size_t *k);
/* Appends a character. */
void tok_put_char(struct pq_buf *b, uint32_t c);
bool tok_is_space(uint32_t c);       /* White_Space */
bool tok_is_word(uint32_t c);        /* \w of the Rust regex crate */
bool tok_is_numeric(uint32_t c);     /* general category N* */
bool tok_is_punctuation(uint32_t c); /* P*, or ASCII punctuation */
bool tok_starts(struct tok_text t, struct tok_text with);
/*
 * Text in the byte alphabet of GPT-2, one printable character a byte, to the
 * bytes; false when a character is not in it.
 */
bool tok_unmap_bytes(struct tok_text t, struct pq_buf *out);

/* ---- token_trie.c: strings by their beginnings -------------------------- */

struct tok_edge {
    uint64_t key; /* node << 8 | byte, + 1; 0: free */
    uint32_t child;
};

struct tok_trie {
    struct tok_edge *edges; /* [n_slots], open addressing */
    size_t n_slots;         /* a power of two, or 0 */
    uint32_t *values;       /* [n_nodes], NONE: no string ends here */
    size_t n_nodes, cap;
};

/* The last value put under a string stays. */
PQ_MUST_USE int tok_trie_put(struct tok_trie *t, struct tok_text s,
                             uint32_t value, struct pq_error *e);
/* The node behind `byte`, 0 when there is none; it begins at node 0. */
uint32_t tok_trie_step(const struct tok_trie *t, uint32_t node,
                       unsigned char byte);
/* The value of the longest string at s[0..n), its length in *k; or NONE. */
uint32_t tok_trie_longest(const struct tok_trie *t, const char *s, size_t n,
                          size_t *k);
void tok_trie_release(struct tok_trie *t);

/* ---- token_vocab.c ------------------------------------------------------ */

/*
 * Of a byte-level tokenizer `key` is the raw bytes that a token stands for,
 * none (NULL) when its text is not in the byte alphabet; else it is `text`.
 */
struct tok_vocab {
    struct tok_text *text; /* [top], s NULL: no token */
    struct tok_text *key;  /* [top] */
    uint32_t top;
    uint32_t *slots; /* [n_slots] of ids, open addressing by key */
    size_t n_slots;
};

struct tok_entry {
    struct tok_text text;
    uint64_t id;
};

/* Of a zeroed vocabulary; the texts stay borrowed, keys go into the arena. */
PQ_MUST_USE int tok_vocab_fill(struct tok_vocab *v,
                               const struct tok_entry *list, size_t n,
                               uint64_t top, bool byte_level,
                               struct pq_arena *a, struct pq_error *e);
uint32_t tok_vocab_find(const struct tok_vocab *v, const char *s, size_t n);
void tok_vocab_release(struct tok_vocab *v);

struct tok_merge {
    uint32_t left, right; /* NONE, NONE: free */
    uint32_t rank, id;
};

struct tok_merges {
    struct tok_merge *slots; /* [n_slots], open addressing */
    size_t n_slots, n;
};

/* Makes room for n merges, before the first is put. */
PQ_MUST_USE int tok_merges_room(struct tok_merges *m, size_t n,
                                struct pq_error *e);
/* The last of two for the same pair stays. */
void tok_merges_put(struct tok_merges *m, const struct tok_merge *x);
/* NULL when the two do not merge. */
const struct tok_merge *tok_merges_find(const struct tok_merges *m,
                                        uint32_t left, uint32_t right);

/* ---- token_regex.c ------------------------------------------------------ */

struct tok_regex;
struct tok_matcher; /* scratch of one thread */

PQ_MUST_USE int tok_regex_new(struct tok_text pattern, struct tok_regex **r,
                              struct pq_error *e);
void tok_regex_free(struct tok_regex *r);

/* All matches in a text, one after the other. */
struct tok_find {
    const struct tok_regex *re; /* or NULL: `literal` */
    struct tok_text literal, in;
    size_t at, last; /* where to look; where the last match ended, or -1 */
    struct tok_matcher **m; /* made when first needed */
};

/* 1 and the match [*from, *to), or 0 at the end, or -1. */
PQ_MUST_USE int tok_find_next(struct tok_find *f, size_t *from, size_t *to,
                              struct pq_error *e);
/* From the start of a text, by what a step looks for. */
struct tok_step;
struct tok_find tok_find_start(const struct tok_step *x, struct tok_text in,
                               struct tok_matcher **m);
/* Appends the text with the content of the step in place of its matches. */
PQ_MUST_USE int tok_replace(const struct tok_step *x, struct tok_text in,
                            struct tok_matcher **m, struct pq_buf *out,
                            struct pq_error *e);
void tok_matcher_free(struct tok_matcher *m);

/* ---- what the sections of a tokenizer say ------------------------------- */

enum tok_kind {
    /* normalizers */
    TOK_NFC,
    TOK_NFD,
    TOK_NFKC,
    TOK_NFKD,
    TOK_LOWERCASE,
    TOK_REPLACE, /* pattern or re, content; also a decoder */
    TOK_PREPEND, /* content */
    TOK_STRIP,   /* left, right */
    TOK_STRIP_ACCENTS,
    TOK_NMT,
    TOK_PRECOMPILED, /* charsmap */
    TOK_SPACES,      /* SentencePiece: left: remove extra spaces, content */
    /* pre-tokenizers */
    TOK_BYTE_LEVEL,  /* left: add a space, re; also a decoder */
    TOK_SPLIT,       /* pattern or re, behavior, invert */
    TOK_METASPACE,   /* content, prepend, left: split; also a decoder */
    TOK_DIGITS,      /* left: one by one */
    TOK_PUNCTUATION, /* behavior */
    TOK_WHITESPACE_SPLIT,
    TOK_DELIMITER, /* pattern */
    /* decoders */
    TOK_BYTE_FALLBACK,
    TOK_FUSE,
    TOK_STRIP_CHARS /* content, start, stop */
};

enum tok_behavior {
    TOK_REMOVED,
    TOK_ISOLATED,
    TOK_WITH_PREVIOUS,
    TOK_WITH_NEXT,
    TOK_CONTIGUOUS
};

enum tok_prepend { TOK_NEVER, TOK_FIRST, TOK_ALWAYS };

/*
 * A table of replacements that SentencePiece compiled, token_charsmap.c.
 * The first u32 of the blob is the size of the trie.
 */
struct tok_charsmap {
    const uint32_t *trie; /* [n_trie] */
    size_t n_trie;
    struct tok_text strings; /* each ends with NUL */
    bool longest; /* sentencepiece's own way; else that of `tokenizers` */
};

struct tok_step {
    enum tok_kind kind;
    struct tok_regex *re; /* owned */
    struct tok_text pattern, content;
    bool left, right, invert;
    enum tok_behavior behavior;
    enum tok_prepend prepend;
    size_t start, stop;
    struct tok_charsmap map;
};

#define TOK_STEPS 32 /* of one section at most, else PQ_ELIMIT */

struct tok_steps {
    struct tok_step list[TOK_STEPS];
    size_t n;
};

struct tok_added {
    struct tok_text content;
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct pq_tokenizer {
    struct pq_arena arena; /* all texts */
    struct tok_vocab vocab;
    bool unigram; /* else BPE */
    bool byte_level, byte_fallback, fuse_unk, ignore_merges;
    bool cut;     /* no merge crosses into a U+2581: words can be cut there */
    uint32_t unk; /* or NONE */
    uint32_t byte_ids[256]; /* of a byte (byte-level) or of <0xHH>, or NONE */
    struct tok_merges merges;
    struct tok_trie pieces; /* of Unigram: ids */
    double *scores;         /* [vocab.top] */
    double unk_score;
    bool single; /* sums of scores are rounded to float, as sentencepiece's */
    struct tok_steps normalizers, splits, decoders;
    struct tok_added *added; /* [n_added] */
    size_t n_added;
    struct tok_trie raw, normal; /* places in `added`, by `normalized` */
    unsigned char *special;      /* [n_special], by id: is one */
    uint32_t n_special;
    uint32_t *before, *after; /* [n_before], [n_after]: BOS, EOS */
    size_t n_before, n_after;
};

/* ---- reading ------------------------------------------------------------ */

struct cJSON;

/* Is it the id of a token? */
bool tok_json_id(const struct cJSON *v, uint32_t *id);
/* The sections, NULL or null for none; each into its place in the tokenizer. */
PQ_MUST_USE int tok_read_normalizer(struct pq_tokenizer *t,
                                    const struct cJSON *c, struct pq_error *e);
PQ_MUST_USE int tok_read_splits(struct pq_tokenizer *t, const struct cJSON *c,
                                struct pq_error *e);
PQ_MUST_USE int tok_read_post(struct pq_tokenizer *t, const struct cJSON *c,
                              struct pq_error *e);
PQ_MUST_USE int tok_read_decoder(struct pq_tokenizer *t, const struct cJSON *c,
                                 struct pq_error *e);
/* Puts t->added into the tries, normalized where asked. */
PQ_MUST_USE int tok_index_added(struct pq_tokenizer *t, struct pq_error *e);
/* Fills byte_ids, once the vocabulary and the flags are there. */
PQ_MUST_USE int tok_find_bytes(struct pq_tokenizer *t, struct pq_error *e);
/* A merge that leads from something else into a U+2581 forbids cutting. */
void tok_watch_cut(struct pq_tokenizer *t, struct tok_text left,
                   struct tok_text right);
/* Puts every token with its score into `pieces`. */
PQ_MUST_USE int tok_index_pieces(struct pq_tokenizer *t, struct pq_error *e);

/* As pq_tokenizer_parse_model; bos, eos -1: true and false, or both false. */
PQ_MUST_USE int tok_model_parse(const void *bytes, size_t n, int bos, int eos,
                                struct pq_tokenizer **t, struct pq_error *e);

/*
 * Reads a blob of charsmap into the arena; what would lead out of it when
 * used is refused while using it.
 */
PQ_MUST_USE int tok_charsmap_read(struct tok_charsmap *m, const void *blob,
                                  size_t n, struct pq_arena *a,
                                  struct pq_error *e);
void tok_charsmap_apply(const struct tok_charsmap *m, struct tok_text in,
                        struct pq_buf *out);

/* ---- encoding ----------------------------------------------------------- */

struct tok_symbol {
    uint32_t id;
    uint32_t prev, next; /* places, NONE at the ends */
};

struct tok_pair {
    uint32_t rank, at; /* the order of work */
    uint32_t left, right, id;
};

#define TOK_CACHED_BYTES 24
#define TOK_CACHED_IDS   8

struct tok_cached {
    uint64_t hash; /* 0: free */
    uint8_t n_bytes, n_ids;
    char bytes[TOK_CACHED_BYTES];
    uint32_t ids[TOK_CACHED_IDS];
};

struct tok_path { /* the best way to here, of Unigram */
    double score;
    uint32_t id, from; /* from NONE: none yet */
    uint32_t next;     /* where the piece from here ends, once it is known */
};

/* One call of encode: where it puts ids, and its scratch. */
struct tok_run {
    const struct pq_tokenizer *t;
    struct pq_ids *ids;
    struct pq_error *e;
    bool plain;
    struct tok_matcher *matcher;
    struct pq_buf normal[2];        /* normalizers, to and fro */
    struct pq_buf words[TOK_STEPS]; /* text that a pre-tokenizer changed */
    struct tok_symbol *symbols;
    size_t symbols_cap;
    struct tok_pair *heap;
    size_t heap_n, heap_cap;
    struct tok_path *paths;
    size_t paths_cap;
    struct tok_cached *cache; /* [n_cache], a power of two, or 0 */
    size_t n_cache;
};

/*
 * A piece of text between added tokens.  `first`: it begins where the whole
 * text does.
 */
PQ_MUST_USE int tok_normalize(struct tok_run *r, struct tok_text in,
                              bool *first, struct tok_text *out);
PQ_MUST_USE int tok_split(struct tok_run *r, struct tok_text in, bool first);
/* A word: to the model. */
PQ_MUST_USE int tok_bpe(struct tok_run *r, struct tok_text word);
PQ_MUST_USE int tok_unigram(struct tok_run *r, struct tok_text word);
PQ_MUST_USE int tok_put_id(struct tok_run *r, uint32_t id);
/* Room for n elements in scratch; NULL when there is none. */
void *tok_room(void *p, size_t n, size_t *cap, size_t size);

#endif
