/*
 * A model directory as a sink: safetensors files, the index over them, and
 * the files that travel along.
 *
 * The files are those of the input: part->file says which one a part goes
 * to, catalog->files how it is called.  Each has a sink of its own, over a
 * catalogue with those of our parts that it holds:
 *
 *     ours    tensor 0 [a, a.absmax]   tensor 1 [b]
 *     file 0  tensor 0 [a]
 *     file 1  tensor 0 [a.absmax]      tensor 1 [b]
 */
#include "dir.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

static const char safetensors[] = "safetensors", suffix[] = ".safetensors";

struct child {
    const char *name; /* of the file; in the arena */
    struct pq_catalog catalog;
    size_t *tensors; /* [n_tensors of catalog] their numbers in ours */
    size_t cap_tensors;
    struct pq_sink *sink;
    size_t first; /* its first place in our order */
};

struct dir_sink {
    struct pq_sink base;
    struct pq_arena arena;
    const char *path;
    struct pq_write_options options;
    struct pq_outdir dir;
    bool open;
    struct child *children;
    size_t n;
    struct pq_buf index; /* its text; empty when there is none */
};

/* ---- Which files ----------------------------------------------------- */

/* The name of an output file: that of the input's, as safetensors. */
static const char *file_name(struct dir_sink *d, size_t i)
{
    const struct pq_catalog *const c = d->base.catalog;
    const char *const name = c->n_files > 0 ? c->files[i] : PQ_DIR_MODEL;
    const size_t n = strlen(name), k = strlen(suffix);
    if (n > k && strcmp(name + n - k, suffix) == 0)
        return pq_arena_strndup(&d->arena, name, n);
    if (c->n_files == 1)
        return PQ_DIR_MODEL;
    const char *const dot = strrchr(name, '.');
    const int stem = dot != NULL ? (int)(dot - name) : (int)n;
    return pq_arena_printf(&d->arena, "%.*s%s", stem, name, suffix);
}

static int name_children(struct dir_sink *d, struct pq_error *e)
{
    const struct pq_catalog *const c = d->base.catalog;
    d->n = c->n_files > 0 ? c->n_files : 1;
    d->children = pq_zalloc(d->n, sizeof *d->children);
    if (d->children == NULL) {
        d->n = 0;
        return pq_fail_nomem(e);
    }
    for (size_t i = 0; i < d->n; i++) {
        struct child *const x = &d->children[i];
        if (c->n_files > 0 && !pq_dir_plain_name(c->files[i]))
            return pq_fail(e, PQ_EFORMAT, "\"%s\" is not a plain file name",
                           c->files[i]);
        pq_catalog_init(&x->catalog);
        x->name = file_name(d, i);
        if (x->name == NULL)
            return pq_fail_nomem(e);
    }
    return 0;
}

/* ---- Their catalogues ------------------------------------------------ */

static int copy_meta(struct pq_catalog *to, const struct pq_catalog *from,
                     struct pq_error *e)
{
    for (size_t i = 0; i < from->n_metadata; i++)
        if (pq_catalog_set(to, from->metadata[i].key, from->metadata[i].value,
                           e) != 0)
            return -1;
    for (size_t i = 0; i < from->n_prov; i++)
        if (pq_catalog_add_prov(to, from->prov[i], e) != 0)
            return -1;
    return 0;
}

/* Adds to a child the parts of our tensor `number` that go to its file. */
static int add_tensor(struct child *x, const struct pq_tensor *t, size_t number,
                      uint32_t file, struct pq_error *e)
{
    size_t n = 0;
    for (size_t k = 0; k < t->n_parts; k++)
        n += t->parts[k].file == file;
    size_t *const all = pq_grow(x->tensors, x->catalog.n_tensors,
                                &x->cap_tensors, sizeof *x->tensors);
    if (all == NULL)
        return pq_fail_nomem(e);
    x->tensors = all;
    all[x->catalog.n_tensors] = number;
    struct pq_tensor *const to = pq_catalog_add(&x->catalog, t->name, n, e);
    if (to == NULL)
        return -1;
    struct pq_part *part = to->parts;
    for (size_t k = 0; k < t->n_parts; k++)
        if (t->parts[k].file == file)
            *part++ = t->parts[k];
    return 0;
}

/* The file of part k is not that of an earlier part of the tensor. */
static bool is_new_file(const struct pq_tensor *t, size_t k)
{
    for (size_t i = 0; i < k; i++)
        if (t->parts[i].file == t->parts[k].file)
            return false;
    return true;
}

static int distribute(struct dir_sink *d, struct pq_error *e)
{
    const struct pq_catalog *const c = d->base.catalog;
    for (size_t i = 0; i < d->n; i++)
        if (copy_meta(&d->children[i].catalog, c, e) != 0)
            return -1;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct pq_tensor *const t = &c->tensors[i];
        for (size_t k = 0; k < t->n_parts; k++) {
            const uint32_t file = t->parts[k].file;
            if (file >= d->n)
                return pq_fail(e, PQ_EARG, "tensor %s: of no file", t->name);
            if (is_new_file(t, k) &&
                add_tensor(&d->children[file], t, i, file, e) != 0)
                return -1;
        }
    }
    return 0;
}

/* ---- Layout ---------------------------------------------------------- */

static int create_child(struct dir_sink *d, struct child *x, int dirfd,
                        struct pq_error *e)
{
    const struct pq_format *const f = pq_format_named(safetensors);
    pq_sink_free(x->sink);
    x->sink = NULL;
    if (f->create(&x->catalog, x->name, dirfd, &d->options, &x->sink, e) == 0)
        return 0;
    return pq_error_in(e, "%s", x->name);
}

/* The number of the n-th part of a tensor that goes to a file. */
static size_t nth_part(const struct pq_tensor *t, uint32_t file, size_t n)
{
    size_t k = 0;
    while (t->parts[k].file != file || n-- > 0)
        k++;
    return k;
}

/* Our order is the orders of the files, one behind the other. */
static void list_places(struct dir_sink *d)
{
    struct pq_sink *const k = &d->base;
    for (size_t i = 0; i < d->n; i++) {
        struct child *const x = &d->children[i];
        const uint32_t file = (uint32_t)i;
        x->first = k->n_order;
        for (size_t j = 0; j < x->sink->n_order; j++) {
            const struct pq_place *const from = &x->sink->order[j];
            const size_t number = x->tensors[from->tensor];
            k->order[k->n_order++] = (struct pq_place){
                .tensor = number,
                .part =
                    nth_part(&k->catalog->tensors[number], file, from->part),
                .address = from->address,
                .file = file,
            };
        }
    }
}

static int create_children(struct dir_sink *d, struct pq_error *e)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++) {
        if (create_child(d, &d->children[i], -1, e) != 0)
            return -1;
        n += d->children[i].sink->n_order;
        d->base.total_bytes += d->children[i].sink->total_bytes;
    }
    d->base.order = pq_alloc(n, sizeof *d->base.order);
    if (d->base.order == NULL)
        return pq_fail_nomem(e);
    list_places(d);
    return 0;
}

static int check_blobs(struct dir_sink *d, struct pq_error *e)
{
    const struct pq_catalog *const c = d->base.catalog;
    for (size_t i = 0; i < c->n_blobs; i++) {
        if (!pq_dir_carries(c->blobs[i].name))
            return pq_fail(e, PQ_EFORMAT,
                           "\"%s\" is not a file of a model directory",
                           c->blobs[i].name);
        d->base.total_bytes += c->blobs[i].bytes;
    }
    return 0;
}

/* ---- The index ------------------------------------------------------- */

struct entry {
    const char *part, *file;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *const x = a, *const y = b;
    return strcmp(x->part, y->part);
}

/* A single file that transformers finds by itself needs no index. */
static bool needs_index(const struct dir_sink *d)
{
    return d->n > 1 || (strcmp(d->children[0].name, PQ_DIR_MODEL) != 0 &&
                        strcmp(d->children[0].name, PQ_DIR_ADAPTER) != 0);
}

static void put_head(struct pq_buf *b, const struct pq_catalog *c)
{
    uint64_t elements = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        elements += c->tensors[i].n_elements;
    pq_buf_puts(b, "{\n  \"metadata\": {\n");
    if (c->counts_parameters)
        pq_buf_printf(b, "    \"total_parameters\": %llu,\n",
                      (unsigned long long)elements);
    pq_buf_printf(b, "    \"total_size\": %llu\n  },\n",
                  (unsigned long long)pq_catalog_bytes(c));
    pq_buf_puts(b, "  \"weight_map\": {");
}

/* As json.dumps(..., indent=2, sort_keys=True) writes it. */
static int make_index(struct dir_sink *d, struct pq_error *e)
{
    const struct pq_sink *const k = &d->base;
    struct pq_buf *const b = &d->index;
    struct entry *const all = pq_alloc(k->n_order, sizeof *all);
    if (all == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < k->n_order; i++) {
        const struct pq_place *const x = &k->order[i];
        all[i] =
            (struct entry){k->catalog->tensors[x->tensor].parts[x->part].name,
                           d->children[x->file].name};
    }
    qsort(all, k->n_order, sizeof *all, compare_entries);
    put_head(b, k->catalog);
    for (size_t i = 0; i < k->n_order; i++) {
        pq_buf_puts(b, i > 0 ? ",\n    " : "\n    ");
        pq_json_quote(b, all[i].part);
        pq_buf_puts(b, ": ");
        pq_json_quote(b, all[i].file);
    }
    pq_buf_puts(b, k->n_order > 0 ? "\n  }\n}\n" : "}\n}\n");
    free(all);
    return b->failed ? pq_fail_nomem(e) : 0;
}

/* ---- The sink -------------------------------------------------------- */

static int in_dir(const struct dir_sink *d, struct pq_error *e)
{
    return pq_error_in(e, "%s", d->path);
}

/* The files get new sinks, now that there is a directory to put them in. */
static int begin(struct pq_sink *k, struct pq_error *e)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    const unsigned flags = d->options.sync ? PQ_OUT_SYNC : 0;
    if (pq_outdir_open(&d->dir, d->path, pq_dir_knows, flags, e) != 0)
        return -1;
    d->open = true;
    d->dir.cancel = d->options.cancel;
    k->positional = true;
    for (size_t i = 0; i < d->n; i++) {
        struct child *const x = &d->children[i];
        if (create_child(d, x, d->dir.fd, e) != 0 ||
            x->sink->ops->begin(x->sink, e) != 0)
            return in_dir(d, e);
        k->positional &= x->sink->positional;
    }
    return 0;
}

static int write_part(struct pq_sink *k, size_t place, uint64_t offset,
                      const void *buf, size_t n, struct pq_error *e)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    const struct child *const x = &d->children[k->order[place].file];
    if (x->sink->ops->write(x->sink, place - x->first, offset, buf, n, e) == 0)
        return 0;
    return in_dir(d, e);
}

static int write_file(struct dir_sink *d, const char *name, const void *data,
                      uint64_t n, struct pq_error *e)
{
    struct pq_out out = {.cancel = d->options.cancel};
    const unsigned flags = d->options.sync ? PQ_OUT_SYNC : 0;
    if (pq_out_open_at(&out, d->dir.fd, name, flags, e) != 0)
        return -1;
    if (pq_out_write(&out, data, (size_t)n, e) == 0)
        return pq_out_commit(&out, e);
    pq_out_abort(&out);
    return -1;
}

static int write_files(struct dir_sink *d, struct pq_error *e)
{
    const struct pq_catalog *const c = d->base.catalog;
    for (size_t i = 0; i < d->n; i++)
        if (d->children[i].sink->ops->finish(d->children[i].sink, e) != 0)
            return -1;
    for (size_t i = 0; i < c->n_blobs; i++) {
        const struct pq_blob *const b = &c->blobs[i];
        if (write_file(d, b->name, b->data, b->bytes, e) != 0)
            return -1;
    }
    if (d->index.n == 0)
        return 0;
    return write_file(d, PQ_DIR_INDEX, d->index.s, d->index.n, e);
}

static int seal(struct pq_sink *k, struct pq_error *e)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    if (write_files(d, e) != 0)
        return in_dir(d, e);
    return pq_outdir_seal(&d->dir, e);
}

static int finish(struct pq_sink *k, struct pq_error *e)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    if (!d->dir.sealed && seal(k, e) != 0)
        return -1;
    d->open = false;
    return pq_outdir_commit(&d->dir, e);
}

static void abort_sink(struct pq_sink *k, const struct pq_error *why)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    for (size_t i = 0; i < d->n; i++)
        if (d->children[i].sink != NULL)
            d->children[i].sink->ops->abort(d->children[i].sink, why);
    if (d->open)
        pq_outdir_abort(&d->dir);
    d->open = false;
}

static void free_sink(struct pq_sink *k)
{
    struct dir_sink *const d = (struct dir_sink *)k;
    abort_sink(k, NULL);
    for (size_t i = 0; i < d->n; i++) {
        pq_sink_free(d->children[i].sink);
        pq_catalog_release(&d->children[i].catalog);
        free(d->children[i].tensors);
    }
    free(d->children);
    free(k->order);
    pq_buf_release(&d->index);
    pq_arena_release(&d->arena);
    free(d);
}

static const struct pq_sink_ops ops = {
    .begin = begin,
    .write = write_part,
    .seal = seal,
    .finish = finish,
    .abort = abort_sink,
    .free = free_sink,
};

static int lay_out(struct dir_sink *d, const char *path, struct pq_error *e)
{
    d->path = pq_arena_strndup(&d->arena, path, strlen(path));
    if (d->path == NULL)
        return pq_fail_nomem(e);
    if (name_children(d, e) != 0 || distribute(d, e) != 0 ||
        create_children(d, e) != 0 || check_blobs(d, e) != 0)
        return -1;
    if (needs_index(d) && make_index(d, e) != 0)
        return -1;
    d->base.total_bytes += d->index.n;
    return 0;
}

int pq_dir_create(struct pq_catalog *c, const char *path,
                  const struct pq_write_options *w, struct pq_sink **k,
                  struct pq_error *e)
{
    struct dir_sink *const d = pq_zalloc(1, sizeof *d);
    if (d == NULL)
        return pq_fail_nomem(e);
    d->base.ops = &ops;
    d->base.catalog = c;
    d->options = *w;
    if (lay_out(d, path, e) != 0) {
        free_sink(&d->base);
        return -1;
    }
    *k = &d->base;
    return 0;
}
