/*
 * The matrix product of lib/nn: every element is the defined chain of
 * multiply-adds, at any shape, number of threads and kind of kernel.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/mat.h"
#include "numbers.h"
#include "pq_quant.h"
#include "quant/quant_internal.h"

static float *randoms(size_t n)
{
    float *x = malloc((n + 16) * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = (float)(next() >> 40) * 0x1p-24f - 0.5f;
    return x;
}

/* Element [i][j] by the definition, with b as plain floats. */
static float element(const struct nn_product *p, const float *b, size_t i,
                     size_t j, float before)
{
    float c = before;

    for (size_t k = 0; k < p->k || k == 0; k += NN_BLOCK_K) {
        float s = 0;
        for (size_t q = k; q < p->k && q < k + NN_BLOCK_K; q++)
            s = fmaf(p->a[i * p->a_row + q * p->a_col],
                     p->b_by_k ? b[q * p->n + j] : b[j * p->k + q], s);
        c = k || p->add ? c + s : s;
    }
    return p->bias ? c + p->bias[j] : c;
}

static const size_t shapes[][3] = {
    {1, 1, 1},     {1, 16, 256}, {1, 33, 300},  {2, 8, 7},
    {3, 40, 513},  {5, 7, 64},   {6, 16, 257},  {7, 130, 512},
    {64, 8, 96},   {13, 100, 1}, {200, 24, 48}, {97, 260, 80},
    {4, 17, 1024}, {210, 1, 31}, {3, 5, 0},     {200, 512, 20},
};

static void check_product(struct nn_pool *pool, const size_t s[3], bool by_k,
                          bool turned, bool add, bool biased)
{
    const size_t m = s[0], n = s[1], k = s[2], row = n + 3;
    float *a = randoms(m * k), *b = randoms(n * k), *bias = randoms(n);
    float *c = randoms(m * row), *before = malloc(m * row * sizeof *c);
    const struct nn_mat mat =
        by_k ? nn_mat_f32(b, k, n, n) : nn_mat_f32(b, n, k, k);
    const struct nn_product p = {
        m,        n,    k, a,   turned ? 1 : k,       turned ? m : 1,
        &mat,     by_k, c, row, biased ? bias : NULL, add,
        NN_WHOLE, 0};

    memcpy(before, c, m * row * sizeof *c);
    nn_multiply(pool, &p);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < row; j++) {
            const float was = before[i * row + j];
            const float want = j < n ? element(&p, b, i, j, was) : was;
            cr_assert_eq(bits_of(c[i * row + j]), bits_of(want),
                         "%zu x %zu x %zu, by_k %d turned %d add %d: [%zu][%zu]"
                         " is %a, not %a",
                         m, n, k, by_k, turned, add, i, j, c[i * row + j],
                         want);
        }
    free(a);
    free(b);
    free(bias);
    free(c);
    free(before);
}

static void check_all(const struct pq_kernels *k, size_t threads)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct nn_pool *pool = nn_pool_new(threads, k, &e);

    cr_assert(pool, "%s", e.msg);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (unsigned how = 0; how < 16; how++)
            check_product(pool, shapes[s], how & 1, how & 2, how & 4, how & 8);
    nn_pool_free(pool);
}

Test(nn_gemm, is_the_defined_chain_with_the_best_kernels)
{
    check_all(pq_kernels_best(), 1);
    check_all(pq_kernels_best(), 3);
}

Test(nn_gemm, is_the_defined_chain_with_portable_kernels)
{
    check_all(pq_kernels_scalar(), 1);
}

/* ---- encoded matrices ---- */

struct encoded {
    struct nn_mat mat;
    void *data;
    float *scale;
};

static struct encoded encode(enum pq_encoding enc, enum pq_dtype dtype,
                             const float *w, size_t rows, size_t cols)
{
    const struct pq_kernels *k = pq_kernels_best();
    const size_t n = rows * cols, block = 64;
    struct encoded x = {.mat = {.codec = {enc, (uint32_t)block, 0},
                                .dtype = dtype,
                                .rows = rows,
                                .cols = cols,
                                .row = cols}};

    x.data = malloc(n * 4 + 64);
    x.scale = malloc((n / block + rows + 1) * sizeof(float));
    if (enc == PQ_NF4)
        k->nf4_encode(w, n, block, x.data, x.scale);
    else if (enc == PQ_FP4)
        k->fp4_encode(w, n, block, x.data, x.scale);
    else if (enc == PQ_INT8)
        k->int8_rows_encode(w, rows, cols, x.data, x.scale);
    else if (enc == PQ_INT8_BLOCK)
        k->dyn8_encode(w, n, block, x.data, x.scale);
    else
        pq_store_f32(k, dtype, w, n, x.data);
    x.mat.data = x.data;
    x.mat.scale = x.scale;
    return x;
}

/* The same numbers decoded in one go. */
static void decode_whole(const struct encoded *x, float *out)
{
    const struct pq_kernels *k = pq_kernels_scalar();
    const struct nn_mat *m = &x->mat;
    const size_t n = m->rows * m->cols, block = m->codec.block;

    if (m->codec.encoding == PQ_NF4)
        k->nf4_decode(x->data, x->scale, n, block, out);
    else if (m->codec.encoding == PQ_FP4)
        k->fp4_decode(x->data, x->scale, n, block, out);
    else if (m->codec.encoding == PQ_INT8)
        k->int8_rows_decode(x->data, x->scale, m->rows, m->cols, out);
    else if (m->codec.encoding == PQ_INT8_BLOCK)
        k->dyn8_decode(x->data, x->scale, n, block, out);
    else
        pq_load_f32(k, m->dtype, x->data, n, out);
}

static void check_encoded(struct nn_pool *pool, enum pq_encoding enc,
                          enum pq_dtype dtype, size_t rows, size_t cols,
                          bool by_k, size_t m)
{
    const size_t n = by_k ? cols : rows, k = by_k ? rows : cols;
    float *w = randoms(rows * cols), *a = randoms(m * k);
    float *plain = malloc((rows * cols + 16) * sizeof *plain);
    float *c = malloc(m * n * sizeof *c);
    struct encoded x = encode(enc, dtype, w, rows, cols);
    if (enc != PQ_PLAIN && enc != PQ_INT8)
        x.mat.map = pq_quant_map(enc);
    const struct nn_product p = {m,    n, k, a,    k,     1,        &x.mat,
                                 by_k, c, n, NULL, false, NN_WHOLE, 0};

    decode_whole(&x, plain);
    nn_multiply(pool, &p);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            cr_assert_eq(bits_of(c[i * n + j]),
                         bits_of(element(&p, plain, i, j, 0)),
                         "encoding %d type %d %zu x %zu by_k %d: [%zu][%zu]",
                         enc, dtype, rows, cols, by_k, i, j);
    free(w);
    free(a);
    free(plain);
    free(c);
    free(x.data);
    free(x.scale);
}

static void check_encodings(const struct pq_kernels *k)
{
    static const struct {
        enum pq_encoding enc;
        enum pq_dtype dtype;
    } kinds[] = {{PQ_PLAIN, PQ_F32},     {PQ_PLAIN, PQ_F16},
                 {PQ_PLAIN, PQ_BF16},    {PQ_INT8, PQ_F32},
                 {PQ_NF4, PQ_F32},       {PQ_FP4, PQ_F32},
                 {PQ_INT8_BLOCK, PQ_F32}};
    static const size_t sizes[][2] = {{32, 256}, {50, 288}, {19, 33},
                                      {3, 5},    {40, 576}, {35, 128}};
    struct pq_error e = PQ_ERROR_INIT;
    struct nn_pool *pool = nn_pool_new(2, k, &e);

    cr_assert(pool, "%s", e.msg);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int by_k = 0; by_k < 2; by_k++) {
                check_encoded(pool, kinds[i].enc, kinds[i].dtype, sizes[s][0],
                              sizes[s][1], by_k, 7);
                check_encoded(pool, kinds[i].enc, kinds[i].dtype, sizes[s][0],
                              sizes[s][1], by_k, 1);
            }
    nn_pool_free(pool);
}

Test(nn_gemm, decodes_weights_as_it_packs_them)
{
    check_encodings(pq_kernels_best());
    check_encodings(pq_kernels_scalar());
}

Test(nn_gemm, a_row_alone_has_the_bits_of_the_row_among_many)
{
    const size_t m = 50, n = 200, k = 700;
    struct pq_error e = PQ_ERROR_INIT;
    struct nn_pool *one = nn_pool_new(1, pq_kernels_best(), &e);
    struct nn_pool *four = nn_pool_new(4, pq_kernels_best(), &e);
    float *a = randoms(m * k), *b = randoms(n * k);
    float *c = malloc(m * n * sizeof *c), *row = malloc(n * sizeof *row);
    const struct nn_mat mat = nn_mat_f32(b, n, k, k);
    struct nn_product p = {m,     n, k, a,    k,     1,        &mat,
                           false, c, n, NULL, false, NN_WHOLE, 0};

    cr_assert(one && four, "%s", e.msg);
    nn_multiply(four, &p);
    for (size_t i = 0; i < m; i++) {
        p.m = 1;
        p.a = a + i * k;
        p.c = row;
        nn_multiply(one, &p);
        cr_assert(memcmp(row, c + i * n, n * sizeof *row) == 0, "row %zu", i);
    }
    nn_pool_free(one);
    nn_pool_free(four);
    free(a);
    free(b);
    free(c);
    free(row);
}

/* a, or what of c is looked at, is a triangle; a_row 1: stored turned. */
static void check_triangle(struct nn_pool *pool, enum nn_shape shape, size_t m,
                           size_t n, size_t k, size_t shift, bool turned)
{
    float *a = randoms(m * k), *b = randoms(n * k);
    float *c = randoms(m * n), *whole = malloc(m * n * sizeof *whole);
    const struct nn_mat mat = nn_mat_f32(b, k, n, n);
    struct nn_product p = {m,        n,    k, a, turned ? 1 : k, turned ? m : 1,
                           &mat,     true, c, n, NULL,           true,
                           NN_WHOLE, shift};

    for (size_t i = 0; i < m; i++)
        for (size_t q = 0; q < k; q++)
            if ((shape == NN_A_LOWER && q > shift + i) ||
                (shape == NN_A_UPPER && i > shift + q))
                a[i * p.a_row + q * p.a_col] = 0;
    memcpy(whole, c, m * n * sizeof *c);
    p.c = whole;
    nn_multiply(pool, &p);
    p.c = c;
    p.shape = shape;
    nn_multiply(pool, &p);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            cr_assert(bits_of(c[i * n + j]) == bits_of(whole[i * n + j]) ||
                          (shape == NN_C_LOWER && j > shift + i),
                      "shape %d, %zu x %zu x %zu, shift %zu: [%zu][%zu]", shape,
                      m, n, k, shift, i, j);
    free(a);
    free(b);
    free(c);
    free(whole);
}

Test(nn_gemm, triangles_have_the_bits_of_the_whole)
{
    static const size_t shifts[] = {0, 1, 5, 37, 300, 900};
    struct pq_error e = PQ_ERROR_INIT;
    struct nn_pool *pool = nn_pool_new(2, pq_kernels_best(), &e);

    cr_assert(pool, "%s", e.msg);
    for (enum nn_shape s = NN_WHOLE; s <= NN_A_UPPER; s++)
        for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++)
            for (int turned = 0; turned < 2; turned++) {
                check_triangle(pool, s, 64, 40, 64 + shifts[i], shifts[i],
                               turned);
                check_triangle(pool, s, 350, 48, 64, shifts[i], turned);
                check_triangle(pool, s, 61, 200, 31, shifts[i], turned);
            }
    nn_pool_free(pool);
}
