/*
 * Completions for shells, from the same table as the parser.
 *
 * --completion=SHELL is not in --help: `make install` runs it.
 */
#include "cmd.h"

#include <stdlib.h>
#include <string.h>

struct table {
    const char *name; /* of the tool */
    struct cmd_option *options;
    size_t n;
};

/* ---- bash ------------------------------------------------------------ */

/* Takes an argument as the next word. */
static bool takes_word(const struct cmd_option *o)
{
    return o->arg != NULL && (o->flags & CMD_ARG_OPTIONAL) == 0;
}

static void bash_values(const struct cmd_option *o, FILE *f)
{
    fputs("    ", f);
    if (o->letter != 0)
        fprintf(f, "-%c|", o->letter);
    fprintf(f, "--%s)\n", o->name);
    fprintf(f, "        mapfile -t COMPREPLY < <(compgen %s%s%s -- \"$cur\")\n",
            o->values != NULL ? "-W '" : "-f",
            o->values != NULL ? o->values : "",
            o->values != NULL ? "'" : "");
    fputs("        return ;;\n", f);
}

static void bash(const struct table *t, FILE *f)
{
    fprintf(f, "_pq_%s() {\n"
               "    local cur=${COMP_WORDS[COMP_CWORD]}\n"
               "    local prev=${COMP_WORDS[COMP_CWORD-1]}\n"
               "    if [[ $cur == = ]]; then\n"
               "        cur=\n"
               "    elif [[ $prev == = ]]; then\n"
               "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
               "    fi\n"
               "    case $prev in\n",
            t->name);
    for (size_t i = 0; i < t->n; i++)
        if (takes_word(&t->options[i]))
            bash_values(&t->options[i], f);
    fputs("    esac\n    if [[ $cur == -* ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W '", f);
    for (size_t i = 0; i < t->n; i++)
        fprintf(f, "%s--%s", i > 0 ? " " : "", t->options[i].name);
    fprintf(f, "' -- \"$cur\")\n    else\n"
               "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
               "    fi\n}\n"
               "complete -o filenames -F _pq_%s pq-%s\n",
            t->name, t->name);
}

/* ---- zsh ------------------------------------------------------------- */

/* Text inside '...[...]...': some characters need a backslash or more. */
static void zsh_text(const char *s, FILE *f)
{
    for (; *s != '\0'; s++) {
        if (*s == '\'')
            fputs("'\\''", f);
        else if (strchr("[]:\\", *s) != NULL)
            fprintf(f, "\\%c", *s);
        else
            fputc(*s, f);
    }
}

static void zsh_option(const struct cmd_option *o, FILE *f)
{
    const char *takes = o->arg == NULL ? "" : takes_word(o) ? "=" : "=-";
    const char *once = (o->flags & CMD_REPEATS) != 0 ? "*" : "";

    fputs(" \\\n    ", f);
    if (o->letter != 0)
        fprintf(f, "'%s'{-%c%s,--%s%s}'[", once, o->letter,
                o->arg == NULL ? "" : takes_word(o) ? "+" : "-", o->name,
                takes);
    else
        fprintf(f, "'%s--%s%s[", once, o->name, takes);
    zsh_text(o->help, f);
    fputc(']', f);
    if (o->arg != NULL) {
        fprintf(f, takes_word(o) ? ":%s:" : "::%s:", o->arg);
        fprintf(f, o->values != NULL ? "(%s)" : "_files%s",
                o->values != NULL ? o->values : "");
    }
    fputc('\'', f);
}

static void zsh(const struct table *t, FILE *f)
{
    fprintf(f, "#compdef pq-%s\n_arguments -s -S", t->name);
    for (size_t i = 0; i < t->n; i++)
        zsh_option(&t->options[i], f);
    fputs(" \\\n    '*:model:_files'\n", f);
}

/* ---- fish ------------------------------------------------------------ */

static void fish_quote(const char *s, FILE *f)
{
    fputc('\'', f);
    for (; *s != '\0'; s++) {
        if (*s == '\'' || *s == '\\')
            fputc('\\', f);
        fputc(*s, f);
    }
    fputc('\'', f);
}

static void fish(const struct table *t, FILE *f)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct cmd_option *o = &t->options[i];
        fprintf(f, "complete -c pq-%s -l %s", t->name, o->name);
        if (o->letter != 0)
            fprintf(f, " -s %c", o->letter);
        if (takes_word(o))
            fputs(o->values != NULL ? " -x -a " : " -r -F", f);
        if (takes_word(o) && o->values != NULL)
            fish_quote(o->values, f);
        fputs(" -d ", f);
        fish_quote(o->help, f);
        fputc('\n', f);
    }
}

int cmd_completion(const struct pq_tool *tool, const char *shell, FILE *f)
{
    static const struct {
        const char *name;
        void (*print)(const struct table *t, FILE *f);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    struct table t = {.name = tool->name};

    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++) {
        if (strcmp(shells[i].name, shell) != 0)
            continue;
        t.options = cmd_all_options(tool, &t.n);
        if (t.options == NULL)
            return -1;
        shells[i].print(&t, f);
        free(t.options);
        return 0;
    }
    return -1;
}
