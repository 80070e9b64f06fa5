/*
 * What the files of lib/quant share: building parts, checking values,
 * measuring errors, and the parameters of a step.
 */
#ifndef PQ_QUANT_INTERNAL_H
#define PQ_QUANT_INTERNAL_H

#include "pq_kernels.h"
#include "pq_quant.h"

#define PQ_UNIT_ELEMENTS 65536u /* of a flat unit: 256 KiB of float */
#define PQ_NESTED_BLOCK  256u
#define PQ_MAX_RANK      64

/* step->params of encode and decode steps. */
struct pq_quant_step {
    const struct pq_quant *quant;
    const struct pq_tensor *in;  /* of the source's catalogue */
    struct pq_tensor *out;       /* of the output catalogue */
    struct pq_spec spec;
    bool transpose;
    uint64_t row; /* elements of a row of the output (int8 rows, transpose) */
    uint64_t columns; /* elements of a row as the change sees it, or 0 */
    uint64_t unit_elements; /* most elements of a unit */
    const struct pq_change *change; /* or NULL */
};

/*
 * Step state of an encode step; partials are struct pq_quality, and behind it
 * what is gathered.  Behind the state: that of the change, then
 * float absmax[2 * blocks], those found and those that double quantization
 * makes of them.
 */
struct pq_encode_state {
    struct pq_quality quality;
    uint64_t n_gathered; /* elements or absmax in this pass so far */
};

/* The block sizes of bitsandbytes: 32, 64, ... 4096. */
bool pq_block_known(uint32_t block);
/* ceil(n / block) */
uint64_t pq_blocks_of(uint64_t n, uint64_t block);
/* The part of a role, or NULL; its number, or SIZE_MAX. */
struct pq_part *pq_part_of(const struct pq_tensor *t, enum pq_role role);
size_t pq_part_number(const struct pq_tensor *t, enum pq_role role);

/* state.c: the JSON of quant_state.  Appends it, padded to `length`. */
int pq_state_write(struct pq_buf *b, const struct pq_tensor *t,
                   enum pq_dtype dtype, double nested_offset, size_t length,
                   struct pq_error *e);
/* The length of the part: fits any offset and restores alignment to 8;
   0 when memory is short. */
size_t pq_state_length(const struct pq_tensor *t, enum pq_dtype dtype,
                       uint64_t before);
/* The nested_offset alone. */
int pq_state_offset(const char *text, size_t n, double *offset,
                    struct pq_error *e);
int pq_state_read(const char *text, size_t n, struct pq_catalog *c,
                  struct pq_tensor *t, struct pq_error *e);

/* tables as parts: 16 floats of nf4 or fp4, 256 of the dynamic map */
const void *pq_quant_map(enum pq_encoding e);

/* Smallest absmax bits that the plain type cannot hold. */
uint32_t pq_overflow_bits(enum pq_dtype t);
/*
 * Looks closer at x when `bits` says that something is out of range: counts
 * into *q, fails with the first bad element unless that is allowed.
 */
int pq_check_values(const struct pq_quant_step *p, const float *x, uint64_t n,
                    uint64_t first, uint32_t limit, struct pq_quality *q,
                    struct pq_error *e);
void pq_measure(const struct pq_quant_step *p, const float *x, const float *y,
                size_t n, struct pq_quality *q);
void pq_quality_add(struct pq_quality *a, const struct pq_quality *b);

/* decode.c: n elements from the start of a block; map is the file's own. */
void pq_decode_blocks(const struct pq_kernels *k, const struct pq_tensor *t,
                      const uint8_t *codes, const float *absmax /* [blocks] */,
                      const float *map /* [16 or 256] */, size_t n, float *y);

/* Double quantization of absmax: see nested.c. */
/* absmax of blocks [first, first + n); `nested` begins with that of `first`. */
void pq_nested_undo(const uint8_t *codes /* [n] */,
                    const float *map /* [256] */, const float *nested,
                    uint64_t first, uint64_t n, uint64_t block, double offset,
                    float *absmax /* [n] */);
int pq_nested_finish(const struct pq_step *s, void *state, struct pq_trail *t,
                     struct pq_error *e);
/* What a reader gets back for n absmax values after double quantization. */
void pq_nested_round_trip(const struct pq_quant_step *p, const float *absmax,
                          size_t n, float *out);

#endif
