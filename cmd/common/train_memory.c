/*
 * What memory a training takes, before it begins; see training.h.
 *
 *     what lib/nn has: weights, gradients, AdamW, what the largest batch of the
 *     run leaves behind
 *     copies of parameters: the best so far, B of LoRA+, the start of PiSSA
 *     texts as ids, their order, the log
 *     what is kept of a pipe; files beside the weights; a tokenizer has twice
 *     what its file has
 *     the program: its code, the blocks that are written, all that is small;
 *     LAPACK, which stays once PiSSA has asked for it
 */
#include "training.h"

#include <string.h>

enum {
    PROGRAM = 4 << 20,
    WRITTEN = 4 << 20,
    THREAD = 64 << 10,
    LAPACK = 8 << 20
};

#define LOOKED_AT (1u << 24) /* pieces whose batches are tried */

/* Rows of n pieces, each behind its soft prompt. */
static size_t rows_of(const struct train *t, const struct train_piece *const *p,
                      size_t n)
{
    size_t rows = n * (size_t)t->o->prompt_tokens;

    for (size_t i = 0; i < n; i++)
        rows += p[i]->text.n;
    return rows;
}

/* The largest batch of those that will be taken, of all `n` of them. */
static size_t of_training(struct train *t, uint64_t n)
{
    size_t most = 0;

    train_order_restart(&t->order, 0);
    for (uint64_t i = 0; i < n; i++) {
        const size_t taken = train_take(&t->order, t->taken);
        const size_t rows = rows_of(t, t->taken, taken);
        most = rows > most ? rows : most;
    }
    train_order_restart(&t->order, 0);
    return most;
}

static size_t of_validation(const struct train *t)
{
    size_t most = 0;

    for (size_t i = 0; i < t->val.n;) {
        const size_t n = train_val_batch(t, i);
        size_t rows = n * (size_t)t->o->prompt_tokens;
        for (const size_t end = i + n; i < end; i++)
            rows += t->val.pieces[i].text.n;
        most = rows > most ? rows : most;
    }
    return most;
}

void train_rows(struct train *t, size_t *rows, size_t *longest)
{
    const uint64_t batches = t->steps * t->o->accumulate;
    const size_t prompt = (size_t)t->o->prompt_tokens;
    const size_t of_val = of_validation(t);

    *longest =
        t->data.longest > t->val.longest ? t->data.longest : t->val.longest;
    *longest += prompt;
    if (batches <= LOOKED_AT / t->o->batch)
        *rows = of_training(t, batches);
    else
        *rows = t->order.room ? t->order.room + train_most(&t->order) * prompt
                              : (size_t)t->o->batch * *longest;
    *rows = *rows > of_val ? *rows : of_val;
}

/* Those of the best weights, of B before a step, of A and B at the start. */
static uint64_t copies(const struct train *t)
{
    uint64_t n = 0;

    for (size_t i = 0; i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        const uint64_t count = (uint64_t)p.rows * (p.cols ? p.cols : 1);
        const bool is_b = strstr(p.name, ".lora_B.");
        n += t->val.n ? count : 0;
        n += t->o->plus > 0 && is_b ? count : 0;
        /* what is written has both, side by side */
        n +=
            t->o->pissa && (is_b || strstr(p.name, ".lora_A.")) ? 3 * count : 0;
    }
    return n * sizeof(float);
}

static uint64_t texts(const struct train_data *d)
{
    uint64_t n = d->n * (sizeof *d->pieces + sizeof(size_t)) +
                 d->file.n * (sizeof *d->file.items + sizeof *d->labels);

    for (size_t i = 0; i < d->file.n; i++)
        n += d->file.items[i].n * sizeof(int32_t) *
             (d->labels && d->labels[i] ? 2 : 1);
    return n;
}

static uint64_t files(const struct train *t)
{
    const struct pq_catalog *c = t->model->catalog;
    uint64_t n = 0;

    for (size_t i = 0; i < c->n_blobs; i++) {
        const struct pq_blob *b = &c->blobs[i];
        const bool is_tokenizer = strncmp(b->name, "tokenizer.", 10) == 0 ||
                                  strcmp(b->name, "spiece.model") == 0;
        n += b->bytes * (t->data.file.tokenizer && is_tokenizer ? 3 : 1);
    }
    return n;
}

/* Of a pipe: what is to be copied to the output comes from there. */
static uint64_t kept(const struct train *t)
{
    const struct pq_catalog *c = t->model->catalog;
    uint64_t n = 0;

    for (size_t i = 0; t->kept && i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++)
            n += c->tensors[i].parts[k].bytes;
    return n < t->kept ? n : t->kept;
}

int train_bytes(struct train *t, uint64_t *bytes, struct pq_error *e)
{
    const uint64_t log = t->steps * sizeof *t->log.points;
    const uint64_t weights = pq_train_about(t->core).weight_bytes;
    const uint64_t small = PROGRAM + (weights < WRITTEN ? weights : WRITTEN) +
                           t->c->threads * (uint64_t)THREAD +
                           (t->o->pissa ? LAPACK : 0);
    size_t rows, longest;
    uint64_t core;

    train_rows(t, &rows, &longest);
    if (pq_train_bytes(t->core, rows, longest, &core, e))
        return -1;
    const uint64_t all[] = {copies(t), texts(&t->data), texts(&t->val),
                            kept(t),   files(t),        log,
                            small};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!pq_add(core, all[i], &core))
            return pq_fail(e, PQ_ELIMIT, "training takes too much memory");
    *bytes = core;
    return 0;
}
