/*
 * What the tests of adapters share: some joined, what is made of them, and the
 * goldens of testdata/adapters (tests/oracle/make_adapter_goldens.py: formulas
 * in float64, and for each module the error that the best approximation of
 * each rank has).
 */
#ifndef TESTS_ADAPTERS_H
#define TESTS_ADAPTERS_H

#include "fake.h"
#include "model.h"

#include "pq_peft.h"
#include "pq_ranks.h"

#include <cjson/cJSON.h>

/* Adapters joined, and what is made of them. */
struct job {
    struct pq_source *sources[5];
    struct pq_peft peft[4];
    const struct pq_peft *adapters[4];
    double weights[4];
    struct pq_peft_union joined;
    struct pq_ranking ranking;
    struct pq_peft_out modules[64];
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct fake_sink sink;
    size_t n;
};

void job_open(struct job *j);
void job_add(struct job *j, const char *path, double weight);
/* Those of an entry of the manifest. */
void job_add_operands(struct job *j, const cJSON *entry);
void job_close(struct job *j);
/* The output gets the config of the first. */
void job_take_config(struct job *j);
/* Runs the plan that writes; its sources have been set. */
void job_write(struct job *j, unsigned threads);
/* Joins, factors, chooses ranks and writes, as cmd/common/reduce.c does it. */
void job_reduce(struct job *j, const struct pq_rank_rule *rule,
                unsigned threads);
/* What was written under a name, borrowed. */
const float *job_written(const struct job *j, const char *name,
                         const uint64_t **shape);
/* |D - B A| / |D| of a module, D [out][in], of an embedding [in][out]. */
double job_error(const struct job *j, struct pq_source *golden,
                 const struct pq_peft_module *m, size_t *rank);

#define GOLDEN_MANIFEST "testdata/adapters/manifest.json"

/* The file of an entry. */
struct pq_source *golden_open(const cJSON *entry);
double golden_best_error(const cJSON *entry, const char *module, size_t rank);

#endif
