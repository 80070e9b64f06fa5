/*
 * Seconds to open a model and learn all its names, in one process: what the
 * reference library's safe_open() + keys() is compared with.
 *
 *     bench_open FILE
 *
 * The median of several runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pq_format.h"

#define RUNS 5

static volatile size_t sink; /* keeps results alive */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double open_once(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    const double start = now();

    if (pq_open_model(path, NULL, &s, &e) != 0) {
        fprintf(stderr, "bench_open: %s\n", e.msg);
        exit(2);
    }
    for (size_t i = 0; i < s->catalog->n_tensors; i++)
        sink += strlen(s->catalog->tensors[i].name);
    const double seconds = now() - start;
    pq_source_free(s);
    return seconds;
}

int main(int argc, char **argv)
{
    double s[RUNS];

    if (argc != 2) {
        fprintf(stderr, "usage: bench_open FILE\n");
        return 2;
    }
    for (int i = 0; i < RUNS; i++)
        s[i] = open_once(argv[1]);
    qsort(s, RUNS, sizeof *s, compare);
    printf("%.6f\n", s[RUNS / 2]);
    return 0;
}
