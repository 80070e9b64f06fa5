/*
 * A whole job of the tools on fuzzed bytes: encoded groups folded into
 * tensors, decoded or copied by the engine as pq-dequantize and pq-convert
 * do, into a sink that only takes a checksum.
 */
#ifndef PQ_FUZZ_DECODE_H
#define PQ_FUZZ_DECODE_H

#include "fuzz.h"
#include "pq_kernels.h"
#include "pq_engine.h"
#include "pq_quant.h"

/* ---- A sink that hashes what comes, in order --------------------------- */

struct hash_sink {
    struct pq_sink base;
    struct pq_hash *hash;
};

static inline int sink_begin(struct pq_sink *k, struct pq_error *e)
{
    (void)k;
    (void)e;
    return 0;
}

static inline int sink_write(struct pq_sink *k, size_t place, uint64_t offset,
                             const void *buf, size_t n, struct pq_error *e)
{
    struct pq_hash *const h = ((struct hash_sink *)k)->hash;

    (void)e;
    pq_hash_add(h, &place, sizeof place);
    pq_hash_add(h, &offset, sizeof offset);
    pq_hash_add(h, buf, n);
    return 0;
}

static inline void sink_abort(struct pq_sink *k, const struct pq_error *why)
{
    (void)k;
    (void)why;
}

static inline void sink_free(struct pq_sink *k)
{
    free(k->order);
    k->order = NULL;
}

static const struct pq_sink_ops sink_ops = {.begin = sink_begin,
                                            .write = sink_write,
                                            .finish = sink_begin,
                                            .abort = sink_abort,
                                            .free = sink_free};

static inline int make_sink(struct hash_sink *k, struct pq_catalog *c,
                            struct pq_hash *h)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_tensors; i++)
        n += c->tensors[i].n_parts;
    k->base = (struct pq_sink){.ops = &sink_ops, .catalog = c};
    k->hash = h;
    k->base.order = calloc(n + 1, sizeof *k->base.order);
    if (!k->base.order)
        abort();
    for (size_t i = 0; i < c->n_tensors; i++)
        for (size_t p = 0; p < c->tensors[i].n_parts; p++) {
            struct pq_place *o = &k->base.order[k->base.n_order++];
            o->tensor = i;
            o->part = p;
        }
    k->base.total_bytes = pq_catalog_bytes(c);
    return 0;
}

/* ---- The job ----------------------------------------------------------- */

struct job {
    bool copy; /* nothing is decoded */
    struct pq_source *in;
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_quant quant;
    struct hash_sink sink;
};

static inline int declare(struct job *j, struct pq_error *e)
{
    for (size_t i = 0; i < j->in->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &j->in->catalog->tensors[i];
        const struct pq_spec to = {.dtype = t->dtype};
        const bool decode = !j->copy && t->codec.encoding != PQ_PLAIN;
        if (decode ? !pq_quant_declare(&j->out, t, &to, false, e)
                   : !pq_tensor_copy(&j->out, t, e))
            return -1;
    }
    if (pq_catalog_bytes(&j->out) > FUZZ_TOTAL)
        return pq_fail(e, PQ_ELIMIT, "too large for the fuzzer");
    return 0;
}

static inline int add_steps(struct job *j, struct pq_error *e)
{
    for (size_t i = 0; i < j->in->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &j->in->catalog->tensors[i];
        if (j->copy || t->codec.encoding == PQ_PLAIN
                ? pq_step_copy(&j->plan, j->in, t, i, e) != 0
                : !pq_step_decode(&j->plan, j->in, t, &j->out, i, &j->quant, e))
            return -1;
    }
    return 0;
}

static inline int run_job(struct job *j, struct fuzz_result *r)
{
    const struct pq_run run = {.threads = 1, .memory = 32u << 20};

    fuzz_hash_catalog(j->in->catalog, r->hash);
    if (pq_fold(j->in, 16u << 20, NULL, &r->e) || declare(j, &r->e) ||
        add_steps(j, &r->e))
        return -1;
    fuzz_hash_catalog(&j->out, r->hash);
    make_sink(&j->sink, &j->out, r->hash);
    j->plan.sink = &j->sink.base;
    j->plan.sources = &j->in;
    j->plan.n_sources = 1;
    return pq_engine_run(&j->plan, &run, &r->e);
}

static inline void use_engine(const char *path, int *writer, bool copy,
                              struct fuzz_result *r)
{
    struct job j = {.copy = copy, .in = fuzz_open(path, writer, &r->e)};

    if (!j.in)
        return;
    j.quant.kernels = pq_kernels_scalar();
    pq_catalog_init(&j.out);
    r->ok = run_job(&j, r) == 0;
    pq_sink_free(j.plan.sink);
    pq_plan_release(&j.plan);
    pq_catalog_release(&j.out);
    pq_source_free(j.in);
}

/* For fuzz_both(). */
static inline void use_decode(const char *path, int *writer,
                              struct fuzz_result *r)
{
    use_engine(path, writer, false, r);
}

static inline void use_copy(const char *path, int *writer,
                            struct fuzz_result *r)
{
    use_engine(path, writer, true, r);
}

#endif
