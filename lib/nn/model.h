/*
 * A model in memory, and running it.
 *
 * Weights keep the encoding of the file; vectors (norms, biases) and scales
 * are widened to float.  A forward pass takes a batch of rows that belong to
 * sequences, each with its place in a cache of keys and values:
 *
 *   x = embed(ids)
 *   each layer:  x += post(attention(norm1(x)));  x += post(mlp(norm2(x)))
 *   hidden = norm(x);   logits = cap(head(hidden))
 *
 * One block_forward() serves all families; what differs is in nn_config.
 */
#ifndef NN_MODEL_H
#define NN_MODEL_H

#include "nn_config.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nn_layer {
    const float *norm1, *norm1_bias; /* [hidden]; biases of layer norms only */
    const float *norm2, *norm2_bias;
    const float *post1, *post2;   /* [hidden] if four_norms */
    const float *q_norm, *k_norm; /* [d] if qk_norm */
    struct nn_linear q, k, v, o;  /* heads * d, kv_heads * d (twice), hidden */
    struct nn_linear gate, up, down; /* gate if gated */
};

struct nn_model {
    struct nn_config c;
    struct pq_arena arena;
    struct nn_mat embed;  /* [vocab][hidden] */
    struct nn_mat places; /* [positions][hidden] if learned_places */
    const float *norm, *norm_bias; /* [hidden] */
    struct nn_linear head;         /* vocab; of the embedding where tied */
    bool head_is_embed;
    struct nn_layer *layers; /* [c.layers] */
    void **owned;            /* [n_owned] */
    size_t n_owned, cap_owned;
    uint64_t bytes; /* of all weights, as they are held */
};

/*
 * Reads config.json of the source's catalogue and all weights.  Every tensor
 * must be one that the config asks for, of its shape: messages name the
 * tensor.  The source may be freed afterwards.
 */
PQ_MUST_USE int nn_model_load(struct nn_model *m, struct pq_source *s,
                              const struct pq_kernels *k, struct pq_error *e);
void nn_model_release(struct nn_model *m);

/* Keys and values of all layers, for `rows` tokens in all. */
struct nn_cache {
    float *k, *v; /* [layers][rows][kv_heads * d] */
    size_t rows;
};

PQ_MUST_USE int nn_cache_init(struct nn_cache *c, const struct nn_model *m,
                              size_t rows, struct pq_error *e);
void nn_cache_release(struct nn_cache *c);

/* Buffers for a batch of at most `rows` rows. */
struct nn_work {
    size_t rows;
    float *x, *y;         /* [rows][hidden] */
    float *q, *o;         /* [rows][heads * d] */
    float *k, *v;         /* [rows][kv_heads * d] */
    float *gate, *up;     /* [rows][ffn] */
    float *cosine, *sine; /* [rows][half] */
    size_t *positions;    /* [rows] */
    struct nn_inputs *inputs; /* to be added up, borrowed, or NULL */
};

PQ_MUST_USE int nn_work_init(struct nn_work *w, const struct nn_model *m,
                             size_t rows, struct pq_error *e);
void nn_work_release(struct nn_work *w);

struct nn_batch {
    const int32_t *ids; /* [rows], each below vocab */
    size_t rows;
    const struct nn_sequence *s; /* [n] in order, covering all rows */
    const size_t *length;        /* [n] tokens of each in the end: see rope */
    size_t n;
};

/*
 * Runs the batch: w->x becomes the normed hidden states [rows][hidden], the
 * cache gets the keys and values of its rows.
 */
void nn_forward(struct nn_pool *pool, const struct nn_model *m,
                const struct nn_batch *b, struct nn_cache *cache,
                struct nn_work *w);

/* Parts of a pass, for nn_forward() and for training (tape.h). */

/* A norm of the hidden size. */
void nn_norm(struct nn_pool *pool, const struct nn_config *c,
             float *y /* [rows][hidden] */, const float *x /* [rows][hidden] */,
             const float *w, const float *bias, size_t rows);
/* Heads of q or k: normed one by one if qk_norm, then turned; in place. */
void nn_place(struct nn_pool *pool, const struct nn_config *c,
              float *x /* [rows][heads][d] */,
              const float *raw /* [rows][heads][d], x unless qk_norm */,
              size_t heads, const float *w, const float *cosine,
              const float *sine, size_t rows);
struct nn_attention nn_attention_of(const struct nn_model *m, size_t layer);
/* Logits of n rows of hidden states, final cap included. */
void nn_logits(struct nn_pool *pool, const struct nn_model *m,
               float *z /* [n][vocab] */, const float *x /* [n][hidden] */,
               size_t n);

/* ---- inputs.c ------------------------------------------------------------ */

/* Where in a layer a matrix product begins: those of one place share it. */
enum nn_place { NN_IN_ATTENTION, NN_IN_OUT, NN_IN_MLP, NN_IN_DOWN, NN_PLACES };

struct nn_inputs;

/*
 * Sums of the squares, if they are wanted, of all places; and, from place
 * *from on, of products in as many as `bytes` have room for: *from becomes
 * the first that has none.  NULL: no products.
 */
PQ_MUST_USE int nn_inputs_new(const struct nn_model *m, bool squares,
                              uint64_t bytes, size_t *from,
                              struct nn_inputs **x, struct pq_error *e);
void nn_inputs_free(struct nn_inputs *x); /* NULL is fine */
struct pq_nn_inputs;
/* Those of weight number `number`; false: there are no more. */
bool nn_inputs_of(const struct nn_inputs *x, size_t number,
                  struct pq_nn_inputs *out);
/* Makes the sums means; nothing may be added then. */
void nn_inputs_mean(struct nn_inputs *x);
/* Adds rows of x [rows][in of that place]; NULL inputs: does nothing. */
void nn_inputs_add(struct nn_inputs *in, struct nn_pool *pool, size_t layer,
                   enum nn_place place, const float *x, size_t rows);

#ifdef __cplusplus
}
#endif
#endif
