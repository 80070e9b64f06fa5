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
#include "pq_peft.h"

#include <stdlib.h>

/* ---- the steps --------------------------------------------------------- */

static int add_factors(struct extract *x, const struct extract_pair *p,
                       struct pq_error *e)
{
    const struct pq_peft_out m = {
        .name = pq_arena_strndup(&x->arena, p->name, p->module),
        .embedding = p->embedding,
        .in = &p->cols,
        .n_in = 1,
        .factor = p->factor};

    if (!m.name)
        return pq_fail_nomem(e);
    return pq_peft_write_module(&x->plan, &x->out, &m, x->ranking.made,
                                x->o->dtype, &x->quant, e);
}

/* Does the matrix beside this bias have factors? */
static bool is_inside(const struct extract *x, const struct extract_pair *p)
{
    const struct extract_pair *w = extract_matrix(x, p);

    return p->kind == EXTRACT_BIAS && w && extract_has_factors(w);
}

static int add_copy(struct extract *x, const struct extract_pair *p,
                    struct pq_error *e)
{
    const struct pq_tensor *t = p->b ? p->b : p->a;
    const struct pq_spec spec = {.dtype = t->dtype};
    struct pq_part part = {.file = 0}; /* an adapter has no shards */
    const struct pq_tensor like = {
        .name = pq_arena_printf(&x->arena, "base_model.model.%.*s%s%s",
                                (int)p->module, p->name,
                                is_inside(x, p) ? ".base_layer" : "",
                                p->name + p->module),
        .dtype = t->dtype, .rank = t->rank, .shape = t->shape,
        .n_elements = t->n_elements, .parts = &part, .n_parts = 1};

    if (!like.name)
        return pq_fail_nomem(e);
    if (!pq_quant_declare(&x->out, &like, &spec, false, e))
        return -1;
    return pq_step_copy(&x->plan, p->b ? x->plain_b : x->plain_a, t,
                        x->out.n_tensors - 1, e);
}

/* Is there something of this pair in the adapter? */
static bool is_written(const struct extract_pair *p)
{
    return p->kind != EXTRACT_SAME &&
           (p->kind != EXTRACT_FACTORED || extract_has_factors(p));
}

static int add_all(struct extract *x, struct pq_error *e)
{
    static const char *file = "adapter_model.safetensors"; /* in a directory */
    size_t n = 0;
    int rc = 0;

    for (size_t i = 0; i < x->n; i++)
        n += 2 * is_written(&x->pairs[i]);
    if (pq_catalog_reserve(&x->out, n, e))
        return -1;
    x->out.files = &file;
    x->out.n_files = 1;
    for (size_t i = 0; !rc && i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (is_written(p))
            rc = p->kind == EXTRACT_FACTORED ? add_factors(x, p, e)
                                             : add_copy(x, p, e);
    }
    if (!rc && x->out.n_tensors == 0)
        rc = pq_fail(e, PQ_EARG, "nothing fits into the adapter");
    return rc ? -1 : extract_set_config(x, e);
}

int extract_write(struct extract *x, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b,
                                   x->ranking.made};
    struct pq_catalog like = *x->a->catalog;

    like.directory = true; /* a name without a suffix is one */
    if (add_all(x, e))
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
