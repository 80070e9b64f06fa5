/*
 * The tensors of a model by name: the tables of names.h, read the other way.
 */
#include "slots.h"
#include "names.h"

struct list {
    struct nn_model *m;
    const struct nn_names *names;
    struct pq_arena *arena;
    struct nn_slot *s;
    size_t n;
    bool failed;
};

static struct nn_slot *add(struct list *l, size_t layer, size_t rows,
                           size_t cols, const char *module, const char *what)
{
    struct nn_slot *s = &l->s[l->n++];

    s->name = layer == NN_SLOT_ENDS
                  ? module
                  : pq_arena_printf(l->arena, "%s.%zu.%s%s", l->names->layers,
                                    layer, module, what);
    l->failed |= !s->name;
    s->rows = rows;
    s->cols = cols;
    s->layer = layer;
    return s;
}

static void add_module(struct list *l, size_t layer, const struct nn_module *m)
{
    struct nn_linear *part[NN_SLOT_PARTS];
    const size_t n = nn_module_parts(m);
    size_t out = 0;

    for (size_t i = 0; i < n; i++) {
        part[i] = nn_module_part(&l->m->layers[layer], m, i);
        out += part[i]->out;
    }
    const bool turned = part[0]->turned;
    struct nn_slot *w = add(l, layer, turned ? part[0]->in : out,
                            turned ? out : part[0]->in, m->name, ".weight");
    struct nn_slot *b =
        part[0]->bias ? add(l, layer, out, 0, m->name, ".bias") : NULL;
    for (size_t i = 0; i < n; i++) {
        w->mats[i] = &part[i]->w;
        w->linears[i] = part[i];
        if (b)
            b->vectors[i] = &part[i]->bias;
    }
    w->n_parts = n;
    if (b)
        b->n_parts = n;
}

static void add_vector(struct list *l, size_t layer, size_t n, const char *name,
                       const float **at)
{
    if (!*at)
        return;
    struct nn_slot *s = add(l, layer, n, 0, name, "");
    s->vectors[0] = at;
    s->n_parts = 1;
}

static void add_layer(struct list *l, size_t layer)
{
    struct nn_layer *y = &l->m->layers[layer];

    for (const struct nn_vector *v = l->names->vectors; v->name; v++)
        add_vector(l, layer, nn_vector_size(&l->m->c, v), v->name,
                   nn_vector_place(y, v));
    for (const struct nn_module *m = l->names->modules; m->name; m++)
        add_module(l, layer, m);
}

static void add_ends(struct list *l)
{
    struct nn_model *m = l->m;
    const struct nn_config *c = &m->c;
    struct nn_slot *s =
        add(l, NN_SLOT_ENDS, c->vocab, c->hidden, l->names->embed, "");

    s->below = true;
    s->mats[s->n_parts++] = &m->embed;
    if (m->head_is_embed)
        s->mats[s->n_parts++] = &m->head.w;
    if (l->names->places) {
        s = add(l, NN_SLOT_ENDS, c->positions, c->hidden, l->names->places, "");
        s->below = true;
        s->mats[s->n_parts++] = &m->places;
    }
    if (!m->head_is_embed) {
        s = add(l, NN_SLOT_ENDS, c->vocab, c->hidden, NN_NAME_HEAD, "");
        s->mats[s->n_parts++] = &m->head.w;
    }
    add_vector(l, NN_SLOT_ENDS, c->hidden, l->names->norm, &m->norm);
    add_vector(l, NN_SLOT_ENDS, c->hidden, l->names->norm_bias, &m->norm_bias);
}

#define MOST_A_LAYER 20

int nn_slots(struct nn_model *m, struct pq_arena *arena, struct nn_slot **slots,
             size_t *n, struct pq_error *e)
{
    struct list l = {.m = m, .names = nn_names_of(&m->c), .arena = arena};

    l.s = pq_arena_alloc(arena, MOST_A_LAYER * (m->c.layers + 1), sizeof *l.s);
    if (!l.s)
        return pq_fail_nomem(e);
    add_ends(&l);
    for (size_t i = 0; i < m->c.layers; i++)
        add_layer(&l, i);
    *slots = l.s;
    *n = l.n;
    return l.failed ? pq_fail_nomem(e) : 0;
}
