/*
 * From a recipe to tensors of the output.
 *
 * Whole models: the tensors of the base, or of the first model, each a blend of
 * those of the same name.  Slices: layers are numbered anew as they come;
 * what is used before the layers comes from the models of the first slice,
 * what is used after them from those of the last.
 *
 *     slice 0: a [0, 2)   slice 1: b [1, 3)   slice 2: a [0, 1)
 *     output   0  1                2  3                4
 *
 * The depth t of layer i of n, in its slice, is i / (n - 1), 1 if n is 1;
 * that of other tensors is 0.  Source: mergekit 0.1.5, plan.py.
 */
#include "merge_recipe.h"
#include "pq_names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- parameters ----------------------------------------------------- */

/* Those of the source, of the slice, of the recipe: the first that is set. */
static bool look_up(const struct recipe_job *r, const struct recipe_run *run,
                    const struct recipe_part *part,
                    enum recipe_parameter which, const char *tensor, double t,
                    double *value)
{
    return (part && part->said &&
            recipe_parameter_at(&part->said->parameters, which, tensor, t,
                                value)) ||
           recipe_parameter_at(&run->said->parameters, which, tensor, t,
                               value) ||
           recipe_parameter_at(&r->recipe.parameters, which, tensor, t, value);
}

static const unsigned bits[RECIPE_N_PARAMETERS] = {
    [RECIPE_WEIGHT] = PQ_TAKES_WEIGHT,
    [RECIPE_DENSITY] = PQ_TAKES_DENSITY,
    [RECIPE_GAMMA] = PQ_TAKES_GAMMA,
    [RECIPE_EPSILON] = PQ_TAKES_EPSILON,
    [RECIPE_SCALE] = PQ_TAKES_SCALE,
    [RECIPE_T] = PQ_TAKES_T,
    [RECIPE_LAMBDA] = PQ_TAKES_LAMBDA,
    [RECIPE_NORMALIZE] = PQ_TAKES_NORMALIZE,
    [RECIPE_RESCALE] = PQ_TAKES_RESCALE | PQ_TAKES_CHANCE,
    [RECIPE_FILTER_WISE] = PQ_TAKES_BY_ROW,
};

static bool takes(const struct pq_method *m, unsigned p)
{
    return (m->takes & bits[p]) != 0;
}

static double default_of(const struct pq_method *m, enum recipe_parameter p)
{
    const struct pq_blend_params *d = &m->defaults;

    switch (p) {
    case RECIPE_WEIGHT:    return d->weight;
    case RECIPE_DENSITY:   return d->density;
    case RECIPE_GAMMA:     return d->gamma;
    case RECIPE_EPSILON:   return d->epsilon;
    case RECIPE_SCALE:     return d->scale;
    case RECIPE_T:         return d->t;
    case RECIPE_LAMBDA:    return d->lambda;
    case RECIPE_NORMALIZE: return d->normalize;
    case RECIPE_RESCALE:   return d->rescale != PQ_RESCALE_NONE;
    default:               return d->by_row;
    }
}

static int check_taken(const struct recipe_job *r,
                       const struct recipe_parameters *p, struct pq_error *e)
{
    for (unsigned i = 0; i < RECIPE_N_PARAMETERS; i++)
        if (p->settings[i].n && !takes(r->method, i))
            return pq_fail(e, PQ_EARG, "line %u: %s takes no %s",
                           p->settings[i].line, r->recipe.method,
                           recipe_parameter_name(i));
    return 0;
}

static bool is_set(const struct recipe_parameters *p)
{
    for (unsigned i = 0; i < RECIPE_N_PARAMETERS; i++)
        if (p->settings[i].n)
            return true;
    return false;
}

/* mergekit is silent about it, too often by mistake. */
static void warn_base(const struct recipe_job *r, const struct recipe_run *run)
{
    const struct recipe_part *p =
        run->base == SIZE_MAX ? NULL : &run->parts[run->base];

    if (p && p->said && r->method->base != PQ_BASE_NONE &&
        is_set(&p->said->parameters) && !r->j->c->quiet)
        cmd_msg(r->j->c,
                "warning: line %u: %s is the base, whose parameters have no "
                "effect",
                p->said->line, p->said->model);
}

/* Of the models' tensors and of the output's, whose layers may be others. */
static bool is_in_a_name(const struct recipe_job *r, const char *part)
{
    for (size_t i = 0; i < r->n_targets; i++)
        if (strstr(r->targets[i].name, part))
            return true;
    for (size_t i = 0; i < r->models.n; i++) {
        const struct pq_catalog *c = r->models.list[i].plain->catalog;
        for (size_t k = 0; k < c->n_tensors; k++)
            if (strstr(c->tensors[k].name, part))
                return true;
    }
    return strstr("lm_head.weight", part) != NULL; /* it may be tied */
}

/* mergekit is silent about it; here it is most likely misspelled. */
static int check_filters(const struct recipe_job *r,
                         const struct recipe_parameters *p, struct pq_error *e)
{
    for (unsigned i = 0; i < RECIPE_N_PARAMETERS; i++)
        for (size_t k = 0; k < p->settings[i].n; k++) {
            const struct recipe_value *v = &p->settings[i].values[k];
            if (v->filter && !is_in_a_name(r, v->filter))
                return pq_fail(e, PQ_EARG,
                               "line %u: no tensor has the filter '%s' in its "
                               "name",
                               v->line, v->filter);
        }
    return 0;
}

/* Checks all parameters that there are in the recipe. */
static int check_each(const struct recipe_job *r,
                      int (*check)(const struct recipe_job *r,
                                   const struct recipe_parameters *p,
                                   struct pq_error *e),
                      struct pq_error *e)
{
    for (size_t i = 0; i < r->recipe.n; i++) {
        const struct recipe_slice *s = &r->recipe.slices[i];
        for (size_t k = 0; k < s->n; k++)
            if (check(r, &s->sources[k].parameters, e))
                return -1;
        if (check(r, &s->parameters, e))
            return -1;
    }
    return check(r, &r->recipe.parameters, e);
}

int recipe_check_parameters(const struct recipe_job *r, struct pq_error *e)
{
    return check_each(r, check_taken, e);
}

/* mergekit knows no default for a weight, nor for slerp's t. */
static bool must_be_said(enum recipe_parameter p)
{
    return p == RECIPE_WEIGHT || p == RECIPE_T;
}

static int get(const struct recipe_job *r, const struct recipe_run *run,
               const struct recipe_part *part, enum recipe_parameter which,
               const char *tensor, double t, double *value, struct pq_error *e)
{
    *value = 0;
    if (!takes(r->method, which) ||
        look_up(r, run, part, which, tensor, t, value))
        return 0;
    *value = default_of(r->method, which);
    if (!must_be_said(which) && !isnan(*value))
        return 0;
    return pq_fail(e, PQ_EARG, "line %u: tensor %s: no %s is given for %s",
                   part && part->said ? part->said->line
                                      : r->recipe.method_line,
                   tensor, recipe_parameter_name(which),
                   part ? r->models.list[part->model].opened->name
                        : r->recipe.method);
}

static struct merge_model *lead_of(const struct recipe_job *r,
                                   const struct recipe_run *run)
{
    return &r->models.list[run->parts[run->lead].model];
}

/* ---- one target ----------------------------------------------------- */

/* The name of a tensor in a source, of whose layers it is number `layer`. */
static const char *name_in(struct recipe_job *r,
                           const struct recipe_part *part, const char *name,
                           long layer, struct pq_error *e)
{
    const size_t room = strlen(name) + 32;

    if (layer < 0)
        return name;
    char *s = pq_arena_alloc(&r->recipe.arena, room, 1);
    if (!s) {
        pq_fail_nomem(e);
        return NULL;
    }
    const uint64_t number = part->first + (uint64_t)layer;
    (void)pq_name_set_layer(name, (unsigned long)number, s, room);
    return s;
}

struct input {
    struct merge_model *model;
    const struct pq_tensor *tensor;
    const char *name; /* in that model */
};

static int find_input(struct recipe_job *r, const struct recipe_run *run,
                      size_t k, const char *name, long layer, struct input *in,
                      struct pq_error *e)
{
    const struct recipe_part *part = &run->parts[k];
    struct merge_model *m = &r->models.list[part->model];

    in->name = name_in(r, part, name, layer, e);
    if (!in->name)
        return -1;
    in->model = m;
    in->tensor = merge_model_tensor(m, in->name);
    if (!in->tensor)
        return pq_fail(e, PQ_EARG, "%s: tensor %s is missing; %s has it",
                       m->opened->name, in->name,
                       lead_of(r, run)->opened->name);
    return 0;
}

static int set_input(struct recipe_job *r, const struct recipe_run *run,
                     size_t k, const struct input *from, double t,
                     struct pq_blend_input *in, struct pq_error *e)
{
    const struct recipe_part *p = &run->parts[k];

    in->source = from->model->source;
    in->tensor = from->tensor;
    return get(r, run, p, RECIPE_WEIGHT, from->name, t, &in->weight, e) ||
                   get(r, run, p, RECIPE_DENSITY, from->name, t, &in->density,
                       e) ||
                   get(r, run, p, RECIPE_EPSILON, from->name, t, &in->epsilon,
                       e) ||
                   get(r, run, p, RECIPE_GAMMA, from->name, t, &in->gamma, e)
               ? -1
               : 0;
}

static int set_whole(struct recipe_job *r, const struct recipe_run *run,
                     const char *name, double t, struct pq_blend *b,
                     struct pq_error *e)
{
    double normalize, rescale, by_row;

    if (get(r, run, NULL, RECIPE_T, name, t, &b->t, e) ||
        get(r, run, NULL, RECIPE_LAMBDA, name, t, &b->lambda, e) ||
        get(r, run, &run->parts[0], RECIPE_SCALE, name, t, &b->scale, e) ||
        get(r, run, NULL, RECIPE_NORMALIZE, name, t, &normalize, e) ||
        get(r, run, NULL, RECIPE_RESCALE, name, t, &rescale, e) ||
        get(r, run, NULL, RECIPE_FILTER_WISE, name, t, &by_row, e))
        return -1;
    b->normalize = normalize != 0;
    b->rescale = rescale == 0 ? PQ_RESCALE_NONE : PQ_RESCALE_NORM;
    b->by_row = by_row != 0;
    return 0;
}

static const struct pq_tensor *file_tensor(const struct input *in)
{
    return &in->model->opened->catalog
                ->tensors[in->tensor - in->model->source->catalog->tensors];
}

/* Conv1D is turned when it is encoded; square ones do not show it. */
static int check_layout(const struct recipe_job *r, const struct input *lead,
                        const struct input *in, struct pq_error *e)
{
    const struct pq_tensor *a = file_tensor(lead), *b = file_tensor(in);

    if (!r->has_conv1d || a->rank != 2 || !pq_name_is_conv1d(a->name) ||
        (a->codec.encoding == PQ_PLAIN) == (b->codec.encoding == PQ_PLAIN))
        return 0;
    return pq_fail(e, PQ_EUNSUPPORTED,
                   "%s: tensor %s is encoded in one model and not in another, "
                   "so one of them lies on its side; dequantize first",
                   in->model->opened->name, b->name);
}

/* It is stored as in the model that leads, there as the file has it. */
static void set_like(const struct input *in, struct merge_target *t)
{
    const struct merge_model *m = in->model;
    const size_t i = (size_t)(in->tensor - m->source->catalog->tensors);

    t->like_source = merge_model_stored(m, i);
    t->like = &t->like_source->catalog->tensors[i];
}

static int fill_target(struct recipe_job *r, const struct recipe_run *run,
                       const char *name, long layer, double depth,
                       struct merge_target *t, struct pq_error *e)
{
    struct pq_blend *b = &t->blend;
    struct input lead;

    if (find_input(r, run, run->lead, name, layer, &lead, e))
        return -1;
    set_like(&lead, t);
    b->method = r->method;
    b->seed = r->j->c->seed;
    b->in = pq_arena_alloc(&r->recipe.arena, run->n, sizeof *b->in);
    if (!b->in)
        return pq_fail_nomem(e);
    for (size_t k = 0; k < run->n; k++) {
        struct input in;
        if (find_input(r, run, k, name, layer, &in, e) ||
            check_layout(r, &lead, &in, e))
            return -1;
        if (k == run->base && r->method->base != PQ_BASE_NONE) {
            b->base_source = in.model->source;
            b->base = in.tensor;
        } else {
            b->in[b->n].stream = b->n;
            if (set_input(r, run, k, &in, depth, &b->in[b->n++], e))
                return -1;
        }
    }
    return set_whole(r, run, t->name, depth, b, e);
}

/* `layer`: number in the slice, or -1. */
static int add_target(struct recipe_job *r, const struct recipe_run *run,
                      const char *out_name, const char *name, long layer,
                      double t, struct pq_error *e)
{
    struct merge_target *list = pq_grow(r->targets, r->n_targets,
                                        &r->cap_targets, sizeof *list);

    if (!list)
        return pq_fail_nomem(e);
    r->targets = list;
    memset(&list[r->n_targets], 0, sizeof *list);
    list[r->n_targets].name = out_name;
    return fill_target(r, run, name, layer, t, &list[r->n_targets++], e);
}

/* Its name says so; a bias that is one has one dimension. */
static bool is_buffer(const struct pq_tensor *t)
{
    return pq_name_is_buffer(t->name) &&
           (t->rank != 1 || strstr(t->name, "bias") == NULL);
}

/* ---- whole models --------------------------------------------------- */

/* Layers are counted apart where a model has several stacks of them. */
struct stack {
    const char *prefix; /* [length] */
    size_t length;
    long layers;
};

static struct stack *stack_of(struct stack *stacks, size_t *n,
                              const char *name)
{
    const size_t length = pq_name_trunk(name);
    size_t i = 0;

    while (i < *n && (stacks[i].length != length ||
                      memcmp(stacks[i].prefix, name, length) != 0))
        i++;
    if (i == *n)
        stacks[(*n)++] = (struct stack){name, length, 0};
    return &stacks[i];
}

static double depth(long i, long n)
{
    return i < 0 ? 0 : n > 1 ? (double)i / (double)(n - 1) : 1;
}

static int whole_models(struct recipe_job *r, struct pq_error *e)
{
    const struct merge_model *m = lead_of(r, &r->runs[0]);
    const struct pq_catalog *c = m->source->catalog;
    struct stack *stacks = pq_alloc(c->n_tensors, sizeof *stacks);
    size_t n = 0;
    int rc = stacks ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < c->n_tensors; i++) {
        struct stack *s = stack_of(stacks, &n, c->tensors[i].name);
        if (m->layers[i] >= s->layers)
            s->layers = m->layers[i] + 1;
    }
    for (size_t i = 0; !rc && i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        const struct stack *s = stack_of(stacks, &n, name);
        if (!is_buffer(&c->tensors[i]))
            rc = add_target(r, &r->runs[0], name, name, -1,
                            depth(m->layers[i], s->layers), e);
    }
    free(stacks);
    return rc;
}

/* ---- slices --------------------------------------------------------- */

static int outside(struct recipe_job *r, const struct recipe_run *run,
                   bool before, struct pq_error *e)
{
    const struct merge_model *m = lead_of(r, run);
    const struct pq_catalog *c = m->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        if (m->layers[i] < 0 && !is_buffer(&c->tensors[i]) &&
            pq_name_is_before_layers(name) == before &&
            add_target(r, run, name, name, -1, 0, e))
            return -1;
    }
    return 0;
}

/* One layer of a slice as layer `number` of the output. */
static int one_layer(struct recipe_job *r, const struct recipe_run *run,
                     uint64_t layer, unsigned long number, struct pq_error *e)
{
    const struct merge_model *m = lead_of(r, run);
    const struct pq_catalog *c = m->source->catalog;
    const double t = depth((long)layer, (long)run->layers);

    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        const size_t room = strlen(name) + 32;
        if (m->layers[i] != (long)(run->parts[run->lead].first + layer) ||
            is_buffer(&c->tensors[i]))
            continue;
        char *out = pq_arena_alloc(&r->recipe.arena, room, 1);
        if (!out)
            return pq_fail_nomem(e);
        (void)pq_name_set_layer(name, number, out, room);
        if (add_target(r, run, out, name, (long)layer, t, e))
            return -1;
    }
    return 0;
}

static int slices(struct recipe_job *r, struct pq_error *e)
{
    unsigned long number = 0;

    if (outside(r, &r->runs[0], true, e))
        return -1;
    for (size_t i = 0; i < r->recipe.n; i++)
        for (uint64_t k = 0; k < r->runs[i].layers; k++)
            if (one_layer(r, &r->runs[i], k, number++, e))
                return -1;
    return outside(r, &r->runs[r->recipe.n - 1], false, e);
}

/* ---- what is left over ---------------------------------------------- */

/* Is a tensor of the model one that this run should have used? */
static bool concerns(const struct recipe_job *r, const struct recipe_run *run,
                     size_t model, size_t i)
{
    const struct merge_model *m = &r->models.list[model];
    const bool before =
        pq_name_is_before_layers(m->source->catalog->tensors[i].name);

    for (size_t k = 0; k < run->n; k++) {
        const struct recipe_part *p = &run->parts[k];
        const long first = (long)p->first, end = first + (long)run->layers;
        if (p->model != model)
            continue;
        if (run->layers == 0 ||
            (m->layers[i] >= 0
                 ? m->layers[i] >= first && m->layers[i] < end
                 : run == &r->runs[before ? 0 : r->recipe.n - 1]))
            return true;
    }
    return false;
}

/* A head that only some models have makes the others untie theirs. */
static int add_head(struct recipe_job *r, const struct recipe_run *run,
                    const char *name, struct pq_error *e)
{
    r->untied = true;
    return add_target(r, run, name, name, -1, 0, e);
}

static int left_over(struct recipe_job *r, const struct recipe_run *run,
                     size_t model, struct pq_error *e)
{
    const struct merge_model *m = &r->models.list[model];
    const struct merge_model *first = lead_of(r, run);
    const struct pq_catalog *c = m->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        if (m->used[i] || is_buffer(&c->tensors[i]) ||
            !concerns(r, run, model, i))
            continue;
        if (!first->tied || !pq_name_is_head(name) ||
            !pq_name_is_weight(name))
            return pq_fail(e, PQ_EARG, "%s: tensor %s is missing; %s has it",
                           first->opened->name, name, m->opened->name);
        if (add_head(r, run, name, e))
            return -1;
    }
    return 0;
}

int recipe_targets(struct recipe_job *r, struct pq_error *e)
{
    for (size_t i = 0; i < r->recipe.n; i++)
        warn_base(r, &r->runs[i]);
    if (r->recipe.sliced ? slices(r, e) : whole_models(r, e))
        return -1;
    for (size_t i = 0; i < r->recipe.n; i++)
        for (size_t k = 0; k < r->runs[i].n; k++)
            if (left_over(r, &r->runs[i], r->runs[i].parts[k].model, e))
                return -1;
    return check_each(r, check_filters, e);
}
