/*
 * The index of a sharded model, model.safetensors.index.json.
 *
 *     {
 *       "metadata": {"total_parameters": 260032, "total_size": 1040128},
 *       "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}
 *     }
 *
 * Its file names are opened, so they must be plain: transformers follows
 * "../x" and "/x" here, pq does not.
 */
#include "dir.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

struct parser {
    struct pq_json j;
    struct pq_dir_index *x;
    struct pq_names files, tensors;
    bool has_map;
    struct pq_error *e;
};

bool pq_dir_plain_name(const char *name)
{
    if (name[0] == '\0' || name[0] == '.' || name[0] == '-')
        return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return strstr(name, "..") == NULL;
}

static int expected(struct parser *p, enum pq_json_type t, const char *what)
{
    if (t == PQ_JSON_ERROR)
        return -1;
    return pq_fail(p->e, PQ_EFORMAT, "%s expected at byte %zu", what,
                   p->j.start);
}

/* The current string, copied into the index. */
static const char *copy_string(struct parser *p)
{
    const char *s;
    size_t n;
    if (pq_json_string(&p->j, &p->x->arena, &s, &n) != 0)
        return NULL;
    if (n > 0 && memchr(s, '\0', n) != NULL) {
        pq_fail(p->e, PQ_EFORMAT, "a NUL in a name at byte %zu", p->j.start);
        return NULL;
    }
    const char *const copy = pq_arena_strndup(&p->x->arena, s, n);
    if (copy == NULL)
        pq_fail_nomem(p->e);
    return copy;
}

/* The number of the shard that the current string names. */
static int find_file(struct parser *p, size_t *number)
{
    struct pq_dir_index *const x = p->x;
    const char *const name = copy_string(p);
    if (name == NULL)
        return -1;
    if (!pq_dir_plain_name(name))
        return pq_fail(p->e, PQ_EFORMAT,
                       "weight_map: \"%s\" is not a plain file name", name);
    const int old = pq_names_add(&p->files, name, x->n_files, number, p->e);
    if (old != 0)
        return old < 0 ? -1 : 0;
    if (x->n_files == PQ_DIR_MAX_SHARDS)
        return pq_fail(p->e, PQ_ELIMIT, "more than %u shards",
                       PQ_DIR_MAX_SHARDS);
    void *const all =
        pq_grow((void *)x->files, x->n_files, &x->cap_files, sizeof *x->files);
    if (all == NULL)
        return pq_fail_nomem(p->e);
    x->files = all;
    *number = x->n_files;
    x->files[x->n_files++] = name;
    return 0;
}

/* "tensor": "shard" */
static int parse_entry(struct parser *p)
{
    struct pq_dir_index *const x = p->x;
    struct pq_dir_entry entry = {copy_string(p), 0};
    if (entry.tensor == NULL)
        return -1;
    const int old =
        pq_names_add(&p->tensors, entry.tensor, x->n_map, NULL, p->e);
    if (old > 0)
        return pq_fail(p->e, PQ_EFORMAT, "weight_map: %s comes twice",
                       entry.tensor);
    const enum pq_json_type t = pq_json_next(&p->j);
    if (old < 0 || t != PQ_JSON_STRING)
        return expected(p, t, "a file name");
    if (find_file(p, &entry.file) != 0)
        return -1;
    struct pq_dir_entry *const all =
        pq_grow(x->map, x->n_map, &x->cap_map, sizeof *x->map);
    if (all == NULL)
        return pq_fail_nomem(p->e);
    x->map = all;
    all[x->n_map++] = entry;
    return 0;
}

static int parse_map(struct parser *p)
{
    enum pq_json_type t = pq_json_next(&p->j);
    if (p->has_map)
        return pq_fail(p->e, PQ_EFORMAT, "two weight_map");
    p->has_map = true;
    if (t != PQ_JSON_OBJECT)
        return expected(p, t, "an object");
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY)
        if (parse_entry(p) != 0)
            return -1;
    return t == PQ_JSON_OBJECT_END ? 0 : expected(p, t, "a tensor");
}

/* Of the metadata only the presence of total_parameters is of interest. */
static int parse_metadata(struct parser *p)
{
    enum pq_json_type t = pq_json_next(&p->j);
    if (t != PQ_JSON_OBJECT)
        return pq_json_skip(&p->j, t);
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY) {
        if (pq_json_is(&p->j, "total_parameters"))
            p->x->counts_parameters = true;
        if (pq_json_skip(&p->j, t) != 0)
            return -1;
    }
    return t == PQ_JSON_OBJECT_END ? 0 : expected(p, t, "a key");
}

static int parse_all(struct parser *p)
{
    enum pq_json_type t = pq_json_next(&p->j);
    if (t != PQ_JSON_OBJECT)
        return expected(p, t, "an object");
    while ((t = pq_json_next(&p->j)) == PQ_JSON_KEY) {
        const int rc = pq_json_is(&p->j, "weight_map") ? parse_map(p)
                       : pq_json_is(&p->j, "metadata") ? parse_metadata(p)
                                                       : pq_json_skip(&p->j, t);
        if (rc != 0)
            return -1;
    }
    if (t != PQ_JSON_OBJECT_END || pq_json_next(&p->j) != PQ_JSON_END)
        return -1;
    if (p->x->n_files == 0)
        return pq_fail(p->e, PQ_EFORMAT, "no weight_map with tensors in it");
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Numbers the shards by name: the order of the map means nothing. */
static int sort_files(struct parser *p)
{
    struct pq_dir_index *const x = p->x;
    size_t *const number = pq_alloc(x->n_files, sizeof *number);
    if (number == NULL)
        return pq_fail_nomem(p->e);
    qsort((void *)x->files, x->n_files, sizeof *x->files, compare_names);
    for (size_t i = 0; i < x->n_files; i++)
        number[pq_names_find(&p->files, x->files[i])] = i;
    for (size_t i = 0; i < x->n_map; i++)
        x->map[i].file = number[x->map[i].file];
    free(number);
    return 0;
}

int pq_dir_index_parse(struct pq_dir_index *x, const char *text, size_t n,
                       struct pq_error *e)
{
    struct parser p = {.x = x, .e = e};
    pq_json_init(&p.j, text, n, e);
    int rc = parse_all(&p);
    if (rc == 0)
        rc = sort_files(&p);
    pq_names_release(&p.tensors);
    pq_names_release(&p.files);
    return rc;
}

void pq_dir_index_release(struct pq_dir_index *x)
{
    free((void *)x->files);
    free(x->map);
    pq_arena_release(&x->arena);
    *x = (struct pq_dir_index){0};
}
