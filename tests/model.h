/*
 * Files as tests read them: whole, as JSON, as models; a tensor by its name,
 * its numbers.  What cannot be read fails the test.
 */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H

#include <cjson/cJSON.h>

#include "pq_source.h"

/* A zero is behind it. */
struct pq_buf read_file(const char *path);
/* The caller deletes it. */
cJSON *read_json(const char *path);
/* What is under a key; fails the test if that is not there. */
const cJSON *key(const cJSON *j, const char *name);

struct pq_source *open_model(const char *path);
/* The tensor of a name, or NULL; tensor_of() fails the test then. */
const struct pq_tensor *named(const struct pq_catalog *c, const char *name);
const struct pq_tensor *tensor_of(const struct pq_source *s, const char *name);
/* Its bytes as floats, those of integers as U8; for free(). */
float *widen(const struct pq_tensor *t, const void *raw);
/* The same, read from the source; read_f32() fails the test if t is no F32. */
float *read_tensor(struct pq_source *s, const struct pq_tensor *t);
float *read_f32(struct pq_source *s, const struct pq_tensor *t);

#endif
