/*
 * A model that nothing was trained into yet: the tensors that config.json
 * asks for, with random numbers in them, as transformers begins with.
 *
 *   matrices     N(0, std), std = initializer_range (0.02 without or with 0);
 *                those that end a block of gpt2: std / sqrt(2 layers)
 *   norms        1, or 0 where the model multiplies by 1 + w (gemma2)
 *   biases, and the embedding of the padding token of all but gpt2: 0
 *
 * Numbers 2 i and 2 i + 1 of a matrix are made of random block i of its name
 * (Box and Muller, "A Note on the Generation of Random Normal Deviates"):
 *
 *   sqrt(-2 log u) (cos, sin)(2 pi v)   with u in (0, 1], v in [0, 1)
 *
 * Nothing is kept: reading makes the numbers, whichever range is asked for.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config_json.h"
#include "elementary.h"
#include "load.h"
#include "pq_json.h"
#include "pq_quant.h"
#include "pq_train.h"
#include "rng.h"

#define TWO_PI 6.28318530717958647692
#define RUN    256 /* numbers that are made at a time, an even number */

struct fresh {
    struct pq_source source;
    struct pq_catalog catalog;
    const struct pq_kernels *k;
    uint64_t seed;
    double std, std_last; /* of matrices, of those that end a block */
    float norm;
    int32_t pad; /* -1 = none */
};

/* ---- the numbers of a tensor -------------------------------------------- */

/* 53 bits as a number in [0, 1). */
static double unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) / 9007199254740992.0;
}

/* Numbers [first, first + n) of N(0, std); `first` is even. */
static void draw(const struct pq_rng *r, double std, uint64_t first, size_t n,
                 float *out)
{
    for (size_t i = 0; i < n; i += 2) {
        uint32_t x[4];
        double sine, cosine;
        pq_rng_at(r, (first + i) / 2, x);
        const double far = std * sqrt(-2 * nn_log(1 - unit(x[0], x[1])));
        nn_sincos(TWO_PI * unit(x[2], x[3]), &sine, &cosine);
        out[i] = (float)(far * cosine);
        if (i + 1 < n)
            out[i + 1] = (float)(far * sine);
    }
}

static void fill(float *out, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        out[i] = value;
}

/* The part of the padding token's row that is in [first, first + n). */
static void clear_pad(const struct fresh *f, const struct pq_tensor *t,
                      uint64_t first, size_t n, float *out)
{
    const uint64_t row = (uint64_t)f->pad * t->shape[1];

    if (f->pad < 0 || strcmp(t->name, "model.embed_tokens.weight") != 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (first + i >= row && first + i < row + t->shape[1])
            out[i] = 0;
}

static void make(const struct fresh *f, const struct pq_tensor *t,
                 uint64_t first, size_t n, float *out)
{
    const bool last = pq_ends_with(t->name, ".c_proj.weight");
    struct pq_rng r;

    if (t->rank == 1) {
        fill(out, n, pq_ends_with(t->name, ".bias") ? 0 : f->norm);
        return;
    }
    pq_rng_init(&r, f->seed, t->name);
    draw(&r, last ? f->std_last : f->std, first, n, out);
    clear_pad(f, t, first, n, out);
}

/* ---- the source --------------------------------------------------------- */

static struct fresh *fresh_of(struct pq_source *s)
{
    return (struct fresh *)(void *)s;
}

/* Each range lies in one tensor; it may begin and end within a number. */
static int read_fresh(struct pq_source *s, uint64_t offset, void *buf, size_t n,
                      struct pq_error *e)
{
    const struct fresh *f = fresh_of(s);
    char *out = buf;

    (void)e;
    if (n == 0)
        return 0;
    const struct pq_tensor *t =
        &f->catalog.tensors[pq_catalog_tensor_at(&f->catalog, offset)];
    const size_t size = pq_dtype_bits(t->dtype) / 8;
    uint64_t at = offset - t->parts[0].offset;
    while (n) {
        float values[RUN];
        char bytes[RUN * sizeof(double)];
        const uint64_t first = at / size / RUN * RUN, left = t->n_elements;
        const size_t count = left - first < RUN ? (size_t)(left - first) : RUN;
        const size_t skip = (size_t)(at - first * size);
        const size_t take = count * size - skip < n ? count * size - skip : n;
        make(f, t, first, count, values);
        pq_store_f32(f->k, t->dtype, values, count, bytes);
        memcpy(out, bytes + skip, take);
        out += take;
        at += take;
        n -= take;
    }
    return 0;
}

static void free_fresh(struct pq_source *s)
{
    struct fresh *f = fresh_of(s);

    pq_catalog_release(&f->catalog);
    free(f);
}

static const struct pq_source_ops fresh_ops = {read_fresh, NULL, free_fresh};

/* ---- what config.json asks for ------------------------------------------ */

/* F32 unless the config says another type that a model is trained in. */
static enum pq_dtype read_dtype(struct nn_reader *r)
{
    const char *name = nn_key_string(r, "dtype");

    name = name || r->failed ? name : nn_key_string(r, "torch_dtype");
    if (!name)
        return PQ_F32;
    const int t = pq_dtype_from_torch_name(name);
    if (t != PQ_F32 && t != PQ_BF16 && t != PQ_F16)
        nn_refuse(r, "dtype %.64s is none that is trained", name);
    return (enum pq_dtype)t;
}

static double read_std(struct nn_reader *r)
{
    const double std = nn_key_real(r, "initializer_range", 0.02);

    if (std < 0)
        nn_refuse(r, "initializer_range is negative");
    return std > 0 ? std : 0.02;
}

/* The keys that only a beginning needs. */
static int read_keys(struct fresh *f, struct nn_loader *l,
                     const struct pq_blob *b, struct pq_error *e)
{
    const struct nn_config *c = &l->m->c;
    cJSON *j = cJSON_ParseWithLength(b->data, (size_t)b->bytes);
    struct nn_reader r = {j, &l->m->arena, e, false};

    f->std = read_std(&r);
    f->std_last = f->std / sqrt(2 * (double)c->layers);
    f->norm = c->plus_one ? 0 : 1;
    f->pad = c->pad;
    l->dtype = read_dtype(&r);
    cJSON_Delete(j);
    return r.failed ? pq_error_in(e, "config.json") : 0;
}

static int ask(struct fresh *f, struct nn_loader *l, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(&f->catalog, "config.json");

    if (!b)
        return pq_fail(e, PQ_EARG,
                       "has no config.json, which says what model to make");
    return nn_config_read(&l->m->c, b->data, (size_t)b->bytes, &l->m->arena,
                          e) ||
                   read_keys(f, l, b, e) || nn_bind_model(l)
               ? -1
               : 0;
}

int pq_train_fresh(const struct pq_source *like, uint64_t seed,
                   const struct pq_kernels *k, struct pq_source **s,
                   struct pq_error *e)
{
    struct fresh *f = pq_zalloc(1, sizeof *f);
    struct nn_model m = {0};
    struct nn_loader l = {.m = &m, .e = e};

    if (!f)
        return pq_fail_nomem(e);
    pq_catalog_init(&f->catalog);
    f->source.ops = &fresh_ops;
    f->source.catalog = l.fresh = &f->catalog;
    f->source.format = "made";
    f->k = k;
    f->seed = seed;
    const int rc =
        pq_catalog_copy_meta(&f->catalog, like->catalog, e) || ask(f, &l, e);
    nn_model_release(&m);
    f->source.name =
        pq_arena_strndup(&f->catalog.arena, like->name, strlen(like->name));
    if (!rc && f->source.name) {
        *s = &f->source;
        return 0;
    }
    free_fresh(&f->source);
    return rc ? pq_error_in(e, "%s", like->name) : pq_fail_nomem(e);
}
