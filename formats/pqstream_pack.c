/*
 * Compressing runs of a tensor, several at a time, in bounded memory.
 *
 *     ring     [ free | filling | ready | packing | packed ]
 *                       ^room()                     ^take()
 *
 * Runs go round in the order of the file: the writer fills the next free one
 * and takes the oldest one back, so that the output does not depend on which
 * thread was faster.  Each is packed alone (pqstream_press.c).
 */
#include "pqstream.h"

#include <pthread.h>
#include <stdlib.h>

#define MAX_WORKERS 4u

enum { FREE, READY, PACKING, PACKED };

struct pq_stream_packer {
    struct pq_stream_run *runs; /* [n_runs], a ring */
    size_t n_runs, head, used;  /* the next to fill; those not free */
    int level;
    const struct pq_kernels *kernels;
    struct pq_stream_press *own; /* without workers */
    pthread_t workers[MAX_WORKERS];
    unsigned n_workers;
    bool stop;
    pthread_mutex_t lock; /* guards states, stop and head */
    pthread_cond_t changed;
};

/*
 * A worker costs 8 MiB of runs and zstd's tables: up to 7 MiB at levels 1 to
 * 8, 25 up to 11, 65 above.  All together stay below 80.
 */
static unsigned max_workers(int level)
{
    return level <= 8 ? MAX_WORKERS : level <= 11 ? 2 : 1;
}

static void pack(struct pq_stream_run *r, struct pq_stream_press *z)
{
    pq_stream_press(z, r);
    r->sum = XXH3_64bits(r->body, r->body_bytes);
}

/* The oldest run that nobody packs yet, or NULL. */
static struct pq_stream_run *ready(const struct pq_stream_packer *p)
{
    for (size_t i = 0; i < p->used; i++) {
        const size_t k = (p->head + p->n_runs - p->used + i) % p->n_runs;
        if (p->runs[k].state == READY)
            return &p->runs[k];
    }
    return NULL;
}

static void *work(void *arg)
{
    struct pq_stream_packer *p = arg;
    struct pq_stream_press *z = pq_stream_press_new(p->level, p->kernels);

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct pq_stream_run *r = ready(p);
        if (!r) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        r->state = PACKING;
        pthread_mutex_unlock(&p->lock);
        r->failed = !z;
        if (z)
            pack(r, z);
        pthread_mutex_lock(&p->lock);
        r->state = PACKED;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    pq_stream_press_free(z);
    return NULL;
}

static int alloc_runs(struct pq_stream_packer *p, uint64_t largest)
{
    const size_t bytes =
        largest < PQ_STREAM_RUN ? (size_t)largest : PQ_STREAM_RUN;

    p->runs = pq_zalloc(p->n_runs, sizeof(*p->runs));
    if (!p->runs)
        return -1;
    for (size_t i = 0; i < p->n_runs; i++) {
        p->runs[i].raw = pq_alloc(bytes, 1);
        p->runs[i].work = pq_alloc(bytes, 1);
        if (!p->runs[i].raw || !p->runs[i].work)
            return -1;
    }
    return 0;
}

struct pq_stream_packer *pq_stream_packer_new(int level, unsigned threads,
                                              uint64_t largest,
                                              const struct pq_kernels *kernels,
                                              struct pq_error *e)
{
    struct pq_stream_packer *p = pq_zalloc(1, sizeof(*p));
    const unsigned most = max_workers(level);
    const unsigned want = threads < most ? threads : most;

    if (!p) {
        pq_fail_nomem(e);
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->level = level;
    p->n_runs = want > 1 ? want + 1 : 1;
    p->kernels = kernels;
    p->own = pq_stream_press_new(level, kernels);
    if (alloc_runs(p, largest) || !p->own) {
        pq_fail_nomem(e);
        pq_stream_packer_free(p);
        return NULL;
    }
    /* Fewer threads than wished, or none, is slower and nothing worse. */
    while (want > 1 && p->n_workers < want &&
           pthread_create(&p->workers[p->n_workers], NULL, work, p) == 0)
        p->n_workers++;
    return p;
}

void pq_stream_packer_free(struct pq_stream_packer *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_workers; i++)
        pthread_join(p->workers[i], NULL);
    for (size_t i = 0; p->runs && i < p->n_runs; i++) {
        free(p->runs[i].raw);
        free(p->runs[i].work);
    }
    free(p->runs);
    pq_stream_press_free(p->own);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct pq_stream_run *pq_stream_packer_room(struct pq_stream_packer *p)
{
    return p->used < p->n_runs ? &p->runs[p->head] : NULL;
}

void pq_stream_packer_submit(struct pq_stream_packer *p)
{
    struct pq_stream_run *r = &p->runs[p->head];

    if (p->n_workers == 0)
        pack(r, p->own);
    pthread_mutex_lock(&p->lock);
    r->state = p->n_workers == 0 ? PACKED : READY;
    p->head = (p->head + 1) % p->n_runs;
    p->used++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

struct pq_stream_run *pq_stream_packer_take(struct pq_stream_packer *p)
{
    if (p->used == 0)
        return NULL;
    struct pq_stream_run *r =
        &p->runs[(p->head + p->n_runs - p->used) % p->n_runs];
    pthread_mutex_lock(&p->lock);
    while (r->state != PACKED)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return r;
}

void pq_stream_packer_done(struct pq_stream_packer *p)
{
    pthread_mutex_lock(&p->lock);
    p->runs[(p->head + p->n_runs - p->used) % p->n_runs].state = FREE;
    p->used--;
    pthread_mutex_unlock(&p->lock);
}
