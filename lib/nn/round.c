/*
 * Training for an encoding: the model is run, and its gradient found, with
 * weights that the encoding can hold; the gradient then updates floats beside
 * them, as if nothing had been rounded (the straight-through estimator, arXiv
 * 1308.3432; floats beside, arXiv 1511.00363):
 *
 *     w = Q(x),   x += update(dL/dw),   Q = store(decode(encode(.)))
 *
 * store() rounds to the type of the model's file.  Q is repeated until it
 * changes nothing, which is soon: then to encode what is written finds the
 * same codes and scales.  Encodings have rows and blocks of [out][in]; GPT-2
 * stores [in][out], which is turned first.
 */
#include "round.h"

#include <stdlib.h>
#include <string.h>

#include "pq_quant.h"

#define BLOCK   64u /* the default of nf4, which pq_quant_declare() takes */
#define PIECE   4096u
#define REPEATS 8 /* three are enough for every type of file */

/* Elements of a row as the encoding sees it. */
static size_t row_of(const struct nn_round *x, const struct nn_param *p)
{
    return x->turn ? p->rows : p->cols;
}

/* Elements that a task takes: whole rows or blocks. */
static size_t piece_of(const struct nn_round *x, const struct nn_param *p)
{
    const size_t row = row_of(x, p);

    if (x->encoding != PQ_INT8)
        return PIECE;
    return row < PIECE ? PIECE / row * row : row;
}

/* Floats that a task works with: the numbers, their codes, the scales. */
static size_t spare_of(const struct nn_round *x, const struct nn_params *p)
{
    size_t most = 0;

    for (size_t i = 0; i < p->n; i++) {
        const size_t n = p->p[i].masked ? piece_of(x, &p->p[i]) : 0;
        most = n > most ? n : most;
    }
    return 3 * most;
}

int nn_round_init(struct nn_round *x, const struct nn_params *p,
                  struct nn_pool *pool, enum pq_encoding encoding,
                  enum pq_dtype dtype, bool turn, struct pq_error *e)
{
    *x = (struct nn_round){.encoding = encoding,
                           .dtype = dtype,
                           .turn = turn && encoding != PQ_PLAIN};
    x->exact = pq_alloc(p->masked_total, sizeof *x->exact);
    if (x->turn)
        x->turned = pq_alloc(nn_params_largest(p), sizeof *x->turned);
    if (!x->exact || (x->turn && !x->turned)) {
        nn_round_release(x);
        return pq_fail_nomem(e);
    }
    for (size_t i = 0; i < p->n; i++)
        if (p->p[i].masked)
            memcpy(x->exact + p->p[i].masked_at, p->w + p->p[i].at,
                   p->p[i].n * sizeof *x->exact);
    if (!nn_pool_spare(pool, spare_of(x, p), e))
        return 0;
    nn_round_release(x);
    return -1;
}

void nn_round_release(struct nn_round *x)
{
    free(x->exact);
    free(x->turned);
    memset(x, 0, sizeof *x);
}

bool nn_round_bytes(const struct nn_round *x, const struct nn_params *p,
                    uint64_t *bytes)
{
    const size_t turned = x->turn ? nn_params_largest(p) : 0;
    uint64_t floats;

    *bytes = 0;
    return !x->exact || (pq_add(p->masked_total, turned, &floats) &&
                         pq_mul(floats, sizeof(float), bytes));
}

void nn_round_undo(const struct nn_round *x, const struct nn_params *p)
{
    for (size_t i = 0; x->exact && i < p->n; i++)
        if (p->p[i].masked)
            memcpy(p->w + p->p[i].at, x->exact + p->p[i].masked_at,
                   p->p[i].n * sizeof *p->w);
}

/* ---- Q ------------------------------------------------------------------ */

struct job {
    const struct nn_round *x;
    const struct nn_param *p;
    float *w; /* [p->n], turned */
};

/* decode(encode(.)) of n numbers; raw and scales have room for n floats. */
static void encode(const struct job *j, const struct pq_kernels *k, float *w,
                   size_t n, void *raw, float *scales)
{
    const size_t row = row_of(j->x, j->p);

    switch (j->x->encoding) {
    case PQ_NF4:
        k->nf4_encode(w, n, BLOCK, raw, scales);
        k->nf4_decode(raw, scales, n, BLOCK, w);
        break;
    case PQ_INT8:
        k->int8_rows_encode(w, n / row, row, raw, scales);
        k->int8_rows_decode(raw, scales, n / row, row, w);
        break;
    default:
        pq_store_f32(k, j->x->dtype, w, n, raw);
        pq_load_f32(k, j->x->dtype, raw, n, w);
    }
}

static void round_piece(void *arg, struct nn_worker *worker, size_t task)
{
    const struct job *j = arg;
    const size_t most = piece_of(j->x, j->p), at = task * most;
    const size_t n = j->p->n - at < most ? j->p->n - at : most;
    float *w = j->w + at, *old = worker->spare, *raw = old + most;
    const enum pq_dtype stored = j->p->stored;

    for (int i = 0; i < REPEATS; i++) {
        memcpy(old, w, n * sizeof *w);
        encode(j, worker->kernels, w, n, raw, raw + most);
        pq_store_f32(worker->kernels, stored, w, n, raw);
        pq_load_f32(worker->kernels, stored, raw, n, w);
        if (memcmp(old, w, n * sizeof *w) == 0)
            return;
    }
}

static void round_one(const struct nn_round *x, const struct nn_params *p,
                      const struct nn_param *q, struct nn_pool *pool,
                      const struct pq_kernels *k)
{
    float *w = p->w + q->at;
    struct job j = {x, q, x->turn ? x->turned : w};
    const size_t piece = piece_of(x, q);

    memcpy(x->exact + q->masked_at, w, q->n * sizeof *w);
    if (x->turn)
        k->transpose(w, j.w, q->rows, q->cols, sizeof *w);
    nn_pool_run(pool, round_piece, &j, (q->n + piece - 1) / piece);
    if (x->turn)
        k->transpose(j.w, w, q->cols, q->rows, sizeof *w);
}

void nn_round(const struct nn_round *x, const struct nn_params *p,
              struct nn_pool *pool, const struct pq_kernels *k)
{
    for (size_t i = 0; x->exact && i < p->n; i++)
        if (p->p[i].masked)
            round_one(x, p, &p->p[i], pool, k);
}
