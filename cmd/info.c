/*
 * pq-info: what is in a model file.
 *
 * Without options it reads the header only.  --stats, --digest and --sparsity
 * run a plan that gathers over all tensors.
 *
 * The digest of a tensor chains XXH3-128 over its 1 MiB pieces (d = H(d, H of
 * the piece), in hex, from zero); that of the model is XXH3-128 over the
 * sorted lines "NAME DTYPE SHAPE DIGEST\n" of all parts.  It depends on names,
 * types, shapes and bytes, not on the container, the order or the metadata.
 */
#include "cmd.h"
#include "pq_json.h"
#include "pq_quant.h"
#include "report.h"
#include "sparsity.h"
#include "stats.h"

#include <stdlib.h>
#include <string.h>

/*
 * A pipe is read to its end, for one that was cut short must not look well;
 * so is a .pq file that takes no time.  Of a large one only the header is
 * looked at: pq-verify does the rest.
 */
#define SMALL_BYTES (8u << 20)

enum { OPT_STATS = 1, OPT_DIGEST, OPT_SPARSITY, OPT_PLOT };

static const struct cmd_option options[] = {
    {0, "stats", NULL, "min, max, mean, std, zeros, NaN, histogram a tensor",
     NULL, 0, OPT_STATS},
    {0, "digest", NULL, "content digest, independent of container and order",
     NULL, 0, OPT_DIGEST},
    {0, "sparsity", NULL, "zeros of each tensor, of its rows, N:M patterns",
     NULL, 0, OPT_SPARSITY},
    {0, "plot", "FILE", "a heat map of the sparsity, layer by matrix, as SVG",
     NULL, 0, OPT_PLOT},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct info {
    bool stats, digest, sparsity;
    const char *plot;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct info *o = c->state;

    (void)e;
    if (id == OPT_STATS)
        o->stats = true;
    else if (id == OPT_DIGEST)
        o->digest = true;
    else if (id == OPT_SPARSITY)
        o->sparsity = true;
    else
        o->plot = value;
    return 0;
}

/* Text from a file: control characters do not reach the terminal. */
static void print_masked(const char *text)
{
    struct pq_buf b = {0};

    pq_buf_puts(&b, text);
    if (!b.failed && b.n) {
        cmd_mask(b.s, b.n);
        cmd_print_n(b.s, b.n);
    }
    pq_buf_release(&b);
}

static uint64_t tensor_bytes(const struct pq_tensor *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < t->n_parts; i++)
        sum += t->parts[i].bytes;
    return sum;
}

/* ---- text -------------------------------------------------------------- */

static void human(uint64_t bytes, char *text, size_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;

    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(text, n, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static void print_file(const struct pq_blob *b)
{
    cmd_print("file ");
    print_masked(b->name);
    cmd_print(" (%llu bytes)\n", (unsigned long long)b->bytes);
}

static void print_summary(const struct cmd_stats *st, const struct pq_source *s)
{
    const struct pq_catalog *c = s->catalog;
    uint64_t elements = 0;
    char size[32];

    for (size_t i = 0; i < c->n_tensors; i++)
        elements += st->mask ? st->mask->weights[i].n_elements
                             : c->tensors[i].n_elements;
    human(pq_catalog_bytes(c), size, sizeof size);
    cmd_print("%s: %s, %zu tensors, %llu parameters, %s\n", s->name, s->format,
              c->n_tensors, (unsigned long long)elements, size);
    if (st->mask)
        cmd_print("a mask: a bit for each weight; the shapes are theirs\n");
    for (size_t i = 0; i < c->n_metadata; i++) {
        if (st->mask && strcmp(c->metadata[i].key, PQ_MASK_KEY) == 0)
            continue;
        cmd_print("metadata ");
        print_masked(c->metadata[i].key);
        cmd_print(" = ");
        print_masked(c->metadata[i].value);
        cmd_print("\n");
    }
    for (size_t i = 0; i < c->n_blobs; i++)
        print_file(&c->blobs[i]);
    for (size_t i = 0; i < c->n_prov; i++) {
        cmd_print("made by ");
        print_masked(c->prov[i]);
        cmd_print("\n");
    }
    if (st->digest)
        cmd_print("digest %s\n", st->model_digest);
    if (st->sparsity)
        cmd_sparsity_print_all(st->zeros, c->n_tensors);
}

static void print_moments(const struct cmd_stat *m)
{
    cmd_print("    min %.6g max %.6g mean %.6g std %.6g zeros %llu nan %llu "
              "inf %llu\n",
              (double)m->m.min, (double)m->m.max, m->mean, m->std,
              (unsigned long long)m->m.zeros, (unsigned long long)m->m.nans,
              (unsigned long long)m->m.infs);
    cmd_print("    histogram");
    for (size_t i = 0; i < CMD_HISTOGRAM; i++)
        cmd_print(" %llu", (unsigned long long)m->histogram[i]);
    cmd_print("\n");
}

static void print_tensors(const struct cmd *c, const struct cmd_stats *st,
                          const struct pq_source *s)
{
    const struct pq_catalog *cat = s->catalog;

    for (size_t i = 0; i < cat->n_tensors; i++) {
        const struct pq_tensor *t = &cat->tensors[i];
        struct pq_tensor seen = *t;
        char shape[256], size[32];
        if (!cmd_selected(c, t->name))
            continue;
        if (st->mask) {
            seen.rank = st->mask->weights[i].rank;
            seen.shape = st->mask->weights[i].shape;
        }
        cmd_shape_text(&seen, shape, sizeof shape);
        human(tensor_bytes(t), size, sizeof size);
        cmd_print("%-9s %-18s %10s  ", st->mask ? "mask" : cmd_type_name(t),
                  shape, size);
        print_masked(t->name);
        cmd_print("\n");
        if (st->stats && st->tensors[i].valid)
            print_moments(&st->tensors[i]);
        if (st->sparsity && st->zeros[i].valid)
            cmd_sparsity_print(&st->zeros[i]);
        if (st->digest)
            cmd_print("    digest %s\n", st->tensors[i].digest);
    }
}

/* ---- JSON -------------------------------------------------------------- */

static void put_shape(struct pq_buf *b, const uint64_t *shape, int rank)
{
    pq_buf_puts(b, "[");
    for (int i = 0; i < rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "", (unsigned long long)shape[i]);
    pq_buf_puts(b, "]");
}

static void put_moments(struct pq_buf *b, const struct cmd_stat *m)
{
    pq_buf_puts(b, ",\"min\":");
    pq_json_put_f32(b, m->m.min);
    pq_buf_puts(b, ",\"max\":");
    pq_json_put_f32(b, m->m.max);
    cmd_put_number(b, ",\"mean\":", m->mean);
    cmd_put_number(b, ",\"std\":", m->std);
    pq_buf_printf(b, ",\"zeros\":%llu,\"nan\":%llu,\"inf\":%llu",
                  (unsigned long long)m->m.zeros, (unsigned long long)m->m.nans,
                  (unsigned long long)m->m.infs);
    pq_buf_puts(b, ",\"histogram\":[");
    for (size_t i = 0; i < CMD_HISTOGRAM; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)m->histogram[i]);
    pq_buf_puts(b, "]");
}

static void put_parts(struct pq_buf *b, const struct pq_tensor *t)
{
    pq_buf_printf(b, ",\"encoding\":\"%s\",\"parts\":[",
                  pq_encoding_name(t->codec.encoding));
    for (size_t i = 0; i < t->n_parts; i++) {
        const struct pq_part *p = &t->parts[i];
        pq_buf_puts(b, i ? ",{\"name\":" : "{\"name\":");
        pq_json_quote(b, p->name);
        pq_buf_printf(b, ",\"dtype\":\"%s\",\"shape\":",
                      pq_dtype_name(p->dtype));
        put_shape(b, p->shape, p->rank);
        pq_buf_printf(b, ",\"bytes\":%llu}", (unsigned long long)p->bytes);
    }
    pq_buf_puts(b, "]");
    if (t->codec.block)
        pq_buf_printf(b, ",\"block\":%u", (unsigned)t->codec.block);
    if (t->codec.nested_block)
        pq_buf_printf(b, ",\"nested_block\":%u",
                      (unsigned)t->codec.nested_block);
}

static void put_tensor(struct pq_buf *b, const struct pq_tensor *t,
                       const struct cmd_stats *st, size_t i)
{
    pq_buf_puts(b, "{\"name\":");
    pq_json_quote(b, t->name);
    pq_buf_printf(b, ",\"dtype\":\"%s\",\"shape\":", pq_dtype_name(t->dtype));
    put_shape(b, t->shape, t->rank);
    pq_buf_printf(b, ",\"bytes\":%llu", (unsigned long long)tensor_bytes(t));
    if (t->codec.encoding != PQ_PLAIN)
        put_parts(b, t);
    if (st->mask) {
        pq_buf_puts(b, ",\"mask_of\":");
        put_shape(b, st->mask->weights[i].shape, st->mask->weights[i].rank);
    }
    if (st->stats && st->tensors[i].valid)
        put_moments(b, &st->tensors[i]);
    if (st->sparsity && st->zeros[i].valid)
        cmd_sparsity_put(b, &st->zeros[i]);
    if (st->digest)
        pq_buf_printf(b, ",\"digest\":\"%s\"", st->tensors[i].digest);
    pq_buf_puts(b, "}");
}

static void put_head(struct pq_buf *b, const struct pq_source *s,
                     const struct cmd_stats *st)
{
    const struct pq_catalog *c = s->catalog;

    pq_buf_puts(b, "{\"pq\":1,\"tool\":\"pq-info\",\"format\":");
    pq_json_quote(b, s->format);
    pq_buf_printf(b, ",\"bytes\":%llu", (unsigned long long)pq_catalog_bytes(c));
    if (st->digest)
        pq_buf_printf(b, ",\"digest\":\"%s\"", st->model_digest);
    if (st->sparsity)
        cmd_sparsity_put_all(b, st->zeros, c->n_tensors);
    pq_buf_puts(b, ",\"metadata\":{");
    for (size_t i = 0; i < c->n_metadata; i++) {
        pq_buf_puts(b, i ? "," : "");
        pq_json_quote(b, c->metadata[i].key);
        pq_buf_puts(b, ":");
        pq_json_quote(b, c->metadata[i].value);
    }
    pq_buf_puts(b, "},\"files\":[");
    for (size_t i = 0; i < c->n_blobs; i++) {
        pq_buf_puts(b, i ? ",{\"name\":" : "{\"name\":");
        pq_json_quote(b, c->blobs[i].name);
        pq_buf_printf(b, ",\"bytes\":%llu}",
                      (unsigned long long)c->blobs[i].bytes);
    }
    pq_buf_puts(b, "],\"provenance\":[");
    for (size_t i = 0; i < c->n_prov; i++) {
        pq_buf_puts(b, i ? "," : "");
        pq_buf_puts(b, c->prov[i]);
    }
    pq_buf_puts(b, "],\"tensors\":[");
}

static int print_json(const struct cmd *c, const struct cmd_stats *st,
                      const struct pq_source *s, struct pq_error *e)
{
    struct pq_buf b = {0};
    bool first = true;

    put_head(&b, s, st);
    for (size_t i = 0; i < s->catalog->n_tensors; i++) {
        if (!cmd_selected(c, s->catalog->tensors[i].name))
            continue;
        pq_buf_puts(&b, first ? "" : ",");
        first = false;
        put_tensor(&b, &s->catalog->tensors[i], st, i);
    }
    pq_buf_puts(&b, "]}\n");
    return cmd_print_buf(&b, e);
}

static int find_out(struct cmd *c, struct pq_source *s, struct cmd_stats *st,
                    struct pq_error *e)
{
    const struct info *o = c->state;
    int rc = 0;

    if (st->stats || st->digest || st->sparsity)
        rc = cmd_stats_run(c, s, st, e);
    else if (s->sequential && (!s->rewind || s->total_bytes <= SMALL_BYTES))
        rc = pq_source_finish(s, e);
    if (!rc && o->plot)
        rc = cmd_sparsity_plot(c, o->plot, s->catalog, st->zeros, e);
    return rc;
}

static int show(struct cmd *c, struct pq_source *s, struct pq_error *e)
{
    const struct info *o = c->state;
    struct cmd_stats st = {.stats = o->stats,
                           .digest = o->digest,
                           .sparsity = o->sparsity || o->plot};
    struct pq_mask mask;
    int rc = o->plot ? cmd_check_beside(c, o->plot, e) : 0;

    /* what only claims to be a mask is shown as what it is */
    if (pq_mask_open(&mask, s, NULL) == 0)
        st.mask = &mask;
    if (!rc)
        rc = find_out(c, s, &st, e);
    if (!rc && c->json)
        rc = print_json(c, &st, s, e);
    if (!rc && !c->json && !c->quiet) {
        print_summary(&st, s);
        print_tensors(c, &st, s);
    }
    cmd_stats_release(&st);
    pq_mask_release(&mask);
    return rc;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct pq_source *s = NULL;
    int rc = cmd_open_input(c, 0, &s, e);

    if (!rc)
        rc = show(c, s, e);
    pq_source_free(s);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static const char *const examples[] = {
    "pq-info llama/",
    "pq-info --json --stats -m '*q_proj*' model.safetensors",
    NULL,
};

const struct pq_tool tool_info = {
    .name = "info",
    .purpose = "show what is in a model file",
    .synopsis = "[options] [MODEL]",
    .options = options,
    .shared = CMD_SELECT | CMD_ENGINE | CMD_JSON | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct info),
    .option = option,
    .run = run,
};
