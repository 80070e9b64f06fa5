/*
 * pq-prune: the smallest weights to zero, or parts of the model out.
 *
 * It takes the weights of linear layers and leaves embeddings, the output
 * head, norms and biases as they are, unless -m names them.
 */
#include "prune.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_SPARSITY = 1,
    OPT_SCOPE,
    OPT_PATTERN,
    OPT_BLOCKS,
    OPT_THRESHOLD,
    OPT_RULE,
    OPT_RULES,
    OPT_SCHEDULE,
    OPT_NONFINITE,
    OPT_METHOD,
    OPT_NORMS,
    OPT_HESSIAN,
    OPT_MASK,
    OPT_MASK_OP,
    OPT_MASK_OUT
};

static const struct cmd_option options[] = {
    {'s', "sparsity", "S", "which part of the weights goes, 0 to 1",
     "0.25 0.5 0.75", CMD_CHANGES_OUTPUT, OPT_SPARSITY},
    {0, "scope", "SCOPE", "among which weights: global, tensor (default), row",
     "global tensor row", CMD_CHANGES_OUTPUT, OPT_SCOPE},
    {0, "pattern", "N:M", "N of each M weights along the input stay",
     "2:4 4:8 1:4", CMD_CHANGES_OUTPUT, OPT_PATTERN},
    {0, "blocks", "RxC", "whole blocks go, those of the smallest sums",
     "4x4 8x8 16x16", CMD_CHANGES_OUTPUT, OPT_BLOCKS},
    {0, "threshold", "X", "what is smaller than X goes", "",
     CMD_CHANGES_OUTPUT, OPT_THRESHOLD},
    {0, "rule", "GLOB=S", "another S, N:M or keep for some tensors", "",
     CMD_CHANGES_OUTPUT | CMD_REPEATS, OPT_RULE},
    {0, "rules", "FILE", "read such rules from a file, one a line", NULL,
     CMD_CHANGES_OUTPUT | CMD_REPEATS | CMD_ARG_CONTENT, OPT_RULES},
    {0, "norms", "FILE", "compare |w| times the norms of inputs (wanda)", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_FILE, OPT_NORMS},
    {0, "hessian", "FILE", "update what stays, by inputs (sparsegpt)", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_FILE, OPT_HESSIAN},
    {0, "method", "METHOD", "magnitude, wanda or sparsegpt; the files say it",
     "magnitude wanda sparsegpt", CMD_CHANGES_OUTPUT, OPT_METHOD},
    {0, "mask", "FILE", "what this mask does not keep goes", NULL,
     CMD_CHANGES_OUTPUT | CMD_REPEATS | CMD_ARG_FILE, OPT_MASK},
    {0, "mask-op", "OP", "kept is what all keep (and, default) or any (or)",
     "and or", CMD_CHANGES_OUTPUT, OPT_MASK_OP},
    {0, "mask-out", "FILE", "write what is kept, one bit a weight", NULL, 0,
     OPT_MASK_OUT},
    {0, "schedule", "N", "print the S of N steps to -s and prune nothing", "",
     0, OPT_SCHEDULE},
    {0, "allow-nonfinite", NULL, "accept NaN, as larger than all else", NULL,
     CMD_CHANGES_OUTPUT, OPT_NONFINITE},
    {0, "drop-layers", "LIST", "take layers out, as 20-23,27", "",
     CMD_CHANGES_OUTPUT, SHRINK_OPT_LAYERS},
    {0, "drop-heads", "LIST", "take heads out, LAYERS:HEADS,...", "",
     CMD_CHANGES_OUTPUT, SHRINK_OPT_HEADS},
    {0, "drop-channels", "F", "take out F of the MLPs' channels, the least",
     "0.1 0.25 0.5", CMD_CHANGES_OUTPUT, SHRINK_OPT_CHANNELS},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

static int set_scope(struct prune_options *o, const char *value,
                     struct pq_error *e)
{
    o->scope = true;
    if (strcmp(value, "global") == 0)
        o->how.scope = PQ_PRUNE_POOL;
    else if (strcmp(value, "row") == 0)
        o->how.scope = PQ_PRUNE_ROW;
    else if (strcmp(value, "tensor") == 0)
        o->how.scope = PQ_PRUNE_TENSOR;
    else
        return pq_fail(e, PQ_EARG,
                       "unknown scope '%s': one of global tensor row", value);
    return 0;
}

static int set_blocks(struct prune_options *o, const char *value,
                      struct pq_error *e)
{
    const char *x = strchr(value, 'x');
    char rows[24] = "";

    if (!x || (size_t)(x - value) >= sizeof rows)
        return pq_fail(e, PQ_EARG, "'%s' is not RxC, as in 16x16", value);
    memcpy(rows, value, (size_t)(x - value));
    return cmd_number(rows, 1, UINT32_MAX, &o->how.block_rows, e) ||
                   cmd_number(x + 1, 1, UINT32_MAX, &o->how.block_cols, e)
               ? -1
               : 0;
}

static int set_threshold(struct prune_options *o, const char *value,
                         struct pq_error *e)
{
    double x;

    if (cmd_real(value, 0, 3e38, &x, e))
        return -1;
    o->threshold = true;
    o->how.threshold = (float)x;
    return 0;
}

static int set_mask_op(struct prune_options *o, const char *value,
                       struct pq_error *e)
{
    o->mask_op_given = true;
    o->mask_op = strcmp(value, "or") == 0 ? PQ_MASK_OR : PQ_MASK_AND;
    if (o->mask_op == PQ_MASK_AND && strcmp(value, "and") != 0)
        return pq_fail(e, PQ_EARG, "unknown --mask-op '%s': one of and or",
                       value);
    return 0;
}

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct prune_options *o = c->state;
    struct pq_prune pattern;

    switch (id) {
    case OPT_SPARSITY:
        o->sparsity = true;
        return prune_sparsity(value, &o->how.sparsity, e);
    case OPT_SCOPE:
        return set_scope(o, value, e);
    case OPT_PATTERN:
        o->pattern = true;
        if (prune_pattern(value, &pattern, e))
            return -1;
        o->how.n = pattern.n;
        o->how.m = pattern.m;
        return 0;
    case OPT_BLOCKS:
        return set_blocks(o, value, e);
    case OPT_THRESHOLD:
        return set_threshold(o, value, e);
    case OPT_RULE:
        return cmd_rules_add(&o->rules, value, e);
    case OPT_RULES:
        return cmd_rules_read(&o->rules, c, value, e);
    case OPT_METHOD:
        return prune_method(value, o, e);
    case OPT_MASK:
        return cmd_list_add(&o->masks, value, e);
    case OPT_MASK_OP:
        return set_mask_op(o, value, e);
    case OPT_MASK_OUT:
        o->mask_out = value;
        return 0;
    case OPT_NORMS:
        o->norms = value;
        return 0;
    case OPT_HESSIAN:
        o->hessian = value;
        return 0;
    case OPT_SCHEDULE:
        return prune_schedule_parse(value, &o->schedule, e);
    case SHRINK_OPT_LAYERS:
    case SHRINK_OPT_HEADS:
    case SHRINK_OPT_CHANNELS:
        return shrink_option(&o->shrink, (enum shrink_option_id)id, value, e);
    default:
        o->allow_nonfinite = true;
        return 0;
    }
}

/* ---- the run ------------------------------------------------------------- */

static int take_out(struct cmd_job *base, struct pq_error *e)
{
    struct prune_job *j = (struct prune_job *)base;

    return shrink_job(&j->shrink, base, &j->o->shrink, e);
}

static int declare(struct cmd_job *base, struct pq_error *e)
{
    struct prune_job *j = (struct prune_job *)base;
    const struct pq_catalog *in = base->in->catalog;

    if (prune_open_data(j, e) || prune_open_masks(j, e) ||
        prune_choose(j, e) ||
        pq_catalog_copy_meta(&base->out, in, e))
        return -1;
    for (size_t i = 0; i < in->n_tensors; i++)
        if (!pq_tensor_copy(&base->out, &in->tensors[i], e))
            return pq_error_in(e, "%s", base->in->name);
    prune_warn(j);
    return 0;
}

static int add_steps(struct cmd_job *base, struct pq_error *e)
{
    struct prune_job *j = (struct prune_job *)base;
    const struct pq_catalog *in = base->in->catalog;

    if (prune_make_mask(j, e) || prune_find(j, e))
        return -1;
    for (size_t i = 0; i < in->n_tensors; i++) {
        const struct pq_tensor *t = &in->tensors[i];
        if (!j->choices[i].prune) {
            if (pq_step_copy(&base->plan, base->in, t, i, e))
                return -1;
            continue;
        }
        const struct prune_choice *d = &j->choices[i];
        struct pq_step *s =
            d->sparsegpt.source
                ? pq_step_sparsegpt(&base->plan, base->in, t, i, &d->sparsegpt,
                                    &j->pruning, e)
                : pq_step_prune(&base->plan, base->in, t, i, &d->how,
                                &j->pruning, e);
        if (!s)
            return -1;
        s->user = &base->report;
    }
    return 0;
}

static int prune(struct cmd *c, struct prune_options *o, struct pq_error *e)
{
    struct prune_job j = {
        .base = {.c = c,
                 .view = shrink_asked(&o->shrink) ? take_out : NULL,
                 .declare = declare,
                 .add_steps = add_steps,
                 .keep = prune_keeps,
                 .measured = o->all || o->rules.n || o->masks.n},
        .o = o,
        .pruning = {.kernels = c->kernels,
                    .allow_nonfinite = o->allow_nonfinite,
                    .measure = c->verbose > 0 || c->json,
                    .report = prune_report},
    };

    const int status = cmd_job_run(&j.base, e);
    prune_release(&j);
    prune_release_data(&j);
    prune_release_masks(&j);
    shrink_release(&j.shrink);
    return status;
}

/* Which of the ways to say what goes was meant; 0, or a usage error. */
static int settle_options(struct cmd *c, struct prune_options *o)
{
    const int ways = o->sparsity + o->pattern + o->threshold;
    const bool picks = ways > 0 || o->rules.n > 0 || o->masks.n > 0;

    if (ways > 1)
        return cmd_usage(c, "-s, --pattern and --threshold do not go together");
    if (!picks && !shrink_asked(&o->shrink))
        return cmd_usage(c, "say what goes: -s S, --pattern N:M, --threshold "
                            "X, rules, masks, or layers, heads, channels");
    if (!picks && (c->match.n || c->exclude.n))
        return cmd_usage(c, "-m and -x have no say in which layers, heads and "
                            "channels go");
    if (o->schedule.n && (!o->sparsity || c->n_operands || c->output))
        return cmd_usage(c, "--schedule goes with -s, without MODEL and -o");
    if (!o->sparsity && o->scope)
        return cmd_usage(c, "--scope goes with -s");
    if (!o->sparsity && o->how.block_rows)
        return cmd_usage(c, "--blocks goes with -s");
    if (o->how.block_rows && o->how.scope == PQ_PRUNE_ROW)
        return cmd_usage(c, "--blocks does not go with --scope row");
    int status = prune_settle_data(c, o);
    if (!status)
        status = prune_settle_masks(c, o, ways > 0 || o->rules.n > 0);
    if (status)
        return status;
    o->all = ways > 0;
    if (o->pattern)
        o->how.scope = PQ_PRUNE_GROUPS;
    else if (o->threshold)
        o->how.scope = PQ_PRUNE_BELOW;
    return 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct prune_options *o = c->state;
    int status = settle_options(c, o);

    if (!status && o->schedule.n)
        prune_schedule_print(&o->schedule, o->how.sparsity, c->json);
    else if (!status)
        status = prune_check_rules(o, e) ? CMD_TROUBLE : prune(c, o, e);
    return status;
}

static void release(void *state)
{
    struct prune_options *o = state;

    cmd_rules_release(&o->rules);
    free(o->masks.items);
}

static const char *const examples[] = {
    "pq-prune -s 0.5 llama/ -o llama-half/",
    "pq-prune --pattern 2:4 model.safetensors | pq-convert -z -o model.pq",
    NULL,
};

const struct pq_tool tool_prune = {
    .name = "prune",
    .purpose = "set the smallest weights to zero, or take parts out",
    .synopsis = "-s S | --drop-... [options] [MODEL]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct prune_options),
    .option = option,
    .run = run,
    .release = release,
};
