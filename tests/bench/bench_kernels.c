/*
 * Speed of the kernels on one core, in 10^9 elements per second, best of
 * several runs over arrays that stay in the second-level cache.
 *
 *     bench_kernels [--json]
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "pq_kernels.h"

#define N 65536   /* elements */
#define ROWS 16   /* of N / ROWS */
#define REPEATS 9 /* the best one counts */

static float x[N], y[N], absmax[N];
static union {
    uint8_t u8[N];
    int8_t i8[N];
    uint16_t u16[N];
    float f32[N];
} out;
static uint8_t codes[N];
static uint16_t halves[N], sparse[N];
static uint8_t planes[2 * N], map[N / 8];
static size_t ones; /* of sparse[], by map[] */
static uint8_t keep[N / 8];
static const float nothing[N];

static volatile uint64_t sink; /* keeps results alive */

/* One benchmark: a name and one pass over N elements. */
struct bench {
    const char *name;
    void (*run)(const struct pq_kernels *k);
};

static void f16_to_f32(const struct pq_kernels *k)
{
    k->f16_to_f32(halves, N, out.f32);
}

static void bf16_to_f32(const struct pq_kernels *k)
{
    k->bf16_to_f32(halves, N, out.f32);
}

static void e4m3_to_f32(const struct pq_kernels *k)
{
    k->e4m3_to_f32(codes, N, out.f32);
}

static void e5m2_to_f32(const struct pq_kernels *k)
{
    k->e5m2_to_f32(codes, N, out.f32);
}

static void f32_to_f16(const struct pq_kernels *k)
{
    k->f32_to_f16(x, N, out.u16);
}

static void f32_to_bf16(const struct pq_kernels *k)
{
    k->f32_to_bf16(x, N, out.u16);
}

static void f32_to_e4m3(const struct pq_kernels *k)
{
    k->f32_to_e4m3(x, N, out.u8);
}

static void f32_to_e5m2(const struct pq_kernels *k)
{
    k->f32_to_e5m2(x, N, out.u8);
}

static void absmax_bits(const struct pq_kernels *k)
{
    sink += k->absmax_bits(x, N);
}

static void count_nonfinite(const struct pq_kernels *k)
{
    sink += k->count_nonfinite(x, N);
}

static void count_f16_overflow(const struct pq_kernels *k)
{
    sink += k->count_f16_overflow(x, N);
}

static void nf4_encode(const struct pq_kernels *k)
{
    k->nf4_encode(x, N, 64, out.u8, absmax);
}

static void fp4_encode(const struct pq_kernels *k)
{
    k->fp4_encode(x, N, 64, out.u8, absmax);
}

static void nf4_search(const struct pq_kernels *k)
{
    k->nf4_search(x, N, 64, true, out.u8, absmax);
}

static void nf4_decode(const struct pq_kernels *k)
{
    k->nf4_decode(codes, absmax, N, 64, out.f32);
}

static void int8_rows_encode(const struct pq_kernels *k)
{
    k->int8_rows_encode(x, ROWS, N / ROWS, out.i8, absmax);
}

static void int8_rows_decode(const struct pq_kernels *k)
{
    k->int8_rows_decode((const int8_t *)codes, absmax, ROWS, N / ROWS,
                        out.f32);
}

static void dyn8_encode(const struct pq_kernels *k)
{
    k->dyn8_encode(x, N, 256, out.u8, absmax);
}

static void dyn8_encode_exact(const struct pq_kernels *k)
{
    k->dyn8_encode_exact(x, N, 256, out.u8, absmax);
}

static void dyn8_decode(const struct pq_kernels *k)
{
    k->dyn8_decode(codes, absmax, N, 256, out.f32);
}

static void error_stats(const struct pq_kernels *k)
{
    double signal, noise;
    float max;

    k->error_stats(x, y, N, &signal, &noise, &max);
    sink += (uint64_t)(signal + noise + (double)max);
}

static void moments(const struct pq_kernels *k)
{
    struct pq_moments m;

    k->moments(x, N, &m);
    sink += m.zeros;
}

static void transpose_f32(const struct pq_kernels *k)
{
    k->transpose(x, out.f32, 256, N / 256, sizeof(float));
}

static void split_planes_f16(const struct pq_kernels *k)
{
    k->split_planes(halves, N, 2, 1, planes);
}

static void join_planes_f16(const struct pq_kernels *k)
{
    const uint8_t *const at[2] = {planes, planes + N};

    k->join_planes(at, N, 2, 1, out.u16);
}

static void map_nonzero_f16(const struct pq_kernels *k)
{
    sink += k->map_nonzero(sparse, N, 2, planes);
}

static void compact_f16(const struct pq_kernels *k)
{
    k->compact(map, sparse, N, 2, out.u16);
}

static void expand_f16(const struct pq_kernels *k)
{
    k->expand(map, halves, ones, N, 2, out.u16);
}

static void count_high(const struct pq_kernels *k)
{
    static uint32_t count[PQ_HIGH_COUNT];

    k->count_high(x, nothing, N, count);
    sink += count[0];
}

static void keep_from(const struct pq_kernels *k)
{
    k->keep_from(x, N, 0x3c23d70a, out.u8); /* 0.01 */
}

/* All that 2:4 takes. */
static void keep_2_of_4(const struct pq_kernels *k)
{
    k->keep_groups(x, N, 4, 2, keep);
    k->keep_u32((const uint32_t *)(const void *)x, keep, N,
                (uint32_t *)(void *)out.f32);
}

#define BENCH(f) {#f, f}
static const struct bench benches[] = {
    BENCH(f16_to_f32),       BENCH(bf16_to_f32),
    BENCH(e4m3_to_f32),      BENCH(e5m2_to_f32),
    BENCH(f32_to_f16),       BENCH(f32_to_bf16),
    BENCH(f32_to_e4m3),      BENCH(f32_to_e5m2),
    BENCH(absmax_bits),      BENCH(count_nonfinite),
    BENCH(count_f16_overflow), BENCH(nf4_encode),
    BENCH(fp4_encode),       BENCH(nf4_search),
    BENCH(nf4_decode),       BENCH(int8_rows_encode),
    BENCH(int8_rows_decode), BENCH(dyn8_encode),
    BENCH(dyn8_encode_exact), BENCH(dyn8_decode),
    BENCH(error_stats),      BENCH(moments),
    BENCH(transpose_f32),    BENCH(split_planes_f16),
    BENCH(join_planes_f16),  BENCH(map_nonzero_f16),
    BENCH(compact_f16),      BENCH(expand_f16),
    BENCH(count_high),       BENCH(keep_from),
    BENCH(keep_2_of_4),
};
#define N_BENCHES (sizeof(benches) / sizeof(benches[0]))

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 10^9 elements per second; doubles the passes until a run takes 10 ms. */
static double measure(const struct bench *b, const struct pq_kernels *k)
{
    double best = 0;
    int passes = 1;

    for (int r = 0; r < REPEATS;) {
        const double start = now();

        for (int i = 0; i < passes; i++)
            b->run(k);

        const double s = now() - start;

        if (s < 0.01) {
            passes *= 2;
            continue;
        }
        if ((double)passes * N / s * 1e-9 > best)
            best = (double)passes * N / s * 1e-9;
        r++;
    }
    return best;
}

/* Weights of a plausible size and random bytes. */
static void fill(void)
{
    uint64_t s = 88172645463325252u;

    for (size_t i = 0; i < N; i++) {
        double t = 0;

        for (int k = 0; k < 12; k++) {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            t += (double)(s >> 11) * 0x1p-53;
        }
        x[i] = (float)((t - 6) * 0.02);
        y[i] = x[i] * 1.01f;
        absmax[i] = 0.05f;
        codes[i] = (uint8_t)(s >> 32);
    }
    pq_kernels_scalar()->f32_to_f16(x, N, halves);
    for (size_t i = 0; i < N; i++) /* about half of them stay */
        sparse[i] = codes[i] & 1 ? halves[i] : 0;
    ones = pq_kernels_scalar()->map_nonzero(sparse, N, 2, map);
}

static void print_json(size_t i, double scalar, double avx2)
{
    printf("%s\"%s\":{\"scalar\":%.3f", i ? "," : "", benches[i].name, scalar);
    if (avx2 > 0)
        printf(",\"avx2\":%.3f", avx2);
    printf("}");
}

int main(int argc, char **argv)
{
    const bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
    const struct pq_kernels *fast = pq_kernels_named("avx2");

    if (argc > 1 && !json) {
        fprintf(stderr, "usage: bench_kernels [--json]\n");
        return 2;
    }
    fill();
    if (json)
        printf("{\"unit\":\"Gelem/s\",\"elements\":%d,\"kernels\":{", N);
    else
        printf("%-20s %8s %8s   Gelem/s\n", "kernel", "scalar", "avx2");
    for (size_t i = 0; i < N_BENCHES; i++) {
        const double a = measure(&benches[i], pq_kernels_scalar());
        const double b = fast ? measure(&benches[i], fast) : 0;

        if (json)
            print_json(i, a, b);
        else
            printf("%-20s %8.3f %8.3f\n", benches[i].name, a, b);
    }
    if (json)
        printf("}}\n");
    return 0;
}
