/*
 * Training: texts become a batch of rows (tape.h).  A text of n tokens behind
 * a soft prompt of p rows has p + n rows; row p + i predicts label i + 1, the
 * last row of the prompt label 0, the last row nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train_internal.h"

static int32_t label_of(const struct pq_train_text *x, size_t i)
{
    return i >= x->n ? NN_IGNORE : x->labels ? x->labels[i] : x->ids[i];
}

uint64_t pq_train_labels(const struct pq_train *t,
                         const struct pq_train_text *x, size_t n)
{
    uint64_t count = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = t->prompt_rows ? 0 : 1; j < x[i].n; j++)
            count += label_of(&x[i], j) != NN_IGNORE;
    return count;
}

static int check_text(const struct pq_train *t, const struct pq_train_text *x,
                      struct pq_error *e)
{
    const struct nn_config *c = &t->m.c;
    const size_t rows = t->prompt_rows + x->n;

    if (x->n == 0)
        return pq_fail(e, PQ_EARG, "no tokens");
    if (rows < x->n || (c->learned_places && rows > c->positions))
        return pq_fail(e, PQ_ELIMIT,
                       "%zu rows are more than the model's %zu positions", rows,
                       c->positions);
    for (size_t i = 0; i < x->n; i++) {
        const int32_t id = x->ids[i], label = label_of(x, i);
        if (id < 0 || (size_t)id >= c->vocab)
            return pq_fail(e, PQ_EARG,
                           "token %zu: id %ld is not in the vocabulary of "
                           "%zu",
                           i, (long)id, c->vocab);
        if (label != NN_IGNORE && (label < 0 || (size_t)label >= c->vocab))
            return pq_fail(e, PQ_EARG,
                           "token %zu: label %ld is not in the vocabulary of "
                           "%zu",
                           i, (long)label, c->vocab);
    }
    return 0;
}

/* ---- room --------------------------------------------------------------- */

static int make_room(struct pq_train *t, size_t rows, size_t longest, size_t n,
                     struct pq_error *e)
{
    const struct nn_tape_plan old = t->tape.plan;

    if (n > t->n_s) {
        free(t->s);
        t->s = pq_alloc(n, sizeof *t->s);
        t->n_s = t->s ? n : 0;
        if (!t->s)
            return pq_fail_nomem(e);
    }
    if (t->tape.floats && rows <= old.rows && longest <= old.keys)
        return 0;
    rows = rows > old.rows ? rows : old.rows;
    longest = longest > old.keys ? longest : old.keys;
    nn_tape_release(&t->tape);
    free(t->ids);
    free(t->labels);
    free(t->positions);
    t->ids = pq_alloc(rows, sizeof *t->ids);
    t->labels = pq_alloc(rows, sizeof *t->labels);
    t->positions = pq_alloc(rows, sizeof *t->positions);
    if (!t->ids || !t->labels || !t->positions)
        return pq_fail_nomem(e);
    const struct nn_tape_plan plan = nn_train_plan(t, rows, longest);
    return nn_tape_init(&t->tape, &plan, t->pool, &t->m, &t->params, e);
}

/* ---- rows --------------------------------------------------------------- */

static void set_text(struct pq_train *t, const struct pq_train_text *x,
                     const struct nn_sequence *s)
{
    const size_t p = t->prompt_rows;

    for (size_t r = 0; r < s->n; r++) {
        t->ids[s->q + r] = r < p ? -1 : x->ids[r - p];
        t->positions[s->q + r] = r;
        t->labels[s->q + r] = r + 1 < p ? NN_IGNORE : label_of(x, r + 1 - p);
    }
}

/* The soft prompt is the last parameter. */
static void set_prompt(struct pq_train *t)
{
    t->tape.n_prompt = t->prompt_rows;
    t->tape.prompt =
        t->tape.n_prompt ? t->params.w + t->params.p[t->params.n - 1].at : NULL;
}

static int set_batch(struct pq_train *t, const struct pq_train_text *x,
                     size_t n, struct nn_train_batch *b, struct pq_error *e)
{
    size_t rows = 0, longest = 0, at = 0;

    for (size_t i = 0; i < n; i++) {
        if (check_text(t, &x[i], e))
            return pq_error_in(e, "text %zu", i + 1);
        const size_t more = t->prompt_rows + x[i].n;
        if (more > SIZE_MAX - rows)
            return pq_fail_nomem(e);
        rows += more;
        longest = more > longest ? more : longest;
    }
    if (make_room(t, rows, longest, n, e))
        return -1;
    set_prompt(t);
    for (size_t i = 0; i < n; i++) {
        t->s[i] = (struct nn_sequence){at, t->prompt_rows + x[i].n, at, 0};
        set_text(t, &x[i], &t->s[i]);
        at += t->s[i].n;
    }
    *b =
        (struct nn_train_batch){t->ids, t->labels, t->positions, t->s, n, rows};
    return 0;
}

static void set_noise(struct pq_train *t)
{
    snprintf(t->noise_name, sizeof t->noise_name, "neftune %llu",
             (unsigned long long)t->adamw.steps);
    t->tape.noise = (float)t->o.neftune;
    t->tape.noise_name = t->noise_name;
    t->tape.noise_seed = t->o.seed;
    t->tape.noise_from = t->rows_of_step;
}

int pq_train_gradient(struct pq_train *t, const struct pq_train_text *x,
                      size_t n, double weight, double *nll, struct pq_error *e)
{
    struct nn_train_batch b;

    if (set_batch(t, x, n, &b, e))
        return -1;
    set_noise(t);
    *nll = nn_tape_gradient(&t->tape, &b, (float)weight);
    t->rows_of_step += b.rows;
    return 0;
}

int pq_train_score(struct pq_train *t, const struct pq_train_text *x, size_t n,
                   double *nll, struct pq_error *e)
{
    struct nn_train_batch b;

    if (set_batch(t, x, n, &b, e))
        return -1;
    t->tape.noise = 0;
    *nll = nn_tape_score(&t->tape, &b);
    return 0;
}

uint64_t pq_train_right(const struct pq_train *t)
{
    return t->tape.right;
}
