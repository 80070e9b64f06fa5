/*
 * What the modules and values of an adapter do to a base model; the tensors
 * are found by peft_target.c.
 *
 * A Conv1D of GPT-2 is stored [in, out], so its product is turned; shapes say
 * so unless they are square, then the name does.
 */
#include "peft_config.h"
#include "peft_experts.h"
#include "peft_target.h"
#include "pq_names.h"

#include <stdio.h>

/* ---- products ---------------------------------------------------------- */

static bool is_turned(const struct pq_peft_places *w, const struct pq_peft *p,
                      const struct pq_peft_module *m, const struct pq_tensor *t)
{
    const uint64_t out = m->b->shape[0], in = m->a->shape[1];
    const bool conv1d = w->has_conv1d && pq_name_is_conv1d(t->name);

    if (m->embedding)
        return true;
    if (t->rank != 2 || t->codec.encoding != PQ_PLAIN)
        return false;
    if (in != out)
        return t->shape[0] == in && t->shape[1] == out &&
               (conv1d || p->fan_in_fan_out);
    return conv1d || (p->fan_in_fan_out && !w->has_config);
}

static int no_place(const struct pq_tensor *t, struct pq_error *e)
{
    return pq_fail(e, PQ_EARG, "tensor %s: the base has no place for it",
                   t->name);
}

/* ---- parts of the base ------------------------------------------------- */

/* A matrix of the shape that a factor will have. */
static const struct pq_tensor *promise(struct pq_peft_places *w,
                                       const char *name, uint64_t rows,
                                       uint64_t cols, struct pq_error *e)
{
    struct pq_tensor *t = pq_arena_alloc(&w->arena, 1, sizeof *t);
    uint64_t *shape = pq_arena_alloc(&w->arena, 2, sizeof *shape);
    struct pq_part *part = pq_arena_alloc(&w->arena, 1, sizeof *part);

    if (!t || !shape || !part) {
        pq_fail_nomem(e);
        return NULL;
    }
    shape[0] = rows;
    shape[1] = cols;
    *part = (struct pq_part){.name = name, .dtype = PQ_F32, .rank = 2,
                             .shape = shape};
    *t = (struct pq_tensor){.name = name, .dtype = PQ_F32, .rank = 2,
                            .shape = shape, .parts = part, .n_parts = 1};
    if (pq_shape_elements(shape, 2, &t->n_elements, e) ||
        pq_shape_bytes(shape, 2, PQ_F32, &part->bytes, e))
        return NULL;
    return t;
}

static bool same_part(const struct pq_peft_part *a,
                      const struct pq_peft_part *b)
{
    return a->target == b->target && a->rank == b->rank &&
           a->leading == b->leading && a->turned == b->turned;
}

/* The number of the part that the init of the module took; SIZE_MAX failed. */
static size_t find_part(struct pq_peft_places *w, struct pq_peft_part part,
                        struct pq_error *e)
{
    const struct pq_tensor *t = peft_start(w, part.target);
    const uint64_t in = t->shape[part.turned ? 0 : 1];
    const uint64_t out = t->shape[part.turned ? 1 : 0];

    if (part.rank > in)
        part.rank = in;
    if (part.rank > out)
        part.rank = out;
    for (size_t i = 0; i < w->n_parts; i++)
        if (same_part(&w->parts[i], &part))
            return i;
    part.a = promise(w, t->name, part.rank, in, e);
    part.b = promise(w, t->name, out, part.rank, e);
    struct pq_peft_part *list =
        pq_grow(w->parts, w->n_parts, &w->cap_parts, sizeof *list);
    if (!part.a || !part.b || !list) {
        pq_fail_nomem(e);
        return SIZE_MAX;
    }
    w->parts = list;
    list[w->n_parts] = part;
    return w->n_parts++;
}

/* Takes the part out, times c. */
static int take_part(struct pq_peft_places *w, const struct pq_peft *p,
                     const struct pq_peft_module *m, size_t target, bool turned,
                     double c, struct pq_error *e)
{
    const struct pq_tensor *t = peft_start(w, target);
    const bool olora = p->init == PQ_INIT_OLORA;

    if (t->rank != 2 || m->embedding || target >= w->base->n_tensors)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: init_lora_weights \"%s\" of what is not "
                       "linear",
                       m->a->name, p->init_name);
    const size_t i = find_part(w,
                               (struct pq_peft_part){
                                   .target = target,
                                   .rank = m->a->shape[0],
                                   .leading = olora,
                                   .turned = turned && !olora},
                               e);
    if (i == SIZE_MAX)
        return -1;
    const struct pq_edit d = {.kind = PQ_EDIT_PRODUCT,
                              .a = w->parts[i].a,
                              .b = w->parts[i].b,
                              .turned = w->parts[i].turned,
                              .scale = olora ? m->scale : 1,
                              .weight = -c};
    if (peft_add_edit(w, target, &d, e))
        return -1;
    w->edits[w->n_edits - 1].part = i;
    return 0;
}

void pq_peft_fill(struct pq_peft_places *w, size_t i, struct pq_source *source,
                  const struct pq_tensor *a, const struct pq_tensor *b)
{
    w->parts[i].a = a;
    w->parts[i].b = b;
    for (size_t k = 0; k < w->n_edits; k++)
        if (w->edits[k].part == i) {
            w->edits[k].edit.source = source;
            w->edits[k].edit.a = a;
            w->edits[k].edit.b = b;
        }
}

/* ---- modules ----------------------------------------------------------- */

static bool has_part(const struct pq_peft_places *w, const struct pq_peft *p)
{
    return p->init != PQ_INIT_PLAIN && !w->residual;
}

/*
 * The product, and before it what the init took out of the base: by as much
 * as the adapter counts, since that is linear.  DoRA is not; it is of all that
 * was left, and what is not wanted of it is put back.
 */
static int add_product(struct pq_peft_places *w, const struct pq_peft *p,
                       const struct pq_peft_module *m, size_t target,
                       const struct pq_edit *d, struct pq_error *e)
{
    const bool taken = has_part(w, p);
    const double first = m->magnitude ? 1 : d->weight;

    if (taken && take_part(w, p, m, target, d->turned, first, e))
        return -1;
    if (peft_add_edit(w, target, d, e))
        return -1;
    return taken && first != d->weight
               ? take_part(w, p, m, target, d->turned, d->weight - first, e)
               : 0;
}

static int place_bias(struct pq_peft_places *w, const struct pq_peft *p,
                      const struct pq_peft_module *m, double weight,
                      struct pq_error *e)
{
    char name[PEFT_MAX_NAME];
    const struct pq_edit d = {.kind = PQ_EDIT_ADD,
                              .source = p->source,
                              .value = m->bias,
                              .scale = m->scale,
                              .weight = weight};

    snprintf(name, sizeof name, "%s.bias", m->name);
    const size_t at = peft_find(w, name);
    return at == SIZE_MAX ? no_place(m->bias, e) : peft_add_edit(w, at, &d, e);
}

static int place_layer(struct pq_peft_places *w, const struct pq_peft *p,
                       const struct pq_peft_module *m, double weight,
                       struct pq_error *e)
{
    char name[PEFT_MAX_NAME];
    struct pq_edit d = {.kind = PQ_EDIT_PRODUCT,
                        .source = p->source,
                        .a = m->a,
                        .b = m->b,
                        .magnitude = m->magnitude,
                        .scale = m->scale,
                        .weight = weight};

    snprintf(name, sizeof name, "%s.weight", m->name);
    const size_t target = peft_find_or_untie(w, name, e);
    if (target == SIZE_MAX)
        return no_place(m->a, e);
    if (m->n_parameters && peft_check_rank(m, e))
        return -1;
    d.turned = is_turned(w, p, m, peft_start(w, target));
    if (add_product(w, p, m, target, &d, e))
        return -1;
    return m->bias ? place_bias(w, p, m, weight, e) : 0;
}

static int place_module(struct pq_peft_places *w, const struct pq_peft *p,
                        const struct pq_peft_module *m, double weight,
                        struct pq_names *used, struct pq_error *e)
{
    const int rc = m->n_parameters
                       ? peft_place_parameter(w, p, m, weight, used, e)
                       : 0;

    return rc ? rc < 0 ? -1 : 0 : place_layer(w, p, m, weight, e);
}

static int place_value(struct pq_peft_places *w, const struct pq_peft *p,
                       const struct pq_peft_value *v, double weight,
                       struct pq_error *e)
{
    char name[PEFT_MAX_NAME];
    const struct pq_edit d = {.kind = v->rows ? PQ_EDIT_ROWS
                                              : PQ_EDIT_REPLACE,
                              .source = p->source,
                              .value = v->tensor,
                              .rows = v->rows,
                              .weight = weight};

    snprintf(name, sizeof name, "%s%s", v->name, v->rows ? ".weight" : "");
    const size_t target = peft_find_or_untie(w, name, e);
    if (target != SIZE_MAX)
        return peft_add_edit(w, target, &d, e);
    if (v->rows || !v->may_add)
        return no_place(v->tensor, e);
    return peft_add_target(w, v->name, SIZE_MAX, p->source, v->tensor, e) ==
                   SIZE_MAX
               ? -1
               : 0;
}

static int refuse_lost(const struct pq_peft_places *w, const struct pq_peft *p,
                       struct pq_error *e)
{
    return has_part(w, p) && p->init == PQ_INIT_LOST
               ? pq_fail(e, PQ_EUNSUPPORTED,
                         "%s: init_lora_weights \"%s\" changed the base "
                         "before training in a way that cannot be found "
                         "again; merge into that base (--residual-base), or "
                         "have PEFT save a plain LoRA "
                         "(path_initial_model_for_weight_conversion)",
                         p->source->name, p->init_name)
               : 0;
}

int pq_peft_place(struct pq_peft_places *w, const struct pq_peft *p,
                  double weight, struct pq_error *e)
{
    struct pq_names used = {0};
    int rc = refuse_lost(w, p, e);

    if (rc)
        return -1;
    w->follows = p->keep_tied;
    /* whole tensors first: products are of what they put there */
    for (size_t i = 0; !rc && i < p->n_values; i++)
        rc = p->values[i].rows
                 ? 0
                 : place_value(w, p, &p->values[i], weight, e);
    for (size_t i = 0; !rc && i < p->n_modules; i++)
        rc = place_module(w, p, &p->modules[i], weight, &used, e);
    for (size_t i = 0; !rc && i < p->n_values; i++)
        rc = p->values[i].rows ? place_value(w, p, &p->values[i], weight, e)
                               : 0;
    pq_names_release(&used);
    return rc ? pq_error_in(e, "%s", p->source->name) : 0;
}
