/*
 * Adapters joined by module: their sum by putting the factors one behind the
 * other, and the average of the factors.
 */
#include "peft_write.h"

#include <stdlib.h>
#include <string.h>

/* ---- joining ----------------------------------------------------------- */

/* Modules that are no products, or none of the base as it is. */
static int refuse_modules(const struct pq_peft_union *u,
                          const struct pq_peft *p, struct pq_error *e)
{
    for (size_t i = 0; i < p->n_modules; i++) {
        const struct pq_peft_module *m = &p->modules[i];
        if (m->magnitude && !u->have_base)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: DoRA cannot be summed without the "
                           "base; pq-extract --plain makes it a LoRA",
                           p->source->name, m->magnitude->name);
        if (m->n_parameters)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: experts cannot be summed without "
                           "the base",
                           p->source->name, m->a->name);
    }
    return 0;
}

static int refuse(const struct pq_peft_union *u, const struct pq_peft *p,
                  struct pq_error *e)
{
    if (p->init != PQ_INIT_PLAIN && !u->have_base)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: init_lora_weights \"%s\" changed the base before "
                       "training: it cannot be summed without the base; "
                       "pq-extract --plain makes it a plain LoRA",
                       p->source->name, p->init_name);
    if (refuse_modules(u, p, e))
        return -1;
    if (u->n_adapters > 1 && p->n_values)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: tensor %s: replaces one of the base and cannot be "
                       "summed without it",
                       p->source->name, p->values[0].tensor->name);
    if (p->fan_in_fan_out != u->adapters[0]->fan_in_fan_out)
        return pq_fail(e, PQ_EARG, "%s: fan_in_fan_out is not that of %s",
                       p->source->name, u->adapters[0]->source->name);
    return 0;
}

static struct pq_peft_joint *add_joint(struct pq_peft_union *u,
                                       const struct pq_peft_module *m,
                                       struct pq_error *e)
{
    struct pq_peft_joint *j = pq_grow(u->modules, u->n, &u->cap, sizeof *j);

    if (!j) {
        pq_fail_nomem(e);
        return NULL;
    }
    u->modules = j;
    j += u->n++;
    memset(j, 0, sizeof *j);
    j->like = m;
    return j;
}

static struct pq_peft_joint *joint_named(struct pq_peft_union *u,
                                         struct pq_names *names,
                                         const struct pq_peft_module *m,
                                         struct pq_error *e)
{
    size_t old = 0;
    const int rc = pq_names_add(names, m->name, u->n, &old, e);

    if (rc < 0)
        return NULL;
    return rc == 1 ? &u->modules[old] : add_joint(u, m, e);
}

/* Is it the same layer of the same model as in the adapters before? */
static int check_like(const struct pq_peft *p, const struct pq_peft_module *m,
                      const struct pq_peft_module *like, struct pq_error *e)
{
    const size_t inputs = (size_t)(m->a->rank - 1) * sizeof *m->a->shape;

    if (like->embedding != m->embedding || like->a->rank != m->a->rank)
        return pq_fail(e, PQ_EARG,
                       "%s: module %s: is another kind of layer than in the "
                       "adapters before",
                       p->source->name, m->name);
    const bool a = memcmp(m->a->shape + 1, like->a->shape + 1, inputs) == 0;
    if (!a || m->b->shape[0] != like->b->shape[0])
        return pq_fail(e, PQ_EARG,
                       "%s: tensor %s: its shape does not fit the other "
                       "adapters (made for another model?)",
                       p->source->name, a ? m->b->name : m->a->name);
    return 0;
}

/* Counts who has which module. */
static int count(struct pq_peft_union *u, struct pq_names *names,
                 struct pq_error *e)
{
    for (size_t i = 0; i < u->n_adapters; i++) {
        const struct pq_peft *p = u->adapters[i];
        if (refuse(u, p, e))
            return -1;
        for (size_t k = 0; k < p->n_modules; k++) {
            const struct pq_peft_module *m = &p->modules[k];
            struct pq_peft_joint *j = joint_named(u, names, m, e);
            if (!j || check_like(p, m, j->like, e))
                return -1;
            j->n++;
        }
    }
    return 0;
}

static int make_room(struct pq_peft_union *u, struct pq_error *e)
{
    for (size_t i = 0; i < u->n; i++) {
        struct pq_peft_joint *j = &u->modules[i];
        j->adapter = pq_arena_alloc(&u->arena, j->n, sizeof *j->adapter);
        j->scale = pq_arena_alloc(&u->arena, j->n, sizeof *j->scale);
        j->a = pq_arena_alloc(&u->arena, j->n + 1, sizeof *j->a);
        j->b = pq_arena_alloc(&u->arena, j->n + 1, sizeof *j->b);
        j->bias = pq_arena_alloc(&u->arena, j->n, sizeof *j->bias);
        if (!j->adapter || !j->scale || !j->a || !j->b || !j->bias)
            return pq_fail_nomem(e);
        j->n = 0;
    }
    return 0;
}

static void fill(struct pq_peft_union *u, const struct pq_names *names,
                 size_t adapter)
{
    const struct pq_peft *p = u->adapters[adapter];

    for (size_t k = 0; k < p->n_modules; k++) {
        const struct pq_peft_module *m = &p->modules[k];
        struct pq_peft_joint *j = &u->modules[pq_names_find(names, m->name)];
        const double c = u->weights[adapter] * m->scale;
        j->adapter[j->n] = adapter;
        j->scale[j->n] = m->scale;
        j->a[j->n] = (struct pq_piece){p->source, m->a, c};
        j->b[j->n++] = (struct pq_piece){p->source, m->b, 1};
        if (m->bias)
            j->bias[j->n_bias++] = (struct pq_piece){p->source, m->bias, c};
        j->rank += m->a->shape[0];
    }
}

void pq_peft_join_part(struct pq_peft_joint *j, struct pq_source *source,
                       const struct pq_tensor *a, const struct pq_tensor *b,
                       double scale)
{
    j->a[j->n] = (struct pq_piece){source, a, scale};
    j->b[j->n++] = (struct pq_piece){source, b, 1};
    j->rank += a->shape[0];
}

int pq_peft_join(struct pq_peft_union *u, struct pq_error *e)
{
    struct pq_names names = {0};
    int rc = count(u, &names, e);

    if (!rc)
        rc = make_room(u, e);
    for (size_t i = 0; !rc && i < u->n_adapters; i++)
        fill(u, &names, i);
    pq_names_release(&names);
    return rc;
}

void pq_peft_union_release(struct pq_peft_union *u)
{
    free(u->modules);
    pq_arena_release(&u->arena);
    memset(u, 0, sizeof *u);
}

/* ---- the output -------------------------------------------------------- */

/* The output under way. */
struct sum {
    struct pq_plan *plan;
    struct pq_catalog *out;
    enum pq_dtype dtype;
    const struct pq_quant *quant;
};

static int add_tensor(const struct sum *s, const struct peft_shape *shape,
                      enum peft_member which, const struct pq_piece *pieces,
                      size_t n, enum pq_joint joint, struct pq_error *e)
{
    return peft_declare(s->out, shape, which, s->dtype, e) &&
                   pq_step_concat(s->plan, s->out, s->out->n_tensors - 1,
                                  pieces, n, joint, s->quant, e)
               ? 0
               : -1;
}

static struct peft_shape shape_of(const struct pq_peft_joint *j,
                                  uint64_t rank)
{
    const struct pq_peft_module *m = j->like;

    return (struct peft_shape){m->name, m->embedding, j->n_bias > 0,
                               m->a->shape + 1, m->a->rank - 1,
                               m->b->shape[0], rank};
}

int pq_peft_sum(struct pq_plan *plan, struct pq_catalog *out,
                const struct pq_peft_union *u, size_t more,
                enum pq_dtype dtype, const struct pq_quant *q,
                struct pq_error *e)
{
    const struct sum s = {plan, out, dtype, q};
    struct peft_shape *shapes = pq_zalloc(u->n, sizeof *shapes);
    int rc = shapes ? pq_catalog_reserve(out, 3 * u->n + more, e)
                    : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < u->n; i++) {
        const struct pq_peft_joint *j = &u->modules[i];
        shapes[i] = shape_of(j, j->rank);
        rc = add_tensor(&s, &shapes[i], PEFT_A, j->a, j->n, PQ_BELOW, e) ||
             add_tensor(&s, &shapes[i], PEFT_B, j->b, j->n, PQ_BESIDE, e) ||
             (shapes[i].has_bias && add_tensor(&s, &shapes[i], PEFT_BIAS,
                                               j->bias, j->n_bias, PQ_ADDED,
                                               e));
    }
    if (!rc)
        rc = peft_set_config(out, shapes, u->n, e);
    free(shapes);
    return rc ? -1 : 0;
}

/* ---- the average of the factors ---------------------------------------- */

/* Can they be averaged: one rank, one scale, all of them there? */
static int check_same(const struct pq_peft_union *u,
                      const struct pq_peft_joint *j, struct pq_error *e)
{
    const char *first = u->adapters[j->adapter[0]]->source->name;

    if (j->n < u->n_adapters)
        return pq_fail(e, PQ_EARG,
                       "module %s: %zu of %zu adapters have it: factors that "
                       "are not there cannot be averaged",
                       j->like->name, j->n, u->n_adapters);
    for (size_t i = 1; i < j->n; i++) {
        const char *name = j->a[i].source->name;
        const uint64_t rank = j->a[i].tensor->shape[0];
        if (rank != j->like->a->shape[0])
            return pq_fail(e, PQ_EARG,
                           "module %s: rank %llu in %s, %llu in %s: only "
                           "factors of one rank can be averaged",
                           j->like->name,
                           (unsigned long long)j->like->a->shape[0], first,
                           (unsigned long long)rank, name);
        if (j->scale[i] != j->scale[0])
            return pq_fail(e, PQ_EARG,
                           "module %s: scale %g in %s, %g in %s: only factors "
                           "of one scale can be averaged",
                           j->like->name, j->scale[0], first, j->scale[i],
                           name);
    }
    return (j->n_bias == 0 || j->n_bias == j->n)
               ? 0
               : pq_fail(e, PQ_EARG, "module %s: not all have a lora_B.bias",
                         j->like->name);
}

/* The pieces, each times the weight of its adapter alone. */
static struct pq_piece *weighted(const struct sum *s,
                                 const struct pq_peft_union *u,
                                 const struct pq_peft_joint *j,
                                 const struct pq_piece *pieces)
{
    struct pq_piece *p = pq_arena_alloc(&s->plan->arena, j->n, sizeof *p);

    for (size_t i = 0; p && i < j->n; i++) {
        p[i] = pieces[i];
        p[i].scale = u->weights[j->adapter[i]];
    }
    return p;
}

static int average(const struct sum *s, const struct pq_peft_union *u,
                   const struct pq_peft_joint *j, struct pq_error *e)
{
    const struct peft_shape shape = shape_of(j, j->like->a->shape[0]);

    if (check_same(u, j, e))
        return -1;
    const struct pq_piece *const pieces[] = {
        weighted(s, u, j, j->a), weighted(s, u, j, j->b),
        j->n_bias ? weighted(s, u, j, j->bias) : NULL};
    for (int i = 0; i < 2 + (j->n_bias > 0); i++) {
        if (!pieces[i])
            return pq_fail_nomem(e);
        if (add_tensor(s, &shape, (enum peft_member)i, pieces[i], j->n,
                       PQ_ADDED, e))
            return -1;
    }
    return 0;
}

int pq_peft_average(struct pq_plan *plan, struct pq_catalog *out,
                    const struct pq_peft_union *u, enum pq_dtype dtype,
                    const struct pq_quant *q, struct pq_error *e)
{
    const struct sum s = {plan, out, dtype, q};
    int rc = pq_catalog_reserve(out, 3 * u->n, e);

    for (size_t i = 0; !rc && i < u->n; i++)
        rc = average(&s, u, &u->modules[i], e);
    return rc;
}
