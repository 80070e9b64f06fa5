/*
 * Training a model: gradients, AdamW, adapters, soft prompts, sparsity.
 *
 * What is trained is a set of parameters: all weights, LoRA matrices on some
 * linear layers, the rows of a soft prompt, or the last two together.  What
 * is frozen keeps its encoding in memory and gets no gradient; the backward
 * pass ends at the lowest layer with something to train.
 *
 * A step is: any number of pq_train_gradient(), which add up, then
 * pq_train_step().  With weight = 1 / labels of all of them together,
 * batches in pieces are the big batch.
 *
 * Results are the same bits at any number of threads, with any kernels.
 * Threads: a pq_train belongs to one thread at a time; it has threads of its
 * own, as many as its options say.
 */
#ifndef PQ_TRAIN_H
#define PQ_TRAIN_H

#include "pq_kernels.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_train_what {
    PQ_TRAIN_WEIGHTS = 1u << 0, /* every tensor; not with the others */
    PQ_TRAIN_LORA = 1u << 1,
    PQ_TRAIN_PROMPT = 1u << 2
};

struct pq_train_options {
    const struct pq_kernels *kernels;
    size_t threads; /* >= 1 */
    unsigned what;  /* of enum pq_train_what */
    uint64_t seed;  /* of what is random at the start */
    bool recompute; /* keep only what goes into each block */

    /* LoRA: y = x (W + s B A)^T, s = alpha / rank, or / sqrt(rank) */
    size_t rank;
    double alpha;
    bool rslora;
    bool dora;
    /* B = U sqrt(S / s), A = sqrt(S / s) V^T of the largest singular values
       of W, which keeps the rest: an adapter for the file's W is the
       difference of what it ends with and what it began with.  Needs the
       library of pq_linalg.h */
    bool pissa;
    const char *const *targets; /* [n_targets] last names of modules, such as
                                   "q_proj"; none: all linear layers but the
                                   head */
    size_t n_targets;

    /* Soft prompt: rows before each text */
    size_t prompt_rows;
    const int32_t *prompt_ids; /* [prompt_rows] whose embeddings it begins
                                  with; NULL: of random tokens */

    /* NEFTune: alpha of the noise on embeddings in pq_train_gradient(), a
       function of the seed, the step and the row alone; 0 = none */
    double neftune;

    /* AdamW as torch's; decay is for matrices, not for biases and norms */
    double beta1, beta2, eps, weight_decay;
    double clip; /* the largest norm of all gradients; 0 = any */
};

/* beta 0.9 and 0.999, eps 1e-8, clip 1, rank 8, alpha 16; one thread. */
#define PQ_TRAIN_OPTIONS_INIT                                                  \
    {.threads = 1, .rank = 8, .alpha = 16, .beta1 = 0.9, .beta2 = 0.999,       \
     .eps = 1e-8, .clip = 1}

/*
 * A source with a model that nothing was trained into yet: the tensors that
 * config.json in the catalogue of `like` asks for, in the type that it says
 * (f32, bf16, f16; f32 if it says none), with the random numbers of `seed`
 * that transformers' models of that family begin with.  The tensors of `like`
 * are not looked at; what travels with them is copied.  Numbers are made as
 * they are read: any range, from any thread.  Errors: PQ_EARG without
 * config.json; those of pq_nn_open() about it.
 */
PQ_MUST_USE int pq_train_fresh(const struct pq_source *like, uint64_t seed,
                               const struct pq_kernels *k,
                               struct pq_source **s, struct pq_error *e);

struct pq_train;

/*
 * Loads the model as pq_nn_open() does and prepares it.  Errors: those of
 * pq_nn_open(); PQ_EARG for options that contradict each other or a target
 * that no module has.  The source may be freed afterwards.
 */
PQ_MUST_USE int pq_train_open(struct pq_source *s,
                              const struct pq_train_options *o,
                              struct pq_train **t, struct pq_error *e);
void pq_train_free(struct pq_train *t); /* NULL is fine */

struct pq_train_info {
    const char *type; /* model_type; lives as long as t */
    size_t vocab, hidden, layers, positions;
    bool positions_are_hard; /* there is no going beyond them */
    uint64_t trained;        /* numbers that are trained */
    uint64_t weight_bytes;   /* of the model in memory */
    double scale;            /* s of LoRA */
};

struct pq_train_info pq_train_about(const struct pq_train *t);
/*
 * Bytes in all that training takes with at most `rows` tokens (those of soft
 * prompts among them) in a batch, `longest` in a text.
 */
PQ_MUST_USE int pq_train_bytes(const struct pq_train *t, size_t rows,
                               size_t longest, uint64_t *bytes,
                               struct pq_error *e);

/* ---- parameters --------------------------------------------------------- */

struct pq_train_param {
    /* as files name it: of weights that of the model's file, of adapters
       "base_model.model.<module>.lora_A.weight" (lora_B.weight,
       lora_magnitude_vector), "prompt_embeddings" */
    const char *name;
    size_t rows, cols; /* cols is 0 for a vector of rows */
    float *w;          /* [rows][cols] */
    const float *g;    /* its gradient */
    float *m, *v;      /* of AdamW */
    uint8_t *mask; /* 0 where it is held at zero; NULL: dense */
    float *exact;  /* what w is rounded from; NULL: it is not */
};

size_t pq_train_params(const struct pq_train *t);
/*
 * Number i; w, m, v, mask and exact may be written before a step
 * (pq_train_changed()).
 */
struct pq_train_param pq_train_param(struct pq_train *t, size_t i);
/* To be told after w was written. */
void pq_train_changed(struct pq_train *t);

/*
 * From now on only the first `rows` rows of the soft prompt, at most all,
 * stand before each text; 0: none.
 */
void pq_train_use_prompt(struct pq_train *t, size_t rows);

/* ---- training ----------------------------------------------------------- */

#define PQ_TRAIN_IGNORE (-100) /* a label that is not learned */

struct pq_train_text {
    const int32_t *ids;    /* [n], n >= 1 */
    const int32_t *labels; /* [n] the ids, or PQ_TRAIN_IGNORE; NULL: the ids */
    size_t n;
};

/*
 * Labels that count: token i is predicted from those before it, so the first
 * of a text is not, unless a soft prompt stands before it.
 */
uint64_t pq_train_labels(const struct pq_train *t,
                         const struct pq_train_text *x, size_t n);
/*
 * Adds the gradient of weight * sum of -log p over the labels of n texts,
 * which do not see each other.  *nll is that sum, in nats.  PQ_EARG: an id or
 * label is not in the vocabulary; PQ_ELIMIT: a text is too long for the
 * model; PQ_ENOMEM.
 */
PQ_MUST_USE int pq_train_gradient(struct pq_train *t,
                                  const struct pq_train_text *x, size_t n,
                                  double weight, double *nll,
                                  struct pq_error *e);
/* The sum of -log p alone. */
PQ_MUST_USE int pq_train_score(struct pq_train *t,
                               const struct pq_train_text *x, size_t n,
                               double *nll, struct pq_error *e);
/*
 * How many labels of the last pq_train_score() were the likeliest token; of
 * tokens that are as likely the first is.
 */
uint64_t pq_train_right(const struct pq_train *t);
/*
 * Clips, updates, and sets the gradients to zero.  *norm (or NULL) is that of
 * all gradients before clipping; PQ_EVALUE when it is not finite, with nothing
 * changed.
 */
PQ_MUST_USE int pq_train_step(struct pq_train *t, double lr, double *norm,
                              struct pq_error *e);
/* Steps so far; may be set when training goes on from a checkpoint. */
uint64_t pq_train_steps(const struct pq_train *t);
void pq_train_set_steps(struct pq_train *t, uint64_t steps);

/* ---- schedules ---------------------------------------------------------- */

enum pq_schedule_shape {
    PQ_SCHEDULE_CONSTANT, PQ_SCHEDULE_LINEAR, PQ_SCHEDULE_COSINE,
    PQ_SCHEDULE_WSD /* warm-up, stable, cosine decay */
};

struct pq_schedule {
    enum pq_schedule_shape shape;
    uint64_t warmup, steps; /* warm-up is among the steps */
    uint64_t decay;         /* steps of WSD's decay, the last ones */
    double least;           /* share of the rate that remains at the end */
};

/*
 * Share of the learning rate at step k = 0, 1, ...; transformers' formulas:
 * the first of a warm-up is 0.
 */
double pq_schedule_at(const struct pq_schedule *s, uint64_t k);

/* ---- sparsity ----------------------------------------------------------- */

/*
 * Holds the smallest weights of each linear layer at zero, more and more:
 * before step begin + i every, i = 0 .. updates, counted from 0, the share
 *   to + (from - to) (1 - i / updates)^3
 * With regrow, that share of what remains is exchanged each time for the
 * zeros with the largest gradients.  For PQ_TRAIN_WEIGHTS.
 */
struct pq_train_sparsity {
    double from, to; /* in [0, 1) */
    uint64_t begin, every, updates;
    double regrow; /* in [0, 1) */
};

PQ_MUST_USE int pq_train_sparsify(struct pq_train *t,
                                  const struct pq_train_sparsity *s,
                                  struct pq_error *e);

/*
 * Keeps the weights of linear layers at values that an encoding, PQ_NF4 with
 * blocks of 64 or PQ_INT8, or a type of floats (PQ_PLAIN) can hold, from now
 * on: the model is run with these, and what the gradient updates are floats
 * beside them (round.c).  What is held at zero stays there.  So
 * pq_step_encode() of such a weight loses nothing.  For PQ_TRAIN_WEIGHTS.
 */
PQ_MUST_USE int pq_train_round(struct pq_train *t, enum pq_encoding encoding,
                               enum pq_dtype dtype, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
