/*
 * Tokenizers: strings by their beginnings.
 *
 *     "a" 5, "ab" 7:   node 0 --a--> node 1 (5) --b--> node 2 (7)
 *
 * The edges of all nodes are in one hash table under (node, byte).
 */
#include "token.h"

#include <stdlib.h>

static size_t edge_slot(const struct tok_trie *t, uint64_t key)
{
    return (size_t)(key * 0x9e3779b97f4a7c15u >> 24) & (t->n_slots - 1);
}

static void put_edge(struct tok_trie *t, uint64_t key, uint32_t child)
{
    size_t i = edge_slot(t, key);
    while (t->edges[i].key != 0)
        i = (i + 1) & (t->n_slots - 1);
    t->edges[i] = (struct tok_edge){key, child};
}

static bool more_slots(struct tok_trie *t)
{
    struct tok_trie more = *t;
    more.n_slots = t->n_slots ? t->n_slots * 2 : 64;
    more.edges = pq_zalloc(more.n_slots, sizeof *more.edges);
    if (more.edges == NULL)
        return false;
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->edges[i].key != 0)
            put_edge(&more, t->edges[i].key, t->edges[i].child);
    free(t->edges);
    *t = more;
    return true;
}

/* A node without a value; false when memory is short. */
static bool new_node(struct tok_trie *t)
{
    uint32_t *const v = pq_grow(t->values, t->n_nodes, &t->cap, sizeof *v);
    if (v == NULL || t->n_nodes >= NONE)
        return false;
    t->values = v;
    v[t->n_nodes++] = NONE;
    return true;
}

uint32_t tok_trie_step(const struct tok_trie *t, uint32_t node,
                       unsigned char byte)
{
    if (t->n_slots == 0)
        return 0;
    const uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    for (size_t i = edge_slot(t, key); t->edges[i].key != 0;
         i = (i + 1) & (t->n_slots - 1))
        if (t->edges[i].key == key)
            return t->edges[i].child;
    return 0;
}

int tok_trie_put(struct tok_trie *t, struct tok_text s, uint32_t value,
                 struct pq_error *e)
{
    uint32_t node = 0;
    if (t->n_nodes == 0 && !new_node(t))
        return pq_fail_nomem(e);
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char byte = (unsigned char)s.s[i];
        uint32_t next = tok_trie_step(t, node, byte);
        if (next == 0) {
            if (t->n_nodes * 2 >= t->n_slots && !more_slots(t))
                return pq_fail_nomem(e);
            next = (uint32_t)t->n_nodes;
            if (!new_node(t))
                return pq_fail_nomem(e);
            put_edge(t, ((uint64_t)node << 8 | byte) + 1, next);
        }
        node = next;
    }
    t->values[node] = value;
    return 0;
}

uint32_t tok_trie_longest(const struct tok_trie *t, const char *s, size_t n,
                          size_t *k)
{
    uint32_t node = 0, best = NONE;
    for (size_t i = 0; i < n; i++) {
        node = tok_trie_step(t, node, (unsigned char)s[i]);
        if (node == 0)
            break;
        if (t->values[node] != NONE) {
            best = t->values[node];
            *k = i + 1;
        }
    }
    return best;
}

void tok_trie_release(struct tok_trie *t)
{
    free(t->edges);
    free(t->values);
    *t = (struct tok_trie){0};
}
