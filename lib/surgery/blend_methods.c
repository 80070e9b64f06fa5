/*
 * The table of blending methods.  One more is a row here and its functions.
 *
 * Defaults are those of mergekit.
 */
#include "blend_internal.h"

#include <math.h>
#include <string.h>

/* What the family of task arithmetic has in common. */
#define TASK_PARAMS .weight = 1, .lambda = 1
#define TASK_FUNCTIONS                                                         \
    .plan = pq_task_plan, .gather = pq_task_gather, .emit = pq_task_emit,      \
    .combine = pq_task_combine, .settle = pq_task_settle
#define TASK_TAKES   (PQ_TAKES_WEIGHT | PQ_TAKES_LAMBDA | PQ_TAKES_NORMALIZE)
#define SPARSE_TAKES (TASK_TAKES | PQ_TAKES_DENSITY | PQ_TAKES_RESCALE)
#define LOTS_TAKES   (SPARSE_TAKES | PQ_TAKES_CHANCE)

static const struct pq_method_row rows[] = {
    {.pub = {"linear",
             "the weighted mean",
             PQ_BASE_NONE,
             1,
             PQ_STREAMS,
             PQ_TAKES_WEIGHT | PQ_TAKES_NORMALIZE,
             {.weight = 1, .normalize = 1}},
     .plan = pq_sum_plan,
     .emit = pq_sum_emit,
     .weights = pq_sum_plain_weights},
    {.pub = {"slerp",
             "on the great circle from the base to a model",
             PQ_BASE_IS_FIRST,
             1,
             1,
             PQ_TAKES_T,
             {.t = (double)NAN}},
     .plan = pq_angle_plan,
     .gather = pq_angle_gather,
     .emit = pq_sum_emit,
     .combine = pq_angle_combine,
     .weights = pq_slerp_weights},
    {.pub = {"task_arithmetic",
             "the base and a weighted sum of the changes",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             TASK_TAKES,
             {TASK_PARAMS}},
     TASK_FUNCTIONS},
    {.pub = {"ties",
             "of the largest changes those of the elected sign",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             SPARSE_TAKES,
             {TASK_PARAMS, .density = 1, .normalize = 1}},
     .sparse = PQ_SPARSE_LARGEST,
     .elect = true,
     TASK_FUNCTIONS},
    {.pub = {"dare_linear",
             "changes of which some are dropped by lot",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             LOTS_TAKES,
             {TASK_PARAMS, .density = 1, .rescale = PQ_RESCALE_NORM}},
     .sparse = PQ_SPARSE_LOTS,
     TASK_FUNCTIONS},
    {.pub = {"dare_ties",
             "dare_linear with an elected sign",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             LOTS_TAKES,
             {TASK_PARAMS, .density = 1, .rescale = PQ_RESCALE_NORM}},
     .sparse = PQ_SPARSE_LOTS,
     .elect = true,
     TASK_FUNCTIONS},
    {.pub = {"della",
             "della_linear with an elected sign",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             LOTS_TAKES | PQ_TAKES_EPSILON,
             {TASK_PARAMS, .density = 1, .epsilon = 0.15, .normalize = 1,
              .rescale = PQ_RESCALE_NORM}},
     .sparse = PQ_SPARSE_RANKED,
     .elect = true,
     TASK_FUNCTIONS},
    {.pub = {"della_linear",
             "changes dropped by lot, rather the small ones",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             LOTS_TAKES | PQ_TAKES_EPSILON,
             {TASK_PARAMS, .density = 1, .epsilon = 0.15,
              .rescale = PQ_RESCALE_NORM}},
     .sparse = PQ_SPARSE_RANKED,
     TASK_FUNCTIONS},
    {.pub = {"breadcrumbs",
             "neither the largest changes nor the smallest",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             SPARSE_TAKES | PQ_TAKES_GAMMA,
             {TASK_PARAMS, .density = 1, .gamma = 0.01}},
     .sparse = PQ_SPARSE_MIDDLE,
     TASK_FUNCTIONS},
    {.pub = {"breadcrumbs_ties",
             "breadcrumbs with an elected sign",
             PQ_BASE_NEEDED,
             1,
             PQ_STREAMS,
             SPARSE_TAKES | PQ_TAKES_GAMMA,
             {TASK_PARAMS, .density = 1, .gamma = 0.01}},
     .sparse = PQ_SPARSE_MIDDLE,
     .elect = true,
     TASK_FUNCTIONS},
    {.pub = {"model_stock",
             "between base and mean, by the models' angles",
             PQ_BASE_NEEDED,
             2,
             PQ_STREAMS,
             PQ_TAKES_BY_ROW,
             {.by_row = 0}},
     .plan = pq_angle_plan,
     .gather = pq_angle_gather,
     .emit = pq_sum_emit,
     .combine = pq_angle_combine,
     .weights = pq_stock_weights},
    {.pub = {"passthrough",
             "one model, times a scale",
             PQ_BASE_NONE,
             1,
             1,
             PQ_TAKES_SCALE,
             {.scale = 1}},
     .plan = pq_sum_plan,
     .emit = pq_sum_emit,
     .weights = pq_sum_plain_weights},
};

#define N_ROWS (sizeof rows / sizeof *rows)

static const struct pq_method *const list[N_ROWS + 1] = {
    &rows[0].pub, &rows[1].pub, &rows[2].pub,  &rows[3].pub,
    &rows[4].pub, &rows[5].pub, &rows[6].pub,  &rows[7].pub,
    &rows[8].pub, &rows[9].pub, &rows[10].pub, &rows[11].pub,
};

const struct pq_method *const *pq_methods(void)
{
    return list;
}

const struct pq_method *pq_method_named(const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i].pub.name, name) == 0)
            return &rows[i].pub;
    return NULL;
}

const struct pq_method_row *pq_method_row(const struct pq_method *m)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (&rows[i].pub == m)
            return &rows[i];
    return NULL;
}
