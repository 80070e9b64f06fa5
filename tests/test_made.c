/* Tensors that the program made, read back as a source. */
#include <criterion/criterion.h>

#include <string.h>

#include "pq_made.h"

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
