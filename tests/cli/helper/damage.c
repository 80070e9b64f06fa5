/*
 * Runs a command on damaged input: cut at every boundary and at random
 * places, or with a bit flipped in every byte or every so many.
 */
#include "trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- where to cut ---------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* Where a safetensors file can be cut between things. */
static size_t cuts_of_safetensors(const unsigned char *p, size_t *at)
{
    const uint64_t head = load64(p);
    size_t k = 0;

    at[k++] = 7;
    at[k++] = 8;
    at[k++] = 8 + head;
    for (const char *s = (const char *)p + 8, *e = s + head;
         (s = memmem(s, (size_t)(e - s), "data_offsets\":[", 15)); s++) {
        const char *comma = strchr(s + 15, ',');
        at[k++] = 8 + head + strtoull(comma + 1, NULL, 10);
    }
    return k;
}

/* Of a stream: its header, and what each record is made of. */
static size_t cuts_of_stream(const unsigned char *p, size_t n, size_t *at)
{
    size_t pos = 64, k = 0;

    at[k++] = 64;
    while (pos + 128 <= n) {
        const uint64_t head = load64(p + pos + 8), body = load64(p + pos + 16);
        at[k++] = pos + 64;
        pos += 64 + (head + 63) / 64 * 64;
        at[k++] = pos;
        at[k++] = pos + body;
        pos += (body + 8 + 63) / 64 * 64;
        at[k++] = pos;
    }
    return k;
}

static size_t cut_points(const unsigned char *p, size_t n, size_t **points)
{
    size_t *at = must(calloc(n + 256, sizeof *at)), m;
    uint64_t state = 7;

    m = n > 8 && memcmp(p, "\x89PQT", 4) == 0 ? cuts_of_stream(p, n, at)
                                             : cuts_of_safetensors(p, at);
    at[m++] = 0;
    at[m++] = 1;
    at[m++] = n - 1;
    for (int i = 0; i < 64; i++)
        at[m++] = next_random(&state) % n;
    qsort(at, m, sizeof *at, by_number);
    size_t kept = 0;
    for (size_t i = 0; i < m; i++)
        if (at[i] < n && (kept == 0 || at[kept - 1] != at[i]))
            at[kept++] = at[i];
    *points = at;
    return kept;
}

/* ---- trials ---------------------------------------------------------- */

struct damage {
    struct trial t;
    bool cut;
    int bad;      /* the exit status of refusal */
    bool lenient; /* 0, 1 and 2 are all right */
    const char *file;
    unsigned char *p; /* [n] what is in it */
    size_t n;
};

static const char *verdict(const struct damage *d, int rc, bool old)
{
    if (rc >= 124)
        return "it crashed or hung";
    if (d->lenient ? rc > 2 : rc != d->bad)
        return rc == 0 ? "damage was accepted" : "the wrong exit status";
    if (rc == 2 && d->t.lines != 1)
        return "it did not say so in one line";
    return rc ? trial_after_failure(&d->t, old) : NULL;
}

/*
 * The i-th run, with the damage at byte `at`; true: all is well.  Every
 * 13th is started as ever, and there a sanitizer looks for leaks too.
 */
static bool try_one(struct damage *d, size_t i, size_t at)
{
    const unsigned char bit = (unsigned char)(1u << (i * 5 + i / 8) % 8);
    const bool old = i & 1;

    trial_prepare(&d->t, old);
    if (!d->cut)
        d->p[at] ^= bit;
    const size_t n = d->cut ? at : d->n;
    const int rc = i % 13 == 3 ? trial_exec(&d->t, d->p, n)
                              : trial_fork(&d->t, d->p, n);
    const char *what = verdict(d, rc, old);
    if (what && d->cut)
        trial_report(&d->t, what, rc, "head -c %zu %s", at, d->file);
    else if (what)
        trial_report(&d->t, what, rc, "byte %zu ^ 0x%02x of %s", at, bit,
                     d->file);
    if (!d->cut)
        d->p[at] ^= bit;
    return !what;
}

/*
 * damage SO cut|STEP file|pipe BAD|any DIR OUT|- INPUT CMD...: in CMD, @IN is
 * the damaged input and @OUT the output; STEP is 1 to damage every byte.  One
 * line for each thing wrong.
 */
int cmd_damage(int argc, char **argv)
{
    const bool lenient = strcmp(argv[3], "any") == 0;
    struct damage d = {
        .t = {.so = argv[0], .pipe = strcmp(argv[2], "pipe") == 0,
              .dir = argv[4], .out = strcmp(argv[5], "-") ? argv[5] : NULL},
        .cut = strcmp(argv[1], "cut") == 0,
        .lenient = lenient,
        .bad = lenient ? 2 : (int)number(argv[3], 1, 2),
        .file = argv[6]};
    const size_t step = d.cut ? 1 : (size_t)number(argv[1], 1, 100);
    size_t *points = NULL, wrong = 0;

    (void)argc;
    d.p = load(d.file, &d.n);
    trial_begin(&d.t, argv + 7);
    trial_serve(&d.t);
    const size_t m = d.cut ? cut_points(d.p, d.n, &points) : d.n;
    for (size_t i = 0; i * step < m && wrong < 5; i++)
        wrong += !try_one(&d, i, d.cut ? points[i] : i * step);
    trial_end(&d.t);
    return wrong ? 1 : 0;
}
