/*
 * A model of nn.h in training, and its two texts; see trainee.h.
 */
#include "trainee.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "rng.h"

static void set_texts(struct trainee *s, const char *name)
{
    struct pq_rng r;
    char stream[64];
    float u[9];

    s->c = nn_case_named(name);
    snprintf(stream, sizeof stream, "more ids of %s", name);
    pq_rng_init(&r, 1, stream);
    pq_rng_uniform(&r, 0, u, 9);
    for (int i = 0; i < 9; i++)
        s->more[i] = (int32_t)(u[i] * 32);
    s->texts[0] = (struct pq_train_text){s->c->ids, NULL, s->c->n};
    s->texts[1] = (struct pq_train_text){s->more, NULL, 9};
}

struct pq_train_options trainee_options(unsigned what)
{
    struct pq_train_options o = PQ_TRAIN_OPTIONS_INIT;

    o.kernels = pq_kernels_best();
    o.threads = 2;
    o.what = what;
    o.seed = 1;
    o.rank = 4;
    o.alpha = 8;
    o.weight_decay = 0.1;
    return o;
}

void trainee_open(struct trainee *s, const char *name,
                  const struct pq_train_options *o)
{
    struct pq_error e = PQ_ERROR_INIT;

    set_texts(s, name);
    struct pq_source *source = nn_case_source(s->c, NULL);
    cr_assert_eq(pq_train_open(source, o, &s->t, &e), 0, "%s", e.msg);
    pq_source_free(source);
    s->labels = pq_train_labels(s->t, s->texts, 2);
}

/* The mean loss of both texts; adds its gradient. */
double trainee_gradient(struct trainee *s)
{
    struct pq_error e = PQ_ERROR_INIT;
    double nll;

    cr_assert_eq(
        pq_train_gradient(s->t, s->texts, 2, 1.0 / (double)s->labels, &nll, &e),
        0, "%s", e.msg);
    return nll / (double)s->labels;
}

void trainee_step(struct trainee *s, double lr)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_train_step(s->t, lr, NULL, &e), 0, "%s", e.msg);
}

struct pq_train_param trainee_named(struct trainee *s, const char *name)
{
    for (size_t i = 0; i < pq_train_params(s->t); i++) {
        struct pq_train_param p = pq_train_param(s->t, i);
        if (strcmp(p.name, name) == 0)
            return p;
    }
    cr_assert_fail("no parameter %s", name);
    return pq_train_param(s->t, 0);
}

size_t trainee_numbers(const struct pq_train_param *p)
{
    return p->rows * (p->cols ? p->cols : 1);
}
