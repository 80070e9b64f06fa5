/*
 * Kernels for changes to weights, portable: the product of two thin matrices
 * added to a matrix, and how much of a change survived rounding.
 */
#include "impl.h"

void pq_scalar_add_product(const float *l, size_t rows, size_t rank,
                           const float *r, size_t stride, size_t cols,
                           float scale, float *x, size_t x_stride)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float sum = 0;
            for (size_t k = 0; k < rank; k++) {
                const float p = l[i * rank + k] * r[k * stride + j];
                sum += p;
            }
            x[i * x_stride + j] += scale * sum;
        }
}

void pq_scalar_change_stats(const float *base, const float *x, const float *y,
                            size_t n, double sums[3])
{
    double wanted[PQ_LANES] = {0}, applied[PQ_LANES] = {0};
    double both[PQ_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        const double w = (double)x[i] - (double)base[i];
        const double a = (double)y[i] - (double)base[i];
        wanted[i % PQ_LANES] += w * w;
        applied[i % PQ_LANES] += a * a;
        both[i % PQ_LANES] += w * a;
    }
    sums[0] = pq_lane_sum(wanted);
    sums[1] = pq_lane_sum(applied);
    sums[2] = pq_lane_sum(both);
}
