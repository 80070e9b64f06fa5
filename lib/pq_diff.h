/*
 * Differences between models: figures of how far two tensors are apart, and
 * lossless deltas that turn one model into another.
 *
 * Both are steps for the engine; who joins the tensors of the two models and
 * what becomes of the results is the caller's matter.
 */
#ifndef PQ_DIFF_H
#define PQ_DIFF_H

#include "pq_engine.h"
#include "pq_hash.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_kernels;

/* ---- figures ----------------------------------------------------------- */

/*
 * How b differs from a.  An element is changed when its values differ; two
 * NaN are equal when their bits are, and +0 equals -0.  Elements that are
 * not finite on either side are in no sum; a changed one makes max_abs and
 * the norm of the difference infinite.
 */
struct pq_figures {
    bool numeric;       /* false: bytes were compared, no sums */
    uint64_t n;         /* elements, or bytes */
    uint64_t changed;
    double max_abs;     /* max |b - a| */
    double diff_sq;     /* sum (b - a)^2 */
    double a_sq, b_sq;  /* sum a^2, sum b^2 */
    double dot;         /* sum a b */
};

/* ||b - a|| / ||a||; 0 when nothing differs, +Inf when only a is 0. */
double pq_figures_relative(const struct pq_figures *f);
/* a b / (||a|| ||b||); 1 when nothing differs, 0 when one is 0. */
double pq_figures_cosine(const struct pq_figures *f);
/* Part of the elements that are changed, 0 to 1. */
double pq_figures_changed(const struct pq_figures *f);
void pq_figures_add(struct pq_figures *a, const struct pq_figures *b);

/*
 * Can plain tensors of these types be compared: as values, or (the same
 * type twice) as bytes?
 */
bool pq_compare_fits(enum pq_dtype a, enum pq_dtype b);

/*
 * Appends a step that compares two plain tensors of the same shape, of types
 * that fit; *result is set when it is done and outlives the run.
 */
struct pq_step *pq_step_compare(struct pq_plan *p,
                                const struct pq_kernels *k,
                                struct pq_source *a, const struct pq_tensor *ta,
                                struct pq_source *b, const struct pq_tensor *tb,
                                struct pq_figures *result, struct pq_error *e);

/* ---- deltas ------------------------------------------------------------ */

/* How a part of the result comes about. */
enum pq_delta_how {
    PQ_DELTA_SAME,  /* it is that of the base; nothing is stored */
    PQ_DELTA_XOR,   /* base ^ stored */
    PQ_DELTA_SUB,   /* base + stored, which has its sign in the lowest bit */
    PQ_DELTA_WHOLE, /* stored as it is */
    PQ_DELTA_N_HOW
};

struct pq_delta_part {
    enum pq_delta_how how;
    const char *base;         /* the part's name in the base, or NULL */
    struct pq_hash128 digest; /* of its bytes in the result, pq_hash128_chain */
};

/* All parts of a model, in the order of its catalogue. */
struct pq_delta {
    struct pq_catalog result;
    struct pq_delta_part *parts; /* [n_parts] */
    size_t n_parts;
    const char *base_digest, *result_digest; /* hexadecimal */
};

void pq_delta_init(struct pq_delta *d);
void pq_delta_release(struct pq_delta *d);

/* The unsigned type of the words that a part of dtype t is cut into. */
enum pq_dtype pq_delta_word(enum pq_dtype t);

/*
 * Puts what is needed to restore d->result from `base` into the catalogue of
 * the delta: its description as metadata, the files and records that `base`
 * has not, the tensors that hold the differences.
 */
PQ_MUST_USE int pq_delta_store(const struct pq_delta *d,
                               const struct pq_catalog *base,
                               struct pq_catalog *delta, struct pq_error *e);
/*
 * The reverse: d->result and d->parts from the catalogue of a delta.  Checks
 * that base and delta have all parts that are asked for, in their sizes.
 */
PQ_MUST_USE int pq_delta_load(struct pq_delta *d, const struct pq_catalog *base,
                              const struct pq_catalog *delta,
                              struct pq_error *e);
/* The parts of a catalogue (borrowed) by their names; find: or NULL. */
struct pq_delta_index;
PQ_MUST_USE struct pq_delta_index *
pq_delta_index_new(const struct pq_catalog *c, struct pq_error *e);
const struct pq_part *pq_delta_find(const struct pq_delta_index *x,
                                    const char *part);
void pq_delta_index_free(struct pq_delta_index *x);

/*
 * Looks at the first MiB of two parts of the same type and size: *how becomes
 * PQ_DELTA_XOR or PQ_DELTA_SUB, whichever has less entropy in its planes.
 */
PQ_MUST_USE int pq_step_delta_choose(struct pq_plan *p, const char *name,
                                     struct pq_source *a,
                                     const struct pq_part *pa,
                                     struct pq_source *b,
                                     const struct pq_part *pb,
                                     enum pq_delta_how *how,
                                     struct pq_error *e);
/* The difference of two parts to the only part of tensor `tensor`. */
PQ_MUST_USE int pq_step_delta(struct pq_plan *p, const char *name,
                              struct pq_source *a, const struct pq_part *pa,
                              struct pq_source *b, const struct pq_part *pb,
                              enum pq_delta_how how, size_t tensor,
                              struct pq_error *e);
/*
 * A part of the result, from a part of the base (NULL for PQ_DELTA_WHOLE)
 * and one of the delta (NULL for PQ_DELTA_SAME).  Fails at its end when the
 * bytes have not the digest that `part` (borrowed) says.
 */
PQ_MUST_USE int pq_step_patch(struct pq_plan *p, const char *name,
                              struct pq_source *base, const struct pq_part *pa,
                              struct pq_source *delta, const struct pq_part *pd,
                              const struct pq_delta_part *part, size_t tensor,
                              size_t number, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
