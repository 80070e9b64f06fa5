/*
 * Masks: which weights of a model are kept, one bit each.
 *
 * A mask is a file of its own, .pq or safetensors.  For each tensor that was
 * pruned it has one of the same name,
 *
 *     U8 [rows][ceil(cols / 8)]
 *
 * with the columns of the weights' last dimension and all others as rows; a
 * tensor of one dimension or none is one row.  Bit i % 8 (the least
 * significant is 0) of byte i / 8 of a row is 1 where weight i of the row is
 * kept; bits behind the last weight are 0.  So compressed-tensors packs its
 * bitmasks, and numpy.packbits(kept, -1, bitorder="little").  The metadata
 * have the key "pq.mask", and under it the shapes of the weights as JSON:
 *
 *     {"version":1,"shapes":{"a.weight":[4096,11008],...}}
 *
 * Kept is what is not zero: a weight that was zero before is not kept.
 */
#ifndef PQ_MASK_H
#define PQ_MASK_H

#include "pq_engine.h"
#include "pq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_MASK_KEY "pq.mask"

/* Where a step that changes a tensor leaves its mask; sink 0: nowhere. */
struct pq_mask_place {
    size_t sink;   /* as of pq_output */
    size_t tensor; /* number in the mask's catalogue */
};

/* How a mask of several tensors decides. */
enum pq_mask_op {
    PQ_MASK_AND, /* kept is what all keep */
    PQ_MASK_OR   /* kept is what any keeps */
};

/* The weights that a mask speaks of. */
struct pq_masked {
    int rank;
    const uint64_t *shape; /* [rank] */
    uint64_t n_elements;
};

/* A mask that is read. */
struct pq_mask {
    struct pq_source *source;  /* borrowed */
    struct pq_arena arena;
    struct pq_names names;     /* of its tensors */
    struct pq_masked *weights; /* [tensors of the source] */
};

/* Bytes of a row of so many weights. */
static inline uint64_t pq_mask_row(uint64_t cols)
{
    return cols / 8 + (cols % 8 != 0);
}

/* Is it a mask?  pq_mask_open() says whether it is a sound one. */
bool pq_mask_is(const struct pq_catalog *c);

/* Describes the masks of n tensors in `mask`, an empty catalogue. */
PQ_MUST_USE int pq_mask_declare(struct pq_catalog *mask,
                                const struct pq_tensor *const *tensors,
                                size_t n, struct pq_error *e);

/*
 * Reads the description, which must fit the tensors.  Release also after a
 * failure.
 */
PQ_MUST_USE int pq_mask_open(struct pq_mask *m, struct pq_source *s,
                             struct pq_error *e);
void pq_mask_release(struct pq_mask *m);
/*
 * The tensor of the mask for these weights: NULL without *e set when it has
 * none, with it when it is for another shape.
 */
const struct pq_tensor *pq_mask_find(const struct pq_mask *m,
                                     const struct pq_tensor *weights,
                                     struct pq_error *e);

/*
 * The mask of n plain floating weights: whole rows of `cols`, or with cols 0
 * a run of weights without rows.  `room` is for PQ_MASK_ROOM floats.
 */
#define PQ_MASK_ROOM 4096u
void pq_mask_of(const struct pq_kernels *k, enum pq_dtype dtype,
                const void *w /* [n] */, uint64_t n, uint64_t cols,
                float *room, uint8_t *bits);
/* Bits [at, at + n) of such a mask, from bit 0 of `to` on; 0 behind them. */
void pq_mask_get(const uint8_t *bits, uint64_t cols, uint64_t at, size_t n,
                 uint8_t *to /* [ceil(n/8)] */);

/* Bits of the mask of an item of so many elements, rows as above. */
static inline uint64_t pq_mask_item_bits(uint64_t elements, uint64_t cols)
{
    return cols ? elements / cols * pq_mask_row(cols) * 8 : elements;
}

#ifdef __cplusplus
}
#endif
#endif
