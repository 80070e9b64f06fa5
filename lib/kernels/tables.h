/*
 * The constants of the quantizers: code values and the thresholds between
 * them, as bitsandbytes 0.50 has them.  Internal to lib/.
 */
#ifndef PQ_KERNELS_TABLES_H
#define PQ_KERNELS_TABLES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A 4-bit code.  Encoding finds the rank of a value, that is how many of the
 * 15 midpoints f32((by_rank[i] + by_rank[i + 1]) / 2) are below it; `code`
 * turns the rank into the stored nibble.
 *
 * The midpoints are kept in the order of a binary search: tree[1] is the
 * root, the children of node k are 2k and 2k + 1, tree[0] is unused; a leaf
 * 16 + r stands for rank r.
 */
struct pq_code4 {
    float tree[16];
    float by_rank[16]; /* values, ascending */
    uint8_t code[16];  /* nibble of each rank */
    float value[16];   /* value of each nibble: the "quant_map" in files */
};

extern const struct pq_code4 pq_nf4;
extern const struct pq_code4 pq_fp4;

/* The factors of absmax that *_search tries, plain absmax first. */
#define PQ_SEARCH_FACTORS 15
extern const float pq_search_factor[PQ_SEARCH_FACTORS];

/* The signed 8-bit dynamic map, ascending: the "nested_quant_map" in files. */
extern const float pq_dyn8_map[256];

/* What is derived from pq_dyn8_map. */
struct pq_dyn8_tables {
    /*
     * For the nearest value: thresholds in the order of a binary search, as
     * in pq_code4, with leaf 256 + code.  A threshold is the largest float
     * that is not above the exact middle of two neighbours, so that a float
     * is above one iff it is above the other.
     */
    float tree[256];
    /*
     * bitsandbytes' table for CPU: the code of -1 + 2i/65535.  Three bytes
     * more, because AVX2 gathers four bytes at a time.
     */
    uint8_t lut[65536 + 3];
};

/*
 * The derived tables, 68 KiB, filled on the first call.  Any thread may make
 * that call; the result never changes afterwards.
 */
const struct pq_dyn8_tables *pq_dyn8_tables(void);

#ifdef __cplusplus
}
#endif
#endif
