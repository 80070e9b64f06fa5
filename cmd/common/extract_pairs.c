/*
 * The two models of pq-extract: opened, joined, compared; what becomes of
 * each tensor.
 *
 *     Linear, Conv1D, a head                    factors
 *     an embedding                              factors with --embeddings
 *     the bias of one of these                  as it is
 *     all else, and all that is in its module   as it is, modules_to_save
 *
 * PEFT wraps every module whose name ends like one of modules_to_save, and
 * then wants all of its tensors: so they are there, changed or not.
 */
#include "config.h"
#include "extract.h"
#include "join.h"
#include "pq_names.h"
#include "pq_peft.h"
#include "pq_quant.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_NAME = 512 }; /* bytes of a module's name, with a NUL */

/* ---- opening ----------------------------------------------------------- */

static int open_model(struct extract *x, size_t i, struct pq_source **s,
                      struct pq_source **plain, struct pq_error *e)
{
    struct cmd *c = x->c;
    bool encoded = false;

    if (cmd_open_kept(c, i, s, e) || cmd_fold(c, *s, e) ||
        cmd_config_refuse_foreign(*s, e))
        return -1;
    if (pq_peft_is_adapter((*s)->catalog))
        return pq_fail(e, PQ_EARG,
                       "%s: is an adapter, not a model (--resize and --plain "
                       "are for adapters)",
                       (*s)->name);
    for (size_t k = 0; k < (*s)->catalog->n_tensors; k++)
        encoded |= (*s)->catalog->tensors[k].codec.encoding != PQ_PLAIN;
    if (encoded)
        return pq_decoded_new(*s, c->kernels, c->memory / 4, c->tmpdir, plain,
                              e);
    *plain = *s;
    return 0;
}

/* ---- joining ----------------------------------------------------------- */

/* Names that are in one model only, for one message. */
struct missing {
    size_t n;
    const char *first;
    const char *where;
};

static void miss(struct missing *m, const char *name, const char *where)
{
    if (m->n++ == 0) {
        m->first = name;
        m->where = where;
    }
}

static int refuse_missing(const struct missing *m, struct pq_error *e)
{
    if (m->n == 1)
        return pq_fail(e, PQ_EARG,
                       "tensor %s is only in %s; -x leaves it out", m->first,
                       m->where);
    return m->n ? pq_fail(e, PQ_EARG,
                          "tensor %s and %zu more are only in one of the "
                          "models (this one in %s); -x leaves them out",
                          m->first, m->n - 1, m->where)
                : 0;
}

/*
 * The name that the loaded model has for it: GPT-2's own files lack the
 * "transformer." that the model with a head puts before all but that.
 */
static const char *loaded_name(struct extract *x, const char *a, const char *b,
                               bool trunk)
{
    const char *name = strlen(b) > strlen(a) ? b : a;

    return trunk && pq_name_bare(name) == name && !pq_name_is_head(name)
               ? pq_arena_printf(&x->arena, "transformer.%s", name)
               : name;
}

static int add_pair(struct extract *x, const char *name,
                    const struct pq_tensor *a, const struct pq_tensor *b,
                    struct pq_error *e)
{
    if (!name)
        return pq_fail_nomem(e);
    x->pairs[x->n++] = (struct extract_pair){
        .name = name, .module = pq_name_module(name), .a = a, .b = b};
    return 0;
}

static size_t find_by(const struct pq_catalog *c, bool (*is)(const char *))
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (is(c->tensors[i].name))
            return i;
    return SIZE_MAX;
}

static bool is_head(const char *name)
{
    return pq_name_is_head(name) && pq_name_is_weight(name);
}

static bool is_table(const char *name)
{
    return pq_name_is_token_table(name) && pq_name_is_weight(name);
}

static bool is_tied(const struct pq_catalog *c, struct pq_error *e)
{
    const int tied = cmd_config_tied(c, e);

    return tied == 1 || (tied == 2 && find_by(c, is_head) == SIZE_MAX);
}

/*
 * Heads that are an embedding table: what is missing on one side is the
 * table of that side.  With both missing there is still a module of its own
 * to be changed.
 */
static int add_head(struct extract *x, struct missing *m, struct pq_error *e)
{
    const struct pq_catalog *a = x->plain_a->catalog, *b = x->plain_b->catalog;
    size_t head_a = find_by(a, is_head), head_b = find_by(b, is_head);
    const char *name = head_a != SIZE_MAX   ? a->tensors[head_a].name
                       : head_b != SIZE_MAX ? b->tensors[head_b].name
                                            : "lm_head.weight";

    if (head_a != SIZE_MAX && head_b != SIZE_MAX)
        return 0;
    if (head_a == SIZE_MAX && is_tied(x->a->catalog, e))
        head_a = find_by(a, is_table);
    if (head_b == SIZE_MAX && is_tied(x->b->catalog, e))
        head_b = find_by(b, is_table);
    if (e->code)
        return -1;
    if (head_a != SIZE_MAX && head_b != SIZE_MAX && cmd_selected(x->c, name))
        return add_pair(x, name, &a->tensors[head_a], &b->tensors[head_b], e);
    if ((head_a == SIZE_MAX) != (head_b == SIZE_MAX) &&
        cmd_selected(x->c, name))
        miss(m, name, head_a == SIZE_MAX ? x->b->name : x->a->name);
    return 0;
}

static bool is_lone_head(const struct pq_catalog *other, const char *name)
{
    return is_head(name) && find_by(other, is_head) == SIZE_MAX;
}

static int list_pairs(struct extract *x, const size_t *a_of /* [of b] */,
                      size_t *b_of /* [of a] */, struct pq_error *e)
{
    const struct pq_catalog *a = x->plain_a->catalog, *b = x->plain_b->catalog;
    const bool conv1d = pq_catalog_blob(x->a->catalog, "config.json") &&
                        cmd_config_has_conv1d(x->a->catalog, e);
    const bool trunk = conv1d && cmd_config_writes_text(x->a->catalog, e);
    struct missing m = {0};

    for (size_t i = 0; i < a->n_tensors; i++)
        b_of[i] = SIZE_MAX;
    for (size_t i = 0; i < b->n_tensors; i++) {
        if (a_of[i] != SIZE_MAX)
            b_of[a_of[i]] = i;
        else if (cmd_selected(x->c, b->tensors[i].name) &&
                 !is_lone_head(a, b->tensors[i].name))
            miss(&m, b->tensors[i].name, x->b->name);
    }
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct pq_tensor *t = &a->tensors[i];
        const struct pq_tensor *o =
            b_of[i] == SIZE_MAX ? NULL : &b->tensors[b_of[i]];
        const bool selected = cmd_selected(x->c, t->name);
        if (!o && is_lone_head(b, t->name))
            continue;
        if (!o && selected)
            miss(&m, t->name, x->a->name);
        if (add_pair(x, loaded_name(x, t->name, o ? o->name : "", trunk), t,
                     selected ? o : NULL, e))
            return -1;
    }
    return e->code || add_head(x, &m, e) ? -1 : refuse_missing(&m, e);
}

static int join(struct extract *x, struct pq_error *e)
{
    const struct pq_catalog *a = x->plain_a->catalog, *b = x->plain_b->catalog;
    const size_t n_a = a->n_tensors, n_b = b->n_tensors;
    const char **names = pq_alloc(n_a + n_b, sizeof *names);
    size_t *a_of = pq_alloc(n_b, sizeof *a_of);
    size_t *b_of = pq_alloc(n_a, sizeof *b_of);
    int rc = names && a_of && b_of ? 0 : pq_fail_nomem(e);

    x->pairs = pq_zalloc(n_a + 1, sizeof *x->pairs);
    if (!x->pairs)
        rc = pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < n_a; i++)
        names[i] = a->tensors[i].name;
    for (size_t i = 0; !rc && i < n_b; i++)
        names[n_a + i] = b->tensors[i].name;
    if (!rc)
        rc = cmd_join(names, n_a, names + n_a, n_b, a_of, e);
    if (!rc)
        rc = list_pairs(x, a_of, b_of, e);
    free((void *)names);
    free(a_of);
    free(b_of);
    return rc;
}

/* ---- comparing --------------------------------------------------------- */

static int refuse_shape(const struct extract *x, const struct extract_pair *p,
                        struct pq_error *e)
{
    char a[256], b[256];

    cmd_shape_text(p->a, a, sizeof a);
    cmd_shape_text(p->b, b, sizeof b);
    return pq_fail(e, PQ_EARG,
                   "tensor %s is %s in %s and %s in %s; -x leaves it out",
                   p->name, a, x->a->name, b, x->b->name);
}

static int add_step(struct extract *x, struct pq_plan *plan,
                    struct extract_pair *p, struct pq_error *e)
{
    const struct pq_tensor *a = p->a, *b = p->b;
    bool same = a->rank == b->rank;

    for (int i = 0; same && i < a->rank; i++)
        same = a->shape[i] == b->shape[i];
    if (!same)
        return refuse_shape(x, p, e);
    if (!pq_compare_fits(a->dtype, b->dtype))
        return pq_fail(e, PQ_EARG,
                       "tensor %s: %s and %s cannot be compared; -x leaves it "
                       "out",
                       p->name, pq_dtype_name(a->dtype),
                       pq_dtype_name(b->dtype));
    return pq_step_compare(plan, x->c->kernels, x->plain_a, a, x->plain_b, b,
                           &p->f, e)
               ? 0
               : -1;
}

static int compare(struct extract *x, struct pq_error *e)
{
    struct pq_source *sources[] = {x->plain_a, x->plain_b, x->a, x->b};
    struct pq_plan plan = {.sources = sources, .n_sources = 4};
    int rc = 0;

    for (size_t i = 0; !rc && i < x->n; i++)
        if (x->pairs[i].b)
            rc = add_step(x, &plan, &x->pairs[i], e);
    if (!rc)
        rc = cmd_run_plan(x->c, &plan, e);
    pq_plan_release(&plan);
    return rc;
}

/* ---- what becomes of each ---------------------------------------------- */

static bool is_encoded(const struct pq_source *s, const struct pq_source *plain,
                       const struct pq_tensor *t)
{
    return s->catalog->tensors[t - plain->catalog->tensors].codec.encoding !=
           PQ_PLAIN;
}

/* Conv1D is stored [in][out], but turned when it is encoded. */
int extract_set_turned(struct extract *x, struct extract_pair *p,
                       struct pq_error *e)
{
    const bool a = is_encoded(x->a, x->plain_a, p->a);
    const bool conv1d = cmd_config_has_conv1d(x->a->catalog, e) &&
                        pq_name_is_conv1d(p->name);

    if (conv1d && p->b && a != is_encoded(x->b, x->plain_b, p->b))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is turned in one of the models; dequantize "
                       "that first",
                       p->name);
    p->turned = p->embedding || (conv1d && !a);
    p->rows = p->a->shape[p->turned ? 1 : 0];
    p->cols = p->a->shape[p->turned ? 0 : 1];
    return e->code ? -1 : 0;
}

static bool is_matrix(const struct extract_pair *p)
{
    return p->a->rank == 2 && pq_dtype_is_float(p->a->dtype) &&
           pq_dtype_is_float(p->b->dtype) && pq_name_is_weight(p->name) &&
           !pq_name_is_norm(p->name);
}

/* A bias vector beside a matrix: PEFT's bias="all" says where it is. */
static bool is_bias(const struct extract *x, const struct extract_pair *p)
{
    return strcmp(p->name + p->module, ".bias") == 0 && extract_matrix(x, p);
}

static int index_matrices(struct extract *x, struct pq_error *e)
{
    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (p->a->rank != 2 || !pq_name_is_weight(p->name) ||
            pq_name_is_norm(p->name))
            continue;
        const char *module = pq_arena_strndup(&x->arena, p->name, p->module);
        if (!module)
            return pq_fail_nomem(e);
        if (pq_names_add(&x->matrices, module, i, NULL, e) < 0)
            return -1;
    }
    return 0;
}

const struct extract_pair *extract_matrix(const struct extract *x,
                                          const struct extract_pair *p)
{
    char module[MOST_NAME];

    if (p->module >= sizeof module || x->matrices.n == 0)
        return NULL;
    memcpy(module, p->name, p->module);
    module[p->module] = '\0';
    const size_t i = pq_names_find(&x->matrices, module);
    return i == SIZE_MAX ? NULL : &x->pairs[i];
}

bool extract_has_factors(const struct extract_pair *p)
{
    return p->kind == EXTRACT_FACTORED && p->factor && p->factor->rank > 0;
}

static int choose_kind(struct extract *x, struct extract_pair *p,
                       struct pq_error *e)
{
    const bool table = pq_name_is_embedding(p->name) ||
                       pq_name_is_token_table(p->name);
    /* a head that is the table is treated as that */
    const bool tied_head = pq_name_is_head(p->name) &&
                           (pq_name_is_token_table(p->a->name) ||
                            pq_name_is_token_table(p->b->name));

    p->kind = EXTRACT_SAVED;
    if (is_bias(x, p))
        p->kind = EXTRACT_BIAS;
    else if (is_matrix(p) && (x->o->embeddings || !(table || tied_head)))
        p->kind = EXTRACT_FACTORED;
    p->embedding = p->kind == EXTRACT_FACTORED && table && !tied_head;
    if (p->module >= MOST_NAME)
        return pq_fail(e, PQ_ELIMIT, "tensor %s: the name is too long",
                       p->name);
    if (p->module == 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "tensor %s: is in no module, an adapter cannot hold it; "
                       "-x leaves it out",
                       p->name);
    return p->kind == EXTRACT_FACTORED ? extract_set_turned(x, p, e) : 0;
}

/* Is the module of a tensor, or one that it is in, saved as it is? */
static bool is_saved(const struct extract *x, const char *name)
{
    char module[MOST_NAME];
    const size_t n = pq_name_module(name);

    if (n >= sizeof module || x->saved.n == 0)
        return false;
    memcpy(module, name, n);
    for (size_t end = n; end > 0; end--) {
        if (end < n && name[end] != '.')
            continue;
        module[end] = '\0';
        for (size_t from = 0; from < end; from++)
            if (pq_names_find(&x->saved, module + from) != SIZE_MAX)
                return true;
    }
    return false;
}

int extract_settle(struct extract *x, struct pq_error *e)
{
    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (p->kind != EXTRACT_SAVED)
            continue;
        const char *module =
            pq_arena_strndup(&x->arena, p->name, p->module);
        if (!module)
            return pq_fail_nomem(e);
        if (pq_names_add(&x->saved, module, i, NULL, e) < 0)
            return -1;
    }
    for (size_t i = 0; i < x->n; i++)
        if (is_saved(x, x->pairs[i].name))
            x->pairs[i].kind = EXTRACT_SAVED;
    return 0;
}

static int refuse_same(const struct extract *x, struct pq_error *e)
{
    const bool all = x->c->match.n + x->c->exclude.n == 0;
    bool compared = false;

    for (size_t i = 0; i < x->n; i++)
        compared |= x->pairs[i].b != NULL;
    if (!compared && !all)
        return pq_fail(e, PQ_EARG, "-m and -x leave nothing to compare");
    return pq_fail(e, PQ_EARG, "the models do not differ%s: %s, %s",
                   all ? "" : " in what is selected", x->a->name, x->b->name);
}

static int choose_kinds(struct extract *x, struct pq_error *e)
{
    size_t changed = 0;

    if (index_matrices(x, e))
        return -1;
    for (size_t i = 0; i < x->n; i++) {
        if (x->pairs[i].f.changed == 0)
            continue;
        changed++;
        if (choose_kind(x, &x->pairs[i], e))
            return -1;
    }
    return changed ? extract_settle(x, e) : refuse_same(x, e);
}

int extract_compare(struct extract *x, struct pq_error *e)
{
    return open_model(x, 0, &x->a, &x->plain_a, e) ||
                   open_model(x, 1, &x->b, &x->plain_b, e) || join(x, e) ||
                   compare(x, e) || choose_kinds(x, e)
               ? -1
               : 0;
}
