/*
 * The models of a blend; see merge_models.h.
 */
#include "merge_models.h"

#include "config.h"
#include "pq_names.h"
#include "tokens.h"

#include <stdlib.h>
#include <string.h>

/* ---- one model --------------------------------------------------------- */

static int decode(struct merge_models *m, struct merge_model *x,
                  struct pq_error *e)
{
    const struct pq_catalog *c = x->opened->catalog;
    const struct cmd *cmd = m->j->c;
    bool coded = false;

    for (size_t i = 0; i < c->n_tensors; i++)
        coded |= c->tensors[i].codec.encoding != PQ_PLAIN;
    if (coded)
        return pq_decoded_new(x->opened, cmd->kernels, cmd->memory / 8,
                              cmd->tmpdir, &x->plain, e);
    x->plain = x->opened;
    return 0;
}

static int index_names(struct merge_model *x, struct pq_error *e)
{
    const struct pq_catalog *c = x->opened->catalog;
    const char *end, *trunk = NULL;

    x->layers = pq_alloc(c->n_tensors, sizeof *x->layers);
    x->used = pq_zalloc(c->n_tensors, sizeof *x->used);
    if (!x->layers || !x->used)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        if (pq_names_add(&x->index, name, i, NULL, e) < 0)
            return -1;
        x->layers[i] = pq_name_layer(name, &end);
        if (x->layers[i] >= x->n_layers)
            x->n_layers = x->layers[i] + 1;
        if (x->layers[i] < 0)
            continue;
        if (!trunk)
            trunk = name;
        const size_t n = pq_name_trunk(name);
        x->stacked |= n != pq_name_trunk(trunk) || memcmp(name, trunk, n) != 0;
    }
    return 0;
}

/* Tied is what says so, or what may be and has no head. */
static bool has_head(const struct merge_model *x)
{
    const struct pq_catalog *c = x->opened->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_name_is_head(c->tensors[i].name) &&
            pq_name_is_weight(c->tensors[i].name))
            return true;
    return false;
}

static int add_model(struct merge_models *m, const struct merge_input *in,
                     struct pq_error *e)
{
    struct merge_model *x = &m->list[m->n++];

    x->opened = in->source;
    if (cmd_config_refuse_foreign(in->source, e) || decode(m, x, e) ||
        index_names(x, e))
        return -1;
    x->source = x->plain;
    x->tied = cmd_config_tied(in->source->catalog, e) && !has_head(x);
    return e->code ? pq_error_in(e, "%s", in->source->name) : 0;
}

/* ---- all of them ------------------------------------------------------- */

int merge_models_init(struct merge_models *m, struct merge_job *j, size_t base,
                      struct pq_error *e)
{
    m->j = j;
    m->base = base;
    m->list = pq_zalloc(j->n_inputs, sizeof *m->list);
    if (!m->list)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < j->n_inputs; i++)
        if (add_model(m, &j->inputs[i], e))
            return -1;
    return 0;
}

static void release_vocab(struct merge_models *m)
{
    struct merge_vocab *v = &m->vocab;

    for (size_t i = 0; v->tokens && i <= m->n; i++)
        tokens_release(&v->tokens[i]);
    free(v->tokens);
    free(v->maps);
    free(v->means);
    pq_buf_release(&v->text);
}

void merge_models_release(struct merge_models *m)
{
    for (size_t i = 0; i < m->n; i++) {
        struct merge_model *x = &m->list[i];
        if (x->source != x->plain)
            pq_source_free(x->source);
        if (x->plain != x->opened)
            pq_source_free(x->plain);
        pq_names_release(&x->index);
        free(x->layers);
        free(x->used);
    }
    release_vocab(m);
    pq_arena_release(&m->arena);
    free(m->list);
    memset(m, 0, sizeof *m);
}

int merge_models_sources(struct merge_models *m, struct pq_error *e)
{
    struct merge_job *j = m->j;

    j->sources = pq_alloc(3 * m->n + 1, sizeof *j->sources);
    if (!j->sources)
        return pq_fail_nomem(e);
    j->plan.sources = j->sources;
    for (size_t i = 0; i < m->n; i++) {
        const struct merge_model *x = &m->list[i];
        j->sources[j->plan.n_sources++] = x->opened;
        if (x->plain != x->opened)
            j->sources[j->plan.n_sources++] = x->plain;
        if (x->source != x->plain)
            j->sources[j->plan.n_sources++] = x->source;
    }
    return 0;
}

struct merge_model *merge_models_donor(struct merge_models *m)
{
    return &m->list[m->base < m->n ? m->base : 0];
}

/* ---- tensors ----------------------------------------------------------- */

static const struct pq_tensor *take(struct merge_model *m, size_t i)
{
    m->used[i] = true;
    return &m->source->catalog->tensors[i];
}

static const struct pq_tensor *token_table(struct merge_model *m)
{
    const struct pq_catalog *c = m->source->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_name_is_token_table(c->tensors[i].name))
            return take(m, i);
    return NULL;
}

const struct pq_tensor *merge_model_tensor(struct merge_model *m,
                                           const char *name)
{
    size_t i = pq_names_find(&m->index, name);
    char variant[512];

    if (i != SIZE_MAX)
        return take(m, i);
    for (unsigned k = 0; strlen(name) < 480 &&
                         pq_name_variant(name, k, variant, sizeof variant);
         k++) {
        i = variant[0] ? pq_names_find(&m->index, variant) : SIZE_MAX;
        if (i != SIZE_MAX)
            return take(m, i);
    }
    return m->tied && pq_name_is_head(name) && pq_name_is_weight(name)
               ? token_table(m)
               : NULL;
}

uint64_t merge_model_rows(const struct merge_model *x)
{
    const struct pq_catalog *c = x->plain->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_name_is_token_table(c->tensors[i].name) &&
            c->tensors[i].rank == 2)
            return c->tensors[i].shape[0];
    return 0;
}

struct pq_source *merge_model_stored(const struct merge_model *m, size_t i)
{
    const struct pq_tensor *plain = &m->plain->catalog->tensors[i];
    const struct pq_tensor *seen = &m->source->catalog->tensors[i];

    return seen->parts[0].offset == plain->parts[0].offset ? m->opened
                                                           : m->source;
}
