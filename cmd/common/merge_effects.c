/*
 * Adapters blended as the models are that they make: each module's products
 * are multiplied out some rows at a time, as often as the method reads them,
 * against a base of zeros.  What comes of it is of full rank; it is kept, one
 * module at a time, in memory or in TMPDIR, until its large singular values
 * are found.
 *
 *     s_1 B_1 A_1 --+
 *     s_2 B_2 A_2 --+--> blend --> D [out][in] --> U diag(s) V^T
 *     0 ------------+
 */
#include "merge_effects.h"

#include <stdlib.h>
#include <string.h>

/* Effects of a module: the adapters', then the base's. */
static size_t per_module(const struct merge_effects *b)
{
    return b->joined->n_adapters + 1;
}

/*
 * A table of many tokens has long rows; its columns are short, and one whole
 * factor is at hand for some of them.
 */
static bool is_turned(const struct pq_peft_joint *j)
{
    const struct pq_tensor *a = j->a[0].tensor, *b = j->b[0].tensor;

    return a->rank == 2 && a->shape[1] / 4 > b->shape[0];
}

/* Of those without the module, and of the base: one of no weight. */
static void list_module(const struct merge_effects *b,
                        const struct pq_peft_joint *j, struct pq_effect *to)
{
    const bool turned = is_turned(j);

    for (size_t i = 0; i < per_module(b); i++)
        to[i] = (struct pq_effect){
            .name = j->like->name,
            .edit = {.kind = PQ_EDIT_PRODUCT, .source = j->a[0].source,
                     .a = j->a[0].tensor, .b = j->b[0].tensor,
                     .turned = turned}};
    for (size_t k = 0; k < j->n; k++) {
        struct pq_edit *d = &to[j->adapter[k]].edit;
        d->source = j->a[k].source;
        d->a = j->a[k].tensor;
        d->b = j->b[k].tensor;
        d->scale = j->scale[k];
        d->weight = 1;
    }
}

static size_t largest_rank(const struct pq_peft_joint *j)
{
    uint64_t most = 0;

    for (size_t i = 0; i < j->n; i++)
        if (j->a[i].tensor->shape[0] > most)
            most = j->a[i].tensor->shape[0];
    return (size_t)most;
}

static int make_effects(struct merge_effects *b, struct pq_error *e)
{
    const size_t n = b->joined->n * per_module(b);
    struct pq_effect *all = pq_alloc(n, sizeof *all);

    if (!all)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < b->joined->n; i++)
        list_module(b, &b->joined->modules[i], all + i * per_module(b));
    const int rc = pq_effects_new("adapters", all, n, b->j->c->kernels,
                                  &b->effects, e);
    free(all);
    return rc;
}

/*
 * As models are blended, but that what is left of changes is scaled by its
 * chance, as the paper has it, and PEFT.
 */
static int set_blend(struct merge_effects *b, struct pq_error *e)
{
    const struct merge_job *j = b->j;
    struct pq_blend *w = &b->blend;

    w->method = j->o->method;
    w->n = j->n_inputs;
    w->in = pq_zalloc(w->n, sizeof *w->in);
    if (!w->in)
        return pq_fail_nomem(e);
    merge_set_blend(j, w);
    if (w->method->takes & PQ_TAKES_CHANCE && !(j->o->given & PQ_TAKES_RESCALE))
        w->rescale = PQ_RESCALE_CHANCE;
    for (size_t i = 0; i < w->n; i++) {
        merge_set_input(j, w->method, &j->inputs[i], &w->in[i]);
        w->in[i].stream = i;
    }
    return 0;
}

/* ---- one module -------------------------------------------------------- */

/* The blend of module i, as a tensor that is made. */
struct one {
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_blend blend;
};

static void aim(struct merge_effects *b, size_t i, struct one *x)
{
    const struct pq_tensor *t =
        &b->effects->catalog->tensors[i * per_module(b)];

    x->blend = b->blend;
    for (size_t k = 0; k < b->blend.n; k++) {
        x->blend.in[k].source = b->effects;
        x->blend.in[k].tensor = &t[k];
    }
    x->blend.base_source = b->effects;
    x->blend.base = &t[b->blend.n];
}

static int run_one(struct merge_effects *b, struct one *x, struct pq_error *e)
{
    const struct pq_spec f32 = {.dtype = PQ_F32};
    struct cmd *c = b->j->c;

    if (pq_blend_check(&x->blend, e) ||
        !pq_quant_declare(&x->out, x->blend.base, &f32, false, e) ||
        !pq_step_blend(&x->plan, &x->blend, &x->out, 0, &f32, false,
                       &b->j->quant, e) ||
        pq_made_new("blend", 1, b->spool, c->tmpdir, &b->made, e) ||
        pq_made_sink(b->made, &x->out, &x->plan.sink, e))
        return -1;
    return cmd_run_part(c, &x->plan, e);
}

static int prepare(void *arg, size_t i, struct pq_error *e)
{
    struct merge_effects *b = arg;
    struct one x = {.plan = {0}};

    pq_source_free(b->made);
    b->made = NULL;
    pq_catalog_init(&x.out);
    aim(b, i, &x);
    const int rc = run_one(b, &x, e);
    pq_sink_free(x.plan.sink);
    x.plan.sink = NULL;
    pq_plan_release(&x.plan);
    pq_catalog_release(&x.out);
    if (rc)
        return -1;
    b->dense[i].source = b->made;
    b->dense[i].tensor = &b->made->catalog->tensors[0];
    return 0;
}

/* ---- all of them ------------------------------------------------------- */

int merge_effects_init(struct merge_effects *b, struct cmd_reduce *reduce,
                       struct pq_error *e)
{
    /* an eighth of the memory for that, another for the threads' rows */
    b->spool = b->j->c->memory / 8;
    b->j->c->memory -= 2 * b->spool;
    b->dense = pq_zalloc(b->joined->n, sizeof *b->dense);
    if (!b->dense)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < b->joined->n; i++) {
        const struct pq_peft_joint *j = &b->joined->modules[i];
        b->dense[i].rank = cmd_reduce_rank(&reduce->rule, largest_rank(j));
        b->dense[i].turned = is_turned(j);
    }
    reduce->dense = b->dense;
    reduce->prepare = prepare;
    reduce->prepare_arg = b;
    return set_blend(b, e) || make_effects(b, e) ? -1 : 0;
}

void merge_effects_release(struct merge_effects *b)
{
    pq_source_free(b->made);
    pq_source_free(b->effects);
    free(b->blend.in);
    free(b->dense);
}
