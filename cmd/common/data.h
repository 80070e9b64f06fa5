/*
 * Data files: JSONL, a line an example, or plain text, which is one example.
 * A file whose first character is a brace is JSONL.
 *
 *     {"ids":[1,403,407]}                 token ids, taken as they are
 *     {"text":"Once"}                     tokenized
 *     {"prompt":"Once","completion":" upon"}
 *     {"prompt":"2+2=","choices":["3","4"],"answer":1}
 *     {"messages":[{"role":"user","content":"Hi"}]}
 *
 * Texts go through the tokenizer that travels with the model, which adds what
 * it adds (BOS, mostly) and knows special tokens in them.  A prompt and what
 * follows it are tokenized together; what counts are the tokens behind those
 * that the prompt alone has, too.  An example with choices becomes one for
 * each.  Messages go through the chat template of the model, see data_chat.c;
 * what counts are the assistant's turns.  Of a line with several kinds the
 * first of this list is taken; other keys are left alone; empty lines are
 * skipped.
 */
#ifndef CMD_DATA_H
#define CMD_DATA_H

#include "pq_chat.h"

struct cmd_example {
    int32_t *ids; /* [n] */
    size_t n;
    size_t from;           /* the first token that counts, at least 1 */
    unsigned char *counts; /* [n] of a conversation: does it?  Or NULL */
    size_t line;           /* from 1 */
    uint64_t end;          /* bytes of the file up to here, for progress */
    size_t bytes;          /* of a completion or choice */
    bool tokenized;        /* a text, neither ids nor a conversation */
    size_t choice, n_choices, answer; /* n_choices 0: it is no choice */
};

struct cmd_data {
    const struct pq_catalog *model; /* whose tokenizer texts need; borrowed */
    bool prompts; /* to be continued: a completion or choices are left alone */
    bool chat;    /* prompts are what a user says */
    const char *system;             /* and this comes before, or NULL */
    struct pq_chat *template;       /* once there were messages, or NULL */
    struct tm now;                  /* for the template */
    struct pq_tokenizer *tokenizer; /* once there was a text, or NULL */
    bool lent;                      /* that is another's, and stays */
    struct cmd_example *items;      /* [n], all of the file */
    size_t n, cap;
    uint64_t bytes; /* of the file */
};

/*
 * Reads all of a file, "-" is standard input.  Messages name file and line.
 * Set `model` and `prompts` of a zeroed *d, and `tokenizer` and `lent` where
 * that of the model is read already; release it also after a failure.
 */
PQ_MUST_USE int cmd_data_read(const char *path, struct cmd_data *d,
                              struct pq_error *e);
/* Adds one text, as that of a file. */
PQ_MUST_USE int cmd_data_add_text(struct cmd_data *d, const char *text,
                                  size_t n, size_t line, struct pq_error *e);
/* Adds a conversation: JSON with "messages". */
PQ_MUST_USE int cmd_data_add_messages(struct cmd_data *d, const char *json,
                                      size_t n, size_t line,
                                      struct pq_error *e);
/* Adds what a user says, behind d->system, as a conversation. */
PQ_MUST_USE int cmd_data_add_user(struct cmd_data *d, const char *text,
                                  size_t n, size_t line, struct pq_error *e);
/* Adds ids, which are the data's from then on, or are freed; or NULL. */
PQ_MUST_USE struct cmd_example *cmd_data_add(struct cmd_data *d,
                                             struct pq_ids *ids, size_t line,
                                             struct pq_error *e);
/* Does token k of an example count? */
bool cmd_data_counts(const struct cmd_example *x, size_t k);
/* Has the model any tokenizer? */
bool cmd_data_speaks(const struct pq_catalog *model);
/* The tokenizer of the model, which is read when it is first needed. */
PQ_MUST_USE int cmd_data_tokenizer(struct cmd_data *d, struct pq_error *e);
/* Fails naming the line where an id is not below `vocab`. */
PQ_MUST_USE int cmd_data_check(const struct cmd_data *d, const char *path,
                               size_t vocab, struct pq_error *e);
void cmd_data_release(struct cmd_data *d);

#endif
