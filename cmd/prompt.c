/*
 * pq-prompt: what a soft prompt has learned; the mean of several; a model
 * that has it as tokens.
 *
 * How that is done is told in cmd/common/prompt.h.
 */
#include "prompt.h"

#include <string.h>

enum {
    OPT_MODEL = 1, OPT_DATA, OPT_TOP, OPT_AVERAGE, OPT_EXPORT,
    OPT_PLOT
};

static const struct cmd_option options[] = {
    {0, "model", "MODEL", "the model that the prompt is for", NULL,
     0, OPT_MODEL},
    {'d', "data", "FILE", "tell losses on this: a text, or JSONL", NULL, 0,
     OPT_DATA},
    {0, "top", "N", "how many nearest tokens are told (default: 3)", "1 5",
     0, OPT_TOP},
    {0, "average", NULL, "write the mean of several prompts", NULL,
     CMD_CHANGES_OUTPUT, OPT_AVERAGE},
    {0, "export-tokens", NULL, "write MODEL with the prompt as new tokens",
     NULL, CMD_CHANGES_OUTPUT, OPT_EXPORT},
    {0, "plot", "FILE", "draw the cosines among its tokens (SVG)", NULL, 0,
     OPT_PLOT},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct prompt_options *o = c->state;

    switch (id) {
    case OPT_MODEL:
        o->model = value;
        return 0;
    case OPT_DATA:
        o->data = value;
        return 0;
    case OPT_TOP:
        return cmd_number(value, 1, 100, &o->top, e);
    case OPT_AVERAGE:
        o->average = true;
        return 0;
    case OPT_PLOT:
        o->plot = value;
        return 0;
    default:
        o->export = true;
        return 0;
    }
}

/* ---- what goes together ------------------------------------------------- */

static int check_inputs(struct cmd *c, const struct prompt_options *o)
{
    if (cmd_input_is_stdin(c) + cmd_is_standard(o->model) +
            cmd_is_standard(o->data) >
        1)
        return cmd_usage(c, "only one of prompt, model and data can be "
                            "standard input");
    if (o->data && !o->model)
        return cmd_usage(c, "-d needs --model, whose losses it tells");
    if (o->top && !o->model)
        return cmd_usage(c, "--top needs --model, whose tokens it tells");
    if (c->n_operands > 1 && !o->average)
        return cmd_usage(c, "one prompt at a time, but for --average");
    return CMD_OK;
}

static int check(struct cmd *c, const struct prompt_options *o)
{
    const bool writes = o->average || o->export;

    if (o->average && o->export)
        return cmd_usage(c, "--average and --export-tokens write different "
                            "things: one after the other");
    if (o->average && c->n_operands < 2)
        return cmd_usage(c, "--average needs several prompts");
    if (o->average && o->model)
        return cmd_usage(c, "--average needs no --model");
    if (o->export && !o->model)
        return cmd_usage(c, "--export-tokens needs --model");
    if (writes && (o->data || o->top || o->plot))
        return cmd_usage(c, "-d, --top and --plot tell of a prompt, and here "
                            "one is written");
    if (cmd_is_standard(o->plot))
        return cmd_usage(c, "--plot needs a file");
    if (!writes && (c->output || c->output_format || c->force || c->dry_run ||
                    !c->sync || !c->provenance))
        return cmd_usage(c, "what is about an output needs --average or "
                            "--export-tokens");
    return check_inputs(c, o);
}

/* ---- the run ------------------------------------------------------------ */

static int tell(struct prompt *p, struct pq_error *e)
{
    if (prompt_measure(p, e) || (p->o->model && prompt_search(p, e)) ||
        (p->o->data && prompt_losses(p, e)))
        return -1;
    if (p->o->plot && prompt_plot(p, e))
        return -1;
    return prompt_report(p, e);
}

static int work(struct prompt *p, struct pq_error *e)
{
    if (prompt_open(p, e) || (p->o->model && prompt_open_model(p, e)))
        return -1;
    if (p->o->average)
        return prompt_write_average(p, e);
    return p->o->export ? prompt_write_model(p, e) : tell(p, e);
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct prompt_options *o = c->state;
    struct prompt p = {.c = c, .o = o};

    if (check(c, o))
        return CMD_TROUBLE;
    o->top = o->top ? o->top : 3;
    const int rc = (o->plot && (cmd_check_beside(c, o->plot, e) ||
                                cmd_check_spares(o->plot, o->model, e) ||
                                cmd_check_spares(o->plot, o->data, e))) ||
                   work(&p, e);
    prompt_close(&p);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-prompt --model llama/ -d ids.jsonl prompt/",
    "pq-prompt --export-tokens --model llama/ -o llama-prompt/ prompt/",
    NULL,
};

const struct pq_tool tool_prompt = {
    .name = "prompt",
    .purpose = "inspect, average and export soft prompts",
    .synopsis = "[options] [PROMPT]...",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1024,
    .examples = examples,
    .state_bytes = sizeof(struct prompt_options),
    .option = option,
    .run = run,
};
