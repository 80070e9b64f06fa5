/*
 * What adapters do, as a source: numbers that are computed as they are read,
 * against what PEFT's own merges add to the base (testdata/peft).
 */
#include "model.h"

#include "pq_kernels.h"
#include "pq_peft.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an adapter does to each tensor of its base, as a source. */
struct effects {
    struct pq_source *adapter, *base, *merged, *view;
    struct pq_peft peft;
    struct pq_peft_places places;
    struct pq_effect list[32];
    size_t targets[32], n;
};

static void effects_open(struct effects *d, const char *base, const char *name)
{
    struct pq_error e = PQ_ERROR_INIT;
    char path[128];

    memset(d, 0, sizeof *d);
    snprintf(path, sizeof path, "testdata/peft/%s", name);
    d->adapter = open_model(path);
    snprintf(path, sizeof path, "testdata/peft/%s/merged.safetensors", name);
    d->merged = open_model(path);
    d->base = open_model(base);
    d->places.base = d->base->catalog;
    d->places.has_config = true;
    d->places.has_conv1d = strstr(base, "gpt2") != NULL;
    cr_assert_eq(pq_peft_read(&d->peft, d->adapter, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_peft_places_init(&d->places, &e), 0);
    cr_assert_eq(pq_peft_place(&d->places, &d->peft, 1, &e), 0, "%s", e.msg);
    cr_assert_leq(d->places.n_edits, 32);
    for (size_t i = 0; i < d->places.n_edits; i++) {
        const struct pq_peft_edit *p = &d->places.edits[i];
        if (p->edit.kind != PQ_EDIT_PRODUCT)
            continue;
        const struct pq_tensor *t = &d->base->catalog->tensors[p->target];
        d->list[d->n] = (struct pq_effect){t->name, p->edit, d->base, t};
        d->targets[d->n++] = p->target;
    }
    cr_assert_eq(pq_effects_new("effects", d->list, d->n, pq_kernels_best(),
                               &d->view, &e),
                 0, "%s", e.msg);
}

static void effects_close(struct effects *d)
{
    pq_source_free(d->view);
    pq_peft_places_release(&d->places);
    pq_peft_release(&d->peft);
    pq_source_free(d->adapter);
    pq_source_free(d->base);
    pq_source_free(d->merged);
}

static void check_effects(const char *base, const char *name)
{
    struct effects d;

    effects_open(&d, base, name);
    cr_assert_gt(d.n, 0);
    for (size_t i = 0; i < d.n; i++) {
        const struct pq_tensor *t = &d.view->catalog->tensors[i];
        const struct pq_tensor *before =
            &d.base->catalog->tensors[d.targets[i]];
        const struct pq_tensor *after = named(d.merged->catalog, before->name);
        cr_assert(after, "%s", before->name);
        cr_assert_eq(t->n_elements, before->n_elements);
        float *x = read_f32(d.view, t), *w = read_f32(d.base, before);
        float *y = read_f32(d.merged, after);
        for (uint64_t k = 0; k < t->n_elements; k++)
            cr_assert_float_eq(w[k] + x[k], y[k], 2e-6f, "%s: %s: %llu", name,
                               t->name, (unsigned long long)k);
        free(x);
        free(w);
        free(y);
    }
    effects_close(&d);
}

Test(effects, they_are_what_a_merge_adds)
{
    check_effects("testdata/peft/base-llama", "lora");
    check_effects("testdata/peft/base-llama", "rslora");
    check_effects("testdata/peft/base-llama", "embedding");
    check_effects("testdata/peft/base-llama", "dora");
    check_effects("testdata/peft/base-llama", "dora-embedding");
    check_effects("testdata/peft/base-gpt2", "conv1d");
    check_effects("testdata/peft/base-gpt2", "conv1d-dora");
}

Test(effects, they_are_the_same_in_pieces)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct effects d;

    effects_open(&d, "testdata/peft/base-gpt2", "conv1d-dora");
    const struct pq_tensor *t = &d.view->catalog->tensors[d.n - 1];
    float *x = read_f32(d.view, t);
    unsigned char *y = malloc(t->parts[0].bytes);
    for (uint64_t at = 0, n = 1; at < t->parts[0].bytes; at += n, n += 37) {
        if (n > t->parts[0].bytes - at)
            n = t->parts[0].bytes - at;
        cr_assert_eq(pq_source_read(d.view, &t->parts[0], at, y + at, n, &e),
                     0, "%s", e.msg);
    }
    cr_assert_arr_eq(x, y, t->parts[0].bytes);
    free(x);
    free(y);
    effects_close(&d);
}
