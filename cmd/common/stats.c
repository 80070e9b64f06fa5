/*
 * Moments, histograms and digests of all tensors; see stats.h.
 *
 * A step a part for the moments (pass 0) and the histogram between their
 * minimum and maximum (pass 1), in units of 65,536 elements; a step a part
 * for the digest, in pieces of 1 MiB.  Zeros are counted by sparsity.c.
 */
#include "stats.h"

#include "sparsity.h"

#include "pq_hash.h"
#include "pq_quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_ELEMENTS 65536u
#define PIECE_BYTES   (1u << 20)

/* What the steps of one tensor share; partial and state hold the results. */
struct target {
    const struct pq_kernels *kernels;
    const struct pq_part *part;
    struct cmd_stat *stat;
    struct pq_hash128 *digest; /* of the part */
};

struct moments_state {
    struct pq_moments m;
    uint64_t histogram[CMD_HISTOGRAM];
};

static void bin(const struct pq_moments *m, const float *x, size_t n,
                uint64_t *histogram)
{
    const double width = (double)m->max - (double)m->min;
    const double scale = width > 0 ? CMD_HISTOGRAM / width : 0;

    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            continue;
        const size_t k = (size_t)(((double)x[i] - (double)m->min) * scale);
        histogram[k < CMD_HISTOGRAM ? k : CMD_HISTOGRAM - 1]++;
    }
}

static int gather_moments(const struct pq_step *s, unsigned pass,
                          const struct pq_unit *u, const void *state,
                          struct pq_error *e)
{
    const struct target *t = s->params;
    const struct moments_state *so_far = state;
    struct moments_state *result = u->partial;
    const float *x = u->in[0];

    (void)e;
    if (t->part->dtype != PQ_F32) {
        pq_load_f32(t->kernels, t->part->dtype, x, (size_t)u->count,
                    u->scratch);
        x = u->scratch;
    }
    if (pass == 0)
        t->kernels->moments(x, (size_t)u->count, &result->m);
    else
        bin(&so_far->m, x, (size_t)u->count, result->histogram);
    return 0;
}

static int combine_moments(const struct pq_step *s, unsigned pass, void *state,
                           const void *partial, struct pq_error *e)
{
    struct moments_state *a = state;
    const struct moments_state *b = partial;
    const struct target *t = s->params;

    (void)e;
    for (size_t i = 0; i < CMD_HISTOGRAM; i++)
        a->histogram[i] += b->histogram[i];
    if (pass > 0)
        return 0;
    if (!t->stat->valid || b->m.min < a->m.min)
        a->m.min = b->m.min;
    if (!t->stat->valid || b->m.max > a->m.max)
        a->m.max = b->m.max;
    t->stat->valid = true;
    a->m.sum += b->m.sum;
    a->m.sum_sq += b->m.sum_sq;
    a->m.zeros += b->m.zeros;
    a->m.nans += b->m.nans;
    a->m.infs += b->m.infs;
    return 0;
}

static int moments_done(const struct pq_step *s, void *state,
                        struct pq_error *e)
{
    const struct moments_state *a = state;
    struct cmd_stat *r = ((const struct target *)s->params)->stat;
    const double n = (double)(s->items - a->m.nans - a->m.infs);

    (void)e;
    r->m = a->m;
    memcpy(r->histogram, a->histogram, sizeof r->histogram);
    if (n > 0) {
        r->mean = a->m.sum / n;
        const double variance = a->m.sum_sq / n - r->mean * r->mean;
        r->std = variance > 0 ? sqrt(variance) : 0;
    }
    return 0;
}

/* ---- digests ----------------------------------------------------------- */

static int gather_digest(const struct pq_step *s, unsigned pass,
                         const struct pq_unit *u, const void *state,
                         struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)state;
    (void)e;
    *(struct pq_hash128 *)u->partial =
        pq_hash128_of(u->in[0], (size_t)u->in_bytes[0]);
    return 0;
}

static int combine_digest(const struct pq_step *s, unsigned pass, void *state,
                          const void *partial, struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)e;
    pq_hash128_chain(state, partial);
    return 0;
}

static int digest_done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct target *t = s->params;

    (void)e;
    *t->digest = *(struct pq_hash128 *)state;
    return 0;
}

/* ---- the plan ---------------------------------------------------------- */

static struct pq_step *add_step(struct pq_plan *p, struct cmd *c,
                                struct pq_source *s, const struct pq_tensor *t,
                                const struct pq_part *part, struct pq_error *e)
{
    struct pq_step *step = pq_plan_step(p, 1, 0, e);
    struct target *target = pq_arena_alloc(&p->arena, 1, sizeof *target);

    if (!step || !target) {
        pq_fail_nomem(e);
        return NULL;
    }
    target->kernels = c->kernels;
    target->part = part;
    step->name = t->name;
    step->params = target;
    step->user = target;
    step->in[0].source = s;
    step->in[0].part = part;
    return step;
}

static int add_moments(struct pq_plan *p, struct cmd *c, struct pq_source *s,
                       const struct pq_tensor *t, const struct pq_part *part,
                       struct cmd_stat *stat, struct pq_error *e)
{
    struct pq_step *step = add_step(p, c, s, t, part, e);

    if (!step)
        return -1;
    ((struct target *)step->user)->stat = stat;
    step->in[0].item_bits = pq_dtype_bits(part->dtype);
    step->items = part->bytes * 8 / step->in[0].item_bits;
    step->unit_items = UNIT_ELEMENTS;
    step->scratch_bytes = UNIT_ELEMENTS * sizeof(float);
    step->partial_bytes = sizeof(struct moments_state);
    step->state_bytes = sizeof(struct moments_state);
    step->n_gather = 2;
    step->gather = gather_moments;
    step->combine = combine_moments;
    step->done = moments_done;
    return 0;
}

static int add_digest(struct pq_plan *p, struct cmd *c, struct pq_source *s,
                      const struct pq_tensor *t, const struct pq_part *part,
                      struct pq_hash128 *digest, struct pq_error *e)
{
    struct pq_step *step = add_step(p, c, s, t, part, e);

    if (!step)
        return -1;
    ((struct target *)step->user)->digest = digest;
    step->in[0].item_bits = 8;
    step->items = part->bytes;
    step->unit_items = PIECE_BYTES;
    step->partial_bytes = sizeof(struct pq_hash128);
    step->state_bytes = sizeof(struct pq_hash128);
    step->n_gather = 1;
    step->gather = gather_digest;
    step->combine = combine_digest;
    step->done = digest_done;
    return 0;
}

/* Numbers of a part that can be looked at: weights, or scales of codes. */
static bool has_moments(const struct pq_part *p)
{
    return pq_dtype_is_float(p->dtype) &&
           p->role != PQ_ROLE_QUANT_MAP && p->role != PQ_ROLE_NESTED_QUANT_MAP;
}

static int make_plan(struct pq_plan *p, struct cmd *c, struct pq_source *s,
                     struct cmd_stats *st, struct pq_error *e)
{
    size_t k = 0;

    for (size_t i = 0; i < s->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &s->catalog->tensors[i];
        for (size_t j = 0; j < t->n_parts; j++, k++) {
            const struct pq_part *part = &t->parts[j];
            if (st->stats && has_moments(part) && cmd_selected(c, t->name) &&
                add_moments(p, c, s, t, part, &st->tensors[i], e))
                return -1;
            if (st->digest && add_digest(p, c, s, t, part, &st->parts[k],
                                         e))
                return -1;
        }
    }
    return 0;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void put_line(struct pq_buf *b, const struct pq_part *p,
                     struct pq_hash128 digest)
{
    char hex[33];

    pq_hash128_hex(digest, hex);
    pq_buf_puts(b, p->name);
    pq_buf_printf(b, " %s [", pq_dtype_name(p->dtype));
    for (int i = 0; i < p->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)p->shape[i]);
    pq_buf_printf(b, "] %s\n", hex);
}

/* The lines of all parts, in name order, hashed. */
static int hash_lines(char **lines, size_t n, char *hex, struct pq_error *e)
{
    struct pq_hash *h = pq_hash_new(e);

    if (!h)
        return -1;
    qsort(lines, n, sizeof *lines, compare_lines);
    for (size_t i = 0; i < n; i++)
        pq_hash_add(h, lines[i], strlen(lines[i]));
    pq_hash128_hex(pq_hash128(h), hex);
    pq_hash_free(h);
    return 0;
}

int cmd_stats_name(const struct pq_catalog *c, struct cmd_stats *st,
                   struct pq_error *e)
{
    struct pq_arena a = {0};
    char **lines = pq_arena_alloc(&a, st->n_parts, sizeof *lines);
    size_t k = 0;
    int rc = lines ? 0 : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < c->n_tensors; i++) {
        const struct pq_tensor *t = &c->tensors[i];
        struct pq_buf all = {0};
        for (size_t j = 0; j < t->n_parts; j++, k++) {
            const size_t start = all.n;
            put_line(&all, &t->parts[j], st->parts[k]);
            lines[k] = all.failed ? NULL
                                  : pq_arena_strndup(&a, all.s + start,
                                                     all.n - start);
            if (!lines[k])
                rc = pq_fail_nomem(e);
        }
        if (!rc)
            pq_hash128_hex(t->n_parts == 1 ? st->parts[k - 1]
                                           : pq_hash128_of(all.s, all.n),
                           st->tensors[i].digest);
        pq_buf_release(&all);
    }
    if (!rc)
        rc = hash_lines(lines, st->n_parts, st->model_digest, e);
    pq_arena_release(&a);
    return rc;
}

int cmd_stats_init(const struct pq_catalog *c, struct cmd_stats *st,
                   struct pq_error *e)
{
    st->n_parts = 0;
    for (size_t i = 0; i < c->n_tensors; i++)
        st->n_parts += c->tensors[i].n_parts;
    st->parts = pq_zalloc(st->n_parts, sizeof *st->parts);
    st->tensors = pq_zalloc(c->n_tensors, sizeof *st->tensors);
    return st->parts && st->tensors ? 0 : pq_fail_nomem(e);
}

/* Encoded tensors are decoded to be looked at for zeros. */
static int run_plan(struct cmd *c, struct pq_source *s, struct pq_plan *p,
                    struct cmd_stats *st, struct pq_error *e)
{
    struct pq_source *sources[2] = {s, NULL};
    const bool decodes = st->sparsity && cmd_sparsity_decodes(c, s);
    int rc = 0;

    p->sources = sources;
    p->n_sources = decodes ? 2 : 1;
    if (decodes)
        rc = pq_decoded_new(s, c->kernels, c->memory / 4, c->tmpdir,
                            &sources[1], e);
    if (!rc)
        rc = make_plan(p, c, s, st, e);
    if (!rc && st->sparsity)
        rc = st->mask ? cmd_sparsity_mask(c, p, st->mask, &st->zeros, e)
                      : cmd_sparsity_steps(c, p, s, sources[decodes],
                                           &st->zeros, e);
    if (!rc)
        rc = cmd_run_plan(c, p, e);
    pq_source_free(sources[1]);
    return rc;
}

int cmd_stats_run(struct cmd *c, struct pq_source *s, struct cmd_stats *st,
                  struct pq_error *e)
{
    struct pq_plan p = {.sink = NULL};
    int rc = cmd_stats_init(s->catalog, st, e);

    if (!rc)
        rc = run_plan(c, s, &p, st, e);
    if (!rc && st->digest)
        rc = cmd_stats_name(s->catalog, st, e);
    pq_plan_release(&p);
    return rc;
}

void cmd_stats_release(struct cmd_stats *st)
{
    free(st->tensors);
    free(st->parts);
    free(st->zeros);
    st->tensors = NULL;
    st->parts = NULL;
    st->zeros = NULL;
}
