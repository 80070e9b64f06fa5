/*
 * Data files: JSONL, a line an example.
 *
 *     {"ids":[1,403,407]}   token ids, taken as they are
 *
 * Other keys of a line are left alone; empty lines are skipped.
 */
#ifndef CMD_DATA_H
#define CMD_DATA_H

#include "pq_mem.h"

struct cmd_example {
    int32_t *ids; /* [n] */
    size_t n;
    size_t line;  /* from 1 */
    uint64_t end; /* bytes of the file up to here, for progress */
};

struct cmd_data {
    struct cmd_example *items; /* [n], all of the file */
    size_t n, cap;
    uint64_t bytes; /* of the file */
};

/*
 * Reads all of a file, "-" is standard input.  Messages name file and line.
 * Zero-initialise *d; release it also after a failure.
 */
PQ_MUST_USE int cmd_data_read(const char *path, struct cmd_data *d,
                              struct pq_error *e);
void cmd_data_release(struct cmd_data *d);

#endif
