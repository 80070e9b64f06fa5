/*
 * The choice of kernels.  It depends on the processor alone, never on the
 * data, and changes speed, never bytes.
 */
#include "pq_kernels.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "impl.h"

/*
 * The AVX2 kernels, or NULL on a machine without AVX2 and F16C.  The compiler
 * knows how to ask for AVX2, which the system must support too; clang before
 * 15 does not know the word "f16c", so this is asked by hand.
 */
static const struct pq_kernels *avx2_if_usable(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;

    if (__builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) &&
        (c & bit_F16C))
        return &pq_kernels_avx2_table;
#endif
    return NULL;
}

const struct pq_kernels *pq_kernels_scalar(void)
{
    return &pq_kernels_scalar_table;
}

const struct pq_kernels *pq_kernels_best(void)
{
    const struct pq_kernels *avx2 = avx2_if_usable();

    return avx2 ? avx2 : &pq_kernels_scalar_table;
}

const struct pq_kernels *pq_kernels_named(const char *name)
{
    if (strcmp(name, "scalar") == 0)
        return &pq_kernels_scalar_table;
    if (strcmp(name, "avx2") == 0)
        return avx2_if_usable();
    return NULL;
}
