/*
 * Kernels for blends of models, portable: sums of several arrays, and what
 * must be counted to find the k-th largest change without sorting.
 */
#include "impl.h"

#include "../rng.h"

void pq_scalar_weighted_sum(const float *x, size_t stride, const float *w,
                            size_t k, float divisor, size_t n, float *out)
{
    for (size_t j = 0; j < n; j++) {
        float sum = 0;
        for (size_t i = 0; i < k; i++) {
            const float p = w[i] * x[i * stride + j];
            sum += p;
        }
        out[j] = sum / divisor;
    }
}

void pq_scalar_trim(const float *x, const float *base, size_t n, uint32_t low,
                    uint32_t high, float *d)
{
    for (size_t i = 0; i < n; i++) {
        const float v = x[i] - base[i];
        const uint32_t bits = pq_abs_bits(v);
        d[i] = low <= bits && bits <= high ? v : 0;
    }
}

/* The sum at element j; with `elect` of those only that have its sign. */
static float mixed(const struct pq_task_sum *t, const float *d, size_t stride,
                   size_t j)
{
    float sum = 0, kept = 0, divisor = 0;

    for (size_t i = 0; i < t->k; i++) {
        const float p = t->w[i] * d[i * stride + j];
        sum += p;
    }
    if (!t->elect)
        return t->normalize ? sum / t->divisor : sum;
    const bool positive = sum >= 0;
    for (size_t i = 0; i < t->k; i++) {
        const float p = t->w[i] * d[i * stride + j];
        if (positive ? p > 0 : p < 0) {
            kept += p;
            divisor += t->w[i];
        }
    }
    return t->normalize ? kept / (divisor == 0 ? 1 : divisor) : kept;
}

void pq_task_sum_rest(const struct pq_task_sum *t, const float *base,
                      const float *d, size_t stride, size_t from, size_t n,
                      float *out)
{
    for (size_t j = from; j < n; j++) {
        const float m = t->lambda * mixed(t, d, stride, j);
        out[j] = base[j] + m;
    }
}

void pq_scalar_task_sum(const struct pq_task_sum *t, const float *base,
                        const float *d, size_t stride, size_t n, float *out)
{
    pq_task_sum_rest(t, base, d, stride, 0, n, out);
}

void pq_scalar_count_high(const float *x, const float *base, size_t n,
                          uint32_t *count)
{
    for (size_t i = 0; i < n; i++)
        count[pq_abs_bits(x[i] - base[i]) >> PQ_LOW_BITS]++;
}

void pq_scalar_count_low(const float *x, const float *base, size_t n,
                         uint32_t high, uint32_t *count)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = pq_abs_bits(x[i] - base[i]);
        if (bits >> PQ_LOW_BITS == high)
            count[bits & ((1u << PQ_LOW_BITS) - 1)]++;
    }
}

size_t pq_scalar_count_equal(const float *x, const float *base, size_t n,
                             uint32_t bits)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++)
        found += pq_abs_bits(x[i] - base[i]) == bits;
    return found;
}

double pq_scalar_abs_sum(const float *x, size_t n)
{
    double sum[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        sum[i % PQ_LANES] += (double)pq_float(pq_abs_bits(x[i]));
    return pq_lane_sum(sum);
}

void pq_scalar_uniform(const uint32_t key[2], const uint32_t stream[2],
                       uint64_t block, size_t n_blocks, float *out)
{
    for (size_t i = 0; i < n_blocks; i++, out += 4) {
        const uint64_t at = block + i;
        const uint32_t counter[4] = {(uint32_t)at, (uint32_t)(at >> 32),
                                     stream[0], stream[1]};
        uint32_t v[4];
        pq_philox4x32(counter, key, v);
        for (int w = 0; w < 4; w++)
            out[w] = pq_rng_unit(v[w]);
    }
}

void pq_scalar_drop(const float *lots, const float *chance, size_t n, bool over,
                    float *d)
{
    for (size_t i = 0; i < n; i++) {
        const float v = lots[i] < chance[i] ? d[i] : 0;
        d[i] = over ? v / chance[i] : v;
    }
}
