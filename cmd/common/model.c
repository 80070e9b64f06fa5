/*
 * What every tool that reads or writes a model does: open the input, choose
 * format and place of the output, record the run, print or run the plan.
 */
#include "cmd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pq_hash.h"
#include "pq_json.h"
#include "report.h"

/* ---- The input ------------------------------------------------------- */

/* What of the memory keeps the parts of a pipe that are needed later. */
static uint64_t hold_share(const struct cmd *c)
{
    return c->memory / 4;
}

int cmd_check_selection(const struct cmd *c, const struct pq_source *s,
                        struct pq_error *e)
{
    for (size_t i = 0; i < c->match.n; i++) {
        bool found = false;
        for (size_t k = 0; k < s->catalog->n_tensors && !found; k++)
            found = cmd_glob(c->match.items[i], s->catalog->tensors[k].name);
        if (!found)
            return pq_fail(e, PQ_EARG, "%s: no tensor matches -m '%s'",
                           s->name, c->match.items[i]);
    }
    return 0;
}

int cmd_open_plain(struct cmd *c, size_t i, struct pq_source **s,
                   struct pq_error *e)
{
    const char *path = i < c->n_operands ? c->operands[i] : "-";

    if (strcmp(path, "-") == 0 && cmd_content_was_stdin(c)) {
        cmd_usage(c, "standard input may be given only once");
        return -1;
    }
    if (strcmp(path, "-") == 0 && isatty(0)) {
        cmd_usage(c, "no MODEL is given and standard input is a terminal");
        return -1;
    }
    if (pq_open_model(path, &cmd_cancel, s, e) != 0)
        return -1;
    if (cmd_check_selection(c, *s, e) == 0)
        return 0;
    pq_source_free(*s);
    *s = NULL;
    return -1;
}

int cmd_fold(const struct cmd *c, struct pq_source *s, struct pq_error *e)
{
    return pq_fold(s, hold_share(c), c->tmpdir, e);
}

int cmd_open_input(struct cmd *c, size_t i, struct pq_source **s,
                   struct pq_error *e)
{
    if (cmd_open_plain(c, i, s, e) != 0)
        return -1;
    if (cmd_fold(c, *s, e) == 0)
        return 0;
    pq_source_free(*s);
    *s = NULL;
    return -1;
}

int cmd_keep(struct cmd *c, struct pq_source **s, struct pq_error *e)
{
    struct pq_source *inner = *s;
    const uint64_t share = hold_share(c);
    const bool pipe = inner->sequential && !inner->rewind;

    if (pq_kept_new(inner, share, c->tmpdir, s, e) != 0)
        return -1;
    if (pipe)
        c->memory -= share;
    return 0;
}

int cmd_open_kept(struct cmd *c, size_t i, struct pq_source **s,
                  struct pq_error *e)
{
    if (cmd_open_plain(c, i, s, e) != 0)
        return -1;
    if (cmd_keep(c, s, e) == 0)
        return 0;
    pq_source_free(*s);
    *s = NULL;
    return -1;
}

/* ---- Where the output goes ------------------------------------------- */

/* What the output will be: a file of a format, or a directory. */
struct place {
    const struct pq_format *format; /* NULL: a directory */
    const char *path;               /* NULL: standard output */
};

/* What is at `path`: the S_IFMT of its mode, or 0. */
static mode_t kind_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_mode & S_IFMT : 0;
}

static void list_suffixes(char *s, size_t n)
{
    size_t at = 0;

    s[0] = '\0';
    for (const struct pq_format *const *f = pq_formats(); *f != NULL; f++)
        for (size_t i = 0; (*f)->can_write && (*f)->suffixes[i] && at < n; i++)
            at += (size_t)snprintf(s + at, n - at, "%s%s", at > 0 ? ", " : "",
                                   (*f)->suffixes[i]);
}

static int place_stdout(const struct cmd *c, struct place *p)
{
    struct stat st;
    const bool file = fstat(1, &st) == 0 && S_ISREG(st.st_mode);

    p->path = NULL;
    p->format = c->output_format != NULL ? pq_format_named(c->output_format)
                : file && !c->dry_run    ? &pq_format_safetensors
                                         : &pq_format_pqstream;
    if (c->dry_run)
        return 0;
    if (c->json)
        return cmd_usage(c, "--json goes to standard output: say with -o "
                            "where the model goes");
    if (isatty(1) && !c->force)
        return cmd_usage(c, "a model is not written to a terminal without -f");
    return 0;
}

/* A file or a directory under a name. */
static int place_named(const struct cmd *c, const char *path, bool directory,
                       struct place *p)
{
    const size_t n = strlen(path);
    const mode_t kind = kind_of(path);
    char suffixes[128];

    p->path = path;
    p->format = c->output_format != NULL ? pq_format_named(c->output_format)
                                         : pq_format_for_path(path);
    if (kind == S_IFDIR || (n > 0 && path[n - 1] == '/')) {
        if (c->output_format != NULL && p->format != &pq_format_safetensors)
            return cmd_usage(c, "%.200s: a directory holds safetensors, not "
                                "%s", path, c->output_format);
        p->format = NULL;
        return 0;
    }
    if (p->format == NULL && kind != 0 && kind != S_IFREG)
        p->format = &pq_format_pqstream; /* a FIFO, /dev/null: as a pipe */
    if (p->format != NULL && !p->format->can_write)
        return cmd_usage(c, "%.200s: %s cannot be written", path,
                         p->format->name);
    if (p->format != NULL || directory)
        return 0;
    list_suffixes(suffixes, sizeof suffixes);
    return cmd_usage(c, "%.200s: the suffix says no format (known: %s); use "
                        "-O, or %.200s/ for a directory",
                     path, suffixes, path);
}

/* ---- Provenance ------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const struct pq_tensor *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static int by_key(const void *a, const void *b)
{
    const struct pq_pair *const *x = a, *const *y = b;

    return strcmp((*x)->key, (*y)->key);
}

/* "5:names" with its length, so that nothing in it can pass for more. */
static void add_text(struct pq_hash *h, const char *s)
{
    const size_t n = strlen(s);
    char length[32];

    pq_hash_add(h, length, (size_t)snprintf(length, sizeof length, "%zu:", n));
    pq_hash_add(h, s, n);
}

static void add_number(struct pq_hash *h, uint64_t v)
{
    char text[32];

    pq_hash_add(h, text, (size_t)snprintf(text, sizeof text, " %llu",
                                          (unsigned long long)v));
}

static void add_tensor(struct pq_hash *h, const struct pq_tensor *t)
{
    add_text(h, t->name);
    add_text(h, pq_dtype_name(t->dtype));
    add_text(h, pq_encoding_name(t->codec.encoding));
    add_number(h, t->codec.block);
    add_number(h, t->codec.nested_block);
    add_number(h, (uint64_t)t->rank);
    for (int i = 0; i < t->rank; i++)
        add_number(h, t->shape[i]);
}

/*
 * XXH3-128 in hexadecimal over the names, dtypes, shapes, encodings and
 * metadata of a catalogue, in the order of their names: the same for every
 * container and order.
 */
static int catalog_digest(const struct pq_catalog *c, char hex[33],
                          struct pq_error *e)
{
    struct pq_hash *h = pq_hash_new(e);
    const struct pq_tensor **t = pq_alloc(c->n_tensors, sizeof *t);
    const struct pq_pair **m = pq_alloc(c->n_metadata, sizeof *m);
    int rc = -1;

    if (h == NULL || t == NULL || m == NULL) {
        pq_fail_nomem(e);
        goto out;
    }
    for (size_t i = 0; i < c->n_tensors; i++)
        t[i] = &c->tensors[i];
    for (size_t i = 0; i < c->n_metadata; i++)
        m[i] = &c->metadata[i];
    qsort(t, c->n_tensors, sizeof *t, by_name);
    qsort(m, c->n_metadata, sizeof *m, by_key);
    for (size_t i = 0; i < c->n_tensors; i++)
        add_tensor(h, t[i]);
    for (size_t i = 0; i < c->n_metadata; i++) {
        /* "format" speaks of the container: safetensors always has it. */
        if (strcmp(m[i]->key, "format") == 0)
            continue;
        add_text(h, m[i]->key);
        add_text(h, m[i]->value);
    }
    pq_hash128_hex(pq_hash128(h), hex);
    rc = 0;
out:
    free(t);
    free(m);
    pq_hash_free(h);
    return rc;
}

static int add_provenance(const struct cmd *c, const struct pq_catalog *in,
                          struct pq_catalog *out, struct pq_error *e)
{
    struct pq_buf b = {0};
    char digest[33];
    int rc = -1;

    if (catalog_digest(in, digest, e) != 0)
        return -1;
    pq_buf_printf(&b, "{\"tool\":\"%s\",\"version\":\"%s\",\"options\":",
                  c->program, PQ_VERSION);
    pq_json_quote(&b, c->prov_options);
    pq_buf_printf(&b, ",\"input\":\"%s\"}", digest);
    rc = b.failed ? pq_fail_nomem(e) : pq_catalog_add_prov(out, b.s, e);
    pq_buf_release(&b);
    return rc;
}

/* Marks and makes the sink of a place that was found. */
static int make_sink(const struct cmd *c, const struct place *p,
                     struct pq_catalog *out, struct pq_write_options *options,
                     const struct pq_catalog *in, struct pq_sink **k,
                     struct pq_error *e)
{
    /* a tool without the option restores a model, with its history */
    const bool records = (c->tool->shared & CMD_PROVENANCE) != 0;

    if (records && !c->provenance)
        out->n_prov = 0; /* nor that of the input */
    if (records && c->provenance && add_provenance(c, in, out, e) != 0)
        return -1;
    options->sync = c->sync;
    options->threads = c->threads;
    options->memory = c->memory;
    options->kernels = c->kernels;
    options->cancel = &cmd_cancel;
    options->program = c->program;
    out->directory = p->format == NULL;
    return p->format != NULL
               ? p->format->create(out, p->path, -1, options, k, e)
               : pq_dir_create(out, p->path, options, k, e);
}

int cmd_make_sink(struct cmd *c, struct pq_catalog *out,
                  const struct pq_write_options *w,
                  const struct pq_catalog *in, struct pq_sink **k,
                  struct pq_error *e)
{
    struct pq_write_options options = w != NULL ? *w
                                                : (struct pq_write_options){0};
    struct place p;
    const bool standard = c->output == NULL || strcmp(c->output, "-") == 0;

    if ((standard ? place_stdout(c, &p)
                  : place_named(c, c->output, in->directory, &p)) != 0)
        return -1;
    if (!standard && cmd_check_target(out, c->output, e) != 0)
        return -1;
    return make_sink(c, &p, out, &options, in, k, e);
}

/* Standard output, when the model goes elsewhere: a .pq, whatever it is. */
static int place_side_stdout(const struct cmd *c, struct place *p)
{
    if (c->output == NULL || strcmp(c->output, "-") == 0)
        return cmd_usage(c, "only one output can go to standard output: say "
                            "with -o where the model goes");
    if (place_stdout(c, p) != 0)
        return -1;
    p->format = &pq_format_pqstream;
    return 0;
}

/* -O is about the model. */
static int place_side(struct cmd *c, const char *path, struct place *p)
{
    const char *format = c->output_format;

    if (strcmp(path, "-") == 0)
        return place_side_stdout(c, p);
    c->output_format = NULL;
    const int rc = place_named(c, path, false, p);
    c->output_format = format;
    if (rc == 0 && p->format == NULL)
        return cmd_usage(c, "%.200s: is a directory, and a file goes there",
                         path);
    return rc;
}

int cmd_make_side(struct cmd *c, const char *path, struct pq_catalog *out,
                  const struct pq_catalog *in, struct pq_sink **k,
                  struct pq_error *e)
{
    struct pq_write_options options = {0};
    struct place p;

    if (place_side(c, path, &p) != 0 || cmd_check_beside(c, path, e) != 0 ||
        cmd_check_apart(c, path, e) != 0 ||
        cmd_list_add(&c->sides, path, e) != 0)
        return -1;
    return make_sink(c, &p, out, &options, in, k, e);
}

/* ---- The plan -------------------------------------------------------- */

/* What a step writes, as far as it is printed. */
struct written {
    struct pq_tensor what; /* name, rank and shape */
    const char *from, *to;
    uint64_t bytes;
};

static struct written describe(const struct pq_step *s,
                               const struct pq_catalog *out)
{
    const struct pq_tensor *t = &out->tensors[s->tensor];
    const bool whole = s->n_parts == 0 || s->n_parts == t->n_parts;
    const size_t n = s->n_parts == 0 ? t->n_parts : s->n_parts;
    struct written w = {.what = *t, .to = cmd_type_name(t)};

    for (size_t i = 0; i < n; i++)
        w.bytes += t->parts[s->first_part + i].bytes;
    if (!whole) {
        const struct pq_part *p = &t->parts[s->first_part];
        w.what.name = p->name;
        w.what.rank = p->rank;
        w.what.shape = p->shape;
        w.to = pq_dtype_name(p->dtype);
    }
    w.from = s->n_in > 0 ? pq_dtype_name(s->in[0].part->dtype) : w.to;
    return w;
}

static void print_name(const char *name)
{
    for (; *name != '\0'; name++) {
        char letter = *name;
        cmd_mask(&letter, 1);
        cmd_print_n(&letter, 1);
    }
}

static void print_text(const struct cmd *c, const struct pq_plan *p)
{
    for (size_t i = 0; i < p->n_steps; i++) {
        const struct written w = describe(&p->steps[i], p->sink->catalog);
        char shape[256];
        cmd_shape_text(&w.what, shape, sizeof shape);
        print_name(w.what.name);
        cmd_print("  %s %s -> %s %llu\n", w.from, shape, w.to,
                  (unsigned long long)w.bytes);
    }
    for (size_t i = 0; i < p->n_sides; i++) {
        cmd_print("beside it ");
        print_name(c->sides.items[i]);
        cmd_print(" %llu\n", (unsigned long long)p->sides[i]->total_bytes);
    }
    cmd_print("%s%llu\n", p->sink->at_most ? "at most " : "",
              (unsigned long long)p->sink->total_bytes);
}

static void put_step(struct pq_buf *b, const struct written *w)
{
    pq_buf_puts(b, "{\"name\":");
    pq_json_quote(b, w->what.name);
    pq_buf_printf(b, ",\"dtype\":\"%s\",\"shape\":[", w->from);
    for (int i = 0; i < w->what.rank; i++)
        pq_buf_printf(b, "%s%llu", i > 0 ? "," : "",
                      (unsigned long long)w->what.shape[i]);
    pq_buf_printf(b, "],\"type\":\"%s\",\"bytes\":%llu}", w->to,
                  (unsigned long long)w->bytes);
}

static void put_sides(struct pq_buf *b, const struct cmd *c,
                      const struct pq_plan *p)
{
    pq_buf_puts(b, ",\"beside\":[");
    for (size_t i = 0; i < p->n_sides; i++) {
        pq_buf_puts(b, i > 0 ? ",{\"file\":" : "{\"file\":");
        pq_json_quote(b, c->sides.items[i]);
        pq_buf_printf(b, ",\"bytes\":%llu}",
                      (unsigned long long)p->sides[i]->total_bytes);
    }
    pq_buf_puts(b, "]");
}

static int print_json(const struct cmd *c, const struct pq_plan *p,
                      struct pq_error *e)
{
    struct pq_buf b = {0};

    pq_buf_printf(&b, "{\"pq\":1,\"tool\":\"%s\",\"tensors\":[", c->program);
    for (size_t i = 0; i < p->n_steps; i++) {
        const struct written w = describe(&p->steps[i], p->sink->catalog);
        pq_buf_puts(&b, i > 0 ? "," : "");
        put_step(&b, &w);
    }
    pq_buf_puts(&b, "]");
    if (p->n_sides)
        put_sides(&b, c, p);
    if (c->plan_more)
        pq_buf_puts(&b, c->plan_more);
    pq_buf_printf(&b, ",\"%s\":%llu}\n",
                  p->sink->at_most ? "bytes_max" : "bytes",
                  (unsigned long long)p->sink->total_bytes);
    return cmd_print_buf(&b, e);
}

void cmd_forward_failure(const struct cmd *c, const struct pq_error *why)
{
    const struct pq_write_options w = {.program = c->program};
    const bool standard = c->output == NULL || strcmp(c->output, "-") == 0;
    struct pq_catalog nothing;
    struct pq_sink *k = NULL;
    struct stat st;

    if (why->code != PQ_EUPSTREAM || c->began || c->dry_run || !standard ||
        (c->tool->shared & CMD_OUTPUT) == 0 ||
        (c->output_format != NULL && strcmp(c->output_format, "pq") != 0) ||
        fstat(1, &st) != 0 || S_ISREG(st.st_mode) || isatty(1))
        return;
    pq_catalog_init(&nothing);
    if (pq_format_pqstream.create(&nothing, NULL, -1, &w, &k, NULL) == 0) {
        if (k->ops->begin(k, NULL) == 0)
            k->ops->abort(k, why);
        pq_sink_free(k);
    }
    pq_catalog_release(&nothing);
}

int cmd_run_plan(struct cmd *c, struct pq_plan *p, struct pq_error *e)
{
    if (c->dry_run && p->sink != NULL) {
        if (c->json)
            return print_json(c, p, e);
        print_text(c, p);
        return 0;
    }
    const int rc = cmd_run_part(c, p, e);
    c->began = p->sink != NULL && p->sink->begun;
    return rc;
}

int cmd_run_part(struct cmd *c, struct pq_plan *p, struct pq_error *e)
{
    struct pq_run run = {
        .threads = c->threads,
        .memory = c->memory,
        .tmpdir = c->tmpdir,
        .cancel = &cmd_cancel,
        .progress = cmd_progress,
        .progress_arg = c,
    };

    for (size_t i = 0; i < p->n_sources; i++)
        if (p->sources[i]->hold != NULL && run.memory > hold_share(c))
            run.memory -= hold_share(c);
    cmd_guard(pq_plan_writes(p)); /* the engine ends it, one way or the other */
    const int rc = pq_engine_run(p, &run, e);
    cmd_guard(false);
    cmd_progress_end();
    return rc;
}
