/*
 * Directories that appear whole or not at all.
 *
 *     open     mkdir .NAME.pq-XXXXXX, lock it        (beside NAME)
 *     ...      the caller makes files in it
 *     seal     fsync
 *     commit   exchange it with NAME, or rename it to NAME if that is free;
 *              remove what is now .NAME.pq-XXXXXX, the old directory
 *
 * The lock tells a directory at work from one whose maker was killed: the
 * next run for NAME removes those.  Only files that pq knows are removed from
 * what it did not make in this run.
 */
#include "pq_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_impl.h"

enum { TRIES = 100 };

/* A stream of the entries of an open directory, from its beginning. */
static DIR *entries(int dirfd)
{
    const int fd =
        openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

    if (dir == NULL && fd >= 0)
        close(fd);
    return dir;
}

/* The next entry but `.` and `..`, or NULL at the end. */
static const char *next_entry(DIR *dir)
{
    const struct dirent *d;

    while ((d = readdir(dir)) != NULL)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            return d->d_name;
    return NULL;
}

static int open_dir(int parent, const char *name)
{
    return openat(parent, name,
                  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Removes the files that are known (NULL: all), then the directory itself. */
static void remove_flat(int parent, const char *name,
                        bool (*known)(const char *name))
{
    const int fd = open_dir(parent, name);
    DIR *dir = fd >= 0 ? entries(fd) : NULL;
    const char *entry;

    while (dir != NULL && (entry = next_entry(dir)) != NULL)
        if (known == NULL || known(entry))
            (void)unlinkat(fd, entry, 0);
    if (dir != NULL)
        closedir(dir);
    if (fd >= 0)
        close(fd);
    (void)unlinkat(parent, name, AT_REMOVEDIR);
}

/* ---- What stands there already --------------------------------------- */

/* A file (or a link to one) with a name that pq knows. */
static bool is_known(const struct pq_outdir *d, int fd, const char *entry)
{
    struct stat st;

    return d->known(entry) &&
           fstatat(fd, entry, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode));
}

/* Fails when an entry of the directory is none of ours. */
static int check_entries(const struct pq_outdir *d, struct pq_error *e)
{
    const int fd = open_dir(d->parent, d->base);
    DIR *dir = fd >= 0 ? entries(fd) : NULL;
    char *foreign = NULL;
    const char *entry;
    int rc = 0;

    if (dir == NULL)
        rc = pq_fail_sys(e, errno, "%s", d->name);
    while (rc == 0 && (entry = next_entry(dir)) != NULL) {
        if (is_known(d, fd, entry) ||
            (foreign != NULL && strcmp(foreign, entry) < 0))
            continue;
        free(foreign);
        foreign = pq_strndup(entry, strlen(entry));
        if (foreign == NULL)
            rc = pq_fail_nomem(e);
    }
    if (rc == 0 && foreign != NULL)
        rc = pq_fail(e, PQ_EARG, "%s: not replaced: it holds %s, which is no "
                     "file of a model", d->name, foreign);
    free(foreign);
    if (dir != NULL)
        closedir(dir);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Looks at the target: free, or a directory that we may replace. */
static int check_target(struct pq_outdir *d, struct pq_error *e)
{
    struct stat st, here;

    if (fstatat(d->parent, d->base, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : pq_fail_sys(e, errno, "%s", d->name);
    if (!S_ISDIR(st.st_mode))
        return pq_fail(e, PQ_EARG, "%s: exists and is not a directory",
                       d->name);
    if (stat(".", &here) == 0 && here.st_dev == st.st_dev &&
        here.st_ino == st.st_ino)
        return pq_fail(e, PQ_EARG, "%s: the current directory cannot be "
                       "replaced", d->name);
    /* Else the old files could not be removed after the exchange. */
    if (faccessat(d->parent, d->base, W_OK | X_OK, AT_EACCESS) != 0)
        return pq_fail_sys(e, errno, "%s", d->name);
    d->replaces = true;
    return check_entries(d, e);
}

/* Removes a leftover whose maker does not live: its lock can be taken. */
static void remove_if_dead(const struct pq_outdir *d, const char *name)
{
    const int fd = open_dir(d->parent, name);

    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        remove_flat(d->parent, name, d->known);
    close(fd);
}

/* Leftovers of killed runs are removed; that this may fail is no matter. */
static int remove_leftovers(const struct pq_outdir *d, struct pq_error *e)
{
    char *prefix = pq_temp_prefix(d->base);
    DIR *dir = entries(d->parent);
    const char *entry;

    if (prefix == NULL) {
        if (dir != NULL)
            closedir(dir);
        return pq_fail_nomem(e);
    }
    const size_t n = strlen(prefix);
    while (dir != NULL && (entry = next_entry(dir)) != NULL)
        if (strncmp(entry, prefix, n) == 0 &&
            strlen(entry) == n + PQ_TEMP_RANDOM)
            remove_if_dead(d, entry);
    if (dir != NULL)
        closedir(dir);
    free(prefix);
    return 0;
}

/* ---- Making ---------------------------------------------------------- */

/*
 * Locks the directory just made.  Before it was locked another run may have
 * taken it for a leftover: then it is gone, and false.
 */
static bool lock_new(int fd)
{
    struct stat st;

    return flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &st) == 0 &&
           st.st_nlink > 0;
}

static int make_temp(struct pq_outdir *d, struct pq_error *e)
{
    for (int i = 0; i < TRIES; i++) {
        d->temp = pq_temp_name(d->base);
        if (d->temp == NULL)
            return pq_fail_nomem(e);
        if (mkdirat(d->parent, d->temp, 0777) == 0) {
            d->fd = open_dir(d->parent, d->temp);
            if (d->fd >= 0 && lock_new(d->fd))
                return 0;
            if (d->fd >= 0)
                close(d->fd);
            d->fd = -1;
            (void)unlinkat(d->parent, d->temp, AT_REMOVEDIR);
            errno = EEXIST;
        }
        const int sys = errno;
        free(d->temp);
        d->temp = NULL;
        if (sys != EEXIST)
            return pq_fail_sys(e, sys, "%s", d->name);
    }
    return pq_fail_sys(e, EEXIST, "%s: no temporary name is free", d->name);
}

int pq_outdir_open(struct pq_outdir *d, const char *path,
                   bool (*known)(const char *name), unsigned flags,
                   struct pq_error *e)
{
    *d = (struct pq_outdir){.parent = -1, .fd = -1, .name = path,
                            .known = known, .flags = flags};
    if (pq_path_place(path, &d->parent, &d->base, e) == 0 &&
        check_target(d, e) == 0 && remove_leftovers(d, e) == 0 &&
        make_temp(d, e) == 0)
        return 0;
    pq_outdir_abort(d);
    return -1;
}

/* ---- Committing ------------------------------------------------------ */

static void release(struct pq_outdir *d)
{
    if (d->base != NULL && d->fd >= 0)
        close(d->fd);
    if (d->base != NULL && d->parent >= 0)
        close(d->parent);
    free(d->temp);
    free(d->base);
    d->temp = d->base = NULL;
    d->parent = d->fd = -1;
}

/*
 * Where the system cannot exchange: the old directory steps aside under a
 * temporary name first.  For an instant there is none.
 */
static int exchange_in_two_steps(struct pq_outdir *d, struct pq_error *e)
{
    char *aside = pq_temp_name(d->base);

    if (aside == NULL)
        return pq_fail_nomem(e);
    int rc = renameat2(d->parent, d->base, d->parent, aside, RENAME_NOREPLACE);
    if (rc != 0 && errno == EINVAL)
        rc = renameat(d->parent, d->base, d->parent, aside);
    if (rc != 0) {
        pq_fail_sys(e, errno, "%s", d->name);
    } else if (renameat(d->parent, d->temp, d->parent, d->base) != 0) {
        rc = pq_fail_sys(e, errno, "%s", d->name);
        (void)renameat(d->parent, aside, d->parent, d->base);
    } else {
        remove_flat(d->parent, aside, d->known);
    }
    free(aside);
    return rc;
}

static bool cannot(int sys)
{
    return sys == EINVAL || sys == ENOSYS || sys == EOPNOTSUPP;
}

/* The new directory takes the place of the old one, which is removed. */
static int exchange(struct pq_outdir *d, struct pq_error *e)
{
    struct stat st;

    if (check_entries(d, e) != 0)
        return -1;
    if (fstatat(d->parent, d->base, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        fchmod(d->fd, st.st_mode & 0777) != 0)
        return pq_fail_sys(e, errno, "%s", d->name);
    if (renameat2(d->parent, d->temp, d->parent, d->base, RENAME_EXCHANGE) !=
        0) {
        if (cannot(errno))
            return exchange_in_two_steps(d, e);
        return pq_fail_sys(e, errno, "%s", d->name);
    }
    remove_flat(d->parent, d->temp, d->known);
    return 0;
}

static int take_name(struct pq_outdir *d, struct pq_error *e)
{
    if (renameat2(d->parent, d->temp, d->parent, d->base, RENAME_NOREPLACE) ==
        0)
        return 0;
    if (cannot(errno) &&
        renameat(d->parent, d->temp, d->parent, d->base) == 0)
        return 0;
    return pq_fail_sys(e, errno, "%s", d->name);
}

static int sync_dir(const struct pq_outdir *d, struct pq_error *e)
{
    if ((d->flags & PQ_OUT_SYNC) == 0)
        return 0;
    while (fsync(d->fd) != 0) {
        if (errno == EINVAL || errno == EROFS) /* nothing to sync there */
            return 0;
        if (errno != EINTR)
            return pq_fail_sys(e, errno, "%s", d->name);
    }
    return 0;
}

int pq_outdir_seal(struct pq_outdir *d, struct pq_error *e)
{
    if (sync_dir(d, e) != 0)
        return -1;
    if (pq_cancelled(d->cancel))
        return pq_fail(e, PQ_ECANCEL, "interrupted");
    d->sealed = true;
    return 0;
}

int pq_outdir_commit(struct pq_outdir *d, struct pq_error *e)
{
    int rc = d->sealed ? 0 : pq_outdir_seal(d, e);

    if (rc == 0)
        rc = d->replaces ? exchange(d, e) : take_name(d, e);
    if (rc != 0) {
        pq_outdir_abort(d);
        return -1;
    }
    if ((d->flags & PQ_OUT_SYNC) != 0)
        (void)fsync(d->parent);
    release(d);
    return 0;
}

void pq_outdir_abort(struct pq_outdir *d)
{
    if (d->temp != NULL)
        remove_flat(d->parent, d->temp, NULL);
    release(d);
}
