/*
 * What pq-prompt says; see prompt.h.
 */
#include "heatmap.h"
#include "pq_json.h"
#include "prompt.h"
#include "report.h"

#include <math.h>

/* The pair of tokens that are most alike; {0, 0} of one token alone. */
struct pair {
    size_t a, b;
    double cosine, mean;
};

static struct pair most_alike(const struct prompt *p)
{
    struct pair x = {0, 0, 0, 0};

    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < i; k++) {
            const double cosine = p->cosines[i * p->n + k];
            x.mean += cosine;
            if (x.b == 0 || cosine > x.cosine)
                x = (struct pair){k, i, cosine, x.mean};
        }
    if (p->n > 1)
        x.mean /= (double)p->n * (double)(p->n - 1) / 2;
    return x;
}

static const struct prompt_hit *hits_of(const struct prompt *p, size_t i)
{
    return p->hits + i * (size_t)p->o->top;
}

/* Is there a second one, to be nearer than? */
static bool has_margin(const struct prompt *p, size_t i)
{
    return p->o->top > 1 && hits_of(p, i)[1].number;
}

static double margin(const struct prompt *p, size_t i)
{
    return hits_of(p, i)[0].cosine - hits_of(p, i)[1].cosine;
}

/* Its text in quotes, or null. */
static void put_name(const struct prompt *p, uint64_t id, struct pq_buf *b)
{
    size_t n = 0;
    const char *s = p->tokenizer && id < PQ_TOKEN_IDS
                        ? pq_tokenizer_text(p->tokenizer, (uint32_t)id, &n)
                        : NULL;

    if (s)
        pq_json_quote_n(b, s, n);
    else
        pq_buf_puts(b, "null");
}

/* ---- JSON --------------------------------------------------------------- */

static void put_hits(const struct prompt *p, size_t i, struct pq_buf *b)
{
    const struct prompt_hit *h = hits_of(p, i);

    cmd_put_number(b, ",\"percentile\":", 100 * p->shares[i]);
    cmd_put_number(b, ",\"margin\":", has_margin(p, i) ? margin(p, i) : NAN);
    pq_buf_puts(b, ",\"nearest\":[");
    for (size_t k = 0; k < p->o->top && h[k].number; k++) {
        pq_buf_printf(b, "%s{\"id\":%llu,\"text\":", k ? "," : "",
                      (unsigned long long)(h[k].number - 1));
        put_name(p, h[k].number - 1, b);
        cmd_put_number(b, ",\"cosine\":", h[k].cosine);
        pq_buf_puts(b, "}");
    }
    pq_buf_puts(b, "]");
}

static void put_vocabulary(const struct prompt *p, struct pq_buf *b)
{
    pq_buf_printf(b, ",\"vocabulary\":{\"rows\":%llu",
                  (unsigned long long)p->rows);
    cmd_put_number(b, ",\"norm_min\":", p->row_norms[0]);
    cmd_put_number(b, ",\"norm_median\":", p->row_norms[p->rows / 2]);
    cmd_put_number(b, ",\"norm_max\":", p->row_norms[p->rows - 1]);
    pq_buf_puts(b, "}");
}

/* The share of labels that were the likeliest token. */
static double accuracy(const struct prompt *p, const struct prompt_score *s)
{
    return (double)s->right / (double)p->loss.labels;
}

static void put_loss(const struct prompt *p, struct pq_buf *b)
{
    const struct prompt_loss *l = &p->loss;

    pq_buf_printf(b, ",\"labels\":%llu", (unsigned long long)l->labels);
    cmd_put_number(b, ",\"loss\":", l->with.loss);
    cmd_put_number(b, ",\"loss_without\":", l->without.loss);
    cmd_put_number(b, ",\"loss_nearest\":", l->nearest.loss);
    cmd_put_number(b, ",\"accuracy\":", accuracy(p, &l->with));
    cmd_put_number(b, ",\"accuracy_without\":", accuracy(p, &l->without));
    cmd_put_number(b, ",\"accuracy_nearest\":", accuracy(p, &l->nearest));
}

static void put_json(const struct prompt *p, struct pq_buf *b)
{
    pq_buf_printf(b,
                  "{\"pq\":1,\"tool\":\"pq-prompt\",\"tokens\":%zu,"
                  "\"hidden\":%zu",
                  p->n, p->hidden);
    cmd_put_number(b, ",\"effective_rank\":", p->rank);
    if (p->model)
        put_vocabulary(p, b);
    if (p->loss.left)
        put_loss(p, b);
    pq_buf_puts(b, ",\"virtual\":[");
    for (size_t i = 0; i < p->n; i++) {
        cmd_put_number(b, i ? ",{\"norm\":" : "{\"norm\":", p->norms[i]);
        if (p->model)
            put_hits(p, i, b);
        if (p->loss.left) {
            const struct prompt_score *s = &p->loss.left[i];
            cmd_put_number(b, ",\"loss_without\":", s->loss);
            cmd_put_number(b, ",\"accuracy_without\":", accuracy(p, s));
        }
        pq_buf_puts(b, "}");
    }
    pq_buf_puts(b, "],\"cosines\":[");
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; k < p->n; k++)
            cmd_put_number(b, k ? "," : i ? ",[" : "[",
                           p->cosines[i * p->n + k]);
        pq_buf_puts(b, "]");
    }
    pq_buf_puts(b, "]}\n");
}

/* ---- text --------------------------------------------------------------- */

static void put_token(const struct prompt *p, size_t i, struct pq_buf *b)
{
    pq_buf_printf(b, "%4zu  norm %.4g", i, p->norms[i]);
    if (p->model)
        pq_buf_printf(b, " (above %.0f%%)", 100 * p->shares[i]);
    if (p->loss.left)
        pq_buf_printf(b, "  left out %+.4f",
                      p->loss.left[i].loss - p->loss.with.loss);
    if (p->model && has_margin(p, i))
        pq_buf_printf(b, "  margin %.3f", margin(p, i));
    for (size_t k = 0; p->model && k < p->o->top && hits_of(p, i)[k].number;
         k++) {
        const struct prompt_hit *h = hits_of(p, i) + k;
        pq_buf_printf(b, "  %llu ", (unsigned long long)(h->number - 1));
        put_name(p, h->number - 1, b);
        pq_buf_printf(b, " %.3f", h->cosine);
    }
    pq_buf_puts(b, "\n");
}

static void put_score(const struct prompt *p, const char *what,
                      const struct prompt_score *s, struct pq_buf *b)
{
    pq_buf_printf(b, "%-28s loss %.4f  accuracy %.2f%%\n", what, s->loss,
                  100 * accuracy(p, s));
}

/* Side by side: what is near says less than it seems to. */
static void put_scores(const struct prompt *p, struct pq_buf *b)
{
    const struct prompt_loss *l = &p->loss;

    put_score(p, "with the prompt", &l->with, b);
    put_score(p, "with the nearest tokens", &l->nearest, b);
    put_score(p, "without", &l->without, b);
    pq_buf_printf(b, "labels %llu\n", (unsigned long long)l->labels);
}

static void put_text(const struct prompt *p, struct pq_buf *b)
{
    const struct pair x = most_alike(p);

    pq_buf_printf(b, "tokens %zu  hidden %zu  effective rank %.3f\n", p->n,
                  p->hidden, p->rank);
    if (p->n > 1)
        pq_buf_printf(b,
                      "cosines among them: mean %.3f  largest %.3f (%zu "
                      "and %zu)\n",
                      x.mean, x.cosine, x.a, x.b);
    if (p->model)
        pq_buf_printf(b,
                      "norms of the vocabulary: %.4g to %.4g  median "
                      "%.4g\n",
                      p->row_norms[0], p->row_norms[p->rows - 1],
                      p->row_norms[p->rows / 2]);
    if (p->loss.left)
        put_scores(p, b);
    for (size_t i = 0; i < p->n; i++)
        put_token(p, i, b);
    if (p->model && !p->loss.left)
        pq_buf_puts(b, "What is near is not what it means: -d DATA tells what "
                       "these tokens do in its place.\n");
}

int prompt_report(const struct prompt *p, struct pq_error *e)
{
    struct pq_buf b = {0};

    if (p->c->json)
        put_json(p, &b);
    else if (!p->c->quiet)
        put_text(p, &b);
    return cmd_print_buf(&b, e);
}

/* ---- a picture ---------------------------------------------------------- */

/* "3 the": a token and what is nearest to it. */
static const char *label(const struct prompt *p, size_t i, struct pq_arena *a)
{
    size_t n = 0;
    const uint64_t number = p->model ? hits_of(p, i)[0].number : 0;
    const char *s =
        number && p->tokenizer
            ? pq_tokenizer_text(p->tokenizer, (uint32_t)(number - 1), &n)
            : NULL;

    return pq_arena_printf(a, "%zu %.*s", i, (int)n, s ? s : "");
}

int prompt_plot(const struct prompt *p, struct pq_error *e)
{
    struct pq_arena arena = {0};
    const char **labels = pq_arena_alloc(&arena, p->n, sizeof *labels);
    const struct cmd_square x = {"token", labels, p->cosines, p->n, -1, 1};
    int rc = labels ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < p->n; i++)
        if (!(labels[i] = label(p, i, &arena)))
            rc = pq_fail_nomem(e);
    if (!rc)
        rc = cmd_heatmap_square(
            p->c, p->o->plot, "cosines of the tokens of a soft prompt", &x, e);
    pq_arena_release(&arena);
    return rc;
}
