/*
 * Speed of the one matrix product (lib/nn/gemm.c), in GFLOP/s, for the shapes
 * that training two llamas of 8M and 98M parameters has, beside what the

 *     bench_gemm THREADS
 *
 * Lines: "gemm NAME GFLOP/S" and "fact fma_peak GFLOP/S", the best of several
 * runs each.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../strict.h"
#include "nn/mat.h"

#define RUNS 7

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- the peak ----------------------------------------------------------- */

static volatile float sink;

#define FMAS 20000000

#if defined(__x86_64__)
/* Twelve chains hide the latency of two units. */
__attribute__((target("avx2,fma"))) static void chains(void)
{
    __m256 s[12];
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    float out[8];

    for (int i = 0; i < 12; i++)
        s[i] = _mm256_set1_ps((float)i);
    for (long k = 0; k < FMAS / 12; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            s[i] = _mm256_fmadd_ps(s[i], x, y);
    }
    for (int i = 1; i < 12; i++)
        s[0] = _mm256_add_ps(s[0], s[i]);
    _mm256_storeu_ps(out, s[0]);
    sink = out[0];
}
#else
static void chains(void)
{
    float s[12] = {0};

    for (long k = 0; k < FMAS / 12; k++)
        for (int i = 0; i < 12; i++)
            s[i] = s[i] * 0.999f + 1e-3f;
    sink = s[0];
}
#endif

#if defined(__x86_64__)
#define LANES 8
#else
#define LANES 1
#endif

static void chain_task(void *arg, struct nn_worker *w, size_t task)
{
    (void)arg, (void)w, (void)task;
    chains();
}

static double peak(struct nn_pool *pool)
{
    const size_t threads = nn_pool_threads(pool);
    double best = 0;

    for (int i = 0; i < RUNS; i++) {
        const double t = now();
        nn_pool_run(pool, chain_task, NULL, threads);
        const double f = 2.0 * LANES * FMAS * (double)threads / (now() - t);
        best = f > best ? f : best;
    }
    return best / 1e9;
}

/* ---- products ----------------------------------------------------------- */

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof *x);
    uint32_t s = 1;

    if (!x) {
        fprintf(stderr, "bench_gemm: out of memory\n");
        exit(2);
    }
    for (size_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (float)(s >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

struct shape {
    const char *name;
    size_t m, n, k;
    bool b_by_k, a_turned; /* dx = dy w; dw = dy^T x */
};

static void product(struct nn_pool *pool, const struct shape *s)
{
    float *a = numbers(s->m * s->k), *b = numbers(s->n * s->k);
    float *c = numbers(s->m * s->n);
    const struct nn_mat mat = s->b_by_k ? nn_mat_f32(b, s->k, s->n, s->n)
                                        : nn_mat_f32(b, s->n, s->k, s->k);
    const struct nn_product p = {.m = s->m,
                                 .n = s->n,
                                 .k = s->k,
                                 .a = a,
                                 .a_row = s->a_turned ? 1 : s->k,
                                 .a_col = s->a_turned ? s->m : 1,
                                 .b = &mat,
                                 .b_by_k = s->b_by_k,
                                 .c = c,
                                 .c_row = s->n,
                                 .add = s->a_turned};
    const double work = 2.0 * (double)s->m * (double)s->n * (double)s->k;
    double best = 0;

    for (int i = 0; i < RUNS; i++) {
        const double t = now();
        nn_multiply(pool, &p);
        const double rate = work / (now() - t);
        best = rate > best ? rate : best;
    }
    printf("gemm %s %.1f\n", s->name, best / 1e9);
    free(a), free(b), free(c);
}

static const struct shape shapes[] = {
    {"8m_q", 2048, 288, 288, false, false},
    {"8m_up", 2048, 768, 288, false, false},
    {"8m_down", 2048, 288, 768, false, false},
    {"8m_head", 256, 4096, 288, false, false},
    {"8m_up_dx", 2048, 288, 768, true, false},
    {"8m_down_dx", 2048, 768, 288, true, false},
    {"8m_up_dw", 768, 288, 2048, true, true},
    {"8m_down_dw", 288, 768, 2048, true, true},
    {"8m_head_dx", 256, 288, 4096, true, false},
    {"8m_head_dw", 4096, 288, 256, true, true},
    {"98m_up", 512, 2048, 768, false, false},
    {"98m_down", 512, 768, 2048, false, false},
    {"98m_up_dx", 512, 768, 2048, true, false},
    {"98m_up_dw", 2048, 768, 512, true, true},
    {"98m_head", 256, 16384, 768, false, false},
    {"98m_head_dw", 16384, 768, 256, true, true},
    {"1b_up", 512, 5632, 2048, false, false},
    {"lora_a", 2048, 8, 288, false, false},
    {"lora_b", 2048, 288, 8, false, false},
    {"scores", 64, 256, 48, false, false},
    {"mix", 64, 48, 256, true, false},
};

int main(int argc, char **argv)
{
    struct pq_error e;
    long threads = 1;

    if (argc > 2 || (argc > 1 && !strict_long(argv[1], 1, 1024, &threads))) {
        fprintf(stderr, "usage: bench_gemm [THREADS]\n");
        return 2;
    }
    struct nn_pool *pool = nn_pool_new((size_t)threads, pq_kernels_best(), &e);
    if (!pool)
        return 2;
    printf("fact fma_peak %.1f\n", peak(pool));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        product(pool, &shapes[i]);
    nn_pool_free(pool);
    return 0;
}
