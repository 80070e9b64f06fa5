/*
 * pq-merge: adapters folded into a model, or put together.
 *
 * Operands are recognised by what they hold: one model and adapters
 * (cmd/common/merge_fold.c), adapters alone (merge_sum.c).
 */
#include "merge.h"

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

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct merge_options *o = c->state;

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
 * "PATH:WEIGHT" -> the path, which the job owns, and the weight; a file of
 * that very name wins.  What stands behind the last colon counts as a
 * weight only if it is a number.
 */
static int split_weight(struct merge_job *j, const char *operand,
                        struct merge_input *in, struct pq_error *e)
{
    const char *colon = strrchr(operand, ':');
    struct pq_error ignored = PQ_ERROR_INIT;
    size_t n = strlen(operand);

    in->weight = 1;
    in->weighted =
        colon && colon != operand && access(operand, F_OK) != 0 &&
        cmd_real(colon + 1, -1e6, 1e6, &in->weight, &ignored) == 0;
    if (in->weighted)
        n = (size_t)(colon - operand);
    in->path = pq_arena_strndup(&j->arena, operand, n);
    return in->path ? 0 : pq_fail_nomem(e);
}

static int take_adapter(struct merge_input *in, struct pq_error *e)
{
    if (in->source->sequential)
        return pq_fail(e, PQ_EARG,
                       "%s: an adapter cannot come from a pipe or a .pq "
                       "stream; convert it to a directory first",
                       in->source->name);
    return pq_peft_read(&in->peft, in->source, e);
}

static int take_operand(struct merge_job *j, size_t i, struct pq_error *e)
{
    struct cmd *c = j->c;
    struct merge_input *in = &j->inputs[i];
    const char *given = c->operands[i];

    if (split_weight(j, given, in, e))
        return -1;
    c->operands[i] = in->path;
    const int rc = cmd_open_input(c, i, &in->source, e);
    c->operands[i] = given;
    if (rc)
        return -1;
    j->n_inputs++;
    in->adapter = pq_peft_is_adapter(in->source->catalog);
    if (in->adapter)
        return take_adapter(in, e);
    j->n_models++;
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
    j->inputs = pq_zalloc(j->c->n_operands, sizeof *j->inputs);
    if (!j->inputs)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->c->n_operands; i++)
        if (take_operand(j, i, e))
            return -1;
    if (j->n_models > 1)
        return pq_fail(e, PQ_EARG,
                       "%zu operands are models: two models cannot be merged, "
                       "one model and adapters can",
                       j->n_models);
    if (j->n_models == j->n_inputs)
        return cmd_usage(j->c, "no adapter: give one model and adapters, or "
                               "adapters alone");
    return j->o->normalize ? normalize(j, e) : 0;
}

/* ---- the run ----------------------------------------------------------- */

static void release(struct merge_job *j)
{
    pq_sink_free(j->plan.sink);
    pq_plan_release(&j->plan);
    for (size_t i = 0; i < j->n_inputs; i++) {
        pq_peft_release(&j->inputs[i].peft);
        pq_source_free(j->inputs[i].source);
    }
    pq_catalog_release(&j->out);
    pq_buf_release(&j->report.json);
    pq_arena_release(&j->arena);
    free(j->inputs);
    free(j->sources);
}

static int run(struct cmd *c, struct pq_error *e)
{
    const struct merge_options *o = c->state;
    struct merge_job j = {.c = c, .o = o, .report = {.c = c, .type = o->type}};

    j.quant.kernels = c->kernels;
    j.quant.allow_nonfinite = o->allow_nonfinite;
    j.quant.measure = c->verbose > 0 || c->json;
    pq_catalog_init(&j.out);
    int rc = take_operands(&j, e);
    if (!rc)
        rc = j.n_models ? merge_fold(&j, e) : merge_sum(&j, e);
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
    .state_bytes = sizeof(struct merge_options),
    .option = option,
    .run = run,
};
