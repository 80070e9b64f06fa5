/*
 * Tokenizers: SentencePiece's tokenizer.model, a protocol buffer.
 *
 *     field = varint (number << 3 | type), then by type
 *         0 varint   1 eight bytes   2 varint length and bytes   5 four bytes
 *
 *     1 piece      1 text, 2 score (float), 3 type: 1 normal (if it is left
 *                  out), 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
 *     2 trainer    3 model: 1 Unigram, 2 BPE; 24 spaces end words;
 *                  35 byte fallback; 41, 42 ids of BOS and EOS
 *     3 normalizer 2 charsmap, 3 add a space before, 4 remove extra spaces,
 *                  5 escape spaces
 *
 * BPE merges the pair whose text is the piece of the highest score: every cut
 * of a piece into two becomes a merge, its rank the place of the score.
 * Unigram's pieces of the user are always to be found: they score a little
 * less than the best piece once a byte.
 */
#include "token.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };
enum { UNIGRAM = 1, BPE = 2 };

struct wire {
    const unsigned char *p; /* [n] */
    size_t n, at;
    struct pq_error *e;
};

struct field {
    uint64_t number, value; /* of types 0, 1, 5 */
    struct tok_text bytes;  /* of type 2 */
    unsigned type;
};

struct piece {
    struct tok_text text;
    float score;
    uint64_t type;
};

struct model {
    struct pq_tokenizer *t;
    struct piece *pieces; /* [n] */
    size_t n, cap;
    uint64_t kind, bos, eos;
    bool suffix, prefix, squeeze, escape;
    bool unused; /* there are pieces that are never to come out */
    struct tok_text charsmap;
    struct pq_error *e;
};

/* ---- fields -------------------------------------------------------------- */

static int broken(const struct wire *w, const char *what)
{
    return pq_fail(w->e, PQ_EFORMAT, "byte %zu of a message: %s", w->at, what);
}

static int varint(struct wire *w, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (w->at == w->n)
            return broken(w, "a number is cut short");
        const unsigned char b = w->p[w->at++];
        *v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return 0;
    }
    return broken(w, "a number is too long");
}

static int fixed(struct wire *w, size_t bytes, uint64_t *v)
{
    if (w->n - w->at < bytes)
        return broken(w, "a number is cut short");
    *v = 0;
    for (size_t i = 0; i < bytes; i++)
        *v |= (uint64_t)w->p[w->at++] << (8 * i);
    return 0;
}

/* 1 and a field, or 0 at the end, or -1. */
static int next_field(struct wire *w, struct field *f)
{
    uint64_t key;
    int rc;
    if (w->at == w->n)
        return 0;
    if (varint(w, &key) != 0)
        return -1;
    *f = (struct field){.number = key >> 3, .type = (unsigned)(key & 7)};
    switch (f->type) {
    case 0:
        rc = varint(w, &f->value);
        break;
    case 1:
        rc = fixed(w, 8, &f->value);
        break;
    case 5:
        rc = fixed(w, 4, &f->value);
        break;
    case 2:
        rc = varint(w, &f->value);
        if (rc == 0 && f->value > w->n - w->at)
            rc = broken(w, "a field is longer than its message");
        if (rc == 0) {
            f->bytes.s = (const char *)w->p + w->at;
            f->bytes.n = (size_t)f->value;
            w->at += f->bytes.n;
        }
        break;
    default:
        rc = broken(w, "not a type of field");
    }
    return rc == 0 ? 1 : -1;
}

static struct wire inner(const struct field *f, struct pq_error *e)
{
    return (struct wire){(const unsigned char *)f->bytes.s, f->bytes.n, 0, e};
}

/* ---- messages ------------------------------------------------------------ */

static int read_piece(struct model *m, const struct field *in)
{
    struct wire w = inner(in, m->e);
    struct piece p = {.text = {"", 0}, .type = NORMAL};
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.number == 1 && f.type == 2) {
            p.text = f.bytes;
        } else if (f.number == 2 && f.type == 5) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&p.score, &bits, 4);
        } else if (f.number == 3 && f.type == 0) {
            p.type = f.value;
        }
    }
    if (rc != 0)
        return -1;
    if (!isfinite(p.score) || pq_utf8_prefix(p.text.s, p.text.n) < p.text.n)
        return pq_fail(m->e, PQ_EFORMAT, "piece %zu: bad text or score", m->n);
    if (p.type < NORMAL || p.type > BYTE)
        return pq_fail(m->e, PQ_EUNSUPPORTED,
                       "piece %zu: type %llu is not supported", m->n,
                       (unsigned long long)p.type);
    p.text.s = pq_arena_strndup(&m->t->arena, p.text.s, p.text.n);
    m->unused = m->unused || p.type == UNUSED;
    struct piece *const list = pq_grow(m->pieces, m->n, &m->cap, sizeof *list);
    if (list == NULL || p.text.s == NULL)
        return pq_fail_nomem(m->e);
    m->pieces = list;
    list[m->n++] = p;
    return 0;
}

static int read_trainer(struct model *m, const struct field *in)
{
    struct wire w = inner(in, m->e);
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.type != 0)
            continue;
        if (f.number == 3)
            m->kind = f.value;
        else if (f.number == 24)
            m->suffix = f.value != 0;
        else if (f.number == 35)
            m->t->byte_fallback = f.value != 0;
        else if (f.number == 41)
            m->bos = f.value;
        else if (f.number == 42)
            m->eos = f.value;
    }
    return rc;
}

static int read_normalizer(struct model *m, const struct field *in)
{
    struct wire w = inner(in, m->e);
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.number == 2 && f.type == 2)
            m->charsmap = f.bytes;
        else if (f.number == 3 && f.type == 0)
            m->prefix = f.value != 0;
        else if (f.number == 4 && f.type == 0)
            m->squeeze = f.value != 0;
        else if (f.number == 5 && f.type == 0)
            m->escape = f.value != 0;
    }
    return rc;
}

static int read_messages(struct model *m, const void *bytes, size_t n)
{
    struct wire w = {bytes, n, 0, m->e};
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.type != 2)
            continue;
        if ((f.number == 1 && read_piece(m, &f) != 0) ||
            (f.number == 2 && read_trainer(m, &f) != 0) ||
            (f.number == 3 && read_normalizer(m, &f) != 0))
            return -1;
    }
    if (rc == 0 && m->n == 0)
        return pq_fail(m->e, PQ_EFORMAT,
                       "no pieces: not a SentencePiece model");
    if (rc == 0 && m->kind != UNIGRAM && m->kind != BPE)
        return pq_fail(m->e, PQ_EUNSUPPORTED,
                       "model type %llu is not supported",
                       (unsigned long long)m->kind);
    if (rc == 0 && m->unused && m->kind == BPE)
        return pq_fail(m->e, PQ_EUNSUPPORTED,
                       "unused pieces of BPE are not supported");
    if (rc == 0 && m->suffix)
        return pq_fail(m->e, PQ_EUNSUPPORTED,
                       "treat_whitespace_as_suffix is not supported");
    return rc;
}

/* ---- into a tokenizer ---------------------------------------------------- */

static int fill_vocab(struct model *m)
{
    struct tok_entry *const list = pq_alloc(m->n, sizeof *list);
    if (list == NULL)
        return pq_fail_nomem(m->e);
    for (size_t i = 0; i < m->n; i++)
        list[i] = (struct tok_entry){m->pieces[i].text, i};
    const int rc = tok_vocab_fill(&m->t->vocab, list, m->n, m->n, false,
                                  &m->t->arena, m->e);
    free(list);
    return rc;
}

/* Special tokens are never met in text; the user's are, by BPE before all. */
static int mark_specials(struct model *m)
{
    struct pq_tokenizer *const t = m->t;
    t->n_special = (uint32_t)m->n;
    t->special = pq_zalloc(m->n, 1);
    t->added = pq_zalloc(m->n, sizeof *t->added);
    if (t->special == NULL || t->added == NULL)
        return pq_fail_nomem(m->e);
    for (size_t i = 0; i < m->n; i++) {
        const struct piece *const p = &m->pieces[i];
        const uint32_t id = (uint32_t)i;
        t->special[i] = p->type == UNKNOWN || p->type == CONTROL;
        if (p->type == UNKNOWN && t->unk == NONE)
            t->unk = id;
        if (p->type != USER_DEFINED || t->unigram || p->text.n == 0)
            continue;
        t->added[t->n_added] = (struct tok_added){.content = p->text, .id = id};
        if (tok_trie_put(&t->normal, p->text, (uint32_t)t->n_added++, m->e) !=
            0)
            return -1;
    }
    return 0;
}

static int by_score(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The scores of all pieces, the highest first, once each; n of them. */
static float *sorted_scores(const struct model *m, size_t *n)
{
    float *const list = pq_alloc(m->n, sizeof *list);
    *n = 0;
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < m->n; i++)
        list[i] = m->pieces[i].score;
    qsort(list, m->n, sizeof *list, by_score);
    for (size_t i = 0; i < m->n; i++)
        if (*n == 0 || list[*n - 1] > list[i])
            list[(*n)++] = list[i];
    return list;
}

static uint32_t rank_of(const float *scores, size_t n, float score)
{
    size_t low = 0;
    while (n - low > 1) {
        const size_t middle = low + (n - low) / 2;
        if (scores[middle] >= score)
            low = middle;
        else
            n = middle;
    }
    return (uint32_t)low;
}

/* A normal piece with this text, or NONE. */
static uint32_t part(const struct model *m, const char *s, size_t n)
{
    const uint32_t id = tok_vocab_find(&m->t->vocab, s, n);
    return id != NONE && m->pieces[id].type == NORMAL ? id : NONE;
}

/*
 * Every way to cut piece i in two.  Once with `put` false: they are counted.
 */
static size_t cut_piece(const struct model *m, size_t i, uint32_t rank,
                        bool put)
{
    const struct tok_text s = m->pieces[i].text;
    size_t found = 0;
    if (m->pieces[i].type != NORMAL)
        return 0;
    for (size_t at = 0; at < s.n;) {
        at += tok_char_length(s.s[at]);
        const struct tok_text right = {s.s + at, s.n - at};
        const uint32_t a = at < s.n ? part(m, s.s, at) : NONE;
        const uint32_t b = a == NONE ? NONE : part(m, right.s, right.n);
        if (b == NONE)
            continue;
        found++;
        const struct tok_merge x = {a, b, rank, (uint32_t)i};
        if (put)
            tok_merges_put(&m->t->merges, &x);
        tok_watch_cut(m->t, (struct tok_text){s.s, at}, right);
    }
    return found;
}

static int fill_merges(struct model *m)
{
    size_t n_scores, n = 0;
    m->t->cut = tok_vocab_find(&m->t->vocab, TOK_MARK, TOK_MARK_BYTES) != NONE;
    for (size_t i = 0; i < m->n; i++)
        n += cut_piece(m, i, 0, false);
    if (tok_merges_room(&m->t->merges, n, m->e) != 0)
        return -1;
    float *const scores = sorted_scores(m, &n_scores);
    if (scores == NULL)
        return pq_fail_nomem(m->e);
    for (size_t i = 0; i < m->n; i++)
        cut_piece(m, i, rank_of(scores, n_scores, m->pieces[i].score), true);
    free(scores);
    return 0;
}

static int fill_scores(struct model *m)
{
    struct pq_tokenizer *const t = m->t;
    float low = INFINITY, high = -INFINITY;
    t->single = true;
    t->scores = pq_zalloc(m->n, sizeof *t->scores);
    if (t->scores == NULL)
        return pq_fail_nomem(m->e);
    for (size_t i = 0; i < m->n; i++) {
        const struct piece *const p = &m->pieces[i];
        if (p->type == NORMAL) {
            low = p->score < low ? p->score : low;
            high = p->score > high ? p->score : high;
        }
    }
    t->unk_score = (double)(low - 10.0f);
    for (size_t i = 0; i < m->n; i++) {
        const struct piece *const p = &m->pieces[i];
        const bool user = p->type == USER_DEFINED;
        t->scores[i] =
            user ? (double)((float)p->text.n * high) - 0.1 : (double)p->score;
        if ((user || p->type == NORMAL) && p->text.n > 0 &&
            tok_trie_put(&t->pieces, p->text, (uint32_t)i, m->e) != 0)
            return -1;
    }
    return 0;
}

/* ---- steps --------------------------------------------------------------- */

static struct tok_step *add_step(struct tok_steps *s, enum tok_kind kind)
{
    struct tok_step *const x = &s->list[s->n++];
    x->kind = kind;
    return x;
}

static int fill_steps(struct model *m)
{
    static const struct tok_text mark = {TOK_MARK, TOK_MARK_BYTES};
    static const struct tok_text space = {" ", 1};
    struct pq_tokenizer *const t = m->t;
    struct tok_step *x;
    if (m->charsmap.n > 0) {
        x = add_step(&t->normalizers, TOK_PRECOMPILED);
        if (tok_charsmap_read(&x->map, m->charsmap.s, m->charsmap.n, &t->arena,
                              m->e) != 0)
            return -1;
        x->map.longest = true;
    }
    x = add_step(&t->normalizers, TOK_SPACES);
    x->left = m->squeeze;
    x->content = m->escape ? mark : space;
    if (m->prefix) {
        x = add_step(&t->normalizers, TOK_PREPEND);
        x->content = m->escape ? mark : space;
    }
    x = add_step(&t->decoders, TOK_REPLACE);
    x->pattern = mark;
    x->content = space;
    add_step(&t->decoders, TOK_BYTE_FALLBACK);
    add_step(&t->decoders, TOK_FUSE);
    if (m->prefix || m->squeeze) {
        x = add_step(&t->decoders, TOK_STRIP_CHARS);
        x->content = space;
        x->start = m->squeeze ? SIZE_MAX : 1;
    }
    return 0;
}

static int fill_bounds(struct model *m, int bos, int eos)
{
    struct pq_tokenizer *const t = m->t;
    uint32_t *const ids = pq_arena_alloc(&t->arena, 2, sizeof *ids);
    if (ids == NULL)
        return pq_fail_nomem(m->e);
    ids[0] = (uint32_t)m->bos;
    ids[1] = (uint32_t)m->eos;
    t->before = &ids[0];
    t->after = &ids[1];
    t->n_before = (bos < 0 ? !t->unigram : bos) && m->bos < m->n;
    t->n_after = eos > 0 && m->eos < m->n;
    return 0;
}

int tok_model_parse(const void *bytes, size_t n, int bos, int eos,
                    struct pq_tokenizer **t, struct pq_error *e)
{
    struct pq_tokenizer *const x = pq_zalloc(1, sizeof *x);
    struct model m = {.t = x,
                      .kind = UNIGRAM,
                      .bos = 1,
                      .eos = 2,
                      .prefix = true,
                      .squeeze = true,
                      .escape = true,
                      .e = e};
    if (x == NULL)
        return pq_fail_nomem(e);
    x->unk = NONE;
    x->fuse_unk = true;
    int rc = read_messages(&m, bytes, n);
    x->unigram = m.kind == UNIGRAM;
    if (rc == 0 && (fill_vocab(&m) != 0 || mark_specials(&m) != 0 ||
                    tok_find_bytes(x, e) != 0 ||
                    (x->unigram ? fill_scores(&m) : fill_merges(&m)) != 0 ||
                    fill_steps(&m) != 0 || fill_bounds(&m, bos, eos) != 0))
        rc = -1;
    free(m.pieces);
    if (rc != 0)
        pq_tokenizer_free(x);
    else
        *t = x;
    return rc;
}

int pq_tokenizer_parse_model(const void *bytes, size_t n, bool bos, bool eos,
                             struct pq_tokenizer **t, struct pq_error *e)
{
    return tok_model_parse(bytes, n, bos, eos, t, e);
}
