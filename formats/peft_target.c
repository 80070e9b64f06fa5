/*
 * The tensors that adapters change, and the list of edits of them.
 *
 * They are found by name, with and without the name of the trunk.  A head
 * that is tied to the table of embeddings has no tensor.  What changes one of
 * the two unties them: the head becomes a tensor of its own that starts as
 * the table.  (Trained tokens are rows of both: they stay tied, as in PEFT.)
 */
#include "peft_target.h"
#include "pq_names.h"

#include <stdlib.h>
#include <string.h>

int pq_peft_places_init(struct pq_peft_places *w, struct pq_error *e)
{
    const struct pq_catalog *c = w->base;

    w->head = w->table = SIZE_MAX;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        if (pq_names_add(&w->names, name, i, NULL, e) < 0)
            return -1;
        if (pq_name_is_weight(name) && pq_name_is_head(name))
            w->head = i;
        if (w->table == SIZE_MAX && pq_name_is_token_table(name))
            w->table = i;
    }
    return 0;
}

void pq_peft_places_release(struct pq_peft_places *w)
{
    free(w->edits);
    free(w->added);
    free(w->parts);
    pq_names_release(&w->names);
    pq_arena_release(&w->arena);
}

/* ---- finding ----------------------------------------------------------- */

size_t peft_find(const struct pq_peft_places *w, const char *name)
{
    char other[PEFT_MAX_NAME];
    size_t at = pq_names_find(&w->names, name);

    for (unsigned i = 0;
         at == SIZE_MAX && pq_name_variant(name, i, other, sizeof other); i++)
        if (other[0] != '\0')
            at = pq_names_find(&w->names, other);
    return at;
}

size_t peft_add_target(struct pq_peft_places *w, const char *name, size_t like,
                       struct pq_source *source, const struct pq_tensor *t,
                       struct pq_error *e)
{
    const size_t target = w->base->n_tensors + w->n_added;
    struct pq_peft_added *a =
        pq_grow(w->added, w->n_added, &w->cap_added, sizeof *a);
    if (a)
        w->added = a;
    char *own = pq_arena_strndup(&w->arena, name, strlen(name));
    if (!a || !own || pq_names_add(&w->names, own, target, NULL, e) < 0) {
        pq_fail_nomem(e);
        return SIZE_MAX;
    }
    a[w->n_added].name = own;
    a[w->n_added].like = like;
    a[w->n_added].source = source;
    a[w->n_added++].tensor = t;
    return target;
}

size_t peft_find_or_untie(struct pq_peft_places *w, const char *name,
                          struct pq_error *e)
{
    const size_t at = peft_find(w, name);

    if (at != SIZE_MAX) {
        if (at == w->head && w->tied)
            w->untied = true;
        return at;
    }
    if (!pq_name_is_weight(name) || !pq_name_is_head(name) ||
        w->head != SIZE_MAX || w->table == SIZE_MAX)
        return SIZE_MAX;
    w->untied = true;
    w->head = peft_add_target(w, name, w->table, NULL, NULL, e);
    return w->head;
}

/* The table was changed: a tied head keeps what the table was. */
static int keep_head(struct pq_peft_places *w, struct pq_error *e)
{
    if (!w->tied || w->untied || w->follows)
        return 0;
    w->untied = true;
    if (w->head != SIZE_MAX)
        return 0;
    w->head = peft_add_target(w, "lm_head.weight", w->table, NULL, NULL, e);
    return w->head == SIZE_MAX ? -1 : 0;
}

/* ---- edits ------------------------------------------------------------- */

const struct pq_tensor *peft_start(const struct pq_peft_places *w,
                                   size_t target)
{
    const size_t n = w->base->n_tensors;

    if (target < n)
        return &w->base->tensors[target];
    const struct pq_peft_added *a = &w->added[target - n];
    return a->tensor ? a->tensor : &w->base->tensors[a->like];
}

int peft_add_edit(struct pq_peft_places *w, size_t target,
                  const struct pq_edit *d, struct pq_error *e)
{
    const struct pq_tensor *t = peft_start(w, target);

    if (!pq_dtype_is_float(t->dtype) && t->codec.encoding == PQ_PLAIN)
        return pq_fail(e, PQ_EARG, "tensor %s of the base is %s, not floating",
                       t->name, pq_dtype_name(t->dtype));
    if (pq_edit_check(d, t->shape, t->rank, e))
        return pq_error_in(e, "tensor %s of the base", t->name);
    struct pq_peft_edit *list =
        pq_grow(w->edits, w->n_edits, &w->cap_edits, sizeof *list);
    if (!list)
        return pq_fail_nomem(e);
    w->edits = list;
    list[w->n_edits].target = target;
    list[w->n_edits].part = PQ_PEFT_NO_PART;
    list[w->n_edits++].edit = *d;
    return target == w->table && d->kind != PQ_EDIT_ROWS ? keep_head(w, e) : 0;
}
