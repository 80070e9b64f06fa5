/*
 * Parameters of a recipe: numbers, curves and filters.
 *
 *     weight: 0.5                    the same everywhere
 *     weight: [0, 0.5, 1]            points evenly over the depth t in [0, 1],
 *                                    on straight lines between them
 *     weight:
 *       - filter: self_attn          tensors with this in their name
 *         value: [0.2, 0.8]
 *       - value: 0.5                 the others
 *
 * Source: mergekit 0.1.5, config.py, evaluate_setting().
 */
#include "cmd.h"
#include "recipe.h"

#include <string.h>

static const char *const names[RECIPE_N_PARAMETERS] = {
    [RECIPE_WEIGHT] = "weight",       [RECIPE_DENSITY] = "density",
    [RECIPE_GAMMA] = "gamma",         [RECIPE_EPSILON] = "epsilon",
    [RECIPE_SCALE] = "scale",         [RECIPE_T] = "t",
    [RECIPE_LAMBDA] = "lambda",       [RECIPE_NORMALIZE] = "normalize",
    [RECIPE_RESCALE] = "rescale",     [RECIPE_FILTER_WISE] = "filter_wise",
};

const char *recipe_parameter_name(enum recipe_parameter p)
{
    return names[p];
}

/* Is it one that each model has for itself? */
static bool is_of_model(enum recipe_parameter p)
{
    return p <= RECIPE_SCALE;
}

static bool is_flag(enum recipe_parameter p)
{
    return p >= RECIPE_NORMALIZE;
}

/* ---- scalars -------------------------------------------------------- */

/* The words of YAML 1.1, and 0 and 1. */
static int read_flag(const struct recipe_node *n, double *v,
                     struct pq_error *e)
{
    static const char *const no[] = {"0",  "false", "False", "FALSE", "no",
                                     "No", "NO",    "off",   "Off",   "OFF"};
    static const char *const yes[] = {"1",   "true", "True", "TRUE", "yes",
                                      "Yes", "YES",  "on",   "On",   "ON"};

    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (strcmp(n->text, no[i]) == 0 || strcmp(n->text, yes[i]) == 0) {
            *v = strcmp(n->text, yes[i]) == 0;
            return 0;
        }
    return recipe_fail(n, e, "'%s' is neither true nor false", n->text);
}

static int read_scalar(const struct recipe_node *n, bool flag, double *v,
                       struct pq_error *e)
{
    struct pq_error why = PQ_ERROR_INIT;

    if (n->kind != RECIPE_TEXT)
        return recipe_fail(n, e, "%s is expected here",
                           flag ? "true or false" : "a number");
    if (flag)
        return read_flag(n, v, e);
    return cmd_real(n->text, -1e6, 1e6, v, &why)
               ? recipe_fail(n, e, "%s", why.msg)
               : 0;
}

/* ---- values --------------------------------------------------------- */

static int read_points(struct recipe_value *v, const struct recipe_node *n,
                       bool flag, struct pq_arena *a, struct pq_error *e)
{
    const bool list = n->kind == RECIPE_LIST;
    const size_t count = list ? n->n : 1;

    if (count == 0)
        return recipe_fail(n, e, "an empty list");
    double *points = pq_arena_alloc(a, count, sizeof *points);
    if (!points)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < count; i++)
        if (read_scalar(list ? &n->items[i] : n, flag, &points[i], e))
            return -1;
    v->points = points;
    v->n = count;
    v->steps = flag;
    return 0;
}

/* {filter: PART, value: V}; without a filter, or with "*": every tensor. */
static int read_conditional(struct recipe_value *v,
                            const struct recipe_node *n, bool flag,
                            struct pq_arena *a, struct pq_error *e)
{
    const struct recipe_node *value = recipe_get(n, "value");
    const struct recipe_node *filter = recipe_get(n, "filter");

    for (size_t i = 0; i < n->n; i++)
        if (strcmp(n->items[i].key, "value") != 0 &&
            strcmp(n->items[i].key, "filter") != 0)
            return recipe_fail(&n->items[i], e, "unknown key '%s'",
                               n->items[i].key);
    if (!value)
        return recipe_fail(n, e, "a filter without a value");
    if (filter && filter->kind != RECIPE_TEXT)
        return recipe_fail(filter, e, "a filter is a part of a tensor's name");
    if (filter && strcmp(filter->text, "*") != 0) {
        v->filter = filter->text;
        v->line = filter->line;
    }
    return read_points(v, value, flag, a, e);
}

static int read_setting(struct recipe_setting *s, const struct recipe_node *n,
                        bool flag, struct pq_arena *a, struct pq_error *e)
{
    const bool list = n->kind == RECIPE_LIST && n->n > 0 &&
                      n->items[0].kind == RECIPE_MAP;
    const size_t count = list ? n->n : 1;
    struct recipe_value *values = pq_arena_alloc(a, count, sizeof *values);

    if (!values)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < count; i++) {
        const struct recipe_node *x = list ? &n->items[i] : n;
        if (list && x->kind != RECIPE_MAP)
            return recipe_fail(x, e, "numbers and filters in one list; for "
                                     "all other tensors write {value: X}");
        if (x->kind == RECIPE_MAP ? read_conditional(&values[i], x, flag, a, e)
                                  : read_points(&values[i], x, flag, a, e))
            return -1;
    }
    s->line = n->line;
    s->values = values;
    s->n = count;
    return 0;
}

/* ---- the map -------------------------------------------------------- */

/* int8_mask says how mergekit stores a mask; nothing comes of it. */
static int read_other(const struct recipe_node *n, struct pq_error *e)
{
    double flag;

    if (strcmp(n->key, "int8_mask") != 0)
        return recipe_fail(n, e, "unknown parameter '%s'", n->key);
    return n->kind == RECIPE_NULL ? 0 : read_scalar(n, true, &flag, e);
}

int recipe_parameters_read(struct recipe_parameters *p,
                           const struct recipe_node *map, bool whole,
                           struct pq_arena *a, struct pq_error *e)
{
    if (map && map->kind != RECIPE_MAP)
        return recipe_fail(map, e, "parameters are a map");
    for (size_t i = 0; map && i < map->n; i++) {
        const struct recipe_node *n = &map->items[i];
        unsigned which = 0;
        while (which < RECIPE_N_PARAMETERS &&
               strcmp(names[which], n->key) != 0)
            which++;
        if (which == RECIPE_N_PARAMETERS) {
            if (read_other(n, e))
                return -1;
            continue;
        }
        if (!whole && !is_of_model(which))
            return recipe_fail(n, e,
                               "%s is not of one model; it goes under the "
                               "parameters of the slice or of the recipe",
                               n->key);
        if (n->kind != RECIPE_NULL &&
            read_setting(&p->settings[which], n, is_flag(which), a, e))
            return -1;
    }
    return 0;
}

/* ---- looking up ----------------------------------------------------- */

static double at(const struct recipe_value *v, double t)
{
    const double x = t * (double)(v->n - 1);
    const size_t i = (size_t)x;

    if (v->steps || i + 1 >= v->n)
        return v->points[i < v->n ? i : v->n - 1];
    const double part = x - (double)i;
    return (1 - part) * v->points[i] + part * v->points[i + 1];
}

bool recipe_parameter_at(const struct recipe_parameters *p,
                         enum recipe_parameter which, const char *tensor,
                         double t, double *value)
{
    const struct recipe_setting *s = &p->settings[which];

    for (size_t i = 0; i < s->n; i++)
        if (!s->values[i].filter || strstr(tensor, s->values[i].filter)) {
            *value = at(&s->values[i], t);
            return true;
        }
    return false;
}
