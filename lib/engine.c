/*
 * The engine: threads draw tickets, compute, retire them in order.
 * What it promises and why it is built so: pq_engine.h.
 *
 * Locks: `drawing` orders the drawing of tickets and the reading of
 * sequential inputs; `lock` guards slots, turn and failure.  A thread that
 * holds `drawing` may take `lock`, never the other way round.
 */
#include "engine_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAVE        8u /* steps that are worked through together */
#define CANCEL_TICK 50000000L /* ns between looks at the cancel flag */

/* ---- drawing ----------------------------------------------------------- */

/* Does the cursor's step have a pass at the cursor in this round? */
static bool cursor_valid(const struct pq_engine *g)
{
    const struct pq_step *s = &g->plan->steps[g->step];

    if (g->plan->gather_first)
        return g->gathering ? g->pass < s->n_gather
                            : g->pass == s->n_gather && s->emit;
    return g->pass < pq_step_passes(s);
}

/* Can the passes of a step take turns with those of its neighbours? */
static bool takes_turns(const struct pq_engine *g, const struct pq_step *s)
{
    if (g->plan->gather_first || s->emit || s->n_gather < 2)
        return false;
    for (size_t i = 0; i < s->n_in; i++)
        if (s->in[i].source->sequential)
            return false;
    return true;
}

/* The steps from the cursor's on that take turns; what they keep is little. */
static void begin_wave(struct pq_engine *g)
{
    const struct pq_plan *p = g->plan;
    const struct pq_step *first = &p->steps[g->step];
    size_t end = g->step;
    uint64_t kept = 0; /* each fits the memory, see pq_engine_slots() */

    do {
        kept += p->steps[end++].state_bytes;
    } while (end < p->n_steps && end - g->step < WAVE &&
             takes_turns(g, first) && takes_turns(g, &p->steps[end]) &&
             p->steps[end].n_gather == first->n_gather &&
             kept + p->steps[end].state_bytes <= g->run->memory / 8);
    g->wave = g->step;
    g->wave_end = end;
}

/* Moves the cursor to the first unit at or after it; false at the end. */
static bool cursor_settle(struct pq_engine *g)
{
    while (g->step < g->plan->n_steps && !cursor_valid(g)) {
        g->step++;
        g->unit = 0;
        g->pass = 0;
        if (g->step < g->plan->n_steps && g->plan->gather_first &&
            !g->gathering)
            g->pass = g->plan->steps[g->step].n_gather;
    }
    if (g->step < g->plan->n_steps &&
        (g->step < g->wave || g->step >= g->wave_end))
        begin_wave(g);
    return g->step < g->plan->n_steps;
}

static void cursor_next(struct pq_engine *g)
{
    if (++g->unit < pq_step_units(&g->plan->steps[g->step]))
        return;
    g->unit = 0;
    if (g->step + 1 < g->wave_end) {
        g->step++;
        return;
    }
    g->pass++;
    if (g->pass < pq_step_passes(&g->plan->steps[g->wave]))
        g->step = g->wave;
}

/* Waits with `lock` held until something was retired. */
static void wait_for_change(struct pq_engine *g)
{
    g->waiting++;
    pthread_cond_wait(&g->changed, &g->lock);
    g->waiting--;
}

static void wait_for_slot(struct pq_engine *g, const struct pq_slot *s)
{
    pthread_mutex_lock(&g->lock);
    while (s->busy && !g->failed)
        wait_for_change(g);
    pthread_mutex_unlock(&g->lock);
}

/* Waits until the tickets before `end` have retired; true: the run failed. */
static bool wait_for_tickets(struct pq_engine *g, uint64_t end)
{
    pthread_mutex_lock(&g->lock);
    while (g->turn < end && !g->failed)
        wait_for_change(g);
    const bool failed = g->failed;
    pthread_mutex_unlock(&g->lock);
    return failed;
}

static void slot_aim(const struct pq_engine *g, struct pq_slot *s)
{
    const struct pq_step *step = &g->plan->steps[g->step];
    const uint64_t first = g->unit * step->unit_items;
    const uint64_t left = step->items - first;

    s->step = g->step;
    s->pass = g->pass;
    s->last = g->unit + 1 == pq_step_units(step);
    s->unit.first = first;
    s->unit.count = left < step->unit_items ? left : step->unit_items;
    s->done = s->failed = false;
    memset(&s->error, 0, sizeof s->error);
}

/* The first unit of a pass after another one: all of that must be in. */
static int begin_pass(struct pq_engine *g, struct pq_error *e)
{
    if (g->unit > 0)
        return 0;
    if (g->pass > 0 && g->live[g->step])
        wait_for_tickets(g, g->live[g->step]->pass_end);
    pthread_mutex_lock(&g->lock);
    const size_t closed = g->closed;
    const bool failed = g->failed;
    pthread_mutex_unlock(&g->lock);
    if (failed)
        return 0;
    if (!g->gathering)
        pq_engine_drop(g, closed);
    return pq_live_open(g, g->step, e);
}

/* From the gathering round to the emitting one. */
static int change_round(struct pq_engine *g, struct pq_error *e)
{
    const bool failed = wait_for_tickets(g, g->next_ticket);

    g->gathering = false;
    g->closed = 0; /* inputs are forgotten after the second round only */
    g->step = g->unit = 0;
    g->pass = g->plan->n_steps ? g->plan->steps[0].n_gather : 0;
    return failed || !g->plan->between ? 0 : g->plan->between(g->plan, e);
}

static int draw_unit(struct pq_engine *g, struct pq_slot *s)
{
    slot_aim(g, s);
    int rc = begin_pass(g, &s->error);

    if (!rc && g->run->cancel && *g->run->cancel)
        rc = pq_fail(&s->error, PQ_ECANCEL, "stopped by a signal");
    if (!rc && g->live[g->step]) {
        pq_slot_lay_out(g, s);
        rc = pq_engine_read(g, s, true, &s->error);
    }
    return rc;
}

/* The next ticket, or NULL when there is none or the run has failed. */
static struct pq_slot *draw(struct pq_engine *g)
{
    struct pq_slot *s = NULL;
    struct pq_error e = PQ_ERROR_INIT;
    int rc = 0;

    pthread_mutex_lock(&g->drawing);
    bool more = !g->drained && cursor_settle(g);
    if (!more && !g->drained && g->gathering) {
        rc = change_round(g, &e);
        more = rc || cursor_settle(g);
    }
    if (more) {
        s = &g->slots[g->next_ticket % g->n_slots];
        wait_for_slot(g, s);
        if (!rc)
            rc = draw_unit(g, s);
        else
            s->error = e;
        s->failed = rc != 0;
    }
    pthread_mutex_lock(&g->lock);
    if (!more || g->failed) {
        s = NULL;
        g->drained = true;
    } else {
        s->busy = true;
        g->next_ticket++;
        if (rc) {
            g->drained = true;
        } else {
            if (s->last)
                g->live[s->step]->pass_end = g->next_ticket;
            cursor_next(g);
        }
    }
    pthread_mutex_unlock(&g->lock);
    pthread_mutex_unlock(&g->drawing);
    return s;
}

/* ---- computing and retiring -------------------------------------------- */

/* The step's own function on a unit; its failures get their place here. */
static int call(const struct pq_step *step, struct pq_slot *s,
                const void *state, struct pq_error *e)
{
    const int rc = s->pass < step->n_gather
                       ? step->gather(step, s->pass, &s->unit, state, e)
                       : step->emit(step, &s->unit, state, e);

    if (rc && step->n_in)
        pq_error_in(e, "%s: tensor %s", step->in[0].source->name, step->name);
    return rc;
}

static int compute(struct pq_engine *g, struct pq_slot *s, struct pq_error *e)
{
    const struct pq_step *step = &g->plan->steps[s->step];
    struct pq_live *l = g->live[s->step];

    if (step->items == 0)
        return 0;
    if (pq_engine_read(g, s, false, e) || call(step, s, l->state, e))
        return -1;
    if (s->pass < step->n_gather || !pq_plan_writes(g->plan))
        return 0;
    return pq_engine_spool(g, s, l, e);
}

/* The last unit of the last pass is in: finish, report, forget. */
static int close_step(struct pq_engine *g, size_t i, bool emitted,
                      struct pq_error *e)
{
    const struct pq_step *s = &g->plan->steps[i];

    if (emitted && pq_plan_writes(g->plan) &&
        pq_engine_close_outputs(g, s, g->live[i], e))
        return -1;
    return s->done ? s->done(s, g->live[i]->state, e) : 0;
}

static int retire(struct pq_engine *g, struct pq_slot *s, struct pq_error *e)
{
    const struct pq_step *step = &g->plan->steps[s->step];
    struct pq_live *l = g->live[s->step];

    if (step->items && step->combine && step->partial_bytes &&
        step->combine(step, s->pass, l->state, s->unit.partial, e))
        return -1;
    if (step->items && s->pass == step->n_gather &&
        pq_plan_writes(g->plan) && pq_engine_write(g, s, l, e))
        return -1;
    for (size_t i = 0; i < step->n_in; i++)
        if (step->in[i].access != PQ_WHOLE)
            g->bytes_done += s->in_bytes[i];
    if (g->run->progress)
        g->run->progress(g->run->progress_arg, g->bytes_done, g->bytes_total);
    if (!s->last || s->pass + 1 < pq_step_passes(step))
        return 0;
    return close_step(g, s->step, s->pass == step->n_gather, e);
}

/* Notes the first failure in plan order and stops the drawing. */
static void fail(struct pq_engine *g, const struct pq_error *e)
{
    g->error = *e;
    g->failed = true;
}

/* Called with `lock` held; lets go of it while it works. */
static void retire_ready(struct pq_engine *g)
{
    for (;;) {
        struct pq_slot *s = &g->slots[g->turn % g->n_slots];
        if (g->failed || !s->busy || !s->done)
            return;
        struct pq_error e = s->error;
        pthread_mutex_unlock(&g->lock);
        const int rc = s->failed ? -1 : retire(g, s, &e);
        const size_t step = s->step;
        const bool closed = !rc && s->last &&
                            s->pass + 1 == pq_step_passes(&g->plan->steps[step]);
        if (closed)
            pq_live_free(g, step);
        pthread_mutex_lock(&g->lock);
        if (rc)
            fail(g, &e);
        if (closed)
            g->closed = step + 1;
        s->busy = false;
        g->turn++;
        if (g->waiting)
            pthread_cond_broadcast(&g->changed);
    }
}

static void *worker(void *arg)
{
    struct pq_engine *g = arg;
    struct pq_slot *s;

    while ((s = draw(g)) != NULL) {
        if (!s->failed && compute(g, s, &s->error))
            s->failed = true;
        pthread_mutex_lock(&g->lock);
        s->done = true;
        if (!g->retiring) {
            g->retiring = true;
            retire_ready(g);
            g->retiring = false;
        }
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_lock(&g->lock);
    g->running--;
    pthread_cond_signal(&g->stopped);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* ---- the run ----------------------------------------------------------- */

/*
 * Waits for the workers.  When a signal came, sends it to each again and
 * again: one may sit in a read from a pipe, which only a signal interrupts.
 */
static void wait_workers(struct pq_engine *g, const pthread_t *t, size_t n)
{
    pthread_mutex_lock(&g->lock);
    while (g->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += CANCEL_TICK;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&g->stopped, &g->lock, &until);
        if (g->running > 0 && g->run->cancel && *g->run->cancel)
            for (size_t i = 0; i < n; i++)
                pthread_kill(t[i], *g->run->cancel);
    }
    pthread_mutex_unlock(&g->lock);
}

static int work(struct pq_engine *g, struct pq_error *e)
{
    const size_t want = g->run->threads ? g->run->threads : 1;
    pthread_t *t = pq_alloc(want, sizeof *t);
    size_t n = 0;

    if (!t)
        return pq_fail_nomem(e);
    pthread_mutex_lock(&g->lock);
    for (; n < want; n++) {
        if (pthread_create(&t[n], NULL, worker, g))
            break;
        g->running++;
    }
    pthread_mutex_unlock(&g->lock);
    if (n == 0) {
        free(t);
        return pq_fail(e, PQ_ENOMEM, "cannot start a thread");
    }
    wait_workers(g, t, n);
    for (size_t i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    free(t);
    if (!g->failed)
        return 0;
    *e = g->error;
    return -1;
}

static void count_bytes(struct pq_engine *g)
{
    for (size_t i = 0; i < g->plan->n_steps; i++) {
        const struct pq_step *s = &g->plan->steps[i];
        for (size_t k = 0; k < s->n_in; k++)
            if (s->in[k].access != PQ_WHOLE)
                g->bytes_total += s->in[k].part->bytes * pq_step_passes(s);
    }
}

static int prepare(struct pq_engine *g, struct pq_error *e)
{
    g->live = pq_zalloc(g->plan->n_steps, sizeof *g->live);
    if (!g->live)
        return pq_fail_nomem(e);
    g->gathering = g->plan->gather_first;
    count_bytes(g);
    if (pq_engine_slots(g, e) || pq_engine_feeds(g, e))
        return -1;
    return pq_engine_places(g, e);
}

static void engine_release(struct pq_engine *g)
{
    for (size_t i = 0; g->live && i < g->plan->n_steps; i++)
        pq_live_free(g, i);
    pq_engine_slots_free(g);
    free(g->live);
    pq_engine_feeds_free(g);
    pq_engine_places_free(g);
    pthread_mutex_destroy(&g->drawing);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->changed);
    pthread_cond_destroy(&g->stopped);
}

/* Everything between the sinks' begin and their finish. */
static int run_steps(struct pq_engine *g, struct pq_error *e)
{
    const struct pq_plan *p = g->plan;

    if (work(g, e) || pq_engine_write_deferred(g, e))
        return -1;
    for (size_t i = 0; i < p->n_sources; i++)
        if (pq_source_finish(p->sources[i], e))
            return -1;
    return 0;
}

int pq_engine_run(struct pq_plan *p, const struct pq_run *r, struct pq_error *e)
{
    struct pq_engine g = {.plan = p, .run = r};
    struct pq_error local = PQ_ERROR_INIT;
    struct pq_error *err = e ? e : &local;

    pthread_mutex_init(&g.drawing, NULL);
    pthread_mutex_init(&g.lock, NULL);
    pthread_cond_init(&g.changed, NULL);
    pthread_cond_init(&g.stopped, NULL);
    int rc = prepare(&g, err);
    if (!rc)
        rc = pq_engine_begin(&g, err);
    if (!rc)
        rc = run_steps(&g, err);
    if (!rc)
        rc = pq_engine_finish(&g, err);
    if (rc)
        pq_engine_abort(&g, err);
    engine_release(&g);
    return rc;
}
