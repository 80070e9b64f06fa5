/*
 * Running a model: likelihoods of texts, logits, one token after the other.
 *
 * A model is read into memory with its weights encoded as they are; they are
 * decoded where they are multiplied.  Results are the same bits at any number
 * of threads, with any kernels, and whether a text is run whole, in pieces or
 * among others.
 *
 * Threads: a pq_nn, and what was made of it, belongs to one thread at a time;
 * it has threads of its own.
 */
#ifndef PQ_NN_H
#define PQ_NN_H

#include "pq_kernels.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_nn;

struct pq_nn_options {
    const struct pq_kernels *kernels;
    size_t threads; /* >= 1 */
    size_t rows;    /* tokens that are run at a time; 0 = 512 */
};

/*
 * Loads the model of a source: config.json from its catalogue, every tensor
 * from its parts (run pq_fold() before, so that encoded weights are known as
 * such).  The source is read to its end and may be freed then.  Fails naming
 * the tensor where config.json and the tensors disagree, and the family or
 * the key where it asks for what is not supported.
 */
PQ_MUST_USE int pq_nn_open(struct pq_source *s, const struct pq_nn_options *o,
                           struct pq_nn **nn, struct pq_error *e);
void pq_nn_free(struct pq_nn *nn); /* NULL is fine */

struct pq_nn_info {
    const char *type; /* "llama", "gpt2", ...; lives as long as the model */
    size_t vocab;
    size_t positions;      /* max_position_embeddings */
    bool positions_are_hard; /* there is no going beyond them */
    uint64_t bytes;          /* of the weights in memory */
};

struct pq_nn_info pq_nn_about(const struct pq_nn *nn);

/*
 * Rows [first, first + n) of the logits of text number `text`, in order; a
 * return of -1 (with *e) stops the work.
 */
typedef int pq_nn_rows(void *arg, size_t text, size_t first, size_t n,
                       const float *logits /* [n][vocab] */,
                       struct pq_error *e);

struct pq_nn_text {
    const int32_t *ids; /* [n] */
    size_t n;
    size_t from; /* the first token that is scored; 0 counts as 1 */
    double *nll; /* [n] -log p(ids[i] | ids before it), in nats, 0 where it is
                    not scored; or NULL */
};

/*
 * Runs texts and scores their tokens: several short ones at a time, a long
 * one in pieces.  Logits are made for scored tokens only, a few rows at a
 * time; with `rows` for all, and handed out.
 */
PQ_MUST_USE int pq_nn_score(struct pq_nn *nn, const struct pq_nn_text *t,
                            size_t n, pq_nn_rows *rows, void *arg,
                            struct pq_error *e);

/*
 * How another model's predictions of the tokens of a text differ from those
 * of `base`: KL(base || nn) in nats, and whether both find the same token the
 * likeliest; 0 and false for tokens that are not scored.  Both models must
 * have the same vocabulary.
 */
PQ_MUST_USE int pq_nn_compare(struct pq_nn *base, struct pq_nn *nn,
                              const struct pq_nn_text *t,
                              double *kl /* [n] */, bool *same /* [n] */,
                              struct pq_error *e);

/*
 * What the matrices of the layers get as inputs, summed over all tokens that
 * are run from pq_nn_watch() (again: from zero) to pq_nn_watch_end(), which
 * makes the sums means.  Squares are taken of all, or of none; they take 8
 * bytes an input.  Products take 4 bytes a pair of inputs, so there may be
 * room for some only, a run over the texts each: matrices whose input is one,
 * as that of q, k and v, have one place; products are taken of place *from
 * and those behind it while they fit `bytes`.  *from becomes the first that
 * was not taken, the number of places in the end.  from NULL: no products.
 */
PQ_MUST_USE int pq_nn_watch(struct pq_nn *nn, bool squares, uint64_t bytes,
                            size_t *from, struct pq_error *e);
void pq_nn_watch_end(struct pq_nn *nn);
/* Frees all of that. */
void pq_nn_unwatch(struct pq_nn *nn);

struct pq_nn_inputs {
    const char *weight; /* name of the tensor in the file */
    size_t place, in;
    uint64_t tokens;
    const double *squares; /* [in] of x[i]^2, or NULL */
    const float *products; /* [in][in] of x[i] x[j], or NULL */
};

/*
 * Those of weight number `i`, from 0, since the last pq_nn_watch(); false
 * when there are no more.
 */
bool pq_nn_watched(const struct pq_nn *nn, size_t i, struct pq_nn_inputs *x);

/* A text that grows: keys and values of what was fed are kept. */
struct pq_nn_stream;

/* Room for `length` tokens; dynamic rope and longrope count on this length. */
PQ_MUST_USE int pq_nn_stream_new(struct pq_nn *nn, size_t length,
                                 struct pq_nn_stream **s, struct pq_error *e);
/*
 * Feeds n >= 1 tokens.  Leaves the logits that follow the last one in
 * `logits`, unless that is NULL.  PQ_ELIMIT when there is no room.
 */
PQ_MUST_USE int pq_nn_feed(struct pq_nn_stream *s, const int32_t *ids, size_t n,
                           float *logits /* [vocab] */, struct pq_error *e);
size_t pq_nn_fed(const struct pq_nn_stream *s); /* tokens so far */
void pq_nn_stream_free(struct pq_nn_stream *s); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
