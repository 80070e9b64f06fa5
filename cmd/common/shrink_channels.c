/*
 * Which channels of the MLPs go: those of the least norm.
 *
 *     y = down (act(gate x) * up x)          gate, up [f, h], down [h, f]
 *
 * Channel i is row i of gate and of up, and column i of down.  Its score is
 *
 *     sum_k gate[i,k]^2 + sum_k up[i,k]^2 + sum_k down[k,i]^2
 *
 * in double.  In each layer the channels of the least score go, among equals
 * the first, as many as make round(FRACTION f), halves to even: the same
 * number everywhere, since config.json has one.  An MLP without a gate has
 * two terms; GPT-2 stores its weights turned.  Biases have no say and go
 * with their channels.
 */
#include "config.h"
#include "shrink.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The matrices of an MLP, in the order in which scores are added up. */
static const enum pq_block_role mlp[] = {PQ_BLOCK_GATE, PQ_BLOCK_UP,
                                         PQ_BLOCK_DOWN};
enum { N_MLP = sizeof mlp / sizeof *mlp };

/* The dimension of the tensor in which channels are counted. */
static int dimension(const struct shrink *s, enum pq_block_role role)
{
    return (role == PQ_BLOCK_DOWN) != s->has_conv1d;
}

static bool has(const struct shrink *s, size_t layer, enum pq_block_role role)
{
    return s->layers[layer].tensors[role][0] != SIZE_MAX;
}

/* ---- how many there are ------------------------------------------------ */

static int check_layer(struct shrink *s, size_t i, struct pq_error *e)
{
    char shape[96];

    for (size_t k = 0; k < N_MLP; k++) {
        if (mlp[k] == PQ_BLOCK_GATE && !has(s, i, mlp[k]))
            continue;
        const struct pq_tensor *t = shrink_tensor(s, i, mlp[k], e);
        if (!t)
            return -1;
        const uint64_t n = t->shape[dimension(s, mlp[k])];
        if (!s->n_channels)
            s->n_channels = n;
        if (n == s->n_channels)
            continue;
        pq_shape_text(t->shape, t->rank, shape, sizeof shape);
        return pq_fail(e, PQ_EFORMAT,
                       "tensor %s: %s does not have %llu channels, as others "
                       "have",
                       t->name, shape, (unsigned long long)s->n_channels);
    }
    return 0;
}

/* The key that says how many, NULL without a config. */
static const char *key_of(const struct shrink *s, struct pq_error *e)
{
    return !s->has_config ? NULL
           : cmd_config_has(s->in->catalog, "intermediate_size", e)
               ? "intermediate_size"
               : "n_inner";
}

static int check_config(const struct shrink *s, struct pq_error *e)
{
    const char *key = key_of(s, e);
    uint64_t n, width;

    if (!key || e->code)
        return e->code ? -1 : 0;
    if (!cmd_config_number(s->in->catalog, key, &n, e)) {
        if (!cmd_config_number(s->in->catalog, "n_embd", &width, e))
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: config.json: has no intermediate_size to set",
                           s->in->name);
        n = 4 * width;
    }
    if (n == s->n_channels)
        return 0;
    return pq_fail(e, PQ_EFORMAT,
                   "%s: config.json: says %llu channels of the MLPs, the "
                   "tensors have %llu",
                   s->in->name, (unsigned long long)n,
                   (unsigned long long)s->n_channels);
}

int shrink_check_channels(struct shrink *s, struct pq_error *e)
{
    if (!s->o->has_channels)
        return 0;
    for (size_t i = 0; i < s->n_layers; i++)
        if (shrink_stays(s, i) && check_layer(s, i, e))
            return -1;
    if (check_config(s, e))
        return -1;
    const double gone = nearbyint(s->o->channels * (double)s->n_channels);
    s->channels = s->n_channels - (uint64_t)gone;
    if (s->channels && s->n_channels)
        return 0;
    return pq_fail(e, PQ_EARG, "%s: of %llu channels none would be left",
                   s->in->name, (unsigned long long)s->n_channels);
}

/* ---- their norms ------------------------------------------------------- */

struct score {
    double sum;
    uint64_t channel;
};

static int by_score(const void *a, const void *b)
{
    const struct score *x = a, *y = b;

    if (x->sum != y->sum)
        return x->sum < y->sum ? -1 : 1;
    return x->channel < y->channel ? -1 : x->channel > y->channel;
}

static int choose(struct shrink *s, struct shrink_layer *layer,
                  struct pq_error *e)
{
    const size_t n = (size_t)s->n_channels;
    struct score *scores = pq_zalloc(n, sizeof *scores);
    bool *gone = pq_zalloc(n, sizeof *gone);
    int rc = scores && gone ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < n; i++) {
        scores[i].channel = i;
        for (size_t k = 0; k < N_MLP; k++)
            if (layer->sums[mlp[k]])
                scores[i].sum += layer->sums[mlp[k]][i];
    }
    if (!rc) {
        qsort(scores, n, sizeof *scores, by_score);
        for (size_t i = 0; i < n - s->channels; i++)
            gone[scores[i].channel] = true;
        rc = shrink_spans(s, gone, n, 1, &layer->channels, e);
    }
    free(scores);
    free(gone);
    return rc;
}

static bool complete(const struct shrink_layer *layer)
{
    for (size_t k = 0; k < N_MLP; k++)
        if (layer->tensors[mlp[k]][0] != SIZE_MAX && !layer->sums[mlp[k]])
            return false;
    return true;
}

/* Keeps the sums of one tensor; the last one of a layer decides. */
static int found(const struct pq_step *step, const double *sums,
                 struct pq_error *e)
{
    struct shrink *s = step->user;
    const char *end;
    bool bias;
    struct shrink_layer *layer = &s->layers[pq_name_layer(step->name, &end)];
    const enum pq_block_role role = pq_name_block_role(step->name, &bias);
    const size_t n = (size_t)s->n_channels;

    layer->sums[role] = pq_alloc(n, sizeof *sums);
    if (!layer->sums[role])
        return pq_fail_nomem(e);
    memcpy(layer->sums[role], sums, n * sizeof *sums);
    if (!complete(layer))
        return 0;
    const int rc = choose(s, layer, e);
    for (size_t k = 0; k < N_MLP; k++) {
        free(layer->sums[mlp[k]]);
        layer->sums[mlp[k]] = NULL;
    }
    return rc;
}

static int add_step(struct shrink *s, struct pq_plan *p, size_t i,
                    struct pq_error *e)
{
    const struct pq_tensor *t = &s->in->catalog->tensors[i];
    const char *end;
    bool bias = false;
    const long layer = pq_name_layer(t->name, &end);
    const enum pq_block_role role = pq_name_block_role(t->name, &bias);

    if (role < PQ_BLOCK_GATE || role == PQ_BLOCK_OTHER || bias ||
        !shrink_stays(s, (size_t)layer))
        return 0;
    struct pq_step *step = pq_step_squares(
        p, s->in, t, dimension(s, role) == 1, s->c->kernels, found, e);
    if (!step)
        return -1;
    step->user = s;
    return 0;
}

/* What -n prints depends on how many go, not on which. */
static int choose_any(struct shrink *s, struct pq_error *e)
{
    struct pq_span *first = pq_arena_alloc(&s->arena, 1, sizeof *first);

    if (!first)
        return pq_fail_nomem(e);
    first->count = s->channels;
    for (size_t i = 0; i < s->n_layers; i++)
        s->layers[i].channels = (struct pq_spans){first, 1};
    return 0;
}

int shrink_choose_channels(struct shrink *s, struct pq_error *e)
{
    struct pq_plan p = {.sources = &s->in, .n_sources = 1};
    int rc = 0;

    if (!s->channels || s->channels == s->n_channels)
        return 0;
    if (s->c->dry_run)
        return choose_any(s, e);
    for (size_t i = 0; !rc && i < s->in->catalog->n_tensors; i++)
        rc = add_step(s, &p, i, e);
    if (!rc)
        rc = cmd_run_part(s->c, &p, e);
    pq_plan_release(&p);
    return rc;
}

int shrink_set_channels(struct shrink *s, struct pq_error *e)
{
    const char *key = key_of(s, e);

    return s->channels && key && !e->code
               ? cmd_config_set_number(s->view->catalog, key, s->channels, e)
               : e->code ? -1 : 0;
}
