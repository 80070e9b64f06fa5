/*
 * Which tensors pq-prune takes, and how each is pruned.
 *
 * Rules come first; then -m, which names tensors outright; else it is the
 * weights of linear layers.
 */
#include "prune.h"

#include "config.h"
#include "pq_names.h"

#include <string.h>

int prune_sparsity(const char *s, double *v, struct pq_error *e)
{
    return cmd_real(s, 0, 1, v, e);
}

int prune_pattern(const char *s, struct pq_prune *how, struct pq_error *e)
{
    const char *colon = strchr(s, ':');
    char first[8] = "";
    uint64_t n, m;

    if (!colon || (size_t)(colon - s) >= sizeof first)
        return pq_fail(e, PQ_EARG, "'%s' is not N:M, as in 2:4", s);
    memcpy(first, s, (size_t)(colon - s));
    if (cmd_number(colon + 1, 1, PQ_PRUNE_MOST, &m, e) ||
        cmd_number(first, 0, PQ_PRUNE_MOST, &n, e))
        return -1;
    if (n > m)
        return pq_fail(e, PQ_EARG, "%s: %llu of %llu cannot stay", s,
                       (unsigned long long)n, (unsigned long long)m);
    how->scope = PQ_PRUNE_GROUPS;
    how->n = (unsigned)n;
    how->m = (unsigned)m;
    return 0;
}

/* What a rule says: keep, N:M, or a sparsity of its tensor's own. */
static int apply_rule(const struct prune_options *o, const char *value,
                      struct prune_choice *d, struct pq_error *e)
{
    d->how = o->how;
    d->prune = strcmp(value, "keep") != 0;
    if (!d->prune)
        return 0;
    if (strchr(value, ':')) {
        d->how.block_rows = d->how.block_cols = 0;
        return prune_pattern(value, &d->how, e);
    }
    if (d->how.scope != PQ_PRUNE_ROW)
        d->how.scope = PQ_PRUNE_TENSOR;
    return prune_sparsity(value, &d->how.sparsity, e);
}

int prune_check_rules(const struct prune_options *o, struct pq_error *e)
{
    struct prune_choice d;

    for (size_t i = 0; i < o->rules.n; i++)
        if (apply_rule(o, o->rules.rules[i].value, &d, e))
            return pq_error_in(e, "rule '%s=%s'", o->rules.rules[i].glob,
                               o->rules.rules[i].value);
    return 0;
}

/* Without rules: -m names tensors outright, else linear layers' weights. */
static bool is_default(const struct prune_job *j, const struct pq_tensor *t)
{
    const struct cmd *c = j->base.c;

    if (!j->o->all || !cmd_selected(c, t->name) ||
        !pq_dtype_is_float(t->dtype))
        return false;
    return c->match.n > 0 || (t->rank == 2 && pq_name_is_linear(t->name));
}

static int choose(struct prune_job *j, const struct pq_tensor *t,
                  struct prune_choice *d, struct pq_error *e)
{
    const char *rule = cmd_rules_find(&j->o->rules, t->name);

    d->how = j->o->how;
    d->prune = !rule && is_default(j, t);
    if (rule && apply_rule(j->o, rule, d, e))
        return -1;
    if ((!rule || d->prune) && prune_choose_masks(j, t, d, e))
        return pq_error_in(e, "%s: tensor %s", j->base.in->name, t->name);
    if (!d->prune)
        return 0;
    d->how.turned = j->conv1d && t->rank == 2 && pq_name_is_conv1d(t->name);
    if (cmd_refuse_scaled(j->base.in, t, e) ||
        pq_prune_check(&d->how, t, e) ||
        (t->n_elements && prune_choose_data(j, t, d, e)))
        return pq_error_in(e, "%s: tensor %s", j->base.in->name, t->name);
    d->prune = t->n_elements > 0;
    return 0;
}

static void tell_unused(const struct prune_job *j)
{
    const struct cmd_rules *r = &j->o->rules;

    for (size_t i = 0; i < r->n && !j->base.c->quiet; i++)
        if (!r->rules[i].used)
            cmd_msg(j->base.c, "warning: no tensor takes the rule '%s=%s'",
                    r->rules[i].glob, r->rules[i].value);
}

int prune_choose(struct prune_job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;

    j->conv1d = cmd_config_has_conv1d(in, e);
    if (e->code || cmd_config_refuse_foreign(j->base.in, e))
        return -1;
    j->choices = pq_zalloc(in->n_tensors, sizeof *j->choices);
    if (!j->choices)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < in->n_tensors; i++)
        if (choose(j, &in->tensors[i], &j->choices[i], e))
            return -1;
    tell_unused(j);
    return 0;
}
