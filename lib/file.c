/*
 * Inputs: regular files by pread, everything else in sequence.
 *
 * The first PQ_PEEK bytes can be looked at before they are read, so that the
 * format of a pipe is found by its content as that of a file is.  Also here:
 * waiting on a pipe while a signal may come.
 */
#include "pq_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_impl.h"

enum {
    PIPE_BYTES = 1 << 20,
    WAIT_MS = 200,      /* how late a signal may be noticed */
    MAX_READ = 1 << 30, /* read(2) takes no more than 2 GiB at once */
};

void pq_pipe_enlarge(int fd)
{
    const int now = fcntl(fd, F_GETPIPE_SZ);

    if (now > 0 && now < PIPE_BYTES)
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES);
}

bool pq_cancelled(const volatile int *cancel)
{
    return cancel != NULL && *cancel != 0;
}

static int fail_cancelled(struct pq_error *e)
{
    return pq_fail(e, PQ_ECANCEL, "interrupted");
}

int pq_fd_wait(int fd, short events, const volatile int *cancel,
               struct pq_error *e)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        if (pq_cancelled(cancel))
            return fail_cancelled(e);
        const int n = poll(&p, 1, WAIT_MS);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return pq_fail_sys(e, errno, "poll");
    }
}

/* Looks at what was opened: a directory? a file with a size? */
static int classify(struct pq_in *in, struct pq_error *e)
{
    struct stat st;

    if (fstat(in->fd, &st) != 0)
        return pq_fail_sys(e, errno, "%s", in->name);
    if (S_ISDIR(st.st_mode))
        return pq_fail(e, PQ_EARG, "%s: is a directory", in->name);
    if (S_ISFIFO(st.st_mode))
        pq_pipe_enlarge(in->fd);
    if (!S_ISREG(st.st_mode))
        return 0;

    const off_t here = in->fd == 0 ? lseek(0, 0, SEEK_CUR) : 0;
    if (here < 0)
        return pq_fail_sys(e, errno, "%s", in->name);
    in->regular = true;
    in->start = (uint64_t)here;
    in->size = here < st.st_size ? (uint64_t)(st.st_size - here) : 0;
    return 0;
}

static void reset(struct pq_in *in, const char *name)
{
    const volatile int *cancel = in->cancel;

    *in = (struct pq_in){.fd = -1, .name = name, .cancel = cancel};
}

static int open_retrying(int dirfd, const char *path, int flags,
                         const volatile int *cancel, struct pq_error *e)
{
    for (;;) {
        const int fd = openat(dirfd, path, flags | O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        if (errno != EINTR)
            return pq_fail_sys(e, errno, "%s", path);
        if (pq_cancelled(cancel))
            return fail_cancelled(e);
    }
}

int pq_in_open(struct pq_in *in, const char *path, struct pq_error *e)
{
    reset(in, path);
    in->fd = strcmp(path, "-") == 0
                 ? 0
                 : open_retrying(AT_FDCWD, path, 0, in->cancel, e);
    if (in->fd < 0)
        return -1;
    if (classify(in, e) == 0)
        return 0;
    pq_in_close(in);
    return -1;
}

int pq_in_open_at(struct pq_in *in, int dirfd, const char *name,
                  struct pq_error *e)
{
    reset(in, name);
    if (strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || name[0] == '\0')
        return pq_fail(e, PQ_EFORMAT, "%s: is no name of a file", name);

    /* O_NONBLOCK: a FIFO in a model directory must not make us wait. */
    in->fd = open_retrying(dirfd, name, O_NONBLOCK, in->cancel, e);
    if (in->fd < 0)
        return -1;
    if (classify(in, e) == 0) {
        if (in->regular)
            return 0;
        pq_fail(e, PQ_EARG, "%s: is not a regular file", name);
    }
    pq_in_close(in);
    return -1;
}

/* One read: *got is 0 only at the end. */
static int read_some(struct pq_in *in, void *buf, size_t n, size_t *got,
                     struct pq_error *e)
{
    for (;;) {
        if (pq_fd_wait(in->fd, POLLIN, in->cancel, e) != 0)
            return -1;
        const ssize_t r = read(in->fd, buf, n < MAX_READ ? n : MAX_READ);
        if (r >= 0) {
            *got = (size_t)r;
            return 0;
        }
        if (errno != EINTR && errno != EAGAIN)
            return pq_fail_sys(e, errno, "read");
    }
}

/* Reads [offset, offset + n) of a regular file; less only at its end. */
static int pread_some(const struct pq_in *in, uint64_t offset, void *buf,
                      size_t n, size_t *got, struct pq_error *e)
{
    unsigned char *p = buf;

    *got = 0;
    while (*got < n) {
        const size_t left = n - *got;
        if (pq_cancelled(in->cancel))
            return fail_cancelled(e);
        const ssize_t r = pread(in->fd, p + *got,
                                left < MAX_READ ? left : MAX_READ,
                                (off_t)(in->start + offset + *got));
        if (r == 0)
            break;
        if (r > 0)
            *got += (size_t)r;
        else if (errno != EINTR)
            return pq_fail_sys(e, errno, "read");
    }
    return 0;
}

/* Bytes of a regular file from `offset` on. */
static uint64_t left_from(const struct pq_in *in, uint64_t offset)
{
    return offset < in->size ? in->size - offset : 0;
}

int pq_in_peek(struct pq_in *in, size_t n, const unsigned char **p, size_t *got,
               struct pq_error *e)
{
    if (n > PQ_PEEK || in->at != 0)
        return pq_fail(e, PQ_EARG, "peek beyond what is kept");
    if (in->regular && in->n_peek < n) {
        const uint64_t all = left_from(in, 0);
        const size_t want = all < PQ_PEEK ? (size_t)all : PQ_PEEK;
        if (pread_some(in, 0, in->peek, want, &in->n_peek, e) != 0)
            return -1;
    }
    while (!in->regular && in->n_peek < n) {
        size_t r;
        if (read_some(in, in->peek + in->n_peek, PQ_PEEK - in->n_peek, &r, e) !=
            0)
            return -1;
        if (r == 0)
            break;
        in->n_peek += r;
    }
    *p = in->peek;
    *got = in->n_peek < n ? in->n_peek : n;
    return 0;
}

/* Hands out what was peeked at; returns how much. */
static size_t take_peeked(struct pq_in *in, void *buf, size_t n)
{
    const size_t have = in->n_peek - in->used_peek;
    const size_t take = have < n ? have : n;

    if (take > 0)
        memcpy(buf, in->peek + in->used_peek, take);
    in->used_peek += take;
    return take;
}

int pq_in_read(struct pq_in *in, void *buf, size_t n, size_t *got,
               struct pq_error *e)
{
    unsigned char *p = buf;

    *got = 0;
    if (in->regular) {
        const uint64_t left = left_from(in, in->at);
        if (pread_some(in, in->at, buf, left < n ? (size_t)left : n, got, e) !=
            0)
            return -1;
        in->at += *got;
        return 0;
    }
    *got = take_peeked(in, buf, n);
    in->at += *got;
    while (*got < n) {
        size_t r;
        if (read_some(in, p + *got, n - *got, &r, e) != 0)
            return -1;
        if (r == 0)
            break;
        *got += r;
        in->at += r;
    }
    return 0;
}

int pq_in_read_all(struct pq_in *in, void *buf, size_t n, struct pq_error *e)
{
    const uint64_t from = in->at;
    size_t got;

    if (pq_in_read(in, buf, n, &got, e) != 0)
        return -1;
    if (got < n)
        return pq_fail(e, PQ_ETRUNCATED,
                       "truncated: ends at byte %llu, %llu expected",
                       (unsigned long long)(from + got),
                       (unsigned long long)(from + n));
    return 0;
}

int pq_in_pread(const struct pq_in *in, uint64_t offset, void *buf, size_t n,
                struct pq_error *e)
{
    size_t got = 0;
    uint64_t end;

    if (!pq_add(offset, n, &end))
        return pq_fail(e, PQ_EFORMAT, "offset beyond 64 bits");
    if (end > in->size)
        return pq_fail(e, PQ_ETRUNCATED,
                       "truncated: ends at byte %llu, %llu expected",
                       (unsigned long long)in->size, (unsigned long long)end);
    if (pread_some(in, offset, buf, n, &got, e) != 0)
        return -1;
    if (got < n)
        return pq_fail(e, PQ_ETRUNCATED,
                       "truncated while being read: ends at byte %llu",
                       (unsigned long long)(offset + got));
    return 0;
}

void pq_in_close(struct pq_in *in)
{
    /* Descriptors 0 to 2 stay: the next file must not become one of them. */
    if (in->fd > 2)
        close(in->fd);
    in->fd = -1;
}
