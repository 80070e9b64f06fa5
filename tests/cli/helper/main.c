/*
 * What the contract tests need and a shell cannot do: odd safetensors files,
 * terminals, signals at a moment, peak memory, and thousands of runs on
 * damaged input in a few seconds.  `helper` alone lists what it can do.
 */
#include "helper.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int args; /* at least so many */
    int (*run)(int argc, char **argv);
    const char *usage;
} commands[] = {
    {"st", 1, cmd_st, "FILE [-m METADATA] NAME=DTYPE[SHAPE]FILL..."},
    {"many", 4, cmd_many, "FILE N SHAPE FILL TENSOR..."},
    {"vary", 2, cmd_vary, "FILE ELEMENTS"},
    {"norms", 2, cmd_norms, "FILE OUT"},
    {"tty", 1, cmd_tty, "CMD..."},
    {"epipe", 2, cmd_epipe, "default|ignore CMD..."},
    {"killed", 3, cmd_killed, "SIGNAL MICROSECONDS CMD..."},
    {"ignoring", 3, cmd_ignoring, "SIGNAL MICROSECONDS CMD..."},
    {"rss", 2, cmd_rss, "FILE CMD..."},
    {"json", 1, cmd_json, "FILE [KEY]"},
    {"damage", 8, cmd_damage,
     "SO cut|flip file|pipe STATUS|any DIR OUT|- INPUT CMD..."},
    {"faults", 8, cmd_faults,
     "SO KIND[+] GOOD DIR OUT|- INPUT EXPECTED CMD..."},
};

int main(int argc, char **argv)
{
    const size_t n = sizeof commands / sizeof *commands;

    for (size_t i = 0; i < n; i++)
        if (argc >= 2 + commands[i].args &&
            strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    for (size_t i = 0; i < n; i++)
        fprintf(stderr, "helper %s %s\n", commands[i].name, commands[i].usage);
    return 99;
}
