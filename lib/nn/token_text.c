/*
 * Tokenizers: characters of UTF-8, what kind they are, and the byte alphabet.
 *
 *     bytes    0      1-6 bits of each, high first
 *     0xxxxxxx              U+0000..007F
 *     110xxxxx 10xxxxxx     U+0080..07FF
 *     1110xxxx 10...  10... U+0800..FFFF
 *     11110xxx 10... 10... 10...  up to U+10FFFF
 *
 * The byte alphabet is GPT-2's: the bytes 33-126, 161-172 and 174-255 stand
 * for themselves, the other 68 in order for U+0100..U+0143.
 */
#include "token.h"

#include <string.h>
#include <utf8proc.h>

size_t tok_char_length(char c)
{
    const unsigned char b = (unsigned char)c;
    return b < 0x80 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
}

uint32_t tok_char(const char *s, size_t n, size_t *k)
{
    const unsigned char *const p = (const unsigned char *)s;
    const size_t want = tok_char_length(s[0]);
    *k = want <= n ? want : 1;
    switch (*k) {
    case 1:
        return p[0];
    case 2:
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    case 3:
        return (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    default:
        return (p[0] & 7u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 |
               (p[3] & 0x3fu);
    }
}

uint32_t tok_char_last(const char *s, size_t n, size_t *k)
{
    size_t at = n - 1;
    while (at > 0 && n - at < 4 && ((unsigned char)s[at] & 0xc0) == 0x80)
        at--;
    return tok_char(s + at, n - at, k);
}

void tok_put_char(struct pq_buf *b, uint32_t c)
{
    utf8proc_uint8_t s[4];
    const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, s);
    pq_buf_add(b, s, (size_t)n);
}

bool tok_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

/* Alphabetic, marks, decimal digits, connectors, and the two joiners. */
bool tok_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
               (c >= 'a' && c <= 'z') || c == '_';
    const utf8proc_category_t g = category(c);
    return (g >= UTF8PROC_CATEGORY_LU && g <= UTF8PROC_CATEGORY_NL) ||
           g == UTF8PROC_CATEGORY_PC || c == 0x200c || c == 0x200d ||
           (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool tok_is_numeric(uint32_t c)
{
    const utf8proc_category_t g = category(c);
    return g >= UTF8PROC_CATEGORY_ND && g <= UTF8PROC_CATEGORY_NO;
}

bool tok_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return c > ' ' && c < 0x7f && (!tok_is_word(c) || c == '_');
    const utf8proc_category_t g = category(c);
    return g >= UTF8PROC_CATEGORY_PC && g <= UTF8PROC_CATEGORY_PO;
}

bool tok_starts(struct tok_text t, struct tok_text with)
{
    return t.n >= with.n && memcmp(t.s, with.s, with.n) == 0;
}

static bool is_itself(unsigned b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* The byte that a character stands for, or -1: 33 controls and the space,
 * then 127-160, then 173. */
static int byte_of_char(uint32_t c)
{
    if (c < 0x100)
        return is_itself(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c <= 0x142)
        return (int)(c - 0x121 + 127);
    return c == 0x143 ? 173 : -1;
}

bool tok_unmap_bytes(struct tok_text t, struct pq_buf *out)
{
    char part[64];
    size_t n = 0;
    for (size_t i = 0, k; i < t.n; i += k) {
        const int b = byte_of_char(tok_char(t.s + i, t.n - i, &k));
        if (b < 0)
            return false;
        if (n == sizeof part) {
            pq_buf_add(out, part, n);
            n = 0;
        }
        part[n++] = (char)b;
    }
    pq_buf_add(out, part, n);
    return true;
}
