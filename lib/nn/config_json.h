/*
 * Reading keys of config.json.  A reader remembers that something failed, so
 * that keys are read in a row and the error is looked at once.  A key that is
 * null counts as absent, as in transformers.
 */
#ifndef NN_CONFIG_JSON_H
#define NN_CONFIG_JSON_H

#include <cjson/cJSON.h>

#include "nn_config.h"

struct nn_reader {
    const cJSON *j;
    struct pq_arena *arena;
    struct pq_error *e;
    bool failed;
};

#define NN_REQUIRED ((size_t)-1) /* a default: there is none */

const cJSON *nn_key(const cJSON *j, const char *key); /* NULL: absent */
size_t nn_key_size(struct nn_reader *r, const char *key, size_t otherwise,
                   size_t min, size_t max);
double nn_key_real(struct nn_reader *r, const char *key, double otherwise);
bool nn_key_bool(struct nn_reader *r, const char *key, bool otherwise);
/* NULL when it is absent. */
const char *nn_key_string(struct nn_reader *r, const char *key);
/* An array of n numbers, required. */
const double *nn_key_reals(struct nn_reader *r, const char *key, size_t n);
void nn_refuse(struct nn_reader *r, const char *fmt, ...) PQ_PRINTF(2, 3);

/* rope_config.c: fills in c->rope; heads and positions are known. */
void nn_rope_read(struct nn_reader *r, struct nn_config *c);

#endif
