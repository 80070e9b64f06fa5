/*
 * Models alone: tensors of one name become one, by a method of pq_blend.h.
 *
 * The output has the names, the order, the config and the files of the base,
 * or of the first model where there is none.  All models have the same
 * tensors, whatever their order, in whatever encoding.
 */
#include "config.h"
#include "join.h"
#include "merge_models.h"
#include "pq_names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A model among them, its tensors in the order of the first. */
struct model {
    const struct merge_input *input;
    const struct merge_model *seen; /* as the blend reads it */
    size_t *tensor; /* [n_tensors] number of the first's tensor i */
};

struct blend_job {
    struct merge_job *j;
    struct pq_blend blend; /* parameters; tensors are filled in for each */
    struct merge_models all; /* in the order of the inputs */
    struct model *models;  /* [n] the base first, if there is one */
    size_t n, n_base;
    struct merge_target *targets;  /* [n_tensors] of the first */
    struct pq_blend_input *inputs; /* [n_tensors][n - n_base] */
};

static const struct pq_catalog *catalog_of(const struct model *m)
{
    return m->input->source->catalog;
}

/* ---- models and their tensors ------------------------------------------ */

static void take_model(struct blend_job *b, const struct merge_input *in)
{
    struct model *m = &b->models[b->n++];

    m->input = in;
    m->seen = &b->all.list[in - b->j->inputs];
}

/* Makes them plain, and of one vocabulary. */
static int see_models(struct blend_job *b, struct pq_error *e)
{
    struct merge_job *j = b->j;
    const size_t base = j->base ? (size_t)(j->base - j->inputs)
                        : b->n_base ? 0
                                    : SIZE_MAX;

    if (merge_models_init(&b->all, j, base, e))
        return -1;
    b->all.vocab.policy = j->o->vocab;
    return merge_vocab_apply(&b->all, e);
}

/* The base comes first; slerp's first model is one. */
static int take_models(struct blend_job *b, struct pq_error *e)
{
    const struct merge_job *j = b->j;
    const struct pq_method *m = b->blend.method;

    b->n_base = m->base != PQ_BASE_NONE;
    b->models = pq_zalloc(j->n_inputs, sizeof *b->models);
    if (!b->models)
        return pq_fail_nomem(e);
    if (see_models(b, e))
        return -1;
    if (j->base)
        take_model(b, j->base);
    for (size_t i = 0; i < j->n_inputs; i++)
        if (&j->inputs[i] != j->base)
            take_model(b, &j->inputs[i]);
    if (b->n_base && !j->base && m->base == PQ_BASE_NEEDED)
        return cmd_usage(j->c, "--method %s needs --base MODEL", m->name);
    if (!b->n_base && j->base)
        return cmd_usage(j->c, "--method %s takes no --base", m->name);
    const size_t n = b->n - b->n_base;
    if (n < m->least || n > m->most)
        return cmd_usage(j->c, "--method %s takes %s%u model%s%s", m->name,
                         m->least == m->most ? "" : "at least ", m->least,
                         m->least == 1 ? "" : "s",
                         b->n_base ? " beside its base" : "");
    return 0;
}

/* The names of a catalogue, for cmd_join. */
static const char **names_of(const struct pq_catalog *c)
{
    const char **names = pq_alloc(c->n_tensors, sizeof *names);

    for (size_t i = 0; names && i < c->n_tensors; i++)
        names[i] = c->tensors[i].name;
    return names;
}

/* `a` has what `b` has not: `missing` of them, the first of which is named. */
static int differ(const struct model *a, const struct model *b,
                  const char *name, size_t missing, struct pq_error *e)
{
    if (missing == 1)
        return pq_fail(e, PQ_EARG, "%s: has no tensor %s, which %s has",
                       b->input->path, name, a->input->path);
    return pq_fail(e, PQ_EARG,
                   "%s: has no tensor %s, which %s has, nor %zu others",
                   b->input->path, name, a->input->path, missing - 1);
}

/* Both ways: to[i] is the number in `first` of tensor i of `m`. */
static int pair_up(const struct model *first, struct model *m,
                   const size_t *to, struct pq_error *e)
{
    const struct pq_catalog *a = catalog_of(first), *b = catalog_of(m);
    size_t odd = 0, odd_at = 0, missing = 0, missing_at = 0;

    for (size_t i = 0; i < a->n_tensors; i++)
        m->tensor[i] = SIZE_MAX;
    for (size_t i = 0; i < b->n_tensors; i++) {
        if (to[i] != SIZE_MAX)
            m->tensor[to[i]] = i;
        else if (odd++ == 0)
            odd_at = i;
    }
    for (size_t i = 0; i < a->n_tensors; i++)
        if (m->tensor[i] == SIZE_MAX && missing++ == 0)
            missing_at = i;
    if (missing)
        return differ(first, m, a->tensors[missing_at].name, missing, e);
    return odd ? differ(m, first, b->tensors[odd_at].name, odd, e) : 0;
}

static int join(const struct model *first, struct model *m, struct pq_error *e)
{
    const struct pq_catalog *a = catalog_of(first), *b = catalog_of(m);
    const char **of_a = names_of(a), **of_b = names_of(b);
    size_t *to = pq_alloc(b->n_tensors, sizeof *to);
    int rc = -1;

    m->tensor = pq_alloc(a->n_tensors, sizeof *m->tensor);
    if (!of_a || !of_b || !to || !m->tensor)
        pq_fail_nomem(e);
    else if (!cmd_join(of_a, a->n_tensors, of_b, b->n_tensors, to, e))
        rc = pair_up(first, m, to, e);
    free(of_a);
    free(of_b);
    free(to);
    return rc;
}

/* ---- what fits --------------------------------------------------------- */

/* Conv1D is turned when it is encoded; square ones do not show it. */
static int check_layout(const struct blend_job *b, const struct pq_tensor *x,
                        const struct model *m, const struct pq_tensor *y,
                        struct pq_error *e)
{
    const bool conv1d = cmd_config_has_conv1d(catalog_of(&b->models[0]), e);

    if (e->code)
        return -1;
    if (!conv1d || x->rank != 2 || !pq_name_is_conv1d(x->name) ||
        (x->codec.encoding == PQ_PLAIN) == (y->codec.encoding == PQ_PLAIN))
        return 0;
    return pq_fail(e, PQ_EUNSUPPORTED,
                   "%s: tensor %s is encoded in one model and not in another, "
                   "so one of them lies on its side; dequantize first",
                   m->input->path, y->name);
}

static int check_kind(const struct model *m, const struct pq_tensor *x,
                      const struct pq_tensor *y, struct pq_error *e)
{
    const bool a = x->codec.encoding != PQ_PLAIN || pq_dtype_is_float(x->dtype);
    const bool b = y->codec.encoding != PQ_PLAIN || pq_dtype_is_float(y->dtype);

    return a == b ? 0
                  : pq_fail(e, PQ_EARG, "%s: tensor %s is %s, elsewhere %s",
                            m->input->path, y->name, pq_dtype_name(y->dtype),
                            pq_dtype_name(x->dtype));
}

static int check_fit(const struct blend_job *b, size_t i, struct pq_error *e)
{
    const struct model *first = &b->models[0];
    const struct pq_tensor *x = &catalog_of(first)->tensors[i];

    for (size_t k = 1; k < b->n; k++) {
        const struct model *m = &b->models[k];
        const struct pq_tensor *y = &catalog_of(m)->tensors[m->tensor[i]];
        if (check_kind(m, x, y, e) || check_layout(b, x, m, y, e))
            return -1;
    }
    return 0;
}

/* ---- parameters -------------------------------------------------------- */

static void set_input(const struct blend_job *b, size_t k, size_t i,
                      struct pq_blend_input *in)
{
    const struct model *m = &b->models[b->n_base + k];

    in->source = m->seen->source;
    in->tensor = &in->source->catalog->tensors[m->tensor[i]];
    merge_set_input(b->j, b->blend.method, m->input, in);
    in->stream = k;
}

static void set_target(struct blend_job *b, size_t i)
{
    const struct model *first = &b->models[0];
    const size_t n = b->n - b->n_base;
    struct merge_target *t = &b->targets[i];

    t->like_source = merge_model_stored(first->seen, i);
    t->like = &t->like_source->catalog->tensors[i];
    t->name = t->like->name;
    t->blend = b->blend;
    t->blend.in = b->inputs + i * n;
    t->blend.n = n;
    if (b->n_base) {
        t->blend.base_source = first->seen->source;
        t->blend.base = &first->seen->source->catalog->tensors[i];
    }
    for (size_t k = 0; k < n; k++)
        set_input(b, k, i, &t->blend.in[k]);
}

static int make_targets(struct blend_job *b, struct pq_error *e)
{
    struct model *first = &b->models[0];
    const size_t n = catalog_of(first)->n_tensors;

    first->tensor = pq_alloc(n, sizeof *first->tensor);
    b->targets = pq_zalloc(n, sizeof *b->targets);
    b->inputs = pq_zalloc(n * b->n, sizeof *b->inputs);
    if (!first->tensor || !b->targets || !b->inputs)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++)
        first->tensor[i] = i;
    for (size_t k = 1; k < b->n; k++)
        if (join(first, &b->models[k], e))
            return -1;
    for (size_t i = 0; i < n; i++) {
        if (check_fit(b, i, e))
            return -1;
        set_target(b, i);
    }
    return 0;
}

/* ---- the job ----------------------------------------------------------- */

static int run_blend(struct blend_job *b, struct pq_error *e)
{
    struct merge_job *j = b->j;
    const size_t n = catalog_of(&b->models[0])->n_tensors;

    if (make_targets(b, e) ||
        pq_catalog_copy_meta(&j->out, catalog_of(&b->models[0]), e) ||
        merge_vocab_finish(&b->all, &j->out, e) ||
        merge_add_blends(j, b->targets, n, e) || merge_set_types(j, e) ||
        merge_models_sources(&b->all, e) ||
        merge_run_plan(j, catalog_of(&b->models[0]), e))
        return -1;
    return merge_end(j, e);
}

static void release(struct blend_job *b)
{
    /* steps read the views until the plan is gone */
    pq_sink_free(b->j->plan.sink);
    b->j->plan.sink = NULL;
    pq_plan_release(&b->j->plan);
    merge_models_release(&b->all);
    for (size_t k = 0; k < b->n; k++)
        free(b->models[k].tensor);
    free(b->models);
    free(b->targets);
    free(b->inputs);
}

int merge_blend(struct merge_job *j, struct pq_error *e)
{
    struct blend_job b = {.j = j};

    b.blend.method = j->o->method ? j->o->method : pq_method_named("linear");
    if (merge_check_options(j, b.blend.method))
        return -1;
    j->quant.report = cmd_report_tensor;
    merge_set_blend(j, &b.blend);
    int rc = take_models(&b, e);
    if (!rc)
        rc = run_blend(&b, e);
    release(&b);
    return rc;
}
