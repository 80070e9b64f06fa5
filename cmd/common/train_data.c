/*
 * What is trained on, and in which order; see training.h.
 *
 *   epoch e:  a permutation of the pieces, drawn by Fisher and Yates from the
 *             random numbers of (seed, "pq-train.order.e")
 *   batch:    the next pieces; one that has no room any more is the first of
 *             the batch that follows
 */
#include "rng.h"
#include "training.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces ------------------------------------------------------------- */

static int add_piece(struct train_data *d, const struct train_piece *p,
                     struct pq_error *e)
{
    struct train_piece *grown = pq_grow(d->pieces, d->n, &d->cap, sizeof *p);

    if (!grown)
        return pq_fail_nomem(e);
    d->pieces = grown;
    d->pieces[d->n++] = *p;
    d->tokens += p->text.n;
    d->longest = p->text.n > d->longest ? p->text.n : d->longest;
    return 0;
}

/* Labels of an example of which not all is trained on. */
static int32_t *labels_of(const struct cmd_example *x)
{
    int32_t *labels = pq_alloc(x->n, sizeof *labels);

    for (size_t i = 0; labels && i < x->n; i++)
        labels[i] = cmd_data_counts(x, i) ? x->ids[i] : PQ_TRAIN_IGNORE;
    return labels;
}

/* Has the piece x[at..at+n) a token to train on?  Its first is none. */
static bool is_trained(const struct cmd_example *x, size_t at, size_t n)
{
    for (size_t i = at + 1; x->counts && i < at + n; i++)
        if (x->counts[i])
            return true;
    return !x->counts && x->from < at + n;
}

/* Example i as pieces of at most `length` tokens; of choices the right one. */
static int cut(struct train_data *d, size_t i, size_t length,
               struct pq_error *e)
{
    const struct cmd_example *x = &d->file.items[i];
    const bool is_right = !x->n_choices || x->choice == x->answer;

    if ((x->from > 1 || x->counts) && !(d->labels[i] = labels_of(x)))
        return pq_fail_nomem(e);
    for (size_t at = 0; at + 1 < x->n; at += length - 1) {
        const size_t n = x->n - at < length ? x->n - at : length;
        const struct train_piece p = {
            {x->ids + at, d->labels[i] ? d->labels[i] + at : NULL, n}, x->line};
        if (is_trained(x, at, n) && is_right && add_piece(d, &p, e))
            return -1;
    }
    return 0;
}

static int cut_all(struct train_data *d, const char *path, size_t length,
                   size_t positions, struct pq_error *e)
{
    d->labels = pq_zalloc(d->file.n, sizeof *d->labels);
    if (!d->labels)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < d->file.n; i++) {
        const struct cmd_example *x = &d->file.items[i];
        if (!length && positions && x->n > positions)
            return pq_fail(e, PQ_EARG,
                           "%s: line %zu: %zu tokens are more than the %zu "
                           "positions that the model has for text: --seq-len "
                           "cuts them",
                           path, x->line, x->n, positions);
        if (cut(d, i, length ? length : x->n < 2 ? 2 : x->n, e))
            return -1;
    }
    return 0;
}

int train_data_read(struct train_data *d, const char *path,
                    const struct pq_catalog *model, size_t vocab, size_t length,
                    size_t positions, struct pq_error *e)
{
    d->file.model = model;
    if (cmd_data_read(path, &d->file, e) ||
        (d->ends && train_end_texts(&d->file, e)) ||
        cmd_data_check(&d->file, path, vocab, e))
        return -1;
    if (d->file.n == 0)
        return pq_fail(e, PQ_EARG, "%s: holds no example", path);
    if (cut_all(d, path, length, positions, e))
        return -1;
    if (d->n == 0)
        return pq_fail(e, PQ_EARG,
                       "%s: holds no token to train on (the first of a text "
                       "is none)",
                       path);
    return 0;
}

void train_data_release(struct train_data *d)
{
    for (size_t i = 0; d->labels && i < d->file.n; i++)
        free(d->labels[i]);
    free(d->labels);
    cmd_data_release(&d->file);
    free(d->pieces);
    memset(d, 0, sizeof *d);
}

/* ---- the order ---------------------------------------------------------- */

static void shuffle(struct train_order *o, uint64_t epoch)
{
    struct pq_rng r;
    char name[48];

    for (size_t i = 0; i < o->d->n; i++)
        o->next[i] = i;
    o->epoch = epoch;
    if (!o->shuffle)
        return;
    snprintf(name, sizeof name, "pq-train.order.%llu",
             (unsigned long long)epoch);
    pq_rng_init(&r, o->seed, name);
    for (size_t i = o->d->n; i > 1; i--) {
        uint32_t x[4];
        pq_rng_at(&r, i, x);
        const uint64_t word = (uint64_t)x[0] << 32 | x[1];
        const size_t j = (size_t)(word % i);
        const size_t kept = o->next[i - 1];
        o->next[i - 1] = o->next[j];
        o->next[j] = kept;
    }
}

int train_order_init(struct train_order *o, struct pq_error *e)
{
    o->next = pq_alloc(o->d->n, sizeof *o->next);
    if (!o->next)
        return pq_fail_nomem(e);
    shuffle(o, 0);
    return 0;
}

size_t train_most(const struct train_order *o)
{
    return o->room ? o->room / 2 : o->batch;
}

size_t train_take(struct train_order *o, const struct train_piece **out)
{
    const size_t most = train_most(o);
    size_t n = 0, tokens = 0;

    for (; n < most; n++, o->taken++) {
        const uint64_t epoch = o->taken / o->d->n;
        if (epoch != o->epoch)
            shuffle(o, epoch);
        const struct train_piece *p =
            &o->d->pieces[o->next[o->taken % o->d->n]];
        if (o->room && tokens + p->text.n > o->room)
            break;
        tokens += p->text.n;
        out[n] = p;
    }
    return n;
}

void train_order_restart(struct train_order *o, uint64_t taken)
{
    o->taken = taken;
    shuffle(o, taken / o->d->n);
}

void train_order_release(struct train_order *o)
{
    free(o->next);
    memset(o, 0, sizeof *o);
}
