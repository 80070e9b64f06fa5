/*
 * pq-extract: the adapter between a model and one that was tuned from it, or
 * an adapter made from another.
 *
 *     D = TUNED - BASE ~ B A, with few columns in B
 *
 * The models are read a few times and never held; how, is told in
 * cmd/common/extract.h and lib/pq_lowrank.h.  What is made of adapters is
 * cmd/common/resize.h.
 */
#include "extract.h"
#include "pq_quant.h"
#include "resize.h"

#include <stdlib.h>

enum {
    OPT_RANK = 1, OPT_ENERGY, OPT_ERROR, OPT_SIZE, OPT_MAX_RANK,
    OPT_EMBEDDINGS, OPT_RESIZE, OPT_PLAIN, OPT_TYPE
};

static const struct cmd_option options[] = {
    {'r', "rank", "R", "the rank of every matrix", "4 8 16 32 64",
     CMD_CHANGES_OUTPUT, OPT_RANK},
    {0, "energy", "E", "of each difference keep the part E, 0 to 1",
     "0.9 0.99 0.999", CMD_CHANGES_OUTPUT, OPT_ENERGY},
    {0, "max-error", "X", "leave at most X of each, in the Frobenius norm",
     "0.1 0.03 0.01", CMD_CHANGES_OUTPUT, OPT_ERROR},
    {0, "max-size", "S", "ranks where they pay most, S bytes in all",
     "16M 64M", CMD_CHANGES_OUTPUT, OPT_SIZE},
    {0, "max-rank", "N", "what needs more is saved as it is (default: 256)",
     "64 128 256", CMD_CHANGES_OUTPUT, OPT_MAX_RANK},
    {0, "embeddings", NULL, "factor embeddings too, else they are saved whole",
     NULL, CMD_CHANGES_OUTPUT, OPT_EMBEDDINGS},
    {0, "resize", NULL, "of an ADAPTER, make one of other ranks", NULL,
     CMD_CHANGES_OUTPUT, OPT_RESIZE},
    {0, "plain", NULL, "of an ADAPTER of any kind, make a plain LoRA", NULL,
     CMD_CHANGES_OUTPUT, OPT_PLAIN},
    {'t', "type", "TYPE", "of the factors (default: f32)", "f32 f16 bf16",
     CMD_CHANGES_OUTPUT, OPT_TYPE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

static int set_type(struct extract_options *o, const char *value,
                    struct pq_error *e)
{
    struct pq_spec s;

    if (pq_spec_parse(value, &s) || s.encoding != PQ_PLAIN ||
        (s.dtype != PQ_F32 && s.dtype != PQ_F16 && s.dtype != PQ_BF16))
        return pq_fail(e, PQ_EARG, "'%s': an adapter is f32, f16 or bf16",
                       value);
    o->type_given = true;
    o->dtype = s.dtype;
    return 0;
}

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct extract_options *o = c->state;
    uint64_t n = 0;
    int rc = 0;

    switch (id) {
    case OPT_RANK:
        rc = cmd_number(value, 1, 65536, &n, e);
        o->rank = (size_t)n;
        return rc;
    case OPT_ENERGY:
        rc = cmd_real(value, 0, 1, &o->energy, e);
        return rc || o->energy > 0 ? rc : pq_fail(e, PQ_EARG, "must not be 0");
    case OPT_ERROR:
        rc = cmd_real(value, 0, 1, &o->max_error, e);
        return rc || (o->max_error > 0 && o->max_error < 1)
                   ? rc
                   : pq_fail(e, PQ_EARG, "must be between 0 and 1");
    case OPT_SIZE:
        rc = cmd_size(value, &o->max_size, e);
        return rc || o->max_size ? rc : pq_fail(e, PQ_EARG, "must not be 0");
    case OPT_MAX_RANK:
        rc = cmd_number(value, 1, 65536, &n, e);
        o->max_rank = (size_t)n;
        return rc;
    case OPT_EMBEDDINGS:
        o->embeddings = true;
        return 0;
    case OPT_RESIZE:
        o->resize = true;
        return 0;
    case OPT_PLAIN:
        o->plain = true;
        return 0;
    default:
        return set_type(o, value, e);
    }
}

static void release(struct extract *x)
{
    pq_sink_free(x->plan.sink);
    pq_plan_release(&x->plan);
    pq_ranking_release(&x->ranking);
    if (x->plain_a != x->a)
        pq_source_free(x->plain_a);
    if (x->plain_b != x->b)
        pq_source_free(x->plain_b);
    pq_source_free(x->a);
    pq_source_free(x->b);
    pq_names_release(&x->matrices);
    pq_names_release(&x->saved);
    pq_catalog_release(&x->out);
    pq_arena_release(&x->arena);
    free(x->pairs);
}

static int count_goals(const struct extract_options *o)
{
    return (o->rank > 0) + (o->energy > 0) + (o->max_error > 0) +
           (o->max_size > 0);
}

/* --resize and --plain: the operand is an adapter. */
static int run_adapter(struct cmd *c, const struct extract_options *o,
                       struct pq_error *e)
{
    const struct cmd_resize_options r = {
        .plain = o->plain,
        .dtype = o->type_given ? o->dtype : PQ_F32,
        .ranks = {.rank = o->rank, .energy = o->energy,
                  .max_error = o->max_error, .bytes = o->max_size}};

    if (o->resize && o->plain)
        return cmd_usage(c, "--plain changes ranks, too: leave out --resize");
    if (o->max_rank || o->embeddings || c->match.n || c->exclude.n)
        return cmd_usage(c, "of an adapter, --max-rank, --embeddings, -m and "
                            "-x have no say");
    if (o->plain ? c->n_operands < 1 || c->n_operands > 2 : c->n_operands != 1)
        return cmd_usage(c, o->plain ? "operands are ADAPTER and, if it "
                                       "needs one, BASE"
                                     : "one operand is needed: ADAPTER");
    if (count_goals(o) > 1 || (o->resize && count_goals(o) == 0))
        return cmd_usage(c, "give one of --rank, --energy, --max-error and "
                            "--max-size");
    return cmd_resize(c, &r, e);
}

static int check_options(struct cmd *c, struct extract_options *o)
{
    const int goals = count_goals(o);

    if (c->n_operands != 2)
        return cmd_usage(c, "two operands are needed: BASE and TUNED");
    if (goals != 1)
        return cmd_usage(c, "give one of --rank, --energy, --max-error and "
                            "--max-size");
    if (o->rank && o->max_rank)
        return cmd_usage(c, "--max-rank says nothing beside --rank");
    if (!o->max_rank)
        o->max_rank = 256;
    if (!o->type_given)
        o->dtype = PQ_F32;
    return CMD_OK;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct extract_options *o = c->state;
    struct extract x = {.c = c, .o = o, .quant = {.kernels = c->kernels}};

    if (o->resize || o->plain)
        return run_adapter(c, o, e);
    if (check_options(c, o) != CMD_OK)
        return CMD_TROUBLE;
    pq_catalog_init(&x.out);
    const int rc = extract_compare(&x, e) || extract_find_ranks(&x, e) ||
                   extract_write(&x, e) || extract_report(&x, e);
    release(&x);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-extract llama/ llama-tuned/ --rank 16 -o lora/",
    "pq-extract llama/ llama-tuned/ --max-size 50M -t bf16 -v -o lora/",
    NULL,
};

const struct pq_tool tool_extract = {
    .name = "extract",
    .purpose = "find the adapter between two models",
    .synopsis = "[options] BASE TUNED | ADAPTER [BASE]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE | CMD_JSON |
              CMD_SEED | CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 2,
    .examples = examples,
    .state_bytes = sizeof(struct extract_options),
    .option = option,
    .run = run,
};
