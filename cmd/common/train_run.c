/*
 * The steps of a training; see training.h.
 *
 *   step k = 0, 1, ...:  loss = sum nll / labels of the window's pieces,
 *   its gradient, an update with rate lr * schedule(k)
 *
 * LoRA+: the update of B is `plus` times what it would be; as it is linear in
 * the rate, that is a rate of its own.
 *
 * A loss that is no number stops the run before the update that it would
 * make; what was written before stays, as it does when it cannot be replaced.
 */
#include "training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- copies of parameters ----------------------------------------------- */

int train_snapshot(struct train *t, float ***all,
                   bool (*wants)(const char *name), struct pq_error *e)
{
    const size_t n = pq_train_params(t->core);

    if (!*all && !(*all = pq_zalloc(n, sizeof **all)))
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        const size_t count = p.rows * (p.cols ? p.cols : 1);
        if (wants && !wants(p.name))
            continue;
        if (!(*all)[i] && !((*all)[i] = pq_alloc(count, sizeof *(*all)[i])))
            return pq_fail_nomem(e);
        memcpy((*all)[i], p.w, count * sizeof *p.w);
    }
    return 0;
}

static bool is_b(const char *name)
{
    return strstr(name, ".lora_B.") != NULL;
}

static void push_b(struct train *t)
{
    const float ratio = (float)t->o->plus;

    for (size_t i = 0; i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        const float *old = t->before[i];
        for (size_t k = 0; old && k < p.rows * p.cols; k++)
            p.w[k] = old[k] + ratio * (p.w[k] - old[k]);
    }
    pq_train_changed(t->core);
}

/* ---- a step ------------------------------------------------------------- */

static void set_texts(struct train *t, const struct train_piece *const *p,
                      size_t n)
{
    for (size_t i = 0; i < n; i++)
        t->texts[i] = p[i]->text;
}

/* Takes the window's pieces; returns how many labels they have. */
static uint64_t take_window(struct train *t)
{
    const size_t most = train_most(&t->order);
    uint64_t labels = 0;

    for (size_t i = 0; i < t->o->accumulate; i++) {
        t->counts[i] = train_take(&t->order, t->taken + i * most);
        set_texts(t, t->taken + i * most, t->counts[i]);
        labels += pq_train_labels(t->core, t->texts, t->counts[i]);
    }
    return labels;
}

static int gradients(struct train *t, uint64_t labels, double *loss,
                     struct pq_error *e)
{
    const size_t most = train_most(&t->order);
    double nll, sum = 0;

    for (size_t i = 0; i < t->o->accumulate; i++) {
        set_texts(t, t->taken + i * most, t->counts[i]);
        if (pq_train_gradient(t->core, t->texts, t->counts[i],
                              1.0 / (double)labels, &nll, e))
            return -1;
        sum += nll;
    }
    *loss = sum / (double)labels;
    return 0;
}

static int update(struct train *t, struct train_point *p, struct pq_error *e)
{
    const bool plus = t->o->plus > 0;

    if (!isfinite(p->loss)) /* printf() may say "-nan" */
        return pq_fail(e, PQ_EVALUE,
                       "step %llu: the loss is %s: stopped before the update",
                       (unsigned long long)p->step,
                       isnan(p->loss) ? "nan" : "inf");
    if (plus && train_snapshot(t, &t->before, is_b, e))
        return -1;
    if (pq_train_step(t->core, p->lr, &p->norm, e))
        return pq_error_in(e, "step %llu", (unsigned long long)p->step);
    if (plus)
        push_b(t);
    return 0;
}

static int step(struct train *t, struct train_point *p, struct pq_error *e)
{
    const uint64_t k = p->step - 1;

    p->tokens = take_window(t);
    p->lr = t->o->lr * pq_schedule_at(&t->schedule, k);
    return gradients(t, p->tokens, &p->loss, e) || update(t, p, e) ||
                   train_log_step(&t->log, p, e)
               ? -1
               : 0;
}

/* ---- validation --------------------------------------------------------- */

size_t train_val_batch(const struct train *t, size_t i)
{
    const size_t most = train_most(&t->order), left = t->val.n - i;
    const size_t n = most < t->o->batch ? most : (size_t)t->o->batch;

    return left < n ? left : n;
}

static int score(struct train *t, struct train_point *p, struct pq_error *e)
{
    double nll, sum = 0;

    for (size_t i = 0, n; i < t->val.n; i += n) {
        n = train_val_batch(t, i);
        for (size_t k = 0; k < n; k++)
            t->texts[k] = t->val.pieces[i + k].text;
        p->tokens += pq_train_labels(t->core, t->texts, n);
        if (pq_train_score(t->core, t->texts, n, &nll, e))
            return -1;
        sum += nll;
    }
    p->loss = sum / (double)p->tokens;
    return 0;
}

/* Is it time?  Then measures, and keeps what is the best. */
static int validate(struct train *t, uint64_t at, bool *stop,
                    struct pq_error *e)
{
    struct train_point p = {.step = at, .val = true};

    if (!t->val.n || (at % t->o->val_every != 0 && at != t->steps))
        return 0;
    if (score(t, &p, e) || train_log_val(&t->log, &p, e))
        return -1;
    if (isfinite(p.loss) && (!t->best || p.loss < t->best_loss)) {
        t->best_loss = p.loss;
        t->best_step = at;
        t->waited = 0;
        return train_snapshot(t, &t->best, NULL, e);
    }
    t->waited++;
    *stop = t->o->patience && t->waited >= t->o->patience;
    return 0;
}

/* The weights at hand and the best ones change places. */
static void swap_best(struct train *t)
{
    for (size_t i = 0; t->best && i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        for (size_t k = 0; k < p.rows * (p.cols ? p.cols : 1); k++) {
            const float kept = p.w[k];
            p.w[k] = t->best[i][k];
            t->best[i][k] = kept;
        }
    }
    pq_train_changed(t->core);
}

/* The output as it would be now. */
static int save_output(struct train *t, struct pq_error *e)
{
    swap_best(t);
    const int rc = train_save(t, e);
    swap_best(t);
    return rc;
}

/*
 * A disk that is full, or any other call of the system that failed, takes
 * nothing away: what was written before is still there, and training goes on.
 */
static int forgive(struct train *t, uint64_t at, struct pq_error *failed,
                   struct pq_error *e)
{
    if (failed->code != PQ_EIO) {
        *e = *failed;
        return -1;
    }
    cmd_msg(t->c,
            "step %llu: not saved: %s; what was saved before stays, training "
            "goes on",
            (unsigned long long)at, failed->msg);
    return 0;
}

/* The output, and what it takes to go on. */
static int checkpoint(struct train *t, uint64_t at, uint64_t last,
                      struct pq_error *e)
{
    const bool every = t->o->save_every && at % t->o->save_every == 0;
    struct pq_error failed = PQ_ERROR_INIT;

    if (at == last) { /* the output follows at once, whatever becomes of it */
        if ((t->o->save_every || t->o->until) &&
            train_state_save(t, &t->unsaved))
            pq_error_in(&t->unsaved, "step %llu: the state is not saved",
                        (unsigned long long)at);
        return 0;
    }
    if (!every || (!train_state_save(t, &failed) && !save_output(t, &failed)))
        return 0;
    return forgive(t, at, &failed, e);
}

/* ---- the run ------------------------------------------------------------ */

static bool is_factor(const char *name)
{
    return strstr(name, ".lora_A.") || is_b(name);
}

static int run_steps(struct train *t, struct pq_error *e)
{
    const uint64_t until = t->o->until;
    const uint64_t last = until && until < t->steps ? until : t->steps;
    uint64_t tokens = 0;
    bool stop = false;

    cmd_progress_steps(t->c, pq_train_steps(t->core), t->steps, 0, 0);
    for (uint64_t k = pq_train_steps(t->core); k < last && !stop; k++) {
        struct train_point p = {.step = k + 1};
        if (cmd_cancel)
            return pq_fail(e, PQ_ECANCEL, "stopped by a signal");
        if (step(t, &p, e) || validate(t, p.step, &stop, e) ||
            checkpoint(t, p.step, stop ? p.step : last, e))
            return -1;
        tokens += p.tokens;
        cmd_progress_steps(t->c, p.step, t->steps, tokens, p.loss);
    }
    return 0;
}

int train_run(struct train *t, struct pq_error *e)
{
    if ((t->o->pissa && train_snapshot(t, &t->start, is_factor, e)) ||
        (t->o->resume && train_state_load(t, e)))
        return -1;
    if (!t->o->resume && (t->o->save_every || t->o->until))
        train_state_warn(t);
    const int rc = run_steps(t, e);
    cmd_progress_end();
    if (rc)
        return -1;
    swap_best(t);
    if (t->best && t->c->verbose > 0)
        cmd_msg(t->c, "the best validation loss is that of step %llu: %.6f",
                (unsigned long long)t->best_step, t->best_loss);
    return 0;
}
