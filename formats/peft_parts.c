/*
 * What PiSSA and OLoRA took out of a model, found again in the model as it
 * was before them:
 *
 *     PiSSA    the truncation to rank r         b = U diag(s), a = V^T
 *     OLoRA    Q Q^T W                          b = Q,         a = Q^T W
 *
 * A step a part, for a run of the engine before that of the merge.  A
 * truncation has to be that of the full
 * SVD, so its iterations are many and its subspace wide: the error that is
 * left is about (s[2 r + 16] / s[r])^49.  Only where singular values hardly
 * fall is that more than nothing, and then a warning says so.
 */
#include "pq_lowrank.h"
#include "pq_made.h"
#include "pq_peft.h"

#include <math.h>
#include <stdlib.h>

#define ITERATIONS 24

/* The user of a step. */
struct part {
    struct pq_peft_places *w;
    size_t number;
    struct pq_source *made;
};

/* b [rows][n] and a [n][cols] as floats into the made source. */
static int keep(const struct part *p, const char *name, uint64_t rows,
                uint64_t n, uint64_t cols, const float *b, const float *a,
                struct pq_error *e)
{
    const uint64_t shape_a[] = {n, cols}, shape_b[] = {rows, n};
    const struct pq_tensor *ta =
        pq_made_add(p->made, name, PQ_F32, shape_a, 2, a, e);
    const struct pq_tensor *tb =
        ta ? pq_made_add(p->made, name, PQ_F32, shape_b, 2, b, e) : NULL;

    if (!tb)
        return -1;
    pq_peft_fill(p->w, p->number, p->made, ta, tb);
    return 0;
}

/* The error left in n values, by those found beyond them. */
static void look_at_error(const struct part *p, const struct pq_lowrank *r,
                          uint64_t n)
{
    struct pq_peft_places *w = p->w;
    const uint64_t whole = r->rows < r->cols ? r->rows : r->cols;

    if (r->rank == whole || r->rank <= n || r->s[n - 1] == 0)
        return;
    const double left =
        pow(r->s[r->rank - 1] / r->s[n - 1], 2 * ITERATIONS + 1);
    if (left > w->left) {
        w->left = left;
        w->left_name = w->base->tensors[w->parts[p->number].target].name;
    }
}

static int found_truncation(const struct pq_step *s, const struct pq_lowrank *r,
                            struct pq_error *e)
{
    const struct part *p = s->user;
    const uint64_t n = p->w->parts[p->number].rank;
    float *b = pq_alloc((size_t)r->rows, (size_t)n * sizeof *b);

    if (!b)
        return pq_fail_nomem(e);
    for (uint64_t i = 0; i < r->rows; i++)
        for (uint64_t k = 0; k < n; k++)
            b[i * n + k] = (float)((double)r->u[i * r->rank + k] * r->s[k]);
    look_at_error(p, r, n);
    const int rc = keep(p, s->name, r->rows, n, r->cols, b, r->vt, e);
    free(b);
    return rc;
}

static float *narrow(const double *x, uint64_t n)
{
    float *y = pq_alloc((size_t)n, sizeof *y);

    for (uint64_t i = 0; y && i < n; i++)
        y[i] = (float)x[i];
    return y;
}

static int found_leading(const struct pq_step *s, const struct pq_leading *l,
                         struct pq_error *e)
{
    float *b = narrow(l->q, l->rows * l->n);
    float *a = narrow(l->q_t_w, l->n * l->cols);
    const int rc = b && a ? keep(s->user, s->name, l->rows, l->n, l->cols, b, a,
                                 e)
                          : pq_fail_nomem(e);

    free(a);
    free(b);
    return rc;
}

static struct pq_step *add_step(struct pq_plan *plan,
                                const struct pq_peft_part *part,
                                struct pq_source *plain,
                                const struct pq_kernels *kernels,
                                struct pq_error *e)
{
    const struct pq_tensor *t = &plain->catalog->tensors[part->target];
    const struct pq_lowrank_how how = {.kernels = kernels,
                                       .rank = 2 * (size_t)part->rank + 16,
                                       .oversample = PQ_LOWRANK_OVERSAMPLE,
                                       .iterations = ITERATIONS,
                                       .turned = part->turned,
                                       .found = found_truncation};

    return part->leading
               ? pq_step_leading(plan, plain, t, (size_t)part->rank, kernels,
                                 found_leading, e)
               : pq_step_lowrank(plan, t->name, NULL, NULL, plain, t, &how, e);
}

int pq_peft_find_parts(struct pq_plan *plan, struct pq_peft_places *w,
                       struct pq_source *plain, struct pq_source *made,
                       const struct pq_kernels *kernels, struct pq_error *e)
{
    struct part *part = pq_arena_alloc(&plan->arena, w->n_parts, sizeof *part);

    if (!part)
        return pq_fail_nomem(e);
    if (pq_linalg_ready(e))
        return -1;
    for (size_t i = 0; i < w->n_parts; i++) {
        struct pq_step *s = add_step(plan, &w->parts[i], plain, kernels, e);
        if (!s)
            return -1;
        part[i] = (struct part){w, i, made};
        s->user = &part[i];
    }
    return 0;
}
