/*
 * An adapter made anew from itself: of a lower rank, or plain.
 *
 * A LoRA is a sum of one, so its scale is folded in exactly (merge_sum.c has
 * the same for several), and lower ranks are the best there are.  DoRA is
 * no product: what it does to the base, D = m/|W + s B A| (W + s B A) - W, is
 * of full rank, and its large singular values are kept.  What replaces
 * tensors of the base is carried over.
 */
#include "resize.h"

#include "config.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>

struct resize {
    struct cmd *c;
    const struct cmd_resize_options *o;
    struct pq_source *adapter;
    struct pq_peft peft;
    struct pq_peft_union joined;
    struct cmd_reduce reduce;
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct cmd_report report;
    /* of DoRA */
    struct pq_source *base, *decoded, *effects;
    struct pq_peft_places places;
    struct cmd_reduce_matrix *dense; /* [joined.n] */
};

static int open_adapter(struct resize *r, struct pq_error *e)
{
    if (cmd_open_input(r->c, 0, &r->adapter, e))
        return -1;
    if (!pq_peft_is_adapter(r->adapter->catalog))
        return pq_fail(e, PQ_EARG, "%s: is a model, not an adapter",
                       r->adapter->name);
    if (r->adapter->sequential)
        return pq_fail(e, PQ_EARG,
                       "%s: an adapter cannot come from a pipe or a .pq "
                       "stream; convert it to a directory first",
                       r->adapter->name);
    return pq_peft_read(&r->peft, r->adapter, e);
}

/* ---- DoRA -------------------------------------------------------------- */

static bool has_magnitudes(const struct pq_peft *p)
{
    for (size_t i = 0; i < p->n_modules; i++)
        if (p->modules[i].magnitude)
            return true;
    return false;
}

/* Its base, as floats that may be read anywhere. */
static int open_base(struct resize *r, struct pq_error *e)
{
    struct cmd *c = r->c;

    if (c->n_operands < 2)
        return pq_fail(e, PQ_EARG,
                       "%s: is DoRA, which is plain only on its base: give "
                       "that, too",
                       r->adapter->name);
    if (cmd_open_input(c, 1, &r->base, e))
        return -1;
    if (r->base->sequential)
        return pq_fail(e, PQ_EARG,
                       "%s: the base is read more than once and cannot come "
                       "from a pipe or a .pq stream; convert it first",
                       r->base->name);
    return pq_decoded_new(r->base, c->kernels, c->memory / 4, c->tmpdir,
                          &r->decoded, e);
}

/* The edit of a module, by its first factor. */
static const struct pq_peft_edit *edit_of(const struct resize *r,
                                          const struct pq_peft_module *m)
{
    for (size_t i = 0; i < r->places.n_edits; i++)
        if (r->places.edits[i].edit.kind == PQ_EDIT_PRODUCT &&
            r->places.edits[i].edit.a == m->a)
            return &r->places.edits[i];
    return NULL;
}

static int list_effects(struct resize *r, struct pq_effect *effects,
                       struct pq_error *e)
{
    for (size_t i = 0; i < r->joined.n; i++) {
        const struct pq_peft_module *m = r->joined.modules[i].like;
        const struct pq_peft_edit *d = edit_of(r, m);
        if (!d || d->target >= r->base->catalog->n_tensors)
            return pq_fail(e, PQ_EARG, "module %s: the base has no such layer",
                           m->name);
        effects[i] = (struct pq_effect){
            .name = m->name,
            .edit = d->edit,
            .base = r->decoded,
            .w = &r->decoded->catalog->tensors[d->target]};
        r->dense[i].turned = d->edit.turned;
        r->dense[i].rank =
            cmd_reduce_rank(&r->o->ranks, 2 * (size_t)m->a->shape[0]);
    }
    return pq_effects_new(r->adapter->name, effects, r->joined.n,
                          r->c->kernels, &r->effects, e);
}

/* What the adapter does to the base, as matrices to be factored. */
static int take_base(struct resize *r, struct pq_error *e)
{
    struct pq_effect *effects = pq_zalloc(r->joined.n, sizeof *effects);

    r->dense = pq_zalloc(r->joined.n, sizeof *r->dense);
    int rc = effects && r->dense ? open_base(r, e) : pq_fail_nomem(e);
    if (!rc)
        rc = cmd_config_places(&r->places, r->base, e) ||
             pq_peft_place(&r->places, &r->peft, 1, e) ||
             list_effects(r, effects, e);
    for (size_t i = 0; !rc && i < r->joined.n; i++) {
        r->dense[i].source = r->effects;
        r->dense[i].tensor = &r->effects->catalog->tensors[i];
    }
    r->reduce.dense = r->dense;
    free(effects);
    return rc ? -1 : 0;
}

/* ---- the plan ---------------------------------------------------------- */

static uint64_t value_bytes(const struct resize *r)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < r->peft.n_values; i++) {
        const struct pq_tensor *t = r->peft.values[i].tensor;
        sum += t->parts[0].bytes + strlen(t->name) + 160;
    }
    return sum;
}

/* What replaces tensors of the base stays what it is. */
static int copy_values(struct resize *r, struct pq_error *e)
{
    for (size_t i = 0; i < r->peft.n_values; i++) {
        const struct pq_tensor *t = r->peft.values[i].tensor;
        if (!pq_tensor_copy(&r->out, t, e) ||
            pq_step_copy(&r->plan, r->adapter, t, r->out.n_tensors - 1, e))
            return -1;
    }
    return 0;
}

static int join(struct resize *r, const struct pq_peft *const *adapter,
                const double *weight, struct pq_error *e)
{
    r->joined.adapters = adapter;
    r->joined.weights = weight;
    r->joined.n_adapters = 1;
    r->joined.magnitudes = r->o->plain;
    return pq_peft_join(&r->joined, e);
}

static int make_plan(struct resize *r, struct pq_error *e)
{
    struct cmd_reduce *d = &r->reduce;
    const bool dora = has_magnitudes(&r->peft);

    d->c = r->c;
    d->rule = r->o->ranks;
    d->dtype = r->o->dtype;
    d->quant = &r->quant;
    d->joined = &r->joined;
    if ((dora && take_base(r, e)) ||
        pq_catalog_copy_meta(&r->out, r->adapter->catalog, e))
        return -1;
    if (dora || cmd_reduces(&d->rule)
            ? cmd_reduce_plan(d, &r->plan, &r->out, r->peft.n_values,
                              value_bytes(r), e)
            : pq_peft_sum(&r->plan, &r->out, &r->joined, r->peft.n_values,
                          d->dtype, &r->quant, e))
        return -1;
    return copy_values(r, e);
}

/* ---- the run ----------------------------------------------------------- */

static int run_plan(struct resize *r, struct pq_error *e)
{
    struct pq_source *sources[] = {r->adapter, r->reduce.factors.made};
    const struct pq_catalog *like = r->adapter->catalog;

    r->plan.sources = sources;
    r->plan.n_sources = sources[1] ? 2 : 1;
    if (cmd_make_sink(r->c, &r->out, NULL, like, &r->plan.sink, e) ||
        cmd_run_plan(r->c, &r->plan, e))
        return -1;
    r->report.out = &r->out;
    if (r->c->dry_run)
        return 0;
    return cmd_reduce_report(&r->reduce, &r->report, e) ||
                   cmd_report_end(&r->report, r->adapter->total_bytes,
                                  r->plan.sink->total_bytes, e)
               ? -1
               : 0;
}

static void release(struct resize *r)
{
    pq_sink_free(r->plan.sink);
    pq_plan_release(&r->plan);
    cmd_reduce_release(&r->reduce);
    pq_peft_union_release(&r->joined);
    pq_peft_places_release(&r->places);
    pq_source_free(r->effects);
    pq_source_free(r->decoded);
    pq_source_free(r->base);
    pq_peft_release(&r->peft);
    pq_source_free(r->adapter);
    pq_catalog_release(&r->out);
    pq_buf_release(&r->report.json);
    free(r->dense);
}

int cmd_resize(struct cmd *c, const struct cmd_resize_options *o,
               struct pq_error *e)
{
    struct resize r = {.c = c, .o = o, .report = {.c = c}};
    const struct pq_peft *const adapter = &r.peft;
    const double weight = 1;

    r.quant.kernels = c->kernels;
    pq_catalog_init(&r.out);
    const int rc = open_adapter(&r, e) || join(&r, &adapter, &weight, e) ||
                   make_plan(&r, e) || run_plan(&r, e);
    release(&r);
    return rc ? CMD_TROUBLE : CMD_OK;
}
