/*
 * Soft prompts, and the model that they are for; see prompt.h.
 */
#include "data.h"
#include "pq_names.h"
#include "pq_peft.h"
#include "pq_quant.h"
#include "prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a prompt ----------------------------------------------------------- */

/* The first says how large all are. */
static int fit(struct prompt *p, const struct pq_source *s,
               const struct pq_tensor *t, struct pq_error *e)
{
    if (t->shape[0] > PROMPT_MAX_TOKENS)
        return pq_fail(e, PQ_EFORMAT, "%s: tensor %s: has more than %u rows",
                       s->name, t->name, PROMPT_MAX_TOKENS);
    if (!p->x) {
        p->n = (size_t)t->shape[0];
        p->hidden = (size_t)t->shape[1];
        p->x = pq_zalloc((size_t)t->n_elements, sizeof *p->x);
        return p->x ? 0 : pq_fail_nomem(e);
    }
    if (t->shape[0] == p->n && t->shape[1] == p->hidden)
        return 0;
    return pq_fail(e, PQ_EARG,
                   "%s: is [%llu, %llu], and %s is [%zu, %zu]: only prompts of "
                   "one shape have a mean",
                   s->name, (unsigned long long)t->shape[0],
                   (unsigned long long)t->shape[1], p->dirs[0]->name, p->n,
                   p->hidden);
}

/* Adds the rows of one to `sum`. */
static int add_rows(struct prompt *p, struct pq_source *s,
                    const struct pq_tensor *t, double *sum, struct pq_error *e)
{
    const size_t n = (size_t)t->n_elements;
    int rc = pq_read_f32(p->c->kernels, s, t, p->x, e);

    for (size_t i = 0; !rc && i < n; i++) {
        if (!isfinite(p->x[i]))
            rc = pq_fail(e, PQ_EVALUE,
                         "%s: tensor %s: element %zu is not finite", s->name,
                         t->name, i);
        sum[i] += (double)p->x[i];
    }
    return rc;
}

int prompt_open(struct prompt *p, struct pq_error *e)
{
    const size_t n = p->c->n_operands ? p->c->n_operands : 1;
    double *sum = NULL;
    int rc = 0;

    p->dirs = pq_zalloc(n, sizeof *p->dirs);
    if (!p->dirs)
        return pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < n; i++) {
        struct pq_source **s = &p->dirs[i];
        if (cmd_open_plain(p->c, i, s, e))
            rc = -1;
        p->n_dirs += !rc;
        const struct pq_tensor *t =
            rc || cmd_load(p->c, s, e) ? NULL : pq_peft_prompt(*s, e);
        rc = t ? fit(p, *s, t, e) : -1;
        if (!rc && !sum && !(sum = pq_zalloc(p->n * p->hidden, sizeof *sum)))
            rc = pq_fail_nomem(e);
        rc = rc || add_rows(p, *s, t, sum, e) ? -1 : 0;
    }
    for (size_t i = 0; !rc && i < p->n * p->hidden; i++)
        p->x[i] = (float)(sum[i] / (double)n);
    free(sum);
    return rc;
}

/* ---- the model ---------------------------------------------------------- */

static int find_table(struct prompt *p, struct pq_error *e)
{
    const struct pq_catalog *c = p->decoded->catalog;

    for (size_t i = 0; !p->table && i < c->n_tensors; i++)
        if (pq_name_is_token_table(c->tensors[i].name) &&
            c->tensors[i].rank == 2 && c->tensors[i].n_elements &&
            pq_dtype_is_float(c->tensors[i].dtype))
            p->table = &c->tensors[i];
    if (!p->table)
        return pq_fail(e, PQ_EARG, "%s: has no table of token embeddings",
                       p->model->name);
    if (p->table->shape[1] == p->hidden)
        return 0;
    return pq_fail(e, PQ_EARG,
                   "%s: tensor %s: has rows of %llu, and those of %s are of "
                   "%zu",
                   p->model->name, p->table->name,
                   (unsigned long long)p->table->shape[1], p->dirs[0]->name,
                   p->hidden);
}

static int open_tokenizer(struct prompt *p, struct pq_error *e)
{
    const struct pq_catalog *c = p->model->catalog;

    p->rows = p->table->shape[0];
    if (!cmd_data_speaks(c))
        return 0;
    if (pq_tokenizer_of_model(c, &p->tokenizer, e))
        return -1;
    const uint64_t top = pq_tokenizer_top(p->tokenizer);
    p->rows = top < p->rows ? top : p->rows; /* the rest is padding */
    return 0;
}

int prompt_open_model(struct prompt *p, struct pq_error *e)
{
    struct cmd *c = p->c;
    const uint64_t share = c->memory / 4;

    return pq_open_model(p->o->model, &cmd_cancel, &p->model, e) ||
                   cmd_keep(c, &p->model, e) || cmd_fold(c, p->model, e) ||
                   pq_decoded_new(p->model, c->kernels, share, c->tmpdir,
                                  &p->decoded, e) ||
                   find_table(p, e) || open_tokenizer(p, e)
               ? -1
               : 0;
}

void prompt_close(struct prompt *p)
{
    for (size_t i = 0; i < p->n_dirs; i++)
        pq_source_free(p->dirs[i]);
    free(p->dirs);
    free(p->x);
    free(p->norms);
    free(p->cosines);
    pq_source_free(p->decoded);
    pq_source_free(p->model);
    pq_tokenizer_free(p->tokenizer);
    free(p->row_norms);
    free(p->shares);
    free(p->hits);
    free(p->nearest);
    free(p->loss.left);
}
