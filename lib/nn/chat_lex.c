/*
 * Chat templates: characters to tokens, with Jinja's rules for white space.
 *
 *     text  {%- if x %}  text  {{ y }}  {# a comment #}
 *
 *   -     takes the white space on its side away
 *   %}    takes one newline behind it, and so does #} (trim_blocks)
 *   {%    takes spaces before it on its line, if there is nothing else, and
 *         so does {# (lstrip_blocks); {%+ and +%} do neither
 *
 * A newline at the end of the template is left out.
 */
#include "chat.h"

#include <string.h>

int chat_lex_begin(struct chat_lexer *x, struct pq_arena *a, const char *s,
                   size_t n, struct pq_error *e)
{
    char *const copy = pq_arena_strndup(a, s, n);
    size_t k = 0;

    if (!copy)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n')
            continue;
        copy[k++] = s[i] == '\r' ? '\n' : s[i];
    }
    if (k > 0 && copy[k - 1] == '\n')
        k--;
    *x = (struct chat_lexer){.s = copy,
                             .n = k,
                             .line = 1,
                             .inside = CHAT_T_TEXT,
                             .line_start = true,
                             .e = e};
    return 0;
}

static int wrong(struct chat_lexer *x, const char *what)
{
    pq_fail(x->e, PQ_EFORMAT, "%s", what);
    return pq_error_in(x->e, "line %u", x->line);
}

static bool starts(const struct chat_lexer *x, size_t at, const char *s)
{
    const size_t n = strlen(s);

    return at <= x->n && n <= x->n - at && memcmp(x->s + at, s, n) == 0;
}

/* White space behind `at`. */
static size_t skip_space(const struct chat_lexer *x, size_t at)
{
    size_t k;

    while (at < x->n && chat_is_space(tok_char(x->s + at, x->n - at, &k)))
        at += k;
    return at;
}

/* Goes on at a place further behind. */
static void move(struct chat_lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->s[x->at] == '\n';
}

/* Behind a tag that ends before `at` and has a sign there. */
static void end_tag(struct chat_lexer *x, size_t at, char sign, bool trims)
{
    if (sign == '-')
        at = skip_space(x, at);
    else if (sign != '+' && trims && at < x->n && x->s[at] == '\n')
        at++;
    move(x, at);
    x->line_start = at > 0 && x->s[at - 1] == '\n';
    x->inside = CHAT_T_TEXT;
}

/* The end of text from `from` to a tag at `to`, without what the tag takes. */
static size_t strip_before(const struct chat_lexer *x, size_t from, size_t to,
                           char sign, bool lstrips)
{
    struct tok_text t = {x->s + from, to - from};
    size_t at;

    if (sign == '-')
        return from + chat_strip(t, NULL, false, true).n;
    if (sign == '+' || !lstrips)
        return to;
    for (at = to; at > from && x->s[at - 1] != '\n';)
        at--;
    if (at == from && !x->line_start)
        return to;
    t = (struct tok_text){x->s + at, to - at};
    return chat_strip(t, NULL, false, true).n == 0 ? at : to;
}

/* It is text of no length. */
static int skip_comment(struct chat_lexer *x, size_t at)
{
    size_t end = at;

    while (end < x->n && !starts(x, end, "#}"))
        end++;
    if (end >= x->n)
        return wrong(x, "a comment has no end");
    x->kind = CHAT_T_TEXT;
    x->text = (struct tok_text){x->s, 0};
    end_tag(x, end + 2, end > at ? x->s[end - 1] : ' ', true);
    return 0;
}

/* Is there {% word %}?  Then its sign, and where it ends, before the sign. */
static bool is_tag(const struct chat_lexer *x, size_t at, const char *word,
                   size_t *end)
{
    if (!starts(x, at, "{%"))
        return false;
    at += 2;
    if (at < x->n && (x->s[at] == '-' || x->s[at] == '+'))
        at++;
    at = skip_space(x, at);
    if (!starts(x, at, word))
        return false;
    at = skip_space(x, at + strlen(word));
    *end = at;
    if (at < x->n && (x->s[at] == '-' || x->s[at] == '+'))
        at++;
    return starts(x, at, "%}");
}

static void end_word_tag(struct chat_lexer *x, size_t at, bool trims)
{
    const char sign = x->s[at];

    end_tag(x, at + (sign == '%' ? 2 : 3), sign, trims);
}

/* {% raw %} at the place where the lexer is: all of it is text. */
static int lex_raw(struct chat_lexer *x, size_t end)
{
    size_t at;

    end_word_tag(x, end, false);
    for (at = x->at; at < x->n && !is_tag(x, at, "endraw", &end);)
        at++;
    if (at >= x->n)
        return wrong(x, "raw has no end");
    const size_t to = strip_before(x, x->at, at, x->s[at + 2], true);
    x->kind = CHAT_T_TEXT;
    x->text = (struct tok_text){x->s + x->at, to - x->at};
    end_word_tag(x, end, true);
    return 0;
}

static size_t find_tag(const struct chat_lexer *x)
{
    for (size_t i = x->at; i + 1 < x->n; i++)
        if (x->s[i] == '{' && strchr("{%#", x->s[i + 1]) && x->s[i + 1])
            return i;
    return x->n;
}

/* The tag at the place where the lexer is. */
static int lex_tag(struct chat_lexer *x)
{
    const char kind = x->s[x->at + 1];
    size_t end;

    if (is_tag(x, x->at, "raw", &end))
        return lex_raw(x, end);
    end = x->at + 2;
    if (end < x->n && (x->s[end] == '-' || x->s[end] == '+'))
        end++;
    if (kind == '#')
        return skip_comment(x, end);
    x->kind = x->inside = kind == '%' ? CHAT_T_BLOCK : CHAT_T_PRINT;
    x->open = 0;
    move(x, end);
    return 0;
}

/* Text up to the next tag, or that. */
static int lex_text(struct chat_lexer *x)
{
    const size_t at = find_tag(x);
    const char sign = at + 2 < x->n ? x->s[at + 2] : ' ';

    if (x->at == x->n) {
        x->kind = CHAT_T_END;
        return 0;
    }
    const size_t to =
        at < x->n ? strip_before(x, x->at, at, sign, x->s[at + 1] != '{') : at;
    x->kind = CHAT_T_TEXT;
    x->text = (struct tok_text){x->s + x->at, to - x->at};
    if (at > x->at)
        x->line_start = false;
    move(x, at);
    return x->text.n == 0 ? lex_tag(x) : 0;
}

/* ---- inside a tag ------------------------------------------------------- */

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int take(struct chat_lexer *x, enum chat_token kind, size_t end)
{
    x->kind = kind;
    x->text = (struct tok_text){x->s + x->at, end - x->at};
    move(x, end);
    return 0;
}

static int lex_string(struct chat_lexer *x)
{
    const char quote = x->s[x->at];
    size_t i = x->at + 1;

    while (i < x->n && x->s[i] != quote)
        i += x->s[i] == '\\' ? 2 : 1;
    if (i >= x->n)
        return wrong(x, "a string has no end");
    return take(x, CHAT_T_STRING, i + 1);
}

static size_t skip_digits(const struct chat_lexer *x, size_t i)
{
    while (i < x->n && (is_digit(x->s[i]) || (x->s[i] == '_' && i + 1 < x->n &&
                                              is_digit(x->s[i + 1]))))
        i++;
    return i;
}

static int lex_number(struct chat_lexer *x)
{
    const bool behind_dot = x->at > 0 && x->s[x->at - 1] == '.';
    size_t end = skip_digits(x, x->at);
    enum chat_token kind = CHAT_T_INT;

    if (!behind_dot && end + 1 < x->n && x->s[end] == '.' &&
        is_digit(x->s[end + 1])) {
        end = skip_digits(x, end + 1);
        kind = CHAT_T_FLOAT;
    }
    if (!behind_dot && end < x->n && (x->s[end] | 32) == 'e') {
        size_t i = end + 1;
        if (i < x->n && (x->s[i] == '-' || x->s[i] == '+'))
            i++;
        if (i < x->n && is_digit(x->s[i])) {
            end = skip_digits(x, i);
            kind = CHAT_T_FLOAT;
        }
    }
    if (end < x->n && is_letter(x->s[end]))
        return wrong(x, "a number is followed by a letter");
    return take(x, kind, end);
}

static int lex_op(struct chat_lexer *x)
{
    static const char *const ops[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",",
    };

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!starts(x, x->at, ops[i]))
            continue;
        if (strchr("([{", *ops[i]))
            x->open++;
        else if (strchr(")]}", *ops[i]) && x->open > 0)
            x->open--;
        return take(x, CHAT_T_OP, x->at + strlen(ops[i]));
    }
    return wrong(x, "a character that cannot be here");
}

/* %} or }} at this place? */
static bool lex_end(struct chat_lexer *x)
{
    const bool block = x->inside == CHAT_T_BLOCK;
    const char sign = x->s[x->at];
    const size_t at = x->at + (sign == '-' || (sign == '+' && block));

    if (x->open > 0 || !starts(x, at, block ? "%}" : "}}"))
        return false;
    end_tag(x, at + 2, at > x->at ? sign : ' ', block);
    x->kind = block ? CHAT_T_BLOCK_END : CHAT_T_PRINT_END;
    return true;
}

int chat_lex(struct chat_lexer *x)
{
    if (x->inside == CHAT_T_TEXT)
        return lex_text(x);
    move(x, skip_space(x, x->at));
    if (x->at >= x->n)
        return wrong(x, "a tag has no end");
    const char c = x->s[x->at];
    size_t end = x->at;
    if (lex_end(x))
        return 0;
    if (c == '"' || c == '\'')
        return lex_string(x);
    if (is_digit(c))
        return lex_number(x);
    if (!is_letter(c))
        return lex_op(x);
    while (end < x->n && (is_letter(x->s[end]) || is_digit(x->s[end])))
        end++;
    return take(x, CHAT_T_NAME, end);
}
