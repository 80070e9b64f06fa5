/*
 * Small files that options name: rules, recipes; pictures.
 *
 * What is read is read once and kept, because its digest goes into the
 * provenance and a pipe gives its bytes only once.
 */
#include "cmd.h"
#include "pq_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST (UINT64_C(16) << 20) /* bytes; more is some other file */

bool cmd_is_standard(const char *path)
{
    return path != NULL && strcmp(path, "-") == 0;
}

bool cmd_input_is_stdin(const struct cmd *c)
{
    return c->n_operands == 0 || cmd_is_standard(c->operands[0]);
}

int cmd_check_data(const struct cmd *c, const char *data)
{
    return cmd_input_is_stdin(c) && cmd_is_standard(data)
               ? cmd_usage(c, "model and data cannot both be standard input")
               : CMD_OK;
}

static int read_all(int fd, struct pq_buf *b, struct pq_error *e)
{
    char piece[4096];
    ssize_t n;

    while ((n = read(fd, piece, sizeof piece)) > 0) {
        pq_buf_add(b, piece, (size_t)n);
        if (b->n > MOST)
            return pq_fail(e, PQ_ELIMIT, "is larger than 16 MiB");
    }
    if (n < 0)
        return pq_fail_sys(e, errno, "cannot be read");
    pq_buf_add(b, "", 0); /* an empty file is a text, too */
    return b->failed ? pq_fail_nomem(e) : 0;
}

static int read_path(const char *path, struct pq_buf *b, struct pq_error *e)
{
    const int fd = cmd_is_standard(path) ? 0 : open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return pq_fail_sys(e, errno, "%s", path);
    const int rc = read_all(fd, b, e);
    if (fd > 0)
        close(fd);
    return rc ? pq_error_in(e, "%s", path) : 0;
}

const struct pq_buf *cmd_content(struct cmd *c, const char *path,
                                 struct pq_error *e)
{
    for (size_t i = 0; i < c->n_contents; i++)
        if (strcmp(c->contents[i].path, path) == 0)
            return &c->contents[i].text;
    struct cmd_content *list = pq_grow(c->contents, c->n_contents,
                                       &c->cap_contents, sizeof *list);
    if (!list) {
        pq_fail_nomem(e);
        return NULL;
    }
    c->contents = list;
    struct cmd_content *new = &list[c->n_contents];
    *new = (struct cmd_content){.path = path};
    if (read_path(path, &new->text, e)) {
        pq_buf_release(&new->text);
        return NULL;
    }
    c->n_contents++;
    return &new->text;
}

bool cmd_content_was_stdin(const struct cmd *c)
{
    for (size_t i = 0; i < c->n_contents; i++)
        if (cmd_is_standard(c->contents[i].path))
            return true;
    return false;
}

void cmd_content_release(struct cmd *c)
{
    for (size_t i = 0; i < c->n_contents; i++)
        pq_buf_release(&c->contents[i].text);
    free(c->contents);
}

int cmd_write_content(const struct cmd *c, const char *path,
                      const struct pq_buf *text, struct pq_error *e)
{
    struct pq_out out = {.cancel = &cmd_cancel};

    if (text->failed)
        return pq_fail_nomem(e);
    cmd_guard(true);
    const int rc = pq_out_open(&out, path, c->sync ? PQ_OUT_SYNC : 0u, e) ||
                           pq_out_write(&out, text->s, text->n, e) ||
                           pq_out_commit(&out, e)
                       ? -1
                       : 0;
    if (rc)
        pq_out_abort(&out);
    cmd_guard(false);
    return rc;
}
