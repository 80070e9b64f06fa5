/*
 * Surgery: changing the weights of a model by what other files hold.
 *
 * An *edit* is one change to one tensor: a low-rank product, a vector to
 * add, a tensor or some rows to put in its place.  A step applies a list of
 * edits to a tensor, in order, in float, and rounds once.
 *
 * Where w is the weight of an edit, s its scale, W the tensor as it was
 * read and X what the edits before have made of it:
 *
 *   product    X + w s B A                       (turned: its transpose)
 *   with m     X + w (m/|X + s B A| (X + s B A) - X)      DoRA; the norm is
 *              of each output: of rows [out][in], of columns when turned
 *   add        X + w s v
 *   replace    X + w (V - W)
 *   rows       X[i] + w (V[k] - W[i]) for the k-th row index i
 */
#ifndef PQ_SURGERY_H
#define PQ_SURGERY_H

#include "pq_quant.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_edit_kind {
    PQ_EDIT_PRODUCT,
    PQ_EDIT_ADD,
    PQ_EDIT_REPLACE,
    PQ_EDIT_ROWS
};

struct pq_edit {
    enum pq_edit_kind kind;
    struct pq_source *source; /* random access, of b alone if a has its own */
    struct pq_source *source_a; /* product: or NULL */
    const struct pq_tensor *a; /* product: [rank][in...] */
    const struct pq_tensor *b; /* product: [out][rank...] */
    uint64_t stack; /* product: of so many, one a matrix of a tensor
                       [stack][out][in], a [stack * rank][in] and
                       b [stack * out][rank]; 0: of one */
    const struct pq_tensor *magnitude; /* product: [out], or NULL */
    const struct pq_tensor *value; /* of the other kinds */
    const uint64_t *rows;          /* PQ_EDIT_ROWS: [value->shape[0]] */
    double scale, weight;
    bool turned; /* the output tensor is [in][out] */
};

/*
 * Does the edit fit a tensor of this shape, in the layout of the output?
 * Fails with both shapes.
 */
PQ_MUST_USE int pq_edit_check(const struct pq_edit *d, const uint64_t *shape,
                              int rank, struct pq_error *e);

/*
 * Appends the step that encodes `in` of `src` with the edits made.  They are
 * borrowed.  q->report sees the sums from which pq_retained() is made.
 */
struct pq_step *pq_step_edit(struct pq_plan *p, struct pq_source *src,
                             const struct pq_tensor *in,
                             const struct pq_catalog *out, size_t tensor,
                             const struct pq_spec *spec, bool transpose,
                             const struct pq_edit *edits, size_t n_edits,
                             const struct pq_quant *q, struct pq_error *e);

/*
 * The part of a matrix W [rows][cols] that its first columns span: Q (Q^T W)
 * with Q [rows][n] from the QR of the first n columns.  Lives while `found`
 * runs.
 */
struct pq_leading {
    uint64_t rows, cols;
    size_t n;
    const double *q;    /* [rows][n] orthonormal columns */
    const double *q_t_w; /* [n][cols] */
};

/*
 * Appends a step that only reads, tensor t of source s twice; n <= rows and
 * cols.  Plain and floating (else pq_decoded_new); NaN and infinities fail.
 * Memory: Q and Q^T W in double, the second once more a thread.  `found` is
 * called once, in plan order; step->user is the caller's.
 */
struct pq_step *pq_step_leading(struct pq_plan *p, struct pq_source *s,
                                const struct pq_tensor *t, size_t n,
                                const struct pq_kernels *kernels,
                                int (*found)(const struct pq_step *s,
                                             const struct pq_leading *l,
                                             struct pq_error *e),
                                struct pq_error *e);

/* What a product does to a tensor, as a matrix of its own. */
struct pq_effect {
    const char *name;    /* copied */
    struct pq_edit edit; /* PQ_EDIT_PRODUCT; `source` holds its factors */
    /* with a magnitude: the tensor that it changes, plain, random access */
    struct pq_source *base;
    const struct pq_tensor *w;
};

/*
 * A source of effects: of each a plain F32 tensor [out][in], or turned [in]
 * [out], whose numbers are computed as they are read:
 *
 *     w s B A         with m     w (m/|W + s B A| (W + s B A) - W)
 *
 * For what must see the numbers themselves: trimming, singular values.
 * Random access; what it reads is borrowed, and the list copied.
 */
PQ_MUST_USE int pq_effects_new(const char *name,
                               const struct pq_effect *effects /* [n] */,
                               size_t n, const struct pq_kernels *k,
                               struct pq_source **s, struct pq_error *e);

/* A matrix among those that are put together, and its factor. */
struct pq_piece {
    struct pq_source *source;
    const struct pq_tensor *tensor;
    double scale;
};

enum pq_joint {
    PQ_BELOW,  /* one below the other */
    PQ_BESIDE, /* side by side */
    PQ_ADDED   /* summed, element by element; any shape */
};

/*
 * Appends the step that puts matrices together, each times its factor, in
 * float, as the floating type of the output tensor.  The pieces are borrowed;
 * they fit, or the step fails.  None at all is 0.
 */
struct pq_step *pq_step_concat(struct pq_plan *p, const struct pq_catalog *out,
                               size_t tensor, const struct pq_piece *pieces,
                               size_t n, enum pq_joint joint,
                               const struct pq_quant *q, struct pq_error *e);

/*
 * How much of the change is left after rounding: the cosine between the
 * applied and the wanted one.  1 when nothing was to be changed and nothing
 * was; 0 when all of it was lost.
 */
double pq_retained(const struct pq_quality *q);

#ifdef __cplusplus
}
#endif
#endif
