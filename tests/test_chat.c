/*
 * Chat templates: what transformers renders (testdata/chat, made by
 * tests/oracle/make_chat.py), what is refused and how, bounds, and which
 * tokens are the assistant's.
 */
#include "tokenizer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pq_chat.h"
#include "pq_json.h"
#include "time_of_goldens.h"

#define CHAT "testdata/chat/"

/* ---- a model with a template -------------------------------------------- */

static void add_file(struct pq_catalog *m, const char *name, const char *s)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_catalog_add_blob(m, name, s, strlen(s), &e), 0);
}

/* As the goldens have it: <s> and </s>, the template as it is. */
static int open_chat(const char *template, struct pq_chat **c,
                     struct pq_error *e)
{
    struct pq_catalog m = {0};

    add_file(&m, "tokenizer_config.json",
             "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": "
             "\"</s>\", \"lstrip\": false}, \"pad_token\": null}");
    add_file(&m, "chat_template.jinja", template);
    const int rc = pq_chat_of_model(&m, c, e);
    pq_catalog_release(&m);
    return rc;
}

static int render(const char *template, const char *input, bool prompt,
                  struct pq_buf *out, struct pq_chat_spans *spans,
                  struct pq_error *e)
{
    const struct pq_chat_input in = {input, strlen(input), SIZE_MAX, prompt,
                                     &time_of_goldens};
    struct pq_chat *c = NULL;

    if (open_chat(template, &c, e))
        return -1;
    const int rc = pq_chat_render(c, &in, out, spans, e);
    pq_chat_free(c);
    return rc;
}

/* ---- goldens ------------------------------------------------------------ */

static const char *get_text(const cJSON *c, const char *key)
{
    const cJSON *const x = cJSON_GetObjectItemCaseSensitive(c, key);

    return cJSON_IsString(x) ? x->valuestring : NULL;
}

/* Bytes of the first k characters. */
static size_t bytes_of(const char *s, int k)
{
    size_t at = 0;

    for (; k > 0 && s[at]; k--)
        do
            at++;
        while (((unsigned char)s[at] & 0xc0) == 0x80);
    return at;
}

static void check_spans(const cJSON *golden, const struct pq_chat_spans *got,
                        const char *text)
{
    size_t i = 0;

    for (const cJSON *x = golden ? golden->child : NULL; x; x = x->next, i++) {
        cr_assert_lt(i, got->n);
        cr_expect_eq(got->list[i].from, bytes_of(text, x->child->valueint));
        cr_expect_eq(got->list[i].to, bytes_of(text, x->child->next->valueint));
    }
    cr_expect_eq(got->n, i, "%zu spans, not %zu in %s", got->n, i, text);
}

static void check_case(const cJSON *c, const char *input)
{
    const char *const template = get_text(c, "template");
    const char *const want = get_text(c, "text");
    const bool prompt = cJSON_IsTrue(cJSON_GetObjectItem(c, "prompt"));
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf b = {0};
    struct pq_chat_spans spans = {0};
    const int rc = render(template, input, prompt, &b, &spans, &e);

    pq_buf_add(&b, "", 0);
    if (!want) {
        cr_expect(rc != 0 && e.code != PQ_OK, "%s gives %s", template, b.s);
    } else {
        cr_expect_eq(rc, 0, "%s: %s", template, e.msg);
        cr_expect(rc != 0 || strcmp(b.s, want) == 0, "%s gives %s, not %s",
                  template, b.s, want);
        if (rc == 0)
            check_spans(cJSON_GetObjectItem(c, "spans"), &spans, want);
    }
    pq_buf_release(&b);
    free(spans.list);
}

Test(chat, goldens)
{
    struct pq_buf cases = read_file(CHAT "cases.jsonl");
    struct pq_buf lists = read_file(CHAT "L.json");
    struct pq_buf talk = read_file(CHAT "T.json");
    size_t n = 0;

    for (char *line = cases.s, *end; *line; line = end + 1, n++) {
        end = strchr(line, '\n');
        cJSON *const c = cJSON_ParseWithLength(line, (size_t)(end - line));
        const char *const input = get_text(c, "input");
        check_case(c, strcmp(input, "L") == 0   ? lists.s
                      : strcmp(input, "T") == 0 ? talk.s
                                                : input);
        cJSON_Delete(c);
    }
    cr_expect_gt(n, 300u);
    pq_buf_release(&cases);
    pq_buf_release(&lists);
    pq_buf_release(&talk);
}

/* ---- what is refused ---------------------------------------------------- */

#define L21 "aaaaaaaaaaaaaaaaaaaaa"
#define L63 L21 L21 L21

static const struct refusal {
    const char *template;
    enum pq_code code;
    const char *message; /* a part of it */
} refusals[] = {
    {"\n\n{% include 'x' %}", PQ_EUNSUPPORTED,
     "chat_template.jinja: line 3: the statement \"include\""},
    {"a\n{{ x | urlize }}", PQ_EUNSUPPORTED, "line 2: the filter \"urlize\""},
    {"{{ x is filter }}", PQ_EUNSUPPORTED, "line 1: the test \"filter\""},
    {"{{ 'a'.encode() }}", PQ_EUNSUPPORTED,
     "chat template: line 1: the method \"encode\" of a string"},
    {"{{ [1].append(2) }}", PQ_EUNSUPPORTED, "the method \"append\" of a list"},
    {"{{ ''.__class__ }}", PQ_EUNSUPPORTED, "\"__class__\" is not allowed"},
    {"{{ ('<'|safe) + 'a' }}", PQ_EUNSUPPORTED, "| safe"},
    {"{{ [1]|map('string') }}", PQ_EUNSUPPORTED, "| list makes a list"},
    {"{% for x in y recursive %}{% endfor %}", PQ_EUNSUPPORTED, "recursive"},
    {"{{ 'stra\xc3\x9f"
     "e'|upper }}",
     PQ_EUNSUPPORTED, "U+00DF"},
    {"{{ 'a' % 1 }}", PQ_EUNSUPPORTED, "% of a text"},
    {"{% set x %}{% generation %}{% endgeneration %}{% endset %}",
     PQ_EUNSUPPORTED, "generation in a macro"},
    {"{{ raise_exception('roles\\nmust') }}", PQ_EARG, "says: roles"},
    {"{{ messages[0].a.b }}", PQ_EARG, "a of a dict is undefined"},
    {"{{ foo.b }}", PQ_EARG, "foo is undefined"},
    {"{% if x %}", PQ_EFORMAT, "ends where elif else endif should be"},
    {"{{ 1 + }}", PQ_EFORMAT, "expected an expression"},
    {"{{ 'a\xff' }}", PQ_EFORMAT, "byte 5 is not UTF-8"},
    {"{{ 9223372036854775808 }}", PQ_EFORMAT, "too large"},
    {"{{ 9223372036854775807 + 1 }}", PQ_ELIMIT, "too large"},
    {"{{ -9223372036854775807 * 3 }}", PQ_ELIMIT, "too large"},
    /* of a long name what there is room for, in whole characters */
    {"{% s" L63 " %}", PQ_EUNSUPPORTED, "the statement \"s" L63 "\" is"},
    {"{{ x | s" L63 "a }}", PQ_EUNSUPPORTED, "the filter \"s" L63 "\" is"},
    {"{{ [1]|map('" L63 "\xc3\xa9')|list }}", PQ_EUNSUPPORTED,
     "the filter \"" L63 "\" is"},
    /* bounds */
    {"{% set l = range(99999)|list %}{% for a in l %}{{ '' if -1 in l }}"
     "{% endfor %}",
     PQ_ELIMIT, "16777216 steps"},
    {"{% set n = namespace(s='aaaaaaaa') %}{% for i in range(99) %}"
     "{% set n.s = n.s + n.s %}{% endfor %}",
     PQ_ELIMIT, "134217728 bytes"},
    {"{% set n = namespace(s='aaaaaaaa') %}{% for i in range(20) %}"
     "{% set n.s = n.s + n.s %}{% endfor %}{% for i in range(99) %}{{ n.s }}"
     "{% endfor %}",
     PQ_ELIMIT, "16777216 bytes"},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", PQ_ELIMIT,
     "more than 64 macros"},
    {"{% set n = namespace(l=[]) %}{% for i in range(70) %}"
     "{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
     PQ_ELIMIT, "deeper than 64"},
    {"{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
     "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
     PQ_ELIMIT, "line 1"},
    {"{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
     "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|tojson|length }}",
     PQ_ELIMIT, "line 1"},
    {"{{ range(1000000) }}", PQ_ELIMIT, "100000"},
    {"{{ ('a' * 1000000).strip('b' * 1000000 + 'a') }}", PQ_ELIMIT, "steps"},
    {"{{ ('a' * 1000000)|trim('b' * 1000000 + 'a') }}", PQ_ELIMIT, "steps"},
    {"{{ ('a' * 1000000).rsplit('a' * 500000 + 'b') }}", PQ_ELIMIT, "steps"},
    {"{% set s = 'a' * 1000000 %}{% set d = {s + 'b': 1} %}"
     "{% set t = s + 'c' %}"
     "{% for a in range(99999) %}{{ '' if t in d }}{% endfor %}",
     PQ_ELIMIT, "steps"},
    {"{% set s = 'a' * 1000000 %}{% set t = s + 'c' %}"
     "{% for a in range(99999) %}{{ '' if t.startswith(s) }}{% endfor %}",
     PQ_ELIMIT, "steps"},
    {"{% set s = 'a' * 6000 %}{{ ([s] * 100000)|join }}", PQ_ELIMIT,
     "134217728 bytes"},
    {"{% set s = 'a' * 6000 %}{{ ''.join([s] * 100000) }}", PQ_ELIMIT,
     "134217728 bytes"},
    {"{{ ('a' * 100000)|replace('a', 'b' * 6000) }}", PQ_ELIMIT,
     "134217728 bytes"},
    {"{{ 'aaaaaaaaaaaaaaa' * 16000000 }}", PQ_ELIMIT, "134217728 bytes"},
    {"{% set s = 'aaaaaaaaaaaaaaa' * 1000000 %}{% macro f(n) %}{{ s }}"
     "{{ f(n - 1) if n }}{% endmacro %}{{ f(9) }}",
     PQ_ELIMIT, "134217728 bytes"},
    {"{{ 'a' * 9223372036854775807 }}", PQ_ELIMIT, "steps"},
    {"{{ 2 ** 9223372036854775807 }}", PQ_ELIMIT, "too large"},
};

Test(chat, refusals)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *const x = &refusals[i];
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_buf b = {0};
        cr_expect_neq(
            render(x->template, "{\"messages\":[{}]}", false, &b, NULL, &e), 0,
            "%s gives %s", x->template, b.s ? b.s : "");
        cr_expect_eq(e.code, x->code, "%s: %s", x->template, e.msg);
        cr_expect(strstr(e.msg, x->message), "%s: \"%s\", not \"%s\"",
                  x->template, e.msg, x->message);
        cr_expect(strchr(e.msg, '\n') == NULL || i == 12, "%s", e.msg);
        pq_buf_release(&b);
    }
}

/* What is in brackets n times. */
static char *nest(const char *open, const char *in, const char *close, size_t n)
{
    struct pq_buf b = {0};

    for (size_t i = 0; i < n; i++)
        pq_buf_puts(&b, open);
    pq_buf_puts(&b, in);
    for (size_t i = 0; i < n; i++)
        pq_buf_puts(&b, close);
    return b.s;
}

/* A tree that is deep, or long on one side, is refused and not walked. */
Test(chat, depth)
{
    static const char *const parts[][3] = {
        {"{% if 1 %}", "x", "{% endif %}"},
        {"{{ ((", "1", ")) }}"},
        {"{{ [[", "1", "]] }}"},
        {"(", "1", ")"},
        {"[", "1", "]"},
        {"{1:", "1", "}"},
        {"not ", "1", ""},
        {"- ", "1", ""},
        {"", "1", "+1"},
        {"", "a", ".b"},
        {"", "a", "|trim"},
        {"", "1", " and 1"},
        {"", "1", " if 1"},
        {"", "1", "()"},
        {"", "1", "~(1~1)"},
        {"1 if 1 else ", "1", ""},
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (size_t n = 1; n < 100000; n *= 99) {
            struct pq_error e = PQ_ERROR_INIT;
            struct pq_buf b = {0};
            char *const s = nest(parts[i][0], parts[i][1], parts[i][2], n);
            char *const t =
                i < 3 ? nest("", s, "", 1) : nest("{{ ", s, " }}", 1);
            const int rc =
                render(t, "{\"messages\":[],\"a\":\"q\"}", false, &b, NULL, &e);
            cr_expect(n < 9000 || rc != 0, "%.40s", t);
            cr_expect(rc == 0 || e.code != PQ_OK);
            free(s);
            free(t);
            pq_buf_release(&b);
        }
}

/* ---- where it is -------------------------------------------------------- */

static int open_files(const char *config, const char *jinja, const char *map,
                      struct pq_buf *out, struct pq_error *e)
{
    static const char input[] = "{\"messages\":[]}";
    const struct pq_chat_input in = {input, sizeof input - 1, SIZE_MAX, false,
                                     NULL};
    struct pq_catalog m = {0};
    struct pq_chat *c = NULL;

    if (config)
        add_file(&m, "tokenizer_config.json", config);
    if (jinja)
        add_file(&m, "chat_template.jinja", jinja);
    if (map)
        add_file(&m, "special_tokens_map.json", map);
    int rc = pq_chat_of_model(&m, &c, e);
    pq_catalog_release(&m);
    rc = rc ? -1 : pq_chat_render(c, &in, out, NULL, e);
    pq_chat_free(c);
    return rc;
}

static const struct place {
    const char *config, *jinja, *map, *want; /* want: text, or of a message */
    bool refused;
} places[] = {
    {"{\"chat_template\": \"a{{ bos_token }}\"}", NULL, NULL, "a", false},
    {"{\"chat_template\": \"a\"}", "b", NULL, "b", false},
    {NULL, "b{{ eos_token is defined }}", NULL, "bFalse", false},
    {"{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}, "
     "{\"name\": \"default\", \"template\": \"d\"}]}",
     NULL, NULL, "d", false},
    {"{\"bos_token\": \"B\"}", "{{ bos_token }}{{ eos_token }}",
     "{\"bos_token\": \"C\", \"eos_token\": {\"content\": \"E\"}}", "BE",
     false},
    {"{}", "{{ strftime_now is defined }}", NULL, "False", false},
    {NULL, NULL, NULL, "the model has no chat template", true},
    {"{}", NULL, NULL, "the model has no chat template", true},
    {"{\"chat_template\": 1}", NULL, NULL, "neither a text nor a list", true},
    {"{\"chat_template\": [{\"name\": \"x\", \"template\": \"t\"}]}", NULL,
     NULL, "named \"default\"", true},
    {"{\"chat_template\": \"{{\"}", NULL, NULL,
     "tokenizer_config.json: chat_template: line 1", true},
    {"{", "a", NULL, "tokenizer_config.json", true},
};

Test(chat, places)
{
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const struct place *const p = &places[i];
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_buf b = {0};
        const int rc = open_files(p->config, p->jinja, p->map, &b, &e);
        cr_expect_eq(rc != 0, p->refused, "%zu: %s", i, e.msg);
        cr_expect(p->refused ? strstr(e.msg, p->want) != NULL
                             : b.s && strcmp(b.s, p->want) == 0,
                  "%zu: \"%s\", not \"%s\"", i, p->refused ? e.msg : b.s,
                  p->want);
        pq_buf_release(&b);
    }
}

/* Digits before the dot are of a float, however many there are. */
Test(chat, numbers)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf b = {0};

    cr_assert_eq(render("{{ n }} {{ m }}",
                        "{\"messages\":[],\"n\":-12345678901234567890.5,"
                        "\"m\":9223372036854775807}",
                        false, &b, NULL, &e),
                 0, "%s", e.msg);
    cr_expect_str_eq(b.s, "-1.2345678901234567e+19 9223372036854775807");
    pq_buf_release(&b);
}

static const char *const inputs[][2] = {
    {"", "JSON"},
    {"[]", "JSON object"},
    {"{}", "\"messages\""},
    {"{\"messages\":{}}", "not a list"},
    {"{\"messages\":[1]}", "message 0"},
    {"{\"messages\":[]} x", "behind"},
    {"{\"messages\":[],\"n\":9223372036854775808}", "too large"},
};

Test(chat, inputs)
{
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct pq_buf b = {0};
        cr_expect_neq(render("a", inputs[i][0], false, &b, NULL, &e), 0);
        cr_expect_neq(e.code, PQ_OK, "%s", inputs[i][0]);
        cr_expect(strstr(e.msg, inputs[i][1]) || i == 5, "%s: %s", inputs[i][0],
                  e.msg);
        pq_buf_release(&b);
    }
}

/* ---- the assistant's tokens --------------------------------------------- */

#define CHATML                                                                 \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"         \
    "</s>\n{% endfor %}"                                                       \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
#define TWO                                                                    \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"the cat\"},"              \
    "{\"role\":\"assistant\",\"content\":\" sat\\n\"},"                        \
    "{\"role\":\"user\",\"content\":\"a\"},"                                   \
    "{\"role\":\"assistant\",\"content\":\"the \xf0\x9f\xa6\x99\"}]}"

/* Decodes what is the assistant's, turns in [ ]; or the message. */
static void assistants(const char *file, const char *template,
                       const char *input, struct pq_buf *out)
{
    const struct pq_chat_input in = {input, strlen(input), SIZE_MAX, false,
                                     NULL};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *const t = load(file);
    struct pq_chat *c = NULL;
    struct pq_ids ids = {0};
    unsigned char *mask = NULL;

    cr_assert_eq(open_chat(template, &c, &e), 0, "%s", e.msg);
    if (pq_chat_encode(c, t, &in, &ids, &mask, &e))
        pq_buf_puts(out, e.msg);
    for (size_t i = 0, n; i < ids.n; i += n) {
        for (n = 1; i + n < ids.n && mask[i + n] == mask[i];)
            n++;
        if (!mask[i])
            continue;
        pq_buf_puts(out, "[");
        cr_assert_eq(pq_tokenizer_decode(t, ids.list + i, n, 0, out, &e), 0);
        pq_buf_puts(out, "]");
    }
    pq_buf_add(out, "", 0);
    pq_chat_free(c);
    pq_tokenizer_free(t);
    free(ids.list);
    free(mask);
}

static const struct turn {
    const char *file, *template, *input, *want;
} turns[] = {
    {DIR "qwen2.json", CHATML, TWO, "[ sat\n</s>][the \xf0\x9f\xa6\x99</s>]"},
    {DIR "qwen2.json", CHATML, "{\"messages\":[]}", ""},
    /* an EOS at the very end only; no special token ends a turn */
    {DIR "gpt2.json",
     "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
     "{{ 'assistant:' if add_generation_prompt else eos_token }}",
     TWO, "[ sat\n;][the \xf0\x9f\xa6\x99;</s>]"},
    {DIR "llama2.json",
     "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
     "[INST] {{ m.content }} [/INST]{% else %} {{ m.content.strip() }} "
     "{{ eos_token }}{% endif %}{% endfor %}",
     TWO, "[sat </s>][the \xf0\x9f\xa6\x99 </s>]"},
    {DIR "qwen2.json",
     "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
     "{% else %}A:{% generation %}{{ m.content }}{% endgeneration %}"
     "{% endif %}{% endfor %}",
     TWO, "[ sat\n][the \xf0\x9f\xa6\x99]"},
    {DIR "qwen2.json",
     "{% for m in messages %}{{ m.role }}{{ '!' if loop.last }}"
     "{{ m.content }}{% endfor %}",
     TWO, "the chat template writes message 1, the assistant's, otherwise"},
};

Test(chat, assistants)
{
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        struct pq_buf b = {0};
        assistants(turns[i].file, turns[i].template, turns[i].input, &b);
        cr_expect(i == 5 ? strncmp(b.s, turns[i].want, 60) == 0
                         : strcmp(b.s, turns[i].want) == 0,
                  "%zu: \"%s\", not \"%s\"", i, b.s, turns[i].want);
        pq_buf_release(&b);
    }
}
