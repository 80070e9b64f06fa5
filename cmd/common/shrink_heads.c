/*
 * Which heads of attention go.
 *
 *     q_proj [H d, h]    rows      o_proj [h, H d]   columns
 *     k_proj [K d, h]    rows      v_proj [K d, h]   rows
 *
 * H query heads, K key heads, d the size of one; query head i looks at key
 * head i / (H / K).  A key head goes when all of its query heads go; those
 * that stay must keep equally many, and all layers the same numbers, for
 * config.json has one of each.
 */
#include "config.h"
#include "shrink.h"

#include <string.h>

/* Those whose heads can be taken out, and how many key heads they have when
   config.json does not say: 0, as many as heads. */
static const struct {
    const char *type;
    uint64_t key_heads;
} families[] = {{"llama", 0}, {"mistral", 8}, {"qwen2", 32}, {"qwen3", 32}};

struct heads {
    uint64_t n, key_n, size; /* H, K, d */
    bool *gone;              /* [layers][n] */
};

/* ---- how many there are ------------------------------------------------ */

static int find_family(const struct shrink *s, size_t *family,
                       struct pq_error *e)
{
    char type[64] = "";

    if (!s->has_config)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: has no config.json to say how many heads it has",
                       s->in->name);
    (void)cmd_config_string(s->in->catalog, "model_type", type, sizeof type,
                            e);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].type, type) == 0) {
            *family = i;
            return 0;
        }
    if (e->code)
        return -1;
    if (strcmp(type, "gpt2") == 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: heads of gpt2 cannot be dropped: its config.json "
                       "has no size of a head, which is n_embd / n_head",
                       s->in->name);
    return pq_fail(e, PQ_EUNSUPPORTED,
                   "%s: heads of a model_type '%s' are not supported by pq",
                   s->in->name, type);
}

static int fits(const struct shrink *s, size_t layer, enum pq_block_role role,
                int dimension, uint64_t size, struct pq_error *e)
{
    const struct pq_tensor *t = shrink_tensor(s, layer, role, e);
    char shape[96];

    if (!t || t->shape[dimension] == size)
        return t ? 0 : -1;
    pq_shape_text(t->shape, t->rank, shape, sizeof shape);
    return pq_fail(e, PQ_EFORMAT,
                   "tensor %s: %s does not fit the heads of config.json",
                   t->name, shape);
}

/* From config.json and the first layer that stays; the others must agree. */
static int count_heads(const struct shrink *s, struct heads *h,
                       struct pq_error *e)
{
    const struct pq_catalog *c = s->in->catalog;
    size_t family = 0, first = 0;

    if (find_family(s, &family, e))
        return -1;
    while (!shrink_stays(s, first))
        first++;
    const struct pq_tensor *q = shrink_tensor(s, first, PQ_BLOCK_QUERY, e);
    if (!q)
        return -1;
    if (!cmd_config_number(c, "num_attention_heads", &h->n, e) || !h->n ||
        q->shape[0] % h->n)
        return pq_fail(e, PQ_EFORMAT,
                       "%s: config.json: num_attention_heads does not fit "
                       "tensor %s",
                       s->in->name, q->name);
    h->size = q->shape[0] / h->n;
    if (!cmd_config_number(c, "num_key_value_heads", &h->key_n, e))
        h->key_n = families[family].key_heads ? families[family].key_heads
                                              : h->n;
    if (h->key_n == 0 || h->n % h->key_n)
        return pq_fail(e, PQ_EFORMAT,
                       "%s: config.json: %llu heads cannot share %llu key "
                       "heads",
                       s->in->name, (unsigned long long)h->n,
                       (unsigned long long)h->key_n);
    for (size_t i = first; i < s->n_layers; i++)
        if (shrink_stays(s, i) &&
            (fits(s, i, PQ_BLOCK_QUERY, 0, h->n * h->size, e) ||
             fits(s, i, PQ_BLOCK_KEY, 0, h->key_n * h->size, e) ||
             fits(s, i, PQ_BLOCK_VALUE, 0, h->key_n * h->size, e) ||
             fits(s, i, PQ_BLOCK_OUT, 1, h->n * h->size, e)))
            return -1;
    return 0;
}

/* ---- which go ---------------------------------------------------------- */

static int mark(const struct shrink *s, const struct heads *h,
                const struct shrink_item *x, struct pq_error *e)
{
    if (shrink_check_layers(s, &x->layers, e))
        return -1;
    if (x->heads.last != UINT64_MAX && x->heads.last >= h->n)
        return pq_fail(e, PQ_EARG,
                       "%s: a layer has no head %llu; the last one is %llu",
                       s->in->name, (unsigned long long)x->heads.last,
                       (unsigned long long)h->n - 1);
    for (uint64_t i = x->layers.first;
         i <= x->layers.last && i < s->n_layers; i++)
        for (uint64_t k = x->heads.first; k <= x->heads.last && k < h->n; k++)
            h->gone[i * h->n + k] = true;
    return 0;
}

/* How many heads stay in a layer, and key heads with them. */
static int count_left(const struct shrink *s, const struct heads *h, size_t i,
                      uint64_t *left, uint64_t *key_left, struct pq_error *e)
{
    const uint64_t group = h->n / h->key_n;
    uint64_t each = 0;

    *left = *key_left = 0;
    for (uint64_t k = 0; k < h->key_n; k++) {
        uint64_t n = 0;
        for (uint64_t q = 0; q < group; q++)
            n += !h->gone[i * h->n + k * group + q];
        if (n && each && n != each)
            return pq_fail(e, PQ_EARG,
                           "%s: layer %zu: of key head %llu %llu query heads "
                           "would stay, of those before it %llu; all must "
                           "keep equally many",
                           s->in->name, i, (unsigned long long)k,
                           (unsigned long long)n, (unsigned long long)each);
        each = n ? n : each;
        *left += n;
        *key_left += n > 0;
    }
    return *left ? 0
                 : pq_fail(e, PQ_EARG, "%s: layer %zu: no head would be left",
                           s->in->name, i);
}

static int keep_heads(struct shrink *s, const struct heads *h, size_t i,
                      struct pq_error *e)
{
    const uint64_t group = h->n / h->key_n;
    bool *keys = pq_arena_alloc(&s->arena, (size_t)h->key_n, sizeof *keys);

    if (!keys)
        return pq_fail_nomem(e);
    for (uint64_t k = 0; k < h->key_n; k++) {
        keys[k] = true;
        for (uint64_t q = 0; q < group; q++)
            keys[k] &= h->gone[i * h->n + k * group + q];
    }
    return shrink_spans(s, h->gone + i * h->n, h->n, h->size,
                        &s->layers[i].query, e) ||
                   shrink_spans(s, keys, h->key_n, h->size,
                                &s->layers[i].key, e)
               ? -1
               : 0;
}

static int choose(struct shrink *s, const struct heads *h, struct pq_error *e)
{
    size_t first = SIZE_MAX;
    uint64_t left, key_left;

    for (size_t i = 0; i < s->n_layers; i++) {
        if (!shrink_stays(s, i))
            continue;
        if (count_left(s, h, i, &left, &key_left, e))
            return -1;
        if (first == SIZE_MAX) {
            first = i;
            s->heads = left;
            s->key_heads = key_left;
        }
        if (left != s->heads || key_left != s->key_heads)
            return pq_fail(e, PQ_EARG,
                           "%s: layer %zu: %llu heads and %llu key heads "
                           "would stay, in layer %zu %llu and %llu; all "
                           "layers must keep equally many",
                           s->in->name, i, (unsigned long long)left,
                           (unsigned long long)key_left, first,
                           (unsigned long long)s->heads,
                           (unsigned long long)s->key_heads);
        if (keep_heads(s, h, i, e))
            return -1;
    }
    return 0;
}

int shrink_choose_heads(struct shrink *s, struct pq_error *e)
{
    const char *text = s->o->heads;
    struct heads h = {0};
    struct shrink_item item;
    uint64_t n;
    int rc;

    if (!text)
        return 0;
    if (count_heads(s, &h, e))
        return -1;
    h.gone = pq_mul(s->n_layers, h.n, &n)
                 ? pq_arena_alloc(&s->arena, (size_t)n, sizeof *h.gone)
                 : NULL;
    if (!h.gone)
        return pq_fail_nomem(e);
    while ((rc = shrink_next(&text, true, &item, e)) > 0)
        if (mark(s, &h, &item, e))
            return -1;
    s->head_size = h.size;
    return rc ? rc : choose(s, &h, e);
}

int shrink_set_heads(struct shrink *s, struct pq_error *e)
{
    if (!s->heads)
        return 0;
    struct pq_catalog *c = s->view->catalog;
    return cmd_config_set_number(c, "num_attention_heads", s->heads, e) ||
                   cmd_config_set_number(c, "num_key_value_heads",
                                         s->key_heads, e) ||
                   cmd_config_set_number(c, "head_dim", s->head_size, e)
               ? -1
               : 0;
}
