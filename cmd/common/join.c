/*
 * Joining two lists of names; see join.h.  Exact names come first, so that
 * "x" and "model.x" of one model never meet in the other.
 */
#include "join.h"

#include "pq_names.h"

#include <stdlib.h>

struct join {
    struct pq_names exact, bare;
    bool *used; /* [n_a] */
};

static int add_bare(struct join *j, const char *const *a, size_t n_a,
                    struct pq_error *e)
{
    for (size_t i = 0; i < n_a; i++)
        if (!j->used[i] &&
            pq_names_add(&j->bare, pq_name_bare(a[i]), i, NULL, e) < 0)
            return -1;
    return 0;
}

static int join(struct join *j, const char *const *a, size_t n_a,
                const char *const *b, size_t n_b, size_t *to_a,
                struct pq_error *e)
{
    for (size_t i = 0; i < n_a; i++)
        if (pq_names_add(&j->exact, a[i], i, NULL, e) < 0)
            return -1;
    for (size_t i = 0; i < n_b; i++) {
        to_a[i] = pq_names_find(&j->exact, b[i]);
        if (to_a[i] != SIZE_MAX)
            j->used[to_a[i]] = true;
    }
    if (add_bare(j, a, n_a, e))
        return -1;
    for (size_t i = 0; i < n_b; i++) {
        if (to_a[i] != SIZE_MAX)
            continue;
        const size_t k = pq_names_find(&j->bare, pq_name_bare(b[i]));
        if (k == SIZE_MAX || j->used[k])
            continue;
        j->used[k] = true;
        to_a[i] = k;
    }
    return 0;
}

int cmd_join(const char *const *a, size_t n_a, const char *const *b,
             size_t n_b, size_t *to_a, struct pq_error *e)
{
    struct join j = {.used = pq_zalloc(n_a, sizeof *j.used)};
    const int rc = j.used ? join(&j, a, n_a, b, n_b, to_a, e) : -1;

    pq_names_release(&j.exact);
    pq_names_release(&j.bare);
    free(j.used);
    return rc ? pq_fail_nomem(e) : 0;
}
