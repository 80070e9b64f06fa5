/*
 * Tokenizers: decoding, a token at a time.
 *
 * Each token goes through the decoders in turn; each may hold text back until
 * the next token, or the end, tells what it is:
 *
 *     byte level    the bytes of a character that is not complete
 *     byte fallback a run of <0xHH>: one text if all of it is UTF-8, else
 *                   U+FFFD a byte
 *     strip         spaces at the end, where a decoder strips there
 *
 * What is not UTF-8 becomes U+FFFD, one for each longest beginning of a
 * character, as Unicode recommends.
 */
#include "token.h"

#include <stdlib.h>
#include <string.h>

/* What a step keeps between tokens. */
struct held {
    struct pq_buf bytes;
    size_t stripped; /* characters taken from the start so far */
    bool begun;      /* some text was here before */
};

struct pq_decoder {
    const struct pq_tokenizer *t;
    bool skip;
    bool begun; /* without decoders: a space between tokens */
    struct held held[TOK_STEPS];
    struct pq_buf text[TOK_STEPS]; /* what a step makes of one token */
};

int pq_decoder_new(const struct pq_tokenizer *t, unsigned flags,
                   struct pq_decoder **d, struct pq_error *e)
{
    *d = pq_zalloc(1, sizeof **d);
    if (*d == NULL)
        return pq_fail_nomem(e);
    (*d)->t = t;
    (*d)->skip = (flags & PQ_DECODE_SKIP) != 0;
    return 0;
}

void pq_decoder_free(struct pq_decoder *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < TOK_STEPS; i++) {
        pq_buf_release(&d->held[i].bytes);
        pq_buf_release(&d->text[i]);
    }
    free(d);
}

/* ---- UTF-8 that may be broken -------------------------------------------- */

/*
 * The length of the longest beginning of a character at s[0..n); *complete:
 * more bytes may still make it one.
 */
static size_t beginning(const char *s, size_t n, bool *open)
{
    static const char fill[] = "\x80\xbf";
    const size_t want = tok_char_length(s[0]);
    size_t good = 1;
    *open = false;
    /* A beginning is good when some continuation completes it. */
    for (size_t k = 1; k < want && k <= n; k++) {
        bool any = false;
        for (size_t i = 0; !any && i < sizeof fill - 1; i++) {
            char c[4];
            memcpy(c, s, k);
            c[k] = fill[i];
            for (size_t j = k + 1; j < want; j++)
                c[j] = fill[0];
            any = pq_utf8_prefix(c, want) == want;
        }
        if (!any)
            break;
        good = k;
        *open = k == n;
    }
    return good;
}

/* Appends the text of bytes; returns how many are kept for what follows. */
static size_t put_lossy(const char *s, size_t n, bool last, struct pq_buf *out)
{
    size_t i = 0;
    while (i < n) {
        const size_t k = pq_utf8_prefix(s + i, n - i);
        pq_buf_add(out, s + i, k);
        i += k;
        if (i == n)
            break;
        bool open;
        const size_t bad = beginning(s + i, n - i, &open);
        if (open && !last)
            return n - i;
        pq_buf_puts(out, "\xef\xbf\xbd");
        i += bad;
    }
    return 0;
}

/* ---- the decoders -------------------------------------------------------- */

static void byte_level(struct held *h, struct tok_text in, bool last,
                       struct pq_buf *out)
{
    struct pq_buf *const b = &h->bytes;
    const size_t before = b->n;
    if (!tok_unmap_bytes(in, b)) {
        b->n = before;
        pq_buf_add(b, in.s, in.n);
    }
    const size_t keep = b->n ? put_lossy(b->s, b->n, last, out) : 0;
    if (keep > 0)
        memmove(b->s, b->s + b->n - keep, keep);
    b->n = keep;
}

/* The byte of "<0xHH>", or -1. */
static int byte_token(struct tok_text t)
{
    int v = 0;
    if (t.n != 6 || memcmp(t.s, "<0x", 3) != 0 || t.s[5] != '>')
        return -1;
    for (size_t i = 3; i < 5; i++) {
        const char c = t.s[i];
        const int d = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static void end_bytes(struct held *h, struct pq_buf *out)
{
    struct pq_buf *const b = &h->bytes;
    if (b->n > 0 && pq_utf8_prefix(b->s, b->n) == b->n)
        pq_buf_add(out, b->s, b->n);
    else
        for (size_t i = 0; i < b->n; i++)
            pq_buf_puts(out, "\xef\xbf\xbd");
    b->n = 0;
}

/* The first token loses its replacements, unless none were put there. */
static void metaspace(const struct tok_step *x, struct held *h,
                      struct tok_text in, struct pq_buf *out)
{
    const bool gone = !h->begun && x->prepend != TOK_NEVER;
    h->begun = h->begun || in.n > 0;
    for (size_t i = 0; i < in.n;) {
        const struct tok_text rest = {in.s + i, in.n - i};
        if (!tok_starts(rest, x->content)) {
            pq_buf_add(out, in.s + i++, 1);
            continue;
        }
        if (!gone)
            pq_buf_puts(out, " ");
        i += x->content.n;
    }
}

/* Is there a Fuse before decoder i? */
static bool fused(const struct pq_decoder *d, size_t i)
{
    while (i > 0 && d->t->decoders.list[i - 1].kind != TOK_FUSE)
        i--;
    return i > 0;
}

/*
 * Up to `start` characters from the start and `stop` from the end: of each
 * token, or, behind a Fuse (`whole`), of all the text.
 */
static void strip(const struct tok_step *x, struct held *h, bool whole,
                  struct tok_text in, bool last, struct pq_buf *out)
{
    struct pq_buf *const b = &h->bytes;
    const struct tok_text c = x->content;
    if (!whole)
        h->stripped = 0;
    while (h->stripped < x->start && tok_starts(in, c)) {
        in.s += c.n;
        in.n -= c.n;
        h->stripped++;
    }
    if (in.n > 0)
        h->stripped = x->start; /* something else came: no more */
    pq_buf_add(b, in.s, in.n);
    size_t keep = 0;
    while (keep < x->stop && b->n >= (keep + 1) * c.n &&
           memcmp(b->s + b->n - (keep + 1) * c.n, c.s, c.n) == 0)
        keep++;
    keep *= c.n;
    pq_buf_add(out, b->s ? b->s : "", b->n - keep);
    if (keep > 0)
        memmove(b->s, b->s + b->n - keep, keep);
    b->n = whole && !last ? keep : 0;
}

static void pass(struct pq_decoder *d, size_t i, struct tok_text in, bool last,
                 struct pq_buf *out);

/* What comes out of step i goes on to the next. */
static void pass_on(struct pq_decoder *d, size_t i, bool last,
                    struct pq_buf *out)
{
    const struct pq_buf *const b = &d->text[i];
    const struct tok_text text = {b->s ? b->s : "", b->n};
    pass(d, i + 1, text, last, out);
}

/* A run of bytes that ends is a token of its own. */
static void byte_fallback(struct pq_decoder *d, size_t i, struct tok_text in,
                          bool last, struct pq_buf *out)
{
    struct held *const h = &d->held[i];
    const int byte = byte_token(in);
    if (byte >= 0) {
        const char c = (char)byte;
        pq_buf_add(&h->bytes, &c, 1);
        return;
    }
    if (h->bytes.n > 0) {
        d->text[i].n = 0;
        end_bytes(h, &d->text[i]);
        pass_on(d, i, false, out);
    }
    pass(d, i + 1, in, last, out);
}

/* One token, or the end (`last`), through the decoders from i on. */
static void pass(struct pq_decoder *d, size_t i, struct tok_text in, bool last,
                 struct pq_buf *out)
{
    if (i == d->t->decoders.n) {
        pq_buf_add(out, in.s, in.n);
        return;
    }
    const struct tok_step *const x = &d->t->decoders.list[i];
    struct held *const h = &d->held[i];
    struct pq_buf *const b = &d->text[i];
    b->n = 0;
    switch (x->kind) {
    case TOK_BYTE_FALLBACK:
        byte_fallback(d, i, in, last, out);
        return;
    case TOK_BYTE_LEVEL:
        byte_level(h, in, last, b);
        break;
    case TOK_REPLACE:
        if (tok_replace(x, in, NULL, b, NULL) != 0)
            b->failed = true; /* it does not: decoders have no patterns */
        break;
    case TOK_METASPACE:
        metaspace(x, h, in, b);
        break;
    case TOK_STRIP_CHARS:
        strip(x, h, fused(d, i), in, last, b);
        break;
    default: /* Fuse */
        pq_buf_add(b, in.s, in.n);
    }
    pass_on(d, i, last, out);
}

/* ---- a token ------------------------------------------------------------- */

static int run(struct pq_decoder *d, struct tok_text in, bool last,
               struct pq_buf *out, struct pq_error *e)
{
    bool failed = false;
    if (d->t->decoders.n == 0 && d->begun && !last)
        pq_buf_puts(out, " ");
    d->begun = !last;
    pass(d, 0, in, last, out);
    for (size_t i = 0; i < d->t->decoders.n; i++)
        failed = failed || d->text[i].failed || d->held[i].bytes.failed;
    return failed || out->failed ? pq_fail_nomem(e) : 0;
}

int pq_decoder_push(struct pq_decoder *d, uint32_t id, struct pq_buf *out,
                    struct pq_error *e)
{
    struct tok_text text;
    text.s = pq_tokenizer_text(d->t, id, &text.n);
    if (text.s == NULL || (d->skip && pq_tokenizer_special(d->t, id)))
        return 0;
    return run(d, text, false, out, e);
}

int pq_decoder_finish(struct pq_decoder *d, struct pq_buf *out,
                      struct pq_error *e)
{
    const struct tok_text none = {"", 0};
    const int rc = run(d, none, true, out, e);
    for (size_t i = 0; i < TOK_STEPS; i++) {
        struct held *const h = &d->held[i];
        h->bytes.n = 0;
        h->bytes.failed = h->begun = false;
        h->stripped = 0;
    }
    return rc;
}

int pq_tokenizer_decode(const struct pq_tokenizer *t, const uint32_t *ids,
                        size_t n, unsigned flags, struct pq_buf *out,
                        struct pq_error *e)
{
    struct pq_decoder *d;
    int rc = pq_decoder_new(t, flags, &d, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = pq_decoder_push(d, ids[i], out, e);
    if (rc == 0)
        rc = pq_decoder_finish(d, out, e);
    pq_decoder_free(d);
    return rc;
}
