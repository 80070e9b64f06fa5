/*
 * Sums of inputs: how many runs they take, and the files; see inputs.h.
 */
#include "inputs.h"

#include "made.h"
#include "pq_imatrix.h"
#include "pq_made.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NORMS, HESSIAN };

bool cmd_inputs_wanted(const struct cmd_inputs *x)
{
    return x->norms || x->hessian || x->imatrix;
}

uint64_t cmd_inputs_squares(const struct cmd_inputs *x)
{
    return x->norms || x->imatrix ? x->squares : 0;
}

uint64_t cmd_inputs_products(const struct cmd_inputs *x)
{
    return x->hessian ? x->products : 0;
}

int cmd_inputs_check(const struct cmd *c, const struct cmd_inputs *x)
{
    if (cmd_is_standard(x->norms))
        return cmd_usage(c, "--norms-out needs a file");
    if (cmd_is_standard(x->hessian))
        return cmd_usage(c, "--hessian-out needs a file");
    if (cmd_is_standard(x->imatrix))
        return cmd_usage(c, "--imatrix-out needs a file");
    return CMD_OK;
}

/* ---- what it takes ------------------------------------------------------ */

/* The --memory of which products get so many bytes: three quarters twice. */
static uint64_t memory_option(uint64_t bytes)
{
    return (bytes / 9 * 16 >> 20) + 1;
}

static uint64_t product_bytes(const struct pq_nn_inputs *w)
{
    return (uint64_t)w->in * w->in * sizeof *w->products;
}

/* One matrix of each place counts. */
static int count(struct cmd_inputs *x, size_t *weights, struct pq_error *e)
{
    struct pq_nn_inputs w;
    uint64_t left = 0;

    for (*weights = 0; pq_nn_watched(x->nn, *weights, &w); ++*weights) {
        if (w.place < x->places)
            continue;
        x->places = w.place + 1;
        x->squares += w.in * sizeof *w.squares;
        x->products += product_bytes(&w);
        if (!x->hessian)
            continue;
        if (product_bytes(&w) > x->room)
            return pq_fail(
                e, PQ_ELIMIT,
                "tensor %s: the products of its %zu inputs need "
                "--memory %lluM",
                w.weight, w.in,
                (unsigned long long)memory_option(product_bytes(&w)));
        if (x->runs == 0 || product_bytes(&w) > left) {
            x->runs++;
            left = x->room;
        }
        left -= product_bytes(&w);
    }
    return 0;
}

int cmd_inputs_open(struct cmd_inputs *x, struct cmd *c, struct pq_nn *nn,
                    struct pq_error *e)
{
    const uint64_t share = x->hessian ? c->memory / 4 : 0;
    size_t weights;

    if (!cmd_inputs_wanted(x))
        return 0;
    x->c = c;
    x->nn = nn;
    c->memory -= share;
    x->room = c->memory;
    if (pq_nn_watch(nn, false, 0, NULL, e) || count(x, &weights, e) ||
        (x->norms && pq_made_new(x->norms, weights, c->memory / 2, c->tmpdir,
                                 &x->means[NORMS], e)) ||
        (x->hessian && pq_made_new(x->hessian, weights, share, c->tmpdir,
                                   &x->means[HESSIAN], e)))
        return -1;
    return 0;
}

/* ---- runs --------------------------------------------------------------- */

int cmd_inputs_watch(struct cmd_inputs *x, struct pq_error *e)
{
    const bool squares = !x->took && (x->norms || x->imatrix);

    return cmd_inputs_wanted(x) ? pq_nn_watch(x->nn, squares, x->room,
                                              x->hessian ? &x->next : NULL, e)
                                : 0;
}

bool cmd_inputs_more(const struct cmd_inputs *x)
{
    return x->hessian && x->next < x->places;
}

static int add_norms(struct pq_source *made, const struct pq_nn_inputs *w,
                     struct pq_error *e)
{
    const uint64_t shape[1] = {w->in};
    float *norms = pq_alloc(w->in, sizeof *norms);

    if (!norms)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < w->in; i++)
        norms[i] = (float)sqrt(w->squares[i]);
    const int rc =
        pq_made_add(made, w->weight, PQ_F32, shape, 1, norms, e) ? 0 : -1;
    free(norms);
    return rc;
}

/* Of one weight, what this run has of it. */
static int take_weight(struct cmd_inputs *x, const struct pq_nn_inputs *w,
                       struct pq_error *e)
{
    const uint64_t shape[2] = {w->in, w->in};

    if (x->norms && w->squares && add_norms(x->means[NORMS], w, e))
        return -1;
    return !w->products || pq_made_add(x->means[HESSIAN], w->weight, PQ_F32,
                                       shape, 2, w->products, e)
               ? 0
               : -1;
}

static int take_matrix(struct cmd_inputs *x, const char *dataset, size_t chunk,
                       struct pq_error *e)
{
    const char *base = strrchr(dataset, '/');
    struct pq_imatrix m = {.dataset = base ? base + 1 : dataset,
                           .chunk = (uint32_t)chunk};
    struct pq_nn_inputs w;

    for (; pq_nn_watched(x->nn, m.n, &w); m.n++)
        ;
    struct pq_imatrix_entry *list = pq_alloc(m.n, sizeof *list);
    if (!list)
        return pq_fail_nomem(e);
    for (size_t i = 0; pq_nn_watched(x->nn, i, &w); i++)
        list[i] =
            (struct pq_imatrix_entry){w.weight, w.in, w.tokens, w.squares};
    m.entries = list;
    const int rc = pq_imatrix_put(
        &x->matrix,
        pq_ends_with(x->imatrix, ".dat") ? PQ_IMATRIX_DAT : PQ_IMATRIX_GGUF, &m,
        e);
    free(list);
    return rc;
}

static int label(struct pq_source *made, const char *kind, uint64_t n,
                 struct pq_error *e)
{
    char tokens[32];

    snprintf(tokens, sizeof tokens, "%llu", (unsigned long long)n);
    return pq_catalog_set(made->catalog, "pq.kind", kind, e) ||
                   pq_catalog_set(made->catalog, "pq.tokens", tokens, e)
               ? -1
               : 0;
}

int cmd_inputs_take(struct cmd_inputs *x, const char *dataset, size_t chunk,
                    struct pq_error *e)
{
    const bool first = !x->took;
    struct pq_nn_inputs w = {0};

    if (!cmd_inputs_wanted(x))
        return 0;
    pq_nn_watch_end(x->nn);
    for (size_t i = 0; pq_nn_watched(x->nn, i, &w); i++)
        if (take_weight(x, &w, e))
            return -1;
    if (first &&
        ((x->imatrix && take_matrix(x, dataset, chunk, e)) ||
         (x->norms && label(x->means[NORMS], "norms", w.tokens, e)) ||
         (x->hessian && label(x->means[HESSIAN], "hessian", w.tokens, e))))
        return -1;
    x->took = true;
    pq_nn_unwatch(x->nn);
    return 0;
}

/* ---- files -------------------------------------------------------------- */

int cmd_inputs_write(struct cmd_inputs *x, struct pq_error *e)
{
    if (x->norms && cmd_write_made(x->c, x->norms, x->means[NORMS], e))
        return -1;
    if (x->hessian && cmd_write_made(x->c, x->hessian, x->means[HESSIAN], e))
        return -1;
    return x->imatrix ? cmd_write_content(x->c, x->imatrix, &x->matrix, e) : 0;
}

void cmd_inputs_release(struct cmd_inputs *x)
{
    pq_source_free(x->means[NORMS]);
    pq_source_free(x->means[HESSIAN]);
    pq_buf_release(&x->matrix);
}
