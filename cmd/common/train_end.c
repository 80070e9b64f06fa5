/*
 * The token that ends a text, which training adds to texts so that the model
 * learns to stop; see training.h.
 *
 *     tokenizer_config.json    "eos_token": "</s>", or {"content": "</s>", ...}
 *     special_tokens_map.json  the same, where the first does not speak of it
 *     config.json              "eos_token_id": 2, where none of them does
 */
#include "config.h"
#include "pq_json.h"
#include "training.h"

struct eos {
    struct pq_arena arena;
    const char *text; /* [n], or NULL: there is none */
    size_t n;
    bool said; /* one way or the other */
};

/* A text, or an object with it; all else says that there is none. */
static int read_token(struct pq_json *j, struct eos *x)
{
    enum pq_json_type t = pq_json_next(j);

    if (t == PQ_JSON_STRING)
        return pq_json_string(j, &x->arena, &x->text, &x->n);
    if (t != PQ_JSON_OBJECT)
        return pq_json_skip(j, t);
    while ((t = pq_json_next(j)) == PQ_JSON_KEY) {
        const bool is_text = pq_json_is(j, "content");
        t = is_text ? pq_json_next(j) : PQ_JSON_KEY;
        if (t == PQ_JSON_STRING ? pq_json_string(j, &x->arena, &x->text, &x->n)
                                : pq_json_skip(j, t))
            return -1;
    }
    return t == PQ_JSON_OBJECT_END ? 0 : -1;
}

static int read_file(const struct pq_catalog *c, const char *name,
                     struct eos *x, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(c, name);
    struct pq_json j;
    enum pq_json_type t;

    if (!b || x->said)
        return 0;
    pq_json_init(&j, b->data, (size_t)b->bytes, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "%s: is not a JSON object", name);
    while ((t = pq_json_next(&j)) == PQ_JSON_KEY) {
        const bool is_eos = pq_json_is(&j, "eos_token");
        x->said = x->said || is_eos;
        if (is_eos ? read_token(&j, x) : pq_json_skip(&j, PQ_JSON_KEY))
            return pq_error_in(e, "%s", name);
    }
    return t == PQ_JSON_OBJECT_END ? 0 : pq_error_in(e, "%s", name);
}

static int find(const struct cmd_data *d, struct eos *x, uint32_t *id,
                struct pq_error *e)
{
    uint64_t number;

    if (read_file(d->model, "tokenizer_config.json", x, e) ||
        read_file(d->model, "special_tokens_map.json", x, e))
        return -1;
    if (x->text)
        *id = pq_tokenizer_id(d->tokenizer, x->text, x->n);
    else if (!x->said &&
             cmd_config_number(d->model, "eos_token_id", &number, e) &&
             number < PQ_TOKEN_IDS)
        *id = (uint32_t)number;
    return e->code ? -1 : 0;
}

static int add(struct cmd_example *x, int32_t id, struct pq_error *e)
{
    if (!x->tokenized || x->n == 0 || x->ids[x->n - 1] == id)
        return 0;
    int32_t *grown = pq_resize(x->ids, x->n + 1, sizeof *grown);
    if (!grown)
        return pq_fail_nomem(e);
    x->ids = grown;
    x->ids[x->n++] = id;
    return 0;
}

int train_end_texts(struct cmd_data *d, struct pq_error *e)
{
    struct eos x = {0};
    uint32_t id = PQ_TOKEN_NONE;
    /* without a tokenizer there were no texts */
    int rc = d->tokenizer ? find(d, &x, &id, e) : 0;

    for (size_t i = 0; !rc && id != PQ_TOKEN_NONE && i < d->n; i++)
        rc = add(&d->items[i], (int32_t)id, e);
    pq_arena_release(&x.arena);
    return rc;
}
