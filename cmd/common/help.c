/*
 * The table of options, --help and --version.
 */
#include "cmd.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 80,
    HELP_COLUMN = 26,
    SCREEN = 34 /* options that a screen has room for, each with its line */
};

/* ---- The table ------------------------------------------------------- */

struct shared_option {
    unsigned bit; /* of pq_tool.shared; 0 = every tool has it */
    struct cmd_option option;
};

static const struct shared_option shared[] = {
    {CMD_OUTPUT, {'o', "output", "FILE", "write to FILE (default: stdout)",
                  NULL, 0, CMD_ID_OUTPUT}},
    {CMD_OUTPUT, {'O', "output-format", "FORMAT",
                  "write FORMAT, whatever FILE is called", "",
                  CMD_CHANGES_OUTPUT, CMD_ID_FORMAT}},
    {CMD_OUTPUT, {'f', "force", NULL, "write a model to a terminal", NULL, 0,
                  CMD_ID_FORCE}},
    {CMD_DRY_RUN, {'n', "dry-run", NULL,
                   "print the plan and the exact size, write nothing", NULL, 0,
                   CMD_ID_DRY_RUN}},
    {CMD_SELECT, {'m', "match", "GLOB", "only tensors whose names match", NULL,
                  CMD_CHANGES_OUTPUT | CMD_REPEATS, CMD_ID_MATCH}},
    {CMD_SELECT, {'x', "exclude", "GLOB", "not tensors whose names match",
                  NULL, CMD_CHANGES_OUTPUT | CMD_REPEATS, CMD_ID_EXCLUDE}},
    {CMD_ENGINE, {'T', "threads", "N", "use N threads (0: all cores)", "0 1",
                  0, CMD_ID_THREADS}},
    {CMD_VERBOSITY, {'q', "quiet", NULL, "no warnings and no progress", NULL,
                     0, CMD_ID_QUIET}},
    {CMD_VERBOSITY, {'v', "verbose", NULL,
                     "say more: a line a tensor, text or step", NULL,
                     CMD_REPEATS, CMD_ID_VERBOSE}},
    {CMD_JSON, {0, "json", NULL, "print JSON", NULL, 0, CMD_ID_JSON}},
    {CMD_ENGINE, {0, "memory", "SIZE", "stay within SIZE (default: 128M)",
                  "64M 128M 256M 512M 1G", 0, CMD_ID_MEMORY}},
    {CMD_SEED, {0, "seed", "N", "seed of random numbers (default: 0)", "0",
                CMD_CHANGES_OUTPUT, CMD_ID_SEED}},
    {CMD_ENGINE, {0, "progress", "WHEN", "auto, always or never",
                  "auto always never", 0, CMD_ID_PROGRESS}},
    {CMD_OUTPUT, {0, "no-sync", NULL, "do not wait for the disk", NULL, 0,
                  CMD_ID_NO_SYNC}},
    {CMD_PROVENANCE, {0, "no-provenance", NULL,
                      "do not record this run in the output", NULL, 0,
                      CMD_ID_NO_PROVENANCE}},
    {0, {'h', "help", NULL, "print this", NULL, 0, CMD_ID_HELP}},
    {0, {'V', "version", NULL, "print the version; with -v, what is built in",
         NULL, 0, CMD_ID_VERSION}},
};

enum { N_SHARED = sizeof shared / sizeof *shared };

/* The names of the formats that can be written, for -O. */
static const char *format_names(void)
{
    static char names[128];
    const struct pq_format *const *f = pq_formats();

    names[0] = '\0';
    for (; *f != NULL; f++) {
        const size_t n = strlen(names);
        if ((*f)->can_write)
            snprintf(names + n, sizeof names - n, "%s%s", n > 0 ? " " : "",
                     (*f)->name);
    }
    return names;
}

struct cmd_option *cmd_all_options(const struct pq_tool *tool, size_t *n)
{
    size_t own = 0;

    while (tool->options != NULL && tool->options[own].name != NULL)
        own++;
    struct cmd_option *all = pq_alloc(own + N_SHARED, sizeof *all);
    if (all == NULL)
        return NULL;
    if (own > 0)
        memcpy(all, tool->options, own * sizeof *all);
    *n = own;
    for (size_t i = 0; i < N_SHARED; i++) {
        if (shared[i].bit != 0 && (tool->shared & shared[i].bit) == 0)
            continue;
        all[*n] = shared[i].option;
        if (all[*n].id == CMD_ID_FORMAT)
            all[*n].values = format_names();
        (*n)++;
    }
    return all;
}

/* ---- --help ---------------------------------------------------------- */

/* Prints words, wrapped, the next lines indented to the help column. */
static void print_wrapped(FILE *f, const char *text)
{
    int column = HELP_COLUMN;

    while (*text != '\0') {
        const int n = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + n > WIDTH) {
            fprintf(f, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        if (column > HELP_COLUMN)
            column += fprintf(f, " ");
        column += fprintf(f, "%.*s", n, text);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}

/* "  -o, --output=FILE     write to FILE ..." */
static void print_option(FILE *f, const struct cmd_option *o)
{
    int n = o->letter != 0 ? fprintf(f, "  -%c, --%s", o->letter, o->name)
                           : fprintf(f, "      --%s", o->name);

    if (o->arg != NULL)
        n += fprintf(f, o->flags & CMD_ARG_OPTIONAL ? "[=%s]" : "=%s", o->arg);
    if (n > HELP_COLUMN - 2 && n + 2 + (int)strlen(o->help) <= WIDTH) {
        fprintf(f, "  %s\n", o->help);
        return;
    }
    if (n > HELP_COLUMN - 2) {
        fputc('\n', f);
        n = 0;
    }
    fprintf(f, "%*s", HELP_COLUMN - n, "");
    print_wrapped(f, o->help);
}

/* Only named where there are too many: what all tools have, what is rare. */
static bool is_brief(const struct cmd_option *o)
{
    return o->flags & CMD_BRIEF ||
           (o->id >= CMD_ID_OUTPUT && o->id != CMD_ID_OUTPUT &&
            o->id != CMD_ID_DRY_RUN && o->id != CMD_ID_JSON);
}

/* "Also: -O --output-format=FORMAT, -f --force, ..." */
static void print_brief(FILE *f, const struct cmd_option *all, size_t n)
{
    char word[128];
    int column = fprintf(f, "Also, as the manual tells:");

    for (size_t i = 0; i < n; i++) {
        const struct cmd_option *o = &all[i];
        const char letter[] = {'-', (char)o->letter, ' ', '\0'};
        if (!is_brief(o))
            continue;
        const int k = snprintf(word, sizeof word, " %s--%s%s%s",
                               o->letter ? letter : "", o->name,
                               o->arg ? "=" : "", o->arg ? o->arg : "");
        if (column + k > WIDTH)
            column = fprintf(f, "\n ") - 1;
        column += fprintf(f, "%s", word);
    }
    fputc('\n', f);
}

void cmd_help(const struct pq_tool *tool, FILE *f)
{
    size_t n;
    struct cmd_option *all = cmd_all_options(tool, &n);
    const char *const *example = tool->examples;
    const bool crowded = all != NULL && n > SCREEN;

    fprintf(f, "Usage: pq-%s %s\n%c%s.\n\n", tool->name, tool->synopsis,
            toupper((unsigned char)tool->purpose[0]), tool->purpose + 1);
    for (size_t i = 0; all != NULL && i < n; i++)
        if (!crowded || !is_brief(&all[i]))
            print_option(f, &all[i]);
    if (crowded)
        print_brief(f, all, n);
    free(all);
    if (example != NULL)
        fputs("Examples:\n", f);
    for (; example != NULL && *example != NULL; example++)
        fprintf(f, "  %s\n", *example);
}

/* ---- --version ------------------------------------------------------- */

static void print_build(FILE *f)
{
#if defined(__clang__)
    fprintf(f, "compiler: %s\n", __VERSION__);
#else
    fprintf(f, "compiler: gcc %s\n", __VERSION__);
#endif
#ifdef PQ_BUILD_FLAGS
    fprintf(f, "flags:    %s\n", PQ_BUILD_FLAGS);
#endif
    fprintf(f, "kernels:  scalar%s; best here: %s\n",
            pq_kernels_named("avx2") != NULL ? " avx2" : "",
            pq_kernels_best()->name);
    fputs("formats: ", f);
    for (const struct pq_format *const *p = pq_formats(); *p != NULL; p++)
        fprintf(f, " %s%s", (*p)->name, (*p)->can_write ? "" : " (read only)");
    fputc('\n', f);
}

void cmd_version(const struct pq_tool *tool, bool verbose, FILE *f)
{
    fprintf(f, "pq%s%s %s\n", tool != NULL ? "-" : "",
            tool != NULL ? tool->name : "", PQ_VERSION);
    if (verbose)
        print_build(f);
}
