/*
 * Streams for the .pq tests: models made up, written to a file or a pipe,
 * read back, cut into records and forged.
 */
#ifndef TESTS_STREAM_H
#define TESTS_STREAM_H

#include "pq_format.h"

#include <pthread.h>

struct bytes {
    unsigned char *p;
    size_t n;
};

struct feed {
    int fd;
    struct bytes b;
};

struct input {
    struct pq_in in;
    struct feed f;
    pthread_t thread;
    bool threaded;
};

struct record {
    size_t at, n;
};

/* Of how many words one is not zero in what is written and expected: 1. */
extern unsigned fill_step;

void add_plain(struct pq_catalog *c, const char *name, enum pq_dtype t,
               uint64_t rows, uint64_t cols);
void add_nf4(struct pq_catalog *c, const char *name, uint64_t rows,
             uint64_t cols);
void small_model(struct pq_catalog *c);
void fill(size_t k, uint64_t offset, unsigned char *to, size_t n);
struct bytes write_file(struct pq_catalog *c, int level, unsigned threads);
struct bytes write_pipe(struct pq_catalog *c, int level, size_t stop);
void input_file(struct input *x, struct bytes b);
void input_pipe(struct input *x, struct bytes b);
void input_end(struct input *x);
int read_stream(struct bytes b, bool through_pipe, size_t piece,
                struct pq_error *e);
void refused(struct bytes b, enum pq_code code, const char *why);
void accepted(struct bytes b, const char *why);
void put64(unsigned char *p, uint64_t v);
size_t record_bytes(const unsigned char *p);
size_t records_of(struct bytes b, struct record r[64]);
void append(struct bytes *to, const unsigned char *p, size_t n);
void reseal(unsigned char *b);
struct bytes forge(struct bytes b, const size_t *order, size_t n);

#endif
