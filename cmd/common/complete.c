/*
 * Completions for shells, from the same table as the parser.
 *
 * --completion=SHELL is not in --help: `make install` runs it.  A tool's
 * completes its options; that of pq the names of the tools, and behind such a
 * name what the tool's would.
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

/* The options of a tool, for the command "pq-TOOL" or, where asked, "pq". */
static void fish_options(const struct table *t, const char *command, FILE *f)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct cmd_option *o = &t->options[i];
        fprintf(f, "complete -c %s -l %s", command, o->name);
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

static void fish(const struct table *t, FILE *f)
{
    char command[128];

    snprintf(command, sizeof command, "pq-%s", t->name);
    fish_options(t, command, f);
}

/* ---- pq itself ------------------------------------------------------- */

/* "info convert ..." */
static void tool_names(FILE *f)
{
    for (size_t i = 0; cmd_tools[i] != NULL; i++)
        fprintf(f, "%s%s", i > 0 ? " " : "", cmd_tools[i]->name);
}

/* The function of the tool's own completion, loaded where it is not yet. */
static void bash_of_all(FILE *f)
{
    fputs("_pq() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} tools='", f);
    tool_names(f);
    fputs("'\n"
          "    local tool=${COMP_WORDS[1]} load\n"
          "    if ((COMP_CWORD == 1)) && [[ $cur == -* ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W '--help --version' -- "
          "\"$cur\")\n"
          "    elif ((COMP_CWORD == 1)); then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$tools help\" -- "
          "\"$cur\")\n"
          "    elif [[ $tool == help ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$tools\" -- "
          "\"$cur\")\n"
          "    elif [[ \" $tools \" == *\" $tool \"* ]]; then\n"
          "        for load in _comp_load __load_completion; do\n"
          "            declare -F \"_pq_$tool\" >/dev/null && break\n"
          "            declare -F $load >/dev/null && $load \"pq-$tool\"\n"
          "        done\n"
          "        compopt -o filenames 2>/dev/null\n"
          "        declare -F \"_pq_$tool\" >/dev/null && \"_pq_$tool\"\n"
          "    fi\n"
          "}\n"
          "complete -F _pq pq\n", f);
}

static void zsh_of_all(FILE *f)
{
    fputs("#compdef pq\nlocal -a tools=(", f);
    for (size_t i = 0; cmd_tools[i] != NULL; i++) {
        fprintf(f, "\n    '%s:", cmd_tools[i]->name);
        zsh_text(cmd_tools[i]->purpose, f);
        fputc('\'', f);
    }
    fputs(")\n"
          "if ((CURRENT == 2)); then\n"
          "    tools+=('help:tell more of a tool')\n"
          "    _describe tool tools\n"
          "elif [[ $words[2] == help ]]; then\n"
          "    ((CURRENT == 3)) && _describe tool tools\n"
          "else\n"
          "    shift words\n"
          "    ((CURRENT--))\n"
          "    words[1]=pq-$words[1]\n"
          "    _normal\n"
          "fi\n", f);
}

/* Fails when memory is short. */
static int fish_of_tool(const struct pq_tool *tool, FILE *f)
{
    struct table t = {.name = tool->name};
    char command[128];

    fprintf(f, "complete -c pq -f -n __fish_use_subcommand -a %s -d ",
            tool->name);
    fish_quote(tool->purpose, f);
    fprintf(f, "\ncomplete -c pq -f -n '__fish_seen_subcommand_from help' "
               "-a %s\n", tool->name);
    t.options = cmd_all_options(tool, &t.n);
    if (t.options == NULL)
        return -1;
    snprintf(command, sizeof command,
             "pq -n '__fish_seen_subcommand_from %s'", tool->name);
    fish_options(&t, command, f);
    free(t.options);
    return 0;
}

static int fish_of_all(FILE *f)
{
    fputs("complete -c pq -f -n __fish_use_subcommand -a help -d "
          "'tell more of a tool'\n", f);
    for (size_t i = 0; cmd_tools[i] != NULL; i++)
        if (fish_of_tool(cmd_tools[i], f) != 0)
            return -1;
    return 0;
}

int cmd_completion_of_all(const char *shell, FILE *f)
{
    if (strcmp(shell, "fish") == 0)
        return fish_of_all(f);
    if (strcmp(shell, "bash") == 0)
        bash_of_all(f);
    else if (strcmp(shell, "zsh") == 0)
        zsh_of_all(f);
    else
        return -1;
    return 0;
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
