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
#include "adapted.h"
#include "choices.h"
#include "cmd.h"
#include "data.h"
#include "made.h"
#include "pq_json.h"
#include "pq_made.h"
#include "pq_nn.h"
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WINDOW 2048 /* where --window says nothing */
#define TEXTS      32   /* examples that are scored at a time */

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
    OPT_HESSIAN
};

static const struct cmd_option options[] = {
    {'d', "data", "FILE", "what to score: JSONL or a text", NULL, 0,
     OPT_DATA},
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
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct eval {
    const char *data, *logits, *against, *norms, *hessian;
    uint64_t window, stride; /* 0: the default */
    double max_ppl;          /* 0: no gate */
    bool per_token, tokens;
    struct cmd_list adapters;
};

/* What one run of the tool works on. */
struct job {
    struct cmd *c;
    const struct eval *o;
    struct pq_nn *nn;
    struct cmd_data data;
    size_t window, stride;
    double **nll; /* [examples][tokens]; NULL once it is not needed */
    double *sums; /* [examples] */
    struct cmd_choices choices;
    double sum;
    uint64_t tokens;
    struct pq_nn *base;     /* of --against */
    double kl;              /* sum over tokens */
    uint64_t same;          /* tokens that both find the likeliest */
    struct pq_source *made; /* the logits */
    float *rows;            /* of one text */
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct eval *o = c->state;

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
        o->norms = value;
        return 0;
    case OPT_HESSIAN:
        o->hessian = value;
        return 0;
    case OPT_TOKENS:
        o->tokens = true;
        return 0;
    default:
        o->logits = value;
        return 0;
    }
}

/* ---- windows ------------------------------------------------------------ */

static int set_windows(struct job *j)
{
    const struct pq_nn_info m = pq_nn_about(j->nn);
    const size_t most = m.positions < MAX_WINDOW ? m.positions : MAX_WINDOW;

    j->window = j->o->window ? j->o->window : most < 2 ? 2 : most;
    if (m.positions_are_hard && j->window > m.positions)
        return cmd_usage(j->c, "--window: the model has %zu positions",
                         m.positions);
    j->stride = j->o->stride ? j->o->stride : j->window / 2;
    if (j->stride >= j->window)
        return cmd_usage(j->c, "--stride must be less than the window of %zu",
                         j->window);
    return 0;
}

/*
 * The window of a text that ends at `end`, and its likelihoods behind those
 * of the text: tokens that it only sees are scored by nobody.
 */
static struct pq_nn_text window_of(const struct job *j,
                                   const struct cmd_example *x, size_t done,
                                   size_t end, double *nll)
{
    const size_t start = end > j->window ? end - j->window : 0;
    const size_t from = done > x->from ? done : x->from;
    const struct pq_nn_text t = {x->ids + start, end - start,
                                 from < end ? from - start : end - start, nll};

    return t;
}

/* A long text, window after window; `nll` has room for it and a window. */
static int score_long(struct job *j, const struct cmd_example *x, double *nll,
                      struct pq_error *e)
{
    double *part = nll + x->n;

    for (size_t done = 0, end = j->window; done < x->n;) {
        const struct pq_nn_text t = window_of(j, x, done, end, part);
        const size_t start = (size_t)(t.ids - x->ids);
        if (t.from < t.n && pq_nn_score(j->nn, &t, 1, NULL, NULL, e))
            return -1;
        memcpy(nll + start + t.from, part + t.from,
               (t.n - t.from) * sizeof *part);
        done = end;
        end = x->n - end < j->stride ? x->n : end + j->stride;
    }
    return 0;
}

/* Examples [first, first + n); the short ones together. */
static int score_some(struct job *j, size_t first, size_t n, struct pq_error *e)
{
    struct pq_nn_text t[TEXTS];
    size_t k = 0;

    for (size_t i = first; i < first + n; i++) {
        const struct cmd_example *x = &j->data.items[i];
        const bool fits = x->n <= j->window;
        j->nll[i] = pq_alloc(x->n + (fits ? 0 : j->window), sizeof **j->nll);
        if (!j->nll[i])
            return pq_fail_nomem(e);
        if (fits)
            t[k++] = (struct pq_nn_text){x->ids, x->n, x->from, j->nll[i]};
        else if (score_long(j, x, j->nll[i], e))
            return -1;
    }
    return pq_nn_score(j->nn, t, k, NULL, NULL, e);
}

/* Of the choices of a question only the right one counts. */
static bool counts(const struct cmd_example *x)
{
    return x->n_choices == 0 || x->choice == x->answer;
}

static void add_up(struct job *j, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++) {
        const struct cmd_example *x = &j->data.items[i];
        size_t tokens = 0;
        double sum = 0;
        for (size_t k = x->from; k < x->n; k++) {
            if (!cmd_data_counts(x, k))
                continue;
            sum += j->nll[i][k];
            tokens++;
        }
        j->sums[i] = sum;
        if (counts(x)) {
            j->sum += sum;
            j->tokens += tokens;
        }
        if (j->c->verbose > 0 && tokens > 0)
            cmd_msg(j->c, "%s: line %zu: %zu tokens, perplexity %.6g",
                    j->o->data, x->line, tokens, exp(sum / (double)tokens));
        if (j->o->per_token)
            continue;
        free(j->nll[i]);
        j->nll[i] = NULL;
    }
}

static int score_all(struct job *j, struct pq_error *e)
{
    const struct cmd_data *d = &j->data;

    if ((j->o->norms || j->o->hessian) &&
        pq_nn_watch(j->nn, j->o->hessian != NULL, e))
        return -1;
    j->nll = pq_zalloc(d->n, sizeof *j->nll);
    j->sums = pq_alloc(d->n, sizeof *j->sums);
    if (!j->nll || !j->sums)
        return pq_fail_nomem(e);
    for (size_t i = 0, n; i < d->n; i += n) {
        n = d->n - i < TEXTS ? d->n - i : TEXTS;
        if (cmd_cancel)
            return pq_fail(e, PQ_ECANCEL, "stopped by a signal");
        if (score_some(j, i, n, e))
            return -1;
        add_up(j, i, n);
        cmd_progress(j->c, d->items[i + n - 1].end, d->bytes);
    }
    cmd_progress_end();
    cmd_choices_count(d, j->sums, &j->choices);
    return j->tokens ? 0
                     : pq_fail(e, PQ_EARG,
                               "%s: holds no token to score (the first of a "
                               "text is not)",
                               j->o->data);
}

/* Before anything else is run: those are of the texts that were scored. */
static int write_inputs(struct job *j, struct pq_error *e)
{
    const char *path = j->o->norms ? j->o->norms : j->o->hessian;

    return path ? cmd_write_inputs(j->c, path, j->nn, e) : 0;
}

/* ---- against another model ---------------------------------------------- */

static int compare_text(struct job *j, const struct cmd_example *x, double *kl,
                        bool *same, struct pq_error *e)
{
    size_t end = x->n < j->window ? x->n : j->window;

    for (size_t done = 0; done < x->n;) {
        const struct pq_nn_text t = window_of(j, x, done, end, NULL);
        if (t.from < t.n && pq_nn_compare(j->base, j->nn, &t, kl, same, e))
            return -1;
        for (size_t i = t.from; i < t.n; i++) {
            if (!cmd_data_counts(x, (size_t)(t.ids - x->ids) + i))
                continue;
            j->kl += kl[i];
            j->same += same[i];
        }
        done = end;
        end = x->n - end < j->stride ? x->n : end + j->stride;
    }
    return 0;
}

static int compare_all(struct job *j, struct pq_error *e)
{
    double *kl = pq_alloc(j->window, sizeof *kl);
    bool *same = pq_alloc(j->window, sizeof *same);
    int rc = kl && same ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < j->data.n; i++) {
        if (!counts(&j->data.items[i]))
            continue;
        rc = cmd_cancel ? pq_fail(e, PQ_ECANCEL, "stopped by a signal")
                        : compare_text(j, &j->data.items[i], kl, same, e);
        cmd_progress(j->c, j->data.items[i].end, j->data.bytes);
    }
    cmd_progress_end();
    free(kl);
    free(same);
    return rc;
}

static int against(struct job *j, struct pq_error *e)
{
    const struct pq_nn_options o = {j->c->kernels, j->c->threads, 0};
    struct pq_source *s;

    if (!j->o->against)
        return 0;
    if (pq_open_model(j->o->against, &cmd_cancel, &s, e))
        return -1;
    const int rc = cmd_fold(j->c, s, e) || pq_nn_open(s, &o, &j->base, e);
    pq_source_free(s);
    return rc || compare_all(j, e) ? -1 : 0;
}

/* ---- logits ------------------------------------------------------------- */

static int keep_rows(void *arg, size_t text, size_t first, size_t n,
                     const float *logits, struct pq_error *e)
{
    const struct job *j = arg;
    const size_t vocab = pq_nn_about(j->nn).vocab;

    (void)text;
    (void)e;
    memcpy(j->rows + first * vocab, logits, n * vocab * sizeof *logits);
    return 0;
}

static int make_logits(struct job *j, size_t i, struct pq_error *e)
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

static int logits(struct job *j, struct pq_error *e)
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

/* ---- the answer --------------------------------------------------------- */

static void put_tokens(const struct job *j, struct pq_buf *b)
{
    pq_buf_puts(b, ",\"per_token\":[");
    for (size_t i = 0; i < j->data.n; i++) {
        pq_buf_puts(b, i ? ",[" : "[");
        for (size_t k = 0; k < j->data.items[i].n; k++) {
            pq_buf_puts(b, k ? "," : "");
            pq_json_put_f64(b, cmd_data_counts(&j->data.items[i], k)
                                   ? j->nll[i][k]
                                   : NAN);
        }
        pq_buf_puts(b, "]");
    }
    pq_buf_puts(b, "]");
}

static void put_json(const struct job *j, double nll, double ppl,
                     struct pq_buf *b)
{
    cmd_put_number(b, "{\"pq\":1,\"tool\":\"pq-eval\",\"nll\":", nll);
    cmd_put_number(b, ",\"perplexity\":", ppl);
    pq_buf_printf(b,
                  ",\"tokens\":%llu,\"texts\":%zu,\"window\":%zu,"
                  "\"stride\":%zu",
                  (unsigned long long)j->tokens, j->data.n, j->window,
                  j->stride);
    if (j->base) {
        cmd_put_number(b, ",\"kl\":", j->kl / (double)j->tokens);
        cmd_put_number(b, ",\"same_top\":",
                       (double)j->same / (double)j->tokens);
    }
    if (j->choices.questions)
        pq_buf_printf(b, ",\"questions\":%zu,\"right\":%zu,"
                         "\"right_norm\":%zu",
                      j->choices.questions, j->choices.right,
                      j->choices.right_norm);
    if (j->o->per_token)
        put_tokens(j, b);
    pq_buf_puts(b, "}\n");
}

static void put_text(const struct job *j, double nll, double ppl,
                     struct pq_buf *b)
{
    for (size_t i = 0; j->o->per_token && i < j->data.n; i++)
        for (size_t k = j->data.items[i].from; k < j->data.items[i].n; k++)
            if (cmd_data_counts(&j->data.items[i], k))
                pq_buf_printf(b, "%zu\t%zu\t%ld\t%.6f\n",
                              j->data.items[i].line, k,
                              (long)j->data.items[i].ids[k], j->nll[i][k]);
    pq_buf_printf(b, "perplexity %.6g  nll %.6f  tokens %llu  texts %zu\n", ppl,
                  nll, (unsigned long long)j->tokens, j->data.n);
    if (j->base)
        pq_buf_printf(b, "kl %.6g  same top token %.2f%%\n",
                      j->kl / (double)j->tokens,
                      100 * (double)j->same / (double)j->tokens);
    if (j->choices.questions)
        pq_buf_printf(b, "right %zu of %zu  by bytes %zu\n", j->choices.right,
                      j->choices.questions, j->choices.right_norm);
}

static int answer(const struct job *j, struct pq_error *e)
{
    const double nll = j->sum / (double)j->tokens, ppl = exp(nll);
    struct pq_buf b = {0};

    if (j->c->json)
        put_json(j, nll, ppl, &b);
    else if (!j->c->quiet)
        put_text(j, nll, ppl, &b);
    if (cmd_print_buf(&b, e))
        return CMD_TROUBLE;
    return j->o->max_ppl > 0 && !(ppl <= j->o->max_ppl) ? CMD_NO : CMD_OK;
}

/* ---- the run ------------------------------------------------------------ */

/* A line of data for each text. */
static int print_tokens(const struct job *j, struct pq_error *e)
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
static int load(struct job *j, struct pq_error *e)
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

static int evaluate(struct job *j, struct pq_error *e)
{
    if (load(j, e))
        return CMD_TROUBLE;
    if (j->o->tokens)
        return print_tokens(j, e) ? CMD_TROUBLE : CMD_OK;
    if (set_windows(j) ||
        cmd_data_check(&j->data, j->o->data, pq_nn_about(j->nn).vocab, e) ||
        score_all(j, e) || write_inputs(j, e) || against(j, e) || logits(j, e))
        return CMD_TROUBLE;
    return answer(j, e);
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct job j = {.c = c, .o = c->state};

    if (!j.o->data)
        return cmd_usage(c, "say with -d what to score");
    if (cmd_is_standard(j.o->logits))
        return cmd_usage(c, "--logits needs a file");
    if (j.o->norms && j.o->hessian)
        return cmd_usage(c, "--norms-out and --hessian-out need a run each");
    if (cmd_is_standard(j.o->norms))
        return cmd_usage(c, "--norms-out needs a file");
    if (cmd_is_standard(j.o->hessian))
        return cmd_usage(c, "--hessian-out needs a file");
    if (cmd_is_standard(j.o->against))
        return cmd_usage(c, "the model of --against cannot be standard input");
    if (cmd_check_data(c, j.o->data))
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
    struct eval *o = state;

    free(o->adapters.items);
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
    .shared = CMD_ENGINE | CMD_JSON | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct eval),
    .option = option,
    .run = run,
    .release = release,
};
