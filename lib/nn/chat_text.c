/*
 * Chat templates: what Python's strings can do.  Lengths and places are
 * counted in characters, as there; the texts are UTF-8.
 */
#include "chat.h"

#include <string.h>
#include <utf8proc.h>

bool chat_is_space(uint32_t c)
{
    return tok_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

size_t chat_characters(struct tok_text t)
{
    size_t n = 0;

    for (size_t i = 0; i < t.n; i++)
        n += ((unsigned char)t.s[i] & 0xc0) != 0x80;
    return n;
}

size_t chat_bytes(struct tok_text t, size_t k)
{
    size_t at = 0;

    for (; k > 0 && at < t.n; k--)
        at += tok_char_length(t.s[at]);
    return at;
}

size_t chat_search(struct tok_text t, struct tok_text of, size_t at)
{
    if (at > t.n || of.n > t.n - at)
        return t.n + 1;
    const char *const p =
        of.n ? memmem(t.s + at, t.n - at, of.s, of.n) : t.s + at;
    return p ? (size_t)(p - t.s) : t.n + 1;
}

static bool in_set(uint32_t c, const struct tok_text *set)
{
    size_t k;

    if (!set)
        return chat_is_space(c);
    for (size_t at = 0; at < set->n; at += k)
        if (tok_char(set->s + at, set->n - at, &k) == c)
            return true;
    return false;
}

struct tok_text chat_strip(struct tok_text t, const struct tok_text *set,
                           bool left, bool right)
{
    size_t k;

    while (left && t.n > 0 && in_set(tok_char(t.s, t.n, &k), set))
        t = (struct tok_text){t.s + k, t.n - k};
    while (right && t.n > 0 && in_set(tok_char_last(t.s, t.n, &k), set))
        t.n -= k;
    return t;
}

int chat_strip_value(struct chat_run *r, const char *what, struct tok_text t,
                     struct chat_value set, bool left, bool right,
                     struct chat_value *out)
{
    struct tok_text characters, *by = NULL;

    if (set.type != CHAT_ABSENT && set.type != CHAT_NONE) {
        if (chat_want_text(r, what, set, &characters))
            return -1;
        by = &characters;
    }
    /* each character may be compared with all of the set */
    if (chat_spend(r, t.n * (by ? 1 + by->n : 1) / 64))
        return -1;
    t = chat_strip(t, by, left, right);
    *out = chat_string(t.s, t.n);
    return 0;
}

/* ---- upper and lower case ----------------------------------------------- */

/*
 * Characters that become several, or whose lower case depends on what stands
 * around them (SpecialCasing.txt); they are refused rather than changed
 * otherwise than Python does.
 */
static bool is_special(uint32_t c)
{
    return c == 0xdf || c == 0x130 || c == 0x149 || c == 0x1f0 || c == 0x390 ||
           c == 0x3a3 || c == 0x3b0 || c == 0x587 ||
           (c >= 0x1e96 && c <= 0x1e9e) || (c >= 0x1f50 && c <= 0x1f56) ||
           (c >= 0x1f80 && c <= 0x1ffc) || (c >= 0xfb00 && c <= 0xfb17);
}

static bool is_cased(uint32_t c)
{
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);

    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL ||
           k == UTF8PROC_CATEGORY_LT;
}

/* Does a word of the filter title begin behind this character? */
static bool begins_word(uint32_t c)
{
    return chat_is_space(c) || (c < 0x80 && strchr("-({[<", (int)c) && c);
}

static uint32_t change_case(uint32_t c, enum chat_case how, bool first)
{
    const utf8proc_int32_t x = (utf8proc_int32_t)c;

    if (how == CHAT_UPPER || (how == CHAT_WORDS && first))
        return (uint32_t)utf8proc_toupper(x);
    if (how == CHAT_LOWER || !first)
        return (uint32_t)utf8proc_tolower(x);
    return (uint32_t)utf8proc_totitle(x);
}

int chat_case(struct chat_run *r, struct tok_text t, enum chat_case how,
              struct chat_value *out)
{
    struct pq_buf b = {0};
    bool first = true;

    for (size_t at = 0, k; at < t.n; at += k) {
        const uint32_t c = tok_char(t.s + at, t.n - at, &k);
        if (is_special(c)) {
            pq_buf_release(&b);
            return chat_fail(r, PQ_EUNSUPPORTED,
                             "upper and lower case of U+%04X are not "
                             "supported",
                             (unsigned)c);
        }
        tok_put_char(&b, change_case(c, how, first));
        first = how == CHAT_TITLE   ? !is_cased(c)
                : how == CHAT_WORDS ? begins_word(c)
                                    : false;
    }
    return chat_keep(r, &b, out);
}

/* ---- replacing and splitting -------------------------------------------- */

int chat_replace(struct chat_run *r, struct tok_text t, struct tok_text from,
                 struct tok_text to, int64_t most, struct chat_value *out)
{
    struct pq_buf b = {0};
    size_t at = 0;

    while (most != 0) {
        const size_t next = chat_search(t, from, at);
        if (next > t.n)
            break;
        if (chat_spend_on(r, &b, 1 + (next - at + to.n) / 64)) {
            pq_buf_release(&b);
            return -1;
        }
        pq_buf_add(&b, t.s + at, next - at);
        pq_buf_add(&b, to.s, to.n);
        at = next + from.n;
        if (from.n == 0) { /* before every character, and at the end */
            if (at == t.n)
                break;
            const size_t k = tok_char_length(t.s[at]);
            pq_buf_add(&b, t.s + at, k);
            at += k;
        }
        most -= most > 0;
    }
    pq_buf_add(&b, t.s + at, t.n - at);
    return chat_keep(r, &b, out);
}

static int add_piece(struct chat_run *r, struct chat_list *l, const char *s,
                     size_t n)
{
    return chat_add(r, l, chat_string(s, n));
}

/* At white space, of which there may be much in a row. */
static int split_words(struct chat_run *r, struct tok_text t, int64_t most,
                       struct chat_list *l)
{
    size_t k;

    for (t = chat_strip(t, NULL, true, false); t.n > 0;
         t = chat_strip(t, NULL, true, false)) {
        size_t n = 0;
        while (most != 0 && n < t.n &&
               !chat_is_space(tok_char(t.s + n, t.n - n, &k)))
            n += k;
        if (most == 0)
            n = chat_strip(t, NULL, false, true).n;
        if (add_piece(r, l, t.s, n))
            return -1;
        if (most == 0)
            return 0;
        t = (struct tok_text){t.s + n, t.n - n};
        most -= most > 0;
    }
    return 0;
}

static int split_left(struct chat_run *r, struct tok_text t, struct tok_text by,
                      int64_t most, struct chat_list *l)
{
    size_t at = 0;

    for (; most != 0; most -= most > 0) {
        const size_t next = chat_search(t, by, at);
        if (next > t.n)
            break;
        if (add_piece(r, l, t.s + at, next - at))
            return -1;
        at = next + by.n;
    }
    return add_piece(r, l, t.s + at, t.n - at);
}

static int split_right(struct chat_run *r, struct tok_text t,
                       struct tok_text by, int64_t most, struct chat_list *l)
{
    size_t end = t.n, at = t.n;

    while (most != 0 && at >= by.n && at > 0) {
        if (chat_spend(r, by.n / 64))
            return -1;
        if (memcmp(t.s + at - by.n, by.s, by.n) != 0) {
            at--;
            continue;
        }
        if (add_piece(r, l, t.s + at, end - at))
            return -1;
        end = at -= by.n;
        most -= most > 0;
    }
    if (add_piece(r, l, t.s, end))
        return -1;
    for (size_t i = 0; i < l->n / 2; i++) {
        const struct chat_value v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
    return 0;
}

int chat_split(struct chat_run *r, struct tok_text t, const struct tok_text *by,
               int64_t most, bool right, struct chat_value *out)
{
    if (chat_new_list(r, CHAT_LIST, out) || chat_spend(r, t.n / 64))
        return -1;
    if (by && by->n == 0)
        return chat_fail(r, PQ_EARG, "splits at an empty text");
    if (!by && right && most >= 0)
        return chat_fail(r, PQ_EUNSUPPORTED,
                         "rsplit() of a number of words is not supported");
    return !by     ? split_words(r, t, most, out->list)
           : right ? split_right(r, t, *by, most, out->list)
                   : split_left(r, t, *by, most, out->list);
}

/* Does a line end at this character, for Python? */
static bool ends_line(uint32_t c)
{
    return (c >= 0xa && c <= 0xd) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
           c == 0x2028 || c == 0x2029;
}

int chat_split_lines(struct chat_run *r, struct tok_text t,
                     struct chat_value *out)
{
    size_t from = 0;

    if (chat_new_list(r, CHAT_LIST, out) || chat_spend(r, t.n / 64))
        return -1;
    for (size_t at = 0, k; at < t.n; at += k) {
        const uint32_t c = tok_char(t.s + at, t.n - at, &k);
        if (!ends_line(c))
            continue;
        if (add_piece(r, out->list, t.s + from, at - from))
            return -1;
        k += c == '\r' && at + 1 < t.n && t.s[at + 1] == '\n';
        from = at + k;
    }
    return from < t.n ? add_piece(r, out->list, t.s + from, t.n - from) : 0;
}
