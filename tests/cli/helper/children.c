/*
 * Running commands: with a terminal, a reader that goes away, a signal at a
 * moment, and with a look at how much memory they took.
 */
#include "helper.h"

#include <errno.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int exit_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int wait_for(pid_t pid, struct rusage *u)
{
    int status;

    while (wait4(pid, &status, 0, u) < 0)
        if (errno != EINTR)
            die("wait: %s", strerror(errno));
    return exit_status(status);
}

_Noreturn void become(char **argv)
{
    execvp(argv[0], argv);
    fprintf(stderr, "helper: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

pid_t must_fork(void)
{
    const pid_t pid = fork();

    if (pid < 0)
        die("fork: %s", strerror(errno));
    return pid;
}

/* tty CMD...: standard output is a terminal; what it got goes to ours. */
int cmd_tty(int argc, char **argv)
{
    int master, slave;
    char buf[4096];
    ssize_t n;

    (void)argc;
    if (openpty(&master, &slave, NULL, NULL, NULL) != 0)
        die("openpty: %s", strerror(errno));
    const pid_t pid = must_fork();
    if (pid == 0) {
        dup2(slave, 1);
        close(slave);
        close(master);
        become(argv);
    }
    close(slave);
    while ((n = read(master, buf, sizeof buf)) > 0)
        if (write(1, buf, (size_t)n) != n)
            break;
    return wait_for(pid, NULL);
}

/* epipe default|ignore CMD...: reads one byte of its output, then closes. */
int cmd_epipe(int argc, char **argv)
{
    int fds[2];
    char byte;

    (void)argc;
    if (pipe(fds) != 0)
        die("pipe: %s", strerror(errno));
    const pid_t pid = must_fork();
    if (pid == 0) {
        signal(SIGPIPE, strcmp(argv[0], "ignore") == 0 ? SIG_IGN : SIG_DFL);
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        become(argv + 1);
    }
    close(fds[1]);
    if (read(fds[0], &byte, 1) < 0)
        die("read: %s", strerror(errno));
    close(fds[0]);
    return wait_for(pid, NULL);
}

/* killed SIGNAL MICROSECONDS CMD...: 128 + n where it died of a signal. */
int cmd_killed(int argc, char **argv)
{
    (void)argc;
    const int sig = (int)number(argv[0], 1, 64);
    const useconds_t delay = (useconds_t)number(argv[1], 0, 100000000);
    const pid_t pid = must_fork();

    if (pid == 0) {
        signal(SIGINT, SIG_DFL); /* a background job of bash has it ignored */
        signal(SIGQUIT, SIG_DFL);
        become(argv + 2);
    }
    usleep(delay);
    kill(pid, sig);
    return wait_for(pid, NULL);
}

/* ignoring SIGNAL MICROSECONDS CMD...: it comes, and is inherited ignored. */
int cmd_ignoring(int argc, char **argv)
{
    (void)argc;
    const int sig = (int)number(argv[0], 1, 64);
    const useconds_t delay = (useconds_t)number(argv[1], 0, 100000000);

    signal(sig, SIG_IGN); /* before the fork: the child never is without */
    const pid_t pid = must_fork();
    if (pid == 0)
        become(argv + 2);
    usleep(delay);
    kill(pid, sig);
    return wait_for(pid, NULL);
}

/* rss FILE CMD...: the peak resident set in KiB goes into FILE. */
int cmd_rss(int argc, char **argv)
{
    struct rusage u;
    char text[32];

    (void)argc;
    const pid_t pid = must_fork();
    if (pid == 0)
        become(argv + 1);
    const int rc = wait_for(pid, &u);
    save(argv[0], text,
         (size_t)snprintf(text, sizeof text, "%ld\n", u.ru_maxrss));
    return rc;
}
