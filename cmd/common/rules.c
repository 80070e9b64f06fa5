/*
 * Rules from the command line and from files; see rules.h.
 */
#include "rules.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add(struct cmd_rules *r, const char *glob, size_t n_glob,
               const char *value, size_t n_value, struct pq_error *e)
{
    struct cmd_rule *rules = pq_grow(r->rules, r->n, &r->cap, sizeof *rules);

    if (!rules)
        return pq_fail_nomem(e);
    r->rules = rules;
    struct cmd_rule *new = &rules[r->n++];
    new->used = false;
    new->glob = pq_strndup(glob, n_glob);
    new->value = pq_strndup(value, n_value);
    return new->glob && new->value ? 0 : pq_fail_nomem(e);
}

int cmd_rules_add(struct cmd_rules *r, const char *text, struct pq_error *e)
{
    const char *eq = strrchr(text, '=');

    if (!eq || eq == text || eq[1] == '\0')
        return pq_fail(e, PQ_EARG, "rule '%s' is not GLOB=TYPE", text);
    return add(r, text, (size_t)(eq - text), eq + 1, strlen(eq + 1), e);
}

/* One line without its newline; leading and trailing blanks do not count. */
static int add_line(struct cmd_rules *r, char *line, struct pq_error *e)
{
    while (isspace((unsigned char)*line))
        line++;
    size_t n = strlen(line);
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        line[--n] = '\0';
    return n == 0 || *line == '#' ? 0 : cmd_rules_add(r, line, e);
}

int cmd_rules_read(struct cmd_rules *r, const char *path, struct pq_error *e)
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0, number = 0;
    int rc = 0;

    if (!f)
        return pq_fail_sys(e, errno, "%s", path);
    while (!rc && getline(&line, &cap, f) >= 0) {
        number++;
        rc = add_line(r, line, e);
        if (rc)
            pq_error_in(e, "%s:%zu", path, number);
    }
    if (!rc && ferror(f))
        rc = pq_fail_sys(e, errno, "%s", path);
    free(line);
    fclose(f);
    return rc;
}

const char *cmd_rules_find(struct cmd_rules *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (cmd_glob(r->rules[i].glob, name)) {
            r->rules[i].used = true;
            return r->rules[i].value;
        }
    return NULL;
}

void cmd_rules_release(struct cmd_rules *r)
{
    for (size_t i = 0; i < r->n; i++) {
        free(r->rules[i].glob);
        free(r->rules[i].value);
    }
    free(r->rules);
    memset(r, 0, sizeof *r);
}
