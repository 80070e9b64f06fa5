/*
 * What file.c, file_out.c and outdir.c share; not installed.
 */
#ifndef PQ_FILE_IMPL_H
#define PQ_FILE_IMPL_H

#include "pq_file.h"

#define PQ_TEMP_RANDOM 6 /* letters at the end of a temporary name */

/* Raises the buffer of a pipe to 1 MiB where that is allowed. */
void pq_pipe_enlarge(int fd);

/* Has a signal asked us to stop? */
bool pq_cancelled(const volatile int *cancel);

/*
 * Waits until a pipe, socket or terminal is ready for `events` (POLLIN,
 * POLLOUT), looking at *cancel now and then: the thread that waits is not
 * always the one that takes the signal.
 */
PQ_MUST_USE int pq_fd_wait(int fd, short events, const volatile int *cancel,
                           struct pq_error *e);

/*
 * Where a file or directory will stand once symbolic links are followed, the
 * last one too: opens its directory and yields its base name there (owned by
 * the caller).  The path itself need not exist.
 */
PQ_MUST_USE int pq_path_place(const char *path, int *dirfd, char **base,
                              struct pq_error *e);

/* ".NAME.pq-" and the same with six random letters, or NULL: no memory. */
char *pq_temp_prefix(const char *base);
char *pq_temp_name(const char *base);

#endif
