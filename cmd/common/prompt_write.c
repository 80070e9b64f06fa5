/*
 * The mean of soft prompts, and a model that has the rows of one as tokens;
 * see prompt.h.
 *
 *     table      [0 .. first) as it was | prompt [n] | padding that is left
 *     a head     [0 .. first) as it was | mean   [n] | ...
 *
 * The new tokens take the numbers that follow those of the tokenizer, which
 * may be rows of padding.  A head of its own gets the mean of its rows for
 * each: that logit is the mean of all, so none of the new tokens is ever the
 * likeliest.  A head that is tied to the table has the prompt's rows there.
 */
#include "config.h"
#include "pq_made.h"
#include "pq_names.h"
#include "pq_quant.h"
#include "pq_vocab.h"
#include "prompt.h"
#include "report.h"
#include "tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tokenizer_json[] = "tokenizer.json";

/* ---- the mean ----------------------------------------------------------- */

static int plan_average(struct prompt *p, struct pq_source *lent,
                        struct pq_plan *plan, struct pq_catalog *out,
                        struct pq_error *e)
{
    static const char *file = "adapter_model.safetensors";
    const uint64_t shape[] = {p->n, p->hidden};
    struct pq_catalog like = *p->dirs[0]->catalog;
    const struct pq_tensor *t =
        pq_lent_add(lent, "prompt_embeddings", shape, 2, p->x, e);

    like.directory = true; /* a name without a suffix is one */
    if (!t || pq_catalog_copy_meta(out, p->dirs[0]->catalog, e))
        return -1;
    out->files = &file;
    out->n_files = 1;
    return !pq_tensor_copy(out, t, e) || pq_step_copy(plan, lent, t, 0, e) ||
                   cmd_make_sink(p->c, out, NULL, &like, &plan->sink, e)
               ? -1
               : 0;
}

int prompt_write_average(struct prompt *p, struct pq_error *e)
{
    struct pq_source *lent = NULL;
    struct pq_plan plan = {.sources = &lent, .n_sources = 1};
    struct pq_catalog out;

    pq_catalog_init(&out);
    int rc = pq_lent_new("mean", 1, &lent, e) ||
             plan_average(p, lent, &plan, &out, e) ||
             cmd_run_plan(p->c, &plan, e);
    for (size_t i = 0; !rc && i < p->n_dirs; i++)
        lent->total_bytes += p->dirs[i]->total_bytes; /* that were read */
    rc = rc || cmd_report_plan(p->c, &plan, e) ? -1 : 0;
    pq_sink_free(plan.sink);
    plan.sink = NULL;
    pq_plan_release(&plan);
    pq_source_free(lent);
    pq_catalog_release(&out);
    return rc;
}

/* ---- a model with more tokens ------------------------------------------- */

struct export
{
    struct prompt *p;
    uint64_t first, total; /* where the tokens begin; rows there will be */
    bool tied;
    struct tokens tokens; /* of tokenizer.json, if there is one */
    struct pq_arena arena;
    struct pq_row *rows; /* [total] */
    struct pq_row_map map;
    struct pq_vocab_table *tables;
    size_t n_tables;
    /* the model, or its tables alone where it is read in order; new rows */
    struct pq_source *models[2];
    struct pq_source *view;
    struct pq_plan plan;
    struct pq_catalog out;
};

static bool is_table(const void *arg, const struct pq_tensor *t)
{
    const struct export *x = arg;

    return (pq_name_is_token_table(t->name) || pq_name_is_head(t->name)) &&
           t->rank > 0 && t->shape[0] == x->p->table->shape[0];
}

/* ---- means of heads ---- */

struct mean_of {
    const struct export *x;
    const struct pq_tensor *t; /* of p->decoded */
    size_t columns;
    float *rows; /* [p->n][columns] */
};

static int gather_mean(const struct pq_step *s, unsigned pass,
                       const struct pq_unit *u, const void *state,
                       struct pq_error *e)
{
    const struct mean_of *m = s->params;
    double *sum = u->partial;

    (void)pass;
    (void)state;
    (void)e;
    pq_load_f32(m->x->p->c->kernels, m->t->dtype, u->in[0],
                (size_t)u->count * m->columns, u->scratch);
    for (size_t r = 0; r < u->count; r++)
        for (size_t k = 0; k < m->columns; k++)
            sum[k] += (double)((const float *)u->scratch)[r * m->columns + k];
    return 0;
}

static int combine_mean(const struct pq_step *s, unsigned pass, void *state,
                        const void *partial, struct pq_error *e)
{
    const struct mean_of *m = s->params;

    (void)pass;
    (void)e;
    for (size_t k = 0; k < m->columns; k++)
        ((double *)state)[k] += ((const double *)partial)[k];
    return 0;
}

static int mean_done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct mean_of *m = s->params;
    const double *sum = state;

    (void)e;
    for (size_t i = 0; i < m->x->p->n; i++)
        for (size_t k = 0; k < m->columns; k++)
            m->rows[i * m->columns + k] = (float)(sum[k] / (double)s->items);
    return 0;
}

static int run_mean(struct export *x, struct mean_of *m, struct pq_error *e)
{
    struct pq_source *sources[] = {x->p->decoded, x->p->model};
    struct pq_plan plan = {.sources = sources, .n_sources = 2};
    struct pq_step *s = pq_plan_step(&plan, 1, 0, e);

    if (!s)
        return -1;
    s->name = m->t->name;
    s->in[0] = (struct pq_input){.source = x->p->decoded,
                                 .part = &m->t->parts[0],
                                 .access = PQ_RANGE,
                                 .item_bits = (uint64_t)m->columns *
                                              pq_dtype_bits(m->t->dtype)};
    s->items = x->first;
    s->unit_items = m->columns < 65536 ? 65536 / m->columns : 1;
    s->scratch_bytes = (size_t)s->unit_items * m->columns * sizeof(float);
    s->partial_bytes = s->state_bytes = m->columns * sizeof(double);
    s->n_gather = 1;
    s->gather = gather_mean;
    s->combine = combine_mean;
    s->done = mean_done;
    s->params = m;
    const int rc = cmd_run_part(x->p->c, &plan, e);
    pq_plan_release(&plan);
    return rc;
}

/* The rows that a head gets, or a table that is not tied to one. */
static const struct pq_tensor *
new_rows(struct export *x, const struct pq_tensor *t, struct pq_error *e)
{
    struct prompt *p = x->p;
    struct mean_of m = {x, t, (size_t)(t->n_elements / t->shape[0]), NULL};
    uint64_t shape[2] = {p->n, t->rank > 1 ? t->shape[1] : 0};

    if (pq_name_is_token_table(t->name) || (x->tied && t->rank == 2))
        return pq_lent_add(x->models[1], t->name, shape, t->rank, p->x, e);
    m.rows = pq_arena_alloc(&x->arena, p->n * m.columns, sizeof *m.rows);
    if (!m.rows) {
        pq_fail_nomem(e);
        return NULL;
    }
    return run_mean(x, &m, e)
               ? NULL
               : pq_lent_add(x->models[1], t->name, shape, t->rank, m.rows, e);
}

/* ---- the tables ---- */

/* Rows are read here and there, which a stream does not do. */
static int open_tables(struct export *x, struct pq_error *e)
{
    struct prompt *p = x->p;
    const uint64_t share = p->c->memory / 8;

    if (!p->model->sequential) {
        x->models[0] = p->model;
        return 0;
    }
    p->c->memory -= share;
    return pq_made_new(p->model->name, p->model->catalog->n_tensors, share,
                       p->c->tmpdir, &x->models[0], e) ||
                   cmd_copy(p->c, p->model, is_table, x, x->models[0], e)
               ? -1
               : 0;
}

/* Table i of the model, which is number k of the tables. */
static int add_table(struct export *x, size_t i, size_t k, struct pq_error *e)
{
    const size_t at = x->models[0] == x->p->model ? i : k;
    const struct pq_tensor *t = &x->models[0]->catalog->tensors[at];
    const struct pq_tensor **from = pq_arena_alloc(&x->arena, 2, sizeof *from);

    if (!from)
        return pq_fail_nomem(e);
    from[0] = t;
    from[1] = new_rows(x, &x->p->decoded->catalog->tensors[i], e);
    x->tables[x->n_tables++] = (struct pq_vocab_table){at, from};
    return from[1] ? 0 : -1;
}

static int make_view(struct export *x, struct pq_error *e)
{
    const struct pq_catalog *c = x->p->model->catalog;
    const uint64_t end = x->first + x->p->n;
    int rc = 0;

    x->rows = pq_arena_alloc(&x->arena, (size_t)x->total, sizeof *x->rows);
    x->tables = pq_arena_alloc(&x->arena, c->n_tensors, sizeof *x->tables);
    if (!x->rows || !x->tables)
        return pq_fail_nomem(e);
    for (uint64_t i = 0; i < x->total; i++)
        x->rows[i] = i < x->first || i >= end
                         ? (struct pq_row){0, (uint32_t)i}
                         : (struct pq_row){1, (uint32_t)(i - x->first)};
    x->map = (struct pq_row_map){.rows = x->rows, .n_rows = x->total};
    if (open_tables(x, e) ||
        pq_lent_new("prompt", c->n_tensors, &x->models[1], e))
        return -1;
    for (size_t i = 0; !rc && i < c->n_tensors; i++)
        if (is_table(x, &c->tensors[i]))
            rc = add_table(x, i, x->n_tables, e);
    return rc ? -1
              : pq_vocab_new(x->models, 2, 0, &x->map, x->tables, x->n_tables,
                             x->p->c->kernels, &x->view, e);
}

/* ---- the tokens ---- */

static int check_tables(const struct export *x, struct pq_error *e)
{
    const struct pq_catalog *c = x->p->model->catalog;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        if (is_table(x, t) && (t->codec.encoding != PQ_PLAIN || t->rank > 2))
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: tensor %s: is encoded or has more than two "
                           "dimensions, so it takes no rows: dequantize it "
                           "first",
                           x->p->model->name, t->name);
    }
    return 0;
}

/* Where they go, and whether that is somewhere. */
static int place_tokens(struct export *x, struct pq_error *e)
{
    const struct pq_catalog *c = x->p->model->catalog;
    const struct pq_blob *b = pq_catalog_blob(c, tokenizer_json);
    const uint64_t rows = x->p->table->shape[0];
    const int tied = cmd_config_tied(c, e);
    bool head = false;

    if (e->code || check_tables(x, e))
        return -1;
    for (size_t i = 0; i < c->n_tensors; i++)
        head = head || pq_name_is_head(c->tensors[i].name);
    x->tied = tied == 1 || (tied == 2 && !head);
    if (b && tokens_read(&x->tokens, b->data, (size_t)b->bytes, e))
        return pq_error_in(e, "%s: %s", x->p->model->name, tokenizer_json);
    x->first = b ? x->tokens.top : rows;
    if (x->first > rows)
        return pq_fail(e, PQ_EARG,
                       "%s: the tokenizer has %llu tokens, the table %llu "
                       "rows",
                       x->p->model->name, (unsigned long long)x->first,
                       (unsigned long long)rows);
    x->total = x->first + x->p->n > rows ? x->first + x->p->n : rows;
    return x->total < PQ_ROW_MEAN ? 0
                                  : pq_fail(e, PQ_ELIMIT, "too many tokens");
}

/* "<prompt-0>", the first numbers that are free. */
static int name_token(struct export *x, size_t i, unsigned long *number,
                      struct token *t, struct pq_error *e)
{
    do
        t->text = pq_arena_printf(&x->arena, "<prompt-%lu>", (*number)++);
    while (t->text && tokens_find(&x->tokens, t->text));
    if (!t->text)
        return pq_fail_nomem(e);
    t->added = pq_arena_printf(
        &x->arena,
        "{\"id\": %llu, \"content\": \"%s\", \"single_word\": false, "
        "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
        "\"special\": true}",
        (unsigned long long)(x->first + i), t->text);
    if (!t->added)
        return pq_fail_nomem(e);
    t->added_n = strlen(t->added);
    return 0;
}

static int add_tokens(struct export *x, struct pq_error *e)
{
    struct pq_blob *b = pq_catalog_blob(&x->out, tokenizer_json);
    const size_t n = x->p->n;
    struct token *list = pq_arena_alloc(&x->arena, n, sizeof *list);
    const struct token **new = pq_arena_alloc(&x->arena, n, sizeof *new);
    unsigned long number = 0;
    struct pq_buf text = {0};
    int rc = 0;

    if (!b)
        return 0;
    if (!list || !new)
        return pq_fail_nomem(e);
    for (size_t i = 0; !rc && i < n; i++) {
        list[i] = (struct token){0};
        new[i] = &list[i];
        rc = name_token(x, i, &number, &list[i], e);
    }
    if (!rc)
        rc = tokens_append(b->data, (size_t)b->bytes, new, n, x->first, &text,
                           e);
    if (!rc) {
        b->data = pq_arena_strndup(&x->out.arena, text.s, text.n);
        b->bytes = text.n;
        rc = b->data ? 0 : pq_fail_nomem(e);
    }
    pq_buf_release(&text);
    return rc;
}

static int edit_config(struct export *x, struct pq_error *e)
{
    return x->total == x->p->table->shape[0]
               ? 0
               : cmd_config_set_number(&x->out, "vocab_size", x->total, e);
}

/* ---- all of it ---- */

static int make_plan(struct export *x, struct pq_error *e)
{
    const struct pq_catalog *in = x->p->model->catalog;
    size_t k = 0;

    if (pq_catalog_copy_meta(&x->out, x->p->model->catalog, e) ||
        edit_config(x, e) || add_tokens(x, e))
        return -1;
    for (size_t i = 0; i < in->n_tensors; i++) {
        const bool is_one = is_table(x, &in->tensors[i]);
        const struct pq_tensor *t =
            is_one ? &x->view->catalog->tensors[x->tables[k++].tensor]
                   : &in->tensors[i];
        if (!pq_tensor_copy(&x->out, t, e) ||
            pq_step_copy(&x->plan, is_one ? x->view : x->p->model, t, i, e))
            return -1;
    }
    return cmd_make_sink(x->p->c, &x->out, NULL, x->p->model->catalog,
                         &x->plan.sink, e);
}

/* Which numbers the tokens have. */
static int tell(struct export *x, struct pq_error *e)
{
    struct cmd *c = x->p->c;
    struct cmd_report r = {.c = c, .out = &x->out};
    char more[64];

    if (c->dry_run)
        return 0;
    snprintf(more, sizeof more, ",\"first_token\":%llu,\"tokens_added\":%zu",
             (unsigned long long)x->first, x->p->n);
    r.more = more;
    if (c->verbose > 0)
        cmd_msg(c, "the tokens of the prompt are %llu to %llu%s",
                (unsigned long long)x->first,
                (unsigned long long)x->first + x->p->n - 1,
                x->tokens.n ? "" : "; there is no tokenizer.json to name them");
    const int rc = (c->json && cmd_report_catalog(&r, e)) ||
                           cmd_report_end(&r, x->p->model->total_bytes,
                                          x->plan.sink->total_bytes, e)
                       ? -1
                       : 0;
    pq_buf_release(&r.json);
    return rc;
}

int prompt_write_model(struct prompt *p, struct pq_error *e)
{
    struct export x = {.p = p};
    struct pq_source *sources[4];

    pq_catalog_init(&x.out);
    int rc = place_tokens(&x, e) || make_view(&x, e) || make_plan(&x, e);
    if (!rc) {
        sources[0] = x.view;
        sources[1] = x.models[1];
        sources[2] = p->model;
        sources[3] = x.models[0];
        x.plan.sources = sources;
        x.plan.n_sources = x.models[0] == p->model ? 3 : 4;
        rc = cmd_run_plan(p->c, &x.plan, e) || tell(&x, e);
    }
    pq_sink_free(x.plan.sink);
    x.plan.sink = NULL;
    pq_plan_release(&x.plan);
    pq_source_free(x.view);
    pq_source_free(x.models[1]);
    if (x.models[0] != p->model)
        pq_source_free(x.models[0]);
    pq_catalog_release(&x.out);
    tokens_release(&x.tokens);
    pq_arena_release(&x.arena);
    return rc ? -1 : 0;
}
