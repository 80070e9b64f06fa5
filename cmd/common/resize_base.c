/*
 * Adapters that are plain only on their base.
 *
 *   DoRA    what it does to a weight, D = m/|W + s B A| (W + s B A) - W, is
 *           of full rank; its large singular values are kept
 *   PiSSA, OLoRA
 *           began by taking a part P out of the base: W' = W + s B A - P, of
 *           which P is a product, too, and is found again in the base
 */
#include "resize.h"

#include "config.h"

#include <stdlib.h>

static bool is_dora(const struct resize *r)
{
    for (size_t i = 0; i < r->peft.n_modules; i++)
        if (r->peft.modules[i].magnitude)
            return true;
    return false;
}

bool resize_needs_base(const struct resize *r)
{
    return is_dora(r) || r->peft.init != PQ_INIT_PLAIN;
}

/* The base, as floats that may be read anywhere. */
static int open_base(struct resize *r, struct pq_error *e)
{
    struct cmd *c = r->c;
    const bool dora = is_dora(r);

    if (dora && r->peft.init != PQ_INIT_PLAIN)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: is DoRA that began as %s; merge it into its base "
                       "and extract the difference",
                       r->adapter->name, r->peft.init_name);
    if (c->n_operands < 2)
        return pq_fail(e, PQ_EARG,
                       "%s: is %s, which is plain only on its base: give "
                       "that, too",
                       r->adapter->name, dora ? "DoRA" : r->peft.init_name);
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

/* The edit of a module: the product that begins with its first factor. */
static const struct pq_peft_edit *edit_of(const struct resize *r,
                                          const struct pq_peft_module *m,
                                          struct pq_error *e)
{
    for (size_t i = 0; i < r->places.n_edits; i++) {
        const struct pq_peft_edit *d = &r->places.edits[i];
        if (d->edit.kind == PQ_EDIT_PRODUCT && d->edit.a == m->a &&
            d->target < r->base->catalog->n_tensors)
            return d;
    }
    pq_fail(e, PQ_EARG, "module %s: the base has no such layer", m->name);
    return NULL;
}

/* ---- DoRA -------------------------------------------------------------- */

static int list_effects(struct resize *r, struct pq_effect *effects,
                        struct pq_error *e)
{
    for (size_t i = 0; i < r->joined.n; i++) {
        const struct pq_peft_module *m = r->joined.modules[i].like;
        const struct pq_peft_edit *d = edit_of(r, m, e);
        if (!d)
            return -1;
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
static int take_effects(struct resize *r, struct pq_error *e)
{
    struct pq_effect *effects = pq_zalloc(r->joined.n, sizeof *effects);

    r->dense = pq_zalloc(r->joined.n, sizeof *r->dense);
    const int rc = effects && r->dense ? list_effects(r, effects, e)
                                       : pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < r->joined.n; i++) {
        r->dense[i].source = r->effects;
        r->dense[i].tensor = &r->effects->catalog->tensors[i];
    }
    r->reduce.dense = r->dense;
    free(effects);
    return rc;
}

/* ---- PiSSA and OLoRA --------------------------------------------------- */

/* t [rows][cols] of `parts`, as another tensor there, [cols][rows]. */
static const struct pq_tensor *turn(struct resize *r,
                                    const struct pq_tensor *t,
                                    struct pq_error *e)
{
    const uint64_t shape[2] = {t->shape[1], t->shape[0]};
    const size_t bytes = (size_t)t->parts[0].bytes;
    float *x = pq_alloc(bytes, 1), *y = pq_alloc(bytes, 1);
    const struct pq_tensor *out = NULL;

    if (!x || !y) {
        pq_fail_nomem(e);
    } else if (pq_source_read(r->parts, &t->parts[0], 0, x, bytes, e) == 0) {
        r->c->kernels->transpose(x, y, t->shape[0], t->shape[1], sizeof *x);
        out = pq_made_add(r->parts, t->name, PQ_F32, shape, 2, y, e);
    }
    free(x);
    free(y);
    return out;
}

/*
 * The part that was taken out for a module, found by now.  OLoRA's is that of
 * the weight as it is stored, which may be the other way round.
 */
static int join_part(struct resize *r, struct pq_peft_joint *j,
                     struct pq_error *e)
{
    const struct pq_peft_edit *mine = edit_of(r, j->like, e);
    const struct pq_peft_edit *d = NULL;

    for (size_t i = 0; mine && i < r->places.n_edits; i++)
        if (r->places.edits[i].part != PQ_PEFT_NO_PART &&
            r->places.edits[i].target == mine->target)
            d = &r->places.edits[i];
    if (!mine || !d)
        return mine ? pq_fail(e, PQ_EARG, "module %s: nothing was taken out",
                              j->like->name)
                    : -1;
    const bool same = d->edit.turned == mine->edit.turned;
    const struct pq_tensor *a = same ? d->edit.a : turn(r, d->edit.b, e);
    const struct pq_tensor *b = same ? d->edit.b : turn(r, d->edit.a, e);
    if (!a || !b)
        return -1;
    pq_peft_join_part(j, r->parts, a, b, d->edit.scale * d->edit.weight);
    return 0;
}

static int take_parts(struct resize *r, struct pq_error *e)
{
    struct cmd *c = r->c;
    struct pq_plan plan = {0};

    int rc = pq_made_new("parts", 4 * r->joined.n, c->memory / 8, c->tmpdir,
                         &r->parts, e);
    if (!rc)
        rc = pq_peft_find_parts(&plan, &r->places, r->decoded, r->parts,
                                c->kernels, e) ||
             cmd_run_part(c, &plan, e);
    pq_plan_release(&plan);
    if (rc)
        return -1;
    cmd_tell_parts(c, &r->places);
    cmd_tell_start(c, &r->peft);
    for (size_t i = 0; i < r->joined.n; i++)
        if (join_part(r, &r->joined.modules[i], e))
            return -1;
    return 0;
}

int resize_take_base(struct resize *r, struct pq_error *e)
{
    if (open_base(r, e) || cmd_config_places(&r->places, r->base, e) ||
        pq_peft_place(&r->places, &r->peft, 1, e))
        return -1;
    return is_dora(r) ? take_effects(r, e) : take_parts(r, e);
}
