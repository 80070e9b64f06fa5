/*
 * Files: inputs that can be looked at before they are read, and outputs that
 * appear whole or not at all.
 *
 * An output to a regular file is written under no name (O_TMPFILE) or under
 * a temporary one beside its target, and takes its name in pq_out_commit().
 * What already exists and is not a regular file (a FIFO, /dev/null,
 * /dev/fd/63) is written straight through.  Symbolic links are followed, so
 * the link stays and its target is replaced.
 */
#ifndef PQ_FILE_H
#define PQ_FILE_H

#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_PEEK 4096 /* bytes that pq_in_peek can show, at most */

/*
 * Before opening, zero-initialise and set `cancel` if there is a flag: also
 * opening a FIFO may wait.  Failures to open name the file; failures to read
 * do not, the source does that.
 */
struct pq_in {
    int fd;
    const char *name;  /* for messages, borrowed: a path, or "-" */
    bool regular;      /* can pread and its size is known */
    uint64_t start;    /* of a regular file: where the model begins */
    uint64_t size;     /* of a regular file: bytes from start on */
    uint64_t at;       /* bytes consumed by pq_in_read so far */
    size_t n_peek, used_peek;
    unsigned char peek[PQ_PEEK];
    const volatile int *cancel; /* a signal came: stop; or NULL */
};

/*
 * Opens a file, or takes over descriptor 0 for "-" (a regular file on stdin
 * is used from its current position).  Directories are refused.
 */
PQ_MUST_USE int pq_in_open(struct pq_in *in, const char *path,
                           struct pq_error *e);
/*
 * The same for a base name in an open directory; it must be a regular file.
 * Links are followed wherever they go (the cache of Hugging Face consists of
 * links out of the directory), but a name with a slash is refused.
 */
PQ_MUST_USE int pq_in_open_at(struct pq_in *in, int dirfd, const char *name,
                              struct pq_error *e);
/*
 * Shows up to n <= PQ_PEEK bytes from the start without consuming them; only
 * before the first pq_in_read.
 */
PQ_MUST_USE int pq_in_peek(struct pq_in *in, size_t n,
                           const unsigned char **p, size_t *got,
                           struct pq_error *e);
/* Reads up to n bytes in sequence; *got < n only at the end. */
PQ_MUST_USE int pq_in_read(struct pq_in *in, void *buf, size_t n, size_t *got,
                           struct pq_error *e);
/* Reads exactly n bytes in sequence, or fails with PQ_ETRUNCATED. */
PQ_MUST_USE int pq_in_read_all(struct pq_in *in, void *buf, size_t n,
                               struct pq_error *e);
/* Of a regular file: exactly n bytes at `offset` from start; any thread. */
PQ_MUST_USE int pq_in_pread(const struct pq_in *in, uint64_t offset, void *buf,
                            size_t n, struct pq_error *e);
void pq_in_close(struct pq_in *in);

enum pq_out_flags {
    PQ_OUT_SYNC = 1u << 0 /* fsync before the name appears */
};

/*
 * As with pq_in: zero-initialise and set `cancel` before opening.  All
 * failures name the file.
 */
struct pq_out {
    int fd;
    bool regular;   /* pwrite works and abort can undo */
    bool standard;  /* it is our standard output */
    bool failed;
    bool sealed;
    uint64_t start; /* of a regular standard output: where we began */
    uint64_t at;    /* bytes written by pq_out_write */
    uint64_t end;   /* furthest byte written; changed atomically */
    uint64_t reserved;
    int dirfd;      /* of the target, or -1 */
    char *base;     /* final base name in dirfd, NULL for written-through */
    char *temp;     /* temporary base name, NULL for O_TMPFILE */
    const char *name; /* for messages, borrowed */
    unsigned flags;
    const volatile int *cancel;
};

/* Opens `path`, or standard output for NULL or "-". */
PQ_MUST_USE int pq_out_open(struct pq_out *o, const char *path, unsigned flags,
                            struct pq_error *e);
/* A new file in an open (temporary) directory, plain: no rename needed. */
PQ_MUST_USE int pq_out_open_at(struct pq_out *o, int dirfd, const char *name,
                               unsigned flags, struct pq_error *e);
/*
 * Says how long it will be, at most: room is reserved where the system can,
 * so that a full disk is noticed now.
 */
PQ_MUST_USE int pq_out_reserve(struct pq_out *o, uint64_t bytes,
                               struct pq_error *e);
PQ_MUST_USE int pq_out_write(struct pq_out *o, const void *buf, size_t n,
                             struct pq_error *e);
PQ_MUST_USE int pq_out_pwrite(struct pq_out *o, uint64_t offset,
                              const void *buf, size_t n, struct pq_error *e);
/* Starts writing dirty pages back, so that the fsync at the end is short. */
void pq_out_flush_early(struct pq_out *o, uint64_t offset, uint64_t n);
/*
 * All bytes are there: syncs the file, and closes it where it need not be
 * open to be named.  It can still be aborted.
 */
PQ_MUST_USE int pq_out_seal(struct pq_out *o, struct pq_error *e);
/*
 * Names and closes the file; seals it where that was not done.  After a
 * failure nothing was named.
 */
PQ_MUST_USE int pq_out_commit(struct pq_out *o, struct pq_error *e);
/*
 * Closes and leaves nothing behind (a regular stdout is cut back).  Harmless
 * after commit, and after opening failed.
 */
void pq_out_abort(struct pq_out *o);

/*
 * A directory output: built beside its target as `.NAME.pq-XXXXXX`, which is
 * locked while its maker lives, then exchanged with the target in one step.
 * Leftovers of killed runs for the same NAME are removed first.  It is flat:
 * files only.  All failures name the directory.
 */
struct pq_outdir {
    int parent;    /* descriptor of the directory that holds it */
    int fd;        /* of the new directory */
    char *base;    /* final base name in parent */
    char *temp;    /* name while it is built */
    const char *name; /* for messages, borrowed */
    bool replaces; /* there is a directory to exchange it with */
    bool sealed;
    bool (*known)(const char *name);
    unsigned flags;
    const volatile int *cancel; /* to be set after opening; or NULL */
};

/*
 * `known` says whether pq knows an entry of an existing directory as a file
 * of a model; one it does not know, and the directory is left alone: nothing
 * is written, the first such entry in the order of strcmp is named.  Looked
 * at again before the exchange.  The current directory is refused: it would
 * be pulled out from under the shell.
 */
PQ_MUST_USE int pq_outdir_open(struct pq_outdir *d, const char *path,
                               bool (*known)(const char *name), unsigned flags,
                               struct pq_error *e);
/* All files are there: syncs it.  It can still be aborted. */
PQ_MUST_USE int pq_outdir_seal(struct pq_outdir *d, struct pq_error *e);
/*
 * Names and closes it; seals it where that was not done.  After a failure
 * nothing has changed.
 */
PQ_MUST_USE int pq_outdir_commit(struct pq_outdir *d, struct pq_error *e);
/* Removes it.  Harmless after commit, and after opening failed. */
void pq_outdir_abort(struct pq_outdir *d);

#ifdef __cplusplus
}
#endif
#endif
