/*
 * What the matrices of a model get as inputs, for pruning with data:
 *
 *   squares[i] = sum over tokens of x[i]^2          norms: the root of the mean
 *   h[i][j]    = sum over tokens of x[i] x[j]       hessian: the mean
 *
 * Layers that have one input in common, as q, k and v have, share the sums.
 * Squares are added token by token in double; products in float, by the one
 * matrix product, a batch at a time.  Either way the bits do not depend on
 * the threads.  Products are large: they may be taken of some places only.
 */
#include "model.h"
#include "nn.h"
#include "pq_nn.h"

#include <stdlib.h>

struct place {
    const char *names[3]; /* [n_names] */
    size_t n_names, in;
    uint64_t tokens;
    double *squares; /* [in], or NULL */
    float *h;        /* [in][in], or NULL */
};

struct nn_inputs {
    struct place *places; /* [n], NN_PLACES a layer */
    size_t n;
};

/* One tensor that holds several layers has one name. */
static void add_name(struct place *p, const struct nn_linear *l)
{
    for (size_t i = 0; i < p->n_names; i++)
        if (p->names[i] == l->name)
            return;
    p->names[p->n_names++] = l->name;
    p->in = l->in;
}

static void name_layer(struct place *p, const struct nn_layer *l, bool gated)
{
    add_name(&p[NN_IN_ATTENTION], &l->q);
    add_name(&p[NN_IN_ATTENTION], &l->k);
    add_name(&p[NN_IN_ATTENTION], &l->v);
    add_name(&p[NN_IN_OUT], &l->o);
    if (gated)
        add_name(&p[NN_IN_MLP], &l->gate);
    add_name(&p[NN_IN_MLP], &l->up);
    add_name(&p[NN_IN_DOWN], &l->down);
}

/* Places [*from, ...) get products while they fit `bytes`. */
static bool make_room(struct nn_inputs *x, bool squares, uint64_t bytes,
                      size_t *from)
{
    size_t next = from ? *from : x->n;

    for (size_t i = 0; squares && i < x->n; i++) {
        struct place *p = &x->places[i];
        if (!(p->squares = pq_zalloc(p->in, sizeof *p->squares)))
            return false;
    }
    for (uint64_t all; next < x->n; next++) {
        struct place *p = &x->places[next];
        if (!pq_mul(p->in, p->in, &all) || all > bytes / sizeof *p->h)
            break;
        bytes -= all * sizeof *p->h;
        if (!(p->h = pq_zalloc((size_t)all, sizeof *p->h)))
            return false;
    }
    if (from)
        *from = next;
    return true;
}

static struct nn_inputs *name_all(const struct nn_model *m)
{
    struct nn_inputs *x = pq_zalloc(1, sizeof *x);

    if (!x)
        return NULL;
    x->n = m->c.layers * NN_PLACES;
    x->places = pq_zalloc(x->n, sizeof *x->places);
    if (!x->places) {
        free(x);
        return NULL;
    }
    for (size_t i = 0; i < m->c.layers; i++)
        name_layer(x->places + i * NN_PLACES, &m->layers[i], m->c.gated);
    return x;
}

int nn_inputs_new(const struct nn_model *m, bool squares, uint64_t bytes,
                  size_t *from, struct nn_inputs **out, struct pq_error *e)
{
    struct nn_inputs *x = name_all(m);

    if (x && make_room(x, squares, bytes, from)) {
        *out = x;
        return 0;
    }
    nn_inputs_free(x);
    return pq_fail_nomem(e);
}

void nn_inputs_free(struct nn_inputs *x)
{
    for (size_t i = 0; x && x->places && i < x->n; i++) {
        free(x->places[i].squares);
        free(x->places[i].h);
    }
    if (x)
        free(x->places);
    free(x);
}

void nn_inputs_add(struct nn_inputs *in, struct nn_pool *pool, size_t layer,
                   enum nn_place place, const float *x, size_t rows)
{
    if (!in)
        return;
    struct place *p = &in->places[layer * NN_PLACES + place];
    const struct nn_mat b = nn_mat_f32(x, rows, p->in, p->in);
    const struct nn_product h = {.m = p->in,
                                 .n = p->in,
                                 .k = rows,
                                 .a = x,
                                 .a_row = 1,
                                 .a_col = p->in,
                                 .b = &b,
                                 .b_by_k = true,
                                 .c = p->h,
                                 .c_row = p->in,
                                 .add = true};

    p->tokens += rows;
    if (p->h)
        nn_multiply(pool, &h);
    for (size_t r = 0; p->squares && r < rows; r++)
        for (size_t i = 0; i < p->in; i++)
            p->squares[i] += (double)x[r * p->in + i] * x[r * p->in + i];
}

void nn_inputs_mean(struct nn_inputs *x)
{
    for (size_t i = 0; i < x->n; i++) {
        struct place *p = &x->places[i];
        const double tokens = p->tokens ? (double)p->tokens : 1;
        for (size_t k = 0; p->squares && k < p->in; k++)
            p->squares[k] /= tokens;
        for (size_t k = 0; p->h && k < p->in * p->in; k++)
            p->h[k] = (float)((double)p->h[k] / tokens);
    }
}

bool nn_inputs_of(const struct nn_inputs *x, size_t number,
                  struct pq_nn_inputs *out)
{
    for (size_t i = 0; x && i < x->n; number -= x->places[i++].n_names) {
        const struct place *p = &x->places[i];
        if (number >= p->n_names)
            continue;
        *out = (struct pq_nn_inputs){p->names[number], i,          p->in,
                                     p->tokens,        p->squares, p->h};
        return true;
    }
    return false;
}
