/*
 * The sum of low-rank products as one: a step for each module.
 *
 *     sum b_i a_i = [b_1 b_2 ...] [a_1; a_2; ...] = U diag(s) V^T
 *
 * One unit a step; modules are worked on side by side.  What was found goes
 * through the unit's partial result to found().
 */
#include "pq_ranks.h"
#include "pq_kernels.h"

#include <string.h>

struct product {
    const struct pq_piece *a, *b;
    size_t n_pieces;
    size_t rows, n, cols; /* n: the sum of the ranks */
    size_t largest;       /* elements of the largest piece */
    struct pq_lowrank_how how;
};

/* The partial: this, s [n], then u [rows][rank], vt [rank][cols]. */
struct result {
    size_t rank;
    double norm_sq;
    double s[];
};

static float *vectors(const struct product *p, const struct result *r)
{
    return (float *)(void *)(uintptr_t)(r->s + p->n);
}

static uint64_t columns_of(const struct pq_tensor *t)
{
    return t->shape[0] ? t->n_elements / t->shape[0] : 0;
}

/* Piece i of the factor into its place of to [..][stride]. */
static int load(const struct product *p, const struct pq_piece *piece,
                const void *raw, float *x, double *to, size_t stride,
                struct pq_error *e)
{
    const struct pq_tensor *t = piece->tensor;
    const size_t rows = (size_t)t->shape[0], cols = (size_t)columns_of(t);

    pq_load_f32(p->how.kernels, t->dtype, raw, rows * cols, x);
    if (p->how.kernels->count_nonfinite(x, rows * cols))
        return pq_fail(e, PQ_EVALUE, "%s: %s has NaN or infinite elements",
                       piece->source->name, t->name);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < cols; k++)
            to[i * stride + k] = piece->scale * (double)x[i * cols + k];
    return 0;
}

/* Both factors side by side; inputs are a_1, b_1, a_2, b_2, ... */
static int load_all(const struct product *p, const struct pq_unit *u,
                    double *b, double *a, float *x, struct pq_error *e)
{
    size_t at = 0;

    for (size_t i = 0; i < p->n_pieces; i++) {
        if (load(p, &p->a[i], u->in[2 * i], x, a + at * p->cols, p->cols, e) ||
            load(p, &p->b[i], u->in[2 * i + 1], x, b + at, p->n, e))
            return -1;
        at += (size_t)p->a[i].tensor->shape[0];
    }
    return 0;
}

static void narrow(const double *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
}

static int emit(const struct pq_step *step, const struct pq_unit *unit,
                const void *state, struct pq_error *e)
{
    const struct product *p = step->params;
    double *b = unit->scratch, *a = b + p->rows * p->n;
    double *u = a + p->n * p->cols, *vt = u + p->rows * p->n;
    float *x = (float *)(vt + p->n * p->cols);
    struct result *r = unit->partial;

    (void)state;
    if (load_all(p, unit, b, a, x, e) ||
        pq_product_svd(b, a, p->rows, p->n, p->cols, u, r->s, vt, &r->rank, e))
        return -1;
    float *to = vectors(p, r);
    narrow(u, p->rows * r->rank, to);
    narrow(vt, r->rank * p->cols, to + p->rows * r->rank);
    for (size_t i = 0; i < r->rank; i++)
        r->norm_sq += r->s[i] * r->s[i];
    return 0;
}

static int combine(const struct pq_step *step, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct product *p = step->params;
    const struct result *r = partial;
    const struct pq_lowrank found = {
        .rows = p->rows,
        .cols = p->cols,
        .rank = r->rank,
        .u = vectors(p, r),
        .s = r->s,
        .vt = vectors(p, r) + p->rows * r->rank,
        .norm_sq = r->norm_sq,
    };

    (void)pass;
    (void)state;
    return p->how.found(step, &found, e);
}

/* ---- making the step --------------------------------------------------- */

/* Shapes of the pieces: of one matrix, and of one rank each. */
static int check(struct product *p, struct pq_error *e)
{
    p->rows = (size_t)p->b[0].tensor->shape[0];
    p->cols = (size_t)columns_of(p->a[0].tensor);
    for (size_t i = 0; i < p->n_pieces; i++) {
        const struct pq_tensor *a = p->a[i].tensor, *b = p->b[i].tensor;
        if (b->shape[0] != p->rows || columns_of(a) != p->cols ||
            columns_of(b) != a->shape[0] || a->shape[0] == 0)
            return pq_fail(e, PQ_EARG,
                           "%s: %s and %s do not fit the other adapters (made "
                           "for another model?)",
                           p->a[i].source->name, a->name, b->name);
        p->n += (size_t)a->shape[0];
        p->largest = a->n_elements > p->largest ? (size_t)a->n_elements
                                                : p->largest;
        p->largest = b->n_elements > p->largest ? (size_t)b->n_elements
                                                : p->largest;
    }
    return 0;
}

static int set_sizes(struct pq_step *s, const struct product *p,
                     struct pq_error *e)
{
    uint64_t sides, all;

    if (!pq_mul(p->rows + p->cols, p->n, &sides) ||
        !pq_mul(sides, 2 * sizeof(double), &all) ||
        !pq_add(all, p->largest * sizeof(float), &all))
        return pq_fail(e, PQ_ELIMIT, "matrix is too large");
    s->scratch_bytes = (size_t)all;
    s->partial_bytes = sizeof(struct result) + p->n * sizeof(double) +
                       (size_t)sides * sizeof(float);
    return 0;
}

static void set_inputs(struct pq_step *s, const struct product *p)
{
    for (size_t i = 0; i < p->n_pieces; i++) {
        const struct pq_piece *pieces[2] = {&p->a[i], &p->b[i]};
        for (size_t k = 0; k < 2; k++) {
            struct pq_input *in = &s->in[2 * i + k];
            in->source = pieces[k]->source;
            in->part = &pieces[k]->tensor->parts[0];
            in->access = PQ_WHOLE;
        }
    }
}

struct pq_step *pq_step_product(struct pq_plan *plan, const char *name,
                                const struct pq_piece *a,
                                const struct pq_piece *b, size_t n,
                                const struct pq_lowrank_how *how,
                                struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(plan, 2 * n, 0, e);
    struct product *p = pq_arena_alloc(&plan->arena, 1, sizeof *p);

    if (!s || !p) {
        pq_fail_nomem(e);
        return NULL;
    }
    *p = (struct product){.a = a, .b = b, .n_pieces = n, .how = *how};
    if (check(p, e) || set_sizes(s, p, e))
        return NULL;
    s->name = name;
    s->params = p;
    s->emit = emit;
    s->combine = combine;
    s->items = s->unit_items = 1;
    set_inputs(s, p);
    return s;
}
