/*
 * What pq-info and pq-verify find out about the numbers and bytes of a
 * model: a plan that only gathers.
 */
#ifndef CMD_STATS_H
#define CMD_STATS_H

#include "cmd.h"
#include "pq_hash.h"
#include "pq_sparsity.h"

#define CMD_HISTOGRAM 16 /* bins of equal width from min to max */

struct cmd_stat {
    bool valid; /* a plain floating tensor: moments were taken */
    struct pq_moments m;
    double mean, std;
    uint64_t histogram[CMD_HISTOGRAM];
    char digest[33]; /* hex */
};

struct cmd_stats {
    bool stats, digest, sparsity; /* what to find out */
    const struct pq_mask *mask;   /* the model is this mask, or NULL */
    struct cmd_stat *tensors;  /* [tensors of the catalogue] */
    struct pq_sparsity *zeros; /* the same; NULL unless that was asked */
    struct pq_hash128 *parts;  /* [n_parts] digests, in catalogue order */
    size_t n_parts;
    char model_digest[33];
};

/* Reads all selected tensors of s; digests are of all tensors. */
PQ_MUST_USE int cmd_stats_run(struct cmd *c, struct pq_source *s,
                              struct cmd_stats *st, struct pq_error *e);
/*
 * What it is made of: arrays for a catalogue, all zero; the digests of its
 * tensors and of the model from those of the parts.
 */
PQ_MUST_USE int cmd_stats_init(const struct pq_catalog *c,
                               struct cmd_stats *st, struct pq_error *e);
PQ_MUST_USE int cmd_stats_name(const struct pq_catalog *c,
                               struct cmd_stats *st, struct pq_error *e);
void cmd_stats_release(struct cmd_stats *st);

#endif
