/*
 * Errors: recording the first failure and saying where it happened.
 *
 * Messages hold names that came from files, so control characters are masked
 * here, once: a message is always one line.  What does not fit is cut and
 * ends in "..."; a long place (a tensor name of 4 KiB) is cut before it can
 * push out the cause.
 */
#include "pq_error.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MSG_BYTES = sizeof(((struct pq_error *)0)->msg), WHERE_BYTES = 256 };

static void mask_control(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

/* vsnprintf that marks a cut with "...". */
static void format(char *s, size_t n, const char *fmt, va_list ap)
    PQ_PRINTF(3, 0);

static void format(char *s, size_t n, const char *fmt, va_list ap)
{
    const int full = vsnprintf(s, n, fmt, ap);
    if (full < 0)
        s[0] = '\0';
    else if ((size_t)full >= n)
        memcpy(s + n - 4, "...", 4);
    mask_control(s);
}

/* Appends `add`, marking a cut. */
static void append(char *s, size_t n, const char *add)
{
    const size_t used = strlen(s), want = strlen(add);
    if (used + want < n) {
        memcpy(s + used, add, want + 1);
        return;
    }
    memcpy(s + used, add, n - 1 - used);
    memcpy(s + n - 4, "...", 4);
}

static const char *system_text(int sys, char *buf, size_t n)
{
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    return strerror_r(sys, buf, n);
#else
    return strerror_r(sys, buf, n) == 0 ? buf : "unknown error";
#endif
}

int pq_vfail(struct pq_error *e, enum pq_code code, const char *fmt, va_list ap)
{
    if (e == NULL || e->code != PQ_OK)
        return -1;
    format(e->msg, MSG_BYTES, fmt, ap);
    e->code = code;
    e->sys = 0;
    return -1;
}

int pq_fail(struct pq_error *e, enum pq_code code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)pq_vfail(e, code, fmt, ap);
    va_end(ap);
    return -1;
}

int pq_fail_sys(struct pq_error *e, int sys, const char *fmt, ...)
{
    if (e == NULL || e->code != PQ_OK)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    format(e->msg, MSG_BYTES - WHERE_BYTES / 2, fmt, ap);
    va_end(ap);
    char text[WHERE_BYTES / 2];
    append(e->msg, MSG_BYTES, ": ");
    append(e->msg, MSG_BYTES, system_text(sys, text, sizeof text));
    e->code = PQ_EIO;
    e->sys = sys;
    return -1;
}

int pq_fail_nomem(struct pq_error *e)
{
    return pq_fail(e, PQ_ENOMEM, "out of memory");
}

int pq_error_in(struct pq_error *e, const char *fmt, ...)
{
    if (e == NULL || e->code == PQ_OK)
        return -1;
    char cause[MSG_BYTES];
    memcpy(cause, e->msg, MSG_BYTES);
    va_list ap;
    va_start(ap, fmt);
    format(e->msg, WHERE_BYTES, fmt, ap);
    va_end(ap);
    /* who read the tensor and who used it may both say which one it was */
    const size_t n = strlen(e->msg);
    const bool said = strncmp(cause, e->msg, n) == 0 && cause[n] == ':';
    if (said)
        e->msg[0] = '\0';
    else
        append(e->msg, MSG_BYTES, ": ");
    append(e->msg, MSG_BYTES, cause);
    return -1;
}
