/*
 * The ranks of an adapter: how many singular values of each difference are
 * found, and how many are taken.
 *
 *     --rank R       R of each
 *     --energy E     the least k with  sum s[0..k)^2 >= E |D|^2
 *     --max-error X  that with E = 1 - X^2, and the error measured is <= X
 *     --max-size S   those with the largest s^2 for the bytes that a rank
 *                    takes, over all matrices, while they fit
 *
 * Without --rank few values are found at first, and more where they are not
 * enough.  A matrix that needs more ranks than its limit is no low-rank one:
 * it is saved as it is.
 */
#include "extract.h"
#include "pq_made.h"
#include "pq_names.h"
#include "pq_quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST = 32, /* values that are found at first */
    MORE = 4,   /* times as many in the next round */
    OVERSAMPLE = 10,
    ITERATIONS = 2,
    MOST_ROUNDS = 32
};

/* What is known of the energy of D is known to about this part of it. */
static const double known = 1e-6;

static size_t least(const struct extract_pair *p)
{
    return (size_t)(p->rows < p->cols ? p->rows : p->cols);
}

uint64_t extract_rank_bytes(const struct extract *x,
                            const struct extract_pair *p)
{
    return (p->rows + p->cols) * (pq_dtype_bits(x->o->dtype) / 8);
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
    struct pq_source *made = s->x->made;
    const uint64_t u[] = {r->rows, r->rank}, vt[] = {r->rank, r->cols};

    p->s = pq_arena_alloc(&s->x->arena, r->rank, sizeof *p->s);
    if (!p->s)
        return pq_fail_nomem(e);
    if (r->rank)
        memcpy(p->s, r->s, r->rank * sizeof *p->s);
    p->found = r->rank;
    p->norm_sq = r->norm_sq;
    p->u = pq_made_add(made, p->name, PQ_F32, u, 2, r->u, e);
    p->vt = pq_made_add(made, p->name, PQ_F32, vt, 2, r->vt, e);
    return p->u && p->vt ? 0 : -1;
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
            .oversample = OVERSAMPLE,
            .iterations = ITERATIONS,
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

static void choose_fixed(struct extract *x)
{
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        p->rank = p->found < x->o->rank ? p->found : x->o->rank;
        p->again = false;
    }
}

static double energy_of(const struct extract_options *o)
{
    const double e = o->energy > 0 ? o->energy
                                   : 1 - o->max_error * o->max_error;

    return e < 1 - known ? e : 1 - known;
}

static double sum_sq(const double *s, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += s[i] * s[i];
    return sum;
}

/* Returns whether some matrix has to be searched again. */
static bool choose_by_energy(struct extract *x)
{
    const double energy = energy_of(x->o);
    bool again = false;

    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_FACTORED || !p->again)
            continue;
        p->rank = pq_rank_for_energy(p->s, p->found, energy, p->norm_sq);
        const bool enough =
            sum_sq(p->s, p->rank) >= energy * p->norm_sq;
        p->again = !enough && p->found < p->limit;
        again |= p->again;
        if (!p->again && (!enough || p->rank > p->limit))
            p->kind = EXTRACT_SAVED;
    }
    return again;
}

/* A rank of a matrix that could be bought. */
struct offer {
    size_t pair, k;
    double gain; /* energy for a byte */
};

static int by_gain(const void *a, const void *b)
{
    const struct offer *x = a, *y = b;

    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    if (x->pair != y->pair)
        return x->pair < y->pair ? -1 : 1;
    return x->k < y->k ? -1 : x->k > y->k;
}

static struct offer *list_offers(const struct extract *x, size_t *n,
                                 struct pq_error *e)
{
    struct offer *all;
    size_t count = 0;

    for (size_t i = 0; i < x->n; i++)
        if (x->pairs[i].kind == EXTRACT_FACTORED)
            count += x->pairs[i].found;
    all = pq_alloc(count, sizeof *all);
    if (!all)
        pq_fail_nomem(e);
    *n = 0;
    for (size_t i = 0; all && i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_FACTORED)
            continue;
        for (size_t k = 0; k < p->found && k < p->limit; k++)
            all[(*n)++] = (struct offer){
                i, k,
                p->s[k] * p->s[k] / (double)extract_rank_bytes(x, p)};
    }
    return all;
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

static int choose_by_size(struct extract *x, bool *again, struct pq_error *e)
{
    const uint64_t others = other_bytes(x);
    uint64_t left = x->o->max_size - others;
    size_t n;

    if (others > x->o->max_size)
        return pq_fail(e, PQ_EARG,
                       "--max-size: what is not factored, with names and "
                       "config, takes up to %llu bytes",
                       (unsigned long long)others);
    struct offer *all = list_offers(x, &n, e);
    if (!all)
        return -1;
    qsort(all, n, sizeof *all, by_gain);
    for (size_t i = 0; i < x->n; i++)
        x->pairs[i].rank = 0;
    for (size_t i = 0; i < n; i++) {
        struct extract_pair *p = &x->pairs[all[i].pair];
        const uint64_t bytes =
            extract_rank_bytes(x, p) + (p->rank ? 0 : entry_bytes(x, p));
        if (bytes > left || all[i].k != p->rank || all[i].gain <= 0)
            continue;
        left -= bytes;
        p->rank++;
    }
    free(all);
    *again = false;
    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        p->again = p->kind == EXTRACT_FACTORED && p->rank == p->found &&
                   p->found < p->limit;
        *again |= p->again;
    }
    return 0;
}

static int choose(struct extract *x, bool *again, struct pq_error *e)
{
    *again = false;
    if (x->o->max_size)
        return choose_by_size(x, again, e);
    if (x->o->rank)
        choose_fixed(x);
    else
        *again = choose_by_energy(x);
    return 0;
}

/* ---- what is left ------------------------------------------------------ */

static int add_check(struct extract *x, struct pq_plan *plan,
                     struct extract_pair *p, struct pq_error *e)
{
    const struct pq_factors f = {x->made, p->u, p->vt, p->s, p->rank};

    return pq_step_left(plan, p->name, x->plain_a, p->a, x->plain_b, p->b,
                        p->turned, &f, x->o->dtype, x->c->kernels, &p->left, e)
               ? 0
               : -1;
}

/* Measures what the factors leave, of the matrices marked `again`. */
static int measure(struct extract *x, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b,
                                   x->made};
    struct pq_plan plan = {.sources = sources, .n_sources = 5};
    int rc = 0;

    for (size_t i = 0; !rc && i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (!p->again)
            continue;
        p->again = false;
        if (p->kind == EXTRACT_FACTORED && p->rank)
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
        const size_t end = p->found < p->limit ? p->found : p->limit;
        if (p->kind != EXTRACT_FACTORED ||
            p->left.left_sq <= most * p->left.norm_sq)
            continue;
        p->again = p->rank < end;
        p->rank += p->rank / 8 + 1;
        if (p->rank > end)
            p->rank = end;
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
        if (p->kind == EXTRACT_FACTORED && p->rank)
            continue;
        p->left.norm_sq = p->f.diff_sq;
        p->left.left_sq = p->kind == EXTRACT_FACTORED ? p->f.diff_sq : 0;
    }
}

/* The smallest matrix that did not change, or NULL. */
static struct extract_pair *smallest(struct extract *x)
{
    struct extract_pair *best = NULL;

    for (size_t i = 0; i < x->n; i++) {
        struct extract_pair *p = &x->pairs[i];
        if (p->kind == EXTRACT_SAME && extract_matrix(x, p) == p &&
            pq_name_is_linear(p->name) && p->a->n_elements > 0 &&
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
        if (x->pairs[i].kind == EXTRACT_FACTORED && x->pairs[i].rank)
            return 0;
    p = smallest(x);
    if (!p)
        return pq_fail(e, PQ_EARG,
                       "no matrix is of low rank and none is unchanged: an "
                       "adapter would be the whole model");
    if (extract_set_turned(x, p, e))
        return -1;
    const uint64_t u[] = {p->rows, 1}, vt[] = {1, p->cols};
    float *zeros = pq_zalloc((size_t)p->a->n_elements, sizeof *zeros);
    p->s = pq_arena_alloc(&x->arena, 1, sizeof *p->s);
    if (zeros && p->s) {
        p->u = pq_made_add(x->made, p->name, PQ_F32, u, 2, zeros, e);
        p->vt = pq_made_add(x->made, p->name, PQ_F32, vt, 2, zeros, e);
    }
    free(zeros);
    p->kind = EXTRACT_FACTORED;
    p->found = p->rank = 1;
    return p->u && p->vt ? 0 : pq_fail_nomem(e);
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

int extract_find_ranks(struct extract *x, struct pq_error *e)
{
    size_t n, most, rank = x->o->rank ? x->o->rank : FIRST;
    bool again;

    set_limits(x, &n, &most);
    if (extract_settle(x, e) || (n && pq_linalg_ready(e)) ||
        pq_made_new("factors", 2 * (n * MOST_ROUNDS + 1), x->c->memory / 4,
                    x->c->tmpdir, &x->made, e))
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
