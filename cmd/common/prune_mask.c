/*
 * Masks of pq-prune: those that say what goes, and the one that tells it.
 *
 * A mask has a say in the tensors that it has; they must be in the model, in
 * the same shape, else it is the mask of another one.
 */
#include "prune.h"

#include <stdlib.h>
#include <string.h>

int prune_settle_masks(struct cmd *c, const struct prune_options *o, bool ways)
{
    if (o->mask_op_given && o->masks.n == 0)
        return cmd_usage(c, "--mask-op goes with --mask");
    if (o->schedule.n && (o->masks.n > 0 || o->mask_out))
        return cmd_usage(c, "--schedule takes no --mask and no --mask-out");
    if (o->mask_out && !ways && o->masks.n == 0)
        return cmd_usage(c, "--mask-out goes with what sets weights to zero");
    if (o->masks.n > 0 && o->hessian)
        return cmd_usage(c, "--mask does not go with --hessian: what stays "
                            "would make up for the wrong weights");
    if (o->masks.n > 0 && o->norms && !ways)
        return cmd_usage(c, "--norms goes with -s, --pattern or rules");
    return 0;
}

/* ---- masks that are read ------------------------------------------------- */

/* Is every tensor of the mask one of the model's? */
static int check_names(const struct prune_job *j, const struct pq_mask *m,
                       const struct pq_names *model, struct pq_error *e)
{
    const struct pq_catalog *c = m->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_names_find(model, c->tensors[i].name) == SIZE_MAX)
            return pq_fail(e, PQ_EARG,
                           "%s: tensor %s: is not in %s: a mask of another "
                           "model",
                           m->source->name, c->tensors[i].name,
                           j->base.in->name);
    return 0;
}

static int open_mask(struct prune_job *j, const char *path,
                     const struct pq_names *model, struct pq_error *e)
{
    struct pq_mask *m = &j->masks.in[j->masks.n];
    struct pq_source *s = NULL;

    if (pq_open_model(path, &cmd_cancel, &s, e))
        return -1;
    m->source = s;
    j->masks.n++;
    return pq_mask_open(m, s, e) || check_names(j, m, model, e) ||
                   cmd_job_reads(&j->base, s, e)
               ? -1
               : 0;
}

int prune_open_masks(struct prune_job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;
    const struct cmd_list *paths = &j->o->masks;
    struct pq_names model = {0};
    int rc = 0;

    if (paths->n == 0)
        return 0;
    j->masks.in = pq_zalloc(paths->n, sizeof *j->masks.in);
    if (!j->masks.in)
        return pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < in->n_tensors; i++)
        rc = pq_names_add(&model, in->tensors[i].name, i, NULL, e) < 0;
    for (size_t i = 0; !rc && i < paths->n; i++)
        rc = open_mask(j, paths->items[i], &model, e);
    pq_names_release(&model);
    return rc ? -1 : 0;
}

int prune_choose_masks(struct prune_job *j, const struct pq_tensor *t,
                       struct prune_choice *d, struct pq_error *e)
{
    struct pq_prune_mask *masks;
    size_t n = 0;

    if (j->masks.n == 0 || !cmd_selected(j->base.c, t->name))
        return 0;
    masks = pq_arena_alloc(&j->base.plan.arena, j->masks.n, sizeof *masks);
    if (!masks)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->masks.n; i++) {
        masks[n].source = j->masks.in[i].source;
        masks[n].tensor = pq_mask_find(&j->masks.in[i], t, e);
        if (e->code)
            return -1;
        n += masks[n].tensor != NULL;
    }
    d->how.masks = masks;
    d->how.n_masks = n;
    d->how.op = j->o->mask_op;
    if (n > 0 && !d->prune) {
        d->prune = true;
        d->how.scope = PQ_PRUNE_MASKED;
        d->how.block_rows = d->how.block_cols = 0;
    }
    return 0;
}

/* ---- the mask that is written -------------------------------------------- */

/* The tensors that are pruned, in the order of the model. */
static int declare_mask(struct prune_job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;
    const struct pq_tensor **list = pq_alloc(in->n_tensors, sizeof *list);
    size_t n = 0;

    if (!list)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < in->n_tensors; i++) {
        struct prune_choice *d = &j->choices[i];
        if (!d->prune)
            continue;
        d->how.beside = (struct pq_mask_place){.sink = 1, .tensor = n};
        d->sparsegpt.beside = d->how.beside;
        list[n++] = &in->tensors[i];
    }
    const int rc = pq_mask_declare(&j->masks.out, list, n, e);
    free((void *)list);
    return rc;
}

int prune_make_mask(struct prune_job *j, struct pq_error *e)
{
    struct cmd_job *b = &j->base;
    struct prune_masks *m = &j->masks;

    if (!j->o->mask_out)
        return 0;
    pq_catalog_init(&m->out);
    if (declare_mask(j, e) || cmd_make_side(b->c, j->o->mask_out, &m->out,
                                            cmd_job_input(b), &m->sink, e))
        return -1;
    b->plan.sides = &m->sink;
    b->plan.n_sides = 1;
    return 0;
}

void prune_release_masks(struct prune_job *j)
{
    struct prune_masks *m = &j->masks;

    for (size_t i = 0; i < m->n; i++) {
        pq_source_free(m->in[i].source);
        pq_mask_release(&m->in[i]);
    }
    free(m->in);
    pq_sink_free(m->sink);
    pq_catalog_release(&m->out);
}
