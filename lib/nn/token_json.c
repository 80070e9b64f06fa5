/*
 * Tokenizers: tokenizer.json.
 *
 *     {"added_tokens": [{"id": 0, "content": "<s>", "special": true, ..}, ..],
 *      "normalizer": .., "pre_tokenizer": .., "post_processor": ..,
 *      "decoder": ..,
 *      "model": {"type": "BPE", "vocab": {"a": 5, ..},
 *                "merges": ["a b", ..] or [["a", "b"], ..], ..}}
 *     or      {"type": "Unigram", "vocab": [["a", -1.5], ..], "unk_id": 0}
 *
 * First the places of all sections are found, so that their order does not
 * matter; the small ones go through cJSON, the vocabulary and the merges
 * through the tokenizer of lib/json.
 */
#include "token_json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const section_names[N_SECTIONS] = {
    "added_tokens",   "normalizer", "pre_tokenizer",
    "post_processor", "decoder",    "model"};
static const char *const key_names[N_KEYS] = {"type",
                                              "vocab",
                                              "merges",
                                              "unk_token",
                                              "unk_id",
                                              "fuse_unk",
                                              "byte_fallback",
                                              "ignore_merges",
                                              "dropout",
                                              "continuing_subword_prefix",
                                              "end_of_word_suffix"};

/* Where the values of some keys of an object are. */
static int find_values(const struct file *f, struct span in,
                       const char *const *names, struct span *out, size_t n)
{
    struct pq_json j;
    enum pq_json_type k;
    start(f, in, &j);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(f->e, PQ_EFORMAT, "byte %zu: not an object", in.from);
    while ((k = pq_json_next(&j)) == PQ_JSON_KEY) {
        size_t i = 0;
        while (i < n && !pq_json_is(&j, names[i]))
            i++;
        const size_t from = j.at;
        if (pq_json_skip(&j, PQ_JSON_KEY) != 0)
            return -1;
        if (i == n)
            continue;
        if (out[i].to != 0)
            return pq_fail(f->e, PQ_EFORMAT, "\"%s\" twice", names[i]);
        out[i] = (struct span){from, j.at};
    }
    return k == PQ_JSON_ERROR || pq_json_next(&j) != PQ_JSON_END ? -1 : 0;
}

/* NULL in *c for a section that is not there. */
static int parse_small(const struct file *f, int section, cJSON **c)
{
    const struct span s = f->sections[section];
    *c = NULL;
    if (s.to == 0)
        return 0;
    if (pq_json_check(f->text + s.from, s.to - s.from, f->e) != 0)
        return pq_error_in(f->e, "%s", section_names[section]);
    *c = cJSON_ParseWithLength(f->text + s.from, s.to - s.from);
    return *c ? 0 : pq_fail_nomem(f->e);
}

static int read_small(const struct file *f, int section,
                      int (*read)(struct pq_tokenizer *t, const cJSON *c,
                                  struct pq_error *e))
{
    cJSON *c;
    int rc = parse_small(f, section, &c);
    if (rc == 0)
        rc = read(f->t, c, f->e);
    cJSON_Delete(c);
    return rc;
}

/* ---- the model's keys ---------------------------------------------------- */

/* A value that is not there, or null, leaves *out as it is. */
static int read_bool(const struct file *f, int key, bool *out)
{
    struct pq_json j;
    if (f->keys[key].to == 0)
        return 0;
    start(f, f->keys[key], &j);
    const enum pq_json_type t = pq_json_next(&j);
    if (t == PQ_JSON_TRUE || t == PQ_JSON_FALSE)
        *out = t == PQ_JSON_TRUE;
    else if (t != PQ_JSON_NULL)
        return wrong(f, key_names[key]);
    return 0;
}

static int copy(const struct file *f, struct pq_json *j, struct tok_text *out)
{
    const char *s;
    if (pq_json_string(j, &f->t->arena, &s, &out->n) != 0)
        return -1;
    out->s = pq_arena_strndup(&f->t->arena, s, out->n);
    return out->s ? 0 : pq_fail_nomem(f->e);
}

static int read_text(const struct file *f, int key, struct tok_text *out)
{
    struct pq_json j;
    if (f->keys[key].to == 0)
        return 0;
    start(f, f->keys[key], &j);
    const enum pq_json_type t = pq_json_next(&j);
    if (t == PQ_JSON_STRING)
        return copy(f, &j, out);
    return t == PQ_JSON_NULL ? 0 : wrong(f, key_names[key]);
}

/* Keys that would change what merges, if they were more than nothing. */
static int refuse_keys(const struct file *f)
{
    static const int keys[] = {DROPOUT, PREFIX, SUFFIX};
    for (size_t i = 0; i < 3; i++) {
        struct pq_json j;
        if (f->keys[keys[i]].to == 0)
            continue;
        start(f, f->keys[keys[i]], &j);
        const enum pq_json_type t = pq_json_next(&j);
        double v = 1;
        if (t == PQ_JSON_NULL || (t == PQ_JSON_STRING && j.length == 0))
            continue;
        if (t == PQ_JSON_NUMBER && pq_json_double(&j, &v) == 0 && v == 0)
            continue;
        return pq_fail(f->e, PQ_EUNSUPPORTED, "model: %s is not supported",
                       key_names[keys[i]]);
    }
    return 0;
}

/* A model without a type (old files) is known by what it has. */
static int read_type(struct file *f)
{
    struct tok_text type = {NULL, 0};
    struct pq_json j;
    if (read_text(f, TYPE, &type) != 0)
        return -1;
    if (f->keys[VOCAB].to == 0)
        return wrong(f, "vocab");
    start(f, f->keys[VOCAB], &j);
    const bool list = pq_json_next(&j) == PQ_JSON_ARRAY;
    if (type.s != NULL && strcmp(type.s, "BPE") != 0 &&
        strcmp(type.s, "Unigram") != 0)
        return pq_fail(f->e, PQ_EUNSUPPORTED,
                       "model: type \"%s\" is not supported", type.s);
    if (type.s == NULL && !list && f->keys[MERGES].to == 0)
        return pq_fail(f->e, PQ_EUNSUPPORTED,
                       "model: neither merges nor scores");
    f->t->unigram = type.s ? strcmp(type.s, "Unigram") == 0 : list;
    if (f->t->unigram && f->t->byte_level)
        return pq_fail(f->e, PQ_EUNSUPPORTED,
                       "model: Unigram over ByteLevel is not supported");
    return f->t->unigram == list ? 0 : wrong(f, "vocab");
}

/* ---- the vocabulary ------------------------------------------------------ */

static int add_entry(struct file *f, struct tok_text text, uint64_t id)
{
    struct tok_entry *const list =
        pq_grow(f->entries, f->n_entries, &f->cap, sizeof *list);
    if (list == NULL)
        return pq_fail_nomem(f->e);
    f->entries = list;
    list[f->n_entries++] = (struct tok_entry){text, id};
    if (id >= PQ_TOKEN_IDS)
        return pq_fail(f->e, PQ_ELIMIT, "token id %llu is not below %u",
                       (unsigned long long)id, PQ_TOKEN_IDS);
    if (id >= f->top)
        f->top = id + 1;
    return 0;
}

static int read_vocab(struct file *f)
{
    struct pq_json j;
    enum pq_json_type k;
    start(f, f->keys[VOCAB], &j);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return wrong(f, "vocab");
    while ((k = pq_json_next(&j)) == PQ_JSON_KEY) {
        struct tok_text text;
        uint64_t id;
        if (copy(f, &j, &text) != 0)
            return -1;
        if (pq_json_next(&j) != PQ_JSON_NUMBER)
            return wrong(f, "vocab");
        if (pq_json_u64(&j, &id) != 0 || add_entry(f, text, id) != 0)
            return -1;
    }
    return k == PQ_JSON_OBJECT_END ? 0 : -1;
}

/*
 * A score as serde_json reads it for the library: the digits as an integer,
 * rounded, over a power of ten.  That may be one unit in the last place from
 * the nearest double, and decides between ways of equal score.
 */
static int read_score(struct pq_json *j, double *score)
{
    static const double tens[] = {
        1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *const s = j->text + j->start;
    const bool minus = s[0] == '-';
    uint64_t digits = 0;
    size_t behind = 0; /* digits behind the point */
    bool point = false;
    for (size_t i = minus; i < j->length; i++) {
        uint64_t more;
        if (s[i] == '.') {
            point = true;
            continue;
        }
        if (s[i] == 'e' || s[i] == 'E' || !pq_mul(digits, 10, &more) ||
            !pq_add(more, (uint64_t)(s[i] - '0'), &more) || behind == 22)
            return pq_json_double(j, score); /* nobody writes these */
        digits = more;
        behind += point;
    }
    const double v = (double)digits / tens[behind];
    *score = minus ? -v : v;
    return 0;
}

static int read_piece(struct file *f, struct pq_json *j)
{
    struct tok_text text;
    double score;
    if (pq_json_next(j) != PQ_JSON_STRING)
        return wrong(f, "vocab");
    if (copy(f, j, &text) != 0)
        return -1;
    if (pq_json_next(j) != PQ_JSON_NUMBER)
        return wrong(f, "vocab");
    if (read_score(j, &score) != 0)
        return -1;
    if (pq_json_next(j) != PQ_JSON_ARRAY_END)
        return wrong(f, "vocab");
    double *const scores =
        pq_grow(f->scores, f->n_entries, &f->scores_cap, sizeof *scores);
    if (scores == NULL)
        return pq_fail_nomem(f->e);
    f->scores = scores;
    scores[f->n_entries] = score;
    return add_entry(f, text, f->n_entries);
}

static int read_pieces(struct file *f)
{
    struct pq_json j;
    enum pq_json_type k;
    start(f, f->keys[VOCAB], &j);
    if (pq_json_next(&j) != PQ_JSON_ARRAY)
        return wrong(f, "vocab");
    while ((k = pq_json_next(&j)) == PQ_JSON_ARRAY)
        if (read_piece(f, &j) != 0)
            return -1;
    return k == PQ_JSON_ARRAY_END ? 0 : wrong(f, "vocab");
}

/* ---- added tokens -------------------------------------------------------- */

static int added_flag(const struct file *f, const cJSON *c, const char *key,
                      bool *out)
{
    const cJSON *const v = cJSON_GetObjectItemCaseSensitive(c, key);
    *out = cJSON_IsTrue(v);
    return v && !cJSON_IsBool(v) ? wrong(f, key) : 0;
}

static int read_added(struct file *f, const cJSON *c, struct tok_added *x)
{
    const cJSON *const id = cJSON_GetObjectItemCaseSensitive(c, "id");
    const cJSON *const s = cJSON_GetObjectItemCaseSensitive(c, "content");
    if (!tok_json_id(id, &x->id))
        return wrong(f, "added_tokens: id");
    if (!cJSON_IsString(s))
        return wrong(f, "added_tokens: content");
    x->content.n = strlen(s->valuestring);
    x->content.s = pq_arena_strndup(&f->t->arena, s->valuestring, x->content.n);
    if (x->content.s == NULL)
        return pq_fail_nomem(f->e);
    if (added_flag(f, c, "single_word", &x->single_word) != 0 ||
        added_flag(f, c, "lstrip", &x->lstrip) != 0 ||
        added_flag(f, c, "rstrip", &x->rstrip) != 0 ||
        added_flag(f, c, "normalized", &x->normalized) != 0 ||
        added_flag(f, c, "special", &x->special) != 0)
        return -1;
    if (x->id >= f->top)
        f->top = x->id + 1u;
    return 0;
}

static int read_added_list(struct file *f, const cJSON *c)
{
    if (c == NULL || cJSON_IsNull(c))
        return 0;
    if (!cJSON_IsArray(c))
        return wrong(f, "added_tokens");
    f->t->added = pq_zalloc((size_t)cJSON_GetArraySize(c), sizeof *f->t->added);
    if (f->t->added == NULL)
        return pq_fail_nomem(f->e);
    for (const cJSON *x = c->child; x; x = x->next)
        if (read_added(f, x, &f->t->added[f->t->n_added++]) != 0)
            return -1;
    return 0;
}

/* ---- all of it ----------------------------------------------------------- */

static int read_bpe(struct file *f)
{
    struct pq_tokenizer *const t = f->t;
    struct tok_text unk = {NULL, 0};
    struct pq_buf b = {0};

    if (read_bool(f, FUSE_UNK, &t->fuse_unk) != 0 ||
        read_bool(f, IGNORE_MERGES, &t->ignore_merges) != 0 ||
        read_text(f, UNK_TOKEN, &unk) != 0 || refuse_keys(f) != 0)
        return -1;
    t->cut = !t->byte_level && !t->ignore_merges &&
             tok_vocab_find(&t->vocab, TOK_MARK, TOK_MARK_BYTES) != NONE;
    if (tok_read_merges(f) != 0)
        return -1;
    if (unk.s != NULL) {
        if (tok_key_of(f, &unk, &b))
            t->unk = tok_vocab_find(&t->vocab, unk.s, unk.n);
        pq_buf_release(&b);
        if (t->unk == NONE)
            return wrong(f, "unk_token");
    }
    return 0;
}

static int read_unigram(struct file *f)
{
    struct pq_tokenizer *const t = f->t;
    struct pq_json j;
    uint64_t id;

    t->scores = f->scores;
    f->scores = NULL;
    if (f->n_entries == 0)
        return wrong(f, "vocab");
    double low = INFINITY;
    for (size_t i = 0; i < f->n_entries; i++)
        low = t->scores[i] < low ? t->scores[i] : low;
    t->unk_score = low - 10;
    if (tok_index_pieces(t, f->e) != 0)
        return -1;
    if (f->keys[UNK_ID].to == 0)
        return 0;
    start(f, f->keys[UNK_ID], &j);
    const enum pq_json_type k = pq_json_next(&j);
    if (k == PQ_JSON_NULL)
        return 0;
    if (k != PQ_JSON_NUMBER || pq_json_u64(&j, &id) != 0 || id >= f->n_entries)
        return wrong(f, "unk_id");
    t->unk = (uint32_t)id;
    return 0;
}

static int read_model(struct file *f)
{
    if (f->sections[MODEL].to == 0)
        return wrong(f, "model");
    if (find_values(f, f->sections[MODEL], key_names, f->keys, N_KEYS) != 0 ||
        read_type(f) != 0 ||
        read_bool(f, BYTE_FALLBACK, &f->t->byte_fallback) != 0)
        return -1;
    return f->t->unigram ? read_pieces(f) : read_vocab(f);
}

/* What the post-processor adds must be tokens. */
static int check_bounds(const struct file *f)
{
    const struct pq_tokenizer *const t = f->t;
    for (size_t i = 0; i < t->n_before + t->n_after; i++) {
        const uint32_t id =
            i < t->n_before ? t->before[i] : t->after[i - t->n_before];
        if (id >= t->vocab.top || t->vocab.text[id].s == NULL)
            return pq_fail(f->e, PQ_EFORMAT,
                           "post_processor: there is no token %u", id);
    }
    return 0;
}

static int read_all(struct file *f)
{
    struct pq_tokenizer *const t = f->t;
    const struct span all = {0, f->n};
    cJSON *added = NULL;

    if (find_values(f, all, section_names, f->sections, N_SECTIONS) != 0 ||
        read_small(f, NORMALIZER, tok_read_normalizer) != 0 ||
        read_small(f, SPLITS, tok_read_splits) != 0 ||
        read_small(f, POST, tok_read_post) != 0 ||
        read_small(f, DECODER, tok_read_decoder) != 0 || read_model(f) != 0)
        return -1;
    int rc = parse_small(f, ADDED, &added);
    if (rc == 0)
        rc = read_added_list(f, added);
    cJSON_Delete(added);
    if (rc != 0 ||
        tok_vocab_fill(&t->vocab, f->entries, f->n_entries, f->top,
                       t->byte_level, &t->arena, f->e) != 0 ||
        tok_find_bytes(t, f->e) != 0 ||
        (t->unigram ? read_unigram(f) : read_bpe(f)) != 0)
        return -1;
    return tok_index_added(t, f->e) == 0 ? check_bounds(f) : -1;
}

int pq_tokenizer_parse(const char *json, size_t n, struct pq_tokenizer **t,
                       struct pq_error *e)
{
    struct pq_tokenizer *const x = pq_zalloc(1, sizeof *x);
    struct file f = {.text = json, .n = n, .t = x, .e = e};

    if (x == NULL)
        return pq_fail_nomem(e);
    x->unk = NONE;
    const int rc = read_all(&f);
    free(f.entries);
    free(f.scores);
    if (rc != 0)
        pq_tokenizer_free(x);
    else
        *t = x;
    return rc;
}
