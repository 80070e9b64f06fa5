/*
 * The threads that run a model, and the scratch memory of each.
 *
 * Work is a list of tasks that share no output, numbered from 0; whoever is
 * free takes the next.  The list depends on the shapes alone, so results do
 * not depend on the number of threads.
 */
#ifndef NN_POOL_H
#define NN_POOL_H

#include "kernels/nn_kernels.h"
#include "pq_error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NN_PANELS 16 /* panels of a matrix that a worker holds packed */
/* Floats from a panel to the next: lines side by side must not be a power of
   two apart, or all would want the same few places in the cache. */
#define NN_PANEL  (NN_BLOCK_K * NN_TILE_COLS + 16)
#define NN_STRIPS 8 /* of NN_TILE_ROWS rows of the other one */

struct nn_pool;

/* What a thread has for itself. */
struct nn_worker {
    const struct nn_kernels *nn;
    const struct pq_kernels *kernels;
    float *panels; /* [NN_PANELS][NN_PANEL], aligned */
    float *strips; /* [NN_STRIPS][NN_BLOCK_K][NN_TILE_ROWS] */
    float *rows;   /* [NN_TILE_COLS][NN_BLOCK_K], decoded rows */
    float *spare;  /* [spare_floats], for the task itself */
    size_t spare_floats;
};

typedef void nn_task(void *arg, struct nn_worker *w, size_t task);

/*
 * A pool of n_threads >= 1 threads, the caller of nn_pool_run() among them.
 * One thread at a time may use it.
 */
PQ_MUST_USE struct nn_pool *nn_pool_new(size_t n_threads,
                                        const struct pq_kernels *k,
                                        struct pq_error *e);
void nn_pool_free(struct nn_pool *p); /* NULL is fine */
size_t nn_pool_threads(const struct nn_pool *p);
/* Gives each worker a spare buffer of at least n floats. */
PQ_MUST_USE int nn_pool_spare(struct nn_pool *p, size_t n, struct pq_error *e);

/* Bytes of all its buffers, where each spare one has n floats. */
size_t nn_pool_bytes(const struct nn_pool *p, size_t n);

/* Runs tasks 0 .. n - 1 and returns when all are done. */
void nn_pool_run(struct nn_pool *p, nn_task *f, void *arg, size_t n);
/* The same where a task is little work, a row: several are drawn at a time. */
void nn_pool_run_rows(struct nn_pool *p, nn_task *f, void *arg, size_t rows);

#ifdef __cplusplus
}
#endif
#endif
