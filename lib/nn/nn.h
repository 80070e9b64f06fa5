/*
 * The operations of a model: plain functions on arrays, one file each, with
 * the formula in its head.  No state: what a backward pass needs of a forward
 * pass is an argument.
 *
 * Shapes: rows = tokens of a batch, h = hidden size, d = head size.  All
 * matrices are row major.  Results do not depend on the number of threads,
 * and those of a row not on the other rows.  The pool comes first; outputs
 * before inputs; an output may be one of the inputs of the same shape where
 * it says "in place".
 */
#ifndef NN_NN_H
#define NN_NN_H

#include "mat.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rmsnorm.c ---------------------------------------------------------- */

/* `plus_one`: the weight is 1 + w.  In place. */
void nn_rmsnorm(struct nn_pool *pool, float *y /* [rows][n] */,
                const float *x /* [rows][n] */, const float *w /* [n] */,
                size_t rows, size_t n, float eps, bool plus_one);

/* ---- layernorm.c -------------------------------------------------------- */

/* In place. */
void nn_layernorm(struct nn_pool *pool, float *y /* [rows][n] */,
                  const float *x /* [rows][n] */, const float *w /* [n] */,
                  const float *b /* [n] */, size_t rows, size_t n, float eps);

/* ---- linear.c ----------------------------------------------------------- */

struct nn_linear {
    const char *name; /* of the weight, as the file has it, or NULL */
    struct nn_mat w;   /* [out][in], or [in][out] if `turned` */
    bool turned;       /* a Conv1D */
    size_t in, out;
    const float *bias; /* [out] or NULL */
    const struct nn_delta *delta; /* an adapter (delta.h), or NULL */
};

/* y = x w^T + bias, with the adapter. */
void nn_linear(struct nn_pool *pool, float *y /* [rows][out] */,
               const float *x /* [rows][in] */, const struct nn_linear *l,
               size_t rows);

/* ---- embed.c ------------------------------------------------------------ */

/*
 * y = scale * table[id], + places[position] unless places is NULL; an id < 0
 * is a row of zeros.
 */
void nn_embed(struct nn_pool *pool, float *y /* [rows][h] */,
              const struct nn_mat *table /* [vocab][h] */, float scale,
              const struct nn_mat *places /* [positions][h] or NULL */,
              const int32_t *ids /* [rows] */,
              const size_t *positions /* [rows] */, size_t rows);

/* ---- rope.c ------------------------------------------------------------- */

/* cos and sin of position * inv[t], times a. */
void nn_rope_table(float *cosine /* [rows][half] */,
                   float *sine /* [rows][half] */,
                   const size_t *positions /* [rows] */, size_t rows,
                   const float *inv /* [half] */, size_t half, float a);
/* Turns each head of x in place; `back` by the opposite angle. */
void nn_rope(struct nn_pool *pool, float *x /* [rows][heads][d] */,
             const float *cosine /* [rows][half] */,
             const float *sine /* [rows][half] */, size_t rows, size_t heads,
             size_t d, size_t half, bool back);

/* ---- attention.c -------------------------------------------------------- */

/*
 * A sequence: its n queries are rows [q, q + n) of the batch, its keys and
 * values rows [kv, kv + past + n) of theirs.  Query i sees keys 0 .. past + i.
 */
struct nn_sequence {
    size_t q, n;
    size_t kv, past;
};

struct nn_attention {
    size_t heads, kv_heads, d;
    float scale;   /* of q k^T */
    float cap;     /* of scores: cap tanh(s / cap); 0 = none */
    size_t window; /* keys that a query sees, itself among them; 0 = all */
};

/* The first key that the query at key index p sees. */
static inline size_t nn_first_key(const struct nn_attention *a, size_t p)
{
    return a->window && p >= a->window ? p - a->window + 1 : 0;
}

#define NN_QUERIES 64 /* in a tile */

/* Spare floats that a worker needs for at most `keys` keys in a sequence. */
size_t nn_attention_spare(size_t keys);
/*
 * o = softmax(scale q k^T) v for each sequence and head; the pool has the
 * spare floats.  lse may be NULL: log of the sum of e^score.
 */
void nn_attention(struct nn_pool *pool, float *o /* [rows][heads][d] */,
                  float *lse /* [rows][heads] */,
                  const float *q /* [rows][heads][d] */,
                  const float *k /* [keys][kv_heads][d] */,
                  const float *v /* [keys][kv_heads][d] */,
                  const struct nn_attention *a,
                  const struct nn_sequence *s /* [n_sequences] */,
                  size_t n_sequences);

/* ---- activation.c ------------------------------------------------------- */

enum nn_act { NN_SILU, NN_GELU_TANH };

/* y = act(g) * u, u NULL is all ones; in place of either. */
void nn_activate(struct nn_pool *pool, float *y /* [n] */,
                 const float *g /* [n] */, const float *u /* [n] */, size_t n,
                 enum nn_act act);

/* ---- add.c -------------------------------------------------------------- */

/* y = x + z; in place of either. */
void nn_add(struct nn_pool *pool, float *y /* [n] */, const float *x /* [n] */,
            const float *z /* [n] */, size_t n);
/* y = x * a; in place. */
void nn_scale(struct nn_pool *pool, float *y /* [n] */,
              const float *x /* [n] */, float a, size_t n);
/* x = cap tanh(x / cap) */
void nn_softcap(struct nn_pool *pool, float *x /* [n] */, float cap, size_t n);

/* ---- cross_entropy.c ---------------------------------------------------- */

#define NN_IGNORE    (-100) /* a label that is not scored */
#define NN_LOSS_ROWS 256    /* rows of logits at a time, at most */

/*
 * lse = log sum e^z, nll = lse - z[label] in nats, 0 where it is ignored;
 * right: the label's is the first of the largest z.
 */
void nn_cross_entropy(struct nn_pool *pool, double *nll /* [rows] */,
                      double *lse /* [rows] or NULL */,
                      bool *right /* [rows] or NULL */,
                      const float *z /* [rows][vocab] */,
                      const int32_t *labels /* [rows] */, size_t rows,
                      size_t vocab);
/* z = x head^T, cap tanh(z / cap) unless cap is 0. */
void nn_head_logits(struct nn_pool *pool, float *z /* [rows][vocab] */,
                    const float *x /* [rows][h] */,
                    const struct nn_linear *head, float cap, size_t rows);
/*
 * Cross entropy from the hidden states, in runs of `chunk` rows: the logits
 * of all rows never exist together.  Rows without a label cost nothing.
 */
void nn_head_loss(struct nn_pool *pool, double *nll /* [rows] */,
                  size_t *right /* how many are, or NULL */,
                  const float *x /* [rows][h] */, const struct nn_linear *head,
                  float cap, const int32_t *labels /* [rows] */, size_t rows,
                  float *z /* [chunk][vocab], scratch */,
                  float *gathered /* [chunk][h], scratch */, size_t chunk);

/* ---- divergence.c ------------------------------------------------------- */

/* KL(z || y) of each row, and whether their largest logits are the same. */
void nn_divergence(struct nn_pool *pool, double *kl /* [rows] */,
                   bool *same /* [rows] */, const float *z /* [rows][vocab] */,
                   const double *lse_z /* [rows] */,
                   const float *y /* [rows][vocab] */,
                   const double *lse_y /* [rows] */, size_t rows,
                   size_t vocab);

#ifdef __cplusplus
}
#endif
#endif
