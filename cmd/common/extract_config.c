/*
 * adapter_config.json of what was extracted.
 *
 * alpha is the rank, so that every scale is 1.  target_modules are the last
 * names of the modules where that says enough, else their whole names; PEFT
 * takes both, and one module too many would be an adapter without tensors.
 */
#include "config.h"
#include "extract.h"
#include "pq_json.h"
#include "pq_names.h"

#include <stdlib.h>
#include <string.h>

/* The last component of a module's name, and its length. */
static const char *leaf(const struct extract_pair *p, size_t *n)
{
    size_t begin = p->module;

    while (begin > 0 && p->name[begin - 1] != '.')
        begin--;
    *n = p->module - begin;
    return p->name + begin;
}

/* Is `word` a component of the name of some module that is not factored? */
static bool is_elsewhere(const struct extract *x, const char *word, size_t n)
{
    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        size_t k;
        const bool mine = extract_has_factors(p);
        const size_t end = mine ? (size_t)(leaf(p, &k) - p->name) : p->module;
        const bool of_factored =
            p->kind == EXTRACT_BIAS ||
            (p->kind == EXTRACT_SAME && !pq_name_is_weight(p->name));
        if (of_factored)
            continue;
        for (size_t at = 0; at < end; at++) {
            if (at > 0 && p->name[at - 1] != '.')
                continue;
            if (at + n <= end && memcmp(p->name + at, word, n) == 0 &&
                (at + n == end || p->name[at + n] == '.'))
                return true;
        }
    }
    return false;
}

static void put_name(struct pq_buf *b, const char *name, size_t n)
{
    struct pq_buf copy = {0};

    pq_buf_add(&copy, name, n);
    pq_buf_puts(b, b->n ? ",\n    " : "\n    ");
    if (copy.failed)
        b->failed = true;
    else
        pq_json_quote(b, copy.s);
    pq_buf_release(&copy);
}

/* Names of modules, once each, in the order of the pairs. */
struct words {
    struct pq_arena arena;
    struct pq_names seen;
    struct pq_buf list; /* as JSON */
};

static void words_release(struct words *w)
{
    pq_names_release(&w->seen);
    pq_arena_release(&w->arena);
    pq_buf_release(&w->list);
}

/* 0 added, 1 was there already, -1 no memory */
static int words_add(struct words *w, const char *s, size_t n,
                     struct pq_error *e)
{
    const char *word = pq_arena_strndup(&w->arena, s, n);
    const int rc = word ? pq_names_add(&w->seen, word, w->seen.n, NULL, e)
                        : pq_fail_nomem(e);

    if (rc == 0)
        put_name(&w->list, word, n);
    return rc;
}

/* The last names of the modules that are factored; false: not enough. */
static bool put_short(const struct extract *x, struct words *w,
                      struct pq_error *e)
{
    for (size_t i = 0; i < x->n; i++) {
        size_t n;
        const char *word = leaf(&x->pairs[i], &n);
        if (!extract_has_factors(&x->pairs[i]))
            continue;
        const int rc = words_add(w, word, n, e);
        if (rc < 0 || (rc == 0 && is_elsewhere(x, word, n)))
            return false;
    }
    return true;
}

static int put_targets(const struct extract *x, struct pq_buf *b,
                       struct pq_error *e)
{
    struct words brief = {0}, whole = {0};
    const bool enough = put_short(x, &brief, e);
    int rc = e->code ? -1 : 0;

    for (size_t i = 0; rc >= 0 && !enough && i < x->n; i++)
        if (extract_has_factors(&x->pairs[i]))
            rc = words_add(&whole, x->pairs[i].name, x->pairs[i].module, e);
    const struct pq_buf *list = enough ? &brief.list : &whole.list;
    if (list->failed)
        rc = pq_fail_nomem(e);
    pq_buf_add(b, list->n ? list->s : "", list->n);
    words_release(&brief);
    words_release(&whole);
    return rc < 0 ? -1 : 0;
}

/* Modules that are saved and in no other such module. */
static void put_saved(const struct extract *x, struct pq_buf *b)
{
    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        char module[512];
        bool inner = false;
        if (p->module >= sizeof module)
            continue;
        memcpy(module, p->name, p->module);
        module[p->module] = '\0';
        if (pq_names_find(&x->saved, module) != i)
            continue;
        for (char *dot; !inner && (dot = strrchr(module, '.')) != NULL;) {
            *dot = '\0';
            inner = pq_names_find(&x->saved, module) != SIZE_MAX;
        }
        if (!inner)
            put_name(b, p->name, p->module);
    }
}

/* The rank that most modules have; of several such, the largest. */
static size_t usual_rank(const struct extract *x, struct pq_error *e)
{
    size_t most = 1, best = 1;

    for (size_t i = 0; i < x->n; i++)
        if (extract_has_factors(&x->pairs[i]) && x->pairs[i].factor->rank > most)
            most = x->pairs[i].factor->rank;
    size_t *count = pq_zalloc(most + 1, sizeof *count);
    if (!count) {
        pq_fail_nomem(e);
        return 0;
    }
    for (size_t i = 0; i < x->n; i++)
        if (extract_has_factors(&x->pairs[i]))
            count[x->pairs[i].factor->rank]++;
    for (size_t k = 1; k <= most; k++)
        if (count[k] >= count[best])
            best = k;
    free(count);
    return best;
}

static void put_ranks(const struct extract *x, size_t usual, struct pq_buf *b)
{
    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        if (!extract_has_factors(p) || p->factor->rank == usual)
            continue;
        put_name(b, p->name, p->module);
        pq_buf_printf(b, ": %zu", p->factor->rank);
    }
}

/* "[...]" or "{...}" around a list; an empty one is short. */
static void put_list(struct pq_buf *b, const char *brackets,
                     const struct pq_buf *list)
{
    pq_buf_printf(b, "%c%s%s%c", brackets[0], list->n ? list->s : "",
                  list->n ? "\n  " : "", brackets[1]);
}

struct lists {
    struct pq_buf targets, saved, ranks;
};

static void put_config(struct extract *x, const struct lists *l, size_t usual,
                       struct pq_buf *b, struct pq_error *e)
{
    char base[512];
    bool conv1d = false, bias = false;

    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        conv1d |= extract_has_factors(p) && p->turned && !p->embedding;
        bias |= p->kind == EXTRACT_BIAS;
    }
    pq_buf_puts(b, "{\n  \"alpha_pattern\": ");
    put_list(b, "{}", &l->ranks);
    pq_buf_puts(b, ",\n  \"auto_mapping\": null,"
                   "\n  \"base_model_name_or_path\": ");
    if (cmd_config_string(x->a->catalog, "_name_or_path", base, sizeof base,
                          e) &&
        base[0])
        pq_json_quote(b, base);
    else
        pq_buf_puts(b, "null");
    pq_buf_printf(b,
                  ",\n  \"bias\": \"%s\",\n  \"fan_in_fan_out\": %s,"
                  "\n  \"inference_mode\": true,"
                  "\n  \"init_lora_weights\": true,\n  \"lora_alpha\": %zu,"
                  "\n  \"lora_bias\": false,\n  \"lora_dropout\": 0.0,"
                  "\n  \"modules_to_save\": ",
                  bias ? "all" : "none", conv1d ? "true" : "false", usual);
    if (l->saved.n)
        put_list(b, "[]", &l->saved);
    else
        pq_buf_puts(b, "null");
    pq_buf_printf(b, ",\n  \"peft_type\": \"LORA\",\n  \"r\": %zu,"
                     "\n  \"rank_pattern\": ",
                  usual);
    put_list(b, "{}", &l->ranks);
    pq_buf_puts(b, ",\n  \"target_modules\": ");
    put_list(b, "[]", &l->targets);
    pq_buf_printf(b, ",\n  \"task_type\": %s,\n  \"use_dora\": false,"
                     "\n  \"use_rslora\": false\n}\n",
                  cmd_config_writes_text(x->a->catalog, e) ? "\"CAUSAL_LM\""
                                                           : "null");
}

int extract_set_config(struct extract *x, struct pq_error *e)
{
    const size_t usual = usual_rank(x, e);
    struct lists l = {0};
    struct pq_buf b = {0};
    int rc = put_targets(x, &l.targets, e);

    put_saved(x, &l.saved);
    put_ranks(x, usual, &l.ranks);
    put_config(x, &l, usual, &b, e);
    if (l.targets.failed || l.saved.failed || l.ranks.failed || b.failed)
        rc = pq_fail_nomem(e);
    if (!rc)
        rc = e->code ? -1
                     : pq_catalog_add_blob(&x->out, "adapter_config.json", b.s,
                                           b.n, e);
    pq_buf_release(&l.targets);
    pq_buf_release(&l.saved);
    pq_buf_release(&l.ranks);
    pq_buf_release(&b);
    return rc;
}
