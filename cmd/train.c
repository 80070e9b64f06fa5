/*
 * pq-train: fine-tunes a model on the CPU.
 *
 * How a run is made of its parts is told in cmd/common/training.h; the
 * mathematics is in lib/pq_train.h.
 */
#include "training.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_DATA = 1, OPT_METHOD, OPT_RANK, OPT_ALPHA, OPT_TARGETS, OPT_STEPS,
    OPT_EPOCHS, OPT_BATCH, OPT_ACCUMULATE, OPT_LENGTH, OPT_PACK, OPT_IN_ORDER,
    OPT_LR, OPT_SCHEDULE, OPT_WARMUP, OPT_DECAY, OPT_MIN_LR, OPT_WEIGHT_DECAY,
    OPT_CLIP, OPT_DORA, OPT_RSLORA, OPT_INIT, OPT_PLUS, OPT_PROMPT_TOKENS,
    OPT_PROMPT_INIT, OPT_PROMPT_TEXT, OPT_SPARSITY, OPT_REGROW, OPT_VAL,
    OPT_VAL_EVERY, OPT_PATIENCE, OPT_RECOMPUTE, OPT_SHOW_MASK, OPT_PLOT,
    OPT_INIT_ADAPTER, OPT_SAVE_EVERY, OPT_RESUME, OPT_UNTIL, OPT_NEFTUNE,
    OPT_ROUND, OPT_NO_EOS
};

/* In the order of their enums. */
#define METHODS      "lora qlora full sparse prompt hybrid"
#define SCHEDULES    "constant linear cosine wsd"
#define INITS        "zero pissa random"
#define PROMPT_INITS "vocab text random"
#define ROUNDINGS    "f16 bf16 int8 nf4"

static const struct cmd_option options[] = {
    {'d', "data", "FILE", "what to train on: text, or JSONL", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_FILE, OPT_DATA},
    {0, "method", "M", "lora (default), qlora, full, sparse, prompt, hybrid",
     METHODS, CMD_CHANGES_OUTPUT, OPT_METHOD},
    {0, "steps", "N", "updates of the weights", "100 1000",
     CMD_CHANGES_OUTPUT, OPT_STEPS},
    {0, "epochs", "N", "times that the data are seen (default: 1)", "1 3",
     CMD_CHANGES_OUTPUT, OPT_EPOCHS},
    {0, "batch", "N", "texts that are run together (default: 8)", "1 8 32",
     CMD_CHANGES_OUTPUT, OPT_BATCH},
    {0, "accumulate", "N", "batches of an update (default: 1)", "1 4 16",
     CMD_CHANGES_OUTPUT, OPT_ACCUMULATE},
    {0, "seq-len", "N", "cut longer texts into pieces of N tokens",
     "256 512 1024", CMD_CHANGES_OUTPUT, OPT_LENGTH},
    {0, "pack", NULL, "fill batches with as many texts as have room", NULL,
     CMD_CHANGES_OUTPUT, OPT_PACK},
    {0, "no-eos", NULL, "do not end texts with the token for it", NULL,
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_NO_EOS},
    {0, "no-shuffle", NULL, "take texts in the order of the file", NULL,
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_IN_ORDER},
    {0, "lr", "X", "learning rate (default: by the method)",
     "5e-5 2e-4 1e-2", CMD_CHANGES_OUTPUT, OPT_LR},
    {0, "schedule", "S", "linear (default), cosine, constant or wsd",
     SCHEDULES, CMD_CHANGES_OUTPUT, OPT_SCHEDULE},
    {0, "warmup", "N", "steps in which the rate rises (default: 0)", "10 100",
     CMD_CHANGES_OUTPUT, OPT_WARMUP},
    {0, "decay", "N", "last steps in which that of wsd falls", "100",
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_DECAY},
    {0, "min-lr", "F", "part of the rate that remains (default: 0)", "0.1",
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_MIN_LR},
    {0, "weight-decay", "X", "of AdamW (default: 0)", "0.01 0.1",
     CMD_CHANGES_OUTPUT, OPT_WEIGHT_DECAY},
    {0, "clip", "X", "largest norm of the gradient, 0: any (default: 1)",
     "0 1", CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_CLIP},
    {0, "neftune", "A", "noise on embeddings of texts (default: none)",
     "5 10", CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_NEFTUNE},
    {'r', "rank", "R", "of LoRA (default: 8)", "4 8 16 32",
     CMD_CHANGES_OUTPUT, OPT_RANK},
    {0, "alpha", "A", "LoRA is scaled by A / R (default: twice the rank)",
     "16 32", CMD_CHANGES_OUTPUT, OPT_ALPHA},
    {0, "target-modules", "LIST",
     "layers with LoRA (default: all but the head)",
     "all-linear q_proj,v_proj", CMD_CHANGES_OUTPUT, OPT_TARGETS},
    {0, "dora", NULL, "train the length of weights apart (DoRA)", NULL,
     CMD_CHANGES_OUTPUT, OPT_DORA},
    {0, "rslora", NULL, "scale by A / sqrt(R)", NULL,
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_RSLORA},
    {0, "init", "I", "zero (default) or pissa for LoRA; random: a new model",
     INITS, CMD_CHANGES_OUTPUT, OPT_INIT},
    {0, "init-adapter", "DIR", "go on from this adapter", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_FILE, OPT_INIT_ADAPTER},
    {0, "lora-plus", "X", "rate of B in LoRA, as a multiple of that of A",
     "4 16", CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_PLUS},
    {0, "prompt-tokens", "N", "rows of the soft prompt (default: 16)",
     "8 16 32", CMD_CHANGES_OUTPUT, OPT_PROMPT_TOKENS},
    {0, "prompt-init", "I", "what it begins as (default: vocab)",
     PROMPT_INITS, CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_PROMPT_INIT},
    {0, "prompt-text", "TEXT", "of --prompt-init text", NULL,
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_PROMPT_TEXT},
    {'s', "sparsity", "S", "part of the weights that is zero in the end",
     "0.5 0.8", CMD_CHANGES_OUTPUT, OPT_SPARSITY},
    {0, "regrow", "F", "part of the rest that is chosen anew each time",
     "0.1 0.3", CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_REGROW},
    {0, "round", "T", "train for weights of type f16, bf16, int8 or nf4",
     ROUNDINGS, CMD_CHANGES_OUTPUT, OPT_ROUND},
    {0, "val", "FILE", "write the weights that are best on this", NULL,
     CMD_CHANGES_OUTPUT | CMD_ARG_FILE, OPT_VAL},
    {0, "val-every", "N", "steps between looks at it (default: a tenth)",
     "10 100", CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_VAL_EVERY},
    {0, "patience", "N", "stop after N looks without a better one", "3",
     CMD_CHANGES_OUTPUT | CMD_BRIEF, OPT_PATIENCE},
    {0, "save-every", "N", "steps after which output and state are written",
     "50 500", 0, OPT_SAVE_EVERY},
    {0, "resume", NULL, "go on from the state beside the output", NULL, 0,
     OPT_RESUME},
    {0, "until", "N", "end after step N, to be resumed", "50", CMD_BRIEF,
     OPT_UNTIL},
    {0, "recompute", NULL, "take less memory and more time", NULL, CMD_BRIEF,
     OPT_RECOMPUTE},
    {0, "show-mask", NULL, "print which tokens are trained on, and end", NULL,
     0, OPT_SHOW_MASK},
    {0, "plot", "FILE", "draw the losses (SVG)", NULL, CMD_BRIEF, OPT_PLOT},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

/* ---- values ------------------------------------------------------------- */

static int set_method(struct train_options *o, const char *value,
                      struct pq_error *e)
{
    int v;

    if (cmd_one_of(value, METHODS, &v, e))
        return -1;
    o->method = (enum train_method)v;
    return 0;
}

static int set_schedule(struct train_options *o, const char *value,
                        struct pq_error *e)
{
    int v;

    if (cmd_one_of(value, SCHEDULES, &v, e))
        return -1;
    o->shape = (enum pq_schedule_shape)v;
    o->shape_given = true;
    return 0;
}

static int set_init(struct train_options *o, const char *value,
                    struct pq_error *e)
{
    int v;

    if (cmd_one_of(value, INITS, &v, e))
        return -1;
    o->pissa = v == 1;
    o->fresh = v == 2;
    return 0;
}

static int set_prompt_init(struct train_options *o, const char *value,
                           struct pq_error *e)
{
    int v;

    if (cmd_one_of(value, PROMPT_INITS, &v, e))
        return -1;
    o->prompt_init = PROMPT_INIT_VOCAB + v;
    return 0;
}

static int set_rounding(struct train_options *o, const char *value,
                        struct pq_error *e)
{
    int v;

    if (cmd_one_of(value, ROUNDINGS, &v, e))
        return -1;
    o->rounds = true;
    return pq_spec_parse(value, &o->rounding);
}

static int positive(const char *value, double most, double *v,
                    struct pq_error *e)
{
    if (cmd_real(value, 0, most, v, e))
        return -1;
    return *v > 0 ? 0 : pq_fail(e, PQ_EARG, "must not be 0");
}

static int share(const char *value, double *v, struct pq_error *e)
{
    if (cmd_real(value, 0, 1, v, e))
        return -1;
    return *v < 1 ? 0 : pq_fail(e, PQ_EARG, "must be less than 1");
}

static int count(const char *value, uint64_t *v, struct pq_error *e)
{
    return cmd_number(value, 1, 1u << 30, v, e);
}

/* What is about the data and the steps; 1: is none of these. */
static int data_option(struct train_options *o, int id, const char *value,
                       struct pq_error *e)
{
    switch (id) {
    case OPT_DATA:       o->data = value; return 0;
    case OPT_VAL:        o->val = value; return 0;
    case OPT_PLOT:       o->plot = value; return 0;
    case OPT_STEPS:      return count(value, &o->steps, e);
    case OPT_EPOCHS:     return count(value, &o->epochs, e);
    case OPT_BATCH:      return cmd_number(value, 1, 65536, &o->batch, e);
    case OPT_ACCUMULATE: return cmd_number(value, 1, 65536, &o->accumulate, e);
    case OPT_LENGTH:     return cmd_number(value, 2, 1u << 24, &o->length, e);
    case OPT_PACK:       o->pack = true; return 0;
    case OPT_NO_EOS:     o->no_eos = true; return 0;
    case OPT_IN_ORDER:   o->in_order = true; return 0;
    case OPT_VAL_EVERY:  return count(value, &o->val_every, e);
    case OPT_PATIENCE:   return count(value, &o->patience, e);
    case OPT_SAVE_EVERY: return count(value, &o->save_every, e);
    case OPT_UNTIL:      return count(value, &o->until, e);
    case OPT_RESUME:     o->resume = true; return 0;
    case OPT_RECOMPUTE:  o->recompute = true; return 0;
    case OPT_SHOW_MASK:  o->show_mask = true; return 0;
    default:             return 1;
    }
}

/* What is about the optimiser. */
static int rate_option(struct train_options *o, int id, const char *value,
                       struct pq_error *e)
{
    switch (id) {
    case OPT_LR:           return positive(value, 1e30, &o->lr, e);
    case OPT_SCHEDULE:     return set_schedule(o, value, e);
    case OPT_WARMUP:       return cmd_number(value, 0, 1u << 30, &o->warmup, e);
    case OPT_DECAY:        return count(value, &o->decay, e);
    case OPT_MIN_LR:       return cmd_real(value, 0, 1, &o->least, e);
    case OPT_WEIGHT_DECAY: return cmd_real(value, 0, 1e3, &o->weight_decay, e);
    case OPT_CLIP:         return cmd_real(value, 0, 1e9, &o->clip, e);
    case OPT_NEFTUNE:      return positive(value, 1e6, &o->neftune, e);
    default:               return 1;
    }
}

/* What is about methods. */
static int method_option(struct train_options *o, int id, const char *value,
                         struct pq_error *e)
{
    switch (id) {
    case OPT_METHOD:        return set_method(o, value, e);
    case OPT_RANK:          return cmd_number(value, 1, 65536, &o->rank, e);
    case OPT_ALPHA:         return positive(value, 1e6, &o->alpha, e);
    case OPT_TARGETS:       o->target_list = value; return 0;
    case OPT_DORA:          o->dora = true; return 0;
    case OPT_RSLORA:        o->rslora = true; return 0;
    case OPT_INIT_ADAPTER:  o->init_adapter = value; return 0;
    case OPT_INIT:          return set_init(o, value, e);
    case OPT_PLUS:          return positive(value, 1e6, &o->plus, e);
    case OPT_PROMPT_TOKENS:
        return cmd_number(value, 1, 65536, &o->prompt_tokens, e);
    case OPT_PROMPT_INIT:   return set_prompt_init(o, value, e);
    case OPT_PROMPT_TEXT:   o->prompt_text = value; return 0;
    case OPT_SPARSITY:      return share(value, &o->sparsity.to, e);
    case OPT_ROUND:         return set_rounding(o, value, e);
    default:                return share(value, &o->sparsity.regrow, e);
    }
}

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct train_options *o = c->state;
    int rc = data_option(o, id, value, e);

    if (id == OPT_CLIP)
        o->clip_given = true;
    if (rc == 1)
        rc = rate_option(o, id, value, e);
    return rc == 1 ? method_option(o, id, value, e) : rc;
}

/* ---- what goes together ------------------------------------------------- */

static bool has_lora(const struct train_options *o)
{
    return o->method == TRAIN_LORA || o->method == TRAIN_QLORA ||
           o->method == TRAIN_HYBRID;
}

static bool whole(const struct train_options *o)
{
    return o->method == TRAIN_FULL || o->method == TRAIN_SPARSE;
}

static bool has_prompt(const struct train_options *o)
{
    return o->method == TRAIN_PROMPT || o->method == TRAIN_HYBRID;
}

/* --init random needs no more than a directory with config.json. */
static int check_fresh(struct cmd *c, const struct train_options *o)
{
    if (!o->fresh)
        return CMD_OK;
    if (!whole(o))
        return cmd_usage(c, "--init random is of methods full and sparse: "
                            "there is nothing yet to add an adapter to");
    if (c->n_operands == 0 || cmd_is_standard(c->operands[0]))
        return cmd_usage(c, "--init random needs a directory with "
                            "config.json");
    return CMD_OK;
}

static int check_method(struct cmd *c, const struct train_options *o)
{
    if (!has_lora(o) &&
        (o->rank || o->alpha > 0 || o->target_list || o->dora || o->rslora ||
         o->pissa || o->plus > 0))
        return cmd_usage(c, "--rank, --alpha, --target-modules, --dora, "
                            "--rslora, --init and --lora-plus are about "
                            "LoRA, which this method has not");
    if (!has_prompt(o) &&
        (o->prompt_tokens || o->prompt_init || o->prompt_text))
        return cmd_usage(c, "--prompt-tokens, --prompt-init and --prompt-text "
                            "are about soft prompts, which this method has "
                            "not");
    if ((o->prompt_init == PROMPT_INIT_TEXT) != (o->prompt_text != NULL))
        return cmd_usage(c, "--prompt-init text and --prompt-text go "
                            "together");
    if (o->method == TRAIN_SPARSE && !(o->sparsity.to > 0))
        return cmd_usage(c, "say with --sparsity what part is to be zero");
    if (o->method != TRAIN_SPARSE &&
        (o->sparsity.to > 0 || o->sparsity.regrow > 0 || o->rounds))
        return cmd_usage(c, "--sparsity, --regrow and --round are of --method "
                            "sparse");
    if (o->init_adapter && (whole(o) || o->method == TRAIN_HYBRID))
        return cmd_usage(c, "--init-adapter is of methods lora, qlora and "
                            "prompt");
    if (o->init_adapter &&
        (o->rank || o->alpha > 0 || o->target_list || o->dora || o->rslora ||
         o->pissa || o->prompt_tokens || o->prompt_init))
        return cmd_usage(c, "--init-adapter already says the rank, the scale, "
                            "the layers and the rows: leave those options "
                            "out");
    if (o->dora && o->pissa)
        return cmd_usage(c, "--dora and --init pissa do not go together");
    return CMD_OK;
}

static int check(struct cmd *c, const struct train_options *o)
{
    const bool standard = !c->output || cmd_is_standard(c->output);

    if (!o->data)
        return cmd_usage(c, "say with -d what to train on");
    if (cmd_check_data(c, o->data))
        return CMD_TROUBLE;
    if (cmd_is_standard(o->val))
        return cmd_usage(c, "--val needs a file");
    if (o->steps && o->epochs)
        return cmd_usage(c, "give one of --steps and --epochs");
    if (o->decay && o->shape != PQ_SCHEDULE_WSD)
        return cmd_usage(c, "--decay is of --schedule wsd");
    if (!o->val && (o->val_every || o->patience))
        return cmd_usage(c, "--val-every and --patience need --val");
    if (standard && !o->show_mask && (c->json || o->method == TRAIN_HYBRID) &&
        !c->dry_run)
        return cmd_usage(c, "say with -o where the result goes");
    if (standard && (o->save_every || o->resume || o->until))
        return cmd_usage(c, "--save-every, --resume and --until need -o");
    if (cmd_is_standard(o->plot))
        return cmd_usage(c, "--plot needs a file");
    return check_method(c, o) || check_fresh(c, o) ? CMD_TROUBLE : CMD_OK;
}

/* "q_proj,v_proj"; "all-linear" is what is done without the option. */
static int set_targets(struct cmd *c, struct train_options *o,
                       struct pq_error *e)
{
    const char *at = o->target_list;

    if (!at || strcmp(at, "all-linear") == 0)
        return 0;
    for (;; at++) {
        const size_t n = strcspn(at, ",");
        if (n == 0)
            return cmd_usage(c, "--target-modules: has an empty name");
        const char *word = pq_arena_strndup(&o->words, at, n);
        if (!word)
            return pq_fail_nomem(e);
        if (cmd_list_add(&o->targets, word, e))
            return -1;
        at += n;
        if (!*at)
            return 0;
    }
}

static void set_defaults(struct train_options *o)
{
    o->epochs = o->epochs || o->steps ? o->epochs : 1;
    o->batch = o->batch ? o->batch : 8;
    o->accumulate = o->accumulate ? o->accumulate : 1;
    o->rank = o->rank ? o->rank : 8;
    o->alpha = o->alpha > 0 ? o->alpha : 2 * (double)o->rank;
    if (!(o->lr > 0))
        o->lr = whole(o)                      ? 5e-5
                : o->method == TRAIN_PROMPT ? 1e-2
                                            : 2e-4;
    o->shape = o->shape_given ? o->shape : PQ_SCHEDULE_LINEAR;
    o->clip = o->clip_given ? o->clip : 1;
    if (has_prompt(o) && !o->prompt_tokens && !o->prompt_text &&
        !o->init_adapter)
        o->prompt_tokens = 16;
}

/* ---- the run ------------------------------------------------------------ */

static int work(struct train *t, struct pq_error *e)
{
    if (train_open(t, e))
        return -1;
    if (t->o->show_mask)
        return train_show_mask(t, e);
    if (t->c->dry_run)
        return train_save(t, e);
    if (train_try(t, e) || train_run(t, e) || train_save(t, e))
        return -1;
    if (t->unsaved.code) {
        *e = t->unsaved;
        return -1;
    }
    return t->o->plot ? train_log_plot(&t->log, t->o->plot, e) : 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct train_options *o = c->state;
    struct train t = {.c = c, .o = o, .log = {.c = c}};

    if (check(c, o))
        return CMD_TROUBLE;
    set_defaults(o);
    const int rc = set_targets(c, o, e) ||
                   (o->plot && cmd_check_beside(c, o->plot, e)) ||
                   work(&t, e);
    train_close(&t);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static void release(void *state)
{
    struct train_options *o = state;

    free(o->targets.items);
    pq_arena_release(&o->words);
}

static const char *const examples[] = {
    "pq-train -d ids.jsonl --rank 16 --epochs 3 -o lora/ llama/",
    "pq-train --method full --json --steps 20 -d ids.jsonl -o tuned/ llama/",
    NULL,
};

const struct pq_tool tool_train = {
    .name = "train",
    .purpose = "fine-tune a model on the CPU",
    .synopsis = "[options] -d DATA [MODEL]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_ENGINE | CMD_JSON | CMD_SEED |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct train_options),
    .option = option,
    .run = run,
    .release = release,
};
