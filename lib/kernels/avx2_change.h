/*
 * The kernels of change.c with AVX2; a part of avx2.c.  Every element has one
 * sum over k in order, so the width of the tiles does not show in the bits.
 */

/* Two rows by 32 columns: eight sums that do not wait for each other. */
static void product_2x32(const float *l, size_t rank, const float *r,
                         size_t stride, float scale, float *x, size_t x_stride)
{
    const __m256 s = _mm256_set1_ps(scale);
    __m256 sum[2][4];

    for (size_t v = 0; v < 4; v++)
        sum[0][v] = sum[1][v] = _mm256_setzero_ps();
    for (size_t k = 0; k < rank; k++) {
        const __m256 l0 = _mm256_set1_ps(l[k]);
        const __m256 l1 = _mm256_set1_ps(l[rank + k]);
        for (size_t v = 0; v < 4; v++) {
            const __m256 a = _mm256_loadu_ps(r + k * stride + 8 * v);
            sum[0][v] = _mm256_add_ps(sum[0][v], _mm256_mul_ps(l0, a));
            sum[1][v] = _mm256_add_ps(sum[1][v], _mm256_mul_ps(l1, a));
        }
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t v = 0; v < 4; v++) {
            float *const to = x + i * x_stride + 8 * v;
            _mm256_storeu_ps(to,
                             _mm256_add_ps(_mm256_loadu_ps(to),
                                           _mm256_mul_ps(s, sum[i][v])));
        }
}

static void add_product(const float *l, size_t rows, size_t rank,
                        const float *r, size_t stride, size_t cols,
                        float scale, float *x, size_t x_stride)
{
    const size_t even = rows / 2 * 2, wide = cols / 32 * 32;

    for (size_t j = 0; j < wide; j += 32)
        for (size_t i = 0; i < even; i += 2)
            product_2x32(l + i * rank, rank, r + j, stride, scale,
                         x + i * x_stride + j, x_stride);
    pq_scalar_add_product(l, even, rank, r + wide, stride, cols - wide, scale,
                          x + wide, x_stride);
    pq_scalar_add_product(l + even * rank, rows - even, rank, r, stride, cols,
                          scale, x + even * x_stride, x_stride);
}

/* Lanes 0-3 and 4-7 of a difference, in double. */
static inline __m256d half(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

static void change_stats(const float *base, const float *x, const float *y,
                         size_t n, double sums[3])
{
    const size_t whole = n / PQ_LANES * PQ_LANES;
    __m256d sum[3][2];
    double lanes[3][PQ_LANES];

    for (size_t s = 0; s < 3; s++)
        sum[s][0] = sum[s][1] = _mm256_setzero_pd();
    for (size_t i = 0; i < whole; i += PQ_LANES)
        for (size_t h = 0; h < 2; h++) {
            const __m256d b = half(base + i + 4 * h);
            const __m256d w = _mm256_sub_pd(half(x + i + 4 * h), b);
            const __m256d a = _mm256_sub_pd(half(y + i + 4 * h), b);
            sum[0][h] = _mm256_add_pd(sum[0][h], _mm256_mul_pd(w, w));
            sum[1][h] = _mm256_add_pd(sum[1][h], _mm256_mul_pd(a, a));
            sum[2][h] = _mm256_add_pd(sum[2][h], _mm256_mul_pd(w, a));
        }
    for (size_t s = 0; s < 3; s++) {
        _mm256_storeu_pd(lanes[s], sum[s][0]);
        _mm256_storeu_pd(lanes[s] + 4, sum[s][1]);
    }
    for (size_t i = whole; i < n; i++) {
        const double w = (double)x[i] - (double)base[i];
        const double a = (double)y[i] - (double)base[i];
        lanes[0][i % PQ_LANES] += w * w;
        lanes[1][i % PQ_LANES] += a * a;
        lanes[2][i % PQ_LANES] += w * a;
    }
    for (size_t s = 0; s < 3; s++)
        sums[s] = pq_lane_sum(lanes[s]);
}
