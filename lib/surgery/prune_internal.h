/*
 * What the files of pruning share.
 *
 *     prune.c        checks, the step and its emit pass
 *     prune_cut.c    finding the k-th smallest score of a tensor or a pool
 *     prune_columns.c    finding that of each column of a turned tensor
 *     prune_score.c  scores; the k-th smallest of a row
 *     prune_norm.c   scores by the norms of inputs
 *     prune_mask.c   masks that are applied, and the one that is made
 */
#ifndef PQ_PRUNE_INTERNAL_H
#define PQ_PRUNE_INTERNAL_H

#include "pq_prune.h"

#define PQ_PRUNE_UNIT (1u << 19) /* elements of a unit, about */
#define PQ_PRUNE_TILE 4096u      /* elements that stay near the processor */
#define PQ_PRUNE_SIDE 1024u      /* columns of a tile of turned groups */

/*
 * The last one that goes: all of a smaller score go, and those of this score
 * up to its place.
 */
struct pq_prune_cut {
    uint64_t k;     /* that many go */
    uint64_t left;  /* of them, how many in the class that is looked into */
    uint32_t high;  /* that class: the upper bits of the score */
    uint32_t bits;  /* the score of the last one ... */
    uint64_t step;  /* ... which is in this tensor of a pool, in ... */
    uint64_t unit;  /* ... the unit that begins with this item, as the ... */
    uint64_t place; /* ... place-th of its score there */
    bool found;
};

/* step->params. */
struct pq_pruner {
    const struct pq_prune *how;
    const struct pq_pruning *q;
    const struct pq_tensor *in;
    uint64_t cols;    /* elements of a stored row */
    uint64_t item;    /* elements of an item */
    uint64_t scores;  /* scores of an item: elements, or blocks */
    uint64_t n_scores; /* of the tensor */
    size_t masks;     /* the first of them among the inputs */
    uint64_t mask_cols; /* elements of their rows; 0: one run of elements */
    bool coarse;       /* all scores have lower bits of 0 */
};

/* The passes that find a cut; of coarse scores the second is left out. */
enum pq_cut_pass { PQ_CUT_HIGH, PQ_CUT_LOW, PQ_CUT_TIES };

struct pq_prune_pool {
    struct pq_prune_cut cut;
    double sparsity;
    uint64_t n_scores;      /* counted in the first pass */
    bool coarse;            /* so are those of all tensors */
    enum pq_cut_pass pass;  /* the next one */
    uint64_t count[PQ_HIGH_COUNT];
};

/* A partial result; the counts are there only where a cut is looked for. */
struct pq_prune_part {
    uint64_t first; /* item of the unit */
    uint64_t n;     /* scores of the unit */
    uint64_t ties;  /* that are the cut's */
    struct pq_pruned done; /* of the emit pass */
    uint32_t count[];      /* [PQ_HIGH_COUNT] */
};

/* A step's state; the counts are there only of scope tensor. */
struct pq_prune_state {
    struct pq_prune_cut cut;
    uint64_t seen; /* scores in this pass so far */
    struct pq_pruned done;
    uint64_t count[]; /* [PQ_HIGH_COUNT] */
};

/* prune.c ------------------------------------------------------------------ */

/* What an item is and how many scores it has. */
void pq_pruner_init(struct pq_pruner *m, const struct pq_tensor *in,
                    const struct pq_prune *how, const struct pq_pruning *q);
/* Gives the step its input and units. */
void pq_pruner_aim(struct pq_step *s, struct pq_source *src,
                   const struct pq_pruner *m);

/* prune_score.c ------------------------------------------------------------ */

/* Elements [at, at + n) of the unit as floats: x itself, or in `room`. */
const float *pq_prune_load(const struct pq_pruner *m, const struct pq_unit *u,
                           uint64_t at, size_t n, float *room);
/* Fails with the first NaN among them, if there is one and it may not be. */
int pq_prune_look(const struct pq_pruner *m, const struct pq_unit *u,
                  uint64_t at, const float *x /* [n] */, size_t n,
                  struct pq_error *e);
/* The scores of a unit's blocks; scratch as pq_prune_block_floats() says. */
int pq_prune_blocks(const struct pq_pruner *m, const struct pq_unit *u,
                    float *scores /* [u->count * m->scores] */, float *scratch,
                    struct pq_error *e);
size_t pq_prune_block_floats(const struct pq_pruner *m);
/* The k-th smallest: its bits, and `left` of those equal to it that go. */
void pq_prune_select(const float *score /* [n] */, size_t n, uint64_t k,
                     struct pq_prune_cut *c);

/* prune_columns.c ---------------------------------------------------------- */

/* Which scores of a row of a turned tensor are kept. */
void pq_columns_keep(const struct pq_column_cut *cuts /* [n] */,
                     const float *score /* [n] */, size_t n, uint64_t row,
                     uint8_t *keep);

/* prune_norm.c ------------------------------------------------------------- */

/* Do the norms fit the tensor? */
int pq_norm_check(const struct pq_prune *how, const struct pq_tensor *t,
                  struct pq_error *e);
/* The input of a step that holds them; the step has room for it. */
void pq_norm_input(struct pq_step *s, const struct pq_prune *how);
/* Fails with the first of a unit's norms that is none. */
int pq_norm_look(const struct pq_pruner *m, const struct pq_unit *u,
                 struct pq_error *e);
/*
 * The scores of elements [at, at + n) of the unit, which are x: x itself where
 * there are no norms, or in `room`.
 */
const float *pq_norm_weigh(const struct pq_pruner *m, const struct pq_unit *u,
                           uint64_t at, size_t n, const float *x, float *room);

/* prune_mask.c ------------------------------------------------------------- */

/* Inputs and the output beside; after item, cols and in[0] are known. */
void pq_masks_fill(struct pq_step *s, const struct pq_pruner *m);
/* Do masks need items of whole rows? */
bool pq_masks_want_rows(const struct pq_prune *how, uint64_t cols);
/* Floats of scratch for runs of at most n elements. */
size_t pq_masks_floats(const struct pq_prune *how, size_t n);
/*
 * What is kept of elements [at, at + n) of the unit when the masks had their
 * say: `keep` itself where there are none, or in `room`.
 */
const uint8_t *pq_masks_apply(const struct pq_pruner *m,
                              const struct pq_unit *u, uint64_t at, size_t n,
                              const uint8_t *keep, float *room);
/* The mask of the unit's output, if one is made. */
void pq_mask_beside(const struct pq_pruner *m, const struct pq_unit *u,
                    float *room /* [PQ_MASK_ROOM] */);

/* prune_cut.c -------------------------------------------------------------- */

/* Makes the step look for a cut before it emits, if it does. */
void pq_cut_plan(struct pq_step *s, const struct pq_pruner *m);
/* For combine(): the partial of a unit in such a pass. */
void pq_cut_add(const struct pq_pruner *m, unsigned pass,
                struct pq_prune_state *t, const struct pq_prune_part *p);
size_t pq_cut_scratch(const struct pq_pruner *m, uint64_t unit_items);
/*
 * Which of n scores, from the unit's first on but for those before, are kept.
 * `taken` counts the ties that went by in this unit.
 */
void pq_cut_keep(const struct pq_pruner *m, const struct pq_prune_cut *c,
                 const struct pq_unit *u, const float *score, size_t n,
                 uint64_t *taken, uint8_t *keep);
/* The first `n` of these bits go, in order. */
void pq_cut_ties(const float *score, uint32_t bits, uint64_t n, uint8_t *keep);

#endif
