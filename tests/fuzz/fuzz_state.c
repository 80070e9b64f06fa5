/*
 * Encoded groups in a safetensors file: decoded, and copied.
 */
#include "decode.h"
#include "safetensors_mutator.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    fuzz_both(data, n, use_decode);
    fuzz_both(data, n, use_copy);
    return 0;
}
