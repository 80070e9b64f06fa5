/*
 * The options of the methods of blending: what they are set to, and whether
 * the method has a use for them.
 */
#include "merge.h"

#include <stddef.h>
#include <string.h>

/* Those that are a number, by id. */
static const struct number {
    unsigned bit; /* enum pq_blend_takes */
    size_t offset; /* in pq_blend_params */
    double least, most;
} numbers[] = {
    [MERGE_OPT_T] = {PQ_TAKES_T, offsetof(struct pq_blend_params, t), 0, 1},
    [MERGE_OPT_DENSITY] = {PQ_TAKES_DENSITY,
                           offsetof(struct pq_blend_params, density), 0, 1},
    [MERGE_OPT_LAMBDA] = {PQ_TAKES_LAMBDA,
                          offsetof(struct pq_blend_params, lambda), -1e6, 1e6},
    [MERGE_OPT_EPSILON] = {PQ_TAKES_EPSILON,
                           offsetof(struct pq_blend_params, epsilon), 0, 0.5},
    [MERGE_OPT_GAMMA] = {PQ_TAKES_GAMMA,
                         offsetof(struct pq_blend_params, gamma), 0, 1},
    [MERGE_OPT_SCALE] = {PQ_TAKES_SCALE,
                         offsetof(struct pq_blend_params, scale), -1e6, 1e6},
};

static int set_number(struct merge_options *o, const struct number *n,
                      const char *value, struct pq_error *e)
{
    double v;

    if (cmd_real(value, n->least, n->most, &v, e))
        return -1;
    memcpy((char *)&o->params + n->offset, &v, sizeof v);
    o->given |= n->bit;
    return 0;
}

static int set_method(struct merge_options *o, const char *value,
                      struct pq_error *e)
{
    char known[256] = "";
    size_t at = 0;

    o->fedavg = strcmp(value, "fedavg") == 0;
    if (strcmp(value, "magnitude_prune") == 0) {
        o->method = pq_method_named("breadcrumbs");
        return set_number(o, &numbers[MERGE_OPT_GAMMA], "0", e);
    }
    o->method = pq_method_named(value);
    if (o->method || o->fedavg)
        return 0;
    for (const struct pq_method *const *m = pq_methods(); *m; m++)
        if (at < sizeof known)
            at += (size_t)snprintf(known + at, sizeof known - at, " %s",
                                   (*m)->name);
    return pq_fail(e, PQ_EARG,
                   "unknown method '%.40s': one of%s magnitude_prune fedavg",
                   value, known);
}

static int set_rescale(struct merge_options *o, const char *value,
                       struct pq_error *e)
{
    int rescale; /* as in enum pq_rescale */

    if (cmd_one_of(value, "none norm chance", &rescale, e))
        return -1;
    o->params.rescale = rescale;
    o->given |= PQ_TAKES_RESCALE;
    if (rescale == PQ_RESCALE_CHANCE)
        o->given |= PQ_TAKES_CHANCE;
    return 0;
}

int merge_set_option(struct merge_options *o, int id, const char *value,
                     struct pq_error *e)
{
    switch (id) {
    case MERGE_OPT_METHOD:
        return set_method(o, value, e);
    case MERGE_OPT_BASE:
        o->base = value;
        return 0;
    case MERGE_OPT_RESCALE:
        return set_rescale(o, value, e);
    case MERGE_OPT_BY_ROW:
        o->params.by_row = 1;
        o->given |= PQ_TAKES_BY_ROW;
        return 0;
    case MERGE_OPT_NORMALIZE:
    case MERGE_OPT_NO_NORMALIZE:
        o->normalize = id == MERGE_OPT_NORMALIZE;
        o->params.normalize = o->normalize;
        o->given |= PQ_TAKES_NORMALIZE;
        return 0;
    default:
        return set_number(o, &numbers[id], value, e);
    }
}

/* ---- what they make of a blend ----------------------------------------- */

/* What the user said of a parameter, or the method's default. */
static double value(const struct merge_options *o, unsigned bit, double given,
                    double otherwise)
{
    return o->given & bit ? given : otherwise;
}

void merge_set_blend(const struct merge_job *j, struct pq_blend *w)
{
    const struct merge_options *o = j->o;
    const struct pq_blend_params *d = &w->method->defaults;
    const struct pq_blend_params *p = &o->params;

    w->t = value(o, PQ_TAKES_T, p->t, d->t);
    w->lambda = value(o, PQ_TAKES_LAMBDA, p->lambda, d->lambda);
    w->scale = value(o, PQ_TAKES_SCALE, p->scale, d->scale);
    w->normalize = o->given & PQ_TAKES_NORMALIZE ? p->normalize : d->normalize;
    w->rescale = (enum pq_rescale)(o->given & PQ_TAKES_RESCALE ? p->rescale
                                                               : d->rescale);
    w->by_row = o->given & PQ_TAKES_BY_ROW ? p->by_row : d->by_row;
    w->seed = j->c->seed;
}

void merge_set_input(const struct merge_job *j, const struct pq_method *m,
                     const struct merge_input *from, struct pq_blend_input *in)
{
    const struct merge_options *o = j->o;
    const struct pq_blend_params *d = &m->defaults;

    in->weight = from->weight;
    in->density =
        value(o, PQ_TAKES_DENSITY, o->params.density, d->density);
    in->epsilon =
        value(o, PQ_TAKES_EPSILON, o->params.epsilon, d->epsilon);
    in->gamma = value(o, PQ_TAKES_GAMMA, o->params.gamma, d->gamma);
}

/* ---- what has no use --------------------------------------------------- */

/* The option that sets a parameter. */
static const char *name_of(unsigned bit)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {
        {PQ_TAKES_DENSITY, "--density"},     {PQ_TAKES_EPSILON, "--epsilon"},
        {PQ_TAKES_GAMMA, "--gamma"},         {PQ_TAKES_T, "--t"},
        {PQ_TAKES_LAMBDA, "--lambda"},       {PQ_TAKES_SCALE, "--scale"},
        {PQ_TAKES_NORMALIZE, "--normalize"}, {PQ_TAKES_RESCALE, "--rescale"},
        {PQ_TAKES_CHANCE, "--rescale=chance"},
        {PQ_TAKES_BY_ROW, "--by-row"},
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (bit & names[i].bit)
            return names[i].name;
    return NULL;
}

/* A job that is no blend: adapters are folded into a model. */
static int check_none(const struct merge_job *j)
{
    const struct merge_options *o = j->o;
    const char *odd = name_of(o->given & ~(unsigned)PQ_TAKES_NORMALIZE);

    if (o->method || o->fedavg)
        odd = "--method";
    if (o->base)
        odd = "--base";
    if (o->vocab != MERGE_VOCAB_UNSAID)
        odd = "--vocab";
    if (j->c->seed_given)
        odd = "--seed";
    if (o->given & PQ_TAKES_NORMALIZE && !o->normalize)
        odd = "--no-normalize";
    return odd ? cmd_usage(j->c, "%s does not go with a model and adapters: "
                                 "merge either kind alone first", odd)
               : 0;
}

/* fedavg, linear: sums of factors, of which weights are all that counts. */
static int check_sum(const struct merge_job *j, const char *name)
{
    const struct merge_options *o = j->o;
    const char *odd = name_of(o->given & ~(unsigned)PQ_TAKES_NORMALIZE);

    if (j->c->seed_given)
        odd = "--seed";
    if (o->fedavg && o->ranks.rank)
        odd = "--rank";
    if (o->fedavg && o->ranks.energy > 0)
        odd = "--energy";
    if (o->given & PQ_TAKES_NORMALIZE && !o->normalize)
        odd = "--no-normalize";
    return odd ? cmd_usage(j->c, "--method %s of adapters has no use for %s",
                           name, odd)
               : 0;
}

int merge_check_adapters(const struct merge_job *j)
{
    const struct pq_method *m = j->o->method;

    if (j->o->base)
        return cmd_usage(j->c, "--base is for models: adapters alone have "
                               "none");
    if (j->o->vocab != MERGE_VOCAB_UNSAID)
        return cmd_usage(j->c, "--vocab is for models");
    if (j->o->fedavg)
        return check_sum(j, "fedavg");
    if (!m || strcmp(m->name, "linear") == 0)
        return check_sum(j, "linear");
    if (m->base != PQ_BASE_NEEDED)
        return cmd_usage(j->c, "--method %s is for models", m->name);
    return merge_check_options(j, m);
}

int merge_check_options(const struct merge_job *j, const struct pq_method *m)
{
    if (!m)
        return check_none(j);
    const char *odd = name_of(j->o->given & ~m->takes);
    if (!odd && j->c->seed_given && !(m->takes & PQ_TAKES_CHANCE))
        odd = "--seed";
    if (odd)
        return cmd_usage(j->c, "--method %s has no use for %s", m->name, odd);
    if (m->takes & PQ_TAKES_T && !(j->o->given & PQ_TAKES_T))
        return cmd_usage(j->c, "--method %s needs --t", m->name);
    for (size_t i = 0; i < j->n_inputs; i++)
        if (j->inputs[i].weighted && !(m->takes & PQ_TAKES_WEIGHT))
            return cmd_usage(j->c, "%s: --method %s has no use for a weight",
                             j->inputs[i].path, m->name);
    return 0;
}
