/*
 * Runs a command while the first, second, ... call of something fails, until
 * all succeed.
 */
#include "trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 20000 };

struct faults {
    struct trial t;
    int good; /* the exit status without a fault */
    const char *input;
    unsigned char *in, *right; /* the input, and what is to come of it */
    size_t n_in, n_right;
    char mark[PATH_MAX]; /* a file that is there when a call failed */
};

static const char *verdict(const struct faults *f, int rc, bool hit, bool old)
{
    if (rc >= 124)
        return "it crashed or hung";
    if (rc != f->good && !hit)
        return "it fails without a fault";
    if (rc == 2)
        return f->t.lines ? trial_after_failure(&f->t, old)
                          : "it said nothing";
    if (rc != f->good)
        return "the wrong exit status";
    if (f->t.out && !holds(f->t.output, f->right, f->n_right))
        return "success, but the wrong bytes";
    return f->t.out && count_entries(f->t.outdir) != 1
               ? "a temporary file is left"
               : NULL;
}

/* Fails calls until there is none to fail; returns how much was wrong. */
static int loop(struct faults *f, const char *kind, bool all)
{
    char fault[64];
    int wrong = 0;

    f->t.fault = fault;
    for (int i = 1; i < MOST && wrong < 5; i++) {
        const bool old = i & 1;
        trial_prepare(&f->t, old);
        unlink(f->mark);
        snprintf(fault, sizeof fault, "%s:%d%s", kind, i, all ? "+" : "");
        const int rc = trial_exec(&f->t, f->in, f->n_in);
        const bool hit = access(f->mark, F_OK) == 0;
        const char *what = verdict(f, rc, hit, old);
        if (what) {
            wrong++;
            trial_report(&f->t, what, rc, "PQ_FAIL=%s", fault);
        }
        if (!hit)
            return wrong;
    }
    if (wrong < 5)
        printf("no end: %s never stops to fail\n", kind);
    return wrong + 1;
}

/*
 * faults SO KIND[+] GOOD DIR OUT|- INPUT EXPECTED CMD...: the first, second,
 * ... call of KIND fails (with +: and all after it), until none does.
 */
int cmd_faults(int argc, char **argv)
{
    char kind[32];
    struct faults f = {
        .t = {.so = argv[0], .dir = argv[3],
              .out = strcmp(argv[4], "-") ? argv[4] : NULL},
        .good = (int)number(argv[2], 0, 1)};
    const size_t last = strlen(argv[1]) - 1;
    const bool all = argv[1][last] == '+';

    (void)argc;
    f.in = load(argv[5], &f.n_in);
    f.right = f.t.out ? load(argv[6], &f.n_right) : NULL;
    trial_begin(&f.t, argv + 7);
    snprintf(f.mark, sizeof f.mark, "%s/mark", f.t.dir);
    setenv("PQ_FAIL_MARK", f.mark, 1);
    snprintf(kind, sizeof kind, "%.*s", (int)(last + !all), argv[1]);
    return loop(&f, kind, all) ? 1 : 0;
}
