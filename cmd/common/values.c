/*
 * Numbers, sizes and lists from the command line, strictly: the whole word
 * must be one.  The locale is always C: nothing here calls setlocale().
 */
#include "cmd.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int cmd_number(const char *s, uint64_t min, uint64_t max, uint64_t *v,
               struct pq_error *e)
{
    const size_t n = strspn(s, "0123456789");
    unsigned long long x;

    if (n == 0 || s[n] != '\0')
        return pq_fail(e, PQ_EARG, "'%s' is not a number", s);
    errno = 0;
    x = strtoull(s, NULL, 10);
    if (errno != 0 || x < min || x > max) {
        if (max == UINT64_MAX)
            return pq_fail(e, PQ_EARG, "%s is out of range", s);
        return pq_fail(e, PQ_EARG, "%s is not between %llu and %llu", s,
                       (unsigned long long)min, (unsigned long long)max);
    }
    *v = x;
    return 0;
}

int cmd_real(const char *s, double min, double max, double *v,
             struct pq_error *e)
{
    char *end;

    /* Not for us: hexadecimal, "inf", "nan", leading blanks. */
    if (s[0] == '\0' || s[strspn(s, "+-.0123456789eE")] != '\0')
        return pq_fail(e, PQ_EARG, "'%s' is not a number", s);
    const double x = strtod(s, &end);
    if (end == s || *end != '\0')
        return pq_fail(e, PQ_EARG, "'%s' is not a number", s);
    if (!isfinite(x) || x < min || x > max)
        return pq_fail(e, PQ_EARG, "%s is not between %g and %g", s, min, max);
    *v = x;
    return 0;
}

/* "", "K", "KB", "KiB", "B" ... as a power of 1024, or -1. */
static int unit_power(const char *s)
{
    static const char letters[] = "KMGT";
    int power = 0;

    if (s[0] != '\0') {
        const char *at = strchr(letters, s[0] == 'k' ? 'K' : s[0]);
        if (at != NULL) {
            power = (int)(at - letters) + 1;
            s++;
            if (s[0] == 'i')
                s++;
        }
    }
    if (s[0] == 'B')
        s++;
    return s[0] == '\0' ? power : -1;
}

int cmd_size(const char *s, uint64_t *v, struct pq_error *e)
{
    const size_t n = strspn(s, "0123456789.");
    const int power = unit_power(s + n);
    char *end;

    if (n == 0 || n == strspn(s, ".") || power < 0)
        return pq_fail(e, PQ_EARG, "'%s' is not a size", s);
    /* A double is exact for what has no fraction, up to 2^53. */
    const double x = strtod(s, &end);
    if (end != s + n)
        return pq_fail(e, PQ_EARG, "'%s' is not a size", s);
    const double bytes = ldexp(x, 10 * power);
    if (bytes >= 0x1p53)
        return pq_fail(e, PQ_EARG, "%s is out of range", s);
    *v = (uint64_t)bytes;
    return 0;
}

/* "a b c" -> "a, b and c"; cut where there is no room. */
static void list_words(const char *words, char *text, size_t n)
{
    const char *last = strrchr(words, ' ');
    size_t at = 0;

    for (; *words != '\0' && at + 6 < n; words++) {
        const char *gap = words == last ? " and " : ", ";
        if (*words == ' ')
            at += (size_t)snprintf(text + at, n - at, "%s", gap);
        else
            text[at++] = *words;
    }
    text[at] = '\0';
}

int cmd_one_of(const char *s, const char *words, int *v, struct pq_error *e)
{
    const size_t length = strlen(s);
    const char *at = words;
    char all[128];

    for (int i = 0; *at != '\0'; i++) {
        const size_t n = strcspn(at, " ");
        if (n == length && memcmp(at, s, n) == 0) {
            *v = i;
            return 0;
        }
        at += n;
        at += strspn(at, " ");
    }
    list_words(words, all, sizeof all);
    return pq_fail(e, PQ_EARG, "'%.40s' is none of %s", s, all);
}

int cmd_list_add(struct cmd_list *l, const char *s, struct pq_error *e)
{
    const char **items = pq_grow(l->items, l->n, &l->cap, sizeof *items);

    if (items == NULL)
        return pq_fail_nomem(e);
    l->items = items;
    items[l->n++] = s;
    return 0;
}
