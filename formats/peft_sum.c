/*
 * The sum of adapters as an adapter: names, shapes and config.
 *
 * The scale of the result is 1: alpha is the rank, in r and lora_alpha where
 * all modules have the same, else in a pattern for each module.
 */
#include "pq_json.h"
#include "pq_peft.h"

#include <stdio.h>
#include <string.h>

static const char config_name[] = "adapter_config.json";

struct sum {
    struct pq_plan *plan;
    struct pq_catalog *out;
    const struct pq_peft *const *adapters;
    const double *weights;
    size_t n;
    enum pq_dtype dtype;
    const struct pq_quant *quant;
    struct pq_names seen; /* modules -> their number */
    struct pq_buf ranks;  /* "name": rank, ... as JSON */
    struct pq_buf names;  /* "name", ... */
    uint64_t most, least; /* the largest and the smallest rank */
};

static int refuse(const struct pq_peft *p, struct pq_error *e)
{
    const struct pq_tensor *t = p->n_values ? p->values[0].tensor : NULL;

    if (p->init != PQ_INIT_PLAIN)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: init_lora_weights \"%s\" changed the base before "
                       "training: it cannot be summed without the base",
                       p->source->name, p->init_name);
    for (size_t i = 0; i < p->n_modules && !t; i++)
        t = p->modules[i].magnitude      ? p->modules[i].magnitude
            : p->modules[i].n_parameters ? p->modules[i].a
                                         : p->modules[i].bias;
    return t ? pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: tensor %s: is no product and cannot be summed "
                       "without the base",
                       p->source->name, t->name)
             : 0;
}

static const struct pq_peft_module *find(const struct pq_peft *p,
                                         const char *name)
{
    for (size_t i = 0; i < p->n_modules; i++)
        if (strcmp(p->modules[i].name, name) == 0)
            return &p->modules[i];
    return NULL;
}

/* One factor of a module: declared, and the step that fills it. */
static int add_factor(struct sum *s, const struct pq_peft_module *m, bool b,
                      const struct pq_piece *pieces, size_t n, uint64_t rank,
                      struct pq_error *e)
{
    const char letter = b ? 'B' : 'A';
    const struct pq_spec spec = {.dtype = s->dtype};
    struct pq_tensor like = b ? *m->b : *m->a;
    uint64_t *shape = pq_arena_alloc(&s->out->arena, (size_t)like.rank,
                                     sizeof *shape);

    if (!shape)
        return pq_fail_nomem(e);
    memcpy(shape, like.shape, (size_t)like.rank * sizeof *shape);
    shape[b ? 1 : 0] = rank;
    like.shape = shape;
    like.name = m->embedding
                    ? pq_arena_printf(&s->out->arena,
                                      "base_model.model.%s.lora_embedding_%c",
                                      m->name, letter)
                    : pq_arena_printf(&s->out->arena,
                                      "base_model.model.%s.lora_%c.weight",
                                      m->name, letter);
    if (!like.name)
        return pq_fail_nomem(e);
    if (pq_shape_elements(shape, like.rank, &like.n_elements, e) ||
        !pq_quant_declare(s->out, &like, &spec, false, e))
        return -1;
    return pq_step_concat(s->plan, s->out, s->out->n_tensors - 1, pieces, n, b,
                          s->quant, e)
               ? 0
               : -1;
}

static int add_module(struct sum *s, const struct pq_peft_module *m,
                      struct pq_error *e)
{
    struct pq_piece *a = pq_arena_alloc(&s->plan->arena, s->n, sizeof *a);
    struct pq_piece *b = pq_arena_alloc(&s->plan->arena, s->n, sizeof *b);
    uint64_t rank = 0;
    size_t n = 0;

    if (!a || !b)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < s->n; i++) {
        const struct pq_peft *p = s->adapters[i];
        const struct pq_peft_module *o = find(p, m->name);
        if (!o)
            continue;
        a[n] = (struct pq_piece){p->source, o->a, s->weights[i] * o->scale};
        b[n++] = (struct pq_piece){p->source, o->b, 1};
        rank += o->a->shape[0];
    }
    pq_buf_puts(&s->ranks, s->ranks.n ? ",\n    " : "\n    ");
    pq_json_quote(&s->ranks, m->name);
    pq_buf_printf(&s->ranks, ": %llu", (unsigned long long)rank);
    pq_buf_puts(&s->names, s->names.n ? ",\n    " : "\n    ");
    pq_json_quote(&s->names, m->name);
    s->most = rank > s->most ? rank : s->most;
    s->least = s->least == 0 || rank < s->least ? rank : s->least;
    return add_factor(s, m, false, a, n, rank, e) ||
                   add_factor(s, m, true, b, n, rank, e)
               ? -1
               : 0;
}

/* ---- the config -------------------------------------------------------- */

static int set(struct pq_catalog *c, const char *key, const char *value,
               struct pq_error *e)
{
    struct pq_blob *blob = pq_catalog_blob(c, config_name);
    struct pq_buf out = {0};

    int rc = pq_json_edit(blob->data, (size_t)blob->bytes, key, value, &out, e);
    const char *text = rc ? NULL
                          : pq_arena_strndup(&c->arena, out.s, out.n);
    if (text) {
        blob->data = text;
        blob->bytes = out.n;
    } else {
        rc = pq_fail_nomem(e);
    }
    pq_buf_release(&out);
    return rc;
}

static int set_config(struct sum *s, struct pq_error *e)
{
    struct pq_buf ranks = {0}, names = {0};
    char most[32];

    snprintf(most, sizeof most, "%llu", (unsigned long long)s->most);
    if (s->most == s->least || s->ranks.failed)
        pq_buf_puts(&ranks, "{}");
    else
        pq_buf_printf(&ranks, "{%s\n  }", s->ranks.s);
    pq_buf_printf(&names, "[%s\n  ]", s->names.failed ? "" : s->names.s);
    const bool failed = s->ranks.failed || s->names.failed || ranks.failed ||
                        names.failed;
    const struct {
        const char *key, *value;
    } edits[] = {
        {"r", most}, {"lora_alpha", most},
        {"rank_pattern", ranks.s}, {"alpha_pattern", ranks.s},
        {"target_modules", names.s}, {"use_rslora", "false"},
        {"init_lora_weights", "true"}, {"layers_to_transform", "null"},
        {"layers_pattern", "null"}, {"inference_mode", "true"}};
    int rc = failed ? pq_fail_nomem(e) : 0;

    for (size_t i = 0; !rc && i < sizeof edits / sizeof *edits; i++)
        rc = set(s->out, edits[i].key, edits[i].value, e);
    pq_buf_release(&ranks);
    pq_buf_release(&names);
    return rc;
}

/* ---- all of it --------------------------------------------------------- */

static int add_modules(struct sum *s, struct pq_error *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct pq_peft *p = s->adapters[i];
        if (refuse(p, e))
            return -1;
        if (p->fan_in_fan_out != s->adapters[0]->fan_in_fan_out)
            return pq_fail(e, PQ_EARG, "%s: fan_in_fan_out is not that of %s",
                           p->source->name, s->adapters[0]->source->name);
        for (size_t k = 0; k < p->n_modules; k++) {
            const int rc =
                pq_names_add(&s->seen, p->modules[k].name, k, NULL, e);
            if (rc < 0 || (rc == 0 && add_module(s, &p->modules[k], e)))
                return -1;
        }
    }
    return 0;
}

int pq_peft_sum(struct pq_plan *plan, struct pq_catalog *out,
                const struct pq_peft *const *adapters, const double *weights,
                size_t n, enum pq_dtype dtype, const struct pq_quant *q,
                struct pq_error *e)
{
    struct sum s = {.plan = plan,
                    .out = out,
                    .adapters = adapters,
                    .weights = weights,
                    .n = n,
                    .dtype = dtype,
                    .quant = q};
    size_t total = 0;

    /* steps point at tensors of `out`: the array must not move */
    for (size_t i = 0; i < n; i++)
        total += 2 * adapters[i]->n_modules;
    out->tensors = pq_zalloc(total, sizeof *out->tensors);
    if (!out->tensors)
        return pq_fail_nomem(e);
    out->cap_tensors = total;
    int rc = pq_catalog_copy_meta(out, adapters[0]->source->catalog, e);
    if (!rc)
        rc = add_modules(&s, e);
    if (!rc)
        rc = set_config(&s, e);
    pq_names_release(&s.seen);
    pq_buf_release(&s.ranks);
    pq_buf_release(&s.names);
    return rc;
}
