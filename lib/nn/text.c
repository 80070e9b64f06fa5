/*
 * Texts: the public face of lib/nn (pq_nn.h).
 *
 * Short texts share a batch, each with its own stretch of the cache; a long
 * one runs in pieces of `rows` tokens behind its own cache.  Hidden states
 * become logits 64 rows at a time.
 */
#include "pq_nn.h"

#include <stdlib.h>
#include <string.h>

#include "model.h"

#define ROWS       512 /* tokens at a time, unless told otherwise */
#define LOGIT_ROWS 64
#define TEXTS      64 /* of a batch */

struct pq_nn {
    struct nn_model m;
    struct nn_pool *pool;
    struct nn_work work;
    struct nn_cache cache;     /* of texts that are scored */
    float *z;                  /* [LOGIT_ROWS][vocab] */
    float *gathered;           /* [LOGIT_ROWS][hidden] */
    int32_t *ids, *labels;     /* [rows] */
    double *nll;               /* [rows] */
    struct nn_inputs *watched; /* or NULL; work.inputs while it adds up */
};

struct pq_nn_stream {
    struct pq_nn *nn;
    struct nn_cache cache;
    size_t fed, length;
};

/* ---- the model ---------------------------------------------------------- */

static int make_buffers(struct pq_nn *nn, size_t rows, struct pq_error *e)
{
    uint64_t z, h;

    if (nn_work_init(&nn->work, &nn->m, rows, e))
        return -1;
    if (!pq_mul(nn->m.c.vocab, LOGIT_ROWS, &z) ||
        !pq_mul(nn->m.c.hidden, LOGIT_ROWS, &h))
        return pq_fail_nomem(e);
    nn->z = pq_alloc((size_t)z, sizeof *nn->z);
    nn->gathered = pq_alloc((size_t)h, sizeof *nn->gathered);
    nn->ids = pq_alloc(rows, sizeof *nn->ids);
    nn->labels = pq_alloc(rows, sizeof *nn->labels);
    nn->nll = pq_alloc(rows, sizeof *nn->nll);
    return nn->z && nn->gathered && nn->ids && nn->labels && nn->nll
               ? 0
               : pq_fail_nomem(e);
}

int pq_nn_open(struct pq_source *s, const struct pq_nn_options *o,
               struct pq_nn **out, struct pq_error *e)
{
    struct pq_nn *nn = pq_zalloc(1, sizeof *nn);

    if (!nn)
        return pq_fail_nomem(e);
    if (nn_model_load(&nn->m, s, o->kernels, e) ||
        !(nn->pool = nn_pool_new(o->threads, o->kernels, e)) ||
        make_buffers(nn, o->rows ? o->rows : ROWS, e)) {
        pq_nn_free(nn);
        return -1;
    }
    *out = nn;
    return 0;
}

int pq_nn_watch(struct pq_nn *nn, bool squares, uint64_t bytes, size_t *from,
                struct pq_error *e)
{
    pq_nn_unwatch(nn);
    if (nn_inputs_new(&nn->m, squares, bytes, from, &nn->watched, e))
        return -1;
    nn->work.inputs = nn->watched;
    return 0;
}

void pq_nn_watch_end(struct pq_nn *nn)
{
    if (nn->work.inputs)
        nn_inputs_mean(nn->work.inputs);
    nn->work.inputs = NULL;
}

void pq_nn_unwatch(struct pq_nn *nn)
{
    nn_inputs_free(nn->watched);
    nn->watched = nn->work.inputs = NULL;
}

bool pq_nn_watched(const struct pq_nn *nn, size_t i, struct pq_nn_inputs *x)
{
    return nn_inputs_of(nn->watched, i, x);
}

void pq_nn_free(struct pq_nn *nn)
{
    if (!nn)
        return;
    pq_nn_unwatch(nn);
    nn_pool_free(nn->pool);
    nn_work_release(&nn->work);
    nn_cache_release(&nn->cache);
    nn_model_release(&nn->m);
    free(nn->z);
    free(nn->gathered);
    free(nn->ids);
    free(nn->labels);
    free(nn->nll);
    free(nn);
}

struct pq_nn_info pq_nn_about(const struct pq_nn *nn)
{
    const struct nn_config *c = &nn->m.c;
    const struct pq_nn_info info = {c->type, c->vocab, c->positions,
                                    c->learned_places, nn->m.bytes};

    return info;
}

/* ---- what may be fed ---------------------------------------------------- */

static int check_length(const struct pq_nn *nn, size_t n, struct pq_error *e)
{
    const struct nn_config *c = &nn->m.c;

    if (c->learned_places && n > c->positions)
        return pq_fail(e, PQ_ELIMIT,
                       "%zu tokens are more than the model's %zu positions", n,
                       c->positions);
    return 0;
}

static int check_ids(const struct pq_nn *nn, const int32_t *ids, size_t n,
                     struct pq_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= nn->m.c.vocab)
            return pq_fail(e, PQ_EARG,
                           "token %zu: id %ld is not in the vocabulary of %zu",
                           i, (long)ids[i], nn->m.c.vocab);
    return 0;
}

/* ---- scoring ------------------------------------------------------------ */

struct scoring {
    struct pq_nn *nn;
    const struct pq_nn_text *t;
    pq_nn_rows *rows;
    void *arg;
    struct pq_error *e;
};

/* Texts [first, first + n), tokens [from, from + count) of each. */
struct group {
    size_t first, n, rows;
    struct nn_sequence s[TEXTS];
    size_t length[TEXTS];
};

static int grow_cache(struct pq_nn *nn, size_t rows, size_t keys,
                      struct pq_error *e)
{
    if (nn_pool_spare(nn->pool, nn_attention_spare(keys), e))
        return -1;
    if (nn->cache.rows >= rows)
        return 0;
    nn_cache_release(&nn->cache);
    return nn_cache_init(&nn->cache, &nn->m, rows, e);
}

/* The label of a row: the next token, if that is scored. */
static int32_t label_of(const struct pq_nn_text *t, size_t token)
{
    const size_t next = token + 1;

    return t->nll && next < t->n && next >= t->from ? t->ids[next] : NN_IGNORE;
}

static void set_rows(struct scoring *c, const struct group *g)
{
    for (size_t i = 0; i < g->n; i++) {
        const struct pq_nn_text *t = &c->t[g->first + i];
        const struct nn_sequence *s = &g->s[i];
        for (size_t j = 0; j < s->n; j++) {
            c->nn->ids[s->q + j] = t->ids[s->past + j];
            c->nn->labels[s->q + j] = label_of(t, s->past + j);
        }
    }
}

static void hand_back(struct scoring *c, const struct group *g)
{
    for (size_t i = 0; i < g->n; i++) {
        const struct pq_nn_text *t = &c->t[g->first + i];
        const struct nn_sequence *s = &g->s[i];
        for (size_t j = 0; j < s->n; j++)
            if (c->nn->labels[s->q + j] != NN_IGNORE)
                t->nll[s->past + j + 1] = c->nn->nll[s->q + j];
    }
}

/* Logits of all rows of a text, and its likelihoods from them. */
static int give_rows(struct scoring *c, size_t text,
                     const struct nn_sequence *s)
{
    struct pq_nn *nn = c->nn;
    const size_t h = nn->m.c.hidden, v = nn->m.c.vocab;

    for (size_t j = 0; j < s->n; j += LOGIT_ROWS) {
        const size_t n = s->n - j < LOGIT_ROWS ? s->n - j : LOGIT_ROWS;
        nn_logits(nn->pool, &nn->m, nn->z, nn->work.x + (s->q + j) * h, n);
        nn_cross_entropy(nn->pool, nn->nll + s->q + j, NULL, NULL, nn->z,
                         nn->labels + s->q + j, n, v);
        if (c->rows(c->arg, text, s->past + j, n, nn->z, c->e))
            return -1;
    }
    return 0;
}

static int run_group(struct scoring *c, const struct group *g)
{
    struct pq_nn *nn = c->nn;
    const struct nn_batch b = {nn->ids, g->rows, g->s, g->length, g->n};

    set_rows(c, g);
    nn_forward(nn->pool, &nn->m, &b, &nn->cache, &nn->work);
    if (!c->rows)
        nn_head_loss(nn->pool, nn->nll, NULL, nn->work.x, &nn->m.head,
                     nn->m.c.final_cap, nn->labels, g->rows, nn->z,
                     nn->gathered, LOGIT_ROWS);
    for (size_t i = 0; c->rows && i < g->n; i++)
        if (give_rows(c, g->first + i, &g->s[i]))
            return -1;
    hand_back(c, g);
    return 0;
}

static int run_long(struct scoring *c, size_t text)
{
    const struct pq_nn_text *t = &c->t[text];
    struct group g = {.first = text, .n = 1, .length = {t->n}};

    if (grow_cache(c->nn, t->n, t->n, c->e))
        return -1;
    for (size_t at = 0; at < t->n; at += g.rows) {
        g.rows = t->n - at < c->nn->work.rows ? t->n - at : c->nn->work.rows;
        g.s[0] = (struct nn_sequence){0, g.rows, 0, at};
        if (run_group(c, &g))
            return -1;
    }
    return 0;
}

/* As many texts from `first` on as fit a batch. */
static int run_short(struct scoring *c, size_t first, size_t n, size_t *taken)
{
    struct group g = {.first = first};
    size_t longest = 0;

    for (; g.n < TEXTS && g.first + g.n < n; g.n++) {
        const size_t more = c->t[g.first + g.n].n;
        if (more > c->nn->work.rows - g.rows)
            break;
        g.s[g.n] = (struct nn_sequence){g.rows, more, g.rows, 0};
        g.length[g.n] = more;
        g.rows += more;
        longest = more > longest ? more : longest;
    }
    *taken = g.n;
    if (g.rows == 0)
        return 0;
    return grow_cache(c->nn, c->nn->work.rows, longest, c->e) ||
                   run_group(c, &g)
               ? -1
               : 0;
}

static int check_text(struct scoring *c, size_t i)
{
    const struct pq_nn_text *t = &c->t[i];

    if (check_length(c->nn, t->n, c->e) || check_ids(c->nn, t->ids, t->n, c->e))
        return pq_error_in(c->e, "text %zu", i + 1);
    if (t->nll)
        memset(t->nll, 0, t->n * sizeof *t->nll);
    return 0;
}

int pq_nn_score(struct pq_nn *nn, const struct pq_nn_text *t, size_t n,
                pq_nn_rows *rows, void *arg, struct pq_error *e)
{
    struct scoring c = {nn, t, rows, arg, e};

    for (size_t i = 0; i < n; i++)
        if (check_text(&c, i))
            return -1;
    for (size_t i = 0, taken; i < n; i += taken) {
        taken = 1;
        if (t[i].n > nn->work.rows ? run_long(&c, i)
                                   : run_short(&c, i, n, &taken))
            return -1;
    }
    return 0;
}

/* ---- two models --------------------------------------------------------- */

/* Logits of tokens [at, at + n) to nn->z, and their lse. */
static void run_piece(struct pq_nn *nn, const struct pq_nn_text *t, size_t at,
                      size_t n, double *lse)
{
    const struct nn_sequence s = {0, n, 0, at};
    const struct nn_batch b = {t->ids + at, n, &s, &t->n, 1};
    double nll[LOGIT_ROWS];
    int32_t none[LOGIT_ROWS];

    for (size_t i = 0; i < n; i++)
        none[i] = NN_IGNORE;
    nn_forward(nn->pool, &nn->m, &b, &nn->cache, &nn->work);
    nn_logits(nn->pool, &nn->m, nn->z, nn->work.x, n);
    nn_cross_entropy(nn->pool, nll, lse, NULL, nn->z, none, n, nn->m.c.vocab);
}

static int check_pair(struct pq_nn *base, struct pq_nn *nn,
                      const struct pq_nn_text *t, struct pq_error *e)
{
    const size_t a = base->m.c.vocab, b = nn->m.c.vocab;

    if (a != b)
        return pq_fail(e, PQ_EARG,
                       "models with vocabularies of %zu and %zu cannot be "
                       "compared",
                       a, b);
    return check_length(base, t->n, e) || check_length(nn, t->n, e) ||
                   check_ids(nn, t->ids, t->n, e) ||
                   grow_cache(base, t->n, t->n, e) ||
                   grow_cache(nn, t->n, t->n, e)
               ? -1
               : 0;
}

int pq_nn_compare(struct pq_nn *base, struct pq_nn *nn,
                  const struct pq_nn_text *t, double *kl, bool *same,
                  struct pq_error *e)
{
    const size_t smaller =
        base->work.rows < nn->work.rows ? base->work.rows : nn->work.rows;
    const size_t step = smaller < LOGIT_ROWS ? smaller : LOGIT_ROWS;
    double lse[2][LOGIT_ROWS], part[LOGIT_ROWS];
    bool hit[LOGIT_ROWS];

    if (check_pair(base, nn, t, e))
        return -1;
    memset(kl, 0, t->n * sizeof *kl);
    memset(same, 0, t->n * sizeof *same);
    for (size_t at = 0, n; at < t->n; at += n) {
        n = t->n - at < step ? t->n - at : step;
        run_piece(base, t, at, n, lse[0]);
        run_piece(nn, t, at, n, lse[1]);
        nn_divergence(nn->pool, part, hit, base->z, lse[0], nn->z, lse[1], n,
                      nn->m.c.vocab);
        for (size_t i = 0; i < n; i++) {
            const size_t token = at + i + 1;
            if (token >= t->n || token < t->from)
                continue;
            kl[token] = part[i];
            same[token] = hit[i];
        }
    }
    return 0;
}

/* ---- streams ------------------------------------------------------------ */

int pq_nn_stream_new(struct pq_nn *nn, size_t length, struct pq_nn_stream **out,
                     struct pq_error *e)
{
    struct pq_nn_stream *s = pq_zalloc(1, sizeof *s);

    if (!s)
        return pq_fail_nomem(e);
    s->nn = nn;
    s->length = length;
    if (check_length(nn, length, e) ||
        nn_pool_spare(nn->pool, nn_attention_spare(length), e) ||
        nn_cache_init(&s->cache, &nn->m, length, e)) {
        pq_nn_stream_free(s);
        return -1;
    }
    *out = s;
    return 0;
}

int pq_nn_feed(struct pq_nn_stream *s, const int32_t *ids, size_t n,
               float *logits, struct pq_error *e)
{
    struct pq_nn *nn = s->nn;
    const size_t h = nn->m.c.hidden;

    if (check_ids(nn, ids, n, e))
        return -1;
    if (n == 0 || n > s->length - s->fed)
        return pq_fail(e, PQ_ELIMIT,
                       "%zu tokens behind %zu, with room for %zu in all", n,
                       s->fed, s->length);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < nn->work.rows ? n - at : nn->work.rows;
        const struct nn_sequence q = {0, m, 0, s->fed};
        const struct nn_batch b = {ids + at, m, &q, &s->length, 1};
        nn_forward(nn->pool, &nn->m, &b, &s->cache, &nn->work);
        s->fed += m;
        if (logits && at + m == n)
            nn_logits(nn->pool, &nn->m, logits, nn->work.x + (m - 1) * h, 1);
    }
    return 0;
}

size_t pq_nn_fed(const struct pq_nn_stream *s)
{
    return s->fed;
}

void pq_nn_stream_free(struct pq_nn_stream *s)
{
    if (!s)
        return;
    nn_cache_release(&s->cache);
    free(s);
}
