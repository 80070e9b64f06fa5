/*
 * Tokenizers: the small sections of a tokenizer.json, each a step or a
 * Sequence of them.
 *
 *     "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, ..]}
 *     "pre_tokenizer": {"type": "ByteLevel", "use_regex": true, ..}
 *     "post_processor": {"type": "TemplateProcessing", "single": [..], ..}
 *     "decoder": {"type": "ByteLevel", ..}
 */
#include "token.h"

#include <cjson/cJSON.h>
#include <string.h>

#define GPT2                                                                   \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"       \
    "\\s+(?!\\S)|\\s+"

#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"

struct reader {
    struct pq_tokenizer *t;
    struct tok_steps *steps;
    const struct step_type *types;
    const char *section, *list; /* "normalizer", "normalizers" */
    struct pq_error *e;
};

struct step_type {
    const char *name;
    enum tok_kind kind;
    int (*read)(struct reader *r, const cJSON *c, struct tok_step *x);
};

/* ---- values -------------------------------------------------------------- */

static const cJSON *get(const cJSON *c, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(c, key);
}

static int wrong(struct reader *r, const char *key)
{
    return pq_fail(r->e, PQ_EFORMAT, "%s: bad or missing \"%s\"", r->section,
                   key);
}

static int keep(struct reader *r, const char *s, struct tok_text *out)
{
    out->n = strlen(s);
    out->s = pq_arena_strndup(&r->t->arena, s, out->n);
    return out->s ? 0 : pq_fail_nomem(r->e);
}

static int get_text(struct reader *r, const cJSON *c, const char *key,
                    struct tok_text *out)
{
    const cJSON *const v = get(c, key);
    return cJSON_IsString(v) ? keep(r, v->valuestring, out) : wrong(r, key);
}

static int get_bool(struct reader *r, const cJSON *c, const char *key,
                    bool otherwise, bool *out)
{
    const cJSON *const v = get(c, key);
    *out = v ? cJSON_IsTrue(v) : otherwise;
    return v && !cJSON_IsBool(v) ? wrong(r, key) : 0;
}

bool tok_json_id(const cJSON *v, uint32_t *id)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) ||
        v->valuedouble >= PQ_TOKEN_IDS)
        return false;
    *id = (uint32_t)v->valuedouble;
    return *id == v->valuedouble;
}

static int get_size(struct reader *r, const cJSON *c, const char *key,
                    size_t *out)
{
    uint32_t v;
    if (!tok_json_id(get(c, key), &v))
        return wrong(r, key);
    *out = v;
    return 0;
}

/* {"String": "x"} or {"Regex": "x"}. */
static int get_pattern(struct reader *r, const cJSON *c, struct tok_step *x)
{
    const cJSON *const p = get(c, "pattern");
    const cJSON *const re = get(p, "Regex");
    if (!cJSON_IsObject(p))
        return wrong(r, "pattern");
    if (re == NULL)
        return get_text(r, p, "String", &x->pattern);
    if (!cJSON_IsString(re))
        return wrong(r, "Regex");
    const struct tok_text text = {re->valuestring, strlen(re->valuestring)};
    return tok_regex_new(text, &x->re, r->e);
}

static int get_behavior(struct reader *r, const cJSON *c, struct tok_step *x)
{
    static const char *const names[] = {"Removed", "Isolated",
                                        "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const cJSON *const v = get(c, "behavior");
    for (size_t i = 0; cJSON_IsString(v) && i < 5; i++) {
        if (strcmp(v->valuestring, names[i]) == 0) {
            x->behavior = (enum tok_behavior)i;
            return 0;
        }
    }
    return wrong(r, "behavior");
}

/* ---- steps --------------------------------------------------------------- */

static int read_nothing(struct reader *r, const cJSON *c, struct tok_step *x)
{
    (void)r;
    (void)c;
    (void)x;
    return 0;
}

static int read_replace(struct reader *r, const cJSON *c, struct tok_step *x)
{
    if (get_pattern(r, c, x) != 0)
        return -1;
    if (x->re != NULL && strcmp(r->section, "decoder") == 0)
        return pq_fail(r->e, PQ_EUNSUPPORTED,
                       "decoder: Replace with a pattern is not supported");
    return get_text(r, c, "content", &x->content);
}

static int read_prepend(struct reader *r, const cJSON *c, struct tok_step *x)
{
    return get_text(r, c, "prepend", &x->content);
}

static int read_strip(struct reader *r, const cJSON *c, struct tok_step *x)
{
    if (get_bool(r, c, "strip_left", true, &x->left) != 0)
        return -1;
    return get_bool(r, c, "strip_right", true, &x->right);
}

/* The six bits of a letter of base64, or -1. */
static int base64_bits(char c)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *const p = c ? strchr(letters, c) : NULL;
    return p ? (int)(p - letters) : -1;
}

/* False when it is not base64. */
static bool base64(const char *s, struct pq_buf *out)
{
    const size_t n = strlen(s);
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '=' && (i + 1 == n || strcmp(s + i, "==") == 0))
            return n % 4 == 0 && i % 4 >= 2;
        const int v = base64_bits(s[i]);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 0)
            continue;
        const char byte = (char)(bits >> (6 - 2 * (i % 4)));
        pq_buf_add(out, &byte, 1);
    }
    return n % 4 == 0;
}

static int read_precompiled(struct reader *r, const cJSON *c,
                            struct tok_step *x)
{
    const cJSON *const v = get(c, "precompiled_charsmap");
    struct pq_buf blob = {0};
    int rc = -1;
    if (!cJSON_IsString(v) || !base64(v->valuestring, &blob))
        wrong(r, "precompiled_charsmap");
    else if (blob.failed)
        pq_fail_nomem(r->e);
    else
        rc = tok_charsmap_read(&x->map, blob.s ? blob.s : "", blob.n,
                               &r->t->arena, r->e);
    pq_buf_release(&blob);
    return rc;
}

static int read_byte_level(struct reader *r, const cJSON *c, struct tok_step *x)
{
    static const struct tok_text gpt2 = {GPT2, sizeof GPT2 - 1};
    bool use_regex;
    if (get_bool(r, c, "add_prefix_space", true, &x->left) != 0 ||
        get_bool(r, c, "use_regex", true, &use_regex) != 0)
        return -1;
    x->behavior = TOK_ISOLATED;
    if (strcmp(r->section, "decoder") == 0)
        return 0;
    r->t->byte_level = true;
    return use_regex ? tok_regex_new(gpt2, &x->re, r->e) : 0;
}

static int read_split(struct reader *r, const cJSON *c, struct tok_step *x)
{
    if (get_pattern(r, c, x) != 0 || get_behavior(r, c, x) != 0)
        return -1;
    return get_bool(r, c, "invert", false, &x->invert);
}

static int read_metaspace(struct reader *r, const cJSON *c, struct tok_step *x)
{
    static const char *const names[] = {"never", "first", "always"};
    const cJSON *const v = get(c, "prepend_scheme");
    bool add, known = v == NULL;
    x->prepend = TOK_ALWAYS;
    for (size_t i = 0; cJSON_IsString(v) && i < 3; i++) {
        if (strcmp(v->valuestring, names[i]) == 0) {
            x->prepend = (enum tok_prepend)i;
            known = true;
        }
    }
    if (!known)
        return wrong(r, "prepend_scheme");
    if (get_text(r, c, "replacement", &x->content) != 0 ||
        get_bool(r, c, "add_prefix_space", true, &add) != 0 ||
        get_bool(r, c, "split", true, &x->left) != 0)
        return -1;
    if (x->content.n == 0 || x->content.n != tok_char_length(x->content.s[0]))
        return wrong(r, "replacement");
    if (!add)
        x->prepend = TOK_NEVER;
    x->pattern = x->content;
    x->behavior = TOK_WITH_NEXT;
    return 0;
}

static int read_digits(struct reader *r, const cJSON *c, struct tok_step *x)
{
    bool single;
    if (get_bool(r, c, "individual_digits", false, &single) != 0)
        return -1;
    x->behavior = single ? TOK_ISOLATED : TOK_CONTIGUOUS;
    return 0;
}

static int read_punctuation(struct reader *r, const cJSON *c,
                            struct tok_step *x)
{
    x->behavior = TOK_ISOLATED;
    return get(c, "behavior") ? get_behavior(r, c, x) : 0;
}

static int read_whitespace(struct reader *r, const cJSON *c, struct tok_step *x)
{
    /* for the Rust crate, whose \w is another than Oniguruma's */
    static const char pattern[] = "[" RUST_WORD "]+|[^\\s" RUST_WORD "]+";
    static const struct tok_text words = {pattern, sizeof pattern - 1};
    (void)c;
    x->behavior = TOK_REMOVED;
    x->invert = true;
    return tok_regex_new(words, &x->re, r->e);
}

static int read_delimiter(struct reader *r, const cJSON *c, struct tok_step *x)
{
    x->behavior = TOK_REMOVED;
    return get_text(r, c, "delimiter", &x->pattern);
}

static int read_strip_chars(struct reader *r, const cJSON *c,
                            struct tok_step *x)
{
    if (get_text(r, c, "content", &x->content) != 0 ||
        get_size(r, c, "start", &x->start) != 0 ||
        get_size(r, c, "stop", &x->stop) != 0)
        return -1;
    return x->content.n && x->content.n == tok_char_length(x->content.s[0])
               ? 0
               : wrong(r, "content");
}

static const struct step_type normalizers[] = {
    {"NFC", TOK_NFC, read_nothing},
    {"NFD", TOK_NFD, read_nothing},
    {"NFKC", TOK_NFKC, read_nothing},
    {"NFKD", TOK_NFKD, read_nothing},
    {"Lowercase", TOK_LOWERCASE, read_nothing},
    {"Replace", TOK_REPLACE, read_replace},
    {"Prepend", TOK_PREPEND, read_prepend},
    {"Strip", TOK_STRIP, read_strip},
    {"StripAccents", TOK_STRIP_ACCENTS, read_nothing},
    {"Nmt", TOK_NMT, read_nothing},
    {"Precompiled", TOK_PRECOMPILED, read_precompiled},
    {NULL, TOK_NFC, NULL},
};

static const struct step_type splits[] = {
    {"ByteLevel", TOK_BYTE_LEVEL, read_byte_level},
    {"Split", TOK_SPLIT, read_split},
    {"Metaspace", TOK_METASPACE, read_metaspace},
    {"Digits", TOK_DIGITS, read_digits},
    {"Punctuation", TOK_PUNCTUATION, read_punctuation},
    {"Whitespace", TOK_SPLIT, read_whitespace},
    {"WhitespaceSplit", TOK_WHITESPACE_SPLIT, read_nothing},
    {"CharDelimiterSplit", TOK_DELIMITER, read_delimiter},
    {NULL, TOK_NFC, NULL},
};

static const struct step_type decoders[] = {
    {"ByteLevel", TOK_BYTE_LEVEL, read_byte_level},
    {"Metaspace", TOK_METASPACE, read_metaspace},
    {"Replace", TOK_REPLACE, read_replace},
    {"ByteFallback", TOK_BYTE_FALLBACK, read_nothing},
    {"Fuse", TOK_FUSE, read_nothing},
    {"Strip", TOK_STRIP_CHARS, read_strip_chars},
    {NULL, TOK_NFC, NULL},
};

/* ---- a section ----------------------------------------------------------- */

static int read_step(struct reader *r, const cJSON *c, unsigned depth)
{
    const cJSON *const type = get(c, "type");
    if (!cJSON_IsString(type))
        return wrong(r, "type");
    if (strcmp(type->valuestring, "Sequence") == 0) {
        const cJSON *const list = get(c, r->list);
        if (!cJSON_IsArray(list) || depth > 8)
            return wrong(r, r->list);
        for (const cJSON *x = list->child; x; x = x->next)
            if (read_step(r, x, depth + 1) != 0)
                return -1;
        return 0;
    }
    for (const struct step_type *k = r->types; k->name; k++) {
        if (strcmp(k->name, type->valuestring) != 0)
            continue;
        if (r->steps->n == TOK_STEPS)
            return pq_fail(r->e, PQ_ELIMIT, "%s: more than %d steps",
                           r->section, TOK_STEPS);
        struct tok_step *const step = &r->steps->list[r->steps->n++];
        step->kind = k->kind;
        return k->read(r, c, step);
    }
    return pq_fail(r->e, PQ_EUNSUPPORTED, "%s: type \"%s\" is not supported",
                   r->section, type->valuestring);
}

static int read_section(struct reader *r, const cJSON *c)
{
    return c == NULL || cJSON_IsNull(c) ? 0 : read_step(r, c, 0);
}

int tok_read_normalizer(struct pq_tokenizer *t, const struct cJSON *c,
                        struct pq_error *e)
{
    struct reader r = {
        t, &t->normalizers, normalizers, "normalizer", "normalizers", e};
    return read_section(&r, c);
}

int tok_read_splits(struct pq_tokenizer *t, const struct cJSON *c,
                    struct pq_error *e)
{
    struct reader r = {t, &t->splits, splits, "pre_tokenizer", "pretokenizers",
                       e};
    if (read_section(&r, c) != 0)
        return -1;
    for (size_t i = 0; i + 1 < t->splits.n; i++)
        if (t->splits.list[i].kind == TOK_BYTE_LEVEL)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "pre_tokenizer: ByteLevel before another step is "
                           "not supported");
    return 0;
}

int tok_read_decoder(struct pq_tokenizer *t, const struct cJSON *c,
                     struct pq_error *e)
{
    struct reader r = {t, &t->decoders, decoders, "decoder", "decoders", e};
    return read_section(&r, c);
}
