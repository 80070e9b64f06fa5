/*
 * Giving each tensor of a file its place in the model, by name (names.h).
 *
 * The first word of a name may be missing.  A tensor that holds several
 * layers is bound as parts of it.  A Conv1D (gpt2) is stored [in][out] unless
 * it is encoded: bitsandbytes turns what it encodes.
 *
 * Every tensor of the file must be asked for.
 *
 * The same asking says what a model consists of that has no tensors yet
 * (fresh.c): then each is added to the catalogue, and nothing is bound.
 */
#include "load.h"
#include "names.h"

#include <stdio.h>
#include <string.h>

#include "quant/quant_internal.h"

bool nn_is_no_weight(const char *name)
{
    static const char *const ends[] = {".rotary_emb.inv_freq", ".attn.bias",
                                       ".attn.masked_bias"};
    const size_t n = strlen(name);

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t m = strlen(ends[i]);
        if (n >= m && strcmp(name + n - m, ends[i]) == 0)
            return true;
    }
    return false;
}

/* ---- one tensor --------------------------------------------------------- */

/* Its number, or SIZE_MAX; `name` may be found without its first word. */
static size_t look_up(struct nn_loader *l, const char *name)
{
    size_t i = pq_names_find(&l->names, name);

    if (i == SIZE_MAX && (strncmp(name, "model.", 6) == 0 ||
                          strncmp(name, "transformer.", 12) == 0))
        i = pq_names_find(&l->names, strchr(name, '.') + 1);
    if (i != SIZE_MAX)
        l->t[i].used = true;
    return i;
}

/* There is a tensor of that name and shape; always SIZE_MAX. */
static size_t declare(struct nn_loader *l, const char *name, size_t rows,
                      size_t cols)
{
    const uint64_t shape[2] = {rows, cols};

    if (l->failed)
        return SIZE_MAX;
    const struct pq_tensor *t = pq_catalog_add_plain(
        l->fresh, name, l->dtype, shape, cols ? 2 : 1, l->end, l->e);
    l->failed = true;
    if (!t)
        pq_error_in(l->e, "tensor %s", name);
    else if (!pq_add(l->end, t->parts[0].bytes, &l->end))
        pq_fail(l->e, PQ_ELIMIT, "tensor %s: more than 2^64 bytes", name);
    else
        l->failed = false;
    return SIZE_MAX;
}

/* Its number, with a shape that the config allows; SIZE_MAX: none, failed. */
static size_t need(struct nn_loader *l, const char *name, size_t rows,
                   size_t cols)
{
    const uint64_t want[2] = {rows, cols};
    const int rank = cols ? 2 : 1;

    if (l->fresh)
        return declare(l, name, rows, cols);
    const size_t i = look_up(l, name);
    if (i == SIZE_MAX) {
        pq_fail(l->e, PQ_EFORMAT,
                "tensor %s is missing, which config.json asks for", name);
        l->failed = true;
        return i;
    }
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    if (t->rank == rank && t->shape[0] == rows &&
        (rank == 1 || t->shape[1] == cols))
        return i;
    char has[128], wants[64];
    pq_shape_text(t->shape, t->rank, has, sizeof has);
    pq_shape_text(want, rank, wants, sizeof wants);
    pq_fail(l->e, PQ_EFORMAT, "tensor %s: is %s where config.json asks for %s",
            t->name, has, wants);
    l->failed = true;
    return SIZE_MAX;
}

static const float *vector(struct nn_loader *l, const char *name, size_t n)
{
    const size_t i = need(l, name, n, 0);

    if (i == SIZE_MAX)
        return NULL;
    if (!l->t[i].vector) {
        pq_fail(l->e, PQ_EUNSUPPORTED, "tensor %s: a vector that is encoded",
                name);
        l->failed = true;
    }
    return l->t[i].vector;
}

static struct nn_mat stored(struct nn_loader *l, size_t i)
{
    const struct pq_tensor *t = &l->s->catalog->tensors[i];
    struct nn_mat m = {.codec = t->codec, .dtype = t->dtype};

    m.rows = (size_t)t->shape[0];
    m.cols = m.row = (size_t)t->shape[1];
    m.data = nn_part_of(l, i, PQ_ROLE_DATA);
    m.map = nn_part_of(l, i, PQ_ROLE_QUANT_MAP);
    m.scale = t->codec.encoding == PQ_INT8 ? nn_part_of(l, i, PQ_ROLE_SCB)
              : t->codec.nested_block      ? l->t[i].scale
                                           : nn_part_of(l, i, PQ_ROLE_ABSMAX);
    return m;
}

static struct nn_mat matrix(struct nn_loader *l, const char *name, size_t rows,
                            size_t cols)
{
    const size_t i = need(l, name, rows, cols);
    const struct nn_mat none = {0};

    return i == SIZE_MAX ? none : stored(l, i);
}

/* ---- a layer ------------------------------------------------------------ */

struct scope {
    struct nn_loader *l;
    const struct nn_names *names;
    size_t layer;
    char name[160];
};

static const char *named(struct scope *s, const char *module, const char *what)
{
    snprintf(s->name, sizeof s->name, "%s.%zu.%s%s", s->names->layers, s->layer,
             module, what);
    return s->name;
}

static struct nn_linear linear(struct scope *s, const char *module, size_t out,
                               size_t in, bool biased)
{
    struct nn_loader *l = s->l;
    struct nn_linear x = {.in = in, .out = out};
    const size_t i = look_up(l, named(s, module, ".weight"));

    x.turned =
        l->m->c.conv1d &&
        (l->fresh || (i != SIZE_MAX &&
                      l->s->catalog->tensors[i].codec.encoding == PQ_PLAIN));
    x.w = x.turned ? matrix(l, s->name, in, out) : matrix(l, s->name, out, in);
    if (i != SIZE_MAX) {
        const char *const full = l->s->catalog->tensors[i].name;
        x.name = pq_arena_strndup(&l->m->arena, full, strlen(full));
        if (!x.name && !l->failed) {
            pq_fail_nomem(l->e);
            l->failed = true;
        }
    }
    if (biased)
        x.bias = vector(l, named(s, module, ".bias"), out);
    return x;
}

/* Outputs [from, from + n) of a linear layer, as one of its own. */
static struct nn_linear outputs(const struct nn_linear *whole, size_t from,
                                size_t n)
{
    struct nn_linear x = *whole;

    x.out = n;
    x.w = whole->turned ? nn_mat_cols(&whole->w, from, n)
                        : nn_mat_rows(&whole->w, from, n);
    if (whole->bias)
        x.bias = whole->bias + from;
    return x;
}

static void bind_module(struct scope *s, struct nn_layer *y,
                        const struct nn_module *m)
{
    const struct nn_config *c = &s->l->m->c;
    const size_t parts = nn_module_parts(m);
    const struct nn_module_shape first = nn_module_shape(c, m, 0);
    size_t out = 0;

    for (size_t i = 0; i < parts; i++)
        out += nn_module_shape(c, m, i).out;
    const struct nn_linear whole =
        linear(s, m->name, out, first.in, first.biased);
    out = 0;
    for (size_t i = 0; i < parts; i++) {
        const size_t n = nn_module_shape(c, m, i).out;
        *nn_module_part(y, m, i) = parts > 1 ? outputs(&whole, out, n) : whole;
        out += n;
    }
}

static void bind_layer(struct nn_loader *l, const struct nn_names *names,
                       size_t layer)
{
    struct nn_layer *y = &l->m->layers[layer];
    struct scope s = {.l = l, .names = names, .layer = layer};

    for (const struct nn_vector *v = names->vectors; v->name; v++) {
        const size_t n = nn_vector_size(&l->m->c, v);
        if (n)
            *nn_vector_place(y, v) = vector(l, named(&s, v->name, ""), n);
    }
    for (const struct nn_module *m = names->modules; m->name; m++)
        bind_module(&s, y, m);
}

/* ---- the model ---------------------------------------------------------- */

/* The file's own head if there is one, whatever the config says. */
static void bind_head(struct nn_loader *l)
{
    struct nn_model *m = l->m;
    const size_t v = m->c.vocab, h = m->c.hidden;

    m->head.in = h;
    m->head.out = v;
    m->head_is_embed =
        m->c.tied && pq_names_find(&l->names, NN_NAME_HEAD) == SIZE_MAX;
    m->head.w = m->head_is_embed ? m->embed : matrix(l, NN_NAME_HEAD, v, h);
}

static void bind_ends(struct nn_loader *l, const struct nn_names *names)
{
    struct nn_model *m = l->m;
    const size_t h = m->c.hidden;

    m->embed = matrix(l, names->embed, m->c.vocab, h);
    if (names->places)
        m->places = matrix(l, names->places, m->c.positions, h);
    m->norm = vector(l, names->norm, h);
    if (names->norm_bias)
        m->norm_bias = vector(l, names->norm_bias, h);
    bind_head(l);
}

static int check_unused(struct nn_loader *l)
{
    const struct pq_catalog *c = l->s->catalog;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (!l->t[i].used && !l->t[i].skipped)
            return pq_fail(l->e, PQ_EFORMAT,
                           "tensor %s: config.json (model_type %s, %zu "
                           "layers) has no place for it",
                           c->tensors[i].name, l->m->c.type, l->m->c.layers);
    return 0;
}

int nn_bind_model(struct nn_loader *l)
{
    struct nn_model *m = l->m;
    const struct nn_names *names = nn_names_of(&m->c);

    m->layers = pq_arena_alloc(&m->arena, m->c.layers, sizeof *m->layers);
    if (!m->layers)
        return pq_fail_nomem(l->e);
    bind_ends(l, names);
    for (size_t i = 0; i < m->c.layers && !l->failed; i++)
        bind_layer(l, names, i);
    return l->failed || (!l->fresh && check_unused(l)) ? -1 : 0;
}
