/*
 * --init-adapter: training goes on from an adapter that is there; see
 * training.h.
 *
 * Its rank, scale, kind and modules are those of the new one.  First they are
 * taken from it, then, when the model is prepared, its numbers.
 */
#include "pq_names.h"
#include "pq_quant.h"
#include "training.h"

#include <math.h>
#include <string.h>

/* ---- what kind it is ---------------------------------------------------- */

static const char *leaf(const char *module)
{
    const char *dot = strrchr(module, '.');

    return dot ? dot + 1 : module;
}

static int add_target(struct train *t, const char *word, struct pq_error *e)
{
    for (size_t i = 0; i < t->o->targets.n; i++)
        if (strcmp(t->o->targets.items[i], word) == 0)
            return 0;
    return cmd_list_add(&t->o->targets, word, e);
}

/* Alpha as people write it, where rounding has left it beside that. */
static double alpha_of(const struct pq_peft *p, const struct pq_peft_module *m)
{
    const double alpha = m->scale * (p->rslora ? sqrt(m->rank) : m->rank);
    const double whole = nearbyint(alpha);

    return fabs(alpha - whole) < 1e-9 * alpha ? whole : alpha;
}

static int check_module(const struct train *t, const struct pq_peft_module *m,
                        struct pq_error *e)
{
    const struct pq_peft_module *first = t->from.modules;

    if (m->embedding || m->bias)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: module %s: is an embedding or has a bias, which "
                       "is not trained",
                       t->o->init_adapter, m->name);
    if (m->rank != first->rank || m->scale != first->scale ||
        !m->magnitude != !first->magnitude)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: module %s: has another rank, scale or kind than "
                       "%s",
                       t->o->init_adapter, m->name, first->name);
    return 0;
}

static int take_kind(struct train *t, struct pq_error *e)
{
    const struct pq_peft *p = &t->from;

    if (p->n_values || !p->n_modules)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: holds more than LoRA on linear layers, or "
                       "nothing",
                       t->o->init_adapter);
    for (size_t i = 0; i < p->n_modules; i++)
        if (check_module(t, &p->modules[i], e) ||
            add_target(t, leaf(p->modules[i].name), e))
            return -1;
    t->o->rank = (uint64_t)p->modules->rank;
    t->o->alpha = alpha_of(p, p->modules);
    t->o->rslora = p->rslora;
    t->o->dora = p->modules->magnitude != NULL;
    return 0;
}

int train_start_open(struct train *t, struct pq_error *e)
{
    if (!t->o->init_adapter)
        return 0;
    if (pq_open_model(t->o->init_adapter, &cmd_cancel, &t->start_source, e) ||
        cmd_load(t->c, &t->start_source, e))
        return -1;
    if (t->o->method != TRAIN_PROMPT)
        return pq_peft_read(&t->from, t->start_source, e) ? -1
                                                          : take_kind(t, e);
    t->from_prompt = pq_peft_prompt(t->start_source, e);
    if (!t->from_prompt)
        return -1;
    t->o->prompt_tokens = t->from_prompt->shape[0];
    return 0;
}

/* ---- its numbers -------------------------------------------------------- */

static int read_floats(struct train *t, const struct pq_tensor *from,
                       const struct pq_train_param *p, struct pq_error *e)
{
    const size_t n = p->rows * (p->cols ? p->cols : 1);

    if (from->n_elements != n || from->shape[0] != p->rows ||
        from->codec.encoding != PQ_PLAIN || !pq_dtype_is_float(from->dtype))
        return pq_fail(e, PQ_EARG, "%s: tensor %s: does not fit the model",
                       t->o->init_adapter, from->name);
    return pq_read_f32(t->c->kernels, t->start_source, from, p->w, e);
}

/* The tensor that a parameter begins as; NULL: the adapter has none. */
static const struct pq_tensor *find(const struct train *t, const char *name)
{
    static const char prefix[] = "base_model.model.";
    const char *bare = name + sizeof prefix - 1;
    const char *part = strstr(name, ".lora_");

    for (size_t i = 0; part && i < t->from.n_modules; i++) {
        const struct pq_peft_module *m = &t->from.modules[i];
        const size_t n = strlen(m->name);
        if ((size_t)(part - bare) != n || memcmp(m->name, bare, n) != 0)
            continue;
        return part[6] == 'A' ? m->a : part[6] == 'B' ? m->b : m->magnitude;
    }
    return NULL;
}

int train_start_read(struct train *t, struct pq_error *e)
{
    const size_t n = t->o->init_adapter ? pq_train_params(t->core) : 0;
    const bool soft = t->o->method == TRAIN_PROMPT;
    size_t used = 0;

    for (size_t i = 0; i < n; i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        const struct pq_tensor *from = soft ? t->from_prompt : find(t, p.name);
        if (!from)
            return pq_fail(e, PQ_EARG, "%s: has no %s", t->o->init_adapter,
                           p.name);
        if (read_floats(t, from, &p, e))
            return -1;
        used++;
    }
    const size_t each = t->o->dora ? 3 : 2;
    if (n && !soft && used != each * t->from.n_modules)
        return pq_fail(e, PQ_EARG, "%s: has modules that the model has not",
                       t->o->init_adapter);
    if (n)
        pq_train_changed(t->core);
    return 0;
}
