/*
 * Where an output will stand, and what it is called until then.
 *
 * Symbolic links are followed by hand, as far as realpath(3) cannot: the last
 * one may point to what does not exist yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file_impl.h"

enum {
    MAX_LINKS = 40,
    MAX_STEM = NAME_MAX - 16 /* what a temporary name keeps of the final one */
};

/* Cuts slashes off the end, but for the one of the root. */
static void strip_slashes(char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        path[--n] = '\0';
}

/* The path of a link's target, seen from where the link stands. */
static char *link_target(const char *path, const char *target, size_t n)
{
    const char *slash = strrchr(path, '/');
    const size_t n_dir =
        target[0] == '/' || slash == NULL ? 0 : (size_t)(slash - path) + 1;
    char *s = pq_alloc(n_dir + n + 1, 1);

    if (s == NULL)
        return NULL;
    memcpy(s, path, n_dir);
    memcpy(s + n_dir, target, n);
    s[n_dir + n] = '\0';
    strip_slashes(s);
    return s;
}

/* The path with its links followed (owned), or NULL with errno set. */
static char *follow(const char *path)
{
    char *at = pq_strndup(path, strlen(path));

    if (at != NULL)
        strip_slashes(at);
    for (int i = 0; at != NULL && i < MAX_LINKS; i++) {
        char target[PATH_MAX];
        char *real = realpath(at, NULL);
        if (real != NULL || errno != ENOENT) {
            free(at);
            return real;
        }
        const ssize_t n = readlink(at, target, sizeof target);
        if (n < 0) /* no link: it just does not exist yet */
            return at;
        if ((size_t)n == sizeof target)
            break;
        char *next = link_target(at, target, (size_t)n);
        free(at);
        at = next;
    }
    errno = at == NULL ? ENOMEM : ELOOP;
    free(at);
    return NULL;
}

/* Opens the directory that holds it; without leave to list it, as a place. */
static int open_parent(const char *dir)
{
    const int flags = O_DIRECTORY | O_CLOEXEC;
    const int fd = open(dir, O_RDONLY | flags);

    return fd < 0 && errno == EACCES ? open(dir, O_PATH | flags) : fd;
}

int pq_path_place(const char *path, int *dirfd, char **base,
                  struct pq_error *e)
{
    char *full = path[0] != '\0' ? follow(path) : NULL;

    if (full == NULL)
        return pq_fail_sys(e, path[0] != '\0' ? errno : ENOENT, "%s", path);

    char *slash = strrchr(full, '/');
    const char *name = slash != NULL ? slash + 1 : full;
    const char *dir = slash == NULL ? "." : slash == full ? "/" : full;

    if (name[0] == '\0') {
        free(full);
        return pq_fail(e, PQ_EARG, "%s: cannot be replaced", path);
    }
    *base = pq_strndup(name, strlen(name));
    if (*base == NULL) {
        free(full);
        return pq_fail_nomem(e);
    }
    if (slash != NULL)
        *slash = '\0'; /* dir ends here; for "/x" it is a constant */
    *dirfd = open_parent(dir);
    const int sys = errno;
    free(full);
    if (*dirfd >= 0)
        return 0;
    free(*base);
    *base = NULL;
    return pq_fail_sys(e, sys, "%s", path);
}

/* ".NAME.pq-" with room for `more` bytes behind it. */
static char *temp_stem(const char *base, size_t more)
{
    size_t n = strlen(base);

    if (n > MAX_STEM)
        n = MAX_STEM;
    char *s = pq_alloc(n + sizeof "..pq-" + more, 1);
    if (s == NULL)
        return NULL;
    s[0] = '.';
    memcpy(s + 1, base, n);
    memcpy(s + 1 + n, ".pq-", sizeof ".pq-");
    return s;
}

char *pq_temp_prefix(const char *base)
{
    return temp_stem(base, 0);
}

static uint64_t random_number(void)
{
    uint64_t r;
    struct timespec t;

    if (getrandom(&r, sizeof r, GRND_NONBLOCK) == (ssize_t)sizeof r)
        return r;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ((uint64_t)t.tv_nsec << 20) ^ (uint64_t)getpid();
}

char *pq_temp_name(const char *base)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    char *s = temp_stem(base, PQ_TEMP_RANDOM);

    if (s == NULL)
        return NULL;
    char *p = s + strlen(s);
    uint64_t r = random_number();
    for (int i = 0; i < PQ_TEMP_RANDOM; i++) {
        *p++ = letters[r % (sizeof letters - 1)];
        r /= sizeof letters - 1;
    }
    *p = '\0';
    return s;
}
