/*
 * Outputs that appear whole or not at all.
 *
 *     open     O_TMPFILE in the target's directory     or .NAME.pq-XXXXXX
 *     write    ... in order or by position ...
 *     seal     fsync                                  fsync
 *     commit   link to NAME if that is free,
 *              else link to .NAME.pq-XXXXXX and        rename it to NAME
 *              rename that to NAME
 *              fsync the directory
 *
 * With O_TMPFILE nothing is left behind even by kill -9, but for the instant
 * between link and rename.  It needs /proc to be linked; without either, the
 * file has its temporary name from the start.
 */
#include "pq_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "file_impl.h"

enum {
    TRIES = 100,         /* of temporary names */
    MAX_WRITE = 1 << 30, /* write(2) takes no more than 2 GiB at once */
    PROC_PATH = 32
};

/* ---- Opening --------------------------------------------------------- */

static void reset(struct pq_out *o, const char *name, unsigned flags)
{
    const volatile int *cancel = o->cancel;

    *o = (struct pq_out){.fd = -1, .dirfd = -1, .name = name, .flags = flags,
                         .cancel = cancel};
}

static int open_standard(struct pq_out *o, struct pq_error *e)
{
    struct stat st;
    const int mode = fcntl(1, F_GETFL);

    if (mode < 0 || fstat(1, &st) != 0)
        return pq_fail_sys(e, errno, "%s", o->name);
    o->fd = 1;
    o->standard = true;
    if (S_ISFIFO(st.st_mode))
        pq_pipe_enlarge(1);
    /* With O_APPEND (">>") pwrite ignores its offset: write in sequence. */
    if (!S_ISREG(st.st_mode) || (mode & O_APPEND) != 0)
        return 0;
    const off_t here = lseek(1, 0, SEEK_CUR);
    if (here < 0)
        return pq_fail_sys(e, errno, "%s", o->name);
    o->start = (uint64_t)here;
    o->regular = true;
    return 0;
}

/*
 * A FIFO, a device: there is nothing to replace.  Opening waits for a reader,
 * writing does not (see write_some), which is our own affair as long as the
 * open file description is: what the shell gave us as standard output keeps
 * its flags.
 */
static int open_through(struct pq_out *o, const char *path, struct pq_error *e)
{
    while ((o->fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC)) < 0) {
        if (errno != EINTR)
            return pq_fail_sys(e, errno, "%s", path);
        if (pq_cancelled(o->cancel))
            return pq_fail(e, PQ_ECANCEL, "interrupted");
    }
    const int flags = fcntl(o->fd, F_GETFL);
    if (flags >= 0)
        (void)fcntl(o->fd, F_SETFL, flags | O_NONBLOCK);
    pq_pipe_enlarge(o->fd);
    return 0;
}

static void proc_path(int fd, char path[PROC_PATH])
{
    snprintf(path, PROC_PATH, "/proc/self/fd/%d", fd);
}

/* A file without a name, or -1 where it could not be named later. */
static int open_nameless(int dirfd, mode_t mode)
{
    char proc[PROC_PATH];
    struct stat st;
    const int fd = openat(dirfd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);

    if (fd < 0)
        return -1;
    proc_path(fd, proc);
    if (stat(proc, &st) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A file under a temporary name, which becomes o->temp. */
static int open_named(struct pq_out *o, mode_t mode, struct pq_error *e)
{
    for (int i = 0; i < TRIES; i++) {
        char *temp = pq_temp_name(o->base);
        if (temp == NULL)
            return pq_fail_nomem(e);
        o->fd = openat(o->dirfd, temp,
                       O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (o->fd >= 0) {
            o->temp = temp;
            return 0;
        }
        const int sys = errno;
        free(temp);
        if (sys != EEXIST && sys != EINTR)
            return pq_fail_sys(e, sys, "%s", o->name);
    }
    return pq_fail_sys(e, EEXIST, "%s: no temporary name is free", o->name);
}

/*
 * A file that will replace `old` (NULL: there is none) at `path`.  For a new
 * file the system itself takes the umask off 0666; an old one hands on its
 * mode.
 */
static int open_replacing(struct pq_out *o, const char *path,
                          const struct stat *old, struct pq_error *e)
{
    const mode_t mode = old != NULL ? S_IRUSR | S_IWUSR : 0666;

    /* What may not be written may not be replaced either. */
    if (old != NULL && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        return pq_fail_sys(e, errno, "%s", path);
    if (pq_path_place(path, &o->dirfd, &o->base, e) != 0)
        return -1;
    o->fd = open_nameless(o->dirfd, mode);
    if (o->fd < 0 && open_named(o, mode, e) != 0)
        return -1;
    o->regular = true;
    if (old != NULL && fchmod(o->fd, old->st_mode & 0777) != 0)
        return pq_fail_sys(e, errno, "%s", path);
    return 0;
}

static int open_path(struct pq_out *o, const char *path, struct pq_error *e)
{
    const size_t n = strlen(path);
    struct stat st;

    if (stat(path, &st) != 0) {
        if (errno != ENOENT)
            return pq_fail_sys(e, errno, "%s", path);
        if (n > 0 && path[n - 1] == '/')
            return pq_fail_sys(e, EISDIR, "%s", path);
        return open_replacing(o, path, NULL, e);
    }
    if (S_ISDIR(st.st_mode))
        return pq_fail_sys(e, EISDIR, "%s", path);
    if (!S_ISREG(st.st_mode))
        return open_through(o, path, e);
    return open_replacing(o, path, &st, e);
}

int pq_out_open(struct pq_out *o, const char *path, unsigned flags,
                struct pq_error *e)
{
    const bool standard = path == NULL || strcmp(path, "-") == 0;

    reset(o, standard ? "standard output" : path, flags);
    if ((standard ? open_standard(o, e) : open_path(o, path, e)) == 0)
        return 0;
    pq_out_abort(o);
    return -1;
}

int pq_out_open_at(struct pq_out *o, int dirfd, const char *name,
                   unsigned flags, struct pq_error *e)
{
    reset(o, name, flags);
    o->fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd < 0)
        return pq_fail_sys(e, errno, "%s", name);
    o->regular = true;
    return 0;
}

/* ---- Writing --------------------------------------------------------- */

/* Says why a write failed; from now on the output cannot be committed. */
static int fail_write(struct pq_out *o, int sys, struct pq_error *e)
{
    __atomic_store_n(&o->failed, true, __ATOMIC_RELAXED);
    return pq_fail_sys(e, sys, "%s", o->name);
}

static int fail_cancelled(struct pq_out *o, struct pq_error *e)
{
    __atomic_store_n(&o->failed, true, __ATOMIC_RELAXED);
    return pq_fail(e, PQ_ECANCEL, "interrupted");
}

/*
 * In a tmpfs reserving means clearing every page, one thread alone, before
 * the work begins: it costs more than all the writing.
 */
static bool in_memory(int fd)
{
    struct statfs s;

    return fstatfs(fd, &s) == 0 && s.f_type == TMPFS_MAGIC;
}

int pq_out_reserve(struct pq_out *o, uint64_t bytes, struct pq_error *e)
{
    if (!o->regular || bytes == 0 || bytes > INT64_MAX - o->start)
        return 0;
    o->reserved = bytes;
    if (in_memory(o->fd))
        return 0;
    for (;;) {
        if (fallocate(o->fd, FALLOC_FL_KEEP_SIZE, (off_t)o->start,
                      (off_t)bytes) == 0)
            return 0;
        if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
            return fail_write(o, errno, e);
        if (errno != EINTR) /* cannot be reserved here: go without */
            return 0;
        if (pq_cancelled(o->cancel))
            return fail_cancelled(o, e);
    }
}

/* o->end = max(o->end, end), from any thread. */
static void note_end(struct pq_out *o, uint64_t end)
{
    uint64_t now = __atomic_load_n(&o->end, __ATOMIC_RELAXED);

    while (now < end &&
           !__atomic_compare_exchange_n(&o->end, &now, end, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

int pq_out_pwrite(struct pq_out *o, uint64_t offset, const void *buf, size_t n,
                  struct pq_error *e)
{
    const unsigned char *p = buf;
    size_t done = 0;
    uint64_t end;

    if (!o->regular)
        return fail_write(o, ESPIPE, e);
    if (!pq_add(o->start, offset, &end) || !pq_add(end, n, &end) ||
        end > INT64_MAX)
        return fail_write(o, EFBIG, e);
    while (done < n) {
        const size_t left = n - done;
        if (pq_cancelled(o->cancel))
            return fail_cancelled(o, e);
        const ssize_t w = pwrite(o->fd, p + done,
                                 left < MAX_WRITE ? left : MAX_WRITE,
                                 (off_t)(o->start + offset + done));
        if (w >= 0)
            done += (size_t)w;
        else if (errno != EINTR)
            return fail_write(o, errno, e);
    }
    note_end(o, offset + n);
    return 0;
}

/*
 * Writes what a pipe takes without waiting: a write that waits for a reader
 * would not hear of a signal that another thread took.
 */
static ssize_t write_some(int fd, const void *buf, size_t n)
{
    /* iov_base is not const, although it is only read. */
    const struct iovec v = {.iov_base = (void *)(uintptr_t)buf, .iov_len = n};
    const ssize_t w = pwritev2(fd, &v, 1, -1, RWF_NOWAIT);

    if (w >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL))
        return w;
    return write(fd, buf, n);
}

static int write_through(struct pq_out *o, const unsigned char *p, size_t n,
                         struct pq_error *e)
{
    while (n > 0) {
        if (pq_fd_wait(o->fd, POLLOUT, o->cancel, e) != 0) {
            __atomic_store_n(&o->failed, true, __ATOMIC_RELAXED);
            return -1;
        }
        const ssize_t w = write_some(o->fd, p, n < MAX_WRITE ? n : MAX_WRITE);
        if (w < 0 && errno != EINTR && errno != EAGAIN)
            return fail_write(o, errno, e);
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

int pq_out_write(struct pq_out *o, const void *buf, size_t n,
                 struct pq_error *e)
{
    if ((o->regular ? pq_out_pwrite(o, o->at, buf, n, e)
                    : write_through(o, buf, n, e)) != 0)
        return -1;
    o->at += n;
    return 0;
}

void pq_out_flush_early(struct pq_out *o, uint64_t offset, uint64_t n)
{
    if (o->regular && (o->flags & PQ_OUT_SYNC) != 0)
        (void)sync_file_range(o->fd, (off_t)(o->start + offset), (off_t)n,
                              SYNC_FILE_RANGE_WRITE);
}

/* ---- Committing ------------------------------------------------------ */

/* Renames the temporary file; afterwards there is none. */
static int rename_temp(struct pq_out *o, struct pq_error *e)
{
    if (renameat(o->dirfd, o->temp, o->dirfd, o->base) != 0)
        return pq_fail_sys(e, errno, "%s", o->name);
    free(o->temp);
    o->temp = NULL;
    return 0;
}

/* Closes the file, unless it is our standard output. */
static int close_file(struct pq_out *o, struct pq_error *e)
{
    const int fd = o->fd;

    o->fd = -1;
    if (o->standard || close(fd) == 0 || errno == EINTR)
        return 0;
    return pq_fail_sys(e, errno, "%s", o->name);
}

/*
 * Gives a nameless file its name and closes it.  One that close() fails on
 * must not have replaced anything: over an
 * existing one the name is a temporary one until it is closed.
 */
static int name_nameless(struct pq_out *o, struct pq_error *e)
{
    char proc[PROC_PATH];

    proc_path(o->fd, proc);
    if (linkat(AT_FDCWD, proc, o->dirfd, o->base, AT_SYMLINK_FOLLOW) == 0) {
        if (close_file(o, e) == 0)
            return 0;
        (void)unlinkat(o->dirfd, o->base, 0);
        return -1;
    }
    for (int i = 0; errno == EEXIST && i < TRIES; i++) {
        char *temp = pq_temp_name(o->base);
        if (temp == NULL)
            return pq_fail_nomem(e);
        if (linkat(AT_FDCWD, proc, o->dirfd, temp, AT_SYMLINK_FOLLOW) == 0) {
            o->temp = temp;
            return close_file(o, e) ? -1 : rename_temp(o, e);
        }
        const int sys = errno;
        free(temp);
        errno = sys;
    }
    return pq_fail_sys(e, errno, "%s", o->name);
}

/* All bytes are there: cuts what was reserved in vain, syncs. */
static int complete(struct pq_out *o, struct pq_error *e)
{
    if (__atomic_load_n(&o->failed, __ATOMIC_RELAXED))
        return pq_fail(e, PQ_EIO, "%s: an earlier write failed", o->name);
    if (!o->regular)
        return 0;
    if (o->reserved > o->end &&
        ftruncate(o->fd, (off_t)(o->start + o->end)) != 0)
        return pq_fail_sys(e, errno, "%s", o->name);
    while ((o->flags & PQ_OUT_SYNC) != 0 && fsync(o->fd) != 0) {
        if (errno == EINVAL || errno == EROFS) /* nothing to sync there */
            break;
        if (errno != EINTR)
            return pq_fail_sys(e, errno, "%s", o->name);
    }
    /* What the shell runs next on this output goes behind ours. */
    if (o->standard && lseek(1, (off_t)(o->start + o->end), SEEK_SET) < 0)
        return pq_fail_sys(e, errno, "%s", o->name);
    if (pq_cancelled(o->cancel))
        return pq_fail(e, PQ_ECANCEL, "interrupted");
    return 0;
}

static void release(struct pq_out *o)
{
    if (o->base != NULL && o->dirfd >= 0)
        close(o->dirfd);
    free(o->temp);
    free(o->base);
    o->temp = o->base = NULL;
    o->dirfd = o->fd = -1;
    o->regular = o->standard = false; /* nothing is left to cut back */
}

/* Without O_TMPFILE it has a name already, if the file has one at all. */
static bool is_nameless(const struct pq_out *o)
{
    return o->base != NULL && o->temp == NULL;
}

/*
 * Nothing is named that may be lost: some file systems say only when a file
 * is closed that it did not fit.
 */
int pq_out_seal(struct pq_out *o, struct pq_error *e)
{
    if (complete(o, e) != 0 || (!is_nameless(o) && close_file(o, e) != 0))
        return -1;
    o->sealed = true;
    return 0;
}

static int take_name(struct pq_out *o, struct pq_error *e)
{
    if (is_nameless(o))
        return name_nameless(o, e);
    return o->temp != NULL ? rename_temp(o, e) : 0;
}

int pq_out_commit(struct pq_out *o, struct pq_error *e)
{
    if ((!o->sealed && pq_out_seal(o, e) != 0) || take_name(o, e) != 0) {
        pq_out_abort(o);
        return -1;
    }
    /* The file is there; that its name is on disk we can only try. */
    if (o->base != NULL && (o->flags & PQ_OUT_SYNC) != 0)
        (void)fsync(o->dirfd);
    release(o);
    return 0;
}

void pq_out_abort(struct pq_out *o)
{
    if (o->standard && o->regular) {
        if (ftruncate(1, (off_t)o->start) == 0)
            (void)lseek(1, (off_t)o->start, SEEK_SET);
    } else if (o->fd > 2) {
        close(o->fd);
    }
    if (o->temp != NULL)
        (void)unlinkat(o->dirfd, o->temp, 0);
    release(o);
}
