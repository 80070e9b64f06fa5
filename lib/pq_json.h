/*
 * JSON, strictly: a pull tokenizer, a whole-text check, and writing.
 *
 * The tokenizer reads safetensors headers, indexes and .pq catalogues: UTF-8
 * checked, 64-bit integers exact, depth bounded, nothing after the value.
 * It allocates nothing but what the caller asks for.  cJSON sees a text only
 * after pq_json_check() accepted it.
 */
#ifndef PQ_JSON_H
#define PQ_JSON_H

#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_json_type {
    PQ_JSON_OBJECT,     /* { */
    PQ_JSON_OBJECT_END, /* } */
    PQ_JSON_ARRAY,      /* [ */
    PQ_JSON_ARRAY_END,  /* ] */
    PQ_JSON_KEY,        /* a string before a colon */
    PQ_JSON_STRING,
    PQ_JSON_NUMBER,
    PQ_JSON_TRUE,
    PQ_JSON_FALSE,
    PQ_JSON_NULL,
    PQ_JSON_END, /* the text is over, as it should be */
    PQ_JSON_ERROR
};

/* As in serde_json: 127 brackets may be open, the 128th is refused. */
#define PQ_JSON_MAX_DEPTH 128

struct pq_json {
    const char *text; /* [n], borrowed */
    size_t n, at;     /* at: next byte to look at */
    size_t start;     /* of the current token; a string: behind its quote */
    size_t length;    /* its length; of a string, without the quotes */
    bool escaped;     /* the current string holds backslash escapes */
    unsigned depth;
    unsigned char stack[PQ_JSON_MAX_DEPTH]; /* '{' or '[' */
    int state;                              /* private */
    struct pq_error *e;
};

void pq_json_init(struct pq_json *j, const char *text, size_t n,
                  struct pq_error *e);
/* The next token.  PQ_JSON_ERROR has recorded why and where (byte). */
enum pq_json_type pq_json_next(struct pq_json *j);
/*
 * Skips the value that starts with token `t` (which was just returned), or
 * the value behind a key.  Then j->at is the byte behind the value.
 */
PQ_MUST_USE int pq_json_skip(struct pq_json *j, enum pq_json_type t);
/*
 * The current key or string, unescaped.  Without escapes *s points into the
 * text; else into a copy from `a`.  Not NUL-terminated in the text: use *n.
 * A \u0000 becomes a NUL byte.
 */
PQ_MUST_USE int pq_json_string(struct pq_json *j, struct pq_arena *a,
                               const char **s, size_t *n);
/* The current key or string equals `s`, escapes resolved. */
bool pq_json_is(const struct pq_json *j, const char *s);
/* The current number as an unsigned integer; -0, 1.0, 1e3, signs fail. */
PQ_MUST_USE int pq_json_u64(struct pq_json *j, uint64_t *v);
PQ_MUST_USE int pq_json_double(struct pq_json *j, double *v);

/*
 * Checks a whole text before cJSON may see it: one value, valid UTF-8, no
 * NUL (raw or escaped), no duplicate keys in an object, depth <= 64.
 */
PQ_MUST_USE int pq_json_check(const char *text, size_t n, struct pq_error *e);

/* Bytes of s[0..n) before the first that is not UTF-8; n when all is. */
size_t pq_utf8_prefix(const char *s, size_t n);

/* Appends a quoted, escaped string; bytes that are not UTF-8 become U+FFFD. */
void pq_json_quote(struct pq_buf *b, const char *s);
void pq_json_quote_n(struct pq_buf *b, const char *s, size_t n);
/*
 * Shortest decimal that reads back as the same float or double; integers up
 * to 2^24 and 2^53 have no exponent; NaN and infinities are null.
 */
void pq_json_put_f32(struct pq_buf *b, float v);
void pq_json_put_f64(struct pq_buf *b, double v);

/*
 * Editing: puts `value` (JSON text that passes pq_json_check) under `key` at
 * the top level of the object in `text`, replacing what is there or adding it
 * at the end in the style of the text (indentation, newline); value NULL
 * removes the key.  All other bytes stay as they are.  Fails when the text is
 * no object or has the key twice.  The result is appended to `out`.
 */
PQ_MUST_USE int pq_json_edit(const char *text, size_t n, const char *key,
                             const char *value, struct pq_buf *out,
                             struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
