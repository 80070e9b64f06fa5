/*
 * The kernels of prune.c with AVX2; a part of avx2.c.  What is left over goes
 * to the scalar ones.
 */

/* ---- which are kept ------------------------------------------------------ */

static void keep_from(const float *x, size_t n, uint32_t low, uint8_t *keep)
{
    const __m256i l = _mm256_set1_epi32((int)low);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256i m = abs_bits(x + i);
        const __m256i in = _mm256_cmpeq_epi32(_mm256_max_epu32(m, l), m);
        keep[i / 8] = (uint8_t)_mm256_movemask_ps(_mm256_castsi256_ps(in));
    }
    pq_scalar_keep_from(x + i, n - i, low, keep + i / 8);
}

/*
 * Groups of 2, 4 or 8 in vectors of eight: each element is compared with the
 * other ones of its group, which the r-th turn brings to its place.  `before`
 * is -1 where what comes to the place has the lower index: there a tie counts.
 */
struct turn {
    __m256i from, before;
};

static unsigned load_turns(unsigned group, struct turn *t /* [7] */)
{
    for (unsigned r = 1; r < group; r++) {
        int from[8], before[8];
        for (unsigned i = 0; i < 8; i++) {
            const unsigned first = i / group * group;
            const unsigned j = first + (i - first + r) % group;
            from[i] = (int)j;
            before[i] = j < i ? -1 : 0;
        }
        t[r - 1].from = _mm256_loadu_si256((const __m256i *)from);
        t[r - 1].before = _mm256_loadu_si256((const __m256i *)before);
    }
    return group - 1;
}

/* The bits of eight elements; as counts are negative, so is -drop. */
static inline unsigned keep_eight(const float *x, const struct turn *t,
                                  unsigned n_turns, __m256i drop)
{
    const __m256i v = abs_bits(x);
    __m256i count = _mm256_setzero_si256();

    for (unsigned r = 0; r < n_turns; r++) {
        const __m256i w = _mm256_permutevar8x32_epi32(v, t[r].from);
        /* w < v, or w - 1 < v where a tie counts */
        count = _mm256_add_epi32(
            count, _mm256_cmpgt_epi32(v, _mm256_add_epi32(w, t[r].before)));
    }
    const __m256i goes = _mm256_cmpgt_epi32(count, drop);
    return ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(goes)) & 0xff;
}

static void keep_groups(const float *x, size_t n, unsigned group, unsigned drop,
                        uint8_t *keep)
{
    const __m256i d = _mm256_set1_epi32(-(int)drop);
    struct turn t[7];
    size_t i = 0;

    if (group == 4) {
        load_turns(4, t);
        for (; i + 8 <= n; i += 8)
            keep[i / 8] = (uint8_t)keep_eight(x + i, t, 3, d);
    } else if (group == 8 || group == 2) {
        const unsigned n_turns = load_turns(group, t);
        for (; i + 8 <= n; i += 8)
            keep[i / 8] = (uint8_t)keep_eight(x + i, t, n_turns, d);
    }
    pq_scalar_keep_groups(x + i, n - i, group, drop, keep + i / 8);
}

/* Eight groups side by side; element i of them against all others. */
static inline unsigned keep_column(const float *x, size_t stride,
                                   unsigned group, __m256i drop, unsigned i)
{
    const __m256i v = abs_bits(x + i * stride), one = _mm256_set1_epi32(1);
    __m256i count = _mm256_setzero_si256();

    for (unsigned j = 0; j < i; j++)
        count = _mm256_add_epi32(
            count, _mm256_cmpgt_epi32(
                       v, _mm256_sub_epi32(abs_bits(x + j * stride), one)));
    for (unsigned j = i + 1; j < group; j++)
        count = _mm256_add_epi32(
            count, _mm256_cmpgt_epi32(v, abs_bits(x + j * stride)));
    const __m256i goes = _mm256_cmpgt_epi32(count, drop);
    return ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(goes)) & 0xff;
}

static void keep_across(const float *x, size_t stride, unsigned group,
                        unsigned drop, size_t n, uint8_t *keep,
                        size_t keep_stride)
{
    const __m256i d = _mm256_set1_epi32(-(int)drop);
    size_t c = 0;

    for (; c + 8 <= n; c += 8)
        for (unsigned i = 0; i < group; i++)
            keep[i * keep_stride + c / 8] =
                (uint8_t)keep_column(x + c, stride, group, d, i);
    if (c < n)
        pq_scalar_keep_across(x + c, stride, group, drop, n - c, keep + c / 8,
                              keep_stride);
}

/* ---- what is kept -------------------------------------------------------- */

static void keep_u32(const uint32_t *in, const uint8_t *keep, size_t n,
                     uint32_t *out)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256i k = _mm256_and_si256(_mm256_set1_epi32(keep[i / 8]), bit);
        const __m256i v = _mm256_loadu_si256((const __m256i *)(in + i));
        _mm256_storeu_si256((__m256i *)(out + i),
                            _mm256_and_si256(v, _mm256_cmpeq_epi32(k, bit)));
    }
    pq_scalar_keep_u32(in + i, keep + i / 8, n - i, out + i);
}

static void keep_u16(const uint16_t *in, const uint8_t *keep, size_t n,
                     uint16_t *out)
{
    const __m128i bit = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m128i k = _mm_and_si128(_mm_set1_epi16(keep[i / 8]), bit);
        const __m128i v = _mm_loadu_si128((const __m128i *)(in + i));
        _mm_storeu_si128((__m128i *)(out + i),
                         _mm_and_si128(v, _mm_cmpeq_epi16(k, bit)));
    }
    pq_scalar_keep_u16(in + i, keep + i / 8, n - i, out + i);
}
