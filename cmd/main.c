/*
 * The program: every tool of pq, chosen by the name it is called by.
 *
 *     pq-quantize ...     the tool
 *     pq quantize ...     the same
 *     pq help quantize    pq-quantize --help
 *     pq, pq help         the list of tools
 */
#include "cmd.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define MAPPED (256 << 10) /* bytes from which on blocks are mapped */

/*
 * Large blocks go back to the system when they are freed.  glibc would learn
 * from their sizes to keep them, for each thread its own.
 */
static void return_memory(void)
{
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, MAPPED);
#endif
}

/*
 * OpenBLAS, where a tool loads it, makes threads that we never give work to
 * (lib/linalg.c); until they sleep they spin.  Set here, before there are
 * threads of ours.
 */
static void no_threads_of_openblas(void)
{
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
}

static int list_tools(void)
{
    fputs("Usage: pq TOOL [options] [MODEL]\n"
          "       pq-TOOL [options] [MODEL]\n\nTools:\n", stdout);
    for (size_t i = 0; cmd_tools[i] != NULL; i++)
        printf("  %-12s %s\n", cmd_tools[i]->name, cmd_tools[i]->purpose);
    fputs("\n'pq help TOOL' tells more.\n", stdout);
    return CMD_OK;
}

static bool is_option(const char *arg, const char *letter, const char *name)
{
    return strcmp(arg, letter) == 0 || strcmp(arg, name) == 0;
}

/* "pq help [TOOL]": the words behind "help". */
static int help(const struct cmd *c, int n, char **words)
{
    if (n == 0)
        return list_tools();
    if (n > 1)
        return cmd_usage(c, "help takes one tool");
    const struct pq_tool *tool = cmd_tool_named(words[0]);
    if (tool == NULL)
        return cmd_usage(c, "there is no tool '%.100s'", words[0]);
    cmd_help(tool, stdout);
    return CMD_OK;
}

/* "--completion=SHELL", which `make install` runs. */
static int completion(const struct cmd *c, const char *shell)
{
    return cmd_completion_of_all(shell, stdout) == 0
               ? CMD_OK
               : cmd_usage(c, "--completion: '%.100s' is none of bash, zsh and "
                              "fish", shell);
}

/* "pq" itself: a tool, or one of its own few options. */
static int pq(int argc, char **argv)
{
    static const char complete[] = "--completion=";
    const char *what = argc > 1 ? argv[1] : "--help";
    const struct pq_tool *tool = cmd_tool_named(what);
    const struct cmd c = {.program = "pq"};
    int status = CMD_OK;

    if (tool != NULL)
        return cmd_main(tool, argc - 1, argv + 1);
    if (strcmp(what, "help") == 0) {
        status = help(&c, argc - 2, argv + 2);
    } else if (is_option(what, "-h", "--help")) {
        status = list_tools();
    } else if (is_option(what, "-V", "--version")) {
        const bool verbose = argc > 2 && is_option(argv[2], "-v", "--verbose");
        cmd_version(NULL, verbose, stdout);
    } else if (strncmp(what, complete, sizeof complete - 1) == 0) {
        status = completion(&c, what + sizeof complete - 1);
    } else {
        status = cmd_usage(&c, "%s '%.100s'",
                           what[0] == '-' ? "unknown option"
                                          : "there is no tool", what);
    }
    return cmd_finish(&c, status);
}

int main(int argc, char **argv)
{
    return_memory();
    no_threads_of_openblas();
    cmd_signals_init();

    const char *self = argc > 0 ? argv[0] : "pq";
    const char *slash = strrchr(self, '/');
    const char *name = slash != NULL ? slash + 1 : self;
    const struct pq_tool *tool =
        strncmp(name, "pq-", 3) == 0 ? cmd_tool_named(name + 3) : NULL;

    return tool != NULL ? cmd_main(tool, argc, argv) : pq(argc, argv);
}
