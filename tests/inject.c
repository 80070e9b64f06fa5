/*
 * A library for LD_PRELOAD that makes one call fail: PQ_FAIL=KIND:N fails the
 * N-th call of KIND, PQ_FAIL=KIND:N+ the N-th and all after it.
 *
 *     malloc   malloc calloc realloc aligned_alloc posix_memalign  ENOMEM
 *     read     read pread readv preadv                             EIO
 *     write    write pwrite writev pwritev                         ENOSPC
 *     fsync    fsync fdatasync sync_file_range                     EIO
 *     close    close (the descriptor is closed nevertheless)       EIO
 *     link     link linkat rename renameat renameat2               EIO
 *     open     open openat                                         EMFILE
 *     size     ftruncate fallocate posix_fallocate                 ENOSPC
 *     thread   pthread_create                                      EAGAIN
 *
 * When a call was made to fail, the file PQ_FAIL_MARK is created, so that a
 * loop over N knows when there are no more calls.  Writes to descriptor 2 do
 * not count: messages must come out.  Nor do calls of OpenBLAS, and what
 * happens in dlopen(): it and the Fortran runtime end the program when they
 * cannot start, and its small products take memory without a look at it.
 */
#include "strict.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

static char kind[16]; /* "" before the start and when nothing is to fail */
static long wanted;
static bool all_after;
static atomic_long calls;
static atomic_int loading; /* calls of dlopen() that have not returned */
static const char *mark;

__attribute__((constructor)) static void start(void)
{
    const char *s = getenv("PQ_FAIL"), *colon = s ? strchr(s, ':') : NULL;
    char count[32];

    mark = getenv("PQ_FAIL_MARK");
    if (!colon || (size_t)(colon - s) >= sizeof kind)
        return;
    snprintf(count, sizeof count, "%s", colon + 1);
    all_after = s[strlen(s) - 1] == '+';
    if (all_after)
        count[strcspn(count, "+")] = '\0';
    if (!strict_long(count, 1, LONG_MAX, &wanted))
        _exit(99);
    memcpy(kind, s, (size_t)(colon - s));
}

static bool is_openblas(const void *caller)
{
    Dl_info where;

    return dladdr(caller, &where) && where.dli_fname &&
           strstr(where.dli_fname, "openblas");
}

#define fails(what, error)                                                     \
    is_the_call(what, error, __builtin_return_address(0))

/* Is this the call?  Sets errno. */
static bool is_the_call(const char *what, int error, const void *caller)
{
    if (!kind[0] || loading || strcmp(kind, what) != 0 || is_openblas(caller))
        return false;
    const long n = atomic_fetch_add(&calls, 1) + 1;
    if (all_after ? n < wanted : n != wanted)
        return false;
    if (mark) {
        const long fd = syscall(SYS_openat, AT_FDCWD, mark, O_CREAT | O_WRONLY,
                                0644);
        if (fd >= 0)
            syscall(SYS_close, fd);
    }
    errno = error;
    return true;
}

/* ---- Memory ------------------------------------------------------------ */

void *malloc(size_t n)
{
    return fails("malloc", ENOMEM) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return fails("malloc", ENOMEM) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return fails("malloc", ENOMEM) ? NULL : __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return fails("malloc", ENOMEM) ? NULL : __libc_memalign(align, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    if (fails("malloc", ENOMEM))
        return ENOMEM;
    *p = __libc_memalign(align, n);
    return *p ? 0 : ENOMEM;
}

/* ---- Files ------------------------------------------------------------- */

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *dlopen(const char *file, int flags)
{
    static __typeof__(&dlopen) next;

    if (!next)
        next = NEXT(dlopen);
    loading++;
    void *library = next(file, flags);
    loading--;
    return library;
}

#define WRAP(result, name, what, error, params, args)                          \
    result name params                                                         \
    {                                                                          \
        static __typeof__(&name) next;                                         \
        if (fails(what, error))                                                \
            return -1;                                                         \
        if (!next)                                                             \
            next = NEXT(name);                                                 \
        return next args;                                                      \
    }

#define WRAP_WRITE(name, params, args)                                         \
    ssize_t name params                                                        \
    {                                                                          \
        static __typeof__(&name) next;                                         \
        if (fd != 2 && fails("write", ENOSPC))                                 \
            return -1;                                                         \
        if (!next)                                                             \
            next = NEXT(name);                                                 \
        return next args;                                                      \
    }

WRAP(ssize_t, read, "read", EIO, (int fd, void *p, size_t n), (fd, p, n))
WRAP(ssize_t, pread, "read", EIO, (int fd, void *p, size_t n, off_t at),
     (fd, p, n, at))
WRAP(ssize_t, pread64, "read", EIO, (int fd, void *p, size_t n, off64_t at),
     (fd, p, n, at))
WRAP(ssize_t, readv, "read", EIO, (int fd, const struct iovec *v, int n),
     (fd, v, n))
WRAP(ssize_t, preadv, "read", EIO,
     (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))

WRAP_WRITE(write, (int fd, const void *p, size_t n), (fd, p, n))
WRAP_WRITE(pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
WRAP_WRITE(pwrite64, (int fd, const void *p, size_t n, off64_t at),
           (fd, p, n, at))
WRAP_WRITE(writev, (int fd, const struct iovec *v, int n), (fd, v, n))
WRAP_WRITE(pwritev, (int fd, const struct iovec *v, int n, off_t at),
           (fd, v, n, at))

WRAP(int, fsync, "fsync", EIO, (int fd), (fd))
WRAP(int, fdatasync, "fsync", EIO, (int fd), (fd))
WRAP(int, sync_file_range, "fsync", EIO,
     (int fd, off64_t at, off64_t n, unsigned flags), (fd, at, n, flags))

WRAP(int, link, "link", EIO, (const char *a, const char *b), (a, b))
WRAP(int, linkat, "link", EIO,
     (int d, const char *a, int e, const char *b, int flags),
     (d, a, e, b, flags))
WRAP(int, rename, "link", EIO, (const char *a, const char *b), (a, b))
WRAP(int, renameat, "link", EIO, (int d, const char *a, int e, const char *b),
     (d, a, e, b))
WRAP(int, renameat2, "link", EIO,
     (int d, const char *a, int e, const char *b, unsigned flags),
     (d, a, e, b, flags))

WRAP(int, ftruncate, "size", ENOSPC, (int fd, off_t n), (fd, n))
WRAP(int, ftruncate64, "size", ENOSPC, (int fd, off64_t n), (fd, n))
WRAP(int, fallocate, "size", ENOSPC, (int fd, int mode, off_t at, off_t n),
     (fd, mode, at, n))

int posix_fallocate(int fd, off_t at, off_t n)
{
    static __typeof__(&posix_fallocate) next;

    if (fails("size", ENOSPC))
        return ENOSPC;
    if (!next)
        next = NEXT(posix_fallocate);
    return next(fd, at, n);
}

int close(int fd)
{
    const bool failing = fails("close", EIO);
    const long rc = syscall(SYS_close, fd);

    if (!failing)
        return (int)rc;
    errno = EIO;
    return -1;
}

/* What is behind the flags of an open. */
static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(ap, mode_t)
                                                          : 0;
}

#define WRAP_OPEN(name, params, last, call)                                    \
    int name params                                                            \
    {                                                                          \
        static __typeof__(&name) next;                                         \
        va_list ap;                                                            \
        va_start(ap, last);                                                    \
        const mode_t mode = mode_of(flags, ap);                                \
        va_end(ap);                                                            \
        if (fails("open", EMFILE))                                             \
            return -1;                                                         \
        if (!next)                                                             \
            next = NEXT(name);                                                 \
        return next call;                                                      \
    }

WRAP_OPEN(open, (const char *path, int flags, ...), flags, (path, flags, mode))
WRAP_OPEN(open64, (const char *path, int flags, ...), flags,
          (path, flags, mode))
WRAP_OPEN(openat, (int dir, const char *path, int flags, ...), flags,
          (dir, path, flags, mode))
WRAP_OPEN(openat64, (int dir, const char *path, int flags, ...), flags,
          (dir, path, flags, mode))

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *),
                   void *arg)
{
    static __typeof__(&pthread_create) next;

    if (fails("thread", EAGAIN))
        return EAGAIN;
    if (!next)
        next = NEXT(pthread_create);
    return next(t, a, f, arg);
}
