/*
 * pq-merge: adapters folded into a model, or put together; models blended.
 *
 * Operands are recognised by what they hold: one model and adapters
 * (cmd/common/merge_fold.c), adapters alone (merge_sum.c), models alone
 * (merge_blend.c).
 */
#include "merge.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_TYPE = 1, OPT_RECIPE, OPT_VOCAB, OPT_RESIDUAL, OPT_RANK, OPT_ENERGY,
    OPT_NONFINITE
};

static const struct cmd_option options[] = {
    {'t', "type", "TYPE", "what to store the weights as (default: as they are)",
     "f32 f16 bf16 f8_e4m3 f8_e5m2 int8 int8_block nf4 fp4",
     CMD_CHANGES_OUTPUT, OPT_TYPE},
    {0, "method", "M", "how models become one (default: linear)",
     "linear slerp task_arithmetic ties dare_linear dare_ties della "
     "della_linear breadcrumbs breadcrumbs_ties model_stock passthrough "
     "magnitude_prune fedavg",
     CMD_CHANGES_OUTPUT, MERGE_OPT_METHOD},
    {0, "base", "MODEL", "what the models were made from", NULL, 0,
     MERGE_OPT_BASE},
    {0, "t", "X", "slerp: how far from the base to the model, 0 to 1", "0.5",
     CMD_CHANGES_OUTPUT, MERGE_OPT_T},
    {0, "density", "X", "part of the changes that is left, 0 to 1", "0.5",
     CMD_CHANGES_OUTPUT, MERGE_OPT_DENSITY},
    {0, "epsilon", "X", "della: how far chances are from the density", "0.15",
     CMD_CHANGES_OUTPUT, MERGE_OPT_EPSILON},
    {0, "gamma", "X", "breadcrumbs: part of the largest that goes", "0.01",
     CMD_CHANGES_OUTPUT, MERGE_OPT_GAMMA},
    {0, "lambda", "X", "what the sum of the changes is multiplied by", "1",
     CMD_CHANGES_OUTPUT, MERGE_OPT_LAMBDA},
    {0, "scale", "X", "passthrough: what the model is multiplied by", "1",
     CMD_CHANGES_OUTPUT, MERGE_OPT_SCALE},
    {0, "rescale", "HOW", "make up for what goes: none, norm or chance",
     "none norm chance", CMD_CHANGES_OUTPUT, MERGE_OPT_RESCALE},
    {0, "by-row", NULL, "model_stock: an angle for each row", NULL,
     CMD_CHANGES_OUTPUT, MERGE_OPT_BY_ROW},
    {0, "normalize", NULL, "divide by the sum of the weights", NULL,
     CMD_CHANGES_OUTPUT, MERGE_OPT_NORMALIZE},
    {0, "no-normalize", NULL, "do not, where the method does", NULL,
     CMD_CHANGES_OUTPUT, MERGE_OPT_NO_NORMALIZE},
    {0, "recipe", "FILE", "merge models as mergekit's YAML says", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_CONTENT, OPT_RECIPE},
    {0, "vocab", "WHICH", "whose tokens the output has: base or union",
     "base union", CMD_CHANGES_OUTPUT, OPT_VOCAB},
    {0, "residual-base", NULL,
     "the model is what PiSSA, OLoRA and the like left of it", NULL,
     CMD_CHANGES_OUTPUT, OPT_RESIDUAL},
    {0, "rank", "R", "adapters alone: reduce the sum to this rank", NULL,
     CMD_CHANGES_OUTPUT, OPT_RANK},
    {0, "energy", "E", "adapters alone: keep this part of the sum of squares",
     NULL, CMD_CHANGES_OUTPUT, OPT_ENERGY},
    {0, "allow-nonfinite", NULL, "accept NaN, Inf and values out of range",
     NULL, CMD_CHANGES_OUTPUT, OPT_NONFINITE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

static int set_vocab(struct merge_options *o, const char *value,
                     struct pq_error *e)
{
    o->vocab = strcmp(value, "base") == 0    ? MERGE_VOCAB_BASE
               : strcmp(value, "union") == 0 ? MERGE_VOCAB_UNION
                                             : MERGE_VOCAB_UNSAID;
    return o->vocab == MERGE_VOCAB_UNSAID
               ? pq_fail(e, PQ_EARG, "'%s' is neither base nor union", value)
               : 0;
}

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct merge_options *o = c->state;
    uint64_t rank;

    switch (id) {
    case OPT_TYPE:
        if (pq_spec_parse(value, &o->spec))
            return pq_fail(e, PQ_EARG, "unknown type '%s': one of %s", value,
                           pq_spec_types());
        o->type_given = true;
        o->type = value;
        return pq_spec_check(&o->spec, e);
    case OPT_RECIPE:
        o->recipe = value;
        return 0;
    case OPT_VOCAB:
        return set_vocab(o, value, e);
    case OPT_RESIDUAL:
        o->residual = true;
        return 0;
    case OPT_RANK:
        if (cmd_number(value, 1, 1u << 20, &rank, e))
            return -1;
        o->ranks.rank = (size_t)rank;
        return 0;
    case OPT_ENERGY:
        return cmd_real(value, 1e-6, 1, &o->ranks.energy, e);
    case OPT_NONFINITE:
        o->allow_nonfinite = true;
        return 0;
    default:
        return merge_set_option(o, id, value, e);
    }
}

/* ---- operands ---------------------------------------------------------- */

/* Opens in->path, which takes the place of operand i meanwhile. */
static int open_input(struct merge_job *j, size_t i, struct merge_input *in,
                      struct pq_error *e)
{
    struct cmd *c = j->c;
    const char *given = c->operands[i];

    c->operands[i] = in->path;
    const int rc = cmd_open_input(c, i, &in->source, e);
    c->operands[i] = given;
    if (rc)
        return -1;
    j->n_inputs++;
    in->adapter = pq_peft_is_adapter(in->source->catalog);
    return 0;
}

static int take_operand(struct merge_job *j, size_t i, struct pq_error *e)
{
    struct merge_input *in = &j->inputs[i];

    if (merge_split_weight(&j->arena, j->c->operands[i], in, e) ||
        open_input(j, i, in, e))
        return -1;
    if (in->adapter)
        return merge_read_adapter(j, in, e);
    j->n_models++;
    return 0;
}

/* --base, behind the operands. */
static int take_base(struct merge_job *j, struct pq_error *e)
{
    struct merge_input *in = &j->inputs[j->n_inputs];

    in->path = j->o->base;
    for (size_t i = 0; i < j->n_inputs && strcmp(in->path, "-") == 0; i++)
        if (strcmp(j->inputs[i].path, "-") == 0)
            return cmd_usage(j->c, "standard input may be given only once");
    if (open_input(j, 0, in, e))
        return -1;
    j->base = in;
    if (in->adapter)
        return pq_fail(e, PQ_EARG, "%s: is an adapter, and no base", in->path);
    return 0;
}

static int normalize(struct merge_job *j, struct pq_error *e)
{
    double sum = 0;

    for (size_t i = 0; i < j->n_inputs; i++)
        sum += j->inputs[i].adapter ? j->inputs[i].weight : 0;
    if (sum == 0)
        return pq_fail(e, PQ_EARG, "--normalize: the weights sum to 0");
    for (size_t i = 0; i < j->n_inputs; i++)
        j->inputs[i].weight /= sum;
    return 0;
}

static int take_operands(struct merge_job *j, struct pq_error *e)
{
    const struct cmd *c = j->c;

    if (c->n_operands == 0)
        return cmd_usage(c, "no model and no adapter is given");
    j->inputs = pq_zalloc(c->n_operands + 1, sizeof *j->inputs);
    if (!j->inputs)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_operands; i++)
        if (take_operand(j, i, e))
            return -1;
    return 0;
}

/* ---- the run ----------------------------------------------------------- */

/* A method of models makes its own of the weights. */
static int merge_adapters(struct merge_job *j, struct pq_error *e)
{
    const struct merge_options *o = j->o;
    const bool sum = !o->method || strcmp(o->method->name, "linear") == 0;

    if (merge_check_adapters(j) ||
        (sum && (o->normalize || o->fedavg) && normalize(j, e)))
        return -1;
    return merge_sum(j, e);
}

/* Which job it is. */
static int merge(struct merge_job *j, struct pq_error *e)
{
    const struct merge_options *o = j->o;

    if (o->recipe)
        return merge_recipe(j, e);
    if (take_operands(j, e))
        return -1;
    if (j->n_models == j->n_inputs) {
        if (o->fedavg || cmd_reduces(&o->ranks))
            return cmd_usage(j->c, "%s is for adapters alone",
                             o->fedavg ? "--method fedavg"
                             : o->ranks.rank ? "--rank" : "--energy");
        if (j->n_models == 1 && !o->method)
            return cmd_usage(j->c, "one model and nothing to merge it with");
        if (o->residual)
            return cmd_usage(j->c, "--residual-base is for adapters");
        return o->base && take_base(j, e) ? -1 : merge_blend(j, e);
    }
    if (j->n_models > 1)
        return pq_fail(e, PQ_EARG,
                       "%zu models and %zu adapter%s: fold adapters into their "
                       "model first, then merge the models",
                       j->n_models, j->n_inputs - j->n_models,
                       j->n_inputs - j->n_models > 1 ? "s" : "");
    if (j->n_models == 0)
        return merge_adapters(j, e);
    if (cmd_reduces(&o->ranks))
        return cmd_usage(j->c, "--rank and --energy are for adapters alone");
    if (merge_check_options(j, NULL) || (o->normalize && normalize(j, e)))
        return -1;
    return merge_fold(j, e);
}

static int run(struct cmd *c, struct pq_error *e)
{
    const struct merge_options *o = c->state;
    struct merge_job j = {.c = c, .o = o, .report = {.c = c, .type = o->type}};

    j.quant.kernels = c->kernels;
    j.quant.allow_nonfinite = o->allow_nonfinite;
    j.quant.measure = c->verbose > 0 || c->json;
    pq_catalog_init(&j.out);
    const int rc = merge(&j, e);
    merge_release(&j);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-merge llama/ lora/ -o llama-tuned/",
    "pq-merge --method ties --base llama/ --density 0.3 story/ code/ -o both/",
    NULL,
};

const struct pq_tool tool_merge = {
    .name = "merge",
    .purpose = "merge models, or adapters into a model",
    .synopsis = "[options] INPUT[:WEIGHT]...",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY | CMD_SEED,
    .max_operands = 1024,
    .examples = examples,
    .state_bytes = sizeof(struct merge_options),
    .option = option,
    .run = run,
};
