/*
 * The engine: order, passes, trailing parts, failures; with files and pipes
 * on either side, any number of threads, any memory.
 */
#include "fake.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 10007u /* elements of the test tensors: no multiple of a unit */

static float *ramp(size_t n, float scale)
{
    float *x = malloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = scale * (float)i;
    return x;
}

/* out = 2 * in, and a trailing part with the first element of each unit. */
static int emit_double(const struct pq_step *s, const struct pq_unit *u,
                       const void *state, struct pq_error *e)
{
    const float *x = u->in[0];
    float *y = u->out[0];

    (void)state;
    for (size_t i = 0; i < u->count; i++)
        y[i] = 2 * x[i];
    if (s->n_out > 1)
        for (size_t i = 0; i < u->count; i++)
            ((float *)u->out[1])[i] = -x[i];
    if (s->params && u->first >= *(const uint64_t *)s->params)
        return pq_fail(e, PQ_EVALUE, "unit %llu is bad",
                       (unsigned long long)u->first);
    return 0;
}

static int gather_sum(const struct pq_step *s, unsigned pass,
                      const struct pq_unit *u, const void *state,
                      struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)state;
    (void)e;
    for (size_t i = 0; i < u->count; i++)
        *(double *)u->partial += (double)((const float *)u->in[0])[i];
    return 0;
}

static int combine_sum(const struct pq_step *s, unsigned pass, void *state,
                       const void *partial, struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)e;
    /* order matters: a sum with decay */
    *(double *)state = *(double *)state * 0.5 + *(const double *)partial;
    return 0;
}

static int emit_minus_sum(const struct pq_step *s, const struct pq_unit *u,
                          const void *state, struct pq_error *e)
{
    (void)s;
    (void)e;
    for (size_t i = 0; i < u->count; i++)
        ((float *)u->out[0])[i] =
            ((const float *)u->in[0])[i] - (float)*(const double *)state;
    return 0;
}

/* Replaces the trailing part: the sum of it, repeated. */
static int finish_sum(const struct pq_step *s, void *state, struct pq_trail *t,
                      struct pq_error *e)
{
    float *x = malloc(N * sizeof *x), sum = 0;
    int rc = pq_trail_read(t, 1, 0, x, N * sizeof *x, e);

    (void)s;
    (void)state;
    for (size_t i = 0; !rc && i < N; i++)
        sum += x[i];
    for (size_t i = 0; i < N; i++)
        x[i] = sum;
    if (!rc)
        rc = pq_trail_write(t, 1, 0, x, N * sizeof *x, e);
    free(x);
    return rc;
}

struct setup {
    bool pipe_in, pipe_out;
    unsigned threads;
    uint64_t memory;
    uint64_t unit;
};

struct bench {
    struct fake_source in;
    struct pq_catalog out;
    struct fake_sink sink;
    struct pq_plan plan;
    struct pq_source *source;
};

/* An output tensor with `n_parts` F32 parts of N elements. */
static void declare(struct bench *b, const char *name, size_t n_parts)
{
    const uint64_t n = N;
    struct pq_tensor *t = pq_catalog_add(&b->out, name, n_parts, NULL);

    t->dtype = PQ_F32;
    t->rank = 1;
    t->shape = pq_catalog_shape(&b->out, &n, 1);
    t->n_elements = N;
    for (size_t i = 0; i < n_parts; i++) {
        t->parts[i].name = t->name;
        t->parts[i].dtype = PQ_F32;
        t->parts[i].rank = 1;
        t->parts[i].shape = t->shape;
        t->parts[i].bytes = N * sizeof(float);
    }
}

static void start(struct bench *b, const struct setup *s, size_t tensors)
{
    const uint64_t n = N;

    memset(b, 0, sizeof *b);
    fake_source_init(&b->in, s->pipe_in);
    pq_catalog_init(&b->out);
    for (size_t i = 0; i < tensors; i++) {
        char name[] = "t0";
        name[1] = (char)('0' + i);
        float *x = ramp(N, (float)(i + 1));
        fake_source_add(&b->in, name, PQ_F32, 1, &n, x);
        free(x);
    }
    b->source = &b->in.base;
    b->plan.sources = &b->source;
    b->plan.n_sources = 1;
}

static struct pq_step *add(struct bench *b, const struct setup *s, size_t i,
                           size_t n_out)
{
    struct pq_step *step = pq_plan_step(&b->plan, 1, n_out, NULL);

    step->name = b->in.catalog.tensors[i].name;
    step->tensor = i;
    step->items = N;
    step->unit_items = s->unit;
    step->in[0].source = b->source;
    step->in[0].part = &b->in.catalog.tensors[i].parts[0];
    step->in[0].item_bits = 32;
    for (size_t k = 0; k < n_out; k++) {
        step->out[k].part = k;
        step->out[k].item_bits = 32;
        step->out[k].trail = k > 0;
    }
    return step;
}

static int run(struct bench *b, const struct setup *s, struct pq_error *e)
{
    const struct pq_run r = {.threads = s->threads, .memory = s->memory};

    if (b->out.n_tensors) {
        fake_sink_init(&b->sink, &b->out, !s->pipe_out, -1);
        b->plan.sink = &b->sink.base;
    }
    return pq_engine_run(&b->plan, &r, e);
}

static void stop(struct bench *b)
{
    pq_plan_release(&b->plan);
    if (b->plan.sink || b->sink.bytes)
        fake_sink_release(&b->sink);
    pq_catalog_release(&b->out);
    fake_source_release(&b->in);
}

/* Every way to run: calls `check` with each setup. */
static void every_way(void (*check)(const struct setup *s))
{
    static const uint64_t units[] = {1, 64, 1000, N, 2 * N};
    static const uint64_t memories[] = {1 << 19, 64 << 20};

    for (int ways = 0; ways < 4; ways++)
        for (unsigned threads = 1; threads <= 9; threads += 4)
            for (size_t u = 1; u < sizeof units / sizeof *units; u++)
                for (size_t m = 0; m < 2; m++) {
                    const struct setup s = {ways & 1, ways & 2, threads,
                                            memories[m], units[u]};
                    check(&s);
                }
}

static void check_trail(const struct setup *s)
{
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;

    start(&b, s, 3);
    for (size_t i = 0; i < 3; i++) {
        declare(&b, b.in.catalog.tensors[i].name, 2);
        add(&b, s, i, 2)->emit = emit_double;
    }
    cr_assert_eq(run(&b, s, &e), 0, "%s", e.msg);
    cr_expect(b.sink.finished && !b.sink.aborted && !b.sink.out_of_order);
    cr_expect(b.in.finished);
    for (size_t i = 0; i < 3; i++) {
        const float *y = fake_sink_part(&b.sink, i, 0);
        const float *z = fake_sink_part(&b.sink, i, 1);
        for (size_t k = 0; k < N; k++) {
            const float x = (float)(i + 1) * (float)k;
            cr_assert_eq(y[k], 2 * x);
            cr_assert_eq(z[k], -x);
        }
    }
    stop(&b);
}

Test(engine, trailing_parts)
{
    every_way(check_trail);
}

static void check_finish(const struct setup *s)
{
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;
    float sum = 0;

    start(&b, s, 2);
    for (size_t i = 0; i < 2; i++) {
        declare(&b, b.in.catalog.tensors[i].name, 2);
        struct pq_step *step = add(&b, s, i, 2);
        step->emit = emit_double;
        step->finish = finish_sum;
    }
    cr_assert_eq(run(&b, s, &e), 0, "%s", e.msg);
    cr_expect_not(b.sink.out_of_order);
    for (size_t k = 0; k < N; k++)
        sum += -2 * (float)k;
    cr_expect_eq(((const float *)fake_sink_part(&b.sink, 1, 1))[77], sum);
    stop(&b);
}

Test(engine, finish_replaces_trailing_parts)
{
    every_way(check_finish);
}

/* The reference for the gathered value, units in order. */
static double decayed(float scale, uint64_t unit)
{
    double all = 0;

    for (uint64_t at = 0; at < N; at += unit) {
        double sum = 0;
        for (uint64_t i = at; i < at + unit && i < N; i++)
            sum += (double)(scale * (float)i);
        all = all * 0.5 + sum;
    }
    return all;
}

static void check_gather(const struct setup *s)
{
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;

    for (int first = 0; first < 2; first++) {
        start(&b, s, 3);
        b.plan.gather_first = first;
        for (size_t i = 0; i < 3; i++) {
            declare(&b, b.in.catalog.tensors[i].name, 1);
            struct pq_step *step = add(&b, s, i, 1);
            step->n_gather = 1;
            step->gather = gather_sum;
            step->combine = combine_sum;
            step->emit = emit_minus_sum;
            step->partial_bytes = step->state_bytes = sizeof(double);
        }
        /* the emit pass has a partial of zero: it halves the state once more
           a unit, after the value was used */
        cr_assert_eq(run(&b, s, &e), 0, "%s", e.msg);
        const float want = 3 * 5.0f - (float)decayed(3, s->unit);
        if (s->unit >= N)
            cr_expect_eq(((const float *)fake_sink_part(&b.sink, 2, 0))[5],
                         want);
        cr_expect_not(b.sink.out_of_order);
        stop(&b);
    }
}

Test(engine, gathers_in_order_also_from_a_pipe)
{
    every_way(check_gather);
}

static int n_done;
static double last_sum;

static int note_done(const struct pq_step *s, void *state, struct pq_error *e)
{
    (void)s;
    (void)e;
    n_done++;
    last_sum = *(double *)state;
    return 0;
}

static void check_gather_only(const struct setup *s)
{
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;

    start(&b, s, 2);
    n_done = 0;
    for (size_t i = 0; i < 2; i++) {
        struct pq_step *step = add(&b, s, i, 0);
        step->n_gather = 1;
        step->gather = gather_sum;
        step->combine = combine_sum;
        step->done = note_done;
        step->partial_bytes = step->state_bytes = sizeof(double);
    }
    cr_assert_eq(run(&b, s, &e), 0, "%s", e.msg);
    cr_expect_eq(n_done, 2);
    cr_expect_eq(last_sum, decayed(2, s->unit));
    stop(&b);
}

Test(engine, a_plan_that_only_gathers)
{
    every_way(check_gather_only);
}

static void check_failure(const struct setup *s)
{
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;
    const uint64_t bad = N / 2;

    start(&b, s, 3);
    for (size_t i = 0; i < 3; i++) {
        declare(&b, b.in.catalog.tensors[i].name, 1);
        struct pq_step *step = add(&b, s, i, 1);
        step->emit = emit_double;
        step->params = i == 1 ? &bad : NULL;
    }
    const bool fails = (N - 1) / s->unit * s->unit >= bad;
    const int rc = run(&b, s, &e);
    cr_expect_eq(rc, fails ? -1 : 0);
    cr_expect_eq(b.sink.aborted, fails);
    cr_expect_eq(b.sink.finished, !fails);
    if (fails) {
        /* always the first bad unit in order, whatever thread found it */
        char want[64];
        snprintf(want, sizeof want, "fake: tensor t1: unit %llu is bad",
                 (unsigned long long)((bad + s->unit - 1) / s->unit * s->unit));
        cr_expect_str_eq(e.msg, want);
    }
    stop(&b);
}

Test(engine, the_first_failure_in_order_is_reported)
{
    every_way(check_failure);
}

Test(engine, truncated_input_and_full_output)
{
    const struct setup s = {true, true, 4, 64 << 20, 512};
    struct bench b;

    for (uint64_t at = 1; at < N * 8; at += 997) {
        for (int side = 0; side < 2; side++) {
            struct pq_error e = PQ_ERROR_INIT;
            start(&b, &s, 2);
            for (size_t i = 0; i < 2; i++) {
                declare(&b, b.in.catalog.tensors[i].name, 1);
                add(&b, &s, i, 1)->emit = emit_double;
            }
            fake_sink_init(&b.sink, &b.out, false, -1);
            b.plan.sink = &b.sink.base;
            *(side ? &b.in.fail_at : &b.sink.fail_at) = at;
            const struct pq_run r = {.threads = 3, .memory = 1 << 20};
            cr_assert_eq(pq_engine_run(&b.plan, &r, &e), -1);
            cr_expect_eq(e.code, side ? PQ_ETRUNCATED : PQ_EIO);
            cr_expect(b.sink.aborted && !b.sink.finished);
            stop(&b);
        }
    }
}

Test(engine, cancel_stops_the_run)
{
    const struct setup s = {false, false, 2, 1 << 20, 64};
    struct bench b;
    struct pq_error e = PQ_ERROR_INIT;
    /* no handler is needed: signal 0 only asks whether the thread lives */
    volatile int cancel = 0;

    start(&b, &s, 1);
    declare(&b, "t0", 1);
    add(&b, &s, 0, 1)->emit = emit_double;
    fake_sink_init(&b.sink, &b.out, true, -1);
    b.plan.sink = &b.sink.base;
    const struct pq_run r = {.threads = 2, .memory = 1 << 20, .cancel = &cancel};
    cancel = SIGURG; /* ignored by default */
    cr_expect_eq(pq_engine_run(&b.plan, &r, &e), -1);
    cr_expect_eq(e.code, PQ_ECANCEL);
    cr_expect(b.sink.aborted);
    stop(&b);
}

/* ---- side outputs ------------------------------------------------------ */

/* A mask beside the copy: bit i is 1 where element i is not a multiple of 3. */
struct sided {
    struct pq_catalog catalog;
    struct fake_sink sink;
    struct pq_sink *list[1];
};

static int emit_sided(const struct pq_step *s, const struct pq_unit *u,
                      const void *state, struct pq_error *e)
{
    const size_t mask = s->n_out - 1;
    uint8_t *bits = u->out[mask];

    (void)state;
    (void)e;
    if (mask)
        memcpy(u->out[0], u->in[0], (size_t)u->count * sizeof(float));
    memset(bits, 0, (size_t)u->out_bytes[mask]);
    for (size_t i = 0; i < u->count; i++)
        bits[i / 8] |= (uint8_t)(((u->first + i) % 3 != 0) << i % 8);
    return 0;
}

static void declare_bits(struct pq_catalog *c, const char *name, uint64_t n)
{
    struct pq_tensor *t = pq_catalog_add(c, name, 1, NULL);

    t->dtype = t->parts[0].dtype = PQ_U8;
    t->rank = t->parts[0].rank = 1;
    t->shape = t->parts[0].shape = pq_catalog_shape(c, &n, 1);
    t->n_elements = t->parts[0].bytes = n;
    t->parts[0].name = t->name;
}

/* Of three tensors the second has no mask; without `main` only masks go out. */
static void start_sided(struct bench *b, struct sided *side,
                        const struct setup *s, bool main)
{
    start(b, s, 3);
    pq_catalog_init(&side->catalog);
    for (size_t i = 0; i < 3; i++) {
        const bool masked = !main || i != 1;
        struct pq_step *step = add(b, s, i, (main ? 1u : 0u) + masked);
        if (main)
            declare(b, step->name, 1);
        step->emit = masked ? emit_sided : emit_double;
        if (!masked)
            continue;
        struct pq_output *o = &step->out[step->n_out - 1];
        o->part = 0;
        o->item_bits = 1;
        o->trail = false;
        o->sink = 1;
        o->tensor = side->catalog.n_tensors;
        declare_bits(&side->catalog, step->name, (N + 7) / 8);
    }
    fake_sink_init(&side->sink, &side->catalog, !s->pipe_out, -1);
    side->list[0] = &side->sink.base;
    b->plan.sides = side->list;
    b->plan.n_sides = 1;
}

static void stop_sided(struct bench *b, struct sided *side)
{
    stop(b);
    fake_sink_release(&side->sink);
    pq_catalog_release(&side->catalog);
}

static void check_sides(const struct setup *s)
{
    for (int main = 0; main < 2; main++) {
        struct bench b;
        struct sided side;
        struct pq_error e = PQ_ERROR_INIT;

        start_sided(&b, &side, s, main);
        cr_assert_eq(run(&b, s, &e), 0, "%s", e.msg);
        cr_expect(side.sink.finished && !side.sink.aborted);
        cr_expect_not(side.sink.out_of_order);
        cr_expect_eq(b.sink.finished, main);
        for (size_t t = 0; t < side.catalog.n_tensors; t++) {
            const uint8_t *bits = fake_sink_part(&side.sink, t, 0);
            for (size_t i = 0; i < N; i++)
                cr_assert_eq(bits[i / 8] >> i % 8 & 1, i % 3 != 0);
        }
        for (size_t t = 0; t < b.out.n_tensors; t++)
            cr_expect_eq(((const float *)fake_sink_part(&b.sink, t, 0))[100],
                         100 * (float)(t == 1 ? 4 : t + 1));
        stop_sided(&b, &side);
    }
}

Test(engine, side_outputs_beside_the_main_one_and_alone)
{
    every_way(check_sides);
}

Test(engine, a_side_output_that_fails_takes_the_main_one_with_it)
{
    const struct setup s = {true, true, 3, 1 << 20, 512};

    for (int at = 0; at < 6; at++) {
        struct bench b;
        struct sided side;
        struct pq_error e = PQ_ERROR_INIT;

        start_sided(&b, &side, &s, true);
        fake_sink_init(&b.sink, &b.out, false, -1);
        b.plan.sink = &b.sink.base;
        side.sink.fail_at = at == 0 ? 1300 : 0;
        side.sink.fail_finish = at == 1;
        b.sink.fail_at = at == 2 ? 70000 : 0;
        b.sink.fail_finish = at == 3;
        side.sink.fail_seal = at == 4;
        b.sink.fail_seal = at == 5;
        const struct pq_run r = {.threads = s.threads, .memory = s.memory};
        cr_assert_eq(pq_engine_run(&b.plan, &r, &e), -1);
        cr_expect(b.sink.aborted && !b.sink.finished);
        /* the main one is the last to be finished: only then is a side done */
        cr_expect_eq(side.sink.sealed, at == 1 || at == 3 || at == 5);
        cr_expect_eq(side.sink.finished, at == 3);
        cr_expect_eq(side.sink.aborted, at != 3);
        stop_sided(&b, &side);
    }
}

Test(engine, a_side_output_does_not_trail)
{
    const struct setup s = {false, false, 1, 1 << 20, 512};
    struct bench b;
    struct sided side;
    struct pq_error e = PQ_ERROR_INIT;

    start_sided(&b, &side, &s, true);
    b.plan.steps[0].out[1].trail = true;
    cr_expect_eq(run(&b, &s, &e), -1);
    cr_expect_eq(e.code, PQ_EARG);
    cr_expect(side.sink.aborted && b.sink.aborted);
    stop_sided(&b, &side);
}
