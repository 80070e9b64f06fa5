/*
 * Blends of models in memory: cuts against a sort, norms, lots, what is
 * refused.
 */
#include "blend.h"
#include "fake.h"
#include "numbers.h"

#include "pq_kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- large tensors in memory --------------------------------------------- */

struct pair {
    struct fake_source base, tuned;
    struct pq_blend_input in[2];
    struct pq_blend b;
    float *w0, *w; /* [n] */
    uint64_t n;
};

/* Changes of few sizes, so that most are equal to many others. */
static void pair_init(struct pair *p, uint64_t rows, uint64_t cols)
{
    const uint64_t shape[2] = {rows, cols};

    memset(p, 0, sizeof *p);
    p->n = rows * cols;
    p->w0 = malloc(p->n * sizeof *p->w0 + 1);
    p->w = malloc(p->n * sizeof *p->w + 1);
    for (uint64_t i = 0; i < p->n; i++) {
        const int d = (int)(next() % 23) - 11;
        p->w0[i] = (float)((int)(next() % 65) - 32) / 64;
        p->w[i] = p->w0[i] + (float)d / 128;
    }
    fake_source_init(&p->base, false);
    fake_source_init(&p->tuned, false);
    p->b.base_source = &p->base.base;
    p->b.base =
        fake_source_add(&p->base, "w", PQ_F32, 2, shape, p->w0);
    p->in[0].source = p->in[1].source = &p->tuned.base;
    p->in[0].tensor = p->in[1].tensor =
        fake_source_add(&p->tuned, "w", PQ_F32, 2, shape, p->w);
    p->b.in = p->in;
    p->b.n = 1;
}

static void pair_release(struct pair *p)
{
    fake_source_release(&p->base);
    fake_source_release(&p->tuned);
    free(p->w0);
    free(p->w);
}

static float *pair_blend(struct pair *p, const struct trial *t)
{
    struct pq_error e = PQ_ERROR_INIT;
    float *x = trial_blend(t, &p->b, "w", &e);

    cr_assert(x, "%s", e.msg);
    return x;
}

struct ranked {
    float size;
    uint64_t place;
};

static int by_size(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->size != y->size)
        return x->size < y->size ? 1 : -1;
    return x->place < y->place ? -1 : 1;
}

/* Left are those in places [from, to) of the order. */
static void check_cut(struct pair *p, uint64_t from, uint64_t to)
{
    struct ranked *r = malloc(p->n * sizeof *r + 1);
    float *want = malloc(p->n * sizeof *want + 1);
    struct trial t = plain;

    for (uint64_t i = 0; i < p->n; i++) {
        r[i] = (struct ranked){fabsf(p->w[i] - p->w0[i]), i};
        want[i] = p->w0[i];
    }
    qsort(r, p->n, sizeof *r, by_size);
    for (uint64_t i = from; i < to; i++)
        want[r[i].place] = p->w[r[i].place];
    for (t.threads = 1; t.threads <= 3; t.threads += 2)
        FOR_EACH_VARIANT(k)
        {
            t.quant.kernels = k;
            float *x = pair_blend(p, &t);
            cr_expect(memcmp(x, want, p->n * sizeof *x) == 0, "[%llu, %llu)",
                      (unsigned long long)from, (unsigned long long)to);
            free(x);
        }
    free(r);
    free(want);
}

Test(blend, cuts_are_those_of_a_sort, .timeout = 120)
{
    struct pair p;

    pair_init(&p, 401, 1000);
    trial_method(&p.b, "ties");
    for (int i = 0; i < 4; i++) {
        static const double density[] = {1e-9, 0.3, 0.5001, 0.999999};
        const uint64_t k = (uint64_t)(density[i] * (double)p.n);
        p.in[0].density = density[i];
        check_cut(&p, 0, k ? k : 1);
    }
    p.in[0].density = 0;
    check_cut(&p, 0, 0);
    trial_method(&p.b, "breadcrumbs");
    p.in[0].density = 0.25;
    p.in[0].gamma = 0.4;
    check_cut(&p, 160400, 260650);
    p.in[0].gamma = 0; /* mergekit once left nothing then */
    check_cut(&p, 0, 100250);
    p.in[0].gamma = 0.9; /* there are not so many below */
    check_cut(&p, 300750, 401000);
    pair_release(&p);
}

static double sum_of_changes(const float *x, const float *w0, uint64_t n)
{
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += fabs((double)x[i] - (double)w0[i]);
    return sum;
}

Test(blend, the_norm_is_restored)
{
    static const char *const methods[] = {"dare_linear", "della_linear",
                                          "breadcrumbs", "ties"};
    struct pair p;

    pair_init(&p, 300, 1000);
    for (int i = 0; i < 4; i++) {
        trial_method(&p.b, methods[i]);
        p.in[0].density = 0.3;
        p.b.rescale = PQ_RESCALE_NORM;
        float *x = pair_blend(&p, &plain);
        const double now = sum_of_changes(x, p.w0, p.n);
        const double was = sum_of_changes(p.w, p.w0, p.n);
        cr_expect(fabs(now / was - 1) < 1e-5, "%s: %g", methods[i], now / was);
        free(x);
    }
    pair_release(&p);
}

Test(blend, threads_and_kernels_do_not_show, .timeout = 120)
{
    struct pair p;

    pair_init(&p, 500, 700);
    p.b.n = 2;
    for (const struct pq_method *const *m = pq_methods(); *m; m++) {
        struct trial t = plain;
        p.b.n = (*m)->most < 2 ? 1 : 2;
        trial_method(&p.b, (*m)->name);
        p.b.t = 0.3;
        p.in[0].density = p.in[1].density = 0.4;
        float *x = pair_blend(&p, &t);
        t.threads = 4;
        t.quant.kernels = pq_kernels_scalar();
        float *y = pair_blend(&p, &t);
        cr_expect(memcmp(x, y, p.n * sizeof *x) == 0, "%s", (*m)->name);
        free(x);
        free(y);
    }
    pair_release(&p);
}

static bool differs(struct pair *p, const float *x)
{
    float *y = pair_blend(p, &plain);
    const bool other = memcmp(x, y, p->n * sizeof *x) != 0;

    free(y);
    return other;
}

Test(blend, lots_depend_on_seed_and_model)
{
    struct pair p;

    pair_init(&p, 20, 30);
    trial_method(&p.b, "dare_linear");
    p.in[0].density = 0.5;
    float *x = pair_blend(&p, &plain);
    cr_expect(!differs(&p, x));
    p.b.seed = 1;
    cr_expect(differs(&p, x));
    p.b.seed = 0;
    p.in[0].stream = 1;
    cr_expect(differs(&p, x));
    free(x);
    pair_release(&p);
}

/* ---- refused ------------------------------------------------------------- */

static void refused(struct pair *p, const char *why)
{
    struct pq_error e = PQ_ERROR_INIT;
    float *x = trial_blend(&plain, &p->b, "w", &e);

    cr_expect(x == NULL && strstr(e.msg, why), "%s: %s", why, e.msg);
    free(x);
}

Test(blend, what_is_out_of_range_is_refused)
{
    struct pair p;

    pair_init(&p, 4, 5);
    trial_method(&p.b, "ties");
    p.in[0].density = 1.5;
    refused(&p, "density 1.5");
    p.in[0].density = NAN;
    refused(&p, "needs density");
    trial_method(&p.b, "della");
    p.in[0].density = 0.1;
    refused(&p, "density 0.1 and epsilon 0.15");
    trial_method(&p.b, "slerp");
    refused(&p, "slerp needs t");
    p.b.t = 0.5;
    p.b.n = 2;
    refused(&p, "2 models");
    trial_method(&p.b, "linear");
    p.in[1].weight = -1;
    refused(&p, "sum to 0");
    p.b.base = NULL;
    trial_method(&p.b, "task_arithmetic");
    refused(&p, "needs a base");
    pair_release(&p);
}

Test(blend, other_shapes_are_refused)
{
    struct pair p, q;

    pair_init(&p, 4, 5);
    pair_init(&q, 5, 4);
    p.in[1] = q.in[0];
    p.b.n = 2;
    trial_method(&p.b, "linear");
    refused(&p, "[5, 4] does not fit [4, 5]");
    pair_release(&p);
    pair_release(&q);
}

/* What drops a NaN must not hide it. */
Test(blend, nan_is_refused_even_if_dropped)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct trial t = plain;
    struct pair p;

    pair_init(&p, 40, 50);
    ((float *)(void *)p.tuned.bytes)[77] = NAN;
    trial_method(&p.b, "dare_ties");
    p.in[0].density = 1e-9;
    refused(&p, "element 77 of w");
    t.quant.allow_nonfinite = true;
    float *x = trial_blend(&t, &p.b, "w", &e);
    cr_expect(x != NULL, "%s", e.msg);
    free(x);
    pair_release(&p);
}
