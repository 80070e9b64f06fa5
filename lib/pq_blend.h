/*
 * Blending: one tensor made of the same tensor of several models.
 *
 * A method is a row of a table: what it is called, what it needs, what its
 * parameters are when nothing is said, and the functions that gather and
 * combine.  The maths are those of the published papers and of mergekit where
 * it has them right; each method's own file has its formula and its source.
 *
 * Sums are in float, models in the order given; what is measured over a whole
 * tensor (dots, norms) in double.  With d_i = W_i - base:
 *
 *   linear            sum w_i W_i         / sum w_i when normalised
 *   slerp             on the great circle from the base (t = 0) to W (t = 1)
 *   task_arithmetic   base + lambda sum w_i d_i
 *   ties              ... of d_i trimmed to its density n largest, and only
 *                     where its sign is the elected one
 *   dare_linear       ... of d_i with a random part dropped, rescaled
 *   dare_ties         the same with the election
 *   della, della_linear   dropped with a chance that depends on the rank of
 *                     |d| in its row
 *   breadcrumbs, breadcrumbs_ties   without the largest gamma n and the
 *                     smallest, so that density n are left
 *   model_stock       between the mean of W_i and the base, by their angles
 *   passthrough       W, times a scale
 */
#ifndef PQ_BLEND_H
#define PQ_BLEND_H

#include "pq_quant.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_blend_base {
    PQ_BASE_NONE,    /* takes no base */
    PQ_BASE_NEEDED,  /* fails without one */
    PQ_BASE_IS_FIRST /* the base is an end of its own (slerp) */
};

/* How what is left after some was dropped makes up for it. */
enum pq_rescale {
    PQ_RESCALE_NONE,
    PQ_RESCALE_NORM,  /* times what restores sum |d| of the tensor: mergekit */
    PQ_RESCALE_CHANCE /* over its chance to be left: the papers */
};

/* What users may set, each NaN where they did not. */
struct pq_blend_params {
    double weight, density, epsilon, gamma; /* of a model */
    double t, lambda, scale;                /* of the whole */
    int normalize, rescale, by_row;         /* -1 where they did not */
};

/* Which of them a method makes use of. */
enum pq_blend_takes {
    PQ_TAKES_WEIGHT = 1u << 0,
    PQ_TAKES_DENSITY = 1u << 1,
    PQ_TAKES_EPSILON = 1u << 2,
    PQ_TAKES_GAMMA = 1u << 3,
    PQ_TAKES_T = 1u << 4,
    PQ_TAKES_LAMBDA = 1u << 5,
    PQ_TAKES_SCALE = 1u << 6,
    PQ_TAKES_NORMALIZE = 1u << 7,
    PQ_TAKES_RESCALE = 1u << 8, /* to NONE and NORM */
    PQ_TAKES_CHANCE = 1u << 9,  /* to CHANCE too; and a seed */
    PQ_TAKES_BY_ROW = 1u << 10
};

struct pq_method {
    const char *name;
    const char *purpose; /* one line, for man page and --help */
    enum pq_blend_base base;
    unsigned least, most; /* models beside the base */
    unsigned takes;       /* enum pq_blend_takes */
    /* Of what is taken; NaN: it must be given. */
    struct pq_blend_params defaults;
};

/* NULL-terminated; a method is found by its name, or NULL. */
const struct pq_method *const *pq_methods(void);
const struct pq_method *pq_method_named(const char *name);

/* One model's tensor and its parameters, defaults filled in. */
struct pq_blend_input {
    struct pq_source *source; /* plain tensors (else pq_decoded_new) */
    const struct pq_tensor *tensor;
    double weight, density, epsilon, gamma;
    uint64_t stream; /* which model it is, < 2^14: keys the random numbers */
};

struct pq_blend {
    const struct pq_method *method;
    struct pq_blend_input *in; /* [n], without the base */
    size_t n;
    struct pq_source *base_source; /* or NULL */
    const struct pq_tensor *base;
    double t, lambda, scale;
    bool normalize;
    enum pq_rescale rescale;
    bool by_row; /* model_stock: an angle for each row */
    uint64_t seed;
};

/*
 * Number of models, ranges of all parameters, and that all tensors have one
 * shape; fails with the name of the parameter or of the tensor.  Weights that
 * sum to 0 where they are normalised fail, too.
 */
PQ_MUST_USE int pq_blend_check(const struct pq_blend *b, struct pq_error *e);

/*
 * Appends the step that fills tensor `tensor` of `out`, encoded by `spec`.
 * The blend has been checked and is borrowed.  With `transpose` the tensors
 * are [columns][rows] of what is encoded.  NaN in any model fails unless
 * q->allow_nonfinite.  Lots are drawn by seed, name of the output tensor,
 * stream and element number.
 */
struct pq_step *pq_step_blend(struct pq_plan *p, const struct pq_blend *b,
                              const struct pq_catalog *out, size_t tensor,
                              const struct pq_spec *spec, bool transpose,
                              const struct pq_quant *q, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
