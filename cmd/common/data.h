/*
 * Data files: JSONL, a line an example, or plain text, which is one example.
 * A file whose first character is a brace is JSONL.
 *
 *     {"ids":[1,403,407]}                 token ids, taken as they are
 *     {"text":"Once"}                     tokenized
 *     {"prompt":"Once","completion":" upon"}
 *     {"prompt":"2+2=","choices":["3","4"],"answer":1}
 *
 * Texts go through the tokenizer that travels with the model, which adds what
 * it adds (BOS, mostly) and knows special tokens in them.  A prompt and what
 * follows it are tokenized together; what counts are the tokens behind those
 * that the prompt alone has, too.  An example with choices becomes one for
 * each.  Of a line with several kinds the first of this list is taken; other
 * keys are left alone; empty lines are skipped.
 */
#ifndef CMD_DATA_H
#define CMD_DATA_H

#include "pq_tokenizer.h"

struct cmd_example {
    int32_t *ids; /* [n] */
    size_t n;
    size_t from;    /* the first token that counts, at least 1 */
    size_t line;    /* from 1 */
    uint64_t end;   /* bytes of the file up to here, for progress */
    size_t bytes;   /* of a completion or choice */
    bool tokenized; /* a text, not ids */
    size_t choice, n_choices, answer; /* n_choices 0: it is no choice */
};

struct cmd_data {
    const struct pq_catalog *model; /* whose tokenizer texts need; borrowed */
    bool prompts; /* to be continued: a completion or choices are left alone */
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
/* Has the model any tokenizer? */
bool cmd_data_speaks(const struct pq_catalog *model);
/* The tokenizer of the model, which is read when it is first needed. */
PQ_MUST_USE int cmd_data_tokenizer(struct cmd_data *d, struct pq_error *e);
/* Fails naming the line where an id is not below `vocab`. */
PQ_MUST_USE int cmd_data_check(const struct cmd_data *d, const char *path,
                               size_t vocab, struct pq_error *e);
void cmd_data_release(struct cmd_data *d);

#endif
