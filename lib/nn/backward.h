/*
 * The operations of a model backwards: one file each, named after the forward
 * one, with the formula in its head.
 *
 * dx is the gradient of the loss by x.  What a forward pass computed is
 * computed again where that is cheap, so little is kept.  Gradients of
 * parameters are always added to what is there; those of activations only
 * where it says `add`.  Sums over rows run in blocks of NN_SUM_ROWS rows, or
 * in the blocks of the product (mat.h), which are added in order: no result
 * depends on the number of threads.
 */
#ifndef NN_BACKWARD_H
#define NN_BACKWARD_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NN_SUM_ROWS 64

/* ---- columns.c ---------------------------------------------------------- */

/* out[j] += sum of x[r][j] */
void nn_column_sums(struct nn_pool *pool, float *out /* [n] */,
                    const float *x /* [rows][n] */, size_t rows, size_t n);
/* out[j] += sum of x[r][j] ((y[r][j] - shift[r]) scale[r]); NULLs: 0 and 1 */
void nn_column_products(struct nn_pool *pool, float *out /* [n] */,
                        const float *x /* [rows][n] */,
                        const float *y /* [rows][n] */,
                        const float *shift /* [rows] or NULL */,
                        const float *scale /* [rows] or NULL */, size_t rows,
                        size_t n);

/* ---- rmsnorm_back.c, layernorm_back.c ----------------------------------- */

/* dw may be NULL; dx may be dy unless `add`. */
void nn_rmsnorm_back(struct nn_pool *pool, float *dx /* [rows][n] */,
                     float *dw /* [n] */, const float *dy /* [rows][n] */,
                     const float *x /* [rows][n] */, const float *w /* [n] */,
                     size_t rows, size_t n, float eps, bool plus_one, bool add,
                     float *inv_rms /* [rows], scratch */);
/* dw and db may be NULL; dx may be dy unless `add`. */
void nn_layernorm_back(struct nn_pool *pool, float *dx /* [rows][n] */,
                       float *dw /* [n] */, float *db /* [n] */,
                       const float *dy /* [rows][n] */,
                       const float *x /* [rows][n] */, const float *w /* [n] */,
                       size_t rows, size_t n, float eps, bool add,
                       float *mean /* [rows], scratch */,
                       float *inv_std /* [rows], scratch */);

/* ---- linear_back.c ------------------------------------------------------ */

/* dx = dy w, or dx + that if `add`. */
void nn_linear_back(struct nn_pool *pool, float *dx /* [rows][in] */,
                    const float *dy /* [rows][out] */,
                    const struct nn_linear *l, size_t rows, bool add);
/* dw += dy^T x, in the layout of l->w; dw is the whole of which w is a part. */
void nn_linear_back_weight(struct nn_pool *pool, float *dw,
                           const float *dy /* [rows][out] */,
                           const float *x /* [rows][in] */,
                           const struct nn_linear *l, size_t rows);

/* ---- embed_back.c ------------------------------------------------------- */

/* dtable[id] += scale dx, in the order of rows; not where id is < 0 or pad. */
void nn_embed_back(struct nn_pool *pool, float *dtable /* [vocab][h] */,
                   const float *dx /* [rows][h] */,
                   const int32_t *ids /* [rows] */, size_t rows, size_t h,
                   float scale, int32_t pad);
/* dplaces[position] += dx, in the order of rows. */
void nn_places_back(struct nn_pool *pool, float *dplaces /* [positions][h] */,
                    const float *dx /* [rows][h] */,
                    const size_t *positions /* [rows] */, size_t rows,
                    size_t h);

/* ---- attention_back.c --------------------------------------------------- */

/* Spare floats that a worker needs for at most `keys` keys in a sequence. */
size_t nn_attention_back_spare(size_t keys);
/*
 * Sequences have no past: queries and keys are the same rows.  o and lse are
 * those of the forward pass.  dq may be do.
 */
void nn_attention_back(struct nn_pool *pool, float *dq /* [rows][heads][d] */,
                       float *dk /* [rows][kv_heads][d] */,
                       float *dv /* [rows][kv_heads][d] */,
                       const float *dO /* [rows][heads][d] */,
                       const float *q /* [rows][heads][d] */,
                       const float *k /* [rows][kv_heads][d] */,
                       const float *v /* [rows][kv_heads][d] */,
                       const float *o /* [rows][heads][d] */,
                       const float *lse /* [rows][heads] */,
                       const struct nn_attention *a,
                       const struct nn_sequence *s /* [n_sequences] */,
                       size_t n_sequences);

/* ---- activation_back.c -------------------------------------------------- */

/*
 * dg = dy u act'(g), du = dy act(g); u and du NULL: there is no gate.  dg or
 * du may be dy.
 */
void nn_activate_back(struct nn_pool *pool, float *dg /* [n] */,
                      float *du /* [n] */, const float *dy /* [n] */,
                      const float *g /* [n] */, const float *u /* [n] */,
                      size_t n, enum nn_act act);

/* ---- cross_entropy_back.c ----------------------------------------------- */

struct nn_loss_scratch {
    float *z;      /* [chunk][vocab] */
    float *x, *dx; /* [chunk][h] */
    size_t chunk;  /* <= NN_LOSS_ROWS */
};

/*
 * The loss of rows with a label and its gradients, in runs of `chunk` rows:
 *   nll = lse - z[label],  z = cap tanh(x head^T / cap)
 *   dx = d(weight * sum nll) / dx, 0 in rows without a label
 * dhead (NULL: frozen) gets its part.  Returns the sum of nll, in row order.
 */
double nn_head_loss_back(struct nn_pool *pool, float *dx /* [rows][h] */,
                         float *dhead /* [vocab][h] or NULL */,
                         const float *x /* [rows][h] */,
                         const struct nn_linear *head, float cap, float weight,
                         const int32_t *labels /* [rows] */, size_t rows,
                         const struct nn_loss_scratch *s);

#ifdef __cplusplus
}
#endif
#endif
