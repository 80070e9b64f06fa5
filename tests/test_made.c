/* Tensors that the program made, read back as a source. */
#include <criterion/criterion.h>

#include <string.h>

#include "pq_made.h"
#include "pq_quant.h"

static struct pq_source *make(uint64_t memory)
{
    struct pq_source *s = NULL;
    struct pq_error e = PQ_ERROR_INIT;
    const float a[6] = {0, 1, 2, 3, 4, 5}, b[2] = {6, 7};
    const uint64_t two[2] = {2, 3}, none[1] = {0}, one[1] = {2};

    cr_assert_eq(pq_made_new("made", 3, memory, NULL, &s, &e), 0);
    cr_assert(pq_made_add(s, "a", PQ_F32, two, 2, a, &e));
    cr_assert(pq_made_add(s, "none", PQ_F32, none, 1, a, &e));
    cr_assert(pq_made_add(s, "b", PQ_F32, one, 1, b, &e));
    return s;
}

static void check(struct pq_source *s)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_tensor *t = s->catalog->tensors;
    float x[4];

    cr_assert_eq(s->catalog->n_tensors, 3);
    cr_assert_eq(pq_source_read(s, t[0].parts, 8, x, 16, &e), 0);
    cr_assert(x[0] == 2 && x[3] == 5);
    cr_assert_eq(pq_source_read(s, t[1].parts, 0, x, 0, &e), 0);
    cr_assert_eq(pq_source_read(s, t[2].parts, 4, x, 4, &e), 0);
    cr_assert_eq(x[0], 7);
}

Test(made, reads_back)
{
    struct pq_source *s = make(1 << 20);

    check(s);
    pq_source_free(s);
}

Test(made, goes_to_a_file_when_memory_is_spent)
{
    struct pq_source *s = make(0);

    check(s);
    pq_source_free(s);
}

Test(made, has_room_for_what_was_said)
{
    struct pq_source *s = make(1 << 20);
    struct pq_error e = PQ_ERROR_INIT;
    const uint64_t one[1] = {1};
    const float x = 0;

    cr_assert(!pq_made_add(s, "c", PQ_F32, one, 1, &x, &e));
    cr_assert_eq(e.code, PQ_ELIMIT);
    cr_assert_eq(s->catalog->n_tensors, 3);
    pq_source_free(s);
}

/* ---- written by a plan ------------------------------------------------- */

static int fill(const struct pq_step *s, const struct pq_unit *u,
                const void *state, struct pq_error *e)
{
    float *x = u->out[0];

    (void)s;
    (void)state;
    (void)e;
    for (uint64_t i = 0; i < u->count; i++)
        x[i] = (float)(u->first + i);
    return 0;
}

Test(made, takes_what_a_plan_writes)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_run run = {.threads = 2, .memory = 1 << 20};
    const struct pq_spec f32 = {.dtype = PQ_F32};
    const uint64_t shape[2] = {10, 7}, two[1] = {2};
    struct pq_part part = {0};
    const struct pq_tensor like = {.name = "x", .dtype = PQ_F32, .rank = 2,
                                   .shape = shape, .n_elements = 70,
                                   .parts = &part, .n_parts = 1};
    struct pq_source *s = NULL;
    struct pq_catalog out;
    struct pq_plan plan = {0};
    float x[70];

    pq_catalog_init(&out);
    cr_assert(pq_quant_declare(&out, &like, &f32, false, &e));
    cr_assert_eq(pq_made_new("made", 2, 1 << 20, NULL, &s, &e), 0);
    cr_assert(pq_made_add(s, "before", PQ_F32, two, 1, x, &e));
    cr_assert_eq(pq_made_sink(s, &out, &plan.sink, &e), 0, "%s", e.msg);
    struct pq_step *step = pq_plan_step(&plan, 0, 1, &e);
    step->name = "x";
    step->emit = fill;
    step->items = 70;
    step->unit_items = 9;
    step->out[0].item_bits = 32;
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    pq_sink_free(plan.sink);
    plan.sink = NULL;
    const struct pq_tensor *t = &s->catalog->tensors[1];
    cr_assert_eq(pq_source_read(s, &t->parts[0], 0, x, sizeof x, &e), 0);
    for (size_t i = 0; i < 70; i++)
        cr_assert_eq(x[i], (float)i);
    cr_assert_eq(pq_made_sink(s, &out, &plan.sink, &e), -1);
    cr_assert_eq(e.code, PQ_ELIMIT);
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    pq_source_free(s);
}
