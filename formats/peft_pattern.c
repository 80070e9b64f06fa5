/*
 * The keys of rank_pattern and alpha_pattern: (.*\.)?(key)$ of Python's
 * regular expressions, by those of POSIX.
 *
 *     \d \w       [0-9], [A-Za-z0-9_], also within [...]
 *     *? +? ??    lazy; for a whole match as without the ?
 *     {n} {n,m}   as they are
 *     refused     (?...), other classes, possessive repetitions
 *
 * A file says what the key is, and regcomp() copies what is repeated: its
 * (((a+)+)+)+ doubles with every group.  It goes into groups by recursion,
 * too.  So what would come of a key is counted first.
 */
#include "peft_config.h"

#include <ctype.h>
#include <regex.h>
#include <string.h>

#define KEY_BYTES   1024u      /* of a key */
#define MOST_COPIES (1u << 14) /* of the key, times its repetitions */

/* A pattern on its way from Python's syntax to that of POSIX. */
struct pattern {
    const char *p; /* what is left of it */
    struct pq_buf *to;
    bool in_set; /* between [ and ] */
    enum { ATOM, GROUP, REPEATED } last;
    uint64_t size;
};

/* Python's classes as POSIX writes them; others are no part of names. */
static bool take_escape(struct pattern *t)
{
    const char c = t->p[1];
    const char *set = c == 'd' ? "0-9" : c == 'w' ? "A-Za-z0-9_" : NULL;

    if (set)
        pq_buf_printf(t->to, t->in_set ? "%s" : "[%s]", set);
    else if (c == '\0' || isalnum((unsigned char)c) ||
             (t->in_set && c != '.'))
        return false;
    else
        pq_buf_add(t->to, t->in_set ? t->p + 1 : t->p, t->in_set ? 1 : 2);
    t->last = ATOM;
    t->p += 2;
    return true;
}

/* "{2}", "{2,}" or "{2,3}" at s: its length, or 0; *n is the larger number. */
static size_t count_of(const char *s, uint64_t *n)
{
    size_t i = 1;

    *n = 0;
    for (int k = 0; k < 2 && (s[i] == ',' || k == 0); k++) {
        uint64_t v = 0;
        i += k > 0;
        for (int digits = 0; isdigit((unsigned char)s[i]) && digits < 3;
             digits++)
            v = 10 * v + (uint64_t)(s[i++] - '0');
        *n = v > *n ? v : *n;
    }
    return s[i] == '}' && isdigit((unsigned char)s[1]) ? i + 1 : 0;
}

/* One of * + ? {n}; the ? of a lazy one does not change what matches. */
static bool take_repetition(struct pattern *t)
{
    const bool counted = *t->p == '{';
    uint64_t copies = 1;
    const size_t n = counted ? count_of(t->p, &copies) : 1;

    if (t->last == REPEATED && *t->p == '?') {
        t->p++;
        return true;
    }
    if (t->last == REPEATED || n == 0)
        return false;
    if (counted || t->last == GROUP)
        t->size *= copies + 1;
    pq_buf_add(t->to, t->p, n);
    t->last = REPEATED;
    t->p += n;
    return t->size <= MOST_COPIES;
}

static bool take(struct pattern *t)
{
    const char c = *t->p;

    if (c == '\\')
        return take_escape(t);
    if (!t->in_set && strchr("*+?{", c))
        return take_repetition(t);
    if (!t->in_set && c == '(' && t->p[1] == '?')
        return false;
    pq_buf_add(t->to, t->p++, 1);
    t->last = c == ')' ? GROUP : ATOM;
    if (!t->in_set && c == '[') {
        t->in_set = true;
        /* the first one is not the end */
        for (const char *more = "^]"; *more; more++)
            if (*t->p == *more)
                pq_buf_add(t->to, t->p++, 1);
    } else if (c == ']') {
        t->in_set = false;
    }
    return true;
}

static int translate(const char *key, struct pq_buf *b, struct pq_error *e)
{
    struct pattern t = {.p = key, .to = b, .size = strlen(key)};

    pq_buf_puts(b, "^(.*\\.)?(");
    bool ok = t.size <= KEY_BYTES;
    while (ok && *t.p)
        ok = take(&t);
    pq_buf_puts(b, ")$");
    if (!ok)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "pattern \"%.60s\" is not supported", key);
    return b->failed ? pq_fail_nomem(e) : 0;
}

/* A name, in which only a dot stands for something else: any character. */
static bool matches_name(const char *key, const char *module)
{
    const size_t k = strlen(key), n = strlen(module);

    if (k > n || (k < n && module[n - k - 1] != '.'))
        return false;
    for (size_t i = 0; i < k; i++)
        if (key[i] != module[n - k + i] && key[i] != '.')
            return false;
    return true;
}

int peft_pattern_matches(const char *key, const char *module,
                         struct pq_error *e)
{
    struct pq_buf b = {0};
    regex_t re;

    if (!strpbrk(key, "\\[](){}*+?^$|"))
        return matches_name(key, module);
    int rc = translate(key, &b, e);

    if (!rc && regcomp(&re, b.s, REG_EXTENDED | REG_NOSUB) != 0)
        rc = pq_fail(e, PQ_EFORMAT, "pattern \"%.60s\" is not valid", key);
    if (!rc) {
        rc = regexec(&re, module, 0, NULL, 0) == 0;
        regfree(&re);
    }
    pq_buf_release(&b);
    return rc;
}
