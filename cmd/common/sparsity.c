/*
 * Zeros, as pq-info tells about them: text, JSON, a picture.
 */
#include "sparsity.h"

#include "config.h"
#include "heatmap.h"
#include "pq_json.h"
#include "pq_names.h"

#include <stdlib.h>

/* ---- the steps ----------------------------------------------------------- */

static bool counts(const struct cmd *c, const struct pq_tensor *t)
{
    return pq_dtype_is_float(t->dtype) && cmd_selected(c, t->name);
}

bool cmd_sparsity_decodes(const struct cmd *c, const struct pq_source *s)
{
    for (size_t i = 0; i < s->catalog->n_tensors; i++)
        if (s->catalog->tensors[i].codec.encoding != PQ_PLAIN &&
            counts(c, &s->catalog->tensors[i]))
            return true;
    return false;
}

int cmd_sparsity_steps(const struct cmd *c, struct pq_plan *p,
                       const struct pq_source *s, struct pq_source *plain,
                       struct pq_sparsity **all, struct pq_error *e)
{
    const size_t n = s->catalog->n_tensors;
    const bool conv1d = cmd_config_has_conv1d(s->catalog, e);

    *all = pq_zalloc(n, sizeof **all);
    if (!*all)
        return pq_fail_nomem(e);
    if (e->code)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const struct pq_tensor *t = &s->catalog->tensors[i];
        /* an encoded Conv1D was turned when it was encoded */
        const bool turned = conv1d && t->codec.encoding == PQ_PLAIN &&
                            pq_name_is_conv1d(t->name);
        if (counts(c, t) &&
            !pq_step_sparsity(p, c->kernels, plain,
                              &plain->catalog->tensors[i], turned, &(*all)[i],
                              e))
            return -1;
    }
    return 0;
}

int cmd_sparsity_mask(const struct cmd *c, struct pq_plan *p,
                      const struct pq_mask *m, struct pq_sparsity **all,
                      struct pq_error *e)
{
    const struct pq_catalog *cat = m->source->catalog;

    *all = pq_zalloc(cat->n_tensors, sizeof **all);
    if (!*all)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < cat->n_tensors; i++)
        if (cmd_selected(c, cat->tensors[i].name) &&
            !pq_step_mask_sparsity(p, m, i,
                                   pq_name_is_conv1d(cat->tensors[i].name),
                                   &(*all)[i], e))
            return -1;
    return 0;
}

/* ---- text and JSON ------------------------------------------------------- */

static double share(uint64_t part, uint64_t all)
{
    return all ? (double)part / (double)all : 0;
}

/* The N:M that the tensor obeys; false if it obeys none. */
static bool patterns(const struct pq_sparsity *r, char *text, size_t room,
                     const char *quote, const char *between)
{
    size_t at = 0;

    text[0] = '\0';
    for (unsigned m = 4; m <= 8; m += 4) {
        const unsigned n = pq_sparsity_pattern(r, m);
        if (n < m && at < room)
            at += (size_t)snprintf(text + at, room - at, "%s%s%u:%u%s",
                                   at ? between : "", quote, n, m, quote);
    }
    return at > 0;
}

void cmd_sparsity_print(const struct pq_sparsity *r)
{
    char text[64];

    if (!patterns(r, text, sizeof text, "", " "))
        snprintf(text, sizeof text, "none");
    cmd_print("    zeros %llu of %llu, sparsity %.6g, pattern %s\n",
              (unsigned long long)r->zeros, (unsigned long long)r->n,
              pq_sparsity_part(r), text);
    cmd_print("    rows %llu of %llu: sparsity min %.6g median %.6g max %.6g, "
              "zero rows %llu\n",
              (unsigned long long)r->rows, (unsigned long long)r->cols,
              share(r->deciles[0], r->cols),
              share(r->deciles[PQ_DECILES / 2], r->cols),
              share(r->deciles[PQ_DECILES - 1], r->cols),
              (unsigned long long)r->zero_rows);
}

static void put_counts(struct pq_buf *b, const char *key, const uint64_t *v,
                       size_t n)
{
    pq_buf_printf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "", (unsigned long long)v[i]);
    pq_buf_puts(b, "]");
}

static void put_share(struct pq_buf *b, uint64_t zeros, uint64_t n)
{
    pq_buf_printf(b, ",\"sparsity\":{\"elements\":%llu,\"zeros\":%llu,"
                     "\"part\":",
                  (unsigned long long)n, (unsigned long long)zeros);
    pq_json_put_f64(b, share(zeros, n));
}

void cmd_sparsity_put(struct pq_buf *b, const struct pq_sparsity *r)
{
    char text[64];

    put_share(b, r->zeros, r->n);
    pq_buf_printf(b, ",\"rows\":%llu,\"columns\":%llu,\"zero_rows\":%llu,"
                     "\"row_deciles\":[",
                  (unsigned long long)r->rows, (unsigned long long)r->cols,
                  (unsigned long long)r->zero_rows);
    for (size_t i = 0; i < PQ_DECILES; i++) {
        pq_buf_puts(b, i ? "," : "");
        pq_json_put_f64(b, share(r->deciles[i], r->cols));
    }
    patterns(r, text, sizeof text, "\"", ",");
    pq_buf_printf(b, "],\"patterns\":[%s]", text);
    put_counts(b, "groups_of_4", r->groups_of_4, 5);
    put_counts(b, "groups_of_8", r->groups_of_8, 9);
    pq_buf_puts(b, "}");
}

static void sum(const struct pq_sparsity *all, size_t n, uint64_t *zeros,
                uint64_t *elements)
{
    *zeros = *elements = 0;
    for (size_t i = 0; i < n; i++) {
        *zeros += all[i].zeros;
        *elements += all[i].n;
    }
}

void cmd_sparsity_print_all(const struct pq_sparsity *all, size_t n)
{
    uint64_t zeros, elements;

    sum(all, n, &zeros, &elements);
    cmd_print("zeros %llu of %llu, sparsity %.6g\n", (unsigned long long)zeros,
              (unsigned long long)elements, share(zeros, elements));
}

void cmd_sparsity_put_all(struct pq_buf *b, const struct pq_sparsity *all,
                          size_t n)
{
    uint64_t zeros, elements;

    sum(all, n, &zeros, &elements);
    put_share(b, zeros, elements);
    pq_buf_puts(b, "}");
}

/* ---- the picture --------------------------------------------------------- */

int cmd_sparsity_plot(const struct cmd *c, const char *path,
                      const struct pq_catalog *cat,
                      const struct pq_sparsity *all, struct pq_error *e)
{
    struct cmd_heat *cells = pq_alloc(cat->n_tensors, sizeof *cells);
    size_t n = 0;

    if (!cells)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < cat->n_tensors; i++)
        if (all[i].valid)
            cells[n++] = (struct cmd_heat){cat->tensors[i].name,
                                           pq_sparsity_part(&all[i])};
    const int rc = cmd_heatmap(c, path, "sparsity: zeros of all elements",
                               cells, n, 1, e);
    free(cells);
    return rc;
}
