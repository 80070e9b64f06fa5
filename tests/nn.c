/*
 * Tiny random models; see nn.h.
 */
#include "nn.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "pq_made.h"
#include "pq_quant.h"
#include "rng.h"

#define SEED 1

static void read_case(struct nn_case *c, const cJSON *j, struct pq_source *s)
{
    const cJSON *v;

    c->name = cJSON_GetStringValue(key(j, "name"));
    c->config = key(j, "config");
    c->tensors = key(j, "tensors");
    cJSON_ArrayForEach(v, key(j, "ids")) c->ids[c->n++] =
        (int32_t)v->valuedouble;
    cJSON_ArrayForEach(v, key(j, "rows")) c->rows[c->n_rows++] =
        (size_t)v->valuedouble;
    const struct pq_tensor *t = tensor_of(s, c->name);
    cr_assert_eq(t->shape[0], c->n_rows);
    c->vocab = t->shape[1];
    c->logits = read_f32(s, t);
    for (size_t i = 0; i < t->n_elements; i++)
        c->max = fmaxf(c->max, fabsf(c->logits[i]));
}

struct nn_case *nn_cases(size_t *n)
{
    static struct nn_case *cases;
    static size_t n_cases;
    static const cJSON *j; /* the cases point into it */

    if (!cases) {
        struct pq_source *s = open_model("testdata/nn/logits.safetensors");
        const cJSON *v;
        j = read_json("testdata/nn/cases.json");
        cases = calloc((size_t)cJSON_GetArraySize(j), sizeof *cases);
        cJSON_ArrayForEach(v, j) read_case(&cases[n_cases++], v, s);
        pq_source_free(s);
    }
    *n = n_cases;
    return cases;
}

const struct nn_case *nn_case_named(const char *name)
{
    size_t n;
    const struct nn_case *c = nn_cases(&n);

    for (size_t i = 0; i < n; i++)
        if (strcmp(c[i].name, name) == 0)
            return &c[i];
    cr_assert_fail("no case %s", name);
    return NULL;
}

/* The rule of make_nn.py. */
static void fill(float *w, uint64_t n, const char *name, const uint64_t *shape,
                 int rank)
{
    struct pq_rng r;
    float scale = 1, shift = 0;
    const bool table = strstr(name, "embed") || strstr(name, "wte") ||
                       strstr(name, "wpe") || strstr(name, "lm_head");

    if (rank == 1)
        shift = strstr(name, ".weight") != NULL;
    else if (table)
        scale = 2;
    else
        scale = (float)(5 / sqrt((double)shape[strstr(name, ".c_") ? 0 : 1]));
    pq_rng_init(&r, SEED, name);
    pq_rng_uniform(&r, 0, w, n);
    for (uint64_t i = 0; i < n; i++)
        w[i] = (w[i] - 0.5f) * scale + shift;
}

struct pq_source *nn_case_source(const struct nn_case *c, const char *config)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;
    const cJSON *v;
    char *own = config ? NULL : cJSON_PrintUnformatted(c->config);

    cr_assert_eq(pq_made_new(c->name, 1000, 1 << 26, NULL, &s, &e), 0, "%s",
                 e.msg);
    config = config ? config : own;
    cr_assert_eq(pq_catalog_add_blob(s->catalog, "config.json", config,
                                     strlen(config), &e),
                 0, "%s", e.msg);
    free(own);
    cJSON_ArrayForEach(v, c->tensors)
    {
        const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(v, 0));
        const cJSON *dims = cJSON_GetArrayItem(v, 1), *d;
        uint64_t shape[2], n = 1;
        int rank = 0;
        cJSON_ArrayForEach(d, dims)
        {
            shape[rank] = (uint64_t)d->valuedouble;
            n *= shape[rank++];
        }
        float *w = malloc(n * sizeof *w);
        fill(w, n, name, shape, rank);
        cr_assert(pq_made_add(s, name, PQ_F32, shape, rank, w, &e), "%s",
                  e.msg);
        free(w);
    }
    return s;
}

struct pq_nn *nn_case_open(const struct nn_case *c, const struct pq_kernels *k,
                           size_t threads, size_t rows)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = nn_case_source(c, NULL);
    const struct pq_nn_options o = {k, threads, rows};
    struct pq_nn *nn;

    cr_assert_eq(pq_nn_open(s, &o, &nn, &e), 0, "%s", e.msg);
    pq_source_free(s);
    return nn;
}

static int keep(void *arg, size_t text, size_t first, size_t n,
                const float *logits, struct pq_error *e)
{
    float **to = arg;
    const size_t bytes = n * (size_t)(to[1] - to[0]) * sizeof *logits;

    (void)text;
    (void)e;
    memcpy(to[0] + first * (size_t)(to[1] - to[0]), logits, bytes);
    return 0;
}

float *nn_case_logits(struct pq_nn *nn, const int32_t *ids, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    const size_t vocab = pq_nn_about(nn).vocab;
    float *z = malloc(n * vocab * sizeof *z), *to[2] = {z, z + vocab};
    const struct pq_nn_text t = {ids, n, 0, NULL};

    cr_assert_eq(pq_nn_score(nn, &t, 1, keep, to, &e), 0, "%s", e.msg);
    return z;
}
