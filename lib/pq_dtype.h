/*
 * Element types: those of safetensors 0.8, in the order in which the
 * reference library writes them (descending alignment rank).
 */
#ifndef PQ_DTYPE_H
#define PQ_DTYPE_H

#include "pq_error.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum pq_dtype {
    PQ_U64, PQ_I64, PQ_F64, PQ_C64, PQ_F32, PQ_U32, PQ_I32, PQ_BF16, PQ_F16,
    PQ_U16, PQ_I16, PQ_F8_E5M2FNUZ, PQ_F8_E4M3FNUZ, PQ_F8_E8M0, PQ_F8_E4M3,
    PQ_F8_E5M2, PQ_I8, PQ_U8, PQ_F6_E3M2, PQ_F6_E2M3, PQ_F4, PQ_BOOL,
    PQ_N_DTYPES
};

/* The name in a safetensors header ("BF16"). */
const char *pq_dtype_name(enum pq_dtype t);
/* The name in a transformers config or a quant_state ("bfloat16"), or NULL. */
const char *pq_dtype_torch_name(enum pq_dtype t);
/* Bits of one element: 4, 6, 8, 16, 32 or 64. */
unsigned pq_dtype_bits(enum pq_dtype t);
/* A type that pq can widen to float: F64 F32 BF16 F16 F8_E4M3 F8_E5M2. */
bool pq_dtype_is_float(enum pq_dtype t);
/* The type named by s[0..n), or -1. */
int pq_dtype_from_name(const char *s, size_t n);
int pq_dtype_from_torch_name(const char *s);

#ifdef __cplusplus
}
#endif
#endif
