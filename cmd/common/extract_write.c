/*
 * Writing what was extracted as a PEFT adapter:
 *
 *     base_model.model.M.lora_A.weight   [rank, in]
 *     base_model.model.M.lora_B.weight   [out, rank]
 *     base_model.model.E.lora_embedding_A, _B   [rank, tokens], [dim, rank]
 *     base_model.model.M.base_layer.bias  of a matrix that has factors
 *     base_model.model.NAME               what is saved as it is
 */
#include "extract.h"
#include "pq_quant.h"

#include <stdlib.h>

bool extract_is_written(const struct extract_pair *p)
{
    return p->kind != EXTRACT_SAME &&
           (p->kind != EXTRACT_FACTORED || p->rank > 0);
}

/* ---- what there will be ------------------------------------------------ */

static int declare(struct extract *x, const char *name, enum pq_dtype dtype,
                   int rank, const uint64_t *shape, struct pq_error *e)
{
    const struct pq_spec spec = {.dtype = dtype};
    struct pq_part part = {.file = 0}; /* an adapter has no shards */
    struct pq_tensor like = {.name = name, .dtype = dtype, .rank = rank,
                             .shape = shape, .parts = &part, .n_parts = 1};

    if (!name)
        return pq_fail_nomem(e);
    return pq_shape_elements(shape, rank, &like.n_elements, e) ||
                   !pq_quant_declare(&x->out, &like, &spec, false, e)
               ? -1
               : 0;
}

static int declare_factors(struct extract *x, const struct extract_pair *p,
                           struct pq_error *e)
{
    const int n = (int)p->module;
    const uint64_t a[] = {p->rank, p->cols}, b[] = {p->rows, p->rank};
    char name[1024];

    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "base_model.model.%.*s.lora_%s%c%s", n,
                 p->name, p->embedding ? "embedding_" : "", "AB"[i],
                 p->embedding ? "" : ".weight");
        if (declare(x, name, x->o->dtype, 2, i ? b : a, e))
            return -1;
    }
    return 0;
}

/* Does the matrix beside this bias have factors? */
static bool has_factors(const struct extract *x, const struct extract_pair *p)
{
    const struct extract_pair *w = extract_matrix(x, p);

    return w && w->kind == EXTRACT_FACTORED && w->rank > 0;
}

static const struct pq_tensor *whole(const struct extract_pair *p)
{
    return p->b ? p->b : p->a;
}

static int declare_pair(struct extract *x, const struct extract_pair *p,
                        struct pq_error *e)
{
    const struct pq_tensor *t = whole(p);
    const bool inside = p->kind == EXTRACT_BIAS && has_factors(x, p);

    if (p->kind == EXTRACT_FACTORED)
        return declare_factors(x, p, e);
    return declare(x,
                   pq_arena_printf(&x->arena, "base_model.model.%.*s%s%s",
                                   (int)p->module, p->name,
                                   inside ? ".base_layer" : "",
                                   p->name + p->module),
                   t->dtype, t->rank, t->shape, e);
}

static int declare_all(struct extract *x, struct pq_error *e)
{
    static const char *file = "adapter_model.safetensors"; /* in a directory */
    size_t n = 0;

    for (size_t i = 0; i < x->n; i++)
        n += 2 * extract_is_written(&x->pairs[i]);
    /* steps point at these tensors: the array must not move */
    x->out.tensors = pq_zalloc(n, sizeof *x->out.tensors);
    if (!x->out.tensors)
        return pq_fail_nomem(e);
    x->out.cap_tensors = n;
    x->out.files = &file;
    x->out.n_files = 1;
    for (size_t i = 0; i < x->n; i++)
        if (extract_is_written(&x->pairs[i]) &&
            declare_pair(x, &x->pairs[i], e))
            return -1;
    if (x->out.n_tensors == 0)
        return pq_fail(e, PQ_EARG, "nothing fits into the adapter");
    return extract_set_config(x, e);
}

/* ---- the steps --------------------------------------------------------- */

static int add_steps(struct extract *x, const struct extract_pair *p,
                     size_t *tensor, struct pq_error *e)
{
    const struct pq_factors f = {x->made, p->u, p->vt, p->s, p->rank};

    if (p->kind != EXTRACT_FACTORED)
        return pq_step_copy(&x->plan, p->b ? x->plain_b : x->plain_a, whole(p),
                            (*tensor)++, e);
    for (int b = 0; b < 2; b++)
        if (!pq_step_factor(&x->plan, &f, b, &x->out, (*tensor)++,
                            x->c->kernels, e))
            return -1;
    return 0;
}

int extract_write(struct extract *x, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b,
                                   x->made};
    struct pq_catalog like = *x->a->catalog;
    size_t tensor = 0;

    like.directory = true; /* a name without a suffix is one */
    if (declare_all(x, e))
        return -1;
    for (size_t i = 0; i < x->n; i++)
        if (extract_is_written(&x->pairs[i]) &&
            add_steps(x, &x->pairs[i], &tensor, e))
            return -1;
    x->plan.sources = sources;
    x->plan.n_sources = 5;
    if (cmd_make_sink(x->c, &x->out, NULL, &like, &x->plan.sink, e))
        return -1;
    if (x->o->max_size && x->plan.sink->total_bytes > x->o->max_size)
        return pq_fail(e, PQ_ELIMIT,
                       "--max-size: the adapter would have %llu bytes",
                       (unsigned long long)x->plan.sink->total_bytes);
    const int rc = cmd_run_plan(x->c, &x->plan, e);
    x->wrote = !rc && !x->c->dry_run;
    x->plan.sources = NULL;
    return rc;
}
