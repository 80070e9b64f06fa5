/*
 * pq-merge: adapters folded into a model.
 *
 *   W' = round(W + sum of w s (B A))       each w a weight of the user's
 *
 * Operands are recognised by what they hold.  One model and adapters: every
 * tensor that an adapter changes is read, changed in float in the order of
 * the operands, rounded once and written as what it was, or as -t says.
 * How much of the change is left after that is measured and told.
 *
 * Adapters alone: their weighted sum as one adapter, by putting the factors
 * one behind the other.
 */
#include "cmd.h"
#include "config.h"
#include "pq_names.h"
#include "pq_peft.h"
#include "report.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_TYPE = 1, OPT_NORMALIZE, OPT_NONFINITE };

static const struct cmd_option options[] = {
    {'t', "type", "TYPE", "what to store the weights as (default: as they are)",
     "f32 f16 bf16 f8_e4m3 f8_e5m2 int8 int8_block nf4 fp4",
     CMD_CHANGES_OUTPUT, OPT_TYPE},
    {0, "normalize", NULL, "divide the weights by their sum", NULL,
     CMD_CHANGES_OUTPUT, OPT_NORMALIZE},
    {0, "allow-nonfinite", NULL, "accept NaN, Inf and values out of range",
     NULL, CMD_CHANGES_OUTPUT, OPT_NONFINITE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct merge {
    bool type_given, normalize, allow_nonfinite;
    const char *type;
    struct pq_spec spec;
};

/* An adapter among the operands. */
struct adapter {
    struct pq_source *source;
    struct pq_peft peft;
    double weight;
};

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

struct job {
    struct cmd *c;
    struct merge *o;
    struct pq_source *base;
    struct pq_source *decoded; /* made when encoded tensors change */
    struct adapter *adapters;  /* [n_adapters], in the order given */
    size_t n_adapters;
    struct pq_source **sources;
    struct pq_peft_places places;
    struct target *targets; /* [n_targets] */
    size_t n_targets;
    struct pq_edit *edits; /* of all targets, one target after another */
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct cmd_report report;
    size_t n_changed, n_lost; /* tensors; of which retained < 0.9 */
    double worst;
    const char *worst_name;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct merge *o = c->state;

    switch (id) {
    case OPT_TYPE:
        if (pq_spec_parse(value, &o->spec))
            return pq_fail(e, PQ_EARG, "unknown type '%s': one of %s", value,
                           pq_spec_types());
        o->type_given = true;
        o->type = value;
        return pq_spec_check(&o->spec, e);
    case OPT_NORMALIZE:
        o->normalize = true;
        return 0;
    default:
        o->allow_nonfinite = true;
        return 0;
    }
}

/* ---- operands ---------------------------------------------------------- */

/*
 * "PATH:WEIGHT" -> both; a file of that very name wins.  What stands behind
 * the last colon counts as a weight only if it is a number.
 */
static char *split_weight(const char *operand, double *weight,
                          struct pq_error *e)
{
    const char *colon = strrchr(operand, ':');
    struct pq_error ignored = PQ_ERROR_INIT;
    size_t n = strlen(operand);

    *weight = 1;
    if (colon && colon != operand && access(operand, F_OK) != 0 &&
        cmd_real(colon + 1, -1e6, 1e6, weight, &ignored) == 0)
        n = (size_t)(colon - operand);
    else
        colon = NULL;
    char *path = pq_strndup(operand, n);
    if (!path)
        pq_fail_nomem(e);
    return path;
}

static int take_adapter(struct job *j, struct pq_source *s, double weight,
                        struct pq_error *e)
{
    struct adapter *a = &j->adapters[j->n_adapters++];

    a->source = s;
    a->weight = weight;
    if (s->sequential)
        return pq_fail(e, PQ_EARG,
                       "%s: an adapter cannot come from a pipe or a .pq "
                       "stream; convert it to a directory first",
                       s->name);
    return pq_peft_read(&a->peft, s, e);
}

static int take_operand(struct job *j, size_t i, struct pq_error *e)
{
    struct cmd *c = j->c;
    struct pq_source *s = NULL;
    double weight;
    char *split = split_weight(c->operands[i], &weight, e);
    /* the source borrows its name for as long as it lives */
    const char *path =
        split ? pq_arena_strndup(&j->plan.arena, split, strlen(split)) : NULL;

    free(split);
    if (!path)
        return e->code ? -1 : pq_fail_nomem(e);
    const char *given = c->operands[i];
    c->operands[i] = path;
    int rc = cmd_open_input(c, i, &s, e);
    c->operands[i] = given;
    if (!rc && pq_peft_is_adapter(s->catalog)) {
        rc = take_adapter(j, s, weight, e);
    } else if (!rc && j->base) {
        rc = pq_fail(e, PQ_EARG,
                     "%s and %s: two models; one model and adapters are "
                     "merged",
                     j->base->name, s->name);
        pq_source_free(s);
    } else if (!rc) {
        j->base = s;
        if (strlen(path) < strlen(given))
            rc = pq_fail(e, PQ_EARG, "%s: a model takes no weight", path);
    }
    return rc;
}

static int normalize(struct job *j, struct pq_error *e)
{
    double sum = 0;

    for (size_t i = 0; i < j->n_adapters; i++)
        sum += j->adapters[i].weight;
    if (sum == 0)
        return pq_fail(e, PQ_EARG, "--normalize: the weights sum to 0");
    for (size_t i = 0; i < j->n_adapters; i++)
        j->adapters[i].weight /= sum;
    return 0;
}

static int take_operands(struct job *j, struct pq_error *e)
{
    j->adapters = pq_zalloc(j->c->n_operands, sizeof *j->adapters);
    if (!j->adapters)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->c->n_operands; i++)
        if (take_operand(j, i, e))
            return -1;
    if (j->n_adapters == 0)
        return cmd_usage(j->c, "no adapter: give one model and adapters, or "
                               "adapters alone");
    return j->o->normalize ? normalize(j, e) : 0;
}

/* ---- what becomes of each tensor --------------------------------------- */

static bool is_wide(const struct pq_spec *s)
{
    return s->encoding == PQ_PLAIN && pq_dtype_bits(s->dtype) > 8;
}

static struct pq_spec spec_of(const struct pq_tensor *t)
{
    const struct pq_spec s = {.encoding = t->codec.encoding,
                              .dtype = t->dtype,
                              .block = t->codec.block,
                              .double_quant = t->codec.nested_block > 0};

    return s;
}

static bool same_spec(const struct pq_spec *a, const struct pq_spec *b)
{
    return a->encoding == b->encoding &&
           (a->encoding != PQ_PLAIN || a->dtype == b->dtype);
}

/* Does -t speak of this tensor?  The rules are those of pq-quantize. */
static bool converts(const struct job *j, const struct target *t)
{
    const struct merge *o = j->o;
    const bool number = pq_dtype_is_float(t->start->dtype) ||
                        t->start->codec.encoding != PQ_PLAIN;

    if (!o->type_given || !number)
        return false;
    return is_wide(&o->spec) ||
           (t->start->rank == 2 && pq_name_is_linear(t->name));
}

static int choose(struct job *j, struct target *t, struct pq_error *e)
{
    const struct pq_tensor *s = t->start;
    const struct pq_spec now = spec_of(s);
    const bool plain = s->codec.encoding == PQ_PLAIN;
    const bool added = t - j->targets >= (ptrdiff_t)j->base->catalog->n_tensors;

    t->spec = now;
    if (added && !plain)
        t->spec = (struct pq_spec){.dtype = s->dtype};
    if (converts(j, t))
        t->spec = j->o->spec;
    if (t->n_edits && t->spec.encoding == PQ_PLAIN && t->spec.dtype == PQ_F64)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is F64; -t f32 merges it", t->name);
    /* what stays a floating type goes through float too: NaN is refused */
    t->encode = t->n_edits || added || !same_spec(&t->spec, &now) ||
                (plain && pq_dtype_is_float(s->dtype) && s->dtype != PQ_F64);
    t->transpose = j->places.has_conv1d && s->rank == 2 &&
                   plain != (t->spec.encoding == PQ_PLAIN) &&
                   pq_name_is_conv1d(t->name);
    for (size_t i = 0; i < t->n_edits && t->transpose; i++)
        t->edits[i].turned = !t->edits[i].turned;
    return 0;
}

static void set_start(const struct job *j, struct target *t, size_t i)
{
    const struct pq_catalog *base = j->base->catalog;

    t->number = i;
    if (i >= base->n_tensors) {
        const struct pq_peft_added *a =
            &j->places.added[i - base->n_tensors];
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
static int sort_edits(struct job *j, struct pq_error *e)
{
    const struct pq_peft_places *w = &j->places;

    j->n_targets = w->base->n_tensors + w->n_added;
    j->targets = pq_zalloc(j->n_targets, sizeof *j->targets);
    j->edits = pq_alloc(w->n_edits, sizeof *j->edits);
    if (!j->targets || !j->edits)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < w->n_edits; i++)
        j->targets[w->edits[i].target].n_edits++;
    struct pq_edit *next = j->edits;
    for (size_t i = 0; i < j->n_targets; i++) {
        j->targets[i].edits = next;
        next += j->targets[i].n_edits;
        j->targets[i].n_edits = 0;
        set_start(j, &j->targets[i], i);
    }
    for (size_t i = 0; i < w->n_edits; i++) {
        struct target *t = &j->targets[w->edits[i].target];
        t->edits[t->n_edits++] = w->edits[i].edit;
    }
    return 0;
}

static int place_adapters(struct job *j, struct pq_error *e)
{
    struct pq_peft_places *w = &j->places;

    w->base = j->base->catalog;
    w->has_config = pq_catalog_blob(w->base, "config.json") != NULL;
    w->has_conv1d = cmd_config_has_conv1d(w->base, e);
    const int tied = cmd_config_tied(w->base, e);
    if (e->code || cmd_config_refuse_foreign(j->base, e) ||
        pq_peft_places_init(w, e))
        return -1;
    w->tied = tied == 1 || (tied == 2 && w->head == SIZE_MAX);
    for (size_t i = 0; i < j->n_adapters; i++)
        if (pq_peft_place(w, &j->adapters[i].peft, j->adapters[i].weight, e))
            return -1;
    return sort_edits(j, e);
}

/* ---- the plan ---------------------------------------------------------- */

static int declare(struct job *j, struct pq_error *e)
{
    if (pq_catalog_copy_meta(&j->out, j->base->catalog, e))
        return -1;
    for (size_t i = 0; i < j->n_targets; i++) {
        struct target *t = &j->targets[i];
        if (choose(j, t, e))
            return -1;
        struct pq_tensor like = *t->start;
        like.name = t->name;
        if (t->encode ? !pq_quant_declare(&j->out, &like, &t->spec,
                                          t->transpose, e)
                      : !pq_tensor_copy(&j->out, &like, e))
            return -1;
    }
    return 0;
}

static int add_step(struct job *j, size_t i, struct pq_error *e)
{
    struct target *t = &j->targets[i];
    struct pq_source *source = t->source ? t->source : j->base;
    const struct pq_tensor *in = t->start;

    if (!t->encode)
        return pq_step_copy(&j->plan, source, in, i, e);
    if (in->codec.encoding != PQ_PLAIN) {
        source = j->decoded;
        in = &source->catalog->tensors[t->number];
    }
    struct pq_step *s =
        t->n_edits ? pq_step_edit(&j->plan, source, in, &j->out, i, &t->spec,
                                  t->transpose, t->edits, t->n_edits,
                                  &j->quant, e)
                   : pq_step_encode(&j->plan, source, in, &j->out, i, &t->spec,
                                    t->transpose, &j->quant, e);
    if (!s)
        return -1;
    s->name = t->name;
    s->user = &j->report;
    return 0;
}

static int add_steps(struct job *j, struct pq_error *e)
{
    bool coded = false;

    for (size_t i = 0; i < j->n_targets; i++)
        coded |= j->targets[i].encode &&
                 j->targets[i].start->codec.encoding != PQ_PLAIN;
    if (coded && pq_decoded_new(j->base, j->c->kernels, j->c->memory / 4,
                                j->c->tmpdir, &j->decoded, e))
        return -1;
    for (size_t i = 0; i < j->n_targets; i++)
        if (add_step(j, i, e))
            return -1;
    return 0;
}

static int edit_config(struct job *j, struct pq_error *e)
{
    const struct pq_tensor *first;
    bool mixed;

    if (j->places.untied &&
        cmd_config_set(&j->out, "tie_word_embeddings", "false", e))
        return -1;
    if (!j->o->type_given)
        return 0;
    if (is_wide(&j->o->spec) &&
        cmd_config_set_dtype(&j->out, j->o->spec.dtype, e))
        return -1;
    return cmd_config_set_bnb(&j->out, &first, &mixed, e);
}

static int plan_merge(struct job *j, struct pq_error *e)
{
    return place_adapters(j, e) || declare(j, e) || edit_config(j, e) ||
                   add_steps(j, e)
               ? -1
               : 0;
}

/* ---- adapters alone ---------------------------------------------------- */

static int add_sources(struct job *j, struct pq_error *e)
{
    j->sources = pq_alloc(j->n_adapters + 2, sizeof *j->sources);
    if (!j->sources)
        return pq_fail_nomem(e);
    j->plan.sources = j->sources;
    if (j->base)
        j->sources[j->plan.n_sources++] = j->base;
    if (j->decoded)
        j->sources[j->plan.n_sources++] = j->decoded;
    for (size_t i = 0; i < j->n_adapters; i++)
        j->sources[j->plan.n_sources++] = j->adapters[i].source;
    return 0;
}

static int plan_sum(struct job *j, struct pq_error *e)
{
    const struct pq_peft **p = pq_alloc(j->n_adapters, sizeof *p);
    double *w = pq_alloc(j->n_adapters, sizeof *w);
    const enum pq_dtype dtype = j->o->type_given ? j->o->spec.dtype : PQ_F32;
    int rc = p && w ? 0 : pq_fail_nomem(e);

    if (!rc && j->o->type_given && !is_wide(&j->o->spec))
        rc = pq_fail(e, PQ_EARG, "-t %s: an adapter is f32, f16 or bf16",
                     j->o->type);
    for (size_t i = 0; !rc && i < j->n_adapters; i++) {
        p[i] = &j->adapters[i].peft;
        w[i] = j->adapters[i].weight;
    }
    if (!rc)
        rc = pq_peft_sum(&j->plan, &j->out, p, w, j->n_adapters, dtype,
                         &j->quant, e);
    free(p);
    free(w);
    return rc;
}

/* ---- how much is left -------------------------------------------------- */

static int report(const struct pq_step *s, const struct pq_quality *q,
                  struct pq_error *e)
{
    struct cmd_report *r = s->user;
    struct job *j = (struct job *)((char *)r - offsetof(struct job, report));
    const double kept = pq_retained(q);

    if (j->targets[s->tensor].n_edits == 0)
        return j->c->json ? cmd_report_tensor(s, q, e) : 0;
    j->n_changed++;
    if (kept < 0.9) {
        if (j->n_lost++ == 0 || kept < j->worst) {
            j->worst = kept;
            j->worst_name = s->name;
        }
    }
    return cmd_report_tensor(s, q, e);
}

static void warn(const struct job *j)
{
    if (j->n_lost && !j->c->quiet)
        cmd_msg(j->c,
                "warning: %zu of %zu changed tensors keep less than 0.9 of "
                "their change after rounding; worst %s: %.3f; -t f16 or f32 "
                "keeps more",
                j->n_lost, j->n_changed, j->worst_name, j->worst);
}

/* ---- the run ----------------------------------------------------------- */

static int merge(struct job *j, struct pq_error *e)
{
    uint64_t bytes;

    if (take_operands(j, e))
        return -1;
    const struct pq_catalog *first =
        j->base ? j->base->catalog : j->adapters[0].source->catalog;
    if ((j->base ? plan_merge(j, e) : plan_sum(j, e)) || add_sources(j, e) ||
        cmd_make_sink(j->c, &j->out, NULL, first, &j->plan.sink, e))
        return -1;
    j->report.out = &j->out;
    if (cmd_run_plan(j->c, &j->plan, e))
        return -1;
    if (j->c->dry_run)
        return 0;
    warn(j);
    bytes = j->base ? j->base->total_bytes : 0;
    for (size_t i = 0; i < j->n_adapters; i++)
        bytes += j->adapters[i].source->total_bytes;
    return cmd_report_end(&j->report, bytes, j->plan.sink->total_bytes, e);
}

static void release(struct job *j)
{
    pq_sink_free(j->plan.sink);
    j->plan.sink = NULL;
    pq_plan_release(&j->plan);
    pq_peft_places_release(&j->places);
    pq_source_free(j->decoded);
    pq_source_free(j->base);
    for (size_t i = 0; i < j->n_adapters; i++) {
        pq_peft_release(&j->adapters[i].peft);
        pq_source_free(j->adapters[i].source);
    }
    pq_catalog_release(&j->out);
    pq_buf_release(&j->report.json);
    free(j->adapters);
    free(j->sources);
    free(j->targets);
    free(j->edits);
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct merge *o = c->state;
    struct job j = {.c = c, .o = o, .report = {.c = c, .type = o->type}};

    j.quant.kernels = c->kernels;
    j.quant.allow_nonfinite = o->allow_nonfinite;
    j.quant.measure = c->verbose > 0 || c->json;
    j.quant.report = report;
    pq_catalog_init(&j.out);
    const int rc = merge(&j, e);
    release(&j);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-merge llama/ lora/ -o llama-tuned/",
    "pq-merge -t f16 llama/ style/:0.7 facts/:0.5 -o llama-both/",
    NULL,
};

const struct pq_tool tool_merge = {
    .name = "merge",
    .purpose = "fold adapters into a model, or add them up",
    .synopsis = "[options] [MODEL] ADAPTER[:WEIGHT]...",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1024,
    .examples = examples,
    .state_bytes = sizeof(struct merge),
    .option = option,
    .run = run,
};
