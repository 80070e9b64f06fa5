/*
 * One tensor, blended in memory; see blend.h.
 */
#include "blend.h"

#include "fake.h"
#include "pq_kernels.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* The output, n floats, or NULL and *e. */
float *trial_blend(const struct trial *t, const struct pq_blend *b,
                   const char *name, struct pq_error *e)
{
    const struct pq_tensor *first = b->base ? b->base : b->in[0].tensor;
    struct pq_quant quant = t->quant;
    struct pq_tensor like = *first;
    struct pq_catalog out;
    struct pq_plan plan = {0};
    struct fake_sink sink;
    float *y = NULL;

    if (!quant.kernels)
        quant.kernels = pq_kernels_best();
    if (pq_blend_check(b, e))
        return NULL;
    pq_catalog_init(&out);
    like.name = name;
    cr_assert(pq_quant_declare(&out, &like, &t->spec, false, e));
    cr_assert(pq_step_blend(&plan, b, &out, 0, &t->spec, false, &quant, e));
    fake_sink_init(&sink, &out, true, -1);
    plan.sink = &sink.base;
    const struct pq_run run = {.threads = t->threads, .memory = 256 << 20};
    if (pq_engine_run(&plan, &run, e) == 0) {
        y = malloc(first->n_elements * sizeof *y + 1);
        pq_load_f32(quant.kernels, t->spec.dtype, fake_sink_part(&sink, 0, 0),
                    first->n_elements, y);
    }
    fake_sink_release(&sink);
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    return y;
}

/* A blend with the defaults of its method. */
void trial_method(struct pq_blend *b, const char *name)
{
    const struct pq_method *m = pq_method_named(name);

    cr_assert(m, "%s", name);
    b->method = m;
    b->t = m->defaults.t;
    b->lambda = m->defaults.lambda;
    b->scale = m->defaults.scale;
    b->normalize = m->defaults.normalize;
    b->rescale = (enum pq_rescale)m->defaults.rescale;
    for (size_t i = 0; i < b->n; i++) {
        b->in[i].weight = 1;
        b->in[i].density = m->defaults.density;
        b->in[i].epsilon = m->defaults.epsilon;
        b->in[i].gamma = m->defaults.gamma;
        b->in[i].stream = i;
    }
}
