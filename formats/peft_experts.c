/*
 * LoRA on parameters: the experts of a mixture, [experts][..][..].
 *
 * Which parameter of its module an adapter means, and which side of it is
 * which, is not written down; shapes say it.  Where they leave it open, other
 * modules of the adapter do, and then its version: peft 0.19 swapped the
 * sides.  With E experts of rank r, in the parameter [E][s][t]:
 *
 *     straight   A [E * r][t]   B [s][r * E]   D_e = B_e A_e
 *     turned     A [E * r][s]   B [t][r * E]   D_e = (B_e A_e)^T
 *
 * Factors are put in the order of a stack of products, b [E * s][r] and
 * a [E * r][t] (one factor at a time is held twice for that).  A checkpoint
 * may hold each expert apart, and its gate and up projections, too: then each
 * such tensor has the product of its rows of the stack.
 */
#include "peft_experts.h"
#include "peft_target.h"
#include "pq_made.h"
#include "pq_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STRAIGHT = 1, TURNED = 2 };

/* A parameter and where the base has it. */
struct spot {
    const struct pq_peft_parameter *parameter;
    size_t target;     /* or SIZE_MAX: each expert apart, ... */
    unsigned scheme;   /* ... named by this one */
    int rank;          /* 2 or 3 */
    uint64_t shape[3]; /* [E][s][t]; [1][s][t] of a matrix */
    unsigned sides;    /* STRAIGHT, TURNED: how the factors fit it */
};

/* ---- finding ----------------------------------------------------------- */

/* The tensor of one expert, or SIZE_MAX. */
static size_t find_expert(const struct pq_peft_places *w, const char *parameter,
                          unsigned scheme, unsigned piece, uint64_t expert)
{
    char name[PEFT_MAX_NAME];

    pq_name_expert(parameter, scheme, piece, expert, name, sizeof name);
    return name[0] != '\0' ? peft_find(w, name) : SIZE_MAX;
}

/* Experts apart: the shape that they had together; false: there are none. */
static bool find_apart(const struct pq_peft_places *w, unsigned scheme,
                       struct spot *s)
{
    const char *name = s->parameter->name;
    uint64_t rows = 0, experts = 1;
    size_t at;

    for (unsigned i = 0;
         (at = find_expert(w, name, scheme, i, 0)) != SIZE_MAX; i++) {
        const struct pq_tensor *t = peft_start(w, at);
        if (t->rank != 2)
            return false;
        rows += t->shape[0];
        s->shape[2] = t->shape[1];
    }
    if (rows == 0)
        return false;
    while (find_expert(w, name, scheme, 0, experts) != SIZE_MAX)
        experts++;
    s->shape[0] = experts;
    s->shape[1] = rows;
    s->target = SIZE_MAX;
    s->scheme = scheme;
    s->rank = 3;
    return true;
}

static bool find_spot(const struct pq_peft_places *w, struct spot *s)
{
    char name[2];

    s->target = peft_find(w, s->parameter->name);
    if (s->target == SIZE_MAX) {
        for (unsigned i = 0; pq_name_expert(s->parameter->name, i, 0, 0, name,
                                            sizeof name);
             i++)
            if (find_apart(w, i, s))
                return true;
        return false;
    }
    const struct pq_tensor *t = peft_start(w, s->target);
    s->rank = t->rank;
    s->shape[0] = t->rank == 3 ? t->shape[0] : 1;
    for (int i = 1; i <= 2; i++)
        s->shape[i] = t->rank == 2 || t->rank == 3 ? t->shape[t->rank - 3 + i]
                                                   : 0;
    return true;
}

/* How the factors of m fit: STRAIGHT, TURNED, both or neither. */
static unsigned sides_of(const struct pq_peft_module *m, const struct spot *s)
{
    const uint64_t *a = m->a->shape, *b = m->b->shape;
    const double rank = (double)s->shape[0] * s->parameter->rank;

    if (m->a->rank != 2 || m->b->rank != 2 || (double)a[0] != rank ||
        (double)b[1] != rank || a[0] % s->shape[0])
        return 0;
    if (s->rank == 2) /* a matrix is a layer like any other */
        return a[1] == s->shape[2] && b[0] == s->shape[1] ? STRAIGHT : 0;
    return (a[1] == s->shape[2] && b[0] == s->shape[1] ? STRAIGHT : 0) |
           (a[1] == s->shape[1] && b[0] == s->shape[2] ? TURNED : 0);
}

/* The side that other modules of the adapter leave no doubt about, or 0. */
static unsigned sides_elsewhere(const struct pq_peft_places *w,
                                const struct pq_peft *p)
{
    for (size_t i = 0; i < p->n_modules; i++) {
        const struct pq_peft_module *m = &p->modules[i];
        unsigned sides = 0;
        for (size_t k = 0; k < m->n_parameters; k++) {
            struct spot s = {.parameter = &m->parameters[k]};
            if (find_spot(w, &s) && s.rank == 3)
                sides |= sides_of(m, &s);
        }
        if (sides == STRAIGHT || sides == TURNED)
            return sides;
    }
    return 0;
}

static unsigned usual_side(const struct pq_peft_places *w,
                           const struct pq_peft *p)
{
    const unsigned seen = sides_elsewhere(w, p);

    return seen ? seen
                : p->sides_swapped || w->experts_in_out ? TURNED : STRAIGHT;
}

/* ---- choosing ---------------------------------------------------------- */

static int no_fit(const struct pq_peft_module *m, const struct spot *s,
                  struct pq_error *e)
{
    return pq_fail(e, PQ_EARG,
                   "tensor %s [%llu, %llu] does not fit %s [%llu, %llu, %llu], "
                   "rank %g",
                   m->a->name, (unsigned long long)m->a->shape[0],
                   (unsigned long long)m->a->shape[1], s->parameter->name,
                   (unsigned long long)s->shape[0],
                   (unsigned long long)s->shape[1],
                   (unsigned long long)s->shape[2], s->parameter->rank);
}

/*
 * The parameter that m is about: 1 found, 0 the base has none of them, -1
 * none fits or several do.  The usual side decides where both are possible.
 */
static int choose(const struct pq_peft_places *w, const struct pq_peft *p,
                  const struct pq_peft_module *m, struct spot *chosen,
                  struct pq_error *e)
{
    struct spot last = {0};
    size_t fits = 0, found = 0;

    for (unsigned pass = 0; pass < 2 && fits != 1; pass++) {
        const unsigned allowed = pass ? usual_side(w, p) : STRAIGHT | TURNED;
        fits = found = 0;
        for (size_t i = 0; i < m->n_parameters; i++) {
            struct spot s = {.parameter = &m->parameters[i]};
            if (!find_spot(w, &s))
                continue;
            found++;
            last = s;
            s.sides = sides_of(m, &s) & (s.rank == 2 ? STRAIGHT : allowed);
            if (s.sides == 0)
                continue;
            fits += s.sides == (STRAIGHT | TURNED) ? 2 : 1;
            *chosen = s;
        }
        if (fits == 0)
            return found ? no_fit(m, &last, e) : 0;
    }
    return fits == 1
               ? 1
               : pq_fail(e, PQ_EUNSUPPORTED,
                         "tensor %s: %s is not the only parameter that it "
                         "fits; which one it means is not in the adapter",
                         m->a->name, chosen->parameter->name);
}

/* ---- the order of a stack ---------------------------------------------- */

/* Element (e, k, x) of both orders, e < E, k < r, x < n. */
struct order {
    uint64_t experts, rank, n;
    bool from_b;    /* from [x][k * E + e], else from [e * r + k][x] */
    bool rank_last; /* to [e][x][k], else to [e][k][x] */
};

static void reorder(const struct order *o, size_t size,
                    const unsigned char *from, unsigned char *to)
{
    const uint64_t E = o->experts, r = o->rank, n = o->n;

    for (uint64_t e = 0; e < E; e++)
        for (uint64_t i = 0; i < r * n; i++) {
            const uint64_t k = o->rank_last ? i % r : i / n;
            const uint64_t x = o->rank_last ? i / r : i % n;
            const uint64_t at =
                o->from_b ? (x * r + k) * E + e : (e * r + k) * n + x;
            memcpy(to + (e * r * n + i) * size, from + at * size, size);
        }
}

/* The factor t in that order, in w->made; NULL: failed. */
static const struct pq_tensor *put_in_order(struct pq_peft_places *w,
                                            const struct pq_peft *p,
                                            const struct pq_tensor *t,
                                            const struct order *o,
                                            struct pq_error *e)
{
    const size_t size = pq_dtype_bits(t->dtype) / 8;
    const uint64_t shape[] = {o->experts * (o->rank_last ? o->n : o->rank),
                              o->rank_last ? o->rank : o->n};
    unsigned char *from = pq_alloc((size_t)t->n_elements, size);
    unsigned char *to = pq_alloc((size_t)t->n_elements, size);
    const struct pq_tensor *made = NULL;

    if (!from || !to) {
        pq_fail_nomem(e);
    } else if (pq_source_read(p->source, &t->parts[0], 0, from,
                              (size_t)t->n_elements * size, e) == 0) {
        reorder(o, size, from, to);
        made = pq_made_add(w->made, t->name, t->dtype, shape, 2, to, e);
    }
    free(from);
    free(to);
    return made;
}

/* Fills in source, a and b of d, as for a stack. */
static int make_stack(struct pq_peft_places *w, const struct pq_peft *p,
                      const struct pq_peft_module *m, const struct spot *s,
                      struct pq_edit *d, struct pq_error *e)
{
    struct order o = {.experts = s->shape[0],
                      .rank = m->a->shape[0] / s->shape[0]};

    if (!w->made)
        return pq_fail(e, PQ_EUNSUPPORTED, "tensor %s: is of experts",
                       m->a->name);
    d->source = w->made;
    if (s->sides == STRAIGHT) {
        d->source_a = p->source;
        d->a = m->a;
        o.n = s->shape[1];
        o.from_b = o.rank_last = true;
        d->b = put_in_order(w, p, m->b, &o, e);
        return d->b ? 0 : -1;
    }
    o.n = s->shape[2];
    o.from_b = true;
    d->a = put_in_order(w, p, m->b, &o, e);
    o.n = s->shape[1];
    o.from_b = false;
    o.rank_last = true;
    d->b = d->a ? put_in_order(w, p, m->a, &o, e) : NULL;
    return d->b ? 0 : -1;
}

/* ---- experts apart ----------------------------------------------------- */

/* Rows [first, first + n) of the matrix t. */
static const struct pq_tensor *rows_of(struct pq_peft_places *w,
                                       const struct pq_tensor *t,
                                       uint64_t first, uint64_t n,
                                       struct pq_error *e)
{
    struct pq_tensor *v = pq_arena_alloc(&w->arena, 1, sizeof *v);
    struct pq_part *part = pq_arena_alloc(&w->arena, 1, sizeof *part);
    uint64_t *shape = pq_arena_alloc(&w->arena, 2, sizeof *shape);
    const uint64_t row = t->shape[1] * (pq_dtype_bits(t->dtype) / 8);

    if (!v || !part || !shape) {
        pq_fail_nomem(e);
        return NULL;
    }
    shape[0] = n;
    shape[1] = t->shape[1];
    *part = t->parts[0];
    part->shape = shape;
    part->offset += first * row;
    part->bytes = n * row;
    *v = *t;
    v->shape = shape;
    v->n_elements = n * t->shape[1];
    v->parts = part;
    return v;
}

static int add_expert(struct pq_peft_places *w, const struct spot *s,
                      const struct pq_edit *stack, uint64_t expert,
                      struct pq_error *e)
{
    const uint64_t rank = stack->a->shape[0] / s->shape[0];
    uint64_t row = 0;
    size_t at;

    for (unsigned i = 0; row < s->shape[1]; i++) {
        struct pq_edit d = *stack;
        at = find_expert(w, s->parameter->name, s->scheme, i, expert);
        const struct pq_tensor *t = at == SIZE_MAX ? NULL : peft_start(w, at);
        if (!t || t->rank != 2 || t->shape[0] > s->shape[1] - row)
            return pq_fail(e, PQ_EARG,
                           "tensor %s: expert %llu of the base is not as the "
                           "others are",
                           stack->a->name, (unsigned long long)expert);
        d.stack = 0;
        d.a = rows_of(w, stack->a, expert * rank, rank, e);
        d.b = rows_of(w, stack->b, expert * s->shape[1] + row, t->shape[0], e);
        if (!d.a || !d.b || peft_add_edit(w, at, &d, e))
            return -1;
        row += t->shape[0];
    }
    return 0;
}

/* ---- all of it --------------------------------------------------------- */

static int place(struct pq_peft_places *w, const struct pq_peft *p,
                 const struct pq_peft_module *m, const struct spot *s,
                 double weight, struct pq_error *e)
{
    struct pq_edit d = {.kind = PQ_EDIT_PRODUCT,
                        .source = p->source,
                        .a = m->a,
                        .b = m->b,
                        .scale = s->parameter->scale,
                        .weight = weight};

    if (s->rank == 2)
        return peft_add_edit(w, s->target, &d, e);
    if (make_stack(w, p, m, s, &d, e))
        return -1;
    d.stack = s->shape[0];
    if (s->target != SIZE_MAX)
        return peft_add_edit(w, s->target, &d, e);
    for (uint64_t i = 0; i < s->shape[0]; i++)
        if (add_expert(w, s, &d, i, e))
            return -1;
    return 0;
}

int peft_place_parameter(struct pq_peft_places *w, const struct pq_peft *p,
                         const struct pq_peft_module *m, double weight,
                         struct pq_names *used, struct pq_error *e)
{
    struct spot s = {0};
    const int rc = choose(w, p, m, &s, e);

    if (rc <= 0)
        return rc;
    if (m->magnitude || m->bias || m->embedding)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is of a parameter, and not LoRA alone",
                       m->a->name);
    if (p->init != PQ_INIT_PLAIN && !w->residual)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: init_lora_weights \"%s\" of a parameter",
                       m->a->name, p->init_name);
    switch (pq_names_add(used, s.parameter->name, 0, NULL, e)) {
    case 0:
        return place(w, p, m, &s, weight, e) ? -1 : 1;
    case 1:
        return pq_fail(e, PQ_EARG, "tensor %s: %s has had its LoRA",
                       m->a->name, s.parameter->name);
    default:
        return -1;
    }
}
