/*
 * A model in memory for the tests: a source that can play pipe or file, and
 * a sink that can play pipe or file and checks the order of what it gets.
 */
#ifndef TESTS_FAKE_H
#define TESTS_FAKE_H

#include "pq_engine.h"

struct fake_source {
    struct pq_source base;
    struct pq_catalog catalog;
    unsigned char *bytes; /* [size] all parts end to end */
    uint64_t size, at;
    uint64_t fail_at;  /* a read that reaches this byte fails; 0 = never */
    bool finished;
};

void fake_source_init(struct fake_source *s, bool sequential);
/* Adds a plain tensor and a copy of its bytes. */
struct pq_tensor *fake_source_add(struct fake_source *s, const char *name,
                                  enum pq_dtype dtype, int rank,
                                  const uint64_t *shape, const void *bytes);
void fake_source_release(struct fake_source *s);

struct fake_sink {
    struct pq_sink base;
    unsigned char *bytes; /* all places end to end */
    uint64_t next;        /* ordered: where the next write must begin */
    uint64_t fail_at;     /* a write that reaches this byte fails; 0 = never */
    bool fail_seal;       /* seal() fails */
    bool fail_finish;     /* finish() fails */
    bool begun, sealed, finished, aborted, out_of_order;
};

/* `last`: parts of this role go behind all others (SIZE_MAX-like: none). */
void fake_sink_init(struct fake_sink *k, struct pq_catalog *c,
                    bool positional, int last);
/* The bytes of a part of tensor t, as written. */
const void *fake_sink_part(const struct fake_sink *k, size_t t, size_t part);
void fake_sink_release(struct fake_sink *k);

#endif
