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

/* The parts of an encoded tensor become tensors, which folding joins. */
Test(made, takes_encoded_tensors)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_run run = {.threads = 2, .memory = 1 << 20};
    const struct pq_spec nf4 = {
        .encoding = PQ_NF4, .block = 64, .double_quant = true};
    const struct pq_quant q = {.kernels = pq_kernels_best()};
    const uint64_t shape[2] = {8, 64};
    struct pq_source *from = NULL, *s = NULL, *plain = NULL;
    struct pq_catalog out;
    struct pq_plan plan = {.sources = &from, .n_sources = 1};
    float x[512], y[512];

    for (size_t i = 0; i < 512; i++)
        x[i] = i % 64 == 0 ? 1.0f : i % 2 ? 0.0f : -1.0f; /* exact in NF4 */
    cr_assert_eq(pq_lent_new("lent", 1, &from, &e), 0);
    const struct pq_tensor *in =
        pq_lent_add(from, "a.weight", shape, 2, x, &e);
    cr_assert(in);
    pq_catalog_init(&out);
    cr_assert(pq_quant_declare(&out, in, &nf4, false, &e));
    cr_assert(pq_step_encode(&plan, from, in, &out, 0, &nf4, false, &q, &e));
    cr_assert_eq(pq_made_new("made", 16, 1 << 20, NULL, &s, &e), 0);
    cr_assert_eq(pq_made_sink(s, &out, &plan.sink, &e), 0, "%s", e.msg);
    cr_assert_eq(pq_engine_run(&plan, &run, &e), 0, "%s", e.msg);
    cr_assert_eq(s->catalog->n_tensors, out.tensors[0].n_parts);
    cr_assert_eq(pq_fold(s, 1 << 20, NULL, &e), 0, "%s", e.msg);
    cr_assert_eq(s->catalog->n_tensors, 1);
    cr_assert_eq(s->catalog->tensors[0].codec.encoding, PQ_NF4);
    cr_assert_eq(pq_decoded_new(s, q.kernels, 1 << 20, NULL, &plain, &e), 0);
    cr_assert_eq(pq_source_read(plain, plain->catalog->tensors[0].parts, 0, y,
                                sizeof y, &e),
                 0, "%s", e.msg);
    for (size_t i = 0; i < 512; i++)
        cr_assert_float_eq(x[i], y[i], 1e-2);
    pq_sink_free(plan.sink);
    plan.sink = NULL;
    plan.sources = NULL;
    pq_plan_release(&plan);
    pq_catalog_release(&out);
    pq_source_free(plain);
    pq_source_free(s);
    pq_source_free(from);
}

/* ---- lent ---------------------------------------------------------------- */

Test(made, lends_arrays)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    const float a[6] = {0, 1, 2, 3, 4, 5}, b[2] = {6, 7};
    const uint64_t two[2] = {2, 3}, one[1] = {2};
    float x[2];

    cr_assert_eq(pq_lent_new("lent", 2, &s, &e), 0);
    cr_assert(pq_lent_add(s, "a", two, 2, a, &e));
    const struct pq_tensor *t = pq_lent_add(s, "b", one, 1, b, &e);
    cr_assert(t);
    cr_assert(!pq_lent_add(s, "c", one, 1, b, &e));
    cr_assert_eq(e.code, PQ_ELIMIT);
    cr_assert_eq(pq_source_read(s, t->parts, 0, x, 8, &e), 0);
    cr_assert(x[0] == 6 && x[1] == 7);
    cr_assert_eq(pq_source_read(s, s->catalog->tensors[0].parts, 12, x, 8, &e),
                 0);
    cr_assert(x[0] == 3 && x[1] == 4);
    pq_source_free(s);
}
