/*
 * What an output must not replace.
 *
 * A model that is written where it was read from is a wish; an adapter in the
 * place of a model, or a model in that of an adapter, is a slip that costs
 * what cannot be made again.  A directory is told by the names of its files.
 * A file with a name of its own is replaced by whatever goes there.
 */
#include "cmd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dir.h"
#include "pq_mem.h"
#include "pq_peft.h"

/* What is at DIR/NAME, with DIR of n bytes; false if nothing is. */
static bool look(const char *dir, size_t n, const char *name, struct stat *st)
{
    const size_t all = n + strlen(name) + 2;
    char *path = pq_alloc(all, 1);

    if (!path)
        return false;
    snprintf(path, all, "%.*s%s%s", (int)n, dir, n ? "/" : "", name);
    const bool found = stat(path, st) == 0;
    const int why = errno;
    free(path);
    errno = why;
    return found;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The directory that the file `path` is in, or will be. */
static bool folder(const char *path, struct stat *dir)
{
    const char *slash = strrchr(path, '/');

    return look(path, slash ? (size_t)(slash - path) : 0,
                slash == path ? "/" : ".", dir);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* The directory `st`, or the one in which the file `path` is. */
static bool holder(const char *path, const struct stat *st, struct stat *dir)
{
    *dir = *st;
    return S_ISDIR(st->st_mode) || folder(path, dir);
}

/* The directory `path`, or the one in which it is, is operand i. */
static bool in_operand(const struct cmd *c, size_t i, const char *path,
                       const struct stat *st)
{
    struct stat in, dir;

    return stat(c->operands[i], &in) == 0 && holder(path, st, &dir) &&
           same_file(&in, &dir);
}

int cmd_check_outside(const struct cmd *c, const char *path,
                      struct pq_error *e)
{
    struct stat st;

    if (stat(path, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return 0;
    for (size_t i = 0; i < c->n_operands; i++)
        if (in_operand(c, i, path, &st))
            return pq_fail(e, PQ_EARG,
                           "%s: not replaced: it belongs to the input %s",
                           path, c->operands[i]);
    return 0;
}

/* Whether `path` will be in the output, which may not be there yet. */
static bool in_output(const struct cmd *c, const char *path)
{
    size_t n = c->output ? strlen(c->output) : 0;

    while (n > 1 && c->output[n - 1] == '/')
        n--;
    return n > 0 && strncmp(path, c->output, n) == 0 && path[n] == '/';
}

/* That a file has no place is better told before the work than after it. */
static int check_place(const struct cmd *c, const char *path,
                       struct pq_error *e)
{
    struct stat st;

    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? pq_fail_sys(e, EISDIR, "%s", path) : 0;
    if (!in_output(c, path) && !folder(path, &st))
        return pq_fail_sys(e, errno, "%s", path);
    return 0;
}

int cmd_check_beside(const struct cmd *c, const char *path, struct pq_error *e)
{
    struct stat st, in;

    for (size_t i = 0; stat(path, &st) == 0 && i < c->n_operands; i++)
        if (stat(c->operands[i], &in) == 0 && S_ISREG(st.st_mode) &&
            same_file(&in, &st))
            return pq_fail(e, PQ_EARG, "%s: not replaced: it is the input",
                           path);
    return check_place(c, path, e) ? -1 : cmd_check_outside(c, path, e);
}

int cmd_check_spares(const char *path, const char *read, struct pq_error *e)
{
    struct stat mine, st, dir;

    if (!read || stat(path, &mine) != 0 || stat(read, &st) != 0 ||
        (!S_ISREG(mine.st_mode) && !S_ISDIR(mine.st_mode)))
        return 0;
    return same_file(&mine, &st) ||
                   (holder(path, &mine, &dir) && same_file(&dir, &st))
               ? pq_fail(e, PQ_EARG, "%s: not replaced: %s is read", path, read)
               : 0;
}

int cmd_check_apart(const struct cmd *c, const char *path, struct pq_error *e)
{
    struct stat mine, out, there;

    if (!c->output || strcmp(c->output, "-") == 0 || strcmp(path, "-") == 0 ||
        !folder(path, &mine))
        return 0;
    if (stat(c->output, &out) == 0 && S_ISDIR(out.st_mode)
            ? same_file(&out, &mine)
            : strcmp(base_name(c->output), base_name(path)) == 0 &&
                  folder(c->output, &there) && same_file(&there, &mine))
        return pq_fail(e, PQ_EARG, "%s: is in the place of the output %s",
                       path, c->output);
    return 0;
}

/* The kind of thing that the directory `path` holds, or NULL. */
static const char *other_kind(const char *path, bool adapter)
{
    const size_t n = strlen(path);
    struct stat st;

    if (adapter)
        return look(path, n, PQ_DIR_MODEL, &st) ||
                       look(path, n, PQ_DIR_INDEX, &st)
                   ? "a model"
                   : NULL;
    return look(path, n, PQ_DIR_ADAPTER, &st) ? "an adapter" : NULL;
}

/* The same of a file, told by its name. */
static const char *other_file(const char *path, bool adapter)
{
    const char *base = base_name(path);

    if (adapter)
        return strcmp(base, PQ_DIR_MODEL) == 0 ? "a model" : NULL;
    return strcmp(base, PQ_DIR_ADAPTER) == 0 ? "an adapter" : NULL;
}

int cmd_check_target(const struct pq_catalog *out, const char *path,
                     struct pq_error *e)
{
    const bool adapter = pq_peft_is_adapter(out);
    const char *kind = NULL;
    struct stat st;

    if (stat(path, &st) != 0)
        return 0;
    if (S_ISDIR(st.st_mode))
        kind = other_kind(path, adapter);
    else if (S_ISREG(st.st_mode))
        kind = other_file(path, adapter);
    return kind ? pq_fail(e, PQ_EARG,
                          "%s: not replaced: it holds %s, and the output is "
                          "%s; give another name",
                          path, kind, adapter ? "an adapter" : "a model")
                : 0;
}
