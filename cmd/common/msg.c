/*
 * Messages on stderr and text on stdout.
 *
 * A message is put together first and goes out in one write, so that the
 * tools of a pipeline do not write into each other's lines.
 */
#include "cmd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int lost; /* errno of the first write to stdout that failed */

void cmd_mask(char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            s[i] = '?';
}

/* Masks each line of a text, so that only its newlines stay. */
static void mask_lines(char *s)
{
    while (*s != '\0') {
        const size_t n = strcspn(s, "\n");
        cmd_mask(s, n);
        s += n + (s[n] == '\n');
    }
}

void cmd_msg(const struct cmd *c, const char *fmt, ...)
{
    char line[2048];
    const int room = (int)sizeof line - 1; /* the newline takes one */
    int n = snprintf(line, sizeof line, "%.64s: ", c->program);
    va_list ap;

    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    if (n > room - 1)
        n = room - 1;
    line[n] = '\0';
    mask_lines(line);
    line[n] = '\n';

    cmd_progress_end();
    for (int done = 0; done <= n;) {
        const ssize_t w = write(2, line + done, (size_t)(n + 1 - done));
        if (w < 0 && errno != EINTR)
            return; /* there is nobody left to tell */
        done += w > 0 ? (int)w : 0;
    }
}

int cmd_usage(const struct cmd *c, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cmd_mask(text, strlen(text));
    cmd_msg(c, "%s\nTry '%s --help'.", text, c->program);
    return CMD_TROUBLE;
}

static void note_loss(void)
{
    if (lost == 0)
        lost = errno != 0 ? errno : EIO;
}

void cmd_print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    errno = 0;
    if (vprintf(fmt, ap) < 0)
        note_loss();
    va_end(ap);
}

void cmd_print_n(const char *s, size_t n)
{
    errno = 0;
    if (fwrite(s, 1, n, stdout) != n)
        note_loss();
}

void cmd_flush(void)
{
    errno = 0;
    if (fflush(stdout) != 0)
        note_loss();
}

int cmd_print_buf(struct pq_buf *b, struct pq_error *e)
{
    const int rc = b->failed ? pq_fail_nomem(e) : 0;

    if (rc == 0 && b->n > 0)
        cmd_print_n(b->s, b->n);
    pq_buf_release(b);
    return rc;
}

int cmd_close_stdout(struct pq_error *e)
{
    const bool failed = ferror(stdout) != 0;

    errno = 0;
    if (fclose(stdout) != 0 || failed)
        note_loss();
    return lost == 0 ? 0 : pq_fail_sys(e, lost, "standard output");
}
