/*
 * Ranks: what is left of matrices when only their large singular values are
 * kept, and how many of them that should be.
 *
 *     D ~ U diag(s) V^T          B = U sqrt(s)    A = sqrt(s) V^T
 *
 * A first plan finds them (pq_step_lowrank() of a matrix, pq_step_product()
 * of a sum of products); its found() keeps them here.  When all are known,
 * ranks are chosen, and a second plan writes the leading rows of what was
 * kept.
 */
#ifndef PQ_RANKS_H
#define PQ_RANKS_H

#include "pq_lowrank.h"
#include "pq_made.h"
#include "pq_surgery.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Appends a step that only reads: the SVD of sum b_i a_i, whole and exact, in
 * double, from QR of the factors side by side.  a_i is [rank_i][cols...], b_i
 * [rows][rank_i...], each times its scale; ranks may differ.  The pieces are
 * borrowed, `how` is copied; of it found() and kernels are used.
 */
struct pq_step *pq_step_product(struct pq_plan *p, const char *name,
                                const struct pq_piece *a /* [n] */,
                                const struct pq_piece *b /* [n] */, size_t n,
                                const struct pq_lowrank_how *how,
                                struct pq_error *e);

/* What was found of one matrix. */
struct pq_ranked {
    const char *name; /* copied */
    uint64_t rows, cols;
    size_t n;        /* singular values that were found */
    const double *s; /* [n] falling */
    double norm_sq;  /* |D|^2 */
    size_t kept;     /* vectors that are here: <= n */
    const struct pq_tensor *bt; /* F32 [kept][rows] */
    const struct pq_tensor *a;  /* F32 [kept][cols] */
    size_t rank;     /* chosen: 1..kept, or 0 where that is allowed */
    uint64_t first_bytes; /* of rank 1 beside its numbers; the caller's */
    double noise; /* values up to this are not worth a byte; the caller's */
};

/* Of all of them.  Zero-initialise; release also after a failure. */
struct pq_ranking {
    struct pq_arena arena;
    struct pq_source *made; /* where bt and a are */
    struct pq_ranked *factors; /* [n], of room for cap; they do not move */
    size_t n, cap;
};

/*
 * Room for n results, those of a second search among them; `memory` and
 * `tmpdir` are those of pq_made_new().
 */
PQ_MUST_USE int pq_ranking_init(struct pq_ranking *f, size_t n,
                                uint64_t memory, const char *tmpdir,
                                struct pq_error *e);
void pq_ranking_release(struct pq_ranking *f);
/* Keeps at most `most` vectors of each side (0: all) and every value. */
PQ_MUST_USE int pq_ranking_keep(struct pq_ranking *f, const char *name,
                                const struct pq_lowrank *r, size_t most,
                                struct pq_error *e);
/* A wider search found this instead. */
PQ_MUST_USE int pq_ranking_again(struct pq_ranking *f, struct pq_ranked *t,
                                 const struct pq_lowrank *r, size_t most,
                                 struct pq_error *e);

/* How large ranks may be and what they must reach; 0: not asked. */
struct pq_rank_rule {
    size_t rank;      /* never more */
    double energy;    /* sum of s^2 kept, of |D|^2: (0, 1] */
    double max_error; /* |D - B A| of |D|: (0, 1) */
    uint64_t bytes;   /* of all factors together */
    unsigned element_bits; /* that a number of them takes */
    bool may_drop;    /* for the bytes, a matrix may get no rank at all */
};

/*
 * Sets factor->rank of all.  Without energy and max_error it is what was
 * kept; a budget of bytes is spent where a further rank removes the most
 * error for its bytes, after the first of each.  Fails when not even those
 * fit.  With may_drop the first has to be worth its bytes as others have.
 */
PQ_MUST_USE int pq_ranking_choose(struct pq_ranking *f,
                                  const struct pq_rank_rule *rule,
                                  struct pq_error *e);
/* Does that rank reach the energy and the error that are asked for? */
bool pq_ranked_enough(const struct pq_ranked *f, size_t rank,
                      const struct pq_rank_rule *rule);
/* |D - B A| / |D| at its rank; 0 for D = 0 and where rounding is all. */
double pq_ranked_error(const struct pq_ranked *f);

/*
 * The rows of A, or with `b` those of B^T, that its rank takes, F32
 * [rank][length]: a tensor of `made` under that name, borrowed.  It stays the
 * same when another rank is chosen.  NULL: no memory.
 */
const struct pq_tensor *pq_ranked_rows(const struct pq_ranked *f, bool b,
                                       const char *name, struct pq_arena *a);

/* What factors leave of a matrix D. */
struct pq_left {
    double norm_sq; /* |D|^2 */
    double left_sq; /* |D - B A|^2 */
};

/*
 * Appends a step that only reads: what is left of tb - ta when B A is taken
 * away, both factors of f at its rank, of `made`, rounded to `dtype` as they
 * are when they are written.  It is computed element by element, not from the
 * singular values.  *result is set when the step is done and outlives the
 * run.  The tensors are as for pq_step_lowrank(); ta is not NULL.
 */
struct pq_step *pq_step_left(struct pq_plan *p, const char *name,
                             struct pq_source *sa, const struct pq_tensor *ta,
                             struct pq_source *sb, const struct pq_tensor *tb,
                             bool turned, struct pq_source *made,
                             const struct pq_ranked *f, enum pq_dtype dtype,
                             const struct pq_kernels *k,
                             struct pq_left *result, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
