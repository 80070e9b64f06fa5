/*
 * Likelihoods of texts, in windows where they are long: cmd/eval.c has the
 * picture.
 */
#include "eval.h"

#include "pq_mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WINDOW 2048 /* where --window says nothing */
#define TEXTS      32   /* examples that are scored at a time */

/* ---- windows ------------------------------------------------------------ */

int eval_windows(struct eval_job *j, struct pq_error *e)
{
    const struct pq_nn_info m = pq_nn_about(j->nn);
    const size_t most = m.positions < MAX_WINDOW ? m.positions : MAX_WINDOW;

    if (m.positions_are_hard && m.positions < 2)
        return pq_fail(e, PQ_EARG,
                       "%s: a model of one position, in which no token stands "
                       "behind another",
                       j->c->n_operands ? j->c->operands[0] : "-");
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
static struct pq_nn_text window_of(const struct eval_job *j,
                                   const struct cmd_example *x, size_t done,
                                   size_t end, double *nll)
{
    const size_t start = end > j->window ? end - j->window : 0;
    const size_t from = done > x->from ? done : x->from;
    const struct pq_nn_text t = {x->ids + start, end - start,
                                 from < end ? from - start : end - start, nll};

    return t;
}

/*
 * A long text, window after window; `nll` has room for it and a window, or is
 * NULL.
 */
static int score_long(struct eval_job *j, const struct cmd_example *x,
                      double *nll, struct pq_error *e)
{
    double *part = nll ? nll + x->n : NULL;

    for (size_t done = 0, end = j->window; done < x->n;) {
        const struct pq_nn_text t = window_of(j, x, done, end, part);
        const size_t start = (size_t)(t.ids - x->ids);
        if (t.from < t.n && pq_nn_score(j->nn, &t, 1, NULL, NULL, e))
            return -1;
        if (nll)
            memcpy(nll + start + t.from, part + t.from,
                   (t.n - t.from) * sizeof *part);
        done = end;
        end = x->n - end < j->stride ? x->n : end + j->stride;
    }
    return 0;
}

/*
 * Examples [first, first + n); the short ones together.  A run again is made
 * for the inputs alone: what was scored stays.
 */
static int score_some(struct eval_job *j, size_t first, size_t n, bool again,
                      struct pq_error *e)
{
    struct pq_nn_text t[TEXTS];
    size_t k = 0;

    for (size_t i = first; i < first + n; i++) {
        const struct cmd_example *x = &j->data.items[i];
        const bool fits = x->n <= j->window;
        double *nll =
            again ? NULL
                  : pq_alloc(x->n + (fits ? 0 : j->window), sizeof **j->nll);
        if (!again && !(j->nll[i] = nll))
            return pq_fail_nomem(e);
        if (fits)
            t[k++] = (struct pq_nn_text){x->ids, x->n, x->from, nll};
        else if (score_long(j, x, nll, e))
            return -1;
    }
    return pq_nn_score(j->nn, t, k, NULL, NULL, e);
}

bool eval_counts(const struct cmd_example *x)
{
    return x->n_choices == 0 || x->choice == x->answer;
}

size_t eval_tokens(const struct cmd_example *x)
{
    size_t n = 0;

    for (size_t k = x->from; k < x->n; k++)
        n += cmd_data_counts(x, k);
    return n;
}

static void add_up(struct eval_job *j, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++) {
        const struct cmd_example *x = &j->data.items[i];
        const size_t tokens = eval_tokens(x);
        double sum = 0;
        for (size_t k = x->from; k < x->n; k++)
            if (cmd_data_counts(x, k))
                sum += j->nll[i][k];
        j->sums[i] = sum;
        if (eval_counts(x)) {
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

/* All texts once. */
static int run_texts(struct eval_job *j, unsigned run, struct pq_error *e)
{
    const struct cmd_data *d = &j->data;
    const uint64_t runs = j->o->inputs.runs > 1 ? j->o->inputs.runs : 1;

    for (size_t i = 0, n; i < d->n; i += n) {
        n = d->n - i < TEXTS ? d->n - i : TEXTS;
        if (cmd_cancel)
            return pq_fail(e, PQ_ECANCEL, "stopped by a signal");
        if (score_some(j, i, n, run > 0, e))
            return -1;
        if (run == 0)
            add_up(j, i, n);
        cmd_progress(j->c, run * d->bytes + d->items[i + n - 1].end,
                     runs * d->bytes);
    }
    return 0;
}

int eval_score(struct eval_job *j, struct pq_error *e)
{
    struct cmd_inputs *in = &j->o->inputs;
    unsigned run = 0;

    j->nll = pq_zalloc(j->data.n, sizeof *j->nll);
    j->sums = pq_alloc(j->data.n, sizeof *j->sums);
    if (!j->nll || !j->sums)
        return pq_fail_nomem(e);
    do
        if (cmd_inputs_watch(in, e) || run_texts(j, run++, e) ||
            (j->tokens && cmd_inputs_take(in, j->o->data, j->window, e)))
            return -1;
    while (j->tokens && cmd_inputs_more(in));
    cmd_progress_end();
    cmd_choices_count(&j->data, j->sums, &j->choices);
    return j->tokens ? 0
                     : pq_fail(e, PQ_EARG,
                               "%s: holds no token to score (the first of a "
                               "text is not)",
                               j->o->data);
}

/* ---- against another model ---------------------------------------------- */

static int compare_text(struct eval_job *j, const struct cmd_example *x,
                        double *kl, bool *same, struct pq_error *e)
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

int eval_compare(struct eval_job *j, struct pq_error *e)
{
    double *kl = pq_alloc(j->window, sizeof *kl);
    bool *same = pq_alloc(j->window, sizeof *same);
    int rc = kl && same ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < j->data.n; i++) {
        if (!eval_counts(&j->data.items[i]))
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
