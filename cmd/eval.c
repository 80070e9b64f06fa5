/*
 * pq-eval: how well does a model know a text?
 *
 * Each text is run through the model; of each of its tokens but the first the
 * likelihood is known.  A text longer than the window is cut:
 *
 *     |---- window ----|
 *            |---- window ----|
 *                   |---- window ----|
 *      ======                            scored in the first: all that count
 *                       ======           in the others: what is new
 *
 * Windows are `stride` tokens apart, so a token sees at least window - stride
 * others.  Every token but the first of a text, or every one of a completion,
 * is scored once; the mean is over tokens.  Of a question the right choice
 * counts.
 */
#include "eval.h"
#include "adapted.h"
#include "made.h"
#include "merge.h"
#include "pq_made.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_DATA = 1,
    OPT_WINDOW,
    OPT_STRIDE,
    OPT_MAX_PPL,
    OPT_PER_TOKEN,
    OPT_LOGITS,
    OPT_AGAINST,
    OPT_ADAPTER,
    OPT_TOKENS,
    OPT_NORMS,
    OPT_HESSIAN,
    OPT_IMATRIX
};

static const struct cmd_option options[] = {
    {'d', "data", "FILE", "what to score: JSONL or a text", NULL, 0, OPT_DATA},
    {0, "window", "N", "run at most N tokens at a time", NULL, 0, OPT_WINDOW},
    {0, "stride", "N", "from a window to the next; default half of it", NULL, 0,
     OPT_STRIDE},
    {0, "per-token", NULL, "the likelihood of every token, too", NULL, 0,
     OPT_PER_TOKEN},
    {0, "max-ppl", "X", "exit status 1 if the perplexity is above X", NULL, 0,
     OPT_MAX_PPL},
    {0, "against", "MODEL", "how far from MODEL: KL divergence, same choices",
     NULL, 0, OPT_AGAINST},
    {0, "adapter", "DIR", "with an adapter; DIR:WEIGHT for a part of it", NULL,
     CMD_REPEATS, OPT_ADAPTER},
    {0, "tokens", NULL, "print the token ids of the texts, and score nothing",
     NULL, 0, OPT_TOKENS},
    {0, "logits", "FILE", "write the logits: logits.0, logits.1, ...", NULL, 0,
     OPT_LOGITS},
    {0, "norms-out", "FILE", "write the norms of inputs, for pq-prune --norms",
     NULL, 0, OPT_NORMS},
    {0, "hessian-out", "FILE", "write their products, for pq-prune --hessian",
     NULL, 0, OPT_HESSIAN},
    {0, "imatrix-out", "FILE", "write their squares, for llama-quantize", NULL,
     0, OPT_IMATRIX},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct eval_options *o = c->state;

    switch (id) {
    case OPT_DATA:
        o->data = value;
        return 0;
    case OPT_WINDOW:
        return cmd_number(value, 2, 1u << 30, &o->window, e);
    case OPT_STRIDE:
        return cmd_number(value, 1, 1u << 30, &o->stride, e);
    case OPT_MAX_PPL:
        return cmd_real(value, 1, 1e300, &o->max_ppl, e);
    case OPT_AGAINST:
        o->against = value;
        return 0;
    case OPT_PER_TOKEN:
        o->per_token = true;
        return 0;
    case OPT_ADAPTER:
        return cmd_list_add(&o->adapters, value, e);
    case OPT_NORMS:
        o->inputs.norms = value;
        return 0;
    case OPT_HESSIAN:
        o->inputs.hessian = value;
        return 0;
    case OPT_IMATRIX:
        o->inputs.imatrix = value;
        return 0;
    case OPT_TOKENS:
        o->tokens = true;
        return 0;
    default:
        o->logits = value;
        return 0;
    }
}

/* ---- another model ------------------------------------------------------ */

static int compare(struct eval_job *j, struct pq_error *e)
{
    const struct pq_nn_options o = {j->c->kernels, j->c->threads, 0};
    struct pq_source *s;

    if (!j->o->against)
        return 0;
    if (pq_open_model(j->o->against, &cmd_cancel, &s, e))
        return -1;
    const int rc = cmd_fold(j->c, s, e) || pq_nn_open(s, &o, &j->base, e);
    pq_source_free(s);
    return rc || eval_compare(j, e) ? -1 : 0;
}

/* ---- logits ------------------------------------------------------------- */

static int keep_rows(void *arg, size_t text, size_t first, size_t n,
                     const float *logits, struct pq_error *e)
{
    const struct eval_job *j = arg;
    const size_t vocab = pq_nn_about(j->nn).vocab;

    (void)text;
    (void)e;
    memcpy(j->rows + first * vocab, logits, n * vocab * sizeof *logits);
    return 0;
}

static int make_logits(struct eval_job *j, size_t i, struct pq_error *e)
{
    const struct cmd_example *x = &j->data.items[i];
    const struct pq_nn_text t = {x->ids, x->n, 0, NULL};
    const uint64_t shape[2] = {x->n, pq_nn_about(j->nn).vocab};
    uint64_t n;
    char name[32];

    if (!pq_mul(shape[0], shape[1], &n))
        return pq_fail_nomem(e);
    j->rows = pq_alloc((size_t)n, sizeof *j->rows);
    if (!j->rows)
        return pq_fail_nomem(e);
    snprintf(name, sizeof name, "logits.%zu", i);
    int rc = pq_nn_score(j->nn, &t, 1, keep_rows, j, e);
    if (rc)
        pq_error_in(e, "%s: line %zu", j->o->data, x->line);
    else if (!pq_made_add(j->made, name, PQ_F32, shape, 2, j->rows, e))
        rc = -1;
    free(j->rows);
    j->rows = NULL;
    return rc;
}

static int logits(struct eval_job *j, struct pq_error *e)
{
    if (!j->o->logits)
        return 0;
    if (pq_made_new(j->o->logits, j->data.n, j->c->memory / 2, j->c->tmpdir,
                    &j->made, e))
        return -1;
    for (size_t i = 0; i < j->data.n; i++)
        if (make_logits(j, i, e))
            return -1;
    return cmd_write_made(j->c, j->o->logits, j->made, e);
}

/* ---- the run ------------------------------------------------------------ */

/* A line of data for each text. */
static int print_tokens(const struct eval_job *j, struct pq_error *e)
{
    for (size_t i = 0; i < j->data.n; i++) {
        const struct cmd_example *x = &j->data.items[i];
        struct pq_buf b = {0};
        pq_buf_puts(&b, "{\"ids\":[");
        for (size_t k = 0; k < x->n; k++)
            pq_buf_printf(&b, k ? ",%ld" : "%ld", (long)x->ids[k]);
        pq_buf_puts(&b, "]}\n");
        if (cmd_print_buf(&b, e))
            return -1;
    }
    return 0;
}

/* Data first: what is wrong with them shows before weights are read. */
static int load(struct eval_job *j, struct pq_error *e)
{
    const struct pq_nn_options o = {j->c->kernels, j->c->threads, 0};
    const struct cmd_list none = {0};
    struct pq_source *s;

    if (cmd_open_adapted(j->c, j->o->tokens ? &none : &j->o->adapters, &s, e))
        return -1;
    j->data.model = s->catalog;
    int rc = cmd_data_read(j->o->data, &j->data, e);
    j->data.model = NULL;
    if (!rc && !j->o->tokens)
        rc = pq_nn_open(s, &o, &j->nn, e);
    pq_source_free(s);
    return rc;
}

static int evaluate(struct eval_job *j, struct pq_error *e)
{
    if (load(j, e))
        return CMD_TROUBLE;
    if (j->o->tokens)
        return print_tokens(j, e) ? CMD_TROUBLE : CMD_OK;
    if (eval_windows(j, e) ||
        cmd_data_check(&j->data, j->o->data, pq_nn_about(j->nn).vocab, e) ||
        cmd_inputs_open(&j->o->inputs, j->c, j->nn, e))
        return CMD_TROUBLE;
    if (j->c->dry_run)
        return eval_plan(j, e);
    if (eval_score(j, e) || cmd_inputs_write(&j->o->inputs, e) ||
        compare(j, e) || logits(j, e))
        return CMD_TROUBLE;
    return eval_answer(j, e);
}

/* Is something asked that only scoring tells? */
static bool scores(const struct cmd *c, const struct eval_options *o)
{
    return c->dry_run || o->logits || o->against || o->per_token ||
           o->max_ppl > 0 || cmd_inputs_wanted(&o->inputs);
}

static int check_adapters(const struct eval_options *o, const char *path,
                          struct pq_error *e)
{
    struct pq_arena arena = {0};
    int rc = 0;

    for (size_t i = 0; !rc && i < o->adapters.n; i++) {
        struct merge_input in = {0};
        rc = merge_split_weight(&arena, o->adapters.items[i], &in, e) ||
             cmd_check_spares(path, in.path, e);
    }
    pq_arena_release(&arena);
    return rc;
}

/* Nothing that is written takes the place of what is read, or of another. */
static int check_files(const struct cmd *c, const struct eval_options *o,
                       struct pq_error *e)
{
    const char *const out[] = {o->logits, o->inputs.norms, o->inputs.hessian,
                               o->inputs.imatrix};
    const size_t n = sizeof out / sizeof *out;

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; out[i] && k < i; k++)
            if (out[k] && strcmp(out[i], out[k]) == 0)
                return cmd_usage(c, "%s: is to be written twice", out[i]);
        if (out[i] && (cmd_check_beside(c, out[i], e) ||
                       cmd_check_spares(out[i], o->data, e) ||
                       cmd_check_spares(out[i], o->against, e) ||
                       check_adapters(o, out[i], e)))
            return CMD_TROUBLE;
    }
    return CMD_OK;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct eval_job j = {.c = c, .o = c->state};

    if (!j.o->data)
        return cmd_usage(c, "say with -d what to score");
    if (j.o->tokens && scores(c, j.o))
        return cmd_usage(c, "--tokens scores nothing: what is about scores "
                            "does not go with it");
    if (cmd_is_standard(j.o->logits))
        return cmd_usage(c, "--logits needs a file");
    if (cmd_inputs_check(c, &j.o->inputs))
        return CMD_TROUBLE;
    if (cmd_is_standard(j.o->against))
        return cmd_usage(c, "the model of --against cannot be standard input");
    if (cmd_check_data(c, j.o->data) || check_files(c, j.o, e))
        return CMD_TROUBLE;
    const int rc = evaluate(&j, e);
    for (size_t i = 0; j.nll && i < j.data.n; i++)
        free(j.nll[i]);
    free(j.nll);
    free(j.sums);
    free(j.rows);
    cmd_data_release(&j.data);
    pq_source_free(j.made);
    pq_nn_free(j.nn);
    pq_nn_free(j.base);
    return rc;
}

static void release(void *state)
{
    struct eval_options *o = state;

    free(o->adapters.items);
    cmd_inputs_release(&o->inputs);
}

static const char *const examples[] = {
    "pq-eval -d ids.jsonl llama/",
    "pq-eval --json --max-ppl 8 -d ids.jsonl llama-nf4/ >quality.json",
    NULL,
};

const struct pq_tool tool_eval = {
    .name = "eval",
    .purpose = "score texts with a model: perplexity, likelihoods, logits",
    .synopsis = "[options] -d DATA [MODEL]",
    .options = options,
    .shared = CMD_DRY_RUN | CMD_ENGINE | CMD_JSON | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct eval_options),
    .option = option,
    .run = run,
    .release = release,
};
