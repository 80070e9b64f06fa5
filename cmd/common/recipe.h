/*
 * Recipes: what mergekit's YAML says, read strictly.
 *
 *     merge_method: ties              slices:
 *     base_model: base                  - sources:
 *     models:                             - model: a
 *       - model: a                          layer_range: [0, 8]
 *         parameters:                       parameters: {weight: 0.3}
 *           weight: 0.3                   - model: b
 *       - model: b                          layer_range: [4, 12]
 *     parameters:                         parameters: {weight: 0.7}
 *       weight: [0.1, 0.9]            merge_method: linear
 *     dtype: bfloat16
 *
 * `models` is kept as one slice whose sources have no range.  What pq cannot
 * do is refused by its name, what nobody knows by its name and line.  Source
 * of the language: mergekit 0.1.5, config.py.
 */
#ifndef CMD_RECIPE_H
#define CMD_RECIPE_H

#include "pq_dtype.h"
#include "pq_mem.h"

/* ---- recipe_yaml.c: a text as a tree -------------------------------- */

#define RECIPE_MAX_BYTES (1u << 18) /* of a recipe */
#define RECIPE_MAX_NODES 20000u /* each alias counts as what it stands for */
#define RECIPE_MAX_DEPTH 32u
#define RECIPE_MAX_KEYS 1024u /* of one map */
#define RECIPE_MAX_ANCHORS 1024u

enum recipe_kind { RECIPE_NULL, RECIPE_TEXT, RECIPE_LIST, RECIPE_MAP };

struct recipe_node {
    enum recipe_kind kind;
    unsigned line;    /* from 1 */
    const char *key;  /* under which it stands in a map, else NULL */
    const char *text; /* of RECIPE_TEXT; no NUL in it */
    const struct recipe_node *items; /* [n] of a list or a map */
    size_t n;
};

/*
 * The only document of a text, aliases replaced by what they stand for, in
 * the arena.  Fails, with the line, when it is not YAML, holds itself, is too
 * large, or has a key twice or a tag.
 */
const struct recipe_node *recipe_tree(const char *text, size_t n,
                                      struct pq_arena *a, struct pq_error *e);
/* The item under a key, or NULL, also where it is null. */
const struct recipe_node *recipe_get(const struct recipe_node *map,
                                     const char *key);
/* "line 3: MESSAGE"; -1. */
int recipe_fail(const struct recipe_node *at, struct pq_error *e,
                const char *fmt, ...) PQ_PRINTF(3, 4);

/* ---- recipe_value.c: parameters ------------------------------------- */

enum recipe_parameter {
    RECIPE_WEIGHT, /* of a model */
    RECIPE_DENSITY,
    RECIPE_GAMMA,
    RECIPE_EPSILON,
    RECIPE_SCALE,
    RECIPE_T, /* of the whole */
    RECIPE_LAMBDA,
    RECIPE_NORMALIZE,
    RECIPE_RESCALE,
    RECIPE_FILTER_WISE,
    RECIPE_N_PARAMETERS
};

/* A number, or a curve over the depth of the layers. */
struct recipe_value {
    const char *filter;   /* part of a tensor's name; NULL: of every name */
    unsigned line;        /* of the filter */
    const double *points; /* [n], n > 0 */
    size_t n;
    bool steps; /* a curve of yes and no is not interpolated */
};

/* The values of a parameter; the first whose filter fits counts. */
struct recipe_setting {
    unsigned line;
    const struct recipe_value *values; /* [n]; n = 0: not set */
    size_t n;
};

struct recipe_parameters {
    struct recipe_setting settings[RECIPE_N_PARAMETERS];
};

const char *recipe_parameter_name(enum recipe_parameter p);
/*
 * Reads a `parameters` map (NULL: there is none).  With `whole` also those
 * that are not of one model.
 */
PQ_MUST_USE int recipe_parameters_read(struct recipe_parameters *p,
                                       const struct recipe_node *map,
                                       bool whole, struct pq_arena *a,
                                       struct pq_error *e);
/*
 * The value for a tensor of which the layer is at depth t in [0, 1]; false if
 * nothing is set that fits its name.
 */
bool recipe_parameter_at(const struct recipe_parameters *p,
                         enum recipe_parameter which, const char *tensor,
                         double t, double *value);

/* ---- recipe.c: the recipe ------------------------------------------- */

struct recipe_source {
    const char *model;
    unsigned line;
    uint64_t first, end; /* layers [first, end); 0, 0: all */
    struct recipe_parameters parameters;
};

struct recipe_slice {
    unsigned line;
    struct recipe_source *sources; /* [n], n > 0 */
    size_t n;
    const char *base_model; /* of this slice, else of the recipe, or NULL */
    struct recipe_parameters parameters;
};

enum recipe_tokenizer {
    RECIPE_TOKENS_UNSAID,
    RECIPE_TOKENS_BASE,
    RECIPE_TOKENS_UNION,
    RECIPE_TOKENS_PATH
};

struct recipe {
    struct pq_arena arena;
    const char *method;
    unsigned method_line;
    bool sliced;                /* `slices`, not `models` */
    struct recipe_slice *slices; /* [n], n > 0 */
    size_t n;
    const char *base_model; /* or NULL */
    struct recipe_parameters parameters;
    bool typed;           /* dtype or out_dtype is there */
    enum pq_dtype dtype;  /* of the output then */
    enum recipe_tokenizer tokenizer;
    const char *tokenizer_path; /* of RECIPE_TOKENS_PATH */
};

/* Of a zeroed recipe; release it also after a failure. */
PQ_MUST_USE int recipe_parse(struct recipe *r, const char *text, size_t n,
                             struct pq_error *e);
/*
 * Where a model of the recipe is: beside the recipe, else where the program
 * runs; in the recipe's arena, or `model` itself.  NULL if there is none.
 */
const char *recipe_path(struct recipe *r, const char *recipe,
                        const char *model, struct pq_error *e);
void recipe_release(struct recipe *r);

#endif
