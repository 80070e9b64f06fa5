/*
 * Models with different vocabularies.
 *
 * The output's vocabulary is that of the base (or of the first model), that
 * and behind it what other models have more, or one from elsewhere.  Each
 * model then gets a row for each of its tokens:
 *
 *     the model's own            where it has the token
 *     the base's                 else, where the base has it
 *     the mean of those that     else; of one owner: its row
 *     have it
 *     zeros                      where no model has it
 *
 * Rows that no token names (tables are often padded) are those of the model
 * that gives the vocabulary.  Source: mergekit 0.1.5, tokenizer/embed.py,
 * which drops the padding.
 */
#include "merge_models.h"
#include "pq_names.h"
#include "tokens.h"

#include <stdlib.h>
#include <string.h>

static const char tokenizer_json[] = "tokenizer.json";

/* A token of the output: its number, and the token of whoever has it. */
struct entry {
    const char *text;
    uint32_t id;
};

struct unify {
    struct merge_models *m;
    struct pq_error *e;
    size_t provider;    /* whose vocabulary it is; m->n: the path's */
    uint64_t *rows;     /* [n] of each model's tables */
    struct entry *list; /* [n_list] the output's tokens */
    size_t n_list;
    const struct token **added; /* [n_added] those of a union */
    size_t n_added;
    uint64_t first_added; /* their numbers begin here */
    size_t n_zero;        /* tokens that no model has */
};

/* ---- tables --------------------------------------------------------- */

/* Its first dimension is the vocabulary. */
static bool is_table(const struct pq_tensor *t, uint64_t rows)
{
    return (pq_name_is_token_table(t->name) || pq_name_is_head(t->name)) &&
           t->rank > 0 && t->shape[0] == rows;
}

/* Beside the number of tokens, rows are of one shape. */
static bool rows_differ(const struct pq_tensor *a, const struct pq_tensor *b)
{
    return a->rank != b->rank ||
           memcmp(a->shape + 1, b->shape + 1,
                  (size_t)(a->rank - 1) * sizeof *a->shape) != 0;
}

/*
 * What model i has where the first one has table `a` of so many rows; NULL: it
 * is none.
 */
static const struct pq_tensor *other_table(const struct merge_models *m,
                                           size_t i, const struct pq_tensor *a,
                                           uint64_t rows)
{
    const size_t at = pq_names_find(&m->list[i].index, a->name);

    return at != SIZE_MAX && is_table(a, rows)
               ? &m->list[i].plain->catalog->tensors[at]
               : NULL;
}

/* No choice of tokens helps where the rows themselves do not fit. */
static int check_sizes(const struct merge_models *m, size_t i,
                       struct pq_error *e)
{
    const struct pq_catalog *c = m->list[0].plain->catalog;
    const uint64_t rows = merge_model_rows(&m->list[0]);
    char x[64], y[64];

    for (size_t k = 0; k < c->n_tensors; k++) {
        const struct pq_tensor *a = &c->tensors[k];
        const struct pq_tensor *b = other_table(m, i, a, rows);
        if (!b || !rows_differ(a, b))
            continue;
        cmd_shape_text(a, x, sizeof x);
        cmd_shape_text(b, y, sizeof y);
        return pq_fail(
            e, PQ_EARG, "%s and %s are models of other sizes: %s is %s and %s",
            m->list[0].opened->name, m->list[i].opened->name, a->name, x, y);
    }
    return 0;
}

/* ---- nothing is said ------------------------------------------------ */

static int differ(const struct merge_models *m, size_t i, const char *how,
                  struct pq_error *e)
{
    return pq_fail(e, PQ_EARG,
                   "%s and %s have different vocabularies: %s; say with "
                   "--vocab (in a recipe: tokenizer_source) base or union "
                   "which is meant",
                   m->list[0].opened->name, m->list[i].opened->name, how);
}

static int compare_tables(struct merge_models *m, size_t i, struct pq_error *e)
{
    const struct pq_catalog *c = m->list[0].plain->catalog;
    const uint64_t rows = merge_model_rows(&m->list[0]);
    char how[200], x[64], y[64];

    for (size_t k = 0; k < c->n_tensors; k++) {
        const struct pq_tensor *a = &c->tensors[k];
        const struct pq_tensor *b = other_table(m, i, a, rows);
        if (!b || (b->rank == a->rank && b->shape[0] == a->shape[0]))
            continue;
        cmd_shape_text(a, x, sizeof x);
        cmd_shape_text(b, y, sizeof y);
        snprintf(how, sizeof how, "%.60s is %s and %s", a->name, x, y);
        return differ(m, i, how, e);
    }
    return 0;
}

/* One number for two tokens, or two for one: rows mean different things. */
static int compare_tokens(struct merge_models *m, size_t i,
                          const struct tokens *a, const struct tokens *b,
                          struct pq_error *e)
{
    const uint64_t rows = merge_model_rows(&m->list[0]);
    char how[200];
    size_t k = 0;

    for (size_t n = 0; n < b->n; n++) {
        const struct token *x = &b->list[n], *y = tokens_find(a, x->text);
        while (k < a->n && a->list[k].id < x->id)
            k++;
        const bool taken = k < a->n && a->list[k].id == x->id;
        if (x->id >= rows || (y ? y->id == x->id : !taken))
            continue;
        if (y)
            snprintf(how, sizeof how, "token '%.60s' is %u and %u", x->text,
                     y->id, x->id);
        else
            snprintf(how, sizeof how, "token %u is '%.60s' and '%.60s'", x->id,
                     a->list[k].text, x->text);
        return differ(m, i, how, e);
    }
    return 0;
}

static int read_blob(struct tokens *t, const struct pq_blob *b,
                     const char *name, struct pq_error *e)
{
    return tokens_read(t, b->data, (size_t)b->bytes, e)
               ? pq_error_in(e, "%s: %s", name, tokenizer_json)
               : 0;
}

/* All models against the first. */
static int check_same(struct merge_models *m, struct pq_error *e)
{
    const struct pq_blob *a =
        pq_catalog_blob(m->list[0].opened->catalog, tokenizer_json);
    struct tokens first = {0};
    int rc = 0;

    for (size_t i = 1; !rc && i < m->n; i++) {
        const struct pq_source *s = m->list[i].opened;
        const struct pq_blob *b = pq_catalog_blob(s->catalog, tokenizer_json);
        rc = compare_tables(m, i, e);
        if (rc || !a || !b ||
            (a->bytes == b->bytes &&
             memcmp(a->data, b->data, (size_t)a->bytes) == 0))
            continue;
        struct tokens other = {0};
        rc = (!first.n && read_blob(&first, a, m->list[0].opened->name, e)) ||
             read_blob(&other, b, s->name, e) ||
             compare_tokens(m, i, &first, &other, e);
        tokens_release(&other);
    }
    tokens_release(&first);
    return rc ? -1 : 0;
}

/* ---- the vocabularies ----------------------------------------------- */

/*
 * Tokens may go without a row, and tables may be padded; but a number beyond
 * both is a slip that would make a table of any size.
 */
static int check_numbers(const struct tokens *t, uint64_t rows,
                         const char *name, struct pq_error *e)
{
    const struct token *last = &t->list[t->n - 1];

    if (last->id < rows + t->n)
        return 0;
    return pq_fail(e, PQ_EFORMAT,
                   "%s: %s: token '%.60s' has the number %u, but there are %zu "
                   "tokens and %llu rows",
                   name, tokenizer_json, last->text, last->id, t->n,
                   (unsigned long long)rows);
}

static int read_models(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;

    for (size_t i = 0; i < u->m->n; i++) {
        const struct pq_source *s = u->m->list[i].opened;
        const struct pq_blob *b = pq_catalog_blob(s->catalog, tokenizer_json);
        u->rows[i] = merge_model_rows(&u->m->list[i]);
        if (u->rows[i] == 0)
            return pq_fail(u->e, PQ_EARG, "%s: has no table of tokens",
                           s->name);
        if (u->rows[i] > TOKENS_MAX)
            return pq_fail(u->e, PQ_ELIMIT, "%s: has more than %u tokens",
                           s->name, TOKENS_MAX);
        if (!b)
            return pq_fail(u->e, PQ_EARG,
                           "%s: has no tokenizer.json, which says what the "
                           "rows of its tables are",
                           s->name);
        if (read_blob(&v->tokens[i], b, s->name, u->e) ||
            check_numbers(&v->tokens[i], u->rows[i], s->name, u->e))
            return -1;
    }
    return 0;
}

static int read_path(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;
    bool there;

    if (merge_tokenizer_file(v->path, tokenizer_json, &v->text, &there, u->e))
        return -1;
    if (!there)
        return pq_fail(u->e, PQ_EARG, "%s: has no tokenizer.json", v->path);
    if (tokens_read(&v->tokens[u->m->n], v->text.s ? v->text.s : "", v->text.n,
                    u->e))
        return pq_error_in(u->e, "%s/%s", v->path, tokenizer_json);
    return check_numbers(&v->tokens[u->m->n], u->rows[0], v->path, u->e);
}

/* ---- the output's tokens -------------------------------------------- */

static int add_union(struct unify *u, struct pq_names *known)
{
    const struct merge_vocab *v = &u->m->vocab;
    uint64_t next = v->tokens[u->provider].top;

    u->first_added = next;
    for (size_t i = 0; i < u->m->n; i++)
        for (size_t k = 0; k < v->tokens[i].n; k++) {
            const struct token *t = &v->tokens[i].list[k];
            if (i == u->provider || t->id >= u->rows[i] ||
                tokens_find(&v->tokens[u->provider], t->text))
                continue;
            const int rc = pq_names_add(known, t->text, 0, NULL, u->e);
            if (rc < 0)
                return -1;
            if (rc == 1)
                continue;
            u->list[u->n_list++] = (struct entry){t->text, (uint32_t)next++};
            u->added[u->n_added++] = t;
        }
    return 0;
}

static int list_tokens(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;
    const struct tokens *own = &v->tokens[u->provider];
    const bool model = u->provider < u->m->n;
    struct pq_names known = {0};
    size_t most = own->n;

    for (size_t i = 0; i < u->m->n; i++)
        most += v->tokens[i].n;
    u->list = pq_alloc(most, sizeof *u->list);
    u->added = pq_alloc(most, sizeof *u->added);
    if (!u->list || !u->added)
        return pq_fail_nomem(u->e);
    v->n_rows = model ? u->rows[u->provider] : own->top;
    for (size_t k = 0; k < own->n; k++)
        if (own->list[k].id < v->n_rows || v->policy == MERGE_VOCAB_UNION)
            u->list[u->n_list++] =
                (struct entry){own->list[k].text, own->list[k].id};
    int rc = 0;
    if (v->policy == MERGE_VOCAB_UNION) {
        rc = add_union(u, &known);
        if (u->n_added && u->first_added + u->n_added > v->n_rows)
            v->n_rows = u->first_added + u->n_added;
        if (own->top > v->n_rows)
            v->n_rows = own->top;
    }
    pq_names_release(&known);
    return rc;
}

/* ---- rows ----------------------------------------------------------- */

/* The row of a token in model i, or false. */
static bool row_of(const struct unify *u, size_t i, const char *text,
                   struct pq_row *row)
{
    const struct token *t = tokens_find(&u->m->vocab.tokens[i], text);

    if (!t || t->id >= u->rows[i])
        return false;
    *row = (struct pq_row){(uint32_t)i, t->id};
    return true;
}

static int add_mean(struct unify *u, const struct pq_row *owners, size_t n,
                    struct pq_row *row)
{
    struct merge_vocab *v = &u->m->vocab;
    struct pq_row_mean *means =
        pq_grow(v->means, v->n_means, &v->cap_means, sizeof *means);
    struct pq_row *of = pq_arena_alloc(&u->m->arena, n, sizeof *of);

    if (means)
        v->means = means;
    if (!means || !of)
        return pq_fail_nomem(u->e);
    memcpy(of, owners, n * sizeof *of);
    means[v->n_means] = (struct pq_row_mean){of, n};
    *row = (struct pq_row){PQ_ROW_MEAN, (uint32_t)v->n_means++};
    return 0;
}

/* What models get that lack the token. */
static int substitute(struct unify *u, const char *text,
                      struct pq_row *owners /* [n] room */, struct pq_row *row)
{
    size_t n = 0;

    if (u->m->base < u->m->n && row_of(u, u->m->base, text, row))
        return 0;
    for (size_t i = 0; i < u->m->n; i++)
        n += row_of(u, i, text, &owners[n]);
    if (n > 1 && n < u->m->n)
        return add_mean(u, owners, n, row);
    u->n_zero += n == 0;
    *row = n ? owners[0] : (struct pq_row){PQ_ROW_ZERO, 0};
    return 0;
}

/* Rows without a token, before tokens are put over them. */
static void pad(const struct unify *u, struct pq_row *rows)
{
    for (uint64_t k = 0; k < u->m->vocab.n_rows; k++)
        rows[k] = u->provider < u->m->n && k < u->rows[u->provider]
                      ? (struct pq_row){(uint32_t)u->provider, (uint32_t)k}
                      : (struct pq_row){PQ_ROW_ZERO, 0};
}

static int fill_rows(struct unify *u, struct pq_row **rows /* [n][n_rows] */)
{
    struct pq_row *owners = pq_alloc(u->m->n, sizeof *owners);
    int rc = owners ? 0 : pq_fail_nomem(u->e);

    for (size_t k = 0; !rc && k < u->n_list; k++) {
        const struct entry *t = &u->list[k];
        struct pq_row other = {0};
        rc = substitute(u, t->text, owners, &other);
        for (size_t i = 0; !rc && i < u->m->n; i++)
            if (!row_of(u, i, t->text, &rows[i][t->id]))
                rows[i][t->id] = other;
    }
    free(owners);
    return rc;
}

static int make_maps(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;
    struct pq_row **rows = pq_alloc(u->m->n, sizeof *rows);
    int rc = rows ? 0 : pq_fail_nomem(u->e);

    for (size_t i = 0; !rc && i < u->m->n; i++) {
        rows[i] =
            pq_arena_alloc(&u->m->arena, (size_t)v->n_rows, sizeof **rows);
        if (!rows[i])
            rc = pq_fail_nomem(u->e);
        else
            pad(u, rows[i]);
    }
    if (!rc)
        rc = fill_rows(u, rows);
    for (size_t i = 0; !rc && i < u->m->n; i++)
        v->maps[i] =
            (struct pq_row_map){rows[i], v->n_rows, v->means, v->n_means};
    free(rows);
    return rc;
}

/* ---- views ---------------------------------------------------------- */

static bool is_identity(const struct pq_row_map *map, size_t i, uint64_t rows)
{
    uint64_t k = 0;

    while (k < map->n_rows && map->rows[k].model == i &&
           map->rows[k].number == k)
        k++;
    return k == map->n_rows && k == rows;
}

/* What stands in each model for a table of one. */
static const struct pq_tensor **counterparts(struct unify *u,
                                             const struct pq_tensor *t)
{
    const struct pq_tensor **from =
        pq_arena_alloc(&u->m->arena, u->m->n, sizeof *from);

    for (size_t k = 0; from && k < u->m->n; k++) {
        struct merge_model *x = &u->m->list[k];
        /* looked up while `source` still is `plain` */
        from[k] = merge_model_tensor(x, t->name);
    }
    if (!from)
        pq_fail_nomem(u->e);
    return from;
}

static int make_view(struct unify *u, size_t i, struct pq_source *const *models,
                     struct pq_source **view)
{
    const struct merge_model *x = &u->m->list[i];
    const struct pq_catalog *c = x->plain->catalog;
    struct pq_vocab_table *tables = pq_alloc(c->n_tensors, sizeof *tables);
    size_t n = 0;
    int rc = tables ? 0 : pq_fail_nomem(u->e);

    for (size_t k = 0; !rc && k < c->n_tensors; k++)
        if (is_table(&c->tensors[k], u->rows[i])) {
            tables[n].tensor = k;
            tables[n].from = counterparts(u, &c->tensors[k]);
            rc = tables[n++].from ? 0 : -1;
        }
    if (!rc)
        rc = pq_vocab_new(models, u->m->n, i, &u->m->vocab.maps[i], tables, n,
                          u->m->j->c->kernels, view, u->e);
    free(tables);
    return rc;
}

static int make_views(struct unify *u)
{
    struct merge_models *m = u->m;
    struct pq_source **models = pq_arena_alloc(&m->arena, m->n, sizeof *models);
    struct pq_source **views = pq_zalloc(m->n, sizeof *views);
    int rc = models && views ? 0 : pq_fail_nomem(u->e);

    for (size_t i = 0; !rc && i < m->n; i++)
        models[i] = m->list[i].plain;
    for (size_t i = 0; !rc && i < m->n; i++)
        if (!is_identity(&m->vocab.maps[i], i, u->rows[i]))
            rc = make_view(u, i, models, &views[i]);
    for (size_t i = 0; views && i < m->n; i++) {
        if (views[i])
            m->list[i].source = views[i];
        memset(m->list[i].used, 0, m->list[i].opened->catalog->n_tensors);
    }
    free(views);
    return rc;
}

/* ---- all of it ------------------------------------------------------ */

static int write_tokenizer(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;

    if (v->policy != MERGE_VOCAB_UNION || !u->n_added)
        return 0;
    const struct pq_blob *b = pq_catalog_blob(
        u->m->list[u->provider].opened->catalog, tokenizer_json);
    return tokens_append(b->data, (size_t)b->bytes, u->added, u->n_added,
                         u->first_added, &v->text, u->e);
}

/* Whose vocabulary it is: number of the model, or n for the path's. */
static size_t find_provider(const struct merge_models *m)
{
    size_t i = 0;

    if (m->vocab.policy != MERGE_VOCAB_PATH)
        return m->base < m->n ? m->base : 0;
    while (i < m->n && strcmp(m->list[i].opened->name, m->vocab.path) != 0)
        i++;
    return i;
}

static int unify(struct unify *u)
{
    struct merge_vocab *v = &u->m->vocab;

    u->rows = pq_zalloc(u->m->n, sizeof *u->rows);
    v->tokens = pq_zalloc(u->m->n + 1, sizeof *v->tokens);
    v->maps = pq_zalloc(u->m->n, sizeof *v->maps);
    if (!u->rows || !v->tokens || !v->maps)
        return pq_fail_nomem(u->e);
    u->provider = v->provider = find_provider(u->m);
    if (read_models(u) || (u->provider == u->m->n && read_path(u)) ||
        list_tokens(u) || make_maps(u) || make_views(u) || write_tokenizer(u))
        return -1;
    if (u->n_zero && !u->m->j->c->quiet)
        cmd_msg(u->m->j->c, "warning: no model has a row for %zu of %zu tokens",
                u->n_zero, u->n_list);
    return 0;
}

int merge_vocab_apply(struct merge_models *m, struct pq_error *e)
{
    struct unify u = {.m = m, .e = e};

    for (size_t i = 1; i < m->n; i++)
        if (check_sizes(m, i, e))
            return -1;
    if (m->vocab.policy == MERGE_VOCAB_UNSAID)
        return check_same(m, e);
    const int rc = unify(&u);
    free(u.rows);
    free(u.list);
    free(u.added);
    return rc;
}
