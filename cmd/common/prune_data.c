/*
 * Pruning with data: what a calibration run has written about the inputs of
 * the layers, found and checked.  The files: pq-prune(1), FILES.
 */
#include "prune.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define KIND "pq.kind"

static const char *kind_of(const struct prune_options *o)
{
    return o->hessian ? "hessian" : "norms";
}

/* ---- the options --------------------------------------------------------- */

int prune_method(const char *s, struct prune_options *o, struct pq_error *e)
{
    static const char *const names[] = {
        [PRUNE_MAGNITUDE] = "magnitude",
        [PRUNE_WANDA] = "wanda",
        [PRUNE_SPARSEGPT] = "sparsegpt",
    };

    for (size_t i = PRUNE_MAGNITUDE; i < sizeof names / sizeof *names; i++)
        if (strcmp(s, names[i]) == 0) {
            o->method = (enum prune_method)i;
            return 0;
        }
    return pq_fail(e, PQ_EARG,
                   "unknown method '%s': one of magnitude wanda sparsegpt", s);
}

/* The method and its file belong together; either says the other. */
static int settle_method(struct cmd *c, struct prune_options *o)
{
    if (o->norms && o->hessian)
        return cmd_usage(c, "--norms and --hessian do not go together: they "
                            "are of two methods");
    if (o->method == PRUNE_WANDA && !o->norms)
        return cmd_usage(c, "--method wanda needs --norms FILE");
    if (o->method == PRUNE_SPARSEGPT && !o->hessian)
        return cmd_usage(c, "--method sparsegpt needs --hessian FILE");
    if (o->method == PRUNE_MAGNITUDE && (o->norms || o->hessian))
        return cmd_usage(c, "--method magnitude takes no %s: that is %s",
                         o->norms ? "--norms" : "--hessian",
                         o->norms ? "wanda" : "sparsegpt");
    if (!o->method)
        o->method = o->norms     ? PRUNE_WANDA
                    : o->hessian ? PRUNE_SPARSEGPT
                                 : PRUNE_MAGNITUDE;
    return 0;
}

int prune_settle_data(struct cmd *c, struct prune_options *o)
{
    const int status = settle_method(c, o);

    if (status || o->method == PRUNE_MAGNITUDE)
        return status;
    if (o->schedule.n)
        return cmd_usage(c, "--schedule prunes nothing and takes no --%s",
                         kind_of(o));
    if (o->threshold)
        return cmd_usage(c, "--threshold is about magnitudes and does not go "
                            "with --%s",
                         kind_of(o));
    if (o->how.block_rows)
        return cmd_usage(c, "--blocks is about magnitudes and does not go "
                            "with --%s",
                         kind_of(o));
    if (o->norms && o->scope && o->how.scope != PQ_PRUNE_ROW)
        return cmd_usage(c, "--norms compares the weights of a row: --scope "
                            "row or none");
    if (o->hessian && o->scope)
        return cmd_usage(c, "--hessian compares blocks of 128 columns and "
                            "takes no --scope");
    return 0;
}

/* ---- the file ------------------------------------------------------------ */

/*
 * For several runs, and read before for the provenance.  Nothing of a file is
 * kept.
 */
static int open_kept(const struct cmd *c, const char *path,
                     struct pq_source **s, struct pq_error *e)
{
    struct pq_source *file = NULL;
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return pq_fail(e, PQ_EARG, "%s: is no regular file", path);
    if (pq_open_model(path, &cmd_cancel, &file, e))
        return -1;
    if (pq_kept_new(file, 0, c->tmpdir, s, e) == 0)
        return 0;
    pq_source_free(file);
    return -1;
}

int prune_open_data(struct prune_job *j, struct pq_error *e)
{
    const struct prune_options *o = j->o;
    struct prune_data *d = &j->data;

    if (!o->norms && !o->hessian)
        return 0;
    if (open_kept(j->base.c, o->norms ? o->norms : o->hessian, &d->source, e))
        return -1;
    const struct pq_catalog *c = d->source->catalog;
    const char *kind = pq_catalog_get(c, KIND);
    if (kind && strcmp(kind, kind_of(o)) != 0)
        return pq_fail(e, PQ_EARG, "%s: holds '%s', not %s", d->source->name,
                       kind, kind_of(o));
    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_names_add(&d->names, c->tensors[i].name, i, NULL, e) < 0)
            return pq_error_in(e, "%s", d->source->name);
    return cmd_job_reads(&j->base, d->source, e);
}

void prune_release_data(struct prune_job *j)
{
    pq_names_release(&j->data.names);
    pq_source_free(j->data.source);
}

/* ---- one tensor ---------------------------------------------------------- */

/* The --memory of which the buffers get so many bytes: see cmd.memory. */
static uint64_t memory_option(uint64_t bytes)
{
    return (bytes / 3 * 4 >> 20) + 1;
}

static int choose_sparsegpt(const struct prune_job *j,
                            const struct pq_tensor *hessian,
                            const struct pq_tensor *t, struct prune_choice *d,
                            struct pq_error *e)
{
    const bool groups = d->how.scope == PQ_PRUNE_GROUPS;
    uint64_t bytes;

    d->sparsegpt = (struct pq_sparsegpt){.source = j->data.source,
                                         .hessian = hessian,
                                         .sparsity = d->how.sparsity,
                                         .keep = groups ? d->how.n : 0,
                                         .of = groups ? d->how.m : 0,
                                         .transpose = d->how.turned};
    if (pq_sparsegpt_check(&d->sparsegpt, t, &bytes, e))
        return -1;
    if (bytes > j->base.c->memory)
        return pq_fail(e, PQ_ELIMIT,
                       "is pruned as a whole and with its hessian, which needs "
                       "--memory %lluM",
                       (unsigned long long)memory_option(bytes));
    return 0;
}

int prune_choose_data(const struct prune_job *j, const struct pq_tensor *t,
                      struct prune_choice *d, struct pq_error *e)
{
    struct pq_source *s = j->data.source;

    if (!s || d->how.scope == PQ_PRUNE_MASKED)
        return 0;
    const size_t i = pq_names_find(&j->data.names, t->name);
    if (i == SIZE_MAX)
        return pq_fail(e, PQ_EARG, "has no %s in %s", kind_of(j->o), s->name);
    if (j->o->hessian)
        return choose_sparsegpt(j, &s->catalog->tensors[i], t, d, e);
    if (d->how.scope != PQ_PRUNE_GROUPS)
        d->how.scope = PQ_PRUNE_ROW;
    d->how.norms = s;
    d->how.norm = &s->catalog->tensors[i];
    return pq_prune_check(&d->how, t, e);
}
