/*
 * Makes the models that run.sh and surgery.sh measure on: safetensors, f32
 * unless said, always the same bytes.
 *
 *     make_model llama LAYERS VOCABULARY FILE
 *         llama-shaped: hidden 2048, intermediate 5632, 32 heads, 4 of keys
 *         and values; 22 and 32000 are 1.1B parameters in 4.4 GB
 *     make_model shape LAYERS VOCABULARY HIDDEN INTERMEDIATE KEYS FILE
 *         a llama of other sizes; KEYS is kv heads times their size
 *     make_model bf16 LAYERS VOCABULARY TUNING FILE
 *         the same in bf16; TUNING 0 is the base, another number the base
 *         and a twentieth of other weights, as if it had been trained
 *     make_model adapter LAYERS RANK FILE
 *         the factors of a LoRA on every linear weight, as PEFT names them
 *     make_model many N FILE
 *         N tensors of 4 bytes
 *
 * Weights are sums of four uniform numbers: bell-shaped enough for a
 * quantizer, and made at the speed of memory.
 */
#include "../strict.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 65536 /* elements made at a time */

static char *header; /* grows */
static size_t header_n, header_cap;
static uint64_t data_bytes;
static unsigned element = 4; /* bytes: f32, or 2 of bf16 */
static uint64_t tuning;
static FILE *out;

static void die(const char *what)
{
    fprintf(stderr, "make_model: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void put(const void *p, size_t n)
{
    if (fwrite(p, 1, n, out) != n)
        die("write");
}

/* An entry of the header; cols 0 makes a vector. */
static void declare(const char *name, unsigned rows, unsigned cols)
{
    const uint64_t n = (uint64_t)rows * (cols ? cols : 1) * element;
    char shape[32];

    if (header_cap - header_n < 512) {
        header_cap = header_cap * 2 + 4096;
        header = realloc(header, header_cap);
        if (!header)
            die("memory");
    }
    snprintf(shape, sizeof shape, cols ? "%u,%u" : "%u", rows, cols);
    header_n += (size_t)snprintf(
        header + header_n, 512,
        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":"
        "[%llu,%llu]}",
        header_n ? "," : "{\"__metadata__\":{\"format\":\"pt\"},", name,
        element == 4 ? "F32" : "BF16", shape,
        (unsigned long long)data_bytes, (unsigned long long)(data_bytes + n));
    data_bytes += n;
}

/* Hidden size, intermediate size, keys or values of a token; a vector. */
enum { H, F, KV, NONE, N_SIZES };
static unsigned sizes[N_SIZES] = {2048, 5632, 256, 0};

static const struct part {
    const char *name;
    int rows, cols;
} parts[] = {
    {"self_attn.q_proj", H, H},    {"self_attn.k_proj", KV, H},
    {"self_attn.v_proj", KV, H},   {"self_attn.o_proj", H, H},
    {"mlp.gate_proj", F, H},       {"mlp.up_proj", F, H},
    {"mlp.down_proj", H, F},       {"input_layernorm", H, NONE},
    {"post_attention_layernorm", H, NONE},
};
enum { N_PARTS = sizeof parts / sizeof *parts };

static void declare_layer(int i)
{
    char name[96];

    for (size_t k = 0; k < N_PARTS; k++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i,
                 parts[k].name);
        declare(name, sizes[parts[k].rows], sizes[parts[k].cols]);
    }
}

static void declare_factors(int i, unsigned rank)
{
    char name[128];

    for (size_t k = 0; k < N_PARTS && parts[k].cols != NONE; k++)
        for (int b = 0; b < 2; b++) {
            snprintf(name, sizeof name,
                     "base_model.model.model.layers.%d.%s.lora_%c.weight", i,
                     parts[k].name, "AB"[b]);
            declare(name, b ? sizes[parts[k].rows] : rank,
                    b ? rank : sizes[parts[k].cols]);
        }
}

static void declare_llama(int layers, int vocabulary)
{
    declare("model.embed_tokens.weight", (unsigned)vocabulary, sizes[H]);
    for (int i = 0; i < layers; i++)
        declare_layer(i);
    declare("model.norm.weight", sizes[H], 0);
    declare("lm_head.weight", (unsigned)vocabulary, sizes[H]);
}

static void declare_many(int n)
{
    char name[96];

    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "model.layers.%d.block.%d.weight", i / 10,
                 i % 10);
        declare(name, 1, 1);
    }
}

/* One 64-bit random number is four 16-bit ones. */
static float bell(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    const int sum = (int)(*s & 0xffff) + (int)(*s >> 16 & 0xffff) +
                    (int)(*s >> 32 & 0xffff) + (int)(*s >> 48);

    return (float)(sum - 131070) * (0.02f / 37837.0f);
}

/* Rounded to the nearest of bf16; there are no NaN. */
static void put_bf16(const float *x, size_t n)
{
    static uint16_t y[CHUNK];
    uint32_t u;

    for (size_t i = 0; i < n; i++) {
        memcpy(&u, &x[i], 4);
        y[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    put(y, n * sizeof *y);
}

static void put_data(void)
{
    static float x[CHUNK];
    uint64_t s = 88172645463325252u;
    uint64_t other = s ^ tuning * 0x9e3779b97f4a7c15u;

    for (uint64_t left = data_bytes / element; left > 0;) {
        const size_t n = left < CHUNK ? (size_t)left : CHUNK;
        for (size_t i = 0; i < n; i++)
            x[i] = bell(&s);
        for (size_t i = 0; tuning && i < n; i++)
            x[i] += 0.05f * bell(&other);
        if (element == 2)
            put_bf16(x, n);
        else
            put(x, n * sizeof *x);
        left -= n;
    }
}

static void put_header(void)
{
    unsigned char length[8];

    header[header_n++] = '}';
    while (header_n % 8)
        header[header_n++] = ' ';
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header_n >> 8 * i);
    put(length, 8);
    put(header, header_n);
}

static int usage(void)
{
    fprintf(stderr, "usage: make_model llama LAYERS VOCABULARY FILE\n"
                    "       make_model shape LAYERS VOCABULARY HIDDEN "
                    "INTERMEDIATE KEYS FILE\n"
                    "       make_model bf16 LAYERS VOCABULARY TUNING FILE\n"
                    "       make_model adapter LAYERS RANK FILE\n"
                    "       make_model many N FILE\n");
    return 2;
}

/* Declares what is asked for by n numbers; false: that is not known. */
static bool declare_kind(const char *kind, int n, char **numbers)
{
    long v[5] = {0};

    for (int i = 0; i < n; i++)
        if (i >= 5 || !strict_long(numbers[i], i < 2, 10000000, &v[i]))
            return false;
    if (strcmp(kind, "llama") == 0 && n == 2) {
        declare_llama((int)v[0], (int)v[1]);
    } else if (strcmp(kind, "shape") == 0 && n == 5) {
        for (int i = 0; i < 3; i++)
            sizes[H + i] = (unsigned)v[2 + i];
        declare_llama((int)v[0], (int)v[1]);
    } else if (strcmp(kind, "bf16") == 0 && n == 3) {
        element = 2;
        tuning = (uint64_t)v[2];
        declare_llama((int)v[0], (int)v[1]);
    } else if (strcmp(kind, "adapter") == 0 && n == 2) {
        for (int i = 0; i < v[0]; i++)
            declare_factors(i, (unsigned)v[1]);
    } else if (strcmp(kind, "many") == 0 && n == 1) {
        declare_many((int)v[0]);
    } else {
        return false;
    }
    return true;
}

/* make_model KIND NUMBER... FILE */
int main(int argc, char **argv)
{
    const char *const path = argv[argc - 1];

    if (argc < 4 || !declare_kind(argv[1], argc - 3, argv + 2))
        return usage();
    out = fopen(path, "wb");
    if (!out)
        die(path);
    put_header();
    put_data();
    if (fclose(out) != 0)
        die(path);
    free(header);
    return 0;
}
