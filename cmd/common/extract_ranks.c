/*
 * The ranks of an adapter: how many singular values of each difference are
 * found, and how many are taken.
 *
 *     --rank R       R of each
 *     --energy E     the least k with  sum s[0..k)^2 >= E |D|^2
 *     --max-error X  that with E = 1 - X^2, and the error measured is <= X
 *     --max-size S   those with the largest s^2 for the bytes that a rank
 *                    takes, over all matrices, while they fit; but none that
 *                    rounding alone would bring about
 *
 * Without --rank few values are found at first, and more where they are not
 * enough.  A matrix that needs more ranks than its limit is no low-rank one:
 * it is saved as it is.
 */
#include "extract.h"
#include "pq_names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST = 32, /* values that are found at first */
    MORE = 4    /* times as many in the next round */
};

/* What is known of the energy of D is known to about this part of it. */
static const double known = 1e-6;

static size_t least(const struct extract_pair *p)
{
    return (size_t)(p->rows < p->cols ? p->rows : p->cols);
}

/* ---- finding ----------------------------------------------------------- */

struct search {
    struct extract *x;
    struct extract_pair *pair;
};

static int found(const struct pq_step *step, const struct pq_lowrank *r,
                 struct pq_error *e)
{
    const struct search *s = step->user;
    struct extract_pair *p = s->pair;
    struct pq_ranking *all = &s->x->ranking;

    if (p->factor)
        return pq_ranking_again(all, p->factor, r, p->limit, e);
    p->factor = &all->factors[all->n];
    return pq_ranking_keep(all, p->name, r, p->limit, e);
}

/* Finds `rank` values, or all there may be, of the matrices marked `again`. */
static int find(struct extract *x, size_t rank, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b};
    struct pq_plan plan = {.sources = sources, .n_sources = 4};
    int rc = 0;

    for (size_t i = 0; !rc && i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        const struct pq_lowrank_how how = {
            .kernels = x->c->kernels,
            .rank = x->o->rank || rank < p->limit ? rank : p->limit,
            .oversample = PQ_LOWRANK_OVERSAMPLE,
            .iterations = PQ_LOWRANK_ITERATIONS,
            .seed = x->c->seed,
            .turned = p->turned,
            .found = found};
        if (p->kind != EXTRACT_FACTORED || !p->again)
            continue;
        struct search *s = pq_arena_alloc(&plan.arena, 1, sizeof *s);
        struct pq_step *step =
            s ? pq_step_lowrank(&plan, p->name, x->plain_a, p->a, x->plain_b,
                                p->b, &how, e)
              : NULL;
        if (step) {
            *s = (struct search){x, p};
            step->user = s;
        } else {
            rc = pq_fail_nomem(e);
        }
    }
    if (!rc)
        rc = cmd_run_plan(x->c, &plan, e);
    pq_plan_release(&plan);
    return rc;
}

/* ---- choosing ---------------------------------------------------------- */

static double energy_of(const struct extract_options *o)
{
    const double e = o->energy > 0      ? o->energy
                     : o->max_error > 0 ? 1 - o->max_error * o->max_error
                                        : 0;

    return e < 1 - known ? e : 1 - known;
}

/* A .pq has aligned records with checksums; safetensors have no such thing. */
static bool is_stream(const struct cmd *c)
{
    if (c->output_format)
        return strcmp(c->output_format, pq_format_pqstream.name) == 0;
    return !c->output || strcmp(c->output, "-") == 0 ||
           pq_format_for_path(c->output) == &pq_format_pqstream;
}

/*
 * At most what a pair takes beside its numbers: its entries in the header,
 * its lines in the config.
 */
static uint64_t entry_bytes(const struct extract *x,
                            const struct extract_pair *p)
{
    const uint64_t n = p->module;
    const uint64_t record = is_stream(x->c) ? 320 : 0;

    return p->kind == EXTRACT_FACTORED
               ? 2 * (n + 140 + record) + 3 * (n + 16)
               : 2 * n + 170 + record;
}

/* The same for all that has no factors, with it; config and provenance. */
static uint64_t other_bytes(const struct extract *x)
{
    uint64_t sum = 2048 + 2 * strlen(x->c->prov_options);

    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_SAME && p->kind != EXTRACT_FACTORED)
            sum += (p->b ? p->b : p->a)->parts[0].bytes + entry_bytes(x, p);
    }
    return sum;
}

/* The largest part of a number that is lost when it is rounded to a type. */
static double rounding(enum pq_dtype t)
{
    const int bits = t == PQ_F16       ? 11
                     : t == PQ_BF16    ? 8
                     : t == PQ_F8_E4M3 ? 4
                     : t == PQ_F8_E5M2 ? 3
                                       : 24; /* differences are F32 */

    return ldexp(1, -bits);
}

/*
 * A matrix of errors of size sigma, each its own, has no singular value above
 * sigma (sqrt(rows) + sqrt(cols)).  What is no larger says nothing about how
 * the model was tuned, only how it was stored.  The search, too, works in
 * floats, whose rounding is a part of the largest value.
 */
static double noise(const struct extract_pair *p)
{
    const double a = rounding(p->a->dtype), b = rounding(p->b->dtype);
    const double rows = (double)p->rows, cols = (double)p->cols;
    const double w = sqrt(fmax(p->f.a_sq, p->f.b_sq) / (rows * cols));
    const double largest = p->factor->n ? p->factor->s[0] : 0;

    return fmax(fmax(a, b) * w, rounding(PQ_F32) * largest) *
           (sqrt(rows) + sqrt(cols));
}

/* What --max-size leaves for factors, and for the entries of each. */
static int set_budget(struct extract *x, struct pq_rank_rule *rule,
                      struct pq_error *e)
{
    const uint64_t others = other_bytes(x);

    if (others > x->o->max_size)
        return pq_fail(e, PQ_EARG,
                       "--max-size: what is not factored, with names and "
                       "config, takes up to %llu bytes",
                       (unsigned long long)others);
    rule->bytes = x->o->max_size - others;
    rule->may_drop = true;
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (!p->factor)
            continue;
        p->factor->first_bytes = entry_bytes(x, p);
        p->factor->noise = noise(p);
    }
    return 0;
}

/* What was found may be too little: search on, or save the matrix. */
static void look_at(const struct pq_rank_rule *rule, struct extract_pair *p)
{
    const struct pq_ranked *f = p->factor;
    const bool enough = pq_ranked_enough(f, f->kept, rule);

    p->again = f->n < p->limit &&
               (rule->may_drop ? f->rank == f->kept : !enough);
    if (!enough && !p->again)
        p->kind = EXTRACT_SAVED;
}

static int choose(struct extract *x, bool *again, struct pq_error *e)
{
    struct pq_rank_rule rule = {
        .rank = x->o->rank,
        .energy = energy_of(x->o),
        .element_bits = pq_dtype_bits(x->o->dtype)};

    if ((x->o->max_size && set_budget(x, &rule, e)) ||
        pq_ranking_choose(&x->ranking, &rule, e))
        return -1;
    *again = false;
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_FACTORED)
            continue;
        look_at(&rule, p);
        *again |= p->again;
    }
    return 0;
}

/* ---- what is left ------------------------------------------------------ */

static int add_check(struct extract *x, struct pq_plan *plan,
                     struct extract_pair *p, struct pq_error *e)
{
    return pq_step_left(plan, p->name, x->plain_a, p->a, x->plain_b, p->b,
                        p->turned, x->ranking.made, p->factor, x->o->dtype,
                        x->c->kernels, &p->left, e)
               ? 0
               : -1;
}

/* Measures what the factors leave, of the matrices marked `again`. */
static int measure(struct extract *x, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b,
                                   x->ranking.made};
    struct pq_plan plan = {.sources = sources, .n_sources = 5};
    int rc = 0;

    for (size_t i = 0; !rc && i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (!p->again)
            continue;
        p->again = false;
        if (extract_has_factors(p))
            rc = add_check(x, &plan, p, e);
    }
    if (!rc)
        rc = cmd_run_plan(x->c, &plan, e);
    pq_plan_release(&plan);
    return rc;
}

/* What rounding adds may be too much: more ranks, or none of it. */
static bool mend(struct extract *x)
{
    const double most = x->o->max_error * x->o->max_error;
    bool again = false;

    for (size_t i = 0; i < x->n && x->o->max_error > 0; i++) {
        struct extract_pair *p = &x->pairs[i];
        struct pq_ranked *f = p->factor;
        if (p->kind != EXTRACT_FACTORED ||
            p->left.left_sq <= most * p->left.norm_sq)
            continue;
        p->again = f->rank < f->kept;
        f->rank += f->rank / 8 + 1;
        if (f->rank > f->kept)
            f->rank = f->kept;
        if (!p->again)
            p->kind = EXTRACT_SAVED;
        again |= p->again;
    }
    return again;
}

/* What is not written is lost; what is saved is not. */
static void set_rest(struct extract *x)
{
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (extract_has_factors(p))
            continue;
        p->left.norm_sq = p->f.diff_sq;
        p->left.left_sq = p->kind == EXTRACT_FACTORED ? p->f.diff_sq : 0;
    }
}

/* Is it one that did not change, or got no rank? */
static bool is_free(const struct extract *x, const struct extract_pair *p)
{
    return p->kind == EXTRACT_FACTORED ||
           (p->kind == EXTRACT_SAME && extract_matrix(x, p) == p &&
            pq_name_is_linear(p->name));
}

/* The smallest matrix that may have factors of nothing, or NULL. */
static struct extract_pair *smallest(struct extract *x)
{
    struct extract_pair *best = NULL;

    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (is_free(x, p) && p->a->n_elements > 0 &&
            (!best || p->a->n_elements < best->a->n_elements))
            best = p;
    }
    return best;
}

/*
 * PEFT loads no adapter without factors, so what has none gets some of
 * rank 1 that are 0.
 */
static int add_nothing(struct extract *x, struct pq_error *e)
{
    struct extract_pair *p;

    for (size_t i = 0; i < x->n; i++)
        if (extract_has_factors(&x->pairs[i]))
            return 0;
    p = smallest(x);
    if (!p)
        return pq_fail(e, PQ_EARG,
                       "no matrix is of low rank and none is unchanged: an "
                       "adapter would be the whole model");
    if (extract_set_turned(x, p, e))
        return -1;
    float *zeros = pq_zalloc((size_t)(p->rows + p->cols), sizeof *zeros);
    const struct pq_lowrank none = {.rows = p->rows, .cols = p->cols,
                                    .rank = 1, .u = zeros, .s = &(double){0},
                                    .vt = zeros};
    if (!zeros)
        return pq_fail_nomem(e);
    p->kind = EXTRACT_FACTORED;
    int rc;
    if (p->factor) {
        rc = pq_ranking_again(&x->ranking, p->factor, &none, 1, e);
    } else {
        p->factor = &x->ranking.factors[x->ranking.n];
        rc = pq_ranking_keep(&x->ranking, p->name, &none, 1, e);
    }
    free(zeros);
    return rc;
}

static int check(struct extract *x, struct pq_error *e)
{
    bool again = true;

    for (size_t i = 0; i < x->n; i++)
        x->pairs[i].again = x->pairs[i].kind == EXTRACT_FACTORED;
    while (again) {
        if (measure(x, e))
            return -1;
        again = mend(x);
    }
    if (extract_settle(x, e))
        return -1;
    set_rest(x);
    return add_nothing(x, e);
}

/* ---- all of it --------------------------------------------------------- */

/* More ranks would take more room than the matrix itself. */
static void set_limits(struct extract *x, size_t *n, size_t *most)
{
    *n = *most = 0;
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_FACTORED)
            continue;
        const uint64_t sides = p->rows + p->cols;
        const uint64_t even = sides ? (p->rows * p->cols - 1) / sides : 0;
        p->limit = x->o->max_rank < least(p) ? x->o->max_rank : least(p);
        if (even < p->limit && !x->o->max_size)
            p->limit = (size_t)even;
        if (x->o->rank)
            p->limit = x->o->rank < least(p) ? x->o->rank : least(p);
        p->again = p->limit > 0;
        if (!p->again)
            p->kind = EXTRACT_SAVED;
        *n += p->again;
        *most = p->limit > *most ? p->limit : *most;
    }
}

/* How often some matrix may be searched. */
static size_t count_rounds(size_t rank, size_t most)
{
    size_t n = 1;

    for (; rank < most; rank *= MORE)
        n++;
    return n;
}

int extract_find_ranks(struct extract *x, struct pq_error *e)
{
    size_t n, most, rank = x->o->rank ? x->o->rank : FIRST;
    bool again;

    set_limits(x, &n, &most);
    if (extract_settle(x, e) || (n && pq_linalg_ready(e)) ||
        pq_ranking_init(&x->ranking, n * count_rounds(rank, most) + 1,
                        x->c->memory / 4, x->c->tmpdir, e))
        return -1;
    x->c->memory -= x->c->memory / 4;
    again = n > 0;
    while (again) {
        if (find(x, rank, e) || choose(x, &again, e))
            return -1;
        rank *= MORE;
    }
    return check(x, e);
}
