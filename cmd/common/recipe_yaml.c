/*
 * YAML as a tree; see recipe.h.
 *
 * libyaml makes nodes that refer to each other by number.  Aliases make it a
 * graph, which is unfolded here: a node that holds itself is found because it
 * is met again on the way down, and one that multiplies (a list of ten times
 * a list of ten times ...) because every visit counts.
 *
 * libyaml itself takes time in the square of depth and anchors, and nothing
 * can stop it: the text is gone over once before, event by event, until it is
 * too much.
 */
#include "recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct unfold {
    yaml_document_t *document;
    struct pq_arena *arena;
    bool *open; /* [nodes] those on the way down to here */
    size_t n_nodes, visits;
    unsigned depth;
    struct pq_error *e;
};

static unsigned line_of(const yaml_node_t *n)
{
    return (unsigned)n->start_mark.line + 1;
}

static int fail_at(const struct unfold *u, const yaml_node_t *n,
                   enum pq_code code, const char *what)
{
    return pq_fail(u->e, code, "line %u: %s", line_of(n), what);
}

/* ---- scalars ----------------------------------------------------------- */

/* Text of one that is fit for a C string, or NULL. */
static const char *text_of(struct unfold *u, const yaml_node_t *n)
{
    const char *s = (const char *)n->data.scalar.value;
    const size_t length = n->data.scalar.length;

    if (memchr(s, '\0', length)) {
        fail_at(u, n, PQ_EFORMAT, "a NUL character");
        return NULL;
    }
    const char *copy = pq_arena_strndup(u->arena, s, length);
    if (!copy)
        pq_fail_nomem(u->e);
    return copy;
}

static bool is_null(const yaml_node_t *n)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    const char *s = (const char *)n->data.scalar.value;

    if (n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == n->data.scalar.length &&
            memcmp(words[i], s, n->data.scalar.length) == 0)
            return true;
    return false;
}

static int take_scalar(struct unfold *u, const yaml_node_t *n,
                       struct recipe_node *to)
{
    to->kind = is_null(n) ? RECIPE_NULL : RECIPE_TEXT;
    to->text = text_of(u, n);
    return to->text ? 0 : -1;
}

/* ---- lists and maps ---------------------------------------------------- */

static int unfold(struct unfold *u, int number, struct recipe_node *to);

static struct recipe_node *new_items(struct unfold *u, size_t n,
                                     struct recipe_node *to)
{
    struct recipe_node *items =
        pq_arena_alloc(u->arena, n ? n : 1, sizeof *items);

    if (!items)
        pq_fail_nomem(u->e);
    to->items = items;
    to->n = n;
    return items;
}

static int take_list(struct unfold *u, const yaml_node_t *n,
                     struct recipe_node *to)
{
    const yaml_node_item_t *first = n->data.sequence.items.start;
    const size_t count = (size_t)(n->data.sequence.items.top - first);

    if (count > RECIPE_MAX_NODES)
        return fail_at(u, n, PQ_ELIMIT, "a list is too long");
    struct recipe_node *items = new_items(u, count, to);
    to->kind = RECIPE_LIST;
    for (size_t i = 0; items && i < count; i++)
        if (unfold(u, first[i], &items[i]))
            return -1;
    return items ? 0 : -1;
}

static int take_key(struct unfold *u, const yaml_node_pair_t *pair,
                    struct recipe_node *items, size_t i)
{
    const yaml_node_t *key = yaml_document_get_node(u->document, pair->key);

    if (!key || key->type != YAML_SCALAR_NODE)
        return pq_fail(u->e, PQ_EFORMAT, "line %u: a key is not a word",
                       key ? line_of(key) : 0);
    items[i].key = text_of(u, key);
    if (!items[i].key)
        return -1;
    for (size_t k = 0; k < i; k++)
        if (strcmp(items[k].key, items[i].key) == 0)
            return pq_fail(u->e, PQ_EFORMAT, "line %u: the key '%s' is there "
                                             "already",
                           line_of(key), items[i].key);
    const int rc = unfold(u, pair->value, &items[i]);
    items[i].line = line_of(key);
    return rc;
}

static int take_map(struct unfold *u, const yaml_node_t *n,
                    struct recipe_node *to)
{
    const yaml_node_pair_t *first = n->data.mapping.pairs.start;
    const size_t count = (size_t)(n->data.mapping.pairs.top - first);

    if (count > RECIPE_MAX_KEYS)
        return fail_at(u, n, PQ_ELIMIT, "a map has too many keys");
    struct recipe_node *items = new_items(u, count, to);
    to->kind = RECIPE_MAP;
    for (size_t i = 0; items && i < count; i++)
        if (take_key(u, &first[i], items, i))
            return -1;
    return items ? 0 : -1;
}

/* ---- nodes ------------------------------------------------------------- */

/* libyaml gives every node the tag of its kind unless it has one. */
static bool is_tagged(const yaml_node_t *n)
{
    const char *usual = n->type == YAML_SCALAR_NODE     ? YAML_STR_TAG
                        : n->type == YAML_SEQUENCE_NODE ? YAML_SEQ_TAG
                                                        : YAML_MAP_TAG;

    return n->tag && strcmp((const char *)n->tag, usual) != 0;
}

static int unfold(struct unfold *u, int number, struct recipe_node *to)
{
    const yaml_node_t *n = yaml_document_get_node(u->document, number);
    int rc;

    if (!n || number < 1 || (size_t)number > u->n_nodes)
        return pq_fail(u->e, PQ_EFORMAT, "an alias of nothing");
    bool *open = &u->open[number - 1];
    to->line = line_of(n);
    if (*open)
        return fail_at(u, n, PQ_EFORMAT, "is part of itself: a cycle");
    if (++u->visits > RECIPE_MAX_NODES)
        return fail_at(u, n, PQ_ELIMIT, "the recipe is too large");
    if (u->depth >= RECIPE_MAX_DEPTH)
        return fail_at(u, n, PQ_ELIMIT, "the recipe is too deep");
    if (is_tagged(n))
        return fail_at(u, n, PQ_EUNSUPPORTED, "a recipe has no tags");
    *open = true;
    u->depth++;
    rc = n->type == YAML_SCALAR_NODE     ? take_scalar(u, n, to)
         : n->type == YAML_SEQUENCE_NODE ? take_list(u, n, to)
                                         : take_map(u, n, to);
    u->depth--;
    *open = false;
    return rc;
}

/* What libyaml found wrong. */
static int complain(const yaml_parser_t *p, struct pq_error *e)
{
    if (p->error == YAML_MEMORY_ERROR)
        return pq_fail_nomem(e);
    if (p->error == YAML_READER_ERROR)
        return pq_fail(e, PQ_EFORMAT, "byte %zu: not YAML: %s",
                       p->problem_offset, p->problem ? p->problem : "");
    return pq_fail(e, PQ_EFORMAT, "line %zu: not YAML: %s",
                   p->problem_mark.line + 1, p->problem ? p->problem : "");
}

/* ---- before anything is kept ------------------------------------------- */

struct extent {
    size_t depth, nodes, anchors;
};

static const char *too_much(struct extent *x, const yaml_event_t *v)
{
    const yaml_char_t *anchor = NULL;

    switch (v->type) {
    case YAML_SEQUENCE_START_EVENT:
        anchor = v->data.sequence_start.anchor;
        x->depth++;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = v->data.mapping_start.anchor;
        x->depth++;
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        x->depth--;
        break;
    case YAML_SCALAR_EVENT:
        anchor = v->data.scalar.anchor;
        break;
    default:
        break;
    }
    x->anchors += anchor != NULL;
    return x->depth > RECIPE_MAX_DEPTH           ? "too deep"
           : x->anchors > RECIPE_MAX_ANCHORS     ? "too full of anchors"
           : ++x->nodes > 2 * RECIPE_MAX_NODES ? "too large"
                                                 : NULL;
}

static int check_extent(const char *text, size_t n, struct pq_error *e)
{
    struct extent x = {0};
    yaml_parser_t parser;
    yaml_event_t event;
    bool more = true;
    int rc = 0;

    if (!yaml_parser_initialize(&parser))
        return pq_fail_nomem(e);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    while (!rc && more) {
        if (!yaml_parser_parse(&parser, &event)) {
            rc = complain(&parser, e);
            break;
        }
        const char *what = too_much(&x, &event);
        more = event.type != YAML_STREAM_END_EVENT;
        if (what)
            rc = pq_fail(e, PQ_ELIMIT, "line %zu: the recipe is %s",
                         event.start_mark.line + 1, what);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return rc;
}

/* ---- the document ------------------------------------------------------ */

/* Nothing may follow the first document. */
static int check_end(yaml_parser_t *p, struct pq_error *e)
{
    yaml_document_t next;
    int rc = 0;

    if (!yaml_parser_load(p, &next))
        return complain(p, e);
    const yaml_node_t *root = yaml_document_get_root_node(&next);
    if (root)
        rc = pq_fail(e, PQ_EUNSUPPORTED,
                     "line %u: a second document; a recipe is one",
                     line_of(root));
    yaml_document_delete(&next);
    return rc;
}

static struct recipe_node *unfold_document(yaml_document_t *d,
                                           struct pq_arena *a,
                                           struct pq_error *e)
{
    struct unfold u = {.document = d, .arena = a, .e = e};
    struct recipe_node *root = pq_arena_alloc(a, 1, sizeof *root);
    int rc;

    u.n_nodes = (size_t)(d->nodes.top - d->nodes.start);
    u.open = pq_zalloc(u.n_nodes, sizeof *u.open);
    rc = root && u.open ? 0 : pq_fail_nomem(e);
    if (!rc && !yaml_document_get_root_node(d))
        rc = pq_fail(e, PQ_EFORMAT, "is empty");
    if (!rc)
        rc = unfold(&u, 1, root);
    free(u.open);
    return rc ? NULL : root;
}

const struct recipe_node *recipe_tree(const char *text, size_t n,
                                      struct pq_arena *a, struct pq_error *e)
{
    struct recipe_node *root = NULL;
    yaml_document_t document;
    yaml_parser_t parser;

    if (n > RECIPE_MAX_BYTES) {
        pq_fail(e, PQ_ELIMIT, "is larger than %u bytes", RECIPE_MAX_BYTES);
        return NULL;
    }
    if (check_extent(text, n, e))
        return NULL;
    if (!yaml_parser_initialize(&parser)) {
        pq_fail_nomem(e);
        return NULL;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    if (yaml_parser_load(&parser, &document)) {
        root = unfold_document(&document, a, e);
        yaml_document_delete(&document);
        if (root && check_end(&parser, e))
            root = NULL;
    } else {
        complain(&parser, e);
    }
    yaml_parser_delete(&parser);
    return root;
}

const struct recipe_node *recipe_get(const struct recipe_node *map,
                                     const char *key)
{
    for (size_t i = 0; i < map->n; i++)
        if (strcmp(map->items[i].key, key) == 0)
            return map->items[i].kind == RECIPE_NULL ? NULL : &map->items[i];
    return NULL;
}

int recipe_fail(const struct recipe_node *at, struct pq_error *e,
                const char *fmt, ...)
{
    char text[400];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return pq_fail(e, PQ_EARG, "line %u: %s", at->line, text);
}
