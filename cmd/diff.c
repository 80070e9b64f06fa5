/*
 * pq-diff: how far apart are two models?
 *
 * Tensors are joined by name and compared as values, whatever they are
 * stored as: a plan that gathers over the pairs, in the order of A.  What is
 * printed, as text, JSON or a picture, is made from its figures.  With
 * --delta nothing is compared: cmd/common/makedelta.c writes the difference.
 */
#include "cmd.h"
#include "heatmap.h"
#include "join.h"
#include "makedelta.h"
#include "pq_diff.h"
#include "pq_json.h"
#include "pq_lowrank.h"
#include "pq_quant.h"
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_DELTA = 1, OPT_COMPRESS, OPT_TOLERANCE, OPT_PLOT, OPT_RANK };

static const struct cmd_option options[] = {
    {0, "delta", "FILE", "write what pq-patch turns A into B with", NULL, 0,
     OPT_DELTA},
    {'z', "compress", "LEVEL", "zstd level of the delta (1 to 19, default 1)",
     "1 3 9 19", CMD_CHANGES_OUTPUT, OPT_COMPRESS},
    {0, "tolerance", "X", "a max abs difference up to X counts as the same",
     "", 0, OPT_TOLERANCE},
    {0, "plot", "FILE", "a heat map, layer by matrix, as SVG", NULL, 0,
     OPT_PLOT},
    {0, "rank", "N", "effective ranks, from N singular values (default 64)",
     "16 64 256", CMD_ARG_OPTIONAL, OPT_RANK},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct diff {
    const char *delta, *plot;
    uint64_t level;
    uint64_t rank; /* singular values that are looked for, or 0 */
    double tolerance;
};

/* The part of |D|^2 that the values of an effective rank make up. */
static const double most = 0.99;

enum status { SAME, CHANGED, ONLY_A, ONLY_B, OTHER_SHAPE, OTHER_TYPE };

static const char *const status_names[] = {"same",   "changed", "only_a",
                                           "only_b", "shape",   "type"};

/* A line of the result: a pair of tensors, or one that has no other. */
struct pair {
    const struct pq_tensor *a, *b; /* as stored; one may be NULL */
    enum status status;
    struct pq_figures f;
    bool ranked;  /* the next three are known */
    size_t rank;  /* least k: s[0..k)^2 are 99% of the difference's square */
    bool more;    /* it takes more than were looked for: all these */
    double energy; /* part of the square that those looked for make up */
};

struct job {
    struct cmd *c;
    struct diff *o;
    struct pq_source *a, *b, *plain_a, *plain_b;
    size_t *to_a; /* [tensors of b] */
    struct pair *pairs;
    size_t n;
    size_t count[OTHER_TYPE + 1];
    struct pq_figures all;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct diff *o = c->state;

    switch (id) {
    case OPT_DELTA:
        o->delta = value;
        return 0;
    case OPT_COMPRESS:
        return cmd_number(value, 1, 19, &o->level, e);
    case OPT_TOLERANCE:
        return cmd_real(value, 0, 1e308, &o->tolerance, e);
    case OPT_RANK:
        o->rank = 64;
        return value ? cmd_number(value, 1, 65536, &o->rank, e) : 0;
    default:
        o->plot = value;
        return 0;
    }
}

static const struct pq_tensor *either(const struct pair *p)
{
    return p->a ? p->a : p->b;
}

static bool is_different(const struct pair *p)
{
    return p->status != SAME;
}

/* ---- comparing --------------------------------------------------------- */

static bool same_shape(const struct pq_tensor *a, const struct pq_tensor *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 ||
            memcmp(a->shape, b->shape,
                   (size_t)a->rank * sizeof *a->shape) == 0);
}

static int join(struct job *j, struct pq_error *e)
{
    const struct pq_catalog *a = j->a->catalog, *b = j->b->catalog;
    const char **names = pq_alloc(a->n_tensors + b->n_tensors, sizeof *names);

    j->to_a = pq_alloc(b->n_tensors, sizeof *j->to_a);
    j->pairs = pq_zalloc(a->n_tensors + b->n_tensors, sizeof *j->pairs);
    if (!names || !j->to_a || !j->pairs) {
        free((void *)names);
        return pq_fail_nomem(e);
    }
    for (size_t i = 0; i < a->n_tensors; i++)
        names[i] = a->tensors[i].name;
    for (size_t i = 0; i < b->n_tensors; i++)
        names[a->n_tensors + i] = b->tensors[i].name;
    const int rc = cmd_join(names, a->n_tensors, names + a->n_tensors,
                            b->n_tensors, j->to_a, e);
    free((void *)names);
    return rc;
}

/* The pairs in the order of A, then what only B has. */
static void list_pairs(struct job *j, size_t *b_of /* [tensors of A] */)
{
    const struct pq_catalog *a = j->a->catalog, *b = j->b->catalog;

    for (size_t i = 0; i < a->n_tensors; i++)
        b_of[i] = SIZE_MAX;
    for (size_t i = 0; i < b->n_tensors; i++)
        if (j->to_a[i] != SIZE_MAX)
            b_of[j->to_a[i]] = i;
    for (size_t i = 0; i < a->n_tensors; i++)
        if (cmd_selected(j->c, a->tensors[i].name))
            j->pairs[j->n++] = (struct pair){
                .a = &a->tensors[i],
                .b = b_of[i] == SIZE_MAX ? NULL : &b->tensors[b_of[i]]};
    for (size_t i = 0; i < b->n_tensors; i++)
        if (j->to_a[i] == SIZE_MAX && cmd_selected(j->c, b->tensors[i].name))
            j->pairs[j->n++] = (struct pair){.b = &b->tensors[i]};
}

static int ranks_found(const struct pq_step *s, const struct pq_lowrank *r,
                       struct pq_error *e)
{
    struct pair *x = s->user;
    double sum = 0;

    (void)e;
    x->ranked = isfinite(r->norm_sq);
    x->rank = pq_rank_for_energy(r->s, r->rank, most, r->norm_sq);
    for (size_t i = 0; i < r->rank; i++)
        sum += r->s[i] * r->s[i];
    x->more = sum < most * r->norm_sq;
    x->energy = r->norm_sq > 0 ? fmin(sum / r->norm_sq, 1) : 1;
    return 0;
}

/* The singular values of the difference of two matrices. */
static int add_ranks(struct job *j, struct pq_plan *p, struct pair *x,
                     const struct pq_tensor *a, const struct pq_tensor *b,
                     struct pq_error *e)
{
    const struct pq_lowrank_how how = {.kernels = j->c->kernels,
                                       .rank = (size_t)j->o->rank,
                                       .oversample = PQ_LOWRANK_OVERSAMPLE,
                                       .iterations = PQ_LOWRANK_ITERATIONS,
                                       .allow_nonfinite = true,
                                       .found = ranks_found};

    if (j->o->rank == 0 || a->rank < 2 || !pq_dtype_is_float(a->dtype) ||
        !pq_dtype_is_float(b->dtype))
        return 0;
    struct pq_step *s = pq_step_lowrank(p, a->name, j->plain_a, a, j->plain_b,
                                        b, &how, e);
    if (s)
        s->user = x;
    return s ? 0 : -1;
}

/* A pair that has figures gets its steps, the others their status. */
static int add_pair(struct job *j, struct pq_plan *p, struct pair *x,
                    struct pq_error *e)
{
    if (!x->a || !x->b) {
        x->status = x->a ? ONLY_A : ONLY_B;
        return 0;
    }
    const struct pq_tensor *a =
        &j->plain_a->catalog->tensors[x->a - j->a->catalog->tensors];
    const struct pq_tensor *b =
        &j->plain_b->catalog->tensors[x->b - j->b->catalog->tensors];
    if (!same_shape(a, b))
        x->status = OTHER_SHAPE;
    else if (!pq_compare_fits(a->dtype, b->dtype))
        x->status = OTHER_TYPE;
    else if (!pq_step_compare(p, j->c->kernels, j->plain_a, a, j->plain_b, b,
                              &x->f, e) ||
             add_ranks(j, p, x, a, b, e))
        return -1;
    return 0;
}

static void judge(struct job *j)
{
    for (size_t i = 0; i < j->n; i++) {
        struct pair *x = &j->pairs[i];
        const bool near = x->f.numeric && j->o->tolerance > 0 &&
                          x->f.max_abs <= j->o->tolerance;
        if (x->status == SAME && x->f.changed > 0 && !near)
            x->status = CHANGED;
        j->count[x->status]++;
        if (x->f.numeric)
            pq_figures_add(&j->all, &x->f);
    }
}

static int compare(struct job *j, struct pq_error *e)
{
    struct pq_source *sources[] = {j->plain_a, j->plain_b, j->a, j->b};
    struct pq_plan p = {.sources = sources, .n_sources = 4};
    size_t *b_of = NULL;
    int rc = join(j, e);

    if (!rc) {
        b_of = pq_alloc(j->a->catalog->n_tensors, sizeof *b_of);
        rc = b_of ? 0 : pq_fail_nomem(e);
    }
    if (!rc)
        list_pairs(j, b_of);
    for (size_t i = 0; !rc && i < j->n; i++)
        rc = add_pair(j, &p, &j->pairs[i], e);
    if (!rc)
        rc = cmd_run_plan(j->c, &p, e);
    if (!rc)
        judge(j);
    pq_plan_release(&p);
    free(b_of);
    return rc;
}

/* ---- text -------------------------------------------------------------- */

/* The rest of a line: the name, without what could break or disguise it. */
static void print_name(const char *name)
{
    for (; *name; name++) {
        char letter = *name;
        cmd_mask(&letter, 1);
        cmd_print_n(&letter, 1);
    }
    cmd_print("\n");
}

/* With --rank: "12", or ">64" where that is not enough, or "-". */
static void print_rank(const struct job *j, const struct pair *x)
{
    char text[32] = "-";

    if (x->ranked)
        snprintf(text, sizeof text, "%s%zu", x->more ? ">" : "", x->rank);
    if (j->o->rank)
        cmd_print("%-6s ", text);
}

static void print_pair(const struct job *j, const struct pair *x)
{
    static const char *const words[] = {"", "", "only in A", "only in B",
                                        "other shape", "other type"};
    const struct pq_tensor *t = either(x);
    char shape[256], type[64];

    cmd_shape_text(t, shape, sizeof shape);
    snprintf(type, sizeof type, "%s", cmd_type_name(t));
    if (x->a && x->b && strcmp(type, cmd_type_name(x->b)) != 0)
        snprintf(type, sizeof type, "%s/%s", cmd_type_name(x->a),
                 cmd_type_name(x->b));
    if (x->status > CHANGED)
        cmd_print("%-44s", words[x->status]);
    else if (!x->f.numeric)
        cmd_print("%-10s %-10s %-12s %7.3f%%  ", "-", "-", "-",
                  100 * pq_figures_changed(&x->f));
    else
        cmd_print("%-10.4g %-10.4g %-12.9f %7.3f%%  ", x->f.max_abs,
                  pq_figures_relative(&x->f), pq_figures_cosine(&x->f),
                  100 * pq_figures_changed(&x->f));
    print_rank(j, x);
    cmd_print("%-9s %-15s ", type, shape);
    print_name(t->name);
}

static bool is_shown(const struct job *j, const struct pair *x)
{
    return is_different(x) || j->c->verbose > 0;
}

static size_t differing(const struct job *j)
{
    return j->n - j->count[SAME];
}

static void print_text(const struct job *j)
{
    bool head = false;

    for (size_t i = 0; i < j->n; i++) {
        if (!is_shown(j, &j->pairs[i]))
            continue;
        if (!head)
            cmd_print("%-10s %-10s %-12s %8s  %s%-9s %-15s %s\n", "max abs",
                      "relative", "cosine", "changed",
                      j->o->rank ? "rank   " : "", "type", "shape", "tensor");
        head = true;
        print_pair(j, &j->pairs[i]);
    }
    cmd_print("%zu of %zu tensors differ", differing(j), j->n);
    if (j->count[ONLY_A])
        cmd_print(", %zu only in A", j->count[ONLY_A]);
    if (j->count[ONLY_B])
        cmd_print(", %zu only in B", j->count[ONLY_B]);
    if (j->count[OTHER_SHAPE])
        cmd_print(", %zu of other shapes", j->count[OTHER_SHAPE]);
    if (j->count[OTHER_TYPE])
        cmd_print(", %zu of other types", j->count[OTHER_TYPE]);
    cmd_print("; max abs %.4g, relative %.4g\n", j->all.max_abs,
              pq_figures_relative(&j->all));
}

/* ---- JSON -------------------------------------------------------------- */

static void put_figures(struct pq_buf *b, const struct pq_figures *f)
{
    cmd_put_number(b, ",\"max_abs\":", f->max_abs);
    cmd_put_number(b, ",\"relative_frobenius\":", pq_figures_relative(f));
    cmd_put_number(b, ",\"cosine\":", pq_figures_cosine(f));
    cmd_put_number(b, ",\"changed_fraction\":", pq_figures_changed(f));
}

static void put_pair(struct pq_buf *b, const struct pair *x)
{
    const struct pq_tensor *t = either(x);

    pq_buf_puts(b, "{\"name\":");
    pq_json_quote(b, t->name);
    if (x->a && x->b && strcmp(x->a->name, x->b->name) != 0) {
        pq_buf_puts(b, ",\"name_b\":");
        pq_json_quote(b, x->b->name);
    }
    pq_buf_printf(b, ",\"status\":\"%s\",\"type\":\"%s\"",
                  status_names[x->status], cmd_type_name(t));
    if (x->a && x->b)
        pq_buf_printf(b, ",\"type_b\":\"%s\"", cmd_type_name(x->b));
    pq_buf_puts(b, ",\"shape\":[");
    for (int i = 0; i < t->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)t->shape[i]);
    pq_buf_puts(b, "]");
    if (x->status <= CHANGED && x->f.numeric)
        put_figures(b, &x->f);
    if (x->ranked) {
        pq_buf_puts(b, ",\"rank\":");
        if (x->more)
            pq_buf_puts(b, "null");
        else
            pq_buf_printf(b, "%zu", x->rank);
        cmd_put_number(b, ",\"energy\":", x->energy);
    }
    pq_buf_puts(b, "}");
}

static int print_json(const struct job *j, struct pq_error *e)
{
    struct pq_buf b = {0};
    bool first = true;

    pq_buf_printf(&b, "{\"pq\":1,\"tool\":\"pq-diff\",\"same\":%s",
                  differing(j) ? "false" : "true");
    pq_buf_printf(&b, ",\"compared\":%zu", j->n);
    for (int i = SAME; i <= OTHER_TYPE; i++)
        pq_buf_printf(&b, ",\"n_%s\":%zu", status_names[i], j->count[i]);
    put_figures(&b, &j->all);
    pq_buf_puts(&b, ",\"tensors\":[");
    for (size_t i = 0; i < j->n; i++) {
        if (!is_shown(j, &j->pairs[i]))
            continue;
        pq_buf_puts(&b, first ? "" : ",");
        first = false;
        put_pair(&b, &j->pairs[i]);
    }
    pq_buf_puts(&b, "]}\n");
    return cmd_print_buf(&b, e);
}

/* ---- the life of the tool ---------------------------------------------- */

static int plot(struct job *j, struct pq_error *e)
{
    struct cmd_heat *cells = pq_alloc(j->n, sizeof *cells);
    size_t n = 0;

    if (!cells)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->n; i++)
        if (j->pairs[i].status <= CHANGED && j->pairs[i].f.numeric)
            cells[n++] =
                (struct cmd_heat){j->pairs[i].a->name,
                                  pq_figures_relative(&j->pairs[i].f)};
    const int rc = cmd_heatmap(j->c, j->o->plot,
                               "relative Frobenius norm of the difference",
                               cells, n, 0, e);
    free(cells);
    return rc;
}

static int open_plain(struct job *j, size_t i, struct pq_source **s,
                      struct pq_source **plain, struct pq_error *e)
{
    struct cmd *c = j->c;

    if (cmd_open_input(c, i, s, e))
        return -1;
    return pq_decoded_new(*s, c->kernels, c->memory / 4, c->tmpdir, plain, e);
}

static int diff(struct job *j, struct pq_error *e)
{
    if (j->o->plot && cmd_check_beside(j->c, j->o->plot, e))
        return -1;
    if (open_plain(j, 0, &j->a, &j->plain_a, e) ||
        open_plain(j, 1, &j->b, &j->plain_b, e) || compare(j, e))
        return -1;
    if (j->o->plot && plot(j, e))
        return -1;
    if (j->c->quiet)
        return 0;
    if (j->c->json)
        return print_json(j, e);
    print_text(j);
    return 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct diff *o = c->state;
    struct job j = {.c = c, .o = o};

    if (c->n_operands != 2)
        return cmd_usage(c, "two operands are needed: A and B");
    if (o->delta && (c->match.n || c->exclude.n || o->plot || o->rank ||
                     (c->json && !c->dry_run)))
        return cmd_usage(c, "--delta takes whole models and reports nothing: "
                            "no -m, -x, --plot, --rank, --json");
    if (c->dry_run && !o->delta)
        return cmd_usage(c, "-n goes with --delta: else nothing is written");
    if (o->rank && pq_linalg_ready(e))
        return CMD_TROUBLE;
    if (o->delta)
        return cmd_make_delta(c, o->delta, o->level ? (int)o->level : 1, e)
                   ? CMD_TROUBLE
                   : CMD_OK;
    const int rc = diff(&j, e);
    pq_source_free(j.plain_a);
    pq_source_free(j.plain_b);
    pq_source_free(j.a);
    pq_source_free(j.b);
    free(j.to_a);
    free(j.pairs);
    return rc ? CMD_TROUBLE : differing(&j) ? CMD_NO : CMD_OK;
}

static const char *const examples[] = {
    "pq-diff llama/ model.pq",
    "pq-diff llama/ llama-nf4/ --delta nf4.pq",
    NULL,
};

const struct pq_tool tool_diff = {
    .name = "diff",
    .purpose = "compare two models, or write the difference",
    .synopsis = "[options] A B",
    .options = options,
    .shared = CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE | CMD_JSON |
              CMD_VERBOSITY | CMD_PROVENANCE,
    .max_operands = 2,
    .examples = examples,
    .state_bytes = sizeof(struct diff),
    .option = option,
    .run = run,
};
