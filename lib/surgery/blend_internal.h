/*
 * What the files of blending share: a method's row and functions, a step's
 * parameters, and a tile: so many elements of all models, widened, that what
 * is done with them stays near the processor.
 *
 *     blend_methods.c   the table
 *     blend.c        checks, the step, going over tiles
 *     blend_sum.c    weighted sums; weights from angles
 *     blend_task.c   sums of what is left of the changes to a base
 *     blend_trim.c   left are the largest, or those in the middle
 *     blend_lots.c   left are those on whom the lot falls
 */
#ifndef PQ_BLEND_INTERNAL_H
#define PQ_BLEND_INTERNAL_H

#include "pq_blend.h"
#include "pq_kernels.h"

#include "../rng.h"

#define PQ_TILE    2048u  /* elements: 8 KiB of float a model */
#define PQ_STREAMS 16384u /* of random numbers, and models */

/* Which changes to the base are left, of those that a method has. */
enum pq_sparse {
    PQ_SPARSE_NONE, /* all */
    PQ_SPARSE_LARGEST,
    PQ_SPARSE_MIDDLE,
    PQ_SPARSE_LOTS,
    PQ_SPARSE_RANKED /* lots, with chances by rank in the row */
};

struct pq_blender;
struct pq_tile;

struct pq_method_row {
    struct pq_method pub;
    enum pq_sparse sparse;
    bool elect;
    /* Sizes and passes for this blend. */
    void (*plan)(struct pq_blender *m, struct pq_change *c);
    /* A tile of a gather pass; of the emit pass. */
    void (*gather)(const struct pq_tile *t);
    void (*emit)(const struct pq_tile *t);
    void (*combine)(const struct pq_change *c, unsigned pass, uint64_t before,
                    void *state, const void *partial);
    void (*settle)(const struct pq_change *c, unsigned pass, void *state);
    /* [n_arrays] weights of a sum, for all of the unit or for a row. */
    void (*weights)(const struct pq_tile *t, float *w);
};

/* change->params: one step's. */
struct pq_blender {
    struct pq_change change;
    const struct pq_blend *b;
    const struct pq_method_row *row;
    uint64_t elements;      /* of the tensor */
    size_t n_arrays;        /* models, and the base if there is one */
    bool transpose, by_row; /* turned when read; a tile is a row */
    size_t stride;          /* floats of an array of a tile */
    size_t local_floats;
    float *w;           /* [b->n] */
    float divisor;      /* of a sum of all; 1 unless normalised */
    unsigned norm_pass; /* the pass that sums |d|, or UINT_MAX */
    struct pq_rng rng;
};

struct pq_tile {
    const struct pq_blender *m;
    const struct pq_rows *r;
    uint64_t first, n; /* elements */
    size_t number;     /* of the tile in its unit */
    float *all;        /* [n_arrays][stride] base if any, then the models */
    const float *base; /* [n], or NULL */
    float *x;          /* [b->n][stride] the models */
    float *room;       /* [local_floats] of the method, kept over tiles */
    float *out;        /* [n] */
};

/* The models' part of the state in gathering methods: [b->n]. */
struct pq_blend_cut {
    uint64_t k;     /* that many come first: by |d|, then by place */
    uint64_t left;  /* of them, how many in the class that is looked into */
    uint32_t high;  /* that class: the upper bits of its |d| */
    uint32_t bits;  /* |d| of the last that comes in ... */
    uint64_t unit;  /* ... which is in the unit that begins here ... */
    uint64_t place; /* ... as the place-th of its size there */
    bool found;
};

struct pq_blend_kept {
    double before, after;       /* sum |d| of all, and of what is left */
    struct pq_blend_cut cut[2]; /* the last one to be left, and above which */
};

/* blend_methods.c */
const struct pq_method_row *pq_method_row(const struct pq_method *m);

/* blend_sum.c */
void pq_sum_plan(struct pq_blender *m, struct pq_change *c);
void pq_sum_emit(const struct pq_tile *t);
void pq_sum_plain_weights(const struct pq_tile *t, float *w);
void pq_angle_plan(struct pq_blender *m, struct pq_change *c);
void pq_angle_gather(const struct pq_tile *t);
void pq_angle_combine(const struct pq_change *c, unsigned pass, uint64_t before,
                      void *state, const void *partial);
void pq_slerp_weights(const struct pq_tile *t, float *w);
void pq_stock_weights(const struct pq_tile *t, float *w);

/* blend_task.c */
void pq_task_plan(struct pq_blender *m, struct pq_change *c);
void pq_task_gather(const struct pq_tile *t);
void pq_task_emit(const struct pq_tile *t);
void pq_task_combine(const struct pq_change *c, unsigned pass, uint64_t before,
                     void *state, const void *partial);
void pq_task_settle(const struct pq_change *c, unsigned pass, void *state);

/*
 * blend_trim.c: three passes that find the cuts; then a model's tile without
 * what is cut.
 */
#define PQ_TRIM_PASSES 3u
size_t pq_trim_state_bytes(size_t n_models);
size_t pq_trim_partial_bytes(size_t n_models);
void pq_trim_gather(const struct pq_tile *t);
void pq_trim_combine(const struct pq_blender *m, unsigned pass, uint64_t before,
                     struct pq_blend_kept *kept, const void *partial);
void pq_trim_settle(const struct pq_blender *m, unsigned pass,
                    struct pq_blend_kept *kept);
/* `taken` [2]: of each cut, how many of its size went by in this unit. */
void pq_trim_tile(const struct pq_tile *t, size_t i,
                  const struct pq_blend_kept *kept, uint32_t *taken, float *d);

/* blend_lots.c: d times 0, 1 or 1/chance; room as pq_lots_room() says. */
size_t pq_lots_room(const struct pq_blender *m);
void pq_lots_tile(const struct pq_tile *t, size_t i, float *room, float *d);

#endif
