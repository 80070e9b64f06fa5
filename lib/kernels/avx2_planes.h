/*
 * The kernels of planes.c with AVX2; a part of avx2.c.  Whole groups of 32
 * elements are done here (8 where single bits choose them), the rest there.
 *
 * Unpacking and packing work in the two halves of a register alone: an order
 * of halves (h0 h1) or of quarters is put right by one permute at the end.
 */

static inline __m256i load32(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store32(void *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

/* ---- planes ---- */

static void split2(const uint8_t *in, size_t n, size_t m, unsigned up,
                   uint8_t *planes)
{
    const __m256i low = _mm256_set1_epi16(0xff);
    const __m128i left = _mm_cvtsi32_si128((int)up);
    const __m128i right = _mm_cvtsi32_si128(16 - (int)up);

    for (size_t i = 0; i < m; i += 32) {
        __m256i v[2];
        for (size_t k = 0; k < 2; k++) {
            v[k] = load32(in + 2 * i + 32 * k);
            v[k] = _mm256_or_si256(_mm256_sll_epi16(v[k], left),
                                   _mm256_srl_epi16(v[k], right));
        }
        const __m256i p0 = _mm256_packus_epi16(_mm256_and_si256(v[0], low),
                                               _mm256_and_si256(v[1], low));
        const __m256i p1 = _mm256_packus_epi16(_mm256_srli_epi16(v[0], 8),
                                               _mm256_srli_epi16(v[1], 8));
        store32(planes + i, _mm256_permute4x64_epi64(p0, 0xd8));
        store32(planes + n + i, _mm256_permute4x64_epi64(p1, 0xd8));
    }
}

static void join2(const uint8_t *const *planes, size_t m, unsigned up,
                  uint8_t *out)
{
    const __m128i right = _mm_cvtsi32_si128((int)up);
    const __m128i left = _mm_cvtsi32_si128(16 - (int)up);

    for (size_t i = 0; i < m; i += 32) {
        const __m256i p0 = load32(planes[0] + i), p1 = load32(planes[1] + i);
        __m256i v[2] = {_mm256_unpacklo_epi8(p0, p1),
                        _mm256_unpackhi_epi8(p0, p1)};
        for (size_t k = 0; k < 2; k++)
            v[k] = _mm256_or_si256(_mm256_srl_epi16(v[k], right),
                                   _mm256_sll_epi16(v[k], left));
        store32(out + 2 * i, _mm256_permute2x128_si256(v[0], v[1], 0x20));
        store32(out + 2 * i + 32, _mm256_permute2x128_si256(v[0], v[1], 0x31));
    }
}

/* In each half, four elements become four bytes of plane 0, of plane 1, ... */
static inline __m256i bytes_apart(__m256i v)
{
    return _mm256_shuffle_epi8(v, _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2,
                                                   6, 10, 14, 3, 7, 11, 15, 0,
                                                   4, 8, 12, 1, 5, 9, 13, 2, 6,
                                                   10, 14, 3, 7, 11, 15));
}

static void split4(const uint8_t *in, size_t n, size_t m, unsigned up,
                   uint8_t *planes)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m128i left = _mm_cvtsi32_si128((int)up);
    const __m128i right = _mm_cvtsi32_si128(32 - (int)up);

    for (size_t i = 0; i < m; i += 32) {
        __m256i v[4], p[4];
        for (size_t k = 0; k < 4; k++) {
            v[k] = load32(in + 4 * i + 32 * k);
            v[k] = bytes_apart(_mm256_or_si256(_mm256_sll_epi32(v[k], left),
                                               _mm256_srl_epi32(v[k], right)));
        }
        const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]);
        const __m256i b = _mm256_unpacklo_epi32(v[2], v[3]);
        const __m256i c = _mm256_unpackhi_epi32(v[0], v[1]);
        const __m256i d = _mm256_unpackhi_epi32(v[2], v[3]);
        p[0] = _mm256_unpacklo_epi64(a, b);
        p[1] = _mm256_unpackhi_epi64(a, b);
        p[2] = _mm256_unpacklo_epi64(c, d);
        p[3] = _mm256_unpackhi_epi64(c, d);
        for (size_t k = 0; k < 4; k++)
            store32(planes + k * n + i,
                    _mm256_permutevar8x32_epi32(p[k], order));
    }
}

static void join4(const uint8_t *const *planes, size_t m, unsigned up,
                  uint8_t *out)
{
    const __m128i right = _mm_cvtsi32_si128((int)up);
    const __m128i left = _mm_cvtsi32_si128(32 - (int)up);

    for (size_t i = 0; i < m; i += 32) {
        const __m256i p0 = load32(planes[0] + i), p1 = load32(planes[1] + i);
        const __m256i p2 = load32(planes[2] + i), p3 = load32(planes[3] + i);
        const __m256i a = _mm256_unpacklo_epi8(p0, p1);
        const __m256i b = _mm256_unpackhi_epi8(p0, p1);
        const __m256i c = _mm256_unpacklo_epi8(p2, p3);
        const __m256i d = _mm256_unpackhi_epi8(p2, p3);
        __m256i v[4] = {
            _mm256_unpacklo_epi16(a, c), _mm256_unpackhi_epi16(a, c),
            _mm256_unpacklo_epi16(b, d), _mm256_unpackhi_epi16(b, d)};
        for (size_t k = 0; k < 4; k++)
            v[k] = _mm256_or_si256(_mm256_srl_epi32(v[k], right),
                                   _mm256_sll_epi32(v[k], left));
        uint8_t *const to = out + 4 * i;
        store32(to, _mm256_permute2x128_si256(v[0], v[1], 0x20));
        store32(to + 32, _mm256_permute2x128_si256(v[2], v[3], 0x20));
        store32(to + 64, _mm256_permute2x128_si256(v[0], v[1], 0x31));
        store32(to + 96, _mm256_permute2x128_si256(v[2], v[3], 0x31));
    }
}

static void split_planes(const void *in, size_t n, size_t width, unsigned up,
                         uint8_t *planes)
{
    const uint8_t *const p = in;
    const size_t m = n - n % 32;

    if (width != 2 && width != 4) {
        scalar->split_planes(in, n, width, up, planes);
        return;
    }
    (width == 2 ? split2 : split4)(p, n, m, up, planes);
    /* The last few: planes of their own, then each to its place. */
    uint8_t rest[4 * 32];
    scalar->split_planes(p + m * width, n - m, width, up, rest);
    for (size_t k = 0; k < width; k++)
        memcpy(planes + k * n + m, rest + k * (n - m), n - m);
}

static void join_planes(const uint8_t *const *planes, size_t n, size_t width,
                        unsigned up, void *out)
{
    const size_t m = n - n % 32;
    const uint8_t *rest[4];

    if (width != 2 && width != 4) {
        scalar->join_planes(planes, n, width, up, out);
        return;
    }
    (width == 2 ? join2 : join4)(planes, m, up, out);
    for (size_t k = 0; k < width; k++)
        rest[k] = planes[k] + m;
    scalar->join_planes(rest, n - m, width, up, (uint8_t *)out + m * width);
}

/* ---- what is not zero ---- */

/* Bits of the 32 elements at p that are zero. */
static inline uint32_t zeros1(const uint8_t *p)
{
    return (uint32_t)_mm256_movemask_epi8(
        _mm256_cmpeq_epi8(load32(p), _mm256_setzero_si256()));
}

static inline uint32_t zeros2(const uint8_t *p)
{
    const __m256i z = _mm256_setzero_si256();
    const __m256i v = _mm256_packs_epi16(_mm256_cmpeq_epi16(load32(p), z),
                                         _mm256_cmpeq_epi16(load32(p + 32), z));

    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(v, 0xd8));
}

static inline uint32_t zeros4(const uint8_t *p)
{
    uint32_t b = 0;

    for (unsigned k = 0; k < 4; k++) {
        const __m256i v =
            _mm256_cmpeq_epi32(load32(p + 32 * k), _mm256_setzero_si256());
        b |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(v)) << 8 * k;
    }
    return b;
}

static inline uint32_t zeros8(const uint8_t *p)
{
    uint32_t b = 0;

    for (unsigned k = 0; k < 8; k++) {
        const __m256i v =
            _mm256_cmpeq_epi64(load32(p + 32 * k), _mm256_setzero_si256());
        b |= (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(v)) << 4 * k;
    }
    return b;
}

static size_t map_nonzero(const void *in, size_t n, size_t width, uint8_t *bits)
{
    const uint8_t *const p = in;
    const size_t m = n - n % 32;
    size_t ones = 0;

    for (size_t i = 0; i < m; i += 32) {
        const uint8_t *const at = p + i * width;
        const uint32_t b = ~(width == 1   ? zeros1(at)
                             : width == 2 ? zeros2(at)
                             : width == 4 ? zeros4(at)
                                          : zeros8(at));
        memcpy(bits + i / 8, &b, 4);
        ones += (size_t)__builtin_popcount(b);
    }
    return ones +
           scalar->map_nonzero(p + m * width, n - m, width, bits + m / 8);
}

/*
 * What a shuffle of eight elements needs, a byte each, from one byte of the
 * map: by its two halves, the upper one moved up by the bits of the lower.
 *
 *     places   of the set bits, first the lowest:  10110000 -> 4 5 7 ......
 *     ranks    how many set bits are below:        10110000 -> .. .. .. ..
 *              where the bit is set, else 40 or more            0  1  ..  2
 */
static const uint32_t places4[16] = {
    0x00000000, 0x00000000, 0x00000001, 0x00000100, 0x00000002, 0x00000200,
    0x00000201, 0x00020100, 0x00000003, 0x00000300, 0x00000301, 0x00030100,
    0x00000302, 0x00030200, 0x00030201, 0x03020100};
static const uint32_t ranks4[16] = {
    0x40404040, 0x40404000, 0x40400040, 0x40400100, 0x40004040, 0x40014000,
    0x40010040, 0x40020100, 0x00404040, 0x01404000, 0x01400040, 0x02400100,
    0x01004040, 0x02014000, 0x02010040, 0x03020100};

static inline __m128i places(unsigned b)
{
    const unsigned low = b & 15, high = b >> 4;
    const uint64_t up = places4[high] + UINT64_C(0x04040404);

    return _mm_cvtsi64_si128(
        (long long)(places4[low] | up << 8 * __builtin_popcount(low)));
}

static inline __m128i ranks(unsigned b)
{
    const unsigned low = b & 15, high = b >> 4;
    const uint64_t n = (uint64_t)__builtin_popcount(low);

    return _mm_cvtsi64_si128(
        (long long)(ranks4[low] | (ranks4[high] + n * UINT64_C(0x01010101))
                                      << 32));
}

/* Indices of 16-bit elements as indices of their bytes; 40 becomes 80. */
static inline __m128i of_pairs(__m128i index)
{
    const __m128i two = _mm_add_epi8(index, index);

    return _mm_unpacklo_epi8(two, _mm_add_epi8(two, _mm_set1_epi8(1)));
}

static void compact2(const uint8_t *bits, const uint8_t *in, size_t m,
                     uint8_t *out)
{
    for (size_t i = 0; i < m; i += 8) {
        const unsigned b = bits[i / 8];
        const __m128i v = _mm_loadu_si128((const __m128i *)(in + 2 * i));
        _mm_storeu_si128((__m128i *)out,
                         _mm_shuffle_epi8(v, of_pairs(places(b))));
        out += 2 * __builtin_popcount(b);
    }
}

static void compact4(const uint8_t *bits, const uint8_t *in, size_t m,
                     uint8_t *out)
{
    for (size_t i = 0; i < m; i += 8) {
        const unsigned b = bits[i / 8];
        store32(out, _mm256_permutevar8x32_epi32(
                         load32(in + 4 * i), _mm256_cvtepu8_epi32(places(b))));
        out += 4 * __builtin_popcount(b);
    }
}

static void compact(const uint8_t *bits, const void *in, size_t n, size_t width,
                    void *out)
{
    const uint8_t *const p = in;
    const size_t m = n - n % 8;
    size_t ones = 0;

    if (width != 2 && width != 4) {
        scalar->compact(bits, in, n, width, out);
        return;
    }
    (width == 2 ? compact2 : compact4)(bits, p, m, out);
    for (size_t i = 0; i < m / 8; i++)
        ones += (size_t)__builtin_popcount(bits[i]);
    scalar->compact(bits + m / 8, p + m * width, n - m, width,
                    (uint8_t *)out + ones * width);
}

static inline void expand2(unsigned b, const uint8_t *in, uint8_t *out)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)in);

    _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(v, of_pairs(ranks(b))));
}

static inline void expand4(unsigned b, const uint8_t *in, uint8_t *out)
{
    const __m256i r = _mm256_cvtepu8_epi32(ranks(b));
    const __m256i v = _mm256_permutevar8x32_epi32(load32(in), r);

    store32(out,
            _mm256_and_si256(v, _mm256_cmpgt_epi32(_mm256_set1_epi32(8), r)));
}

/* Eight values are loaded whatever is needed, as long as there are so many. */
static void expand(const uint8_t *bits, const void *in, size_t ones, size_t n,
                   size_t width, void *out)
{
    const uint8_t *p = in;
    uint8_t *const to = out;
    size_t i = 0;

    if (width == 2 || width == 4) {
        for (; i + 8 <= n && ones >= 8; i += 8) {
            const unsigned b = bits[i / 8];
            const size_t one = (size_t)__builtin_popcount(b);
            (width == 2 ? expand2 : expand4)(b, p, to + i * width);
            p += one * width;
            ones -= one;
        }
    }
    scalar->expand(bits + i / 8, p, ones, n - i, width, to + i * width);
}
