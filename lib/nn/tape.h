/*
 * Forward and backward through a model for training.
 *
 * A batch is whole sequences side by side, packed without padding: each has
 * positions from 0 and sees only itself.  The forward pass keeps what the
 * backward pass needs; norm outputs and activations are made again:
 *
 *   x                  [rows][hidden]      input of the block
 *   q k v o, lse       after rope          attention
 *   mid                [rows][hidden]      between the halves
 *   gate up            [rows][ffn]
 *
 * Layers below the lowest that is trained keep nothing, nor does the
 * backward pass go there.  With `recompute` a layer keeps x alone, and runs
 * forward once more before it runs backward.
 */
#ifndef NN_TAPE_H
#define NN_TAPE_H

#include "backward.h"
#include "params.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_kept {
    float *x, *mid;       /* [rows][hidden] */
    float *q0, *k0;       /* q and k before their norms, if qk_norm */
    float *q, *o;         /* [rows][heads * d] */
    float *k, *v;         /* [rows][kv_heads * d] */
    float *lse;           /* [rows][heads] */
    float *gate, *up;     /* [rows][ffn] */
    float *half1, *half2; /* [rows][hidden] before post norms, if four_norms */
};

/* What to make room for. */
struct nn_tape_plan {
    size_t rows, keys; /* of a batch, of the longest of its sequences */
    size_t rank;       /* the largest of an adapter, 0: none */
    bool dora;
    size_t lowest; /* layer with something trained; layers: none */
    bool below;    /* something under all layers is trained */
    bool recompute;
};

struct nn_tape {
    struct nn_tape_plan plan;
    struct nn_pool *pool;
    const struct nn_model *m;
    const struct nn_params *params;
    const float *prompt; /* [n_prompt][hidden], or NULL */
    size_t n_prompt;
    float noise;                     /* NEFTune's alpha, 0: none */
    const char *noise_name;          /* of its random numbers in this batch */
    uint64_t noise_seed, noise_from; /* the first of them */
    float *floats;                   /* all of these */
    struct nn_kept *kept;            /* [layers + 1]; of the last only x */
    float *y, *dx, *dy;              /* [rows][hidden] */
    float *act, *dact;               /* [rows][ffn] */
    float *dq, *dk, *dv;
    float *stat1, *stat2; /* [rows * heads] */
    float *cosine, *sine; /* [rows][half] */
    struct nn_loss_scratch loss;
    struct nn_delta_grads grads; /* e, xa, y, dy, sum */
    double *nll;                 /* [rows] */
    size_t right; /* labels of nn_tape_score() that were the likeliest */
};

struct nn_train_batch {
    const int32_t *ids;          /* [rows], -1 for rows of the soft prompt */
    const int32_t *labels;       /* [rows] what follows, or NN_IGNORE */
    const size_t *positions;     /* [rows] */
    const struct nn_sequence *s; /* [n], each from its soft prompt on */
    size_t n, rows;
};

/* Bytes that nn_tape_init() allocates, and what the pool's threads need. */
PQ_MUST_USE bool nn_tape_bytes(const struct nn_model *m,
                               const struct nn_tape_plan *plan,
                               uint64_t *bytes);
PQ_MUST_USE int nn_tape_init(struct nn_tape *t, const struct nn_tape_plan *plan,
                             struct nn_pool *pool, const struct nn_model *m,
                             const struct nn_params *params,
                             struct pq_error *e);
void nn_tape_release(struct nn_tape *t);

/* The sum of -log p over all labels, in nats, in row order. */
double nn_tape_score(struct nn_tape *t, const struct nn_train_batch *b);
/* The same; adds the gradients of weight * that to params->g. */
double nn_tape_gradient(struct nn_tape *t, const struct nn_train_batch *b,
                        float weight);

/* tape.c, for tape_back.c: */
/* `again`: all but what leads only to the next layer's x. */
void nn_tape_block(struct nn_tape *t, const struct nn_train_batch *b,
                   size_t layer, bool again);
/* tape_back.c */
void nn_tape_back(struct nn_tape *t, const struct nn_train_batch *b);

#ifdef __cplusplus
}
#endif
#endif
