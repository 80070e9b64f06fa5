/*
 * Chat templates from anywhere, with the conversation behind a NUL byte.
 *
 * Promises: no crash, no run without an end, one message when it is refused;
 * rendering again gives the same; what is rendered is UTF-8, and spans are
 * parts of it in order.
 */
#include "fuzz.h"
#include "pq_chat.h"
#include "pq_json.h"

#define USUAL                                                                  \
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":"        \
    "\"user\",\"content\":\" \xc3\xa9 'q' \"},{\"role\":\"assistant\","        \
    "\"content\":\"A\\n\"}],\"tools\":[{\"a\":[1,2.5,null,true]}]}"

static void check_spans(const struct pq_chat_spans *s, size_t n)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->list[i].from > s->list[i].to || s->list[i].to > n)
            fuzz_broken("a span is no part of the text", "", "");
}

static void render(const struct pq_chat *c, const char *json, size_t n)
{
    const struct pq_chat_input in = {json, n, SIZE_MAX, true, NULL};
    struct pq_error e = PQ_ERROR_INIT, again = PQ_ERROR_INIT;
    struct pq_chat_spans spans = {0};
    struct pq_buf a = {0}, b = {0};

    const int rc = pq_chat_render(c, &in, &a, &spans, &e);
    if (rc != pq_chat_render(c, &in, &b, NULL, &again) ||
        (rc == 0 && (a.n != b.n || (a.n && memcmp(a.s, b.s, a.n)))))
        fuzz_broken("rendering again gives something else", e.msg, again.msg);
    if (rc != 0 && (e.code == PQ_OK || e.msg[0] == '\0'))
        fuzz_broken("a refusal without a message", "", "");
    if (rc == 0 && a.n && pq_utf8_prefix(a.s, a.n) < a.n)
        fuzz_broken("what is rendered is not UTF-8", a.s, "");
    if (rc == 0)
        check_spans(&spans, a.n);
    pq_buf_release(&a);
    pq_buf_release(&b);
    free(spans.list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_chat *c;
    char *const copy = fuzz_copy(data, n);
    const char *const nul = n ? memchr(copy, '\0', n) : NULL;
    const size_t end = nul ? (size_t)(nul - copy) : n;
    if (pq_chat_parse(copy, end, &c, &e) == 0) {
        render(c, USUAL, sizeof USUAL - 1);
        if (nul)
            render(c, nul + 1, n - end - 1);
        pq_chat_free(c);
    } else if (e.code == PQ_OK) {
        fuzz_broken("a refusal without a message", "", "");
    }
    free(copy);
    return 0;
}

static const char *const words[] = {
    "{% for x in messages %}",
    "{% endfor %}",
    "{% if x.role == 'user' %}",
    "{% else %}",
    "{% elif x %}",
    "{% endif %}",
    "{% set x = ",
    " %}",
    "{% set ns = namespace(a=1) %}",
    "{% set ns.a = ",
    "{% macro m(x, y=1) %}",
    "{% endmacro %}",
    "{{ m(1) }}",
    "{{ ",
    " }}",
    "{%- ",
    " -%}",
    "{{- ",
    "{% generation %}",
    "{% endgeneration %}",
    "{% break %}",
    "{% continue %}",
    "{% raw %}",
    "{% endraw %}",
    "{# ",
    " #}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% call m(1) %}",
    "{% endcall %}",
    "{% set x %}",
    "{% endset %}",
    "{% with a = 1 %}",
    "{% endwith %}",
    "messages",
    "tools",
    "messages[0]",
    "['content']",
    ".content",
    "[1:]",
    "[::-1]",
    "[-1]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    " ~ ",
    " + ",
    " - ",
    " * ",
    " ** ",
    " // ",
    " % ",
    " in ",
    " not in ",
    " and ",
    " or ",
    "not ",
    " is ",
    " is defined",
    " is not none",
    " if ",
    " else ",
    "loop.index",
    "loop.nextitem",
    "loop.cycle(1, 2)",
    "loop.changed(x)",
    "|tojson",
    "|tojson(indent=2)",
    "|trim",
    "|length",
    "|upper",
    "|title",
    "|list",
    "|map(attribute='a.0')",
    "|selectattr('role', 'equalto', 'user')",
    "|join(', ')",
    "|sort(attribute='role')",
    "|replace('a', 'bb')",
    "|indent(3, true)",
    "|default('x', true)",
    "|dictsort",
    "|unique|list",
    "|int",
    "|float",
    "|reverse",
    "|items",
    "|safe",
    ".strip()",
    ".split('a')",
    ".rsplit('a', 1)",
    ".items()",
    ".get('a', 1)",
    ".splitlines()",
    "range(3)",
    "namespace()",
    "dict(a=1)",
    "raise_exception('x')",
    "'\\n'",
    "\"\\u00e9\"",
    "9223372036854775807",
    "1e308",
    "0",
    "none",
    "true",
    "'a'",
};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;
    const char *const w = words[fuzz_random(&s, sizeof words / sizeof *words)];
    const size_t k = strlen(w), at = fuzz_random(&s, (uint32_t)n + 1);

    if (fuzz_random(&s, 3) == 0 || n + k > max)
        return LLVMFuzzerMutate(p, n, max);
    memmove(p + at + k, p + at, n - at);
    memcpy(p + at, w, k);
    return n + k;
}
