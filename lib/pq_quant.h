/*
 * Quantization: from weights to codes and back, as steps for the engine.
 *
 * A *spec* says what a tensor becomes: a plain type (a cast) or an encoding
 * with its parameters.  For every tensor of the output a tool calls
 * pq_quant_declare() once (name, shape, parts, sizes, all known beforehand)
 * and one of the pq_step_*() functions, which append the step that fills it.
 *
 * Arithmetic and byte layout: bitsandbytes 0.50, CPU path; see the head
 * comments of lib/quant/ and lib/pq_kernels.h.
 */
#ifndef PQ_QUANT_H
#define PQ_QUANT_H

#include "pq_engine.h"
#include "pq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_spec {
    enum pq_encoding encoding; /* PQ_PLAIN: a cast to dtype */
    enum pq_dtype dtype;       /* of a cast */
    uint32_t block;            /* of nf4, fp4, int8_block; 0 = the default */
    bool double_quant;         /* absmax in 8 bits; of nf4 and fp4 */
    bool optimize;             /* search for scales with less error */
};

/*
 * "f16", "nf4", ... into *s (block 0, flags off); -1 when there is no such
 * type.  pq_spec_types() lists all names, separated by spaces.
 */
int pq_spec_parse(const char *name, struct pq_spec *s);
const char *pq_spec_types(void);
/* Fills in the default block and checks that the parameters fit. */
PQ_MUST_USE int pq_spec_check(struct pq_spec *s, struct pq_error *e);

/* How good the copy of a tensor is; what -v and --json print. */
struct pq_quality {
    uint64_t n;          /* elements */
    uint64_t nans, infs; /* in the input */
    uint64_t overflows;  /* finite values beyond the range of the output */
    double signal;       /* sum x^2 */
    double noise;        /* sum (x - y)^2 */
    double plain_noise;  /* the same without --optimize, if that was asked */
    float max_error;     /* max |x - y| */
    /* of a change: sums of wanted^2, applied^2 and their product */
    double wanted, applied, both;
};

/* 10 log10(signal / noise); +Inf when there is no noise. */
double pq_sqnr_db(double signal, double noise);

/* What all steps of a tool share; outlives the plan. */
struct pq_quant {
    const struct pq_kernels *kernels;
    bool allow_nonfinite;
    bool measure; /* fill in signal, noise and max_error: costs time */
    /* Called in plan order when a step is complete; may be NULL. */
    int (*report)(const struct pq_step *s, const struct pq_quality *q,
                  struct pq_error *e);
};

/*
 * Appends to `out` the tensor that `in` becomes.  With `transpose` a 2-D
 * tensor [rows][cols] becomes [cols][rows].
 */
PQ_MUST_USE struct pq_tensor *
pq_quant_declare(struct pq_catalog *out, const struct pq_tensor *in,
                 const struct pq_spec *spec, bool transpose,
                 struct pq_error *e);
/* Appends an exact copy of the tensor's description. */
PQ_MUST_USE struct pq_tensor *pq_tensor_copy(struct pq_catalog *out,
                                             const struct pq_tensor *in,
                                             struct pq_error *e);

/*
 * The steps.  `in` is a tensor of `src`, `tensor` the number of its output
 * in the output catalogue `out`; step->user is left to the caller.
 */
struct pq_step *pq_step_encode(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_spec *spec, bool transpose,
                               const struct pq_quant *q, struct pq_error *e);

/*
 * A change made to the numbers of a tensor between widening and encoding
 * (pq_surgery.h and pq_blend.h make them).  It sees whole rows of the output;
 * a tensor of one dimension has rows of one element.
 *
 * Where it must know something of the whole tensor first, it gathers: in
 * each pass apply() leaves a partial result of its rows, combine() adds
 * those up in the order of the rows, settle() draws the conclusion.
 */
struct pq_rows {
    const struct pq_kernels *kernels;
    bool allow_nonfinite;
    uint64_t first, count, columns;
    const void *raw;   /* the first input as it was read */
    const float *base; /* [count][columns] the same widened; NULL if `fresh` */
    float *x; /* [count][columns] the same, to be changed; dirty if `fresh` */
    const void *const *in; /* the change's own inputs */
    float *scratch;        /* [count * row_floats + fixed_floats] */
    unsigned pass;         /* the gather pass, or n_gather to emit */
    const void *state;     /* what was combined in the passes before */
    void *partial; /* zeroed, for the result of a gather pass, else NULL */
};

struct pq_change {
    const struct pq_input *in; /* [n_in]; item_* are those of one row */
    size_t n_in;
    uint64_t columns;       /* elements of a row, if not those of the shape */
    uint64_t unit_elements; /* about so many are worked on at a time, or 0 */
    size_t row_floats, fixed_floats;
    bool fresh; /* makes x from raw inputs; what is left is not measured */
    unsigned n_gather;
    size_t partial_bytes, state_bytes; /* the state is zeroed; both aligned 8 */
    int (*apply)(const struct pq_change *c, const struct pq_rows *r,
                 struct pq_error *e);
    /* `before`: the rows of the partials that were combined before it. */
    void (*combine)(const struct pq_change *c, unsigned pass, uint64_t before,
                    void *state, const void *partial);
    /* After the last rows of a pass; may be NULL. */
    void (*settle)(const struct pq_change *c, unsigned pass, void *state);
    const void *params;
};

/* pq_step_encode with a change, whose fate is measured unless it is fresh. */
struct pq_step *pq_step_change(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_spec *spec, bool transpose,
                               const struct pq_change *change,
                               const struct pq_quant *q, struct pq_error *e);

/* Any encoding to the plain floating type of the output tensor. */
struct pq_step *pq_step_decode(struct pq_plan *p, struct pq_source *src,
                               const struct pq_tensor *in,
                               const struct pq_catalog *out, size_t tensor,
                               const struct pq_quant *q, struct pq_error *e);
/* Bytes as they are, one step a part. */
PQ_MUST_USE int pq_step_copy(struct pq_plan *p, struct pq_source *src,
                             const struct pq_tensor *in, size_t tensor,
                             struct pq_error *e);
PQ_MUST_USE int pq_step_copy_part(struct pq_plan *p, struct pq_source *src,
                                  const struct pq_part *in, const char *name,
                                  size_t tensor, size_t part,
                                  struct pq_error *e);

/*
 * Does the tensor have the parts of its encoding, of the types and sizes
 * that a decoder relies on?  Every reader of encoded tensors asks.
 */
bool pq_codec_sound(const struct pq_tensor *t);

/*
 * Folding: entries of a safetensors catalogue that belong together (codes,
 * absmax, quant_map, quant_state; rows and SCB) become one tensor with an
 * encoding.  What does not fit stays plain.  The small quant_state parts are
 * read; from a pipe that means spooling what lies before them, at most
 * `memory` bytes of it in memory.
 */
PQ_MUST_USE int pq_fold(struct pq_source *s, uint64_t memory,
                        const char *tmpdir, struct pq_error *e);

/*
 * A view of `inner` in which every encoded tensor is plain F32: ranges are
 * decoded as they are read.  For what wants numbers and
 * does not care how they are stored (requantizing, and later merging).
 * `inner` is borrowed, as are the kernels; `memory` bounds what is kept of a
 * pipe whose scales come after the codes.  Sequential if `inner` is.  A plan
 * that reads the view lists both as its sources: finishing is inner's.
 */
PQ_MUST_USE int pq_decoded_new(struct pq_source *inner,
                               const struct pq_kernels *k, uint64_t memory,
                               const char *tmpdir, struct pq_source **s,
                               struct pq_error *e);

/* Widens n elements of a floating type; scalar where no kernel exists. */
void pq_load_f32(const struct pq_kernels *k, enum pq_dtype dtype,
                 const void *in, size_t n, float *out);
void pq_store_f32(const struct pq_kernels *k, enum pq_dtype dtype,
                  const float *in, size_t n, void *out);
/* All of a plain tensor of floats, of a source that is not sequential. */
PQ_MUST_USE int pq_read_f32(const struct pq_kernels *k, struct pq_source *s,
                            const struct pq_tensor *t,
                            float *out /* [n_elements] */,
                            struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
