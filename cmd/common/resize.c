/*
 * An adapter made anew from itself: of a lower rank, or plain.
 *
 * A LoRA is a sum of one, so its scale is folded in exactly (merge_sum.c has
 * the same for several), and lower ranks are the best there are.  What
 * replaces tensors of the base is carried over.
 */
#include "resize.h"

#include <stdlib.h>
#include <string.h>

static int open_adapter(struct resize *r, struct pq_error *e)
{
    if (cmd_open_input(r->c, 0, &r->adapter, e))
        return -1;
    if (!pq_peft_is_adapter(r->adapter->catalog))
        return pq_fail(e, PQ_EARG, "%s: is a model, not an adapter",
                       r->adapter->name);
    if (cmd_load(r->c, &r->adapter, e))
        return -1;
    r->peft.accept = r->o->plain ? PQ_PEFT_CHANGED_BASE : 0;
    return pq_peft_read(&r->peft, r->adapter, e);
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
    r->joined.have_base = r->o->plain;
    return pq_peft_join(&r->joined, e);
}

static int make_plan(struct resize *r, struct pq_error *e)
{
    struct cmd_reduce *d = &r->reduce;

    d->c = r->c;
    d->rule = r->o->ranks;
    d->dtype = r->o->dtype;
    d->quant = &r->quant;
    d->joined = &r->joined;
    if ((resize_needs_base(r) && resize_take_base(r, e)) ||
        pq_catalog_copy_meta(&r->out, r->adapter->catalog, e))
        return -1;
    if (d->dense || cmd_reduces(&d->rule)
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
    const struct pq_catalog *like = r->adapter->catalog;

    /* the others were made */
    r->plan.sources = &r->adapter;
    r->plan.n_sources = 1;
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
    pq_source_free(r->parts);
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
