/*
 * pq-merge --recipe: a merge as mergekit's YAML describes it.
 *
 *     recipe -> models, each opened once -> one vocabulary -> targets
 *     -> config.json and tokenizer of the base -> the plan
 */
#include "merge_recipe.h"

#include "config.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- models --------------------------------------------------------- */

/* Does the path lead to what another one does? */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

/* A recipe whose output, or which itself, is one of its models goes round. */
static int check_cycle(const struct recipe_job *r, const char *recipe,
                       const char *path, struct pq_error *e)
{
    const char *out = r->j->c->output;

    if (same_file(path, recipe))
        return pq_fail(e, PQ_EARG, "%s is the recipe itself: a cycle", path);
    if (out && strcmp(out, "-") != 0 && same_file(path, out))
        return pq_fail(e, PQ_EARG,
                       "%s is a model of the recipe and its output: a cycle",
                       path);
    return 0;
}

static int open_input(struct recipe_job *r, const char *path,
                      struct pq_error *e)
{
    struct merge_job *j = r->j;
    struct merge_input *in = &j->inputs[j->n_inputs];
    struct cmd *c = j->c;
    const char **operands = c->operands;
    const size_t n = c->n_operands;

    /* a source borrows its name */
    path = pq_arena_strndup(&j->arena, path, strlen(path));
    if (!path)
        return pq_fail_nomem(e);
    c->operands = &path;
    c->n_operands = 1;
    const int rc = cmd_open_input(c, 0, &in->source, e);
    c->operands = operands;
    c->n_operands = n;
    if (rc)
        return -1;
    in->path = path;
    in->weight = 1;
    j->n_inputs++;
    j->n_models++;
    return pq_peft_is_adapter(in->source->catalog)
               ? pq_fail(e, PQ_EARG,
                         "%s: is an adapter; a recipe merges models", path)
               : 0;
}

/* The number of a model that the recipe names, opened if it is new. */
static int find_model(struct recipe_job *r, const char *recipe,
                      const char *name, size_t *number, struct pq_error *e)
{
    const char *path = recipe_path(&r->recipe, recipe, name, e);

    if (!path)
        return -1;
    for (size_t i = 0; i < r->j->n_inputs; i++)
        if (same_file(r->j->inputs[i].path, path)) {
            *number = i;
            return 0;
        }
    if (check_cycle(r, recipe, path, e))
        return -1;
    *number = r->j->n_inputs;
    return open_input(r, path, e);
}

/* ---- slices --------------------------------------------------------- */

static int find_sources(struct recipe_job *r, const char *recipe,
                        struct recipe_run *run, struct pq_error *e)
{
    for (size_t i = 0; i < run->said->n; i++) {
        struct recipe_part *p = &run->parts[run->n++];
        p->said = &run->said->sources[i];
        p->first = p->said->first;
        if (find_model(r, recipe, p->said->model, &p->model, e))
            return pq_error_in(e, "line %u", p->said->line);
    }
    run->layers = run->said->sources[0].end - run->said->sources[0].first;
    return 0;
}

/*
 * Which source is the base.  A base that is not among whole models is added,
 * also where it counts as any other: so does mergekit.
 */
static int find_base(struct recipe_job *r, const char *recipe,
                     struct recipe_run *run, struct pq_error *e)
{
    size_t base;

    run->base = SIZE_MAX;
    if (!run->said->base_model)
        return 0;
    if (find_model(r, recipe, run->said->base_model, &base, e))
        return pq_error_in(e, "base_model");
    for (size_t i = 0; i < run->n && run->base == SIZE_MAX; i++)
        if (run->parts[i].model == base)
            run->base = i;
    if (run->base == SIZE_MAX && !r->recipe.sliced) {
        run->base = run->n;
        run->parts[run->n++] = (struct recipe_part){.model = base};
    }
    if (!r->recipe.sliced)
        run->lead = run->base;
    return 0;
}

static int check_method(const struct recipe_job *r,
                        const struct recipe_run *run, struct pq_error *e)
{
    const struct pq_method *m = r->method;
    const bool has_base = m->base != PQ_BASE_NONE && run->base != SIZE_MAX;
    const size_t n = run->n - has_base;

    if (m->base != PQ_BASE_NONE && !run->said->base_model)
        return pq_fail(e, PQ_EARG, "%s needs a base_model", m->name);
    if (m->base != PQ_BASE_NONE && !has_base)
        return pq_fail(e, PQ_EARG,
                       "line %u: the base_model %s is not among the sources; "
                       "list it with its layer_range, too",
                       run->said->line, run->said->base_model);
    if (n < m->least || n > m->most)
        return pq_fail(e, PQ_EARG, "%s%s takes %u%s model%s, not %zu", m->name,
                       has_base ? " beside its base" : "", m->least,
                       m->most > m->least ? " or more" : "",
                       m->most > 1 ? "s" : "", n);
    return 0;
}

static int make_runs(struct recipe_job *r, const char *recipe,
                     struct pq_error *e)
{
    struct recipe *x = &r->recipe;
    size_t most = 2; /* bases */

    for (size_t i = 0; i < x->n; i++)
        most += x->slices[i].n + 1;
    r->runs = pq_arena_alloc(&x->arena, x->n, sizeof *r->runs);
    r->j->inputs = pq_zalloc(most, sizeof *r->j->inputs);
    if (!r->runs || !r->j->inputs)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < x->n; i++) {
        struct recipe_run *run = &r->runs[i];
        run->said = &x->slices[i];
        run->parts = pq_arena_alloc(&x->arena, run->said->n + 1,
                                    sizeof *run->parts);
        if (!run->parts)
            return pq_fail_nomem(e);
        if (find_sources(r, recipe, run, e) || find_base(r, recipe, run, e) ||
            check_method(r, run, e))
            return -1;
    }
    return 0;
}

/* ---- layers --------------------------------------------------------- */

/* A model that is cut has one stack of layers, and as many as are asked. */
static int check_range(const struct recipe_job *r, const struct recipe_run *run,
                       const struct recipe_part *p, struct pq_error *e)
{
    const struct merge_model *m = &r->models.list[p->model];

    if (p->first + run->layers > (uint64_t)m->n_layers)
        return pq_fail(e, PQ_EARG,
                       "line %u: layers [%llu, %llu) of %s, which has %ld",
                       p->said->line, (unsigned long long)p->first,
                       (unsigned long long)(p->first + run->layers),
                       m->opened->name, m->n_layers);
    if (m->stacked)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: has more than one stack of layers; slices of such "
                       "models are not supported by pq",
                       m->opened->name);
    return 0;
}

static int check_ranges(const struct recipe_job *r, struct pq_error *e)
{
    for (size_t i = 0; r->recipe.sliced && i < r->recipe.n; i++)
        for (size_t k = 0; k < r->runs[i].n; k++)
            if (check_range(r, &r->runs[i], &r->runs[i].parts[k], e))
                return -1;
    return 0;
}

/* ---- the output ----------------------------------------------------- */

static int set_vocabulary(struct recipe_job *r, const char *recipe,
                          struct pq_error *e)
{
    struct merge_vocab *v = &r->models.vocab;
    const enum merge_vocab_policy said = r->j->o->vocab;

    if (said != MERGE_VOCAB_UNSAID &&
        r->recipe.tokenizer != RECIPE_TOKENS_UNSAID)
        return pq_fail(e, PQ_EARG, "--vocab, and the recipe says something "
                                   "about the tokenizer, too");
    v->policy = r->recipe.tokenizer == RECIPE_TOKENS_BASE    ? MERGE_VOCAB_BASE
                : r->recipe.tokenizer == RECIPE_TOKENS_UNION ? MERGE_VOCAB_UNION
                : r->recipe.tokenizer == RECIPE_TOKENS_PATH  ? MERGE_VOCAB_PATH
                                                             : said;
    if (v->policy == MERGE_VOCAB_PATH) {
        v->path = recipe_path(&r->recipe, recipe, r->recipe.tokenizer_path, e);
        if (!v->path)
            return -1;
    }
    return merge_vocab_apply(&r->models, e);
}

/* -t wins over what the recipe says. */
static void set_type(struct recipe_job *r)
{
    r->options = *r->j->o;
    if (r->recipe.typed && !r->options.type_given) {
        r->options.type_given = true;
        r->options.spec = (struct pq_spec){.dtype = r->recipe.dtype};
        r->options.type = pq_dtype_name(r->recipe.dtype);
    }
    r->j->o = &r->options;
}

static int set_meta(struct recipe_job *r, struct pq_error *e)
{
    const struct pq_source *donor = merge_models_donor(&r->models)->opened;
    struct pq_catalog *out = &r->j->out;

    if (pq_catalog_copy_meta(out, donor->catalog, e))
        return -1;
    if (r->recipe.sliced) /* layers of several models: one file */
        out->n_files = 0;
    if (merge_vocab_finish(&r->models, out, e))
        return -1;
    if (recipe_set_layers(r, e))
        return pq_error_in(e, "%s", donor->name);
    return r->untied ? cmd_config_set(out, "tie_word_embeddings", "false", e)
                     : 0;
}

/* Shards are those of the model that leads, not of each tensor's first. */
static void set_files(struct recipe_job *r)
{
    const struct recipe_run *run = &r->runs[0];
    struct merge_model *lead = &r->models.list[run->parts[run->lead].model];
    struct pq_catalog *out = &r->j->out;

    for (size_t i = 0; i < out->n_tensors; i++) {
        struct pq_tensor *t = &out->tensors[i];
        const struct pq_tensor *like =
            out->n_files ? merge_model_tensor(lead, t->name) : NULL;
        for (size_t k = 0; k < t->n_parts; k++)
            t->parts[k].file = like ? like->parts[0].file : 0;
    }
}

/* ---- the job -------------------------------------------------------- */

static int read_recipe(struct recipe_job *r, const char *path,
                       struct pq_error *e)
{
    const struct pq_buf *text = cmd_content(r->j->c, path, e);

    if (!text)
        return -1;
    if (recipe_parse(&r->recipe, text->s, text->n, e))
        return pq_error_in(e, "%s", path);
    r->method = pq_method_named(r->recipe.method);
    if (!r->method)
        pq_fail(e, PQ_EUNSUPPORTED,
                "line %u: merge_method %s is not supported by pq",
                r->recipe.method_line, r->recipe.method);
    if (r->method && r->j->c->seed_given &&
        !(r->method->takes & PQ_TAKES_CHANCE))
        return cmd_usage(r->j->c, "%s: %s has no use for --seed", path,
                         r->recipe.method);
    if (!r->method || recipe_check_parameters(r, e) || make_runs(r, path, e))
        return pq_error_in(e, "%s", path);
    return 0;
}

static int find_models(struct recipe_job *r, const char *path,
                       struct pq_error *e)
{
    size_t base = SIZE_MAX;

    if (r->recipe.base_model &&
        find_model(r, path, r->recipe.base_model, &base, e))
        return pq_error_in(e, "%s: base_model", path);
    if (merge_models_init(&r->models, r->j, base, e))
        return -1;
    return check_ranges(r, e) ? pq_error_in(e, "%s", path) : 0;
}

static int plan(struct recipe_job *r, const char *path, struct pq_error *e)
{
    set_type(r);
    r->has_conv1d = cmd_config_has_conv1d(
        merge_models_donor(&r->models)->opened->catalog, e);
    if (e->code)
        return -1;
    if (set_vocabulary(r, path, e) || recipe_targets(r, e))
        return pq_error_in(e, "%s", path);
    if (set_meta(r, e) ||
        merge_add_blends(r->j, r->targets, r->n_targets, e))
        return -1;
    set_files(r);
    return merge_set_types(r->j, e) || merge_models_sources(&r->models, e)
               ? -1
               : 0;
}

static int run(struct recipe_job *r, const char *path, struct pq_error *e)
{
    if (read_recipe(r, path, e) || find_models(r, path, e) ||
        plan(r, path, e) ||
        merge_run_plan(r->j, merge_models_donor(&r->models)->opened->catalog,
                       e))
        return -1;
    return merge_end(r->j, e);
}

int merge_recipe(struct merge_job *j, struct pq_error *e)
{
    const struct merge_options *given = j->o;
    struct recipe_job r = {.j = j};

    if (j->c->n_operands)
        return cmd_usage(j->c, "a recipe names its models itself: no operands");
    if (given->method || given->fedavg || given->base || given->given)
        return cmd_usage(j->c, "--recipe: the recipe says the method, the base "
                               "and their parameters itself");
    if (given->residual || cmd_reduces(&given->ranks))
        return cmd_usage(j->c, "--residual-base, --rank and --energy are for "
                               "adapters");
    j->quant.report = cmd_report_tensor;
    const int rc = run(&r, given->recipe, e);
    /* steps read the views until the plan is gone */
    pq_sink_free(j->plan.sink);
    j->plan.sink = NULL;
    pq_plan_release(&j->plan);
    merge_models_release(&r.models);
    free(r.targets);
    recipe_release(&r.recipe);
    j->o = given;
    return rc;
}
