/*
 * A command that is run again and again on other input, and what may be
 * found after each run.
 */
#ifndef TRIAL_H
#define TRIAL_H

#include "helper.h"

#include <limits.h>
#include <stdbool.h>

struct trial {
    char **cmd;        /* set by trial_begin() */
    const char *dir;   /* the scratch folder: input, and a folder for OUT */
    const char *out;   /* the output's name, or NULL */
    bool pipe;         /* the input comes through a pipe on stdin */
    const char *fault; /* PQ_FAIL, with `so` in LD_PRELOAD; or NULL */
    const char *so;    /* tests/inject.c for faults, else cli/start.c */
    /* private */
    char input[PATH_MAX], output[PATH_MAX], outdir[PATH_MAX];
    char said[512]; /* the start of what it said on stderr */
    size_t lines;
    pid_t server;
    int order, answer; /* pipes to and from the server */
};

/*
 * Makes the folders; words of `cmd` that end with @IN or @OUT get the names
 * of the input and the output there.
 */
void trial_begin(struct trial *t, char **cmd);
/*
 * Starts the command as far as main() once, for trial_fork(): leaks are not
 * looked for in what comes from there.
 */
void trial_serve(struct trial *t);
void trial_end(struct trial *t);

/* Puts the output of yesterday there, or nothing. */
void trial_prepare(const struct trial *t, bool old);
/*
 * Runs it once with the n bytes at p as input, started as ever or by a fork
 * of the server.  Returns the exit status; 128 + SIGALRM after 20 s.
 */
int trial_exec(struct trial *t, const unsigned char *p, size_t n);
int trial_fork(struct trial *t, const unsigned char *p, size_t n);

/* What is wrong after a run that failed, or NULL. */
const char *trial_after_failure(const struct trial *t, bool old);
/* Is there a file with these bytes? */
bool holds(const char *path, const void *bytes, size_t n);
int count_entries(const char *path);
/* A line on stdout: what is wrong, how to see it. */
void trial_report(const struct trial *t, const char *what, int rc,
                  const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
