/*
 * Ending, numbers, whole files.
 */
#include "helper.h"
#include "../../strict.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Noreturn void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("helper: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(99);
}

void *must(void *p)
{
    if (!p)
        die("out of memory");
    return p;
}

long number(const char *text, long min, long max)
{
    long v;

    if (!strict_long(text, min, max, &v))
        die("'%s' is no number from %ld to %ld", text, min, max);
    return v;
}

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t load64(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

unsigned char *load(const char *path, size_t *n)
{
    struct stat st;
    FILE *f = fopen(path, "rb");

    if (!f || fstat(fileno(f), &st) != 0)
        die("%s: %s", path, strerror(errno));
    *n = (size_t)st.st_size;
    unsigned char *p = must(malloc(*n + 1));
    if (fread(p, 1, *n, f) != *n)
        die("%s: cannot be read", path);
    p[*n] = 0;
    fclose(f);
    return p;
}

void save(const char *path, const void *p, size_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd < 0 || write(fd, p, n) != (ssize_t)n || close(fd) != 0)
        die("%s: %s", path, strerror(errno));
}
