/*
 * Rules: GLOB=VALUE pairs from --rule and --rules FILE, first match wins.
 */
#ifndef CMD_RULES_H
#define CMD_RULES_H

#include "cmd.h"

struct cmd_rule {
    char *glob, *value;
    bool used; /* it was the first to match some tensor */
};

struct cmd_rules {
    struct cmd_rule *rules;
    size_t n, cap;
};

/* Adds "GLOB=VALUE"; the value follows the last '='. */
PQ_MUST_USE int cmd_rules_add(struct cmd_rules *r, const char *text,
                              struct pq_error *e);
/*
 * Adds the rules of a file ("-": standard input): one a line, empty lines and
 * # comments skipped.
 */
PQ_MUST_USE int cmd_rules_read(struct cmd_rules *r, struct cmd *c,
                               const char *path, struct pq_error *e);
/* The value of the first rule that matches, or NULL. */
const char *cmd_rules_find(struct cmd_rules *r, const char *name);
void cmd_rules_release(struct cmd_rules *r);

#endif
