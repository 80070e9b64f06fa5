/*
 * Reducing the ranks of adapters; see reduce.h.
 */
#include "reduce.h"

#include "pq_json.h"

#include <stdlib.h>
#include <string.h>

bool cmd_reduces(const struct pq_rank_rule *rule)
{
    return rule->rank || rule->energy > 0 || rule->max_error > 0 ||
           rule->bytes;
}

/* A goal may need more than is usual; without any it is that. */
size_t cmd_reduce_rank(const struct pq_rank_rule *rule, size_t usual)
{
    if (rule->rank)
        return rule->rank;
    return cmd_reduces(rule) ? 8 * usual : usual;
}

/* ---- the first run ----------------------------------------------------- */

static int found(const struct pq_step *s, const struct pq_lowrank *l,
                 struct pq_error *e)
{
    struct cmd_reduce *r = s->user;
    const size_t i = r->factors.n;

    return pq_ranking_keep(&r->factors, s->name, l,
                           r->dense ? r->dense[i].rank : r->rule.rank, e);
}

static struct pq_step *add_step(struct cmd_reduce *r, struct pq_plan *plan,
                                size_t i, struct pq_error *e)
{
    const struct pq_peft_joint *j = &r->joined->modules[i];
    struct pq_lowrank_how how = {.kernels = r->c->kernels, .found = found};

    if (!r->dense)
        return pq_step_product(plan, j->like->name, j->a, j->b, j->n, &how, e);
    how.rank = r->dense[i].rank;
    how.oversample = PQ_LOWRANK_OVERSAMPLE;
    how.iterations = PQ_LOWRANK_ITERATIONS;
    how.seed = r->c->seed;
    how.turned = r->dense[i].turned;
    return pq_step_lowrank(plan, j->like->name, NULL, NULL, r->dense[i].source,
                           r->dense[i].tensor, &how, e);
}

/* The steps of modules [from, to). */
static int run_steps(struct cmd_reduce *r, size_t from, size_t to,
                     struct pq_error *e)
{
    struct pq_plan plan = {0};
    int rc = 0;

    for (size_t i = from; !rc && i < to; i++) {
        struct pq_step *s = add_step(r, &plan, i, e);
        if (s)
            s->user = r;
        else
            rc = -1;
    }
    if (!rc)
        rc = cmd_run_part(r->c, &plan, e);
    pq_plan_release(&plan);
    return rc;
}

/* Results are kept in a quarter of the memory, the rest is for the runs. */
static int factor(struct cmd_reduce *r, struct pq_error *e)
{
    const uint64_t share = r->c->memory / 4;
    const size_t n = r->joined->n;

    r->c->memory -= share;
    int rc = pq_linalg_ready(e) ||
             pq_ranking_init(&r->factors, n, share, r->c->tmpdir, e);
    for (size_t i = 0; !rc && r->prepare && i < n; i++)
        rc = r->prepare(r->prepare_arg, i, e) || run_steps(r, i, i + 1, e);
    if (!rc && !r->prepare)
        rc = run_steps(r, 0, n, e);
    return rc ? -1 : 0;
}

/* ---- the plan of the second -------------------------------------------- */

static void describe(const struct cmd_reduce *r, size_t i)
{
    const struct pq_peft_joint *j = &r->joined->modules[i];

    r->modules[i] = (struct pq_peft_out){
        .name = j->like->name,
        .embedding = j->like->embedding,
        .in = j->like->a->shape + 1,
        .n_in = j->like->a->rank - 1,
        .factor = &r->factors.factors[i],
        .bias = j->bias,
        .n_bias = j->n_bias,
    };
}

/* A matrix was searched only so far, which may be too little. */
static int check_reached(const struct cmd_reduce *r, struct pq_error *e)
{
    for (size_t i = 0; i < r->factors.n && !r->rule.rank; i++) {
        const struct pq_ranked *f = &r->factors.factors[i];
        const bool all = f->kept == f->rows || f->kept == f->cols;
        if (!all && !pq_ranked_enough(f, f->kept, &r->rule))
            return pq_fail(e, PQ_EARG,
                           "module %s: rank %zu leaves a relative error of "
                           "%.3g; say with --rank how far to go",
                           f->name, f->kept, pq_ranked_error(f));
    }
    return 0;
}

/*
 * What the files take beside the numbers of factors, at most: for a tensor
 * its entry in the header, for a module its lines in the config.
 */
static uint64_t overhead(const struct cmd_reduce *r,
                         const struct pq_catalog *out, uint64_t more)
{
    uint64_t sum = 1536 + more;

    for (size_t i = 0; i < out->n_blobs; i++)
        sum += out->blobs[i].bytes;
    for (size_t i = 0; i < r->joined->n; i++) {
        const struct pq_peft_joint *j = &r->joined->modules[i];
        const size_t name = strlen(j->like->name);
        sum += 2 * (name + 120) + 3 * (name + 16);
        if (j->n_bias)
            sum += name + 120 +
                   j->like->b->shape[0] * r->rule.element_bits / 8;
    }
    return sum;
}

static int choose(struct cmd_reduce *r, const struct pq_catalog *out,
                  uint64_t more, struct pq_error *e)
{
    struct pq_rank_rule rule = r->rule;
    const uint64_t other = overhead(r, out, more);

    if (rule.bytes && rule.bytes <= other)
        return pq_fail(e, PQ_EARG,
                       "--max-size: %llu bytes are not enough for names and "
                       "config",
                       (unsigned long long)rule.bytes);
    rule.bytes -= rule.bytes ? other : 0;
    return check_reached(r, e) || pq_ranking_choose(&r->factors, &rule, e)
               ? -1
               : 0;
}

int cmd_reduce_plan(struct cmd_reduce *r, struct pq_plan *plan,
                    struct pq_catalog *out, size_t more, uint64_t more_bytes,
                    struct pq_error *e)
{
    const size_t n = r->joined->n;

    r->rule.element_bits = pq_dtype_bits(r->dtype);
    r->modules = pq_zalloc(n, sizeof *r->modules);
    if (!r->modules)
        return pq_fail_nomem(e);
    if (factor(r, e) || choose(r, out, more_bytes, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        describe(r, i);
    return pq_peft_write(plan, out, r->modules, n, more, r->factors.made,
                         r->dtype, r->quant, e);
}

/* ---- reports ----------------------------------------------------------- */

static void report_module(struct cmd_reduce *r, size_t i)
{
    const struct pq_peft_joint *j = &r->joined->modules[i];
    const struct pq_ranked *f = r->factors.n ? &r->factors.factors[i] : NULL;
    const unsigned long long rank = f ? f->rank : j->rank;
    const double error = f ? pq_ranked_error(f) : 0;
    char name[256];

    snprintf(name, sizeof name, "%s", j->like->name);
    cmd_mask(name, strlen(name));
    if (r->c->verbose > 0)
        cmd_msg(r->c, "%s: rank %llu, relative error %.4g", name, rank, error);
    pq_buf_puts(&r->json, i ? ",{\"name\":" : "{\"name\":");
    pq_json_quote(&r->json, j->like->name);
    pq_buf_printf(&r->json, ",\"rank\":%llu,\"error\":", rank);
    pq_json_put_f64(&r->json, error);
    pq_buf_puts(&r->json, "}");
}

int cmd_reduce_report(struct cmd_reduce *r, struct cmd_report *report,
                      struct pq_error *e)
{
    if (r->c->dry_run)
        return 0;
    pq_buf_puts(&r->json, ",\"modules\":[");
    for (size_t i = 0; i < r->joined->n; i++)
        report_module(r, i);
    pq_buf_puts(&r->json, "]");
    if (r->json.failed)
        return pq_fail_nomem(e);
    report->more = r->json.s;
    return r->c->json ? cmd_report_catalog(report, e) : 0;
}

void cmd_reduce_release(struct cmd_reduce *r)
{
    pq_ranking_release(&r->factors);
    pq_buf_release(&r->json);
    free(r->modules);
}
