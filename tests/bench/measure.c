/*
 * Runs a command and prints one line: seconds of wall time, of processor
 * time, and the peak resident set in KiB.
 *
 *     measure [-n TIMES] [-o FILE] [-w MIB] COMMAND [ARGUMENT]...
 *
 * -n runs it so often and prints the least of each; -o sends its output to
 * FILE (/dev/null unless given).  Exit status is that of a failed command.
 *
 * -w has so much memory touched and given back before.  A virtual machine
 * returns what is free to its host, and getting it again, a page fault of the
 * host for each page, takes longer than many a command: 1 to 6 s for 2 GB.
 *
 * The peak of a child is at least what its parent had when it forked; that
 * is why this small program does it and not a shell or Python.
 */
#include "../strict.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct figures {
    double wall, cpu;
    long rss;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static void child(char **argv, const char *output)
{
    const int fd = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || dup2(fd, 1) < 0) {
        perror(output);
        _exit(126);
    }
    close(fd);
    execvp(argv[0], argv);
    perror(argv[0]);
    _exit(127);
}

static int run(char **argv, const char *output, struct figures *f)
{
    struct rusage u;
    int status;
    const double start = now();
    const pid_t pid = fork();

    if (pid < 0)
        return 126;
    if (pid == 0)
        child(argv, output);
    if (wait4(pid, &status, 0, &u) != pid)
        return 126;
    f->wall = now() - start;
    f->cpu = seconds(u.ru_utime) + seconds(u.ru_stime);
    f->rss = u.ru_maxrss;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* In a child, so that our own peak, and those of commands, stay small. */
static void warm_memory(size_t n)
{
    const size_t page = 4096;
    int status;
    const pid_t pid = fork();

    if (pid > 0)
        waitpid(pid, &status, 0);
    if (pid != 0)
        return;
    char *p = mmap(NULL, n, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        _exit(1);
    for (size_t i = 0; i < n; i += page)
        ((volatile char *)p)[i] = 1;
    _exit(0);
}

int main(int argc, char **argv)
{
    struct figures best = {0}, f = {0};
    const char *output = "/dev/null";
    long times = 1, warm = 0;
    int c;

    while ((c = getopt(argc, argv, "+n:o:w:")) != -1) {
        if (c == 'o')
            output = optarg;
        else if (c == 'w' && strict_long(optarg, 0, 1 << 20, &warm))
            continue;
        else if (c != 'n' || !strict_long(optarg, 1, 1000, &times))
            return 125;
    }
    if (optind == argc)
        return 125;
    if (warm > 0)
        warm_memory((size_t)warm << 20);
    for (long i = 0; i < times; i++) {
        const int rc = run(argv + optind, output, &f);
        if (rc)
            return rc;
        if (i == 0 || f.wall < best.wall)
            best.wall = f.wall;
        if (i == 0 || f.cpu < best.cpu)
            best.cpu = f.cpu;
        if (f.rss > best.rss)
            best.rss = f.rss;
    }
    printf("%.6f %.6f %ld\n", best.wall, best.cpu, best.rss);
    return 0;
}
