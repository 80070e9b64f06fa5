/*
 * A model directory as one source.
 *
 * Each shard is opened through the registry; the address spaces of the
 * shards, one behind the other, are that of the directory:
 *
 *     0            base[1]          base[2]
 *     | shard 0    | shard 1        | shard 2 |
 *
 * Which file holds the model is decided as transformers does: the whole
 * model before the index of shards; then an adapter; then a .pq stream.
 *
 * Symbolic links are followed: in a cache of Hugging Face every file of a
 * snapshot is a link out of it (../../blobs/...).  What protects is that only
 * plain names are looked up, whatever an index says.
 */
#include "dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Which names belong here ----------------------------------------- */

static const char *const carried[] = {
    ".gitattributes",
    "README.md",
    "USE_POLICY.md",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "data_config.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
};

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), k = strlen(suffix);
    return n > k && strcmp(s + n - k, suffix) == 0;
}

bool pq_dir_carries(const char *name)
{
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++)
        if (strcmp(name, carried[i]) == 0)
            return true;
    return pq_dir_plain_name(name) &&
           (starts_with(name, "LICENSE") || starts_with(name, "NOTICE"));
}

static bool is_pytorch(const char *name)
{
    return (starts_with(name, "pytorch_model") && ends_with(name, ".bin")) ||
           strcmp(name, "pytorch_model.bin.index.json") == 0 ||
           strcmp(name, "adapter_model.bin") == 0;
}

bool pq_dir_knows(const char *name)
{
    return pq_dir_carries(name) || strcmp(name, PQ_DIR_INDEX) == 0 ||
           (pq_dir_plain_name(name) &&
            (ends_with(name, ".safetensors") || ends_with(name, ".pq") ||
             ends_with(name, ".gguf") || is_pytorch(name)));
}

/* ---- The source ------------------------------------------------------ */

struct dir_source {
    struct pq_source base;
    struct pq_catalog catalog;
    struct pq_source **shards; /* [n], their catalogues emptied into ours */
    uint64_t *bases;           /* [n] where their addresses begin */
    size_t n;
};

/* The shard that holds byte `offset`: the last one that begins before it. */
static size_t find_shard(const struct dir_source *d, uint64_t offset)
{
    size_t low = 0, high = d->n;
    while (high - low > 1) {
        const size_t mid = low + (high - low) / 2;
        if (d->bases[mid] <= offset)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static int read_range(struct pq_source *base, uint64_t offset, void *buf,
                      size_t n, struct pq_error *e)
{
    struct dir_source *const d = (struct dir_source *)base;
    const size_t i = find_shard(d, offset);
    struct pq_source *const shard = d->shards[i];
    if (shard->ops->read(shard, offset - d->bases[i], buf, n, e) == 0)
        return 0;
    return pq_error_in(e, "%s", shard->name);
}

static int finish(struct pq_source *base, struct pq_error *e)
{
    struct dir_source *const d = (struct dir_source *)base;
    for (size_t i = 0; i < d->n; i++) {
        struct pq_source *const shard = d->shards[i];
        if (shard->ops->finish != NULL && shard->ops->finish(shard, e) != 0)
            return pq_error_in(e, "%s", shard->name);
    }
    return 0;
}

static void free_source(struct pq_source *base)
{
    struct dir_source *const d = (struct dir_source *)base;
    for (size_t i = 0; i < d->n; i++)
        pq_source_free(d->shards[i]);
    free(d->shards);
    free(d->bases);
    pq_catalog_release(&d->catalog);
    free(d);
}

static const struct pq_source_ops ops = {
    .read = read_range, .finish = finish, .free = free_source};

/* ---- Opening: what is there ------------------------------------------ */

/* A directory while it is opened. */
struct opening {
    const char *path;
    int fd;
    const volatile int *cancel;
    struct pq_arena arena;
    const char **names; /* [n] regular files that pq knows, sorted */
    size_t n, cap;
    struct pq_dir_index index; /* of one file: made up */
    struct pq_names keys;      /* of the metadata taken so far */
    bool bare;                 /* weights are not looked for */
    struct dir_source *d;
    struct pq_error *e;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Takes note of an entry that is a file of a model. */
static int add_name(struct opening *o, const char *name)
{
    struct stat st;
    if (!pq_dir_knows(name) || fstatat(o->fd, name, &st, 0) != 0 ||
        !S_ISREG(st.st_mode))
        return 0;
    void *const all =
        pq_grow((void *)o->names, o->n, &o->cap, sizeof *o->names);
    if (all == NULL)
        return pq_fail_nomem(o->e);
    o->names = all;
    o->names[o->n] = pq_arena_strndup(&o->arena, name, strlen(name));
    return o->names[o->n++] != NULL ? 0 : pq_fail_nomem(o->e);
}

static int list_names(struct opening *o)
{
    const int fd = openat(o->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *const dir = fd >= 0 ? fdopendir(fd) : NULL;
    int rc = 0;
    if (dir == NULL) {
        const int sys = errno;
        if (fd >= 0)
            close(fd);
        return pq_fail_sys(o->e, sys, "cannot be listed");
    }
    errno = 0;
    for (const struct dirent *x; rc == 0 && (x = readdir(dir)) != NULL;
         errno = 0)
        rc = add_name(o, x->d_name);
    if (rc == 0 && errno != 0)
        rc = pq_fail_sys(o->e, errno, "cannot be listed");
    closedir(dir);
    if (o->n > 0)
        qsort((void *)o->names, o->n, sizeof *o->names, compare_names);
    return rc;
}

static bool has(const struct opening *o, const char *name)
{
    for (size_t i = 0; i < o->n; i++)
        if (strcmp(o->names[i], name) == 0)
            return true;
    return false;
}

/* Reads a whole file into memory from malloc. */
static char *read_file(struct opening *o, const char *name, uint64_t limit,
                       size_t *n)
{
    struct pq_in in = {.cancel = o->cancel};
    char *data = NULL;
    if (pq_in_open_at(&in, o->fd, name, o->e) != 0)
        return NULL;
    if (in.size > limit)
        pq_fail(o->e, PQ_ELIMIT, "%s: more than %llu bytes", name,
                (unsigned long long)limit);
    else if ((data = pq_alloc((size_t)in.size, 1)) == NULL)
        pq_fail_nomem(o->e);
    else if (pq_in_pread(&in, 0, data, (size_t)in.size, o->e) != 0) {
        pq_error_in(o->e, "%s", name);
        free(data);
        data = NULL;
    }
    *n = (size_t)in.size;
    pq_in_close(&in);
    return data;
}

static int use_index(struct opening *o)
{
    size_t n;
    char *const text = read_file(o, PQ_DIR_INDEX, PQ_DIR_MAX_INDEX, &n);
    if (text == NULL)
        return -1;
    const int rc = pq_dir_index_parse(&o->index, text, n, o->e);
    free(text);
    return rc == 0 ? 0 : pq_error_in(o->e, PQ_DIR_INDEX);
}

static int use_file(struct opening *o, const char *name)
{
    struct pq_dir_index *const x = &o->index;
    void *const all = pq_alloc(1, sizeof *x->files);
    if (all == NULL)
        return pq_fail_nomem(o->e);
    x->files = all;
    x->files[0] = pq_arena_strndup(&x->arena, name, strlen(name));
    x->n_files = 1;
    return x->files[0] != NULL ? 0 : pq_fail_nomem(o->e);
}

/* The only .pq stream there is, or what is wrong. */
static int use_stream(struct opening *o)
{
    const char *stream = NULL, *pytorch = NULL;
    for (size_t i = 0; i < o->n; i++) {
        if (is_pytorch(o->names[i]))
            pytorch = o->names[i];
        if (!ends_with(o->names[i], ".pq"))
            continue;
        if (stream != NULL)
            return pq_fail(o->e, PQ_EARG, "%s and %s: which one is it?", stream,
                           o->names[i]);
        stream = o->names[i];
    }
    if (stream != NULL)
        return use_file(o, stream);
    if (pytorch != NULL)
        return pq_fail(o->e, PQ_EUNSUPPORTED,
                       "%s: pq does not read PyTorch files; save the model "
                       "as safetensors",
                       pytorch);
    return pq_fail(o->e, PQ_EFORMAT,
                   "no model in this directory (" PQ_DIR_MODEL
                   ", its index, " PQ_DIR_ADAPTER " or a .pq file)");
}

static int choose(struct opening *o)
{
    if (has(o, PQ_DIR_MODEL))
        return use_file(o, PQ_DIR_MODEL);
    if (has(o, PQ_DIR_INDEX))
        return use_index(o);
    if (has(o, PQ_DIR_ADAPTER))
        return use_file(o, PQ_DIR_ADAPTER);
    if (has(o, "model.pq"))
        return use_file(o, "model.pq");
    return use_stream(o);
}

/* ---- Opening: shards into one ---------------------------------------- */

static int open_shards(struct opening *o)
{
    struct dir_source *const d = o->d;
    struct pq_catalog *const c = &d->catalog;
    const size_t n = o->index.n_files;
    d->shards = pq_zalloc(n, sizeof *d->shards);
    d->bases = pq_zalloc(n, sizeof *d->bases);
    const char **const files = pq_arena_alloc(&c->arena, n, sizeof *files);
    if (d->shards == NULL || d->bases == NULL || files == NULL)
        return pq_fail_nomem(o->e);
    for (size_t i = 0; i < n; i++) {
        const char *const name = o->index.files[i];
        files[i] = pq_arena_strndup(&c->arena, name, strlen(name));
        if (files[i] == NULL)
            return pq_fail_nomem(o->e);
        struct pq_in in = {.cancel = o->cancel};
        if (pq_in_open_at(&in, o->fd, files[i], o->e) != 0 ||
            pq_format_open(&in, &d->shards[i], o->e) != 0)
            return -1;
        d->n = i + 1;
    }
    c->files = files;
    c->n_files = n;
    return 0;
}

/* The bytes that a shard's addresses span. */
static uint64_t address_end(const struct pq_catalog *c)
{
    uint64_t end = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t k = 0; k < c->tensors[i].n_parts; k++) {
            const struct pq_part *const p = &c->tensors[i].parts[k];
            if (p->offset + p->bytes > end)
                end = p->offset + p->bytes;
        }
    return end;
}

/* Moves the tensors of shard i to our catalogue; its arena still has them. */
static void take_tensors(struct dir_source *d, size_t i)
{
    struct pq_catalog *const c = &d->catalog;
    const struct pq_catalog *const from = d->shards[i]->catalog;
    for (size_t t = 0; t < from->n_tensors; t++) {
        struct pq_tensor *const x = &c->tensors[c->n_tensors++];
        *x = from->tensors[t];
        for (size_t k = 0; k < x->n_parts; k++) {
            x->parts[k].offset += d->bases[i];
            x->parts[k].file = (uint32_t)i;
        }
    }
}

/* What two shards both say, the first one says. */
static int take_meta(struct opening *o, const struct pq_catalog *from)
{
    struct pq_catalog *const c = &o->d->catalog;
    for (size_t i = 0; i < from->n_metadata; i++) {
        const struct pq_pair *const m = &from->metadata[i];
        const int old = pq_names_add(&o->keys, m->key, i, NULL, o->e);
        if (old < 0 ||
            (old == 0 && pq_catalog_set(c, m->key, m->value, o->e) != 0))
            return -1;
    }
    for (size_t i = 0; i < from->n_blobs; i++) {
        const struct pq_blob *const b = &from->blobs[i];
        if (pq_catalog_blob(c, b->name) == NULL &&
            pq_catalog_add_blob(c, b->name, b->data, (size_t)b->bytes, o->e) !=
                0)
            return -1;
    }
    for (size_t i = 0; i < from->n_extra; i++)
        if (pq_catalog_add_extra(c, &from->extra[i], o->e) != 0)
            return -1;
    const bool first = c->n_prov == 0;
    for (size_t i = 0; first && i < from->n_prov; i++)
        if (pq_catalog_add_prov(c, from->prov[i], o->e) != 0)
            return -1;
    return 0;
}

static int join_shards(struct opening *o)
{
    struct dir_source *const d = o->d;
    struct pq_catalog *const c = &d->catalog;
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        n += d->shards[i]->catalog->n_tensors;
    c->tensors = pq_alloc(n, sizeof *c->tensors);
    if (c->tensors == NULL)
        return pq_fail_nomem(o->e);
    c->cap_tensors = n;
    d->base.rewind = true;
    for (size_t i = 0; i < d->n; i++) {
        struct pq_source *const s = d->shards[i];
        uint64_t end;
        if (!pq_add(d->bases[i], address_end(s->catalog), &end))
            return pq_fail(o->e, PQ_ELIMIT, "more than 2^64 bytes of tensors");
        if (i + 1 < d->n)
            d->bases[i + 1] = end;
        take_tensors(d, i);
        if (take_meta(o, s->catalog) != 0)
            return -1;
        d->base.sequential |= s->sequential;
        d->base.rewind &= s->rewind || !s->sequential;
        d->base.total_bytes += s->total_bytes;
    }
    return 0;
}

/* ---- Opening: does it agree? ----------------------------------------- */

/* Enters the names of a tensor and its parts. */
static int enter_names(struct opening *o, struct pq_names *names,
                       const struct pq_tensor *t)
{
    const char *const *const files = o->d->catalog.files;
    for (size_t k = 0; k < t->n_parts; k++) {
        const struct pq_part *const p = &t->parts[k];
        size_t old;
        const int rc = pq_names_add(names, p->name, p->file, &old, o->e);
        if (rc > 0)
            return pq_fail(o->e, PQ_EFORMAT, "tensor %s: in %s and in %s",
                           p->name, files[old], files[p->file]);
        if (rc < 0)
            return -1;
    }
    if (t->n_parts == 0)
        return 0;
    return pq_names_add(names, t->name, t->parts[0].file, NULL, o->e) < 0 ? -1
                                                                          : 0;
}

/*
 * No tensor may be in two shards, and those of the index must be where it
 * says.  A tensor that the index does not mention is taken as well.
 */
static int check_names(struct opening *o)
{
    const struct pq_catalog *const c = &o->d->catalog;
    const struct pq_dir_index *const x = &o->index;
    struct pq_names names = {0};
    int rc = 0;
    for (size_t i = 0; i < c->n_tensors && rc == 0; i++)
        rc = enter_names(o, &names, &c->tensors[i]);
    for (size_t i = 0; i < x->n_map && rc == 0; i++)
        if (pq_names_find(&names, x->map[i].tensor) != x->map[i].file)
            rc = pq_fail(o->e, PQ_EFORMAT,
                         "%s: tensor %s is not there, as " PQ_DIR_INDEX " says",
                         x->files[x->map[i].file], x->map[i].tensor);
    pq_names_release(&names);
    return rc;
}

static int read_blobs(struct opening *o)
{
    for (size_t i = 0; i < o->n; i++) {
        size_t n;
        if (!pq_dir_carries(o->names[i]))
            continue;
        char *const data = read_file(o, o->names[i], PQ_DIR_MAX_BLOB, &n);
        if (data == NULL)
            return -1;
        const int rc =
            pq_catalog_add_blob(&o->d->catalog, o->names[i], data, n, o->e);
        free(data);
        if (rc != 0)
            return -1;
    }
    return 0;
}

/* ---- Opening --------------------------------------------------------- */

static int open_all(struct opening *o)
{
    struct pq_catalog *const c = &o->d->catalog;
    if (list_names(o) != 0 || (!o->bare && choose(o) != 0) ||
        read_blobs(o) != 0 || open_shards(o) != 0 || join_shards(o) != 0 ||
        check_names(o) != 0)
        return -1;
    c->directory = true;
    c->counts_parameters = o->index.counts_parameters;
    o->d->base.format = o->bare ? "bare" : o->d->shards[0]->format;
    o->d->base.name = pq_arena_strndup(&c->arena, o->path, strlen(o->path));
    return o->d->base.name != NULL ? 0 : pq_fail_nomem(o->e);
}

static int open_source(struct opening *o, struct pq_source **s)
{
    struct dir_source *const d = pq_zalloc(1, sizeof *d);
    if (d == NULL)
        return pq_fail_nomem(o->e);
    d->base.ops = &ops;
    d->base.catalog = &d->catalog;
    pq_catalog_init(&d->catalog);
    o->d = d;
    const int rc = open_all(o);
    if (rc == 0)
        *s = &d->base;
    else
        free_source(&d->base);
    free((void *)o->names);
    pq_names_release(&o->keys);
    pq_dir_index_release(&o->index);
    pq_arena_release(&o->arena);
    return rc;
}

static int open_path(struct opening *o, struct pq_source **s)
{
    o->fd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (o->fd < 0)
        return pq_fail_sys(o->e, errno, "%s", o->path);
    const int rc = open_source(o, s);
    close(o->fd);
    return rc == 0 ? 0 : pq_error_in(o->e, "%s", o->path);
}

int pq_dir_open(const char *path, const volatile int *cancel,
                struct pq_source **s, struct pq_error *e)
{
    struct opening o = {.path = path, .cancel = cancel, .e = e};
    return open_path(&o, s);
}

int pq_dir_open_bare(const char *path, const volatile int *cancel,
                     struct pq_source **s, struct pq_error *e)
{
    struct opening o = {.path = path, .cancel = cancel, .e = e, .bare = true};
    return open_path(&o, s);
}
