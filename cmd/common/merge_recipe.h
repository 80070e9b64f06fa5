/*
 * pq-merge --recipe: what its parts share.
 *
 *     merge_recipe.c   opens the models, runs the job
 *     merge_targets.c  recipe -> list of targets: names, layers, parameters
 *     merge_layers.c   config.json of a model with other layers
 */
#ifndef CMD_MERGE_RECIPE_H
#define CMD_MERGE_RECIPE_H

#include "merge_models.h"
#include "recipe.h"

/* A source of a slice, its model found. */
struct recipe_part {
    size_t model;   /* number in the job's models */
    uint64_t first; /* its first layer */
    const struct recipe_source *said; /* NULL: a base that is not listed */
};

struct recipe_run {
    const struct recipe_slice *said;
    struct recipe_part *parts; /* [n], n > 0 */
    size_t n;
    size_t lead;     /* the one whose tensors the output has */
    size_t base;     /* which of them is the base, or SIZE_MAX */
    uint64_t layers; /* of a slice; 0: whole models */
};

struct recipe_job {
    struct merge_job *j;
    struct recipe recipe;
    struct merge_options options; /* with what the recipe says of the type */
    const struct pq_method *method;
    struct merge_models models;
    struct recipe_run *runs; /* [recipe.n], in the recipe's arena */
    struct merge_target *targets; /* [n_targets] */
    size_t n_targets, cap_targets;
    bool has_conv1d;
    bool untied; /* the output has a head, its config may say otherwise */
};

/*
 * Makes r->targets, in the order of the output.  Fails if a filter is for no
 * tensor at all.
 */
PQ_MUST_USE int recipe_targets(struct recipe_job *r, struct pq_error *e);
/* Fails if the recipe sets what the method does not take. */
PQ_MUST_USE int recipe_check_parameters(const struct recipe_job *r,
                                        struct pq_error *e);
/* Sets the number of layers and lists of them in the output's config. */
PQ_MUST_USE int recipe_set_layers(const struct recipe_job *r,
                                  struct pq_error *e);

#endif
