/*
 * Tokenizers: the table of replacements that SentencePiece compiles its
 * normalization rules into.
 *
 *     u32 bytes of the trie | trie: u32 units | strings, NUL behind each
 *
 * The trie is a double array (Darts): a unit is
 *
 *     bits 0-7 label, 8 has a leaf, 9-31 offset (times 256 when bit 9 is set)
 *     a leaf: bit 31 set, below it the place of the replacement
 *
 * and the child of unit i by a byte c is i ^ offset ^ c if its label is c.
 * Two ways to use it: sentencepiece replaces the longest key at each place;
 * `tokenizers` looks at each grapheme of fewer than six bytes, then at single
 * characters, and takes the shortest key that begins it for all of it.
 */
#include "token.h"

#include <string.h>
#include <utf8proc.h>

int tok_charsmap_read(struct tok_charsmap *m, const void *blob, size_t n,
                      struct pq_arena *a, struct pq_error *e)
{
    const unsigned char *const p = blob;
    if (n < 8)
        return pq_fail(e, PQ_EFORMAT, "charsmap: %zu bytes are too few", n);
    const size_t bytes =
        p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    if (bytes < 4 || bytes % 4 != 0 || bytes > n - 4)
        return pq_fail(e, PQ_EFORMAT, "charsmap: a trie of %zu bytes in %zu",
                       bytes, n);
    uint32_t *const trie = pq_arena_alloc(a, bytes / 4, 4);
    char *const strings =
        pq_arena_strndup(a, (const char *)p + 4 + bytes, n - 4 - bytes);
    if (trie == NULL || strings == NULL)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < bytes / 4; i++) {
        const unsigned char *const q = p + 4 + 4 * i;
        trie[i] = q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16 |
                  (uint32_t)q[3] << 24;
    }
    const size_t valid = pq_utf8_prefix(strings, n - 4 - bytes);
    if (valid < n - 4 - bytes)
        return pq_fail(e, PQ_EFORMAT, "charsmap: string byte %zu is not UTF-8",
                       valid);
    m->trie = trie;
    m->n_trie = bytes / 4;
    m->strings = (struct tok_text){strings, n - 4 - bytes};
    return 0;
}

static uint32_t offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The place of the replacement for a key at s[0..n) of *k bytes, or NONE. */
static uint32_t find(const struct tok_charsmap *m, const char *s, size_t n,
                     bool longest, size_t *k)
{
    uint32_t at = offset(m->trie[0]), best = NONE;
    for (size_t i = 0; i < n && s[i] != '\0'; i++) {
        const unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= m->n_trie)
            break;
        const uint32_t unit = m->trie[at];
        if ((unit & (1u << 31 | 0xff)) != c)
            break;
        at ^= offset(unit);
        if (at >= m->n_trie)
            break;
        if (unit >> 8 & 1) {
            best = m->trie[at] & 0x7fffffff;
            *k = i + 1;
            if (!longest)
                break;
        }
    }
    return best;
}

static void put_string(const struct tok_charsmap *m, uint32_t at,
                       struct pq_buf *out)
{
    if (at < m->strings.n) /* behind all of them there is a NUL */
        pq_buf_puts(out, m->strings.s + at);
}

static void apply_longest(const struct tok_charsmap *m, struct tok_text in,
                          struct pq_buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        const uint32_t at = find(m, in.s + i, in.n - i, true, &k);
        if (at != NONE) {
            put_string(m, at, out);
        } else {
            k = tok_char_length(in.s[i]);
            pq_buf_add(out, in.s + i, k);
        }
    }
}

/* The length of the grapheme at s[0..n), n > 0. */
static size_t grapheme(const char *s, size_t n)
{
    size_t k, at;
    utf8proc_int32_t state = 0;
    uint32_t left = tok_char(s, n, &at);
    while (at < n) {
        const uint32_t right = tok_char(s + at, n - at, &k);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)left,
                                             (utf8proc_int32_t)right, &state))
            break;
        left = right;
        at += k;
    }
    return at;
}

static void apply_shortest(const struct tok_charsmap *m, struct tok_text in,
                           struct pq_buf *out)
{
    size_t k, length;
    for (size_t i = 0; i < in.n; i += length) {
        length = grapheme(in.s + i, in.n - i);
        const uint32_t all =
            length < 6 ? find(m, in.s + i, length, false, &k) : NONE;
        if (all != NONE) {
            put_string(m, all, out);
            continue;
        }
        size_t step;
        for (size_t j = i; j < i + length; j += step) {
            step = tok_char_length(in.s[j]);
            const uint32_t one = find(m, in.s + j, step, false, &k);
            if (one != NONE)
                put_string(m, one, out);
            else
                pq_buf_add(out, in.s + j, step);
        }
    }
}

void tok_charsmap_apply(const struct tok_charsmap *m, struct tok_text in,
                        struct pq_buf *out)
{
    if (m->longest)
        apply_longest(m, in, out);
    else
        apply_shortest(m, in, out);
}
