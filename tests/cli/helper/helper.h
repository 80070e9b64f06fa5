/*
 * What the parts of the helper share.
 *
 * Nothing of pq is linked in: files are made and cut by what the
 * specifications say, so that a mistake there is not made here again.
 * Whatever goes wrong ends the helper with 99 and a line on stderr.
 */
#ifndef HELPER_H
#define HELPER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* ---- basics.c -------------------------------------------------------- */

_Noreturn void die(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));
/* `p`, which must not be NULL. */
void *must(void *p);
/* A decimal number in [min, max], and nothing behind it. */
long number(const char *text, long min, long max);
/* splitmix64: the same numbers everywhere. */
uint64_t next_random(uint64_t *state);
/* Little-endian. */
uint64_t load64(const unsigned char *p);
/* The bytes of a file and a NUL; the caller frees them. */
unsigned char *load(const char *path, size_t *n);
void save(const char *path, const void *p, size_t n);

/* ---- children.c ------------------------------------------------------ */

pid_t must_fork(void);
_Noreturn void become(char **argv);
/* The exit status of a child, 128 + n if it died of signal n. */
int wait_for(pid_t pid, struct rusage *u);
int exit_status(int status);

/* ---- commands: argv[0] is the first argument --------------------------- */

int cmd_st(int argc, char **argv);       /* models.c */
int cmd_many(int argc, char **argv);
int cmd_vary(int argc, char **argv);
int cmd_norms(int argc, char **argv);
int cmd_tty(int argc, char **argv);      /* children.c */
int cmd_epipe(int argc, char **argv);
int cmd_killed(int argc, char **argv);
int cmd_ignoring(int argc, char **argv);
int cmd_rss(int argc, char **argv);
int cmd_json(int argc, char **argv);     /* json.c */
int cmd_damage(int argc, char **argv);   /* damage.c */
int cmd_faults(int argc, char **argv);   /* faults.c */

#endif
