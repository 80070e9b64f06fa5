/*
 * Errors: a code, a place and one line of text, in a struct of the caller.
 *
 * Every function of libpq that can fail takes a `struct pq_error *` as its
 * last parameter and returns 0 or -1 (or a pointer or NULL).  The library
 * never prints.  The first failure wins: what goes wrong while cleaning up
 * does not hide the cause.  Callers add where it happened, from the inside
 * out, with pq_error_in(): "model.safetensors: tensor x: truncated ...".
 *
 * Threads: one struct belongs to one thread at a time.
 */
#ifndef PQ_ERROR_H
#define PQ_ERROR_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define PQ_MUST_USE __attribute__((warn_unused_result))
#else
#define PQ_PRINTF(fmt, args)
#define PQ_MUST_USE
#endif

enum pq_code {
    PQ_OK = 0,
    PQ_ENOMEM,       /* an allocation failed */
    PQ_EIO,          /* a system call failed; `sys` is its errno */
    PQ_EFORMAT,      /* the bytes break the rules of their format */
    PQ_ETRUNCATED,   /* the input ends before it should */
    PQ_ECHECKSUM,    /* a stored checksum does not match */
    PQ_EUPSTREAM,    /* the program before us in the pipe failed and said so */
    PQ_EUNSUPPORTED, /* well formed, but pq cannot do this */
    PQ_ELIMIT,       /* a documented limit is exceeded */
    PQ_EARG,         /* the request makes no sense for this input */
    PQ_EVALUE,       /* a weight is NaN, infinite or out of range */
    PQ_ECANCEL       /* a signal asked us to stop */
};

struct pq_error {
    enum pq_code code;
    int sys;       /* errno of a failed system call, else 0 */
    char msg[512]; /* one line, no newline at the end */
};

#define PQ_ERROR_INIT {PQ_OK, 0, ""}

/*
 * Records a failure unless one is recorded already.  `e` may be NULL.
 * Always returns -1, so that `return pq_fail(e, ...)` reads well.
 */
int pq_fail(struct pq_error *e, enum pq_code code, const char *fmt, ...)
    PQ_PRINTF(3, 4);

/* The same with the arguments of a function that has them as "...". */
int pq_vfail(struct pq_error *e, enum pq_code code, const char *fmt, va_list ap)
    PQ_PRINTF(3, 0);

/* The same for a failed system call: appends ": " and the text of `sys`. */
int pq_fail_sys(struct pq_error *e, int sys, const char *fmt, ...)
    PQ_PRINTF(3, 4);

/* Says an allocation failed.  Returns -1. */
int pq_fail_nomem(struct pq_error *e);

/*
 * Puts "WHERE: " before the message of a recorded failure, unless it begins
 * with that.  Returns -1.
 */
int pq_error_in(struct pq_error *e, const char *fmt, ...) PQ_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
