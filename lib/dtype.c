/*
 * Element types: one table, in the order of enum pq_dtype.
 *
 * Names are those of safetensors 0.8 (tensor.rs) and of torch.  Torch has no
 * 6-bit types, and its only 4-bit one packs two elements in a byte, so that
 * F4 has no torch name here.
 */
#include "pq_dtype.h"

#include <string.h>

static const struct {
    const char *name, *torch;
    unsigned char bits;
    bool is_float;
} types[PQ_N_DTYPES] = {
    [PQ_U64] = {"U64", "uint64", 64, false},
    [PQ_I64] = {"I64", "int64", 64, false},
    [PQ_F64] = {"F64", "float64", 64, true},
    [PQ_C64] = {"C64", "complex64", 64, false},
    [PQ_F32] = {"F32", "float32", 32, true},
    [PQ_U32] = {"U32", "uint32", 32, false},
    [PQ_I32] = {"I32", "int32", 32, false},
    [PQ_BF16] = {"BF16", "bfloat16", 16, true},
    [PQ_F16] = {"F16", "float16", 16, true},
    [PQ_U16] = {"U16", "uint16", 16, false},
    [PQ_I16] = {"I16", "int16", 16, false},
    [PQ_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", "float8_e5m2fnuz", 8, false},
    [PQ_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", "float8_e4m3fnuz", 8, false},
    [PQ_F8_E8M0] = {"F8_E8M0", "float8_e8m0fnu", 8, false},
    [PQ_F8_E4M3] = {"F8_E4M3", "float8_e4m3fn", 8, true},
    [PQ_F8_E5M2] = {"F8_E5M2", "float8_e5m2", 8, true},
    [PQ_I8] = {"I8", "int8", 8, false},
    [PQ_U8] = {"U8", "uint8", 8, false},
    [PQ_F6_E3M2] = {"F6_E3M2", NULL, 6, false},
    [PQ_F6_E2M3] = {"F6_E2M3", NULL, 6, false},
    [PQ_F4] = {"F4", NULL, 4, false},
    [PQ_BOOL] = {"BOOL", "bool", 8, false},
};

const char *pq_dtype_name(enum pq_dtype t)
{
    return types[t].name;
}

const char *pq_dtype_torch_name(enum pq_dtype t)
{
    return types[t].torch;
}

unsigned pq_dtype_bits(enum pq_dtype t)
{
    return types[t].bits;
}

bool pq_dtype_is_float(enum pq_dtype t)
{
    return types[t].is_float;
}

int pq_dtype_from_name(const char *s, size_t n)
{
    for (int t = 0; t < PQ_N_DTYPES; t++)
        if (strlen(types[t].name) == n && memcmp(types[t].name, s, n) == 0)
            return t;
    return -1;
}

int pq_dtype_from_torch_name(const char *s)
{
    for (int t = 0; t < PQ_N_DTYPES; t++)
        if (types[t].torch != NULL && strcmp(types[t].torch, s) == 0)
            return t;
    return -1;
}
