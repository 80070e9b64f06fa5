/*
 * Scores with data: |w| n[i], n[i] the norm of the input that a weight is for,
 * in float (Wanda, arXiv 2306.11695).  Of a matrix [out][in] that is the
 * column, of a turned one, [in][out], the row.
 */
#include "prune_internal.h"

#include "pq_quant.h"

#include <math.h>

int pq_norm_check(const struct pq_prune *how, const struct pq_tensor *t,
                  struct pq_error *e)
{
    const struct pq_tensor *n = how->norm;

    if (t->rank != 2)
        return pq_fail(e, PQ_EARG, "is no matrix, so it has no inputs");
    const uint64_t inputs = t->shape[how->turned ? 0 : 1];
    if (n->rank != 1 || n->dtype != PQ_F32 || n->codec.encoding != PQ_PLAIN ||
        n->shape[0] != inputs)
        return pq_fail(e, PQ_EARG,
                       "has %llu inputs; its norms in %s are not F32 [%llu]",
                       (unsigned long long)inputs, how->norms->name,
                       (unsigned long long)inputs);
    return 0;
}

void pq_norm_input(struct pq_step *s, const struct pq_prune *how)
{
    if (how->norm)
        s->in[1] = (struct pq_input){.source = how->norms,
                                     .part = &how->norm->parts[0],
                                     .access = PQ_WHOLE};
}

int pq_norm_look(const struct pq_pruner *m, const struct pq_unit *u,
                 struct pq_error *e)
{
    if (!m->how->norm)
        return 0;
    const float *norm = u->in[1];
    for (uint64_t i = 0; i < m->how->norm->n_elements; i++)
        if (!(norm[i] >= 0) || !isfinite(norm[i]))
            return pq_fail(e, PQ_EVALUE, "norm %llu in %s is %g",
                           (unsigned long long)i, m->how->norms->name,
                           (double)norm[i]);
    return 0;
}

const float *pq_norm_weigh(const struct pq_pruner *m, const struct pq_unit *u,
                           uint64_t at, size_t n, const float *x, float *room)
{
    if (!m->how->norm)
        return x;
    const float *norm = u->in[1];
    const uint64_t first = u->first * m->item + at;
    uint64_t row = first / m->cols, col = first % m->cols;

    for (size_t i = 0; i < n; row++, col = 0) {
        const size_t left = (size_t)(m->cols - col);
        const size_t run = n - i < left ? n - i : left;
        for (size_t j = 0; j < run; j++)
            room[i + j] =
                fabsf(x[i + j]) * (m->how->turned ? norm[row] : norm[col + j]);
        i += run;
    }
    return room;
}
