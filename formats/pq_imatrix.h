/*
 * Importance matrices, as llama.cpp's llama-imatrix writes and llama-quantize
 * reads them: for each weight the mean square of each of its inputs.
 */
#ifndef PQ_IMATRIX_H
#define PQ_IMATRIX_H

#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All that these two point to is borrowed, for the call. */
struct pq_imatrix_entry {
    const char *weight;    /* as Hugging Face calls it: pq_name_gguf() */
    size_t n;              /* inputs */
    uint64_t tokens;       /* that the means are of */
    const double *squares; /* [n] means of x[i]^2 */
};

struct pq_imatrix {
    const struct pq_imatrix_entry *entries; /* [n] in any order */
    size_t n;
    const char *dataset; /* its name, that is told */
    uint32_t chunk;      /* tokens of a chunk, which the file counts in */
};

enum pq_imatrix_form {
    PQ_IMATRIX_GGUF, /* of llama.cpp since July 2025 */
    PQ_IMATRIX_DAT   /* what it wrote before, and still reads */
};

/*
 * Appends the whole file.  PQ_EARG: a weight that GGUF has no name for, or
 * none at all; PQ_EVALUE: a square that is not finite; PQ_ELIMIT: counts that
 * its 32 bits do not hold.  After a failure *b may have a part.
 */
PQ_MUST_USE int pq_imatrix_put(struct pq_buf *b, enum pq_imatrix_form form,
                               const struct pq_imatrix *m, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
