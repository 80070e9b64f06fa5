/*
 * The .pq stream's row in the registry.
 *
 *     89 'P' 'Q' 'T' 0D 0A 1A 0A    the first eight bytes
 *
 * As PNG's: a byte that is no text, then what transfers in text mode break.
 */
#include "pqstream.h"

#include <string.h>

static bool sniff(const unsigned char *p, size_t n)
{
    return n >= 4 && memcmp(p, "\211PQT", 4) == 0;
}

static const char *const suffixes[] = {".pq", NULL};

const struct pq_format pq_format_pqstream = {
    .name = "pq",
    .suffixes = suffixes,
    .can_write = true,
    .sniff = sniff,
    .open = pq_stream_open,
    .create = pq_stream_create,
};
