/*
 * Numbers on command lines of test programs: all of the text or nothing.
 */
#ifndef STRICT_H
#define STRICT_H

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

/* Is `text` a decimal number in [min, max]?  It goes into *v. */
static inline bool strict_long(const char *text, long min, long max, long *v)
{
    char *end;

    errno = 0;
    *v = strtol(text, &end, 10);
    return end != text && !*end && !errno && *v >= min && *v <= max;
}

#endif
