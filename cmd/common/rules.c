/*
 * Rules from the command line and from files; see rules.h.
 */
#include "rules.h"

#include <ctype.h>
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

/* One line; leading and trailing blanks do not count. */
static int add_line(struct cmd_rules *r, const char *line, size_t n,
                    struct pq_error *e)
{
    while (n > 0 && isspace((unsigned char)*line))
        line++, n--;
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        n--;
    if (n == 0 || *line == '#')
        return 0;
    if (memchr(line, '\0', n))
        return pq_fail(e, PQ_EARG, "a NUL character");
    char *text = pq_strndup(line, n);
    const int rc = text ? cmd_rules_add(r, text, e) : pq_fail_nomem(e);
    free(text);
    return rc;
}

int cmd_rules_read(struct cmd_rules *r, struct cmd *c, const char *path,
                   struct pq_error *e)
{
    const struct pq_buf *text = cmd_content(c, path, e);
    size_t number = 0, from = 0;

    while (text && from < text->n) {
        const char *line = text->s + from, *end;
        end = memchr(line, '\n', text->n - from);
        const size_t n = end ? (size_t)(end - line) : text->n - from;
        number++;
        if (add_line(r, line, n, e))
            return pq_error_in(e, "%s:%zu", path, number);
        from += n + 1;
    }
    return text ? 0 : -1;
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
