/*
 * From blends to steps: what each tensor of the output is stored as, and
 * whether it is blended or copied.
 *
 * Floating and encoded tensors are blended.  Others (positions, masks) are
 * copied from the first input, as is what passes through and stays encoded as
 * it was.
 */
#include "config.h"
#include "merge.h"
#include "pq_names.h"

#include <string.h>

/* The base, or the first model. */
static const struct pq_tensor *first_of(const struct pq_blend *b)
{
    return b->method->base != PQ_BASE_NONE ? b->base : b->in[0].tensor;
}

static struct pq_source *first_source(const struct pq_blend *b)
{
    return b->method->base != PQ_BASE_NONE ? b->base_source : b->in[0].source;
}

/* As what it is stored unless -t says otherwise. */
static const struct pq_tensor *like_of(const struct merge_target *t)
{
    return t->like ? t->like : first_of(&t->blend);
}

static bool is_number(const struct pq_tensor *t)
{
    return t->codec.encoding != PQ_PLAIN || pq_dtype_is_float(t->dtype);
}

/* Encoded, not to be changed and to stay as it is. */
static bool passes(const struct merge_target *t, const struct pq_spec *s)
{
    const struct pq_spec now = merge_spec_of(like_of(t));

    return t->like && t->like->codec.encoding != PQ_PLAIN &&
           t->blend.method->takes & PQ_TAKES_SCALE && t->blend.scale == 1 &&
           merge_same_spec(s, &now);
}

static bool is_copied(const struct merge_target *t, const struct pq_spec *s)
{
    return !is_number(like_of(t)) || passes(t, s);
}

static struct pq_spec spec_of(const struct merge_job *j,
                              const struct merge_target *t)
{
    return merge_converts(j->o, like_of(t), t->name)
               ? j->o->spec
               : merge_spec_of(like_of(t));
}

/*
 * A tensor that is copied under another name takes its parts along: what the
 * names end in alike stays, what is before that changes in all of them.
 *
 *     h.3.mlp.weight  h.3.mlp.SCB  ->  h.7.mlp.weight  h.7.mlp.SCB
 */
static int copy(struct merge_job *j, const struct pq_tensor *like,
                const char *was, struct pq_error *e)
{
    struct pq_tensor *t = pq_tensor_copy(&j->out, like, e);
    size_t a = strlen(was), b = strlen(like->name);

    if (!t)
        return -1;
    while (a && b && was[a - 1] == like->name[b - 1]) {
        a--;
        b--;
    }
    for (size_t i = 0; i < t->n_parts && strcmp(was, like->name) != 0; i++) {
        struct pq_part *p = &t->parts[i];
        if (strncmp(p->name, was, a) != 0)
            continue;
        p->name = pq_arena_printf(&j->out.arena, "%.*s%s", (int)b, like->name,
                                  p->name + a);
        if (!p->name)
            return pq_fail_nomem(e);
    }
    return 0;
}

static int declare(struct merge_job *j, const struct merge_target *t, bool turn,
                   struct pq_error *e)
{
    const struct pq_spec s = spec_of(j, t);
    struct pq_tensor like = *like_of(t);

    like.name = t->name;
    if (is_copied(t, &s))
        return copy(j, &like, like_of(t)->name, e);
    if (s.encoding == PQ_PLAIN && s.dtype == PQ_F64)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is F64; -t f32 merges it", t->name);
    if (pq_blend_check(&t->blend, e))
        return pq_error_in(e, "tensor %s", t->name);
    return pq_quant_declare(&j->out, &like, &s, turn, e) ? 0 : -1;
}

static int add_step(struct merge_job *j, const struct merge_target *t,
                    size_t i, bool turn, struct pq_error *e)
{
    const struct pq_spec s = spec_of(j, t);

    if (is_copied(t, &s))
        return pq_step_copy(&j->plan,
                            t->like ? t->like_source : first_source(&t->blend),
                            like_of(t), i, e);
    struct pq_step *step = pq_step_blend(&j->plan, &t->blend, &j->out, i, &s,
                                         turn, &j->quant, e);
    if (!step)
        return -1;
    step->user = &j->report;
    return 0;
}

/* Conv1D is [in][out] as it is and [out][in] encoded. */
static bool turns(const struct merge_job *j, const struct merge_target *t)
{
    const struct pq_tensor *like = like_of(t);
    const struct pq_spec s = spec_of(j, t);

    return like->rank == 2 &&
           (like->codec.encoding == PQ_PLAIN) != (s.encoding == PQ_PLAIN) &&
           pq_name_is_conv1d(t->name);
}

int merge_add_blends(struct merge_job *j, const struct merge_target *targets,
                     size_t n, struct pq_error *e)
{
    const bool conv1d = cmd_config_has_conv1d(&j->out, e);

    if (e->code)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (declare(j, &targets[i], conv1d && turns(j, &targets[i]), e))
            return -1;
    for (size_t i = 0; i < n; i++)
        if (add_step(j, &targets[i], i, conv1d && turns(j, &targets[i]), e))
            return -1;
    return 0;
}
