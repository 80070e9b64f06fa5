/*
 * What a soft prompt does to the loss of a model on a text, and to how often
 * the right token is the likeliest; see prompt.h.
 *
 * Scored are the same tokens each time: the first of a text is not, because
 * without a prompt nothing stands before it.  A text that is too long is cut
 * into pieces, for each of which the prompt stands before it.
 */
#include "prompt.h"
#include "training.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LENGTH 2048u /* tokens of a piece */
#define BATCH      8u    /* pieces that are run at a time */

struct scoring {
    struct prompt *p;
    struct train_data data;
    struct pq_train_text *texts; /* [data.n] */
    int32_t *labels;             /* of all of them */
    struct pq_train *core;
    size_t passes; /* done; there are n + 3 */
};

/* ---- data --------------------------------------------------------------- */

/* The same labels, but never the first. */
static int set_labels(struct scoring *s, struct pq_error *e)
{
    size_t at = 0;

    s->texts = pq_alloc(s->data.n, sizeof *s->texts);
    s->labels = pq_alloc((size_t)s->data.tokens, sizeof *s->labels);
    if (!s->texts || !s->labels)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < s->data.n; i++) {
        const struct pq_train_text *t = &s->data.pieces[i].text;
        int32_t *labels = s->labels + at;
        memcpy(labels, t->labels ? t->labels : t->ids, t->n * sizeof *labels);
        labels[0] = PQ_TRAIN_IGNORE;
        s->texts[i] = (struct pq_train_text){t->ids, labels, t->n};
        at += t->n;
        for (size_t k = 0; k < t->n; k++)
            s->p->loss.labels += labels[k] != PQ_TRAIN_IGNORE;
    }
    return 0;
}

static int read_data(struct scoring *s, struct pq_error *e)
{
    const struct prompt *p = s->p;
    const struct pq_train_info m = pq_train_about(s->core);
    const size_t room = m.positions > p->n ? m.positions - p->n : 0;

    if (room < 2)
        return pq_fail(e, PQ_EARG,
                       "a prompt of %zu tokens leaves no room for text in the "
                       "%zu positions of the model",
                       p->n, m.positions);
    s->data.file.tokenizer = p->tokenizer;
    s->data.file.lent = p->tokenizer != NULL;
    return train_data_read(&s->data, p->o->data, p->model->catalog, m.vocab,
                           room < MAX_LENGTH ? room : MAX_LENGTH, 0, e) ||
                   set_labels(s, e)
               ? -1
               : 0;
}

/* ---- scores ------------------------------------------------------------- */

static int open_core(struct scoring *s, struct pq_error *e)
{
    struct pq_train_options o = PQ_TRAIN_OPTIONS_INIT;

    o.kernels = s->p->c->kernels;
    o.threads = s->p->c->threads;
    o.what = PQ_TRAIN_PROMPT;
    o.prompt_rows = s->p->n;
    return pq_train_open(s->p->model, &o, &s->core, e);
}

/* The mean behind the first rows of what stands in the core's prompt now. */
static int score(struct scoring *s, size_t rows, struct prompt_score *out,
                 struct pq_error *e)
{
    double sum = 0, part;

    out->right = 0;
    pq_train_use_prompt(s->core, rows);
    for (size_t i = 0, n; i < s->data.n; i += n) {
        n = s->data.n - i < BATCH ? s->data.n - i : BATCH;
        if (cmd_cancel)
            return pq_fail(e, PQ_ECANCEL, "stopped by a signal");
        if (pq_train_score(s->core, s->texts + i, n, &part, e))
            return -1;
        sum += part;
        out->right += pq_train_right(s->core);
    }
    out->loss = sum / (double)s->p->loss.labels;
    s->passes++;
    cmd_progress(s->p->c, s->passes * s->data.tokens,
                 (s->p->n + 3) * s->data.tokens);
    return 0;
}

/* Rows of x but row `without`; SIZE_MAX: all. */
static int score_rows(struct scoring *s, const float *x, size_t without,
                      struct prompt_score *out, struct pq_error *e)
{
    const size_t h = s->p->hidden;
    const struct pq_train_param to = pq_train_param(s->core, 0);
    size_t rows = 0;

    for (size_t i = 0; i < s->p->n; i++)
        if (i != without)
            memcpy(to.w + rows++ * h, x + i * h, h * sizeof *x);
    pq_train_changed(s->core);
    return score(s, rows, out, e);
}

static int score_all(struct scoring *s, struct pq_error *e)
{
    const struct prompt *p = s->p;
    struct prompt_loss *l = &s->p->loss;

    if (score(s, 0, &l->without, e) ||
        score_rows(s, p->x, SIZE_MAX, &l->with, e) ||
        score_rows(s, p->nearest, SIZE_MAX, &l->nearest, e))
        return -1;
    for (size_t i = 0; i < p->n; i++)
        if (score_rows(s, p->x, i, &l->left[i], e))
            return -1;
    return 0;
}

int prompt_losses(struct prompt *p, struct pq_error *e)
{
    struct scoring s = {.p = p};

    p->loss.left = pq_zalloc(p->n, sizeof *p->loss.left);
    if (!p->loss.left)
        return pq_fail_nomem(e);
    const int rc =
        open_core(&s, e) || read_data(&s, e) || score_all(&s, e) ? -1 : 0;
    cmd_progress_end();
    pq_train_free(s.core);
    train_data_release(&s.data);
    free(s.texts);
    free(s.labels);
    return rc;
}
