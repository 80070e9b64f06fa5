/*
 * Folding: from the entries of a safetensors file to tensors.
 *
 *   X, X.absmax, X.quant_map, X.quant_state.*[, X.nested_*]  ->  X, nf4 ...
 *   P.weight (I8), P.SCB[, P.weight_format]                  ->  P.weight, int8
 *
 * A group folds only when all its parts are there with the types and sizes
 * that its quant_state asks for; else its entries stay plain tensors.
 */
#include "pq_json.h"
#include "quant_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STATE (1u << 16) /* bytes of a quant_state; real ones have 200 */

struct fold {
    struct pq_source *s;
    uint64_t memory; /* for what is held of s */
    const char *tmpdir;
    struct pq_names names;
    bool *taken; /* [n_tensors] became a part of another */
    bool failed; /* memory was short while looking for a name */
};

/* The plain tensor called NAME + SUFFIX, or NULL. */
static struct pq_tensor *find(struct fold *f, const char *name, size_t n,
                              const char *suffix)
{
    struct pq_arena a = {0};
    const char *key = pq_arena_printf(&a, "%.*s%s", (int)n, name, suffix);
    const size_t i = key ? pq_names_find(&f->names, key) : SIZE_MAX;

    f->failed = f->failed || !key;
    pq_arena_release(&a);
    return i == SIZE_MAX || f->taken[i] ? NULL : &f->s->catalog->tensors[i];
}

static void take(struct fold *f, const struct pq_tensor *t)
{
    f->taken[t - f->s->catalog->tensors] = true;
}

static bool ends_with(const char *s, const char *suffix, size_t *n)
{
    const size_t a = strlen(s), b = strlen(suffix);

    *n = a - b;
    return a > b && strcmp(s + a - b, suffix) == 0;
}

/*
 * Makes `w` the tensor that `as` describes, of the parts found, one role
 * each; leaves all as it is when they do not fit together.
 */
static int join(struct fold *f, struct pq_tensor *w, struct pq_tensor as,
                struct pq_tensor *const *from, const enum pq_role *roles,
                size_t n, struct pq_error *e)
{
    struct pq_part *parts =
        pq_arena_alloc(&f->s->catalog->arena, n, sizeof *parts);

    if (!parts)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++) {
        if (!from[i])
            return 0;
        parts[i] = from[i]->parts[0];
        parts[i].role = roles[i];
    }
    as.name = w->name;
    as.parts = parts;
    as.n_parts = n;
    if (!pq_codec_sound(&as))
        return 0;
    for (size_t i = 0; i < n; i++)
        if (from[i] != w)
            take(f, from[i]);
    *w = as;
    return 0;
}

/* ---- LLM.int8() -------------------------------------------------------- */

static int fold_rows(struct fold *f, struct pq_tensor *scb, struct pq_error *e)
{
    size_t n;
    if (!ends_with(scb->name, ".SCB", &n) || scb->dtype != PQ_F32)
        return 0;
    struct pq_tensor *w = find(f, scb->name, n, ".weight");
    struct pq_tensor *format = find(f, scb->name, n, ".weight_format");
    if (!w || w->codec.encoding != PQ_PLAIN)
        return 0;
    struct pq_tensor *const from[] = {w, scb, format};
    const enum pq_role roles[] = {PQ_ROLE_DATA, PQ_ROLE_SCB,
                                  PQ_ROLE_WEIGHT_FORMAT};
    struct pq_tensor as = *w;
    as.codec.encoding = PQ_INT8;
    as.dtype = PQ_F16; /* the library keeps no other type */
    return join(f, w, as, from, roles, format ? 3 : 2, e);
}

/* ---- blocks ------------------------------------------------------------ */

static int read_state(struct fold *f, const struct pq_tensor *state,
                      struct pq_tensor *as, struct pq_error *e)
{
    const struct pq_part *p = &state->parts[0];
    char *text = pq_alloc((size_t)p->bytes, 1);
    int rc = text ? 0 : pq_fail_nomem(e);

    if (!rc && f->s->sequential)
        rc = pq_source_hold(f->s, f->memory, f->tmpdir, e);
    if (!rc) {
        /* read here, and once more by whoever copies or decodes the group */
        if (f->s->hold)
            pq_hold_expect(f->s->hold, p, 2);
        rc = pq_source_reach(f->s, p, 0, text, (size_t)p->bytes, e);
    }
    if (!rc && pq_state_read(text, (size_t)p->bytes, f->s->catalog, as, NULL))
        as->codec.encoding = PQ_PLAIN; /* says it is not ours: stays plain */
    free(text);
    return rc;
}

static int fold_group(struct fold *f, struct pq_tensor *state, size_t n,
                      struct pq_error *e)
{
    struct pq_tensor *w = find(f, state->name, n, "");
    struct pq_tensor *absmax = find(f, state->name, n, ".absmax");
    struct pq_tensor *map = find(f, state->name, n, ".quant_map");
    struct pq_tensor *na = find(f, state->name, n, ".nested_absmax");
    struct pq_tensor *nm = find(f, state->name, n, ".nested_quant_map");
    struct pq_tensor as = {.name = NULL};

    if (!w || !absmax || !map || state->dtype != PQ_U8 ||
        state->parts[0].bytes > MAX_STATE)
        return 0;
    if (read_state(f, state, &as, e))
        return -1;
    if (as.codec.encoding == PQ_PLAIN ||
        !ends_with(state->name, pq_encoding_name(as.codec.encoding), &n))
        return 0;
    if (!as.codec.nested_block) {
        struct pq_tensor *const from[] = {w, state, absmax, map};
        const enum pq_role roles[] = {PQ_ROLE_DATA, PQ_ROLE_QUANT_STATE,
                                      PQ_ROLE_ABSMAX, PQ_ROLE_QUANT_MAP};
        return join(f, w, as, from, roles, 4, e);
    }
    struct pq_tensor *const from[] = {w, absmax, state, na, nm, map};
    const enum pq_role roles[] = {
        PQ_ROLE_DATA,          PQ_ROLE_ABSMAX,           PQ_ROLE_QUANT_STATE,
        PQ_ROLE_NESTED_ABSMAX, PQ_ROLE_NESTED_QUANT_MAP, PQ_ROLE_QUANT_MAP};
    return join(f, w, as, from, roles, 6, e);
}

static int fold_blocks(struct fold *f, struct pq_tensor *state,
                       struct pq_error *e)
{
    static const char *const suffixes[] = {".quant_state.bitsandbytes__nf4",
                                           ".quant_state.bitsandbytes__fp4",
                                           ".quant_state.pq__int8_block"};

    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t n;
        if (ends_with(state->name, suffixes[i], &n))
            return fold_group(f, state, n, e);
    }
    return 0;
}

/* ---- all of them ------------------------------------------------------- */

static int index_names(struct fold *f, struct pq_error *e)
{
    const struct pq_catalog *c = f->s->catalog;

    f->taken = pq_zalloc(c->n_tensors, sizeof *f->taken);
    if (!f->taken)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++)
        if (pq_names_add(&f->names, c->tensors[i].name, i, NULL, e) < 0)
            return -1;
    return 0;
}

static void remove_taken(struct fold *f)
{
    struct pq_catalog *c = f->s->catalog;
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (!f->taken[i])
            c->tensors[n++] = c->tensors[i];
    c->n_tensors = n;
}

static bool any_group(const struct pq_catalog *c)
{
    size_t n;

    for (size_t i = 0; i < c->n_tensors; i++)
        if (strstr(c->tensors[i].name, ".quant_state.") ||
            ends_with(c->tensors[i].name, ".SCB", &n))
            return true;
    return false;
}

int pq_fold(struct pq_source *s, uint64_t memory, const char *tmpdir,
            struct pq_error *e)
{
    struct fold f = {.s = s, .memory = memory, .tmpdir = tmpdir};
    int rc;

    if (!any_group(s->catalog))
        return 0;
    rc = index_names(&f, e);
    for (size_t i = 0; !rc && i < s->catalog->n_tensors; i++) {
        struct pq_tensor *t = &s->catalog->tensors[i];
        if (f.taken[i] || t->codec.encoding != PQ_PLAIN)
            continue;
        rc = fold_rows(&f, t, e) || fold_blocks(&f, t, e) ? -1 : 0;
        if (!rc && f.failed)
            rc = pq_fail_nomem(e);
    }
    if (!rc)
        remove_taken(&f);
    pq_names_release(&f.names);
    free(f.taken);
    return rc;
}
