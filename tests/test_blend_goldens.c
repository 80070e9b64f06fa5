/*
 * Blends of models: every method against what mergekit makes of it, or the
 * formula where mergekit draws lots (testdata/blend,
 * tests/oracle/make_blend_goldens.py).
 */
#include "blend.h"
#include "model.h"

#include "pq_kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLEND "testdata/blend/"
#define MAX_MODELS 3

/* ---- goldens ------------------------------------------------------------- */

static struct pq_source *open_blend(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, BLEND "%s", name);
    return open_model(path);
}

struct golden {
    const char *file, *method, *base;
    struct {
        const char *name;
        double weight, density, gamma; /* 0: the default */
    } models[MAX_MODELS];
    double t, lambda, scale; /* 0: the default */
    int normalize;           /* 0: the default, 1 yes, -1 no */
    bool by_row;
};

static const struct golden goldens[] = {
    {.file = "linear", .method = "linear",
     .models = {{.name = "a", .weight = .2},
                {.name = "b", .weight = .3},
                {.name = "c", .weight = .7}}},
    {.file = "linear-sum", .method = "linear",
     .models = {{.name = "a", .weight = .5},
                {.name = "b", .weight = 1},
                {.name = "c", .weight = -.25}},
     .normalize = -1},
    {.file = "task_arithmetic", .method = "task_arithmetic", .base = "base",
     .models = {{.name = "a", .weight = .6},
                {.name = "b", .weight = .5}},
     .lambda = .8},
    {.file = "task_arithmetic-minus", .method = "task_arithmetic", .base = "base",
     .models = {{.name = "a", .weight = 1.5},
                {.name = "b", .weight = -.5},
                {.name = "c", .weight = 1}},
     .normalize = 1},
    {.file = "slerp-0.3", .method = "slerp", .base = "base",
     .models = {{.name = "a"}},
     .t = .3},
    {.file = "slerp-1", .method = "slerp", .base = "base",
     .models = {{.name = "a"}},
     .t = 1},
    {.file = "slerp-near", .method = "slerp", .base = "base",
     .models = {{.name = "c"}},
     .t = .4},
    {.file = "ties", .method = "ties", .base = "base",
     .models = {{.name = "a", .weight = .3, .density = .5},
                {.name = "b", .weight = .7, .density = .5}}},
    {.file = "ties-three", .method = "ties", .base = "base",
     .models = {{.name = "a", .weight = .4, .density = .2},
                {.name = "b", .weight = .5, .density = 1},
                {.name = "c", .weight = 7, .density = .6}},
     .lambda = 1.1, .normalize = -1},
    {.file = "breadcrumbs", .method = "breadcrumbs", .base = "base",
     .models = {{.name = "a", .weight = .5, .density = .6, .gamma = .1},
                {.name = "b", .weight = .6, .density = .9, .gamma = .05}}},
    {.file = "breadcrumbs-small", .method = "breadcrumbs", .base = "base",
     .models = {{.name = "a", .weight = 1, .density = .7, .gamma = .001}}},
    {.file = "breadcrumbs_ties", .method = "breadcrumbs_ties", .base = "base",
     .models = {{.name = "a", .weight = .5, .density = .6},
                {.name = "b", .weight = .6, .density = .8}},
     .lambda = .9},
    {.file = "dare_ties-all", .method = "dare_ties", .base = "base",
     .models = {{.name = "a", .weight = .5},
                {.name = "b", .weight = .6}}},
    {.file = "della-all", .method = "della", .base = "base",
     .models = {{.name = "a", .weight = .5},
                {.name = "b", .weight = .6}}},
    {.file = "model_stock", .method = "model_stock", .base = "base",
     .models = {{.name = "a"},
                {.name = "b"}}},
    {.file = "model_stock-rows", .method = "model_stock", .base = "base",
     .models = {{.name = "a"},
                {.name = "b"},
                {.name = "c"}},
     .by_row = true},
    {.file = "passthrough", .method = "passthrough",
     .models = {{.name = "a"}},
     .scale = .5},
    {.file = "linear-bf16", .method = "linear",
     .models = {{.name = "a-bf16", .weight = .2},
                {.name = "b-bf16", .weight = .6}}},
    {.file = "slerp-bf16", .method = "slerp", .base = "base-bf16",
     .models = {{.name = "a-bf16"}},
     .t = .3},
    {.file = "task_arithmetic-bf16", .method = "task_arithmetic", .base = "base-bf16",
     .models = {{.name = "a-bf16", .weight = .6},
                {.name = "b-bf16", .weight = .5}}},
};

static void set_golden(const struct golden *g, struct pq_blend *b)
{
    trial_method(b, g->method);
    for (size_t i = 0; i < b->n; i++) {
        if (g->models[i].weight != 0)
            b->in[i].weight = g->models[i].weight;
        if (g->models[i].density != 0)
            b->in[i].density = g->models[i].density;
        if (g->models[i].gamma != 0)
            b->in[i].gamma = g->models[i].gamma;
    }
    b->t = g->t != 0 ? g->t : b->t;
    b->lambda = g->lambda != 0 ? g->lambda : b->lambda;
    b->scale = g->scale != 0 ? g->scale : b->scale;
    b->normalize = g->normalize ? g->normalize > 0 : b->normalize;
    b->by_row = g->by_row;
}

/* Largest difference over the largest value. */
static double distance(const float *x, const float *y, uint64_t n)
{
    double most = 0, size = 0;

    for (uint64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)x[i] - (double)y[i]));
        size = fmax(size, fabs((double)y[i]));
    }
    return most / size;
}

static void check_golden(const struct golden *g)
{
    struct pq_source *models[MAX_MODELS], *base = NULL, *gold;
    struct pq_blend_input in[MAX_MODELS] = {0};
    struct pq_blend b = {.in = in};
    struct trial t = plain;
    char file[64];

    snprintf(file, sizeof file, "%s.safetensors", g->file);
    gold = open_blend(file);
    if (g->base)
        base = open_blend(g->base);
    for (; b.n < MAX_MODELS && g->models[b.n].name; b.n++)
        in[b.n].source = models[b.n] = open_blend(g->models[b.n].name);
    set_golden(g, &b);
    for (size_t k = 0; k < gold->catalog->n_tensors; k++) {
        struct pq_error e = PQ_ERROR_INIT;
        const struct pq_tensor *want = &gold->catalog->tensors[k];
        for (size_t i = 0; i < b.n; i++)
            in[i].tensor = tensor_of(models[i], want->name);
        b.base_source = base;
        b.base = base ? tensor_of(base, want->name) : NULL;
        t.spec.dtype = want->dtype;
        float *x = trial_blend(&t, &b, want->name, &e);
        cr_assert(x, "%s: %s", g->file, e.msg);
        float *y = read_tensor(gold, want);
        const double d = distance(x, y, want->n_elements);
        /* halfway cases of bf16 may go the other way */
        cr_expect(d <= (want->dtype == PQ_F32 ? 1e-6 : 0x1p-8), "%s: %s: %g",
                  g->file, want->name, d);
        free(x);
        free(y);
    }
    for (size_t i = 0; i < b.n; i++)
        pq_source_free(models[i]);
    pq_source_free(base);
    pq_source_free(gold);
}

Test(blend_goldens, goldens, .timeout = 120)
{
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++)
        check_golden(&goldens[i]);
}

/* ---- lots ---------------------------------------------------------------- */

/* What became of one model's changes, for every tensor of the golden. */
static void check_lots(const char *method, const char *golden)
{
    struct pq_source *gold = open_blend(golden);
    struct pq_source *base = open_blend("base"), *a = open_blend("a");
    struct pq_blend_input in = {.source = a};
    struct pq_blend b = {.in = &in, .n = 1, .base_source = base};
    size_t kept = 0, all = 0;
    double chances = 0;

    trial_method(&b, method);
    in.density = 0.4;
    b.rescale = PQ_RESCALE_CHANCE;
    for (size_t k = 0; k < a->catalog->n_tensors; k++) {
        struct pq_error e = PQ_ERROR_INIT;
        char name[128];
        in.tensor = &a->catalog->tensors[k];
        if (strncmp(in.tensor->name, "model.layers.0.", 15) != 0)
            continue;
        b.base = tensor_of(base, in.tensor->name);
        snprintf(name, sizeof name, "chance.a.%s", in.tensor->name);
        float *w = read_tensor(a, in.tensor), *w0 = read_tensor(base, b.base);
        float *p = strcmp(method, "della_linear") == 0
                       ? read_tensor(gold, tensor_of(gold, name))
                       : NULL;
        float *x = trial_blend(&plain, &b, in.tensor->name, &e);
        cr_assert(x, "%s", e.msg);
        for (uint64_t i = 0; i < in.tensor->n_elements; i++) {
            const double chance = p ? (double)p[i] : 0.4;
            const double d = ((double)w[i] - (double)w0[i]) / chance;
            const double is = (double)x[i] - (double)w0[i];
            kept += is != 0;
            all++;
            chances += chance;
            cr_expect(is == 0 || fabs(is - d) < 1e-6, "%s %llu: %g %g",
                      in.tensor->name, (unsigned long long)i, is, d);
        }
        free(x);
        free(w);
        free(w0);
        free(p);
    }
    /* four standard deviations */
    cr_expect(fabs((double)kept - chances) < 4 * sqrt(0.24 * (double)all),
              "%s: %zu of %zu", method, kept, all);
    pq_source_free(gold);
    pq_source_free(base);
    pq_source_free(a);
}

Test(blend_goldens, lots_fall_by_their_chances)
{
    check_lots("dare_linear", "dare_linear.safetensors");
    check_lots("dare_ties", "dare_ties.safetensors");
    check_lots("della_linear", "della_linear.safetensors");
}
