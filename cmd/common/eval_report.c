/*
 * What pq-eval says; see eval.h.
 */
#include "eval.h"

#include "pq_json.h"
#include "report.h"

#include <math.h>

static void put_tokens(const struct eval_job *j, struct pq_buf *b)
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

static void put_json(const struct eval_job *j, double nll, double ppl,
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
        cmd_put_number(b,
                       ",\"same_top\":", (double)j->same / (double)j->tokens);
    }
    if (j->choices.questions)
        pq_buf_printf(b,
                      ",\"questions\":%zu,\"right\":%zu,"
                      "\"right_norm\":%zu",
                      j->choices.questions, j->choices.right,
                      j->choices.right_norm);
    if (j->o->per_token)
        put_tokens(j, b);
    pq_buf_puts(b, "}\n");
}

static void put_text(const struct eval_job *j, double nll, double ppl,
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

int eval_answer(const struct eval_job *j, struct pq_error *e)
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

/* ---- a dry run ---------------------------------------------------------- */

static void put_plan(const struct eval_job *j, uint64_t tokens,
                     struct pq_buf *b)
{
    const struct cmd_inputs *in = &j->o->inputs;
    const unsigned long long weights = pq_nn_about(j->nn).bytes,
                             squares = cmd_inputs_squares(in),
                             products = cmd_inputs_products(in), all = tokens;

    if (j->c->json) {
        pq_buf_printf(b,
                      "{\"pq\":1,\"tool\":\"pq-eval\",\"tokens\":%llu,"
                      "\"texts\":%zu,\"window\":%zu,\"stride\":%zu,"
                      "\"weight_bytes\":%llu,\"square_bytes\":%llu,"
                      "\"product_bytes\":%llu,\"runs\":%u}\n",
                      all, j->data.n, j->window, j->stride, weights, squares,
                      products, in->runs);
        return;
    }
    pq_buf_printf(b,
                  "scores %llu tokens of %zu texts, window %zu, stride %zu\n"
                  "weights %llu bytes\n",
                  all, j->data.n, j->window, j->stride, weights);
    if (squares)
        pq_buf_printf(b, "squares of inputs %llu bytes\n", squares);
    if (products)
        pq_buf_printf(b,
                      "products of inputs %llu bytes, in %u run%s over the "
                      "texts, at most %llu at a time\n",
                      products, in->runs, in->runs == 1 ? "" : "s",
                      (unsigned long long)in->room);
}

int eval_plan(const struct eval_job *j, struct pq_error *e)
{
    uint64_t tokens = 0;
    struct pq_buf b = {0};

    for (size_t i = 0; i < j->data.n; i++)
        if (eval_counts(&j->data.items[i]))
            tokens += eval_tokens(&j->data.items[i]);
    put_plan(j, tokens, &b);
    return cmd_print_buf(&b, e) ? CMD_TROUBLE : CMD_OK;
}
