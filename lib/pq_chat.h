/*
 * Chat templates: a conversation to the text that a model was trained on.
 *
 *     {"messages":[{"role":"user","content":"Hi"}]}
 *          -- the template --> "<s>[INST] Hi [/INST]" -- the tokenizer --> ids
 *
 * A template is a program in the language of Jinja2 that comes with a
 * tokenizer.  Read and run is the part of it that chat templates use, as
 * transformers runs it: trim_blocks, lstrip_blocks, a sandbox, `break` and
 * `continue`, {% generation %}, raise_exception(), strftime_now(), tojson
 * that does not escape HTML.  There are
 *
 *     statements  if for set macro call with filter raw break continue
 *                 generation
 *     tests and filters: lib/nn/chat_test.c, chat_filter.c, chat_lists.c
 *     functions   range dict namespace raise_exception strftime_now
 *     methods     of strings and dicts that change nothing; list.index, .count
 *
 * What is something else fails with PQ_EUNSUPPORTED, its name and its line: a
 * statement, test or filter when the template is read, a method when it is
 * called.  Nothing is guessed.
 *
 * A template comes with a file from anywhere.  It reaches nothing but its
 * variables, and what it may use is bounded: see PQ_CHAT_* below.
 *
 * A template does not change once it is read: any number of threads may
 * render with it at a time.
 */
#ifndef PQ_CHAT_H
#define PQ_CHAT_H

#include "pq_tokenizer.h"

#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_CHAT_TEMPLATE (1u << 20)   /* bytes of a template */
#define PQ_CHAT_TEXT     (16u << 20)  /* bytes of what it gives */
#define PQ_CHAT_MEMORY   (128u << 20) /* bytes of its values, in a run */
#define PQ_CHAT_STEPS    (1u << 24)   /* of a run, each a small operation */

struct pq_chat;

/* Reads the text of a template, which may go afterwards. */
PQ_MUST_USE int pq_chat_parse(const char *text, size_t n, struct pq_chat **c,
                              struct pq_error *e);
/*
 * Reads the template of a model, from the files that its catalogue carries:
 * chat_template.jinja, or else "chat_template" of tokenizer_config.json, a
 * text or a list of them, of which the one named "default" is taken.  Special
 * tokens that tokenizer_config.json names ("bos_token", ...) are variables.
 * Failures name the file; a model without a template is PQ_EARG.  The
 * catalogue may go afterwards.
 */
PQ_MUST_USE int pq_chat_of_model(const struct pq_catalog *m, struct pq_chat **c,
                                 struct pq_error *e);
void pq_chat_free(struct pq_chat *c);

/*
 * The text of a special token, "eos_token", its length in *n; or NULL.  It
 * lives as long as the template.
 */
const char *pq_chat_token(const struct pq_chat *c, const char *name, size_t *n);

/* What a template is given. */
struct pq_chat_input {
    const char *json; /* [n] an object: "messages", and what else there is to
                         be seen by its name, "tools", "enable_thinking" */
    size_t n;
    size_t messages; /* the first so many of them; SIZE_MAX: all */
    bool prompt;     /* the assistant's turn is next (add_generation_prompt) */
    const struct tm *now; /* for strftime_now(), or NULL: there is none */
};

/* Parts of a text, in bytes, in order. */
struct pq_chat_span {
    size_t from, to;
};

struct pq_chat_spans {         /* zero-initialise, free(list) */
    struct pq_chat_span *list; /* [n] */
    size_t n, cap;
};

/*
 * Appends the text of a conversation; *spans (or NULL) gets what stands in
 * {% generation %}.  As in transformers, keys of a message that are null are
 * left out, and "reasoning" and "thinking" are also "reasoning_content".
 * A template that calls raise_exception() fails with PQ_EARG and what it
 * says; other failures name its line.  After a failure *out and *spans may
 * have a part.
 */
PQ_MUST_USE int pq_chat_render(const struct pq_chat *c,
                               const struct pq_chat_input *in,
                               struct pq_buf *out, struct pq_chat_spans *spans,
                               struct pq_error *e);

/*
 * Appends the ids of a conversation: its text, tokenized at once, with the
 * special tokens that are in it and no others.  With `mask` (else NULL)
 * *mask gets as many bytes as ids were appended, 1 where the token is the
 * assistant's; free() it.
 *
 * The assistant's are what stands in {% generation %}, if the template has
 * that.  Otherwise they are found by rendering: message k is what the text of
 * the messages up to it has behind the text of those before with a prompt at
 * the end; white space behind a special token that ends it is not counted.
 * Both must begin the text of all messages (an EOS at the end of the former
 * may be missing there), or PQ_EUNSUPPORTED says for which message they do
 * not.  A token across the edge counts.
 */
PQ_MUST_USE int pq_chat_encode(const struct pq_chat *c,
                               const struct pq_tokenizer *t,
                               const struct pq_chat_input *in,
                               struct pq_ids *ids, unsigned char **mask,
                               struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
