/*
 * Running a command again and again.
 *
 * The start of a program is most of its time: linking, and with sanitizers
 * their set-up.  So there are two ways to run it: as ever, and as a fork of
 * one that has been started as far as main() and waits there (start.c).
 */
#include "trial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char old_output[] = "the output of yesterday\n";

/* ---- the output folder ----------------------------------------------- */

int count_entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;

    if (!d)
        die("%s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

bool holds(const char *path, const void *bytes, size_t n)
{
    struct stat st;

    if (stat(path, &st) != 0 || (size_t)st.st_size != n)
        return false;
    size_t got;
    unsigned char *p = load(path, &got);
    const bool same = got == n && memcmp(p, bytes, n) == 0;
    free(p);
    return same;
}

void trial_prepare(const struct trial *t, bool old)
{
    if (!t->out)
        return;
    if (old)
        save(t->output, old_output, sizeof old_output - 1);
    else
        unlink(t->output);
}

const char *trial_after_failure(const struct trial *t, bool old)
{
    if (!t->out)
        return NULL;
    const int n = count_entries(t->outdir);
    if (!old && n != 0)
        return access(t->output, F_OK) == 0 ? "an output file is left"
                                            : "a temporary file is left";
    if (old && !holds(t->output, old_output, sizeof old_output - 1))
        return "the old output was touched";
    return n == old ? NULL : "a temporary file is left";
}

/* ---- one run --------------------------------------------------------- */

/* A word that ends with `mark` gets `name` in its place. */
static char *expand(char *word, const char *mark, const char *name)
{
    const size_t n = strlen(word), m = strlen(mark), k = strlen(name);

    if (n < m || strcmp(word + n - m, mark) != 0)
        return word;
    char *s = must(malloc(n - m + k + 1));
    memcpy(s, word, n - m);
    memcpy(s + n - m, name, k + 1);
    return s;
}

void trial_begin(struct trial *t, char **cmd)
{
    snprintf(t->input, sizeof t->input, "%s/input", t->dir);
    snprintf(t->outdir, sizeof t->outdir, "%s/out", t->dir);
    snprintf(t->output, sizeof t->output, "%s/out/%s", t->dir,
             t->out ? t->out : "");
    mkdir(t->dir, 0755);
    mkdir(t->outdir, 0755);
    for (char **c = cmd; *c; c++)
        *c = expand(expand(*c, "@IN", t->input), "@OUT", t->output);
    t->cmd = cmd;
}

static int stdin_of(const struct trial *t, const unsigned char *p, size_t n)
{
    int fds[2];

    if (!t->pipe)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (pipe2(fds, O_CLOEXEC) != 0 ||
        fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) < 0 ||
        write(fds[1], p, n) != (ssize_t)n)
        die("pipe: %s", strerror(errno));
    close(fds[1]);
    return fds[0];
}

static void read_said(struct trial *t, int fd)
{
    char buf[8192];
    const ssize_t n = pread(fd, buf, sizeof buf - 1, 0);

    buf[n > 0 ? n : 0] = '\0';
    t->lines = 0;
    for (const char *s = buf; (s = strchr(s, '\n')); s++)
        t->lines++;
    buf[strcspn(buf, "\n")] = '\0';
    snprintf(t->said, sizeof t->said, "%.500s", buf);
}


static int exec_with(const struct trial *t, int in, int err)
{
    const pid_t pid = must_fork();

    if (pid == 0) {
        const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(in, 0);
        dup2(null, 1);
        dup2(err, 2);
        alarm(20);
        if (t->fault) {
            setenv("LD_PRELOAD", t->so, 1);
            setenv("PQ_FAIL", t->fault, 1);
        }
        become(t->cmd);
    }
    return wait_for(pid, NULL);
}

static int fork_with(const struct trial *t, int in, int err)
{
    const int order[] = {in, err};
    int status;

    if (write(t->order, order, sizeof order) != sizeof order ||
        read(t->answer, &status, sizeof status) != sizeof status)
        die("the server of %s is gone", t->cmd[0]);
    return exit_status(status);
}

static int run_once(struct trial *t, const unsigned char *p, size_t n,
                    int (*start)(const struct trial *, int in, int err))
{
    const int in = stdin_of(t, p, n), err = memfd_create("stderr", MFD_CLOEXEC);

    if (in < 0 || err < 0)
        die("%s", strerror(errno));
    if (!t->pipe)
        save(t->input, p, n);
    const int rc = start(t, in, err);
    close(in);
    read_said(t, err);
    close(err);
    return rc;
}

int trial_exec(struct trial *t, const unsigned char *p, size_t n)
{
    return run_once(t, p, n, exec_with);
}

int trial_fork(struct trial *t, const unsigned char *p, size_t n)
{
    return run_once(t, p, n, fork_with);
}

/* ---- the server ------------------------------------------------------ */

/* Sets a variable to what it is and more: "A:B". */
static void add_to_environment(const char *name, const char *more)
{
    const char *old = getenv(name);
    char text[4096];

    if (snprintf(text, sizeof text, "%s%s%s", old ? old : "", old ? ":" : "",
                 more) >= (int)sizeof text)
        die("%s is too long", name);
    setenv(name, text, 1);
}

void trial_serve(struct trial *t)
{
    int order[2], answer[2];

    if (pipe2(order, O_CLOEXEC) != 0 || pipe2(answer, O_CLOEXEC) != 0)
        die("pipe: %s", strerror(errno));
    t->server = must_fork();
    if (t->server == 0) {
        const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, 0);
        dup2(null, 1);
        dup2(order[0], 198); /* as in start.c */
        dup2(answer[1], 199);
        setenv("LD_PRELOAD", t->so, 1);
        setenv("LD_BIND_NOW", "1", 1);
        add_to_environment("ASAN_OPTIONS",
                           "verify_asan_link_order=0:detect_leaks=0");
        become(t->cmd);
    }
    close(order[0]);
    close(answer[1]);
    t->order = order[1];
    t->answer = answer[0];
}

void trial_end(struct trial *t)
{
    if (!t->server)
        return;
    close(t->order);
    close(t->answer);
    wait_for(t->server, NULL);
}

void trial_report(const struct trial *t, const char *what, int rc,
                  const char *fmt, ...)
{
    va_list ap;

    printf("%s (rc %d; ", what, rc);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("; said: %.200s):", t->said);
    for (char **c = t->cmd; *c; c++)
        printf(" %s", *c);
    printf("%s\n", t->pipe ? " <the input" : "");
}

