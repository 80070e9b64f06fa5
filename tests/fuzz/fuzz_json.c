/*
 * JSON: the tokenizer, the check and the editor.
 *
 * Promises: what pq_json_check() accepts, cJSON accepts; what pq_json_edit()
 * makes of such a text passes the check again, and has or lacks the key.
 */
#include <cjson/cJSON.h>

#include "fuzz.h"
#include "pq_json.h"

/* Every accessor on every token. */
static void walk(const char *text, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_arena a = {0};
    struct pq_json j;
    enum pq_json_type t;

    pq_json_init(&j, text, n, &e);
    while ((t = pq_json_next(&j)) != PQ_JSON_END && t != PQ_JSON_ERROR) {
        const char *s;
        size_t k;
        uint64_t u;
        double d;
        if (t == PQ_JSON_KEY || t == PQ_JSON_STRING) {
            (void)pq_json_is(&j, "dtype");
            if (pq_json_string(&j, &a, &s, &k) == 0 &&
                pq_utf8_prefix(s, k) != k)
                fuzz_broken("a string is not UTF-8", "", "");
        } else if (t == PQ_JSON_NUMBER) {
            struct pq_json copy = j;
            copy.e = NULL;
            const int exact = pq_json_u64(&copy, &u);
            const int inexact = pq_json_double(&copy, &d);
            if (exact == 0 && inexact != 0)
                fuzz_broken("an integer is no number", "", "");
        }
    }
    if (t == PQ_JSON_ERROR && e.code == PQ_OK)
        fuzz_broken("an error without a message", "", "");
    pq_arena_release(&a);
}

/* Skipping values finds the same end as reading them. */
static void skip(const char *text, size_t n)
{
    struct pq_json j;
    const bool ok = pq_json_check(text, n, NULL) == 0;

    pq_json_init(&j, text, n, NULL);
    const enum pq_json_type t = pq_json_next(&j);
    const bool skipped = t != PQ_JSON_ERROR && t != PQ_JSON_END &&
                         pq_json_skip(&j, t) == 0 &&
                         pq_json_next(&j) == PQ_JSON_END;
    if (ok && !skipped)
        fuzz_broken("a valid text cannot be skipped", "", "");
}

static cJSON *parse(const char *text, size_t n)
{
    cJSON *const c = cJSON_ParseWithLength(text, n);

    if (!c)
        fuzz_broken("cJSON refuses what the check accepts", "", "");
    return c;
}

/* Sets or removes the key "b" and looks at the result. */
static void edit(const char *text, size_t n, const char *value)
{
    struct pq_buf out = {0};
    struct pq_error e = PQ_ERROR_INIT;

    if (pq_json_edit(text, n, "b", value, &out, &e) == 0) {
        if (pq_json_check(out.s, out.n, &e) != 0)
            fuzz_broken("an edited text is broken", e.msg, out.s);
        cJSON *const c = parse(out.s, out.n);
        if (cJSON_HasObjectItem(c, "b") != (value != NULL) &&
            !cJSON_HasObjectItem(c, "B"))
            fuzz_broken("an edit did not happen", out.s, "");
        cJSON_Delete(c);
    }
    pq_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    /* exactly so long, so that a byte read beyond is noticed */
    char *const text = malloc(n ? n : 1);

    if (!text)
        abort();
    if (n > 0)
        memcpy(text, data, n);
    walk(text, n);
    skip(text, n);
    if (pq_json_check(text, n, NULL) == 0) {
        cJSON_Delete(parse(text, n));
        edit(text, n, NULL);
        edit(text, n, "{\"c\": [1, 2]}");
    }
    free(text);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;

    return fuzz_text(p, n, max, &s);
}
