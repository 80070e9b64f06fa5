/*
 * Renders chat templates for check_chat.py and make_chat.py:
 *
 *     {"template": "...", "tokens": {"bos_token": "<s>"}, "input": "{...}",
 *      "prompt": true, "tokenizer": "path"}     a line of standard input
 *     {"text": "..."}, with a tokenizer also "ids" and "mask"; {"error": "..."}
 *
 * The clock stands at 2024-07-26 01:02:03.
 */
#include "../time_of_goldens.h"
#include "pq_chat.h"
#include "pq_json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *content(const char *path, size_t *n)
{
    FILE *const f = fopen(path, "rb");
    char *const s = malloc(16u << 20);

    if (!f || !s)
        exit(2);
    *n = fread(s, 1, 16u << 20, f);
    fclose(f);
    return s;
}

static struct pq_tokenizer *tokenizer(const char *path, struct pq_error *e)
{
    struct pq_tokenizer *t = NULL;
    size_t n;
    char *const s = content(path, &n);

    if (pq_tokenizer_parse(s, n, &t, e))
        t = NULL;
    free(s);
    return t;
}

/* A catalogue with the files that a template is found in. */
static int open_chat(const cJSON *c, struct pq_chat **out, struct pq_error *e)
{
    const cJSON *const tokens = cJSON_GetObjectItem(c, "tokens");
    cJSON *const config =
        tokens ? cJSON_Duplicate(tokens, true) : cJSON_CreateObject();
    cJSON_AddStringToObject(config, "chat_template",
                            cJSON_GetObjectItem(c, "template")->valuestring);
    char *const text = cJSON_PrintUnformatted(config);
    struct pq_catalog m = {0};
    int rc =
        pq_catalog_add_blob(&m, "tokenizer_config.json", text, strlen(text), e);

    rc = rc || pq_chat_of_model(&m, out, e) ? -1 : 0;
    pq_catalog_release(&m);
    free(text);
    cJSON_Delete(config);
    return rc;
}

static int answer(const cJSON *c, struct pq_buf *b, struct pq_error *e)
{
    const char *const json = cJSON_GetObjectItem(c, "input")->valuestring;
    const struct pq_chat_input in = {
        json, strlen(json), SIZE_MAX,
        cJSON_IsTrue(cJSON_GetObjectItem(c, "prompt")), &time_of_goldens};
    const cJSON *const path = cJSON_GetObjectItem(c, "tokenizer");
    struct pq_tokenizer *t = NULL;
    struct pq_chat *chat = NULL;
    struct pq_buf text = {0};
    struct pq_ids ids = {0};
    unsigned char *mask = NULL;

    int rc = open_chat(c, &chat, e) ||
             pq_chat_render(chat, &in, &text, NULL, e) ||
             (path && !(t = tokenizer(path->valuestring, e))) ||
             (path && pq_chat_encode(chat, t, &in, &ids, &mask, e));
    if (!rc) {
        pq_buf_puts(b, "{\"text\":");
        pq_json_quote_n(b, text.s ? text.s : "", text.n);
        pq_buf_puts(b, ",\"ids\":[");
        for (size_t i = 0; i < ids.n; i++)
            pq_buf_printf(b, "%s%u", i ? "," : "", ids.list[i]);
        pq_buf_puts(b, "],\"mask\":[");
        for (size_t i = 0; i < ids.n; i++)
            pq_buf_printf(b, "%s%u", i ? "," : "", mask[i]);
        pq_buf_puts(b, "]}");
    }
    pq_chat_free(chat);
    pq_tokenizer_free(t);
    pq_buf_release(&text);
    free(ids.list);
    free(mask);
    return rc ? -1 : 0;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;

    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_buf b = {0};
        cJSON *const c = cJSON_ParseWithLength(line, (size_t)n);
        if (!c)
            return 2;
        if (answer(c, &b, &e)) {
            pq_buf_release(&b);
            pq_buf_puts(&b, "{\"error\":");
            pq_json_quote(&b, e.msg);
            pq_buf_puts(&b, "}");
        }
        puts(b.s);
        pq_buf_release(&b);
        cJSON_Delete(c);
    }
    free(line);
    return 0;
}
