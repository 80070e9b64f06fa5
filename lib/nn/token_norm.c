/*
 * Tokenizers: normalizers, one pass over the text each.
 *
 * Unicode's forms: characters are decomposed one by one, each run of marks is
 * put in the order of their combining classes by counting (a text of nothing
 * but marks must not take the square of its length), then composed.
 *
 *     e U+0301 U+0323  ->  e U+0323 U+0301  ->  U+1EB9 U+0301      (NFC)
 *         class 230 220          220 230
 */
#include "token.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool is_ascii(struct tok_text t)
{
    unsigned char all = 0;
    for (size_t i = 0; i < t.n; i++)
        all |= (unsigned char)t.s[i];
    return all < 0x80;
}

/* ---- Unicode's forms ----------------------------------------------------- */

struct chars {
    utf8proc_int32_t *list; /* [n] */
    size_t n, cap;
};

static bool put_decomposed(struct chars *c, uint32_t x, utf8proc_option_t how)
{
    utf8proc_int32_t parts[64]; /* the longest decomposition is 18 */
    int unused = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(
        (utf8proc_int32_t)x, parts, sizeof parts / sizeof *parts, how, &unused);
    if (n < 0 || n > (utf8proc_ssize_t)(sizeof parts / sizeof *parts))
        return false;
    utf8proc_int32_t *const list =
        tok_room(c->list, c->n + (size_t)n, &c->cap, sizeof *list);
    if (list == NULL)
        return false;
    c->list = list;
    memcpy(list + c->n, parts, (size_t)n * sizeof *parts);
    c->n += (size_t)n;
    return true;
}

static unsigned combining(utf8proc_int32_t c)
{
    if (c < 0x300)
        return 0;
    const int k = utf8proc_get_property(c)->combining_class;
    return (unsigned)k & 0xff;
}

/* Sorts c[0..n) by combining class, stably, with room for as many in `to`. */
static void sort_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *to)
{
    size_t starts[257] = {0};
    for (size_t i = 0; i < n; i++)
        starts[combining(c[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        starts[k] += starts[k - 1];
    for (size_t i = 0; i < n; i++)
        to[starts[combining(c[i])]++] = c[i];
    memcpy(c, to, n * sizeof *c);
}

/* False when memory is short. */
static bool order_marks(struct chars *c)
{
    utf8proc_int32_t *to = NULL;
    for (size_t i = 0; i < c->n;) {
        size_t end = i;
        while (end < c->n && combining(c->list[end]) != 0)
            end++;
        if (end - i > 1) {
            if (to == NULL && (to = pq_alloc(c->n, sizeof *to)) == NULL)
                return false;
            sort_marks(c->list + i, end - i, to);
        }
        i = end + (end == i);
    }
    free(to);
    return true;
}

static bool to_form(struct tok_text in, enum tok_kind form, struct pq_buf *out)
{
    const bool compat = form == TOK_NFKC || form == TOK_NFKD;
    const bool compose = form == TOK_NFC || form == TOK_NFKC;
    const utf8proc_option_t how =
        UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    struct chars c = {0};
    bool ok = true;

    for (size_t i = 0, k; ok && i < in.n; i += k)
        ok = put_decomposed(&c, tok_char(in.s + i, in.n - i, &k), how);
    ok = ok && order_marks(&c);
    if (ok && compose && c.n > 0)
        c.n = (size_t)utf8proc_normalize_utf32(
            c.list, (utf8proc_ssize_t)c.n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (size_t i = 0; ok && i < c.n; i++)
        tok_put_char(out, (uint32_t)c.list[i]);
    free(c.list);
    return ok;
}

/* ---- a character at a time ----------------------------------------------- */

/* All have one lower-case character, but for I with a dot. */
static void lowercase(struct tok_text in, struct pq_buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        const uint32_t c = tok_char(in.s + i, in.n - i, &k);
        if (c == 0x130)
            pq_buf_puts(out, "i\xcc\x87");
        else
            tok_put_char(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
    }
}

/* What is taken from the start makes the text begin elsewhere. */
static void strip_accents(struct tok_text in, bool *first, struct pq_buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        const uint32_t c = tok_char(in.s + i, in.n - i, &k);
        const utf8proc_category_t g = utf8proc_category((utf8proc_int32_t)c);
        if (g < UTF8PROC_CATEGORY_MN || g > UTF8PROC_CATEGORY_ME)
            pq_buf_add(out, in.s + i, k);
        else
            *first = *first && i > 0;
    }
}

/* Controls go, other blanks become spaces. */
static void nmt(struct tok_text in, bool *first, struct pq_buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        const uint32_t c = tok_char(in.s + i, in.n - i, &k);
        if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) ||
            c == 0x7f || c == 0x8f || c == 0x9f) {
            *first = *first && i > 0;
            continue;
        }
        if (c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
            (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
            c == 0x2581 || c == 0xfeff || c == 0xfffd)
            pq_buf_puts(out, " ");
        else
            pq_buf_add(out, in.s + i, k);
    }
}

static struct tok_text strip(struct tok_text t, bool left, bool right,
                             bool *first)
{
    size_t k;
    while (left && t.n > 0 && tok_is_space(tok_char(t.s, t.n, &k))) {
        t.s += k;
        t.n -= k;
        *first = false;
    }
    while (right && t.n > 0 && tok_is_space(tok_char_last(t.s, t.n, &k)))
        t.n -= k;
    return t;
}

/*
 * SentencePiece's own: spaces become `content`; with `left` those at the ends
 * go and runs of them become one.
 */
static void put_spaces(const struct tok_step *x, struct tok_text in,
                       struct pq_buf *out)
{
    bool space = x->left;
    const size_t start = out->n;
    for (size_t i = 0; i < in.n && !out->failed; i++) {
        const bool is = in.s[i] == ' ';
        if (!is)
            pq_buf_add(out, in.s + i, 1);
        else if (!(x->left && space))
            pq_buf_add(out, x->content.s, x->content.n);
        space = is;
    }
    const size_t k = x->content.n;
    while (x->left && out->n >= start + k &&
           memcmp(out->s + out->n - k, x->content.s, k) == 0)
        out->n -= k;
}

/* ---- all of them --------------------------------------------------------- */

static int run_step(struct tok_run *r, const struct tok_step *x,
                    struct tok_text in, bool *first, struct pq_buf *out)
{
    switch (x->kind) {
    case TOK_LOWERCASE:
        lowercase(in, out);
        return 0;
    case TOK_REPLACE:
        return tok_replace(x, in, &r->matcher, out, r->e);
    case TOK_PREPEND:
        if (in.n > 0)
            pq_buf_add(out, x->content.s, x->content.n);
        pq_buf_add(out, in.s, in.n);
        return 0;
    case TOK_STRIP_ACCENTS:
        strip_accents(in, first, out);
        return 0;
    case TOK_NMT:
        nmt(in, first, out);
        return 0;
    case TOK_PRECOMPILED:
        tok_charsmap_apply(&x->map, in, out);
        return 0;
    case TOK_SPACES:
        put_spaces(x, in, out);
        return 0;
    default:
        return to_form(in, x->kind, out) ? 0 : pq_fail_nomem(r->e);
    }
}

/* Would the step leave the text as it is? */
static bool is_idle(const struct tok_step *x, struct tok_text in)
{
    return x->kind <= TOK_NFKD && is_ascii(in);
}

int tok_normalize(struct tok_run *r, struct tok_text in, bool *first,
                  struct tok_text *out)
{
    const struct tok_steps *const steps = &r->t->normalizers;
    unsigned turn = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const struct tok_step *const x = &steps->list[i];
        if (x->kind == TOK_STRIP) {
            in = strip(in, x->left, x->right, first);
            continue;
        }
        if (is_idle(x, in))
            continue;
        struct pq_buf *const b = &r->normal[turn];
        turn = !turn;
        b->n = 0;
        if (run_step(r, x, in, first, b) != 0)
            return -1;
        if (b->failed)
            return pq_fail_nomem(r->e);
        in = (struct tok_text){b->s ? b->s : "", b->n};
    }
    *out = in;
    return 0;
}
