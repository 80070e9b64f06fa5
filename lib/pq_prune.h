/*
 * Pruning: the smallest weights become +0, all others keep their bits.
 *
 * Each weight has a *score*, its magnitude.  The weights are put into the
 * order of their scores, equal ones in the order of their places, and the
 * first k of them go; so exactly k do, whatever the numbers are.  Scores are
 * compared as floats, by their bits: what a tensor holds as F16 or BF16 is
 * compared as the value it is, F64 rounded to F32.  Among which weights the
 * order is made is the scope:
 *
 *   tensor   all of a tensor                    k = round(S n), half to even
 *   pool     all of several tensors             the same
 *   row      those that make one output         k = floor(S n)
 *   groups   M consecutive ones of such a row   k = M - N, for N:M
 *   below    none: what is smaller than a threshold goes
 *
 * A row runs along the input dimension: the last one, or the first one of a
 * turned tensor, [in][out].  With blocks the score is the sum of the
 * magnitudes in a block of R rows and C columns, and whole blocks go.
 *
 * Equal to these: tensor and pool torch.nn.utils.prune (l1_unstructured,
 * global_unstructured), row the row-wise rule of Wanda (arXiv 2306.11695)
 * with no data, groups that of Wanda and llm-compressor.  About ties only the
 * row-wise rule promises something: the same order.
 *
 * With norms the score of a weight is its magnitude times the norm of its
 * input, the rule of Wanda; norms of 0 make scores of 0.
 *
 * How it is found: the bits of a positive float are in the order of the
 * floats.  One pass counts by the upper 16 of the 31 bits, which tells the
 * class that the k-th is in; one counts that class by the lower 15, which
 * tells its score; one counts how often each unit has this very score, which
 * tells the unit that the k-th is in.  A few hundred KiB, however much it is.
 */
#ifndef PQ_PRUNE_H
#define PQ_PRUNE_H

#include "pq_engine.h"
#include "pq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_prune_scope {
    PQ_PRUNE_TENSOR,
    PQ_PRUNE_POOL,
    PQ_PRUNE_ROW,
    PQ_PRUNE_GROUPS,
    PQ_PRUNE_BELOW
};

struct pq_prune_pool;

/* Of a column, what is smaller goes, and what is as large down to a row. */
struct pq_column_cut {
    uint32_t bits; /* of the score; 0 and no rows: nothing goes */
    uint32_t rows; /* how many, from the first, in which a tie goes */
};

/* How a tensor is pruned. */
struct pq_prune {
    enum pq_prune_scope scope;
    double sparsity;             /* 0 to 1, of tensor, pool and row */
    unsigned n, m;               /* of groups: n of m stay */
    float threshold;             /* of below: |w| < threshold goes */
    uint64_t block_rows, block_cols; /* 0: single weights; tensor and pool */
    bool turned;                 /* the tensor is [in][out] */
    struct pq_source *norms;      /* of row and groups, of matrices; or NULL */
    const struct pq_tensor *norm; /* in it: F32 [in], none below 0 */
    /* What other runs of the engine found before the step runs: */
    struct pq_prune_pool *pool;  /* of pool; settled */
    size_t pool_index;           /* which of its tensors it is, from 0 */
    struct pq_column_cut *cuts;  /* [out] of row, turned */
};

/* What became of a tensor. */
struct pq_pruned {
    uint64_t n;      /* elements */
    uint64_t zeros;  /* in the output, those that were there included */
    uint64_t pruned; /* went, those that were zero before included */
    double signal;   /* sum w^2 */
    double noise;    /* sum (w - w')^2, w' what became of w */
};

/* What all steps of a tool share; outlives the plan. */
struct pq_pruning {
    const struct pq_kernels *kernels;
    bool allow_nonfinite; /* else NaN fails; infinities are large numbers */
    bool measure;         /* fill in zeros, signal and noise: costs time */
    /* Called in plan order when a step is complete; may be NULL. */
    int (*report)(const struct pq_step *s, const struct pq_pruned *q,
                  struct pq_error *e);
};

/* Most elements of a group. */
#define PQ_PRUNE_MOST 64u

/* How many of n go at this sparsity: round(S n), half to even. */
uint64_t pq_prune_count(double sparsity, uint64_t n);

/*
 * Can a tensor be pruned so?  It is plain and floating, its rows are
 * divisible, it has rows at all, its norms fit.  Fails without naming it.
 */
PQ_MUST_USE int pq_prune_check(const struct pq_prune *how,
                               const struct pq_tensor *t, struct pq_error *e);

/*
 * Appends the step that prunes tensor `in` of `src`, which passed the check
 * and has elements; `tensor` is its copy in the output catalogue.  `how` and
 * `q` are borrowed; step->user is left to the caller.
 */
struct pq_step *pq_step_prune(struct pq_plan *p, struct pq_source *src,
                              const struct pq_tensor *in, size_t tensor,
                              const struct pq_prune *how,
                              const struct pq_pruning *q, struct pq_error *e);

/*
 * A pool.  It takes up to three runs over its tensors:
 *
 *     p = pq_prune_pool_new(0.5, &e);
 *     do {
 *         plan with pq_step_prune_count() of each tensor; run it
 *     } while (pq_prune_pool_next(p));
 *     plan with pq_step_prune() of each tensor; run it
 *
 * Equal scores go in the order of pool_index, then of the places.
 */
struct pq_prune_pool *pq_prune_pool_new(double sparsity, struct pq_error *e);
void pq_prune_pool_free(struct pq_prune_pool *p);
/* After a run over all of its tensors: is another one needed? */
bool pq_prune_pool_next(struct pq_prune_pool *p);
/* Appends the step, without output, that counts for a pool. */
struct pq_step *pq_step_prune_count(struct pq_plan *p, struct pq_source *src,
                                    const struct pq_tensor *in,
                                    const struct pq_prune *how,
                                    const struct pq_pruning *q,
                                    struct pq_error *e);

/*
 * Appends the step, without output, that fills in how->cuts for a turned
 * tensor in scope row: each column makes one output.
 */
struct pq_step *pq_step_prune_columns(struct pq_plan *p, struct pq_source *src,
                                      const struct pq_tensor *in,
                                      const struct pq_prune *how,
                                      const struct pq_pruning *q,
                                      struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
