/*
 * Factors that were found, kept for a second plan, and their ranks.
 *
 * Both are kept as rows, the largest singular value first, each times its
 * root, so that a smaller rank is a shorter tensor and nothing else:
 *
 *     a  [kept][cols]  sqrt(s_i) v_i        bt  [kept][rows]  sqrt(s_i) u_i
 */
#include "pq_ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int pq_ranking_init(struct pq_ranking *f, size_t n, uint64_t memory,
                    const char *tmpdir, struct pq_error *e)
{
    f->factors = pq_zalloc(n, sizeof *f->factors);
    if (!f->factors)
        return pq_fail_nomem(e);
    f->cap = n;
    return pq_made_new("factors", 2 * n, memory, tmpdir, &f->made, e);
}

void pq_ranking_release(struct pq_ranking *f)
{
    pq_source_free(f->made);
    free(f->factors);
    pq_arena_release(&f->arena);
    memset(f, 0, sizeof *f);
}

/* rows x columns of one side, its vectors along rows of x, to y. */
static void scale_rows(const float *x, const double *s, size_t n,
                       size_t columns, float *y)
{
    for (size_t i = 0; i < n; i++) {
        const float root = (float)sqrt(s[i]);
        for (size_t k = 0; k < columns; k++)
            y[i * columns + k] = root * x[i * columns + k];
    }
}

/* The same of the other side, whose vectors are columns of x [..][rank]. */
static void scale_columns(const float *x, const double *s, size_t n,
                          size_t rank, size_t rows, float *y)
{
    for (size_t i = 0; i < n; i++) {
        const float root = (float)sqrt(s[i]);
        for (size_t k = 0; k < rows; k++)
            y[i * rows + k] = root * x[k * rank + i];
    }
}

static const struct pq_tensor *keep(struct pq_ranking *f, const char *name,
                                    char letter, const float *x, size_t n,
                                    uint64_t length, struct pq_error *e)
{
    const char *full = pq_arena_printf(&f->arena, "%s.%c", name, letter);
    const uint64_t shape[2] = {n, length};

    if (!full) {
        pq_fail_nomem(e);
        return NULL;
    }
    return pq_made_add(f->made, full, PQ_F32, shape, 2, x, e);
}

int pq_ranking_again(struct pq_ranking *f, struct pq_ranked *t,
                     const struct pq_lowrank *r, size_t most,
                     struct pq_error *e)
{
    const size_t n = most && most < r->rank ? most : r->rank;
    const uint64_t longest = r->rows > r->cols ? r->rows : r->cols;
    double *s = pq_arena_alloc(&f->arena, r->rank, sizeof *s);
    uint64_t room;

    *t = (struct pq_ranked){.name = t->name, .rows = r->rows, .cols = r->cols,
                            .n = r->rank, .s = s, .norm_sq = r->norm_sq,
                            .kept = n, .rank = n,
                            .first_bytes = t->first_bytes,
                            .noise = t->noise};
    float *x = pq_mul(longest, n, &room) ? pq_alloc((size_t)room, sizeof *x)
                                         : NULL;
    if (!s || !x) {
        free(x);
        return pq_fail_nomem(e);
    }
    memcpy(s, r->s, r->rank * sizeof *s);
    scale_rows(r->vt, s, n, (size_t)r->cols, x);
    t->a = keep(f, t->name, 'A', x, n, r->cols, e);
    if (t->a) {
        scale_columns(r->u, s, n, r->rank, (size_t)r->rows, x);
        t->bt = keep(f, t->name, 'B', x, n, r->rows, e);
    }
    free(x);
    return t->bt ? 0 : -1;
}

int pq_ranking_keep(struct pq_ranking *f, const char *name,
                    const struct pq_lowrank *r, size_t most,
                    struct pq_error *e)
{
    if (f->n == f->cap)
        return pq_fail(e, PQ_ELIMIT, "more than %zu matrices", f->cap);
    struct pq_ranked *t = &f->factors[f->n];

    t->name = pq_arena_strndup(&f->arena, name, strlen(name));
    if (!t->name)
        return pq_fail_nomem(e);
    if (pq_ranking_again(f, t, r, most, e))
        return -1;
    f->n++;
    return 0;
}

/* A tensor of the first rows of another. */
const struct pq_tensor *pq_ranked_rows(const struct pq_ranked *f, bool b,
                                       const char *name, struct pq_arena *a)
{
    struct pq_tensor *v = pq_arena_alloc(a, 1, sizeof *v);
    struct pq_part *part = pq_arena_alloc(a, 1, sizeof *part);
    uint64_t *shape = pq_arena_alloc(a, 2, sizeof *shape);
    const struct pq_tensor *kept = b ? f->bt : f->a;

    if (!v || !part || !shape)
        return NULL;
    shape[0] = f->rank;
    shape[1] = kept->shape[1];
    *v = *kept;
    *part = kept->parts[0];
    v->name = name;
    v->parts = part;
    v->shape = part->shape = shape;
    v->n_elements = shape[0] * shape[1];
    part->bytes = v->n_elements * sizeof(float);
    return v;
}

/* ---- ranks ------------------------------------------------------------- */

/*
 * |D|^2 less that of the first `rank`: the other values that were found, and
 * what was never found, unless all of them were.
 */
static double tail_sq(const struct pq_ranked *f, size_t rank)
{
    double all = 0, rest = 0;

    for (size_t i = 0; i < f->n; i++)
        all += f->s[i] * f->s[i];
    for (size_t i = f->n; i-- > rank;)
        rest += f->s[i] * f->s[i];
    if (f->n == f->rows || f->n == f->cols || f->norm_sq < all)
        return rest;
    return rest + (f->norm_sq - all);
}

double pq_ranked_error(const struct pq_ranked *f)
{
    const double x =
        f->norm_sq > 0 ? sqrt(tail_sq(f, f->rank) / f->norm_sq) : 0;

    return x > 1e-14 ? x : 0; /* double cannot tell */
}

bool pq_ranked_enough(const struct pq_ranked *f, size_t rank,
                      const struct pq_rank_rule *rule)
{
    const double tail = tail_sq(f, rank);
    const double limit = rule->max_error * rule->max_error;

    /* 1 asks for what double can tell, not for the last rounding */
    if (rule->energy > 0 &&
        tail > (1 - rule->energy + 1e-14) * f->norm_sq)
        return false;
    return rule->max_error <= 0 || tail <= limit * f->norm_sq;
}

static size_t rank_wanted(const struct pq_ranked *f,
                          const struct pq_rank_rule *rule)
{
    size_t most = f->kept, low = 1;

    if (rule->rank && rule->rank < most)
        most = rule->rank;
    if (rule->energy <= 0 && rule->max_error <= 0)
        return most;
    while (low < most) {
        const size_t middle = low + (most - low) / 2;
        if (pq_ranked_enough(f, middle, rule))
            most = middle;
        else
            low = middle + 1;
    }
    return most;
}

/* A rank that may be added: to which factor, and what it is worth a byte. */
struct offer {
    size_t factor, rank;
    double worth;
};

static int compare_offers(const void *a, const void *b)
{
    const struct offer *x = a, *y = b;

    if (x->worth != y->worth)
        return x->worth < y->worth ? 1 : -1;
    if (x->factor != y->factor)
        return x->factor < y->factor ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static uint64_t rank_bytes(const struct pq_ranked *f,
                           const struct pq_rank_rule *rule)
{
    return (f->rows + f->cols) * (rule->element_bits / 8);
}

/* What value k takes off the error, a byte; nothing where it is noise. */
static double worth(const struct pq_ranked *f, size_t k,
                    const struct pq_rank_rule *rule)
{
    const double s = f->s[k];

    return s > f->noise ? s * s / (double)rank_bytes(f, rule) : 0;
}

/* All ranks beyond those that all get, the best first; sets ranks to these. */
static struct offer *make_offers(struct pq_ranking *f,
                                 const struct pq_rank_rule *rule, size_t *n)
{
    const size_t given = rule->may_drop ? 0 : 1;
    size_t total = 0;

    for (size_t i = 0; i < f->n; i++)
        total += f->factors[i].rank;
    struct offer *all = pq_alloc(total, sizeof *all), *next = all;
    for (size_t i = 0; all && i < f->n; i++) {
        struct pq_ranked *t = &f->factors[i];
        for (size_t k = given; k < t->rank; k++)
            *next++ = (struct offer){i, k + 1, worth(t, k, rule)};
        t->rank = t->rank ? given : 0;
    }
    *n = all ? (size_t)(next - all) : 0;
    if (all)
        qsort(all, *n, sizeof *all, compare_offers);
    return all;
}

/*
 * Within a factor the offers fall in worth, so its ranks come in order; one
 * that does not fit closes its factor.
 */
static int spend(struct pq_ranking *f, const struct pq_rank_rule *rule,
                 struct pq_error *e)
{
    size_t n;
    uint64_t used = 0;
    struct offer *all = make_offers(f, rule, &n);

    if (!all)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < f->n && !rule->may_drop; i++)
        used += rank_bytes(&f->factors[i], rule) + f->factors[i].first_bytes;
    int rc = used <= rule->bytes
                 ? 0
                 : pq_fail(e, PQ_EARG,
                           "rank 1 of every matrix takes %llu bytes, more "
                           "than %llu",
                           (unsigned long long)used,
                           (unsigned long long)rule->bytes);
    for (size_t i = 0; !rc && i < n; i++) {
        struct pq_ranked *t = &f->factors[all[i].factor];
        const uint64_t bytes =
            rank_bytes(t, rule) + (t->rank ? 0 : t->first_bytes);
        if (t->rank + 1 != all[i].rank || bytes > rule->bytes - used ||
            (rule->may_drop && all[i].worth <= 0))
            continue;
        used += bytes;
        t->rank++;
    }
    free(all);
    return rc;
}

int pq_ranking_choose(struct pq_ranking *f, const struct pq_rank_rule *rule,
                      struct pq_error *e)
{
    for (size_t i = 0; i < f->n; i++)
        f->factors[i].rank = rank_wanted(&f->factors[i], rule);
    return rule->bytes ? spend(f, rule, e) : 0;
}
