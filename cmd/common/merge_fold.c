/*
 * Adapters folded into a model:
 *
 *   W' = round(W + sum of w s (B A))       each w a weight of the user's
 *
 * Every tensor that an adapter changes is read, changed in float in the order
 * of the operands, rounded once and written as what it was, or as -t says.
 * How much of the change is left after that is measured and told.
 */
#include "config.h"
#include "merge.h"
#include "pq_made.h"
#include "pq_names.h"

#include <stddef.h>
#include <stdlib.h>

/* What becomes of one tensor of the output. */
struct target {
    const struct pq_tensor *start; /* of the base, or of an adapter */
    struct pq_source *source;      /* whose it is; NULL: the base's */
    size_t number;                 /* in the base, when it is the base's */
    const char *name;
    struct pq_spec spec;
    bool encode, transpose;
    struct pq_edit *edits; /* [n_edits] */
    size_t n_edits;
};

struct fold {
    struct merge_job *j;
    struct pq_source *base;
    struct pq_source *decoded; /* made when encoded tensors change */
    struct pq_peft_places places;
    struct target *targets; /* [n_targets] */
    size_t n_targets;
    struct pq_edit *edits;    /* of all targets, one target after another */
    size_t n_changed, n_lost; /* tensors; of which retained < 0.9 */
    double worst;
    const char *worst_name;
};

/* ---- what becomes of each tensor --------------------------------------- */

struct pq_spec merge_spec_of(const struct pq_tensor *t)
{
    const struct pq_spec s = {.encoding = t->codec.encoding,
                              .dtype = t->dtype,
                              .block = t->codec.block,
                              .double_quant = t->codec.nested_block > 0};

    return s;
}

bool merge_same_spec(const struct pq_spec *a, const struct pq_spec *b)
{
    return a->encoding == b->encoding &&
           (a->encoding != PQ_PLAIN || a->dtype == b->dtype);
}

bool merge_converts(const struct merge_options *o, const struct pq_tensor *t,
                    const char *name)
{
    const bool number =
        pq_dtype_is_float(t->dtype) || t->codec.encoding != PQ_PLAIN;

    if (!o->type_given || !number)
        return false;
    return merge_is_wide(&o->spec) || (t->rank == 2 && pq_name_is_linear(name));
}

static int choose(struct fold *f, struct target *t, struct pq_error *e)
{
    const struct pq_tensor *s = t->start;
    const struct pq_spec now = merge_spec_of(s);
    const bool plain = s->codec.encoding == PQ_PLAIN;
    const bool added = t - f->targets >= (ptrdiff_t)f->base->catalog->n_tensors;

    t->spec = now;
    if (added && !plain)
        t->spec = (struct pq_spec){.dtype = s->dtype};
    if (merge_converts(f->j->o, t->start, t->name))
        t->spec = f->j->o->spec;
    if (t->n_edits && t->spec.encoding == PQ_PLAIN && t->spec.dtype == PQ_F64)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is F64; -t f32 merges it", t->name);
    /* what stays a floating type goes through float too: NaN is refused */
    t->encode = t->n_edits || added || !merge_same_spec(&t->spec, &now) ||
                (plain && pq_dtype_is_float(s->dtype) && s->dtype != PQ_F64);
    t->transpose = f->places.has_conv1d && s->rank == 2 &&
                   plain != (t->spec.encoding == PQ_PLAIN) &&
                   pq_name_is_conv1d(t->name);
    for (size_t i = 0; i < t->n_edits && t->transpose; i++)
        t->edits[i].turned = !t->edits[i].turned;
    return 0;
}

static void set_start(const struct fold *f, struct target *t, size_t i)
{
    const struct pq_catalog *base = f->base->catalog;

    t->number = i;
    if (i >= base->n_tensors) {
        const struct pq_peft_added *a =
            &f->places.added[i - base->n_tensors];
        t->start = a->tensor ? a->tensor : &base->tensors[a->like];
        t->source = a->source;
        t->number = a->like;
        t->name = a->name;
    } else {
        t->start = &base->tensors[i];
        t->name = t->start->name;
    }
}

/* Gives each target its edits, which keep the order of the adapters. */
static int sort_edits(struct fold *f, struct pq_error *e)
{
    const struct pq_peft_places *w = &f->places;

    f->n_targets = w->base->n_tensors + w->n_added;
    f->targets = pq_zalloc(f->n_targets, sizeof *f->targets);
    f->edits = pq_alloc(w->n_edits, sizeof *f->edits);
    if (!f->targets || !f->edits)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < w->n_edits; i++)
        f->targets[w->edits[i].target].n_edits++;
    struct pq_edit *next = f->edits;
    for (size_t i = 0; i < f->n_targets; i++) {
        f->targets[i].edits = next;
        next += f->targets[i].n_edits;
        f->targets[i].n_edits = 0;
        set_start(f, &f->targets[i], i);
    }
    for (size_t i = 0; i < w->n_edits; i++) {
        struct target *t = &f->targets[w->edits[i].target];
        t->edits[t->n_edits++] = w->edits[i].edit;
    }
    return 0;
}

/* Room for two tensors a module: its factors in order, or a part's. */
static int make_room(struct fold *f, struct pq_error *e)
{
    const struct cmd *c = f->j->c;
    size_t n = 1;

    for (size_t i = 0; i < f->j->n_inputs; i++)
        n += 2 * f->j->inputs[i].peft.n_modules;
    return pq_made_new("what was made", n, c->memory / 8, c->tmpdir,
                       &f->j->made, e);
}

static int find_parts_in(struct fold *f, struct pq_source *base,
                         struct pq_error *e)
{
    struct cmd *c = f->j->c;
    struct pq_source *sources[] = {base, NULL};
    struct pq_plan plan = {.sources = sources, .n_sources = 2};

    if (pq_decoded_new(base, c->kernels, c->memory / 4, c->tmpdir, &sources[1],
                       e))
        return -1;
    const int rc = pq_peft_find_parts(&plan, &f->places, sources[1],
                                      f->j->made, c->kernels, e) ||
                           cmd_run_plan(c, &plan, e)
                       ? -1
                       : 0;
    pq_plan_release(&plan);
    pq_source_free(sources[1]);
    if (!rc)
        cmd_tell_parts(c, &f->places);
    for (size_t i = 0; !rc && i < f->j->n_inputs; i++)
        cmd_tell_start(c, &f->j->inputs[i].peft);
    return rc;
}

/*
 * What PiSSA and OLoRA took out of the base, in a run before the merge.  A
 * file that is read from one end to the other is opened once more for it.
 */
static int find_parts(struct fold *f, struct pq_error *e)
{
    struct pq_source *again = NULL;
    size_t i = 0;

    if (f->places.n_parts == 0 || f->j->c->dry_run)
        return 0;
    if (!f->base->sequential)
        return find_parts_in(f, f->base, e);
    if (!f->base->rewind)
        return pq_fail(e, PQ_EARG,
                       "%s: PiSSA and OLoRA need the model twice: it cannot "
                       "come from a pipe",
                       f->base->name);
    while (f->j->inputs[i].source != f->base)
        i++;
    if (cmd_open_input(f->j->c, i, &again, e))
        return -1;
    const int rc = find_parts_in(f, again, e);
    pq_source_free(again);
    return rc;
}

static int place_adapters(struct fold *f, struct pq_error *e)
{
    struct pq_peft_places *w = &f->places;

    w->residual = f->j->o->residual;
    if (cmd_config_places(w, f->base, e) || make_room(f, e))
        return -1;
    w->made = f->j->made;
    for (size_t i = 0; i < f->j->n_inputs; i++) {
        const struct merge_input *a = &f->j->inputs[i];
        if (a->adapter && pq_peft_place(w, &a->peft, a->weight, e))
            return -1;
    }
    return find_parts(f, e) ? -1 : sort_edits(f, e);
}

/* ---- the plan ---------------------------------------------------------- */

static int declare(struct fold *f, struct pq_error *e)
{
    if (pq_catalog_copy_meta(&f->j->out, f->base->catalog, e))
        return -1;
    for (size_t i = 0; i < f->n_targets; i++) {
        struct target *t = &f->targets[i];
        if (choose(f, t, e))
            return -1;
        struct pq_tensor like = *t->start;
        like.name = t->name;
        if (t->encode ? !pq_quant_declare(&f->j->out, &like, &t->spec,
                                          t->transpose, e)
                      : !pq_tensor_copy(&f->j->out, &like, e))
            return -1;
    }
    return 0;
}

static int add_step(struct fold *f, size_t i, struct pq_error *e)
{
    struct target *t = &f->targets[i];
    struct pq_source *source = t->source ? t->source : f->base;
    const struct pq_tensor *in = t->start;

    if (!t->encode)
        return pq_step_copy(&f->j->plan, source, in, i, e);
    if (in->codec.encoding != PQ_PLAIN) {
        source = f->decoded;
        in = &source->catalog->tensors[t->number];
    }
    struct pq_step *s =
        t->n_edits
            ? pq_step_edit(&f->j->plan, source, in, &f->j->out, i, &t->spec,
                           t->transpose, t->edits, t->n_edits, &f->j->quant, e)
            : pq_step_encode(&f->j->plan, source, in, &f->j->out, i, &t->spec,
                             t->transpose, &f->j->quant, e);
    if (!s)
        return -1;
    s->name = t->name;
    s->user = &f->j->report;
    return 0;
}

static int add_steps(struct fold *f, struct pq_error *e)
{
    bool coded = false;

    for (size_t i = 0; i < f->n_targets; i++)
        coded |= f->targets[i].encode &&
                 f->targets[i].start->codec.encoding != PQ_PLAIN;
    if (coded && pq_decoded_new(f->base, f->j->c->kernels, f->j->c->memory / 4,
                                f->j->c->tmpdir, &f->decoded, e))
        return -1;
    for (size_t i = 0; i < f->n_targets; i++)
        if (add_step(f, i, e))
            return -1;
    return 0;
}

int merge_set_types(struct merge_job *j, struct pq_error *e)
{
    const struct pq_tensor *first;
    bool mixed;

    if (!j->o->type_given)
        return 0;
    if (merge_is_wide(&j->o->spec) &&
        cmd_config_set_dtype(&j->out, j->o->spec.dtype, e))
        return -1;
    return cmd_config_set_bnb(&j->out, &first, &mixed, e);
}

static int edit_config(struct fold *f, struct pq_error *e)
{
    if (f->places.untied &&
        cmd_config_set(&f->j->out, "tie_word_embeddings", "false", e))
        return -1;
    return merge_set_types(f->j, e);
}

static int plan_fold(struct fold *f, struct pq_error *e)
{
    return place_adapters(f, e) || declare(f, e) || edit_config(f, e) ||
                   add_steps(f, e)
               ? -1
               : 0;
}

/* ---- how much is left -------------------------------------------------- */

static int report(const struct pq_step *s, const struct pq_quality *q,
                  struct pq_error *e)
{
    const struct cmd_report *r = s->user;
    struct fold *f = r->user;
    const double kept = pq_retained(q);

    if (f->targets[s->tensor].n_edits == 0)
        return f->j->c->json ? cmd_report_tensor(s, q, e) : 0;
    f->n_changed++;
    if (kept < 0.9) {
        if (f->n_lost++ == 0 || kept < f->worst) {
            f->worst = kept;
            f->worst_name = s->name;
        }
    }
    return cmd_report_tensor(s, q, e);
}

static void warn(const struct fold *f)
{
    if (f->n_lost && !f->j->c->quiet)
        cmd_msg(f->j->c,
                "warning: %zu of %zu changed tensors keep less than 0.9 of "
                "their change after rounding; worst %s: %.3f; -t f16 or f32 "
                "keeps more",
                f->n_lost, f->n_changed, f->worst_name, f->worst);
}

/* ---- the job ----------------------------------------------------------- */

static int run_fold(struct fold *f, struct pq_error *e)
{
    struct merge_job *j = f->j;

    for (size_t i = 0; i < j->n_inputs; i++)
        if (!j->inputs[i].adapter)
            f->base = j->inputs[i].source;
    if (plan_fold(f, e) || merge_add_sources(j, f->decoded, e))
        return -1;
    if (merge_run_plan(j, f->base->catalog, e))
        return e->code == PQ_EVALUE ? pq_error_in(e, "model plus adapters")
                                    : -1;
    if (!j->c->dry_run)
        warn(f);
    return merge_end(j, e);
}

int merge_fold(struct merge_job *j, struct pq_error *e)
{
    struct fold f = {.j = j};

    for (size_t i = 0; i < j->n_inputs; i++)
        if (!j->inputs[i].adapter && j->inputs[i].weighted)
            return pq_fail(e, PQ_EARG, "%s: a model takes no weight",
                           j->inputs[i].path);
    j->quant.report = j->into ? NULL : report;
    j->report.user = &f;
    const int rc = run_fold(&f, e);
    /* steps read the decoded view until the plan is gone */
    pq_sink_free(j->plan.sink);
    j->plan.sink = NULL;
    pq_plan_release(&j->plan);
    pq_peft_places_release(&f.places);
    pq_source_free(f.decoded);
    free(f.targets);
    free(f.edits);
    return rc;
}
