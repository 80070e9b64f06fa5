/*
 * adapter_config.json as far as it changes the maths; of formats/peft*.c.
 */
#ifndef PEFT_CONFIG_H
#define PEFT_CONFIG_H

#include "pq_peft.h"

#include <cjson/cJSON.h>

struct peft_config {
    cJSON *json;
    bool lora; /* or trainable tokens alone */
    bool rslora, dora, fan_in_fan_out;
    double r, alpha;
    const cJSON *rank_pattern, *alpha_pattern; /* objects, or NULL */
    const cJSON *modules_to_save;              /* an array, or NULL */
    const cJSON *tokens; /* an array, or an object of arrays; or NULL */
    const cJSON *parameters; /* an array of names, or NULL */
    bool keep_tied;
    bool before_019; /* what wrote it, or it does not say */
    enum pq_peft_init init;
    const char *init_name; /* or NULL */
    bool head; /* the task has a head that the base has not */
};

/*
 * Parses text[0..n), refusing by name what cannot be merged, and of
 * PQ_PEFT_* what is not accepted.
 */
PQ_MUST_USE int peft_config_read(struct peft_config *c, const char *text,
                                 size_t n, unsigned accept,
                                 struct pq_error *e);
void peft_config_release(struct peft_config *c);

/* Does a key of a pattern mean this module?  1, 0, or -1: failed. */
PQ_MUST_USE int peft_pattern_matches(const char *key, const char *module,
                                     struct pq_error *e);
/* Rank and scale of a module or parameter, patterns applied. */
PQ_MUST_USE int peft_config_module(const struct peft_config *c,
                                   const char *module, double *rank,
                                   double *scale, struct pq_error *e);
/* Is the rank of A the one that the config gives the module? */
PQ_MUST_USE int peft_check_rank(const struct pq_peft_module *m,
                                struct pq_error *e);
/* May the base lack this tensor?  A head of the task, a module to save. */
bool peft_config_saves(const struct peft_config *c, const char *tensor);
/* The row numbers for an embedding module, in order; NULL: it has none. */
const cJSON *peft_config_tokens(const struct peft_config *c,
                                const char *module);

#endif
