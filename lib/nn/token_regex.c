/*
 * Tokenizers: patterns, through PCRE2.
 *
 * The patterns are written for Oniguruma with Ruby's syntax, where PCRE2
 * differs in a few things.  They are rewritten before they are compiled:
 *
 *     \s \S       White_Space only: PCRE2 adds U+180E
 *     \w \W       Alphabetic, marks, digits, connectors, and outside of
 *                 classes Latin-1's \p{No}; PCRE2 has \p{L}\p{N}_
 *     \p{Han}     the script itself: PCRE2 means script extensions
 *
 * and refused where a rewriting is not enough: && in a class, \h (there a
 * hexadecimal digit), {,n}, {n,m}+.  Patterns come from a file: matching is
 * bounded, and a pattern that meets the bound is called unsupported.
 */
#include "token.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MATCH_LIMIT 50000000u /* steps of one match */
#define HEAP_KIB    65536u    /* that a match may take */
#define JIT_STACK   (1u << 20)

#define SPACES                                                                 \
    "\\x{9}-\\x{d} \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"        \
    "\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                             \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"     \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"                \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD   "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define LATIN1 "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

struct tok_regex {
    pcre2_code *code;
};

struct tok_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static int unsupported(struct tok_text p, const char *what, struct pq_error *e)
{
    return pq_fail(e, PQ_EUNSUPPORTED, "pattern %.*s: %s is not supported",
                   (int)(p.n < 200 ? p.n : 200), p.s, what);
}

/* Behind a backslash: appends what it becomes; *i is on the letter. */
static int rewrite_escape(struct tok_text p, size_t *i, bool in_class,
                          struct pq_buf *out, struct pq_error *e)
{
    static const struct tok_text han = {"p{Han}", 6}, not_han = {"P{Han}", 6};
    const struct tok_text rest = {p.s + *i, p.n - *i};
    const char c = *rest.s;

    if (c == 's' || c == 'S') {
        pq_buf_puts(out, in_class ? "" : "[");
        pq_buf_puts(out, c == 's' ? SPACES : NOT_SPACES);
        pq_buf_puts(out, in_class ? "" : "]");
    } else if (c == 'w' || (c == 'W' && !in_class)) {
        pq_buf_puts(out, in_class ? "" : c == 'w' ? "[" : "[^");
        pq_buf_puts(out, in_class ? WORD : WORD LATIN1 "]");
    } else if (tok_starts(rest, han) || tok_starts(rest, not_han)) {
        pq_buf_puts(out, c == 'p' ? "\\p{sc:Han}" : "\\P{sc:Han}");
        *i += han.n - 1;
    } else if (strchr("hHWRXKGCbBAzZkg", c) != NULL && c != '\0') {
        const char what[3] = {'\\', c};
        return unsupported(p, what, e);
    } else {
        pq_buf_puts(out, "\\");
        pq_buf_add(out, &c, 1);
    }
    return 0;
}

/* A quantifier in braces at p[i], which Ruby reads otherwise. */
static int check_braces(struct tok_text p, size_t i, struct pq_error *e)
{
    const char *const end = memchr(p.s + i, '}', p.n - i);
    if (i + 1 < p.n && p.s[i + 1] == ',')
        return unsupported(p, "{,n}", e);
    if (end != NULL && end + 1 < p.s + p.n && end[1] == '+')
        return unsupported(p, "{n,m}+", e);
    return 0;
}

/* (?: (?! (?= (?< (?> (?i: at p[i]; the others mean something else there. */
static bool known_group(struct tok_text p, size_t i)
{
    if (i + 3 >= p.n)
        return false;
    const char c = p.s[i + 2];
    return strchr(":!=<>", c) != NULL || (c == 'i' && p.s[i + 3] == ':');
}

static int rewrite(struct tok_text p, struct pq_buf *out, struct pq_error *e)
{
    bool in_class = false;
    for (size_t i = 0; i < p.n; i++) {
        const char c = p.s[i];
        const char next = i + 1 < p.n ? p.s[i + 1] : '\0';
        if (c == '\\' && i + 1 < p.n) {
            i++;
            const bool braces =
                strchr("pPx", next) != NULL && i + 1 < p.n && p.s[i + 1] == '{';
            if (rewrite_escape(p, &i, in_class, out, e) != 0)
                return -1;
            for (; braces && i + 1 < p.n && p.s[i] != '}'; i++)
                pq_buf_add(out, p.s + i + 1, 1);
            continue;
        }
        if (in_class && ((c == '&' && next == '&') || c == '['))
            return unsupported(p, c == '&' ? "&&" : "a class in a class", e);
        if (!in_class && c == '{' && check_braces(p, i, e) != 0)
            return -1;
        if (!in_class && c == '(' && next == '?' && !known_group(p, i))
            return unsupported(p, "this kind of group", e);
        pq_buf_add(out, &c, 1);
        if (c == '[') {
            in_class = true;
            if (next == '^' || next == ']')
                pq_buf_add(out, p.s + ++i, 1);
        } else if (c == ']') {
            in_class = false;
        }
    }
    return out->failed ? pq_fail_nomem(e) : 0;
}

static int compile(const struct pq_buf *text, struct tok_text pattern,
                   struct tok_regex *r, struct pq_error *e)
{
    pcre2_compile_context *const c = pcre2_compile_context_create(NULL);
    PCRE2_UCHAR why[120];
    PCRE2_SIZE at;
    int code;

    if (c == NULL)
        return pq_fail_nomem(e);
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    r->code = pcre2_compile((PCRE2_SPTR)(text->s ? text->s : ""), text->n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK,
                            &code, &at, c);
    pcre2_compile_context_free(c);
    if (r->code == NULL) {
        if (pcre2_get_error_message(code, why, sizeof why) < 0)
            why[0] = '\0';
        return pq_fail(e, PQ_EFORMAT, "pattern %.*s: %s",
                       (int)(pattern.n < 200 ? pattern.n : 200), pattern.s,
                       (const char *)why);
    }
    /* Without it (no memory to execute in) the same matches take longer. */
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
    return 0;
}

int tok_regex_new(struct tok_text pattern, struct tok_regex **r,
                  struct pq_error *e)
{
    struct pq_buf text = {0};
    int rc = -1;

    *r = pq_zalloc(1, sizeof **r);
    if (*r == NULL)
        return pq_fail_nomem(e);
    if (rewrite(pattern, &text, e) == 0)
        rc = compile(&text, pattern, *r, e);
    pq_buf_release(&text);
    if (rc != 0) {
        tok_regex_free(*r);
        *r = NULL;
    }
    return rc;
}

void tok_regex_free(struct tok_regex *r)
{
    if (r != NULL)
        pcre2_code_free(r->code);
    free(r);
}

void tok_matcher_free(struct tok_matcher *m)
{
    if (m == NULL)
        return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

static int new_matcher(struct tok_matcher **m, struct pq_error *e)
{
    struct tok_matcher *const x = pq_zalloc(1, sizeof *x);

    if (x == NULL)
        return pq_fail_nomem(e);
    x->data = pcre2_match_data_create(1, NULL);
    x->context = pcre2_match_context_create(NULL);
    if (x->data == NULL || x->context == NULL) {
        tok_matcher_free(x);
        return pq_fail_nomem(e);
    }
    pcre2_set_match_limit(x->context, MATCH_LIMIT);
    pcre2_set_heap_limit(x->context, HEAP_KIB);
    *m = x;
    return 0;
}

static int match_once(const struct tok_find *f, uint32_t how)
{
    const struct tok_matcher *const m = *f->m;

    return pcre2_match(f->re->code, (PCRE2_SPTR)f->in.s, f->in.n, f->at, how,
                       m->data, m->context);
}

/* Few patterns and texts need more than the machine's 32 KiB. */
static bool more_stack(struct tok_matcher *m)
{
    if (m->stack != NULL)
        return false;
    m->stack = pcre2_jit_stack_create(64u << 10, JIT_STACK, NULL);
    if (m->stack == NULL)
        return false;
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return true;
}

static int match(struct tok_find *f, struct pq_error *e)
{
    int rc = match_once(f, PCRE2_NO_UTF_CHECK);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && more_stack(*f->m))
        rc = match_once(f, PCRE2_NO_UTF_CHECK);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = match_once(f, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return pq_fail_nomem(e);
    if (rc < 0)
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "the tokenizer's pattern takes too long on this text");
    return 1;
}

static int next_literal(struct tok_find *f, size_t *from, size_t *to)
{
    const char *const p = f->literal.n && f->at <= f->in.n
                              ? memmem(f->in.s + f->at, f->in.n - f->at,
                                       f->literal.s, f->literal.n)
                              : NULL;
    if (p == NULL)
        return 0;
    *from = (size_t)(p - f->in.s);
    *to = f->at = *from + f->literal.n;
    return 1;
}

/* An empty match right behind the last one does not count, as in onig. */
int tok_find_next(struct tok_find *f, size_t *from, size_t *to,
                  struct pq_error *e)
{
    if (f->re == NULL)
        return next_literal(f, from, to);
    if (*f->m == NULL && new_matcher(f->m, e) != 0)
        return -1;
    while (f->at <= f->in.n) {
        const int rc = match(f, e);
        if (rc <= 0)
            return rc;
        const PCRE2_SIZE *const place =
            pcre2_get_ovector_pointer((*f->m)->data);
        *from = place[0];
        *to = place[1];
        if (*to < *from || *to < f->at)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "the tokenizer's pattern matches backwards");
        if (*from == *to && *to == f->last) {
            f->at = *to < f->in.n ? *to + tok_char_length(f->in.s[*to])
                                  : f->in.n + 1;
            continue;
        }
        f->at = f->last = *to;
        return 1;
    }
    return 0;
}

struct tok_find tok_find_start(const struct tok_step *x, struct tok_text in,
                               struct tok_matcher **m)
{
    return (struct tok_find){.re = x->re,
                             .literal = x->pattern,
                             .in = in,
                             .last = (size_t)-1,
                             .m = m};
}

int tok_replace(const struct tok_step *x, struct tok_text in,
                struct tok_matcher **m, struct pq_buf *out, struct pq_error *e)
{
    struct tok_find f = tok_find_start(x, in, m);
    size_t done = 0, from, to;
    int rc;
    while ((rc = tok_find_next(&f, &from, &to, e)) == 1) {
        pq_buf_add(out, in.s + done, from - done);
        pq_buf_add(out, x->content.s, x->content.n);
        done = to;
    }
    pq_buf_add(out, in.s + done, in.n - done);
    return rc;
}
