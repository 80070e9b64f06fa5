/*
 * AdamW, as torch computes it; t counts from 1:
 *
 *   g  = g min(1, clip / (norm + 1e-6))
 *   w *= 1 - lr decay                       matrices only
 *   m += (g - m) (1 - beta1)
 *   v  = v beta2 + (1 - beta2) g g
 *   w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 *
 * Scalars are made in double and rounded once.  Work is cut in chunks that
 * depend on the parameters alone.
 */
#include "adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "elementary.h"

#define CHUNK 16384

struct nn_chunk {
    size_t at, n;
    bool decays;
};

static size_t chunks_of(const struct nn_params *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->n; i++)
        n += (p->p[i].n + CHUNK - 1) / CHUNK;
    return n;
}

int nn_adamw_init(struct nn_adamw *a, const struct nn_params *p,
                  struct pq_error *e)
{
    a->n_chunks = 0;
    a->m = pq_zalloc(p->total, sizeof *a->m);
    a->v = pq_zalloc(p->total, sizeof *a->v);
    a->chunks = pq_alloc(chunks_of(p), sizeof *a->chunks);
    a->squares = pq_alloc(chunks_of(p), sizeof *a->squares);
    if (!a->m || !a->v || !a->chunks || !a->squares)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < p->n; i++)
        for (size_t at = 0; at < p->p[i].n; at += CHUNK) {
            const size_t n = p->p[i].n - at < CHUNK ? p->p[i].n - at : CHUNK;
            a->chunks[a->n_chunks++] =
                (struct nn_chunk){p->p[i].at + at, n, p->p[i].decays};
        }
    return 0;
}

void nn_adamw_release(struct nn_adamw *a)
{
    free(a->m);
    free(a->v);
    free(a->chunks);
    free(a->squares);
    memset(a, 0, sizeof *a);
}

/* ---- norm --------------------------------------------------------------- */

struct job {
    struct nn_adamw *a;
    const struct nn_params *p;
    struct nn_adamw_numbers x;
};

static void square_chunk(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_chunk *c = &j->a->chunks[task];
    const float *g = j->p->g + c->at;
    double lanes[4] = {0};

    (void)w;
    for (size_t i = 0; i < c->n; i++)
        lanes[i % 4] += (double)g[i] * g[i];
    j->a->squares[task] = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

double nn_adamw_norm(struct nn_adamw *a, struct nn_pool *pool,
                     const struct nn_params *p)
{
    struct job j = {.a = a, .p = p};
    double sum = 0;

    nn_pool_run(pool, square_chunk, &j, a->n_chunks);
    for (size_t i = 0; i < a->n_chunks; i++)
        sum += a->squares[i];
    return sqrt(sum);
}

/* ---- step --------------------------------------------------------------- */

static void step_chunk(void *arg, struct nn_worker *w, size_t task)
{
    const struct job *j = arg;
    const struct nn_chunk *c = &j->a->chunks[task];
    struct nn_adamw_numbers x = j->x;

    if (!c->decays)
        x.shrink = 1;
    w->nn->adamw(j->p->w + c->at, j->p->g + c->at, j->a->m + c->at,
                 j->a->v + c->at, c->n, &x);
}

/* 1 - beta^t */
static double correction(double beta, uint64_t t)
{
    if (beta <= 0 || -(double)t * nn_log(beta) > 700)
        return 1;
    return 1 - nn_pow(beta, (double)t);
}

void nn_adamw_step(struct nn_adamw *a, struct nn_pool *pool,
                   const struct nn_params *p, double lr, double norm)
{
    const double clip = a->clip > 0 ? a->clip / (norm + 1e-6) : 1;
    struct job j = {.a = a, .p = p};

    a->steps++;
    j.x.clip = (float)(clip < 1 ? clip : 1);
    j.x.shrink = (float)(1 - lr * a->weight_decay);
    j.x.keep1 = (float)(1 - a->beta1);
    j.x.keep2 = (float)a->beta2;
    j.x.new2 = (float)(1 - a->beta2);
    j.x.root2 = (float)sqrt(correction(a->beta2, a->steps));
    j.x.eps = (float)a->eps;
    j.x.rate = (float)(lr / correction(a->beta1, a->steps));
    nn_pool_run(pool, step_chunk, &j, a->n_chunks);
}
