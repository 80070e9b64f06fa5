/*
 * Tokenizers: the post-processor of a tokenizer.json, which is ids before
 * and behind those of the text.
 *
 *     "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]
 *     "special_tokens": {"<s>": {"ids": [1], ..}}
 */
#include "token.h"

#include <cjson/cJSON.h>
#include <string.h>

#define MAX_BOUNDS 64 /* ids on one side */

struct bounds {
    uint32_t before[MAX_BOUNDS], after[MAX_BOUNDS];
    size_t n_before, n_after;
};

static const cJSON *get(const cJSON *c, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(c, key);
}

static int wrong(struct pq_error *e, const char *key)
{
    return pq_fail(e, PQ_EFORMAT, "post_processor: bad or missing \"%s\"", key);
}

static int too_many(struct pq_error *e)
{
    return pq_fail(e, PQ_ELIMIT,
                   "post_processor: more than %d tokens on one side",
                   MAX_BOUNDS);
}

static int add_id(struct bounds *b, bool after, const cJSON *id,
                  const char *key, struct pq_error *e)
{
    size_t *const n = after ? &b->n_after : &b->n_before;
    uint32_t x;
    if (!tok_json_id(id, &x))
        return wrong(e, key);
    if (*n == MAX_BOUNDS)
        return too_many(e);
    (after ? b->after : b->before)[(*n)++] = x;
    return 0;
}

static int add_special(struct bounds *b, bool after, const cJSON *piece,
                       const cJSON *specials, struct pq_error *e)
{
    const cJSON *const name = get(get(piece, "SpecialToken"), "id");
    if (!cJSON_IsString(name))
        return wrong(e, "SpecialToken");
    const cJSON *const ids = get(get(specials, name->valuestring), "ids");
    if (!cJSON_IsArray(ids))
        return wrong(e, "special_tokens");
    for (const cJSON *id = ids->child; id; id = id->next)
        if (add_id(b, after, id, "ids", e) != 0)
            return -1;
    return 0;
}

static int read_template(struct bounds *b, const cJSON *c, struct pq_error *e)
{
    const cJSON *const single = get(c, "single");
    bool after = false;
    if (!cJSON_IsArray(single))
        return wrong(e, "single");
    for (const cJSON *piece = single->child; piece; piece = piece->next) {
        const cJSON *const sequence = get(piece, "Sequence");
        const cJSON *const id = get(sequence, "id");
        if (sequence == NULL) {
            if (add_special(b, after, piece, get(c, "special_tokens"), e) != 0)
                return -1;
        } else if (after || !cJSON_IsString(id) ||
                   strcmp(id->valuestring, "A") != 0) {
            return wrong(e, "Sequence");
        } else {
            after = true;
        }
    }
    return after ? 0 : wrong(e, "single");
}

/* "cls": ["<s>", 0], "sep": ["</s>", 2] */
static int read_pair(struct bounds *b, const cJSON *c, struct pq_error *e)
{
    if (add_id(b, false, cJSON_GetArrayItem(get(c, "cls"), 1), "cls", e) != 0)
        return -1;
    return add_id(b, true, cJSON_GetArrayItem(get(c, "sep"), 1), "sep", e);
}

/* A later processor wraps what the earlier ones made. */
static int wrap(struct pq_tokenizer *t, const struct bounds *b,
                struct pq_error *e)
{
    const size_t n_before = b->n_before + t->n_before;
    const size_t n_after = t->n_after + b->n_after;
    if (n_before > MAX_BOUNDS || n_after > MAX_BOUNDS)
        return too_many(e);
    uint32_t *const before = pq_arena_alloc(&t->arena, n_before, 4);
    uint32_t *const after = pq_arena_alloc(&t->arena, n_after, 4);
    if (before == NULL || after == NULL)
        return pq_fail_nomem(e);
    memcpy(before, b->before, b->n_before * 4);
    if (t->n_before > 0)
        memcpy(before + b->n_before, t->before, t->n_before * 4);
    if (t->n_after > 0)
        memcpy(after, t->after, t->n_after * 4);
    memcpy(after + t->n_after, b->after, b->n_after * 4);
    t->before = before;
    t->after = after;
    t->n_before = n_before;
    t->n_after = n_after;
    return 0;
}

static int read_processor(struct pq_tokenizer *t, const cJSON *c,
                          unsigned depth, struct pq_error *e)
{
    const cJSON *const type = get(c, "type");
    const char *const name = cJSON_IsString(type) ? type->valuestring : "";
    struct bounds b = {.n_before = 0};
    if (strcmp(name, "Sequence") == 0) {
        const cJSON *const list = get(c, "processors");
        if (!cJSON_IsArray(list) || depth > 8)
            return wrong(e, "processors");
        for (const cJSON *x = list->child; x; x = x->next)
            if (read_processor(t, x, depth + 1, e) != 0)
                return -1;
        return 0;
    }
    if (strcmp(name, "ByteLevel") == 0)
        return 0;
    if (strcmp(name, "TemplateProcessing") == 0) {
        if (read_template(&b, c, e) != 0)
            return -1;
    } else if (strcmp(name, "BertProcessing") == 0 ||
               strcmp(name, "RobertaProcessing") == 0) {
        if (read_pair(&b, c, e) != 0)
            return -1;
    } else {
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "post_processor: type \"%s\" is not supported", name);
    }
    return wrap(t, &b, e);
}

int tok_read_post(struct pq_tokenizer *t, const struct cJSON *c,
                  struct pq_error *e)
{
    return c == NULL || cJSON_IsNull(c) ? 0 : read_processor(t, c, 0, e);
}
