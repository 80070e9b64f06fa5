/*
 * Files as tests read them; see model.h.
 */
#include "model.h"

#include "pq_file.h"
#include "pq_format.h"
#include "pq_kernels.h"
#include "pq_quant.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

struct pq_buf read_file(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {.fd = -1};
    struct pq_buf b = {0};

    cr_assert_eq(pq_in_open(&in, path, &e), 0, "%s", e.msg);
    b.s = malloc((size_t)in.size + 1);
    b.n = (size_t)in.size;
    cr_assert(b.s);
    cr_assert_eq(pq_in_read_all(&in, b.s, b.n, &e), 0, "%s", e.msg);
    b.s[b.n] = '\0';
    pq_in_close(&in);
    return b;
}

cJSON *read_json(const char *path)
{
    struct pq_buf b = read_file(path);
    cJSON *j = cJSON_ParseWithLength(b.s, b.n);

    cr_assert(j, "%s is no JSON", path);
    pq_buf_release(&b);
    return j;
}

const cJSON *key(const cJSON *j, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name);

    cr_assert(v, "no %s", name);
    return v;
}

struct pq_source *open_model(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;

    cr_assert_eq(pq_open_model(path, NULL, &s, &e), 0, "%s", e.msg);
    return s;
}

const struct pq_tensor *named(const struct pq_catalog *c, const char *name)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    return NULL;
}

const struct pq_tensor *tensor_of(const struct pq_source *s, const char *name)
{
    const struct pq_tensor *t = named(s->catalog, name);

    cr_assert(t, "no tensor %s", name);
    return t;
}

float *widen(const struct pq_tensor *t, const void *raw)
{
    float *x = malloc(t->n_elements * sizeof *x + 1);

    cr_assert(x);
    if (pq_dtype_is_float(t->dtype))
        pq_load_f32(pq_kernels_scalar(), t->dtype, raw, t->n_elements, x);
    else
        for (uint64_t i = 0; i < t->n_elements; i++)
            x[i] = ((const unsigned char *)raw)[i];
    return x;
}

float *read_tensor(struct pq_source *s, const struct pq_tensor *t)
{
    struct pq_error e = PQ_ERROR_INIT;
    void *raw = malloc(t->parts[0].bytes + 1);

    cr_assert_eq(pq_source_read(s, &t->parts[0], 0, raw, t->parts[0].bytes, &e),
                 0, "%s", e.msg);
    float *x = widen(t, raw);
    free(raw);
    return x;
}

float *read_f32(struct pq_source *s, const struct pq_tensor *t)
{
    cr_assert_eq(t->dtype, PQ_F32);
    return read_tensor(s, t);
}
