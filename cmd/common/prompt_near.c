/*
 * A soft prompt by itself and among the rows of the vocabulary; see prompt.h.
 *
 * The table is read once, a run of rows a unit; each unit finds the nearest
 * of its rows, and the lists are merged in the order of the rows.  Of two
 * rows that are as near the first counts.  A second pass takes the nearest
 * rows themselves, where they are to be tried in the place of the prompt.
 */
#include "pq_linalg.h"
#include "pq_quant.h"
#include "prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_ELEMENTS 65536u
#define LANES         8u

/* In double, eight sums side by side: the same bits wherever it runs. */
static double dot(const float *a, const float *b, size_t n)
{
    double s[LANES] = {0}, sum = 0;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            s[k] += (double)a[i + k] * (double)b[i + k];
    for (; i < n; i++)
        s[0] += (double)a[i] * (double)b[i];
    for (size_t k = 0; k < LANES; k++)
        sum += s[k];
    return sum;
}

/* ---- by itself ---------------------------------------------------------- */

/* To six digits, which do not depend on the library. */
static int find_rank(struct prompt *p, struct pq_error *e)
{
    const size_t n = p->n, h = p->hidden, k = n < h ? n : h;
    double *x = pq_alloc(n * h, sizeof *x), *u = pq_alloc(n * k, sizeof *u);
    double *s = pq_alloc(k, sizeof *s), *vt = pq_alloc(k * h, sizeof *vt);
    double sum = 0, entropy = 0;
    int rc = x && u && s && vt ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < n * h; i++)
        x[i] = (double)p->x[i];
    rc = rc || pq_svd_f64(x, n, h, u, s, vt, e) ? -1 : 0;
    for (size_t i = 0; !rc && i < k; i++)
        sum += s[i];
    for (size_t i = 0; !rc && i < k; i++)
        if (s[i] > 1e-12 * sum)
            entropy -= s[i] / sum * log(s[i] / sum);
    if (!rc)
        p->rank = sum > 0 ? nearbyint(exp(entropy) * 1e6) / 1e6 : 0;
    free(x);
    free(u);
    free(s);
    free(vt);
    return rc;
}

int prompt_measure(struct prompt *p, struct pq_error *e)
{
    const size_t n = p->n, h = p->hidden;

    p->norms = pq_alloc(n, sizeof *p->norms);
    p->cosines = pq_alloc(n * n, sizeof *p->cosines);
    if (!p->norms || !p->cosines)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++)
        p->norms[i] = sqrt(dot(p->x + i * h, p->x + i * h, h));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k <= i; k++) {
            const double size = p->norms[i] * p->norms[k];
            const double product = dot(p->x + i * h, p->x + k * h, h);
            p->cosines[i * n + k] = p->cosines[k * n + i] =
                !(size > 0) ? 0
                : i == k    ? 1
                            : product / size;
        }
    return find_rank(p, e);
}

/* ---- in the vocabulary -------------------------------------------------- */

/* Puts a hit where it belongs among `top` of them, if it does. */
static void insert(struct prompt_hit *list, size_t top, struct prompt_hit x)
{
    size_t i = top;

    while (i > 0 && (!list[i - 1].number || list[i - 1].cosine < x.cosine))
        i--;
    if (i == top)
        return;
    memmove(list + i + 1, list + i, (top - i - 1) * sizeof *list);
    list[i] = x;
}

static void compare_row(const struct prompt *p, const float *row, double norm,
                        uint64_t number, struct prompt_hit *hits)
{
    const size_t top = (size_t)p->o->top;

    for (size_t i = 0; i < p->n; i++) {
        const double size = norm * p->norms[i];
        if (size > 0)
            insert(
                hits + i * top, top,
                (struct prompt_hit){
                    number, dot(row, p->x + i * p->hidden, p->hidden) / size});
    }
}

/* Pass 1: keeps the row if it is the nearest of any. */
static void keep_row(const struct prompt *p, const float *row, uint64_t number,
                     const struct prompt_hit *hits)
{
    for (size_t i = 0; i < p->n; i++)
        if (hits[i * p->o->top].number == number)
            memcpy(p->nearest + i * p->hidden, row, p->hidden * sizeof *row);
}

static int gather(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e)
{
    const struct prompt *p = s->params;
    const size_t h = p->hidden;
    const float *x = u->in[0];

    if (p->table->dtype != PQ_F32) {
        pq_load_f32(p->c->kernels, p->table->dtype, x, (size_t)u->count * h,
                    u->scratch);
        x = u->scratch;
    }
    for (uint64_t r = 0; r < u->count; r++) {
        const float *row = x + r * h;
        const uint64_t number = u->first + r + 1;
        if (pass > 0) {
            keep_row(p, row, number, state);
            continue;
        }
        const double norm = sqrt(dot(row, row, h));
        if (!isfinite(norm))
            return pq_fail(
                e, PQ_EVALUE, "%s: tensor %s: row %llu is not finite",
                p->model->name, s->name, (unsigned long long)(number - 1));
        p->row_norms[number - 1] = norm;
        compare_row(p, row, norm, number, u->partial);
    }
    return 0;
}

static int combine(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e)
{
    const struct prompt *p = s->params;
    const struct prompt_hit *from = partial;
    const size_t top = (size_t)p->o->top;

    (void)e;
    for (size_t i = 0; pass == 0 && i < p->n * top; i++)
        if (from[i].number)
            insert((struct prompt_hit *)state + i / top * top, top, from[i]);
    return 0;
}

static int done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct prompt *p = s->params;

    (void)e;
    memcpy(p->hits, state, p->n * p->o->top * sizeof *p->hits);
    return 0;
}

static int add_step(struct prompt *p, struct pq_plan *plan, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(plan, 1, 0, e);
    const size_t h = p->hidden;
    const size_t bits = pq_dtype_bits(p->table->dtype);

    if (!s)
        return -1;
    s->name = p->table->name;
    s->in[0] = (struct pq_input){.source = p->decoded,
                                 .part = &p->table->parts[0],
                                 .access = PQ_RANGE,
                                 .item_bits = (uint64_t)h * bits};
    s->items = p->rows;
    s->unit_items = h < UNIT_ELEMENTS ? UNIT_ELEMENTS / h : 1;
    s->scratch_bytes = bits == 32 ? 0 : (size_t)s->unit_items * h * 4;
    s->partial_bytes = s->state_bytes =
        p->n * (size_t)p->o->top * sizeof *p->hits;
    s->n_gather = p->o->data ? 2 : 1;
    s->gather = gather;
    s->combine = combine;
    s->done = done;
    s->params = p;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Where each norm would stand among those of the rows. */
static void rank_norms(struct prompt *p)
{
    qsort(p->row_norms, (size_t)p->rows, sizeof *p->row_norms, by_size);
    for (size_t i = 0; i < p->n; i++) {
        uint64_t low = 0, high = p->rows;
        while (low < high) {
            const uint64_t mid = low + (high - low) / 2;
            if (p->row_norms[mid] < p->norms[i])
                low = mid + 1;
            else
                high = mid;
        }
        p->shares[i] = (double)low / (double)p->rows;
    }
}

int prompt_search(struct prompt *p, struct pq_error *e)
{
    struct pq_source *sources[] = {p->decoded, p->model};
    struct pq_plan plan = {.sources = sources, .n_sources = 2};

    p->row_norms = pq_alloc((size_t)p->rows, sizeof *p->row_norms);
    p->shares = pq_alloc(p->n, sizeof *p->shares);
    p->hits = pq_zalloc(p->n * (size_t)p->o->top, sizeof *p->hits);
    p->nearest = pq_zalloc(p->n * p->hidden, sizeof *p->nearest);
    if (!p->row_norms || !p->shares || !p->hits || !p->nearest)
        return pq_fail_nomem(e);
    const int rc = add_step(p, &plan, e) || cmd_run_part(p->c, &plan, e);
    pq_plan_release(&plan);
    if (!rc)
        rank_norms(p);
    return rc ? -1 : 0;
}
