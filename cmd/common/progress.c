/*
 * The progress line on stderr:
 *
 *     pq-quantize:  43%  1.2 GiB of 2.8 GiB  310 MiB/s  0:05 left
 *     pq-train: step 43 of 100  loss 1.9312  2043 tokens/s  0:51 left
 *
 * On a terminal that is ours, when a run takes longer than a second, at most
 * six times a second, and gone at the end.  --progress=always shows it at
 * once and also where there is no terminal, a line each time.
 */
#include "cmd.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { AUTO, ALWAYS, NEVER };

static struct {
    bool started;
    int shown; /* columns that are on the screen now */
    double start, last;
    bool steps;     /* are shown: what is written meanwhile is not */
    uint64_t first; /* steps that were done before */
} bar;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* May we write on this terminal: is it one, and are we in its foreground? */
static bool terminal_is_ours(void)
{
    return isatty(2) && tcgetpgrp(2) == getpgrp();
}

static int terminal_columns(void)
{
    struct winsize w;

    return ioctl(2, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static const char *human(double bytes, char s[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t u = 0;

    for (; bytes >= 1024 && u + 1 < sizeof units / sizeof *units; u++)
        bytes /= 1024;
    snprintf(s, 16, bytes < 9.95 && u > 0 ? "%.1f %s" : "%.0f %s", bytes,
             units[u]);
    return s;
}

static int format_line(char *s, size_t n, const char *program, uint64_t done,
                       uint64_t total, double seconds)
{
    char a[16], b[16], c[16];
    const double rate = seconds > 0 ? (double)done / seconds : 0;
    int k = snprintf(s, n, "%.32s: ", program);

    if (total > 0)
        k += snprintf(s + k, n - (size_t)k, "%3.0f%%  %s of %s  %s/s",
                      100 * (double)done / (double)total,
                      human((double)done, a), human((double)total, b),
                      human(rate, c));
    else
        k += snprintf(s + k, n - (size_t)k, "%s  %s/s", human((double)done, a),
                      human(rate, c));
    if (total >= done && rate > 0 && total > 0) {
        const long left = (long)((double)(total - done) / rate + 0.5);
        k += snprintf(s + k, n - (size_t)k, "  %ld:%02ld left", left / 60,
                      left % 60);
    }
    return k;
}

static void show(const char *line, int n)
{
    char out[512];
    int k;

    if (isatty(2)) {
        const int columns = terminal_columns();
        if (n > columns - 1)
            n = columns - 1;
        /* What the last line had more is covered with blanks. */
        const int width = n > bar.shown ? n : bar.shown;
        k = snprintf(out, sizeof out, "\r%-*.*s", width, n, line);
        bar.shown = n;
    } else {
        k = snprintf(out, sizeof out, "%.*s\n", n, line);
    }
    if (k > 0 && (size_t)k < sizeof out && write(2, out, (size_t)k) < 0)
        bar.shown = 0;
}

/* Is it time for a line?  Then *seconds have passed since the first call. */
static bool is_due(const struct cmd *c, double *seconds)
{
    const bool always = c->progress_when == ALWAYS;
    const double t = now();

    if (c->quiet || c->progress_when == NEVER)
        return false;
    if (!bar.started) {
        bar.started = true;
        bar.start = t;
        bar.last = always ? t - 1 : t + 5.0 / 6;
    }
    if (t - bar.last < 1.0 / 6 || (!always && !terminal_is_ours()))
        return false;
    bar.last = t;
    *seconds = t - bar.start;
    return true;
}

void cmd_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct cmd *c = arg;
    char line[256];
    double seconds;

    if (!bar.steps && is_due(c, &seconds))
        show(line,
             format_line(line, sizeof line, c->program, done, total, seconds));
}

void cmd_progress_steps(const struct cmd *c, uint64_t done, uint64_t total,
                        uint64_t tokens, double loss)
{
    char line[256];
    double seconds;

    bar.steps = true;
    if (!bar.started)
        bar.first = done;
    if (!is_due(c, &seconds))
        return;
    int k = snprintf(line, sizeof line,
                     "%.32s: step %llu of %llu", c->program,
                     (unsigned long long)done, (unsigned long long)total);
    if (seconds > 0 && done > bar.first) {
        k += snprintf(line + k, sizeof line - (size_t)k, "  loss %.4f", loss);
        const double each = seconds / (double)(done - bar.first);
        const double left = each * (double)(total - done);
        k += snprintf(line + k, sizeof line - (size_t)k,
                      "  %.0f tokens/s  %ld:%02ld left",
                      (double)tokens / seconds, (long)(left + 0.5) / 60,
                      (long)(left + 0.5) % 60);
    }
    show(line, k);
}

void cmd_progress_end(void)
{
    char out[512];
    const int most = (int)sizeof out - 2;
    const int n = bar.shown < most ? bar.shown : most;

    if (n <= 0)
        return;
    memset(out, ' ', sizeof out);
    out[0] = out[n + 1] = '\r';
    if (write(2, out, (size_t)n + 2) < 0)
        return;
    bar.shown = 0;
}
