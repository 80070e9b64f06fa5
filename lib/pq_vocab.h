/*
 * A model with another vocabulary: the rows of its token tables rearranged,
 * and those it lacks taken from other models.
 *
 *     view      tables [n_rows][...]        the model's own
 *     row 0     (model 0, row 0)            [ row 0 ]
 *     row 1     (model 0, row 3)            [ row 1 ]
 *     row 2     (model 1, row 7)            [ ...   ]
 *     row 3     mean of (model 0, row 2) and (model 1, row 2)
 *
 * Rows are put together as they are read.  A row of another type than the
 * model's own is rounded to that.
 */
#ifndef PQ_VOCAB_H
#define PQ_VOCAB_H

#include "pq_kernels.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_ROW_ZERO UINT32_MAX       /* instead of a model: a row of zeros */
#define PQ_ROW_MEAN (UINT32_MAX - 1) /* ... `number` is that of a mean */

struct pq_row {
    uint32_t model, number;
};

struct pq_row_mean {
    const struct pq_row *of; /* [n], n > 0: rows of models */
    size_t n;
};

struct pq_row_map {
    const struct pq_row *rows; /* [n_rows] */
    uint64_t n_rows;
    const struct pq_row_mean *means; /* [n_means] */
    size_t n_means;
};

/* A table: the model's own, and what stands for it in each model. */
struct pq_vocab_table {
    size_t tensor;                       /* number in the model's catalogue */
    const struct pq_tensor *const *from; /* [n_models], NULL: has none */
};

/*
 * A view of models[self], random access, whose tables have the rows of `map`.
 * Tables are plain F32, F16 or BF16 and of one shape but for the rows (else
 * PQ_EARG, PQ_EUNSUPPORTED); a row that a model does not have fails with
 * PQ_EARG.  Everything is borrowed and outlives the view.  A plan that reads
 * the view lists it and all models as its sources.
 */
PQ_MUST_USE int pq_vocab_new(struct pq_source *const *models, size_t n_models,
                             size_t self, const struct pq_row_map *map,
                             const struct pq_vocab_table *tables,
                             size_t n_tables, const struct pq_kernels *k,
                             struct pq_source **s, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
