/*
 * Spools: bytes kept for later, in memory or in a file without a name.
 *
 * Memory is taken from the shared budget by compare and swap; a spool that
 * does not get all it needs goes to the file system, whole.  It is mapped,
 * not allocated, so that the system has it back at once: an allocator would
 * keep it, and the peak would grow with every spool.
 */
#include "pq_spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *directory(const struct pq_spool_budget *b)
{
    return b->dir != NULL ? b->dir : "/tmp";
}

static bool budget_take(struct pq_spool_budget *b, uint64_t bytes)
{
    uint64_t left = __atomic_load_n(&b->left, __ATOMIC_RELAXED);
    do {
        if (left < bytes)
            return false;
    } while (!__atomic_compare_exchange_n(&b->left, &left, left - bytes, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

static void budget_give(struct pq_spool_budget *b, uint64_t bytes)
{
    __atomic_fetch_add(&b->left, bytes, __ATOMIC_RELAXED);
}

/* A temporary file of no name, or of one that is removed at once. */
static int open_unnamed(const char *dir, struct pq_error *e)
{
    int fd = -1;
#ifdef O_TMPFILE
    fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
#endif
    if (fd >= 0)
        return fd;
    struct pq_buf path = {0};
    pq_buf_printf(&path, "%s/pq-spool-XXXXXX", dir);
    if (path.failed) {
        pq_buf_release(&path);
        return pq_fail_nomem(e);
    }
    fd = mkostemp(path.s, O_CLOEXEC);
    if (fd < 0)
        pq_fail_sys(e, errno, "temporary file in %s", dir);
    else
        unlink(path.s);
    pq_buf_release(&path);
    return fd;
}

int pq_spool_init(struct pq_spool *s, struct pq_spool_budget *b, uint64_t bytes,
                  struct pq_error *e)
{
    *s = (struct pq_spool){.budget = b, .bytes = bytes, .fd = -1};
    if (bytes == 0)
        return 0;
    if (budget_take(b, bytes)) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p != MAP_FAILED) {
            s->memory = p;
            return 0;
        }
        budget_give(b, bytes);
    }
    s->fd = open_unnamed(directory(b), e);
    return s->fd < 0 ? -1 : 0;
}

static int check_range(const struct pq_spool *s, uint64_t offset, size_t n,
                       struct pq_error *e)
{
    if (offset > s->bytes || n > s->bytes - offset)
        return pq_fail(e, PQ_EARG, "spool: range beyond its %llu bytes",
                       (unsigned long long)s->bytes);
    return 0;
}

int pq_spool_write(struct pq_spool *s, uint64_t offset, const void *buf,
                   size_t n, struct pq_error *e)
{
    if (check_range(s, offset, n, e) != 0)
        return -1;
    if (s->memory != NULL) {
        memcpy(s->memory + offset, buf, n);
        return 0;
    }
    const unsigned char *p = buf;
    while (n > 0) {
        const ssize_t k = pwrite(s->fd, p, n, (off_t)offset);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return pq_fail_sys(e, errno, "temporary file in %s",
                               directory(s->budget));
        p += k;
        offset += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

int pq_spool_read(const struct pq_spool *s, uint64_t offset, void *buf,
                  size_t n, struct pq_error *e)
{
    if (check_range(s, offset, n, e) != 0)
        return -1;
    if (s->memory != NULL) {
        memcpy(buf, s->memory + offset, n);
        return 0;
    }
    unsigned char *p = buf;
    while (n > 0) {
        const ssize_t k = pread(s->fd, p, n, (off_t)offset);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return pq_fail_sys(e, errno, "temporary file in %s",
                               directory(s->budget));
        if (k == 0)
            return pq_fail(e, PQ_ETRUNCATED,
                           "temporary file in %s: shorter than written",
                           directory(s->budget));
        p += k;
        offset += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

void pq_spool_release(struct pq_spool *s)
{
    if (s->memory != NULL)
        budget_give(s->budget, s->bytes);
    else if (s->budget != NULL && s->fd >= 0)
        close(s->fd);
    munmap(s->memory, s->bytes);
    *s = (struct pq_spool){.fd = -1};
}
