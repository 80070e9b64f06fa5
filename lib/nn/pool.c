/*
 * The threads that run a model.  A round of work is announced by a new
 * round number under the lock; tasks are drawn from an atomic counter.  With
 * one thread there is no other, and no lock is taken.
 *
 * A step of training is hundreds of rounds, a token of generation too, and
 * to wake a thread takes longer than most gaps between them: so whoever waits
 * looks for a moment before it sleeps.
 */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "pq_mem.h"

struct nn_pool {
    struct nn_worker *workers; /* [n_threads], the caller's first */
    pthread_t *threads;        /* [n_threads - 1] */
    size_t n_threads, n_started;
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    atomic_size_t round, busy; /* changed under the lock, but for busy's fall */
    bool stop;
    nn_task *f;
    void *arg;
    size_t n;
    atomic_size_t next;
    atomic_size_t joined; /* gives each thread its number */
};

static void draw(struct nn_pool *p, struct nn_worker *w)
{
    for (;;) {
        const size_t task = atomic_fetch_add(&p->next, 1);
        if (task >= p->n)
            return;
        p->f(p->arg, w, task);
    }
}

#define LOOKS 4000 /* some 50 microseconds */

/* Gives *x a moment to be `value`, or to be another. */
static void linger(const atomic_size_t *x, size_t value, bool other)
{
    for (int i = 0; i < LOOKS; i++) {
        const size_t now = atomic_load_explicit(x, memory_order_acquire);
        if ((now == value) != other)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static void *serve(void *arg)
{
    struct nn_pool *p = arg;
    struct nn_worker *w = &p->workers[1 + atomic_fetch_add(&p->joined, 1)];
    size_t seen = 0;

    for (;;) {
        linger(&p->round, seen, true);
        pthread_mutex_lock(&p->lock);
        while (p->round == seen)
            pthread_cond_wait(&p->begin, &p->lock);
        seen = p->round;
        const bool stop = p->stop;
        pthread_mutex_unlock(&p->lock);
        if (stop)
            return NULL;
        draw(p, w);
        if (atomic_fetch_sub(&p->busy, 1) > 1)
            continue;
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->end);
        pthread_mutex_unlock(&p->lock);
    }
}

/* Lets the others begin: with what is to be done, or to stop. */
static void announce(struct nn_pool *p)
{
    p->busy = p->n_threads - 1;
    p->round++;
    pthread_cond_broadcast(&p->begin);
    pthread_mutex_unlock(&p->lock);
}

void nn_pool_run(struct nn_pool *p, nn_task *f, void *arg, size_t n)
{
    if (p->n_threads == 1 || n <= 1) {
        for (size_t i = 0; i < n; i++)
            f(arg, &p->workers[0], i);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->f = f;
    p->arg = arg;
    p->n = n;
    p->next = 0;
    announce(p);
    draw(p, &p->workers[0]);
    linger(&p->busy, 0, false);
    pthread_mutex_lock(&p->lock);
    while (p->busy > 0)
        pthread_cond_wait(&p->end, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

/* ---- rows --------------------------------------------------------------- */

#define ROWS 16 /* of a task */

struct rows {
    nn_task *f;
    void *arg;
    size_t n;
};

static void run_rows(void *arg, struct nn_worker *w, size_t task)
{
    const struct rows *r = arg;
    const size_t end = (task + 1) * ROWS;

    for (size_t i = task * ROWS; i < end && i < r->n; i++)
        r->f(r->arg, w, i);
}

void nn_pool_run_rows(struct nn_pool *p, nn_task *f, void *arg, size_t rows)
{
    struct rows r = {f, arg, rows};

    nn_pool_run(p, run_rows, &r, (rows + ROWS - 1) / ROWS);
}

/* ---- making it ---------------------------------------------------------- */

static float *aligned_floats(size_t n)
{
    uint64_t bytes;

    if (!pq_mul(n, sizeof(float), &bytes) || !pq_round_up(bytes, 64, &bytes))
        return NULL;
    return aligned_alloc(64, (size_t)bytes);
}

static int worker_init(struct nn_worker *w, const struct pq_kernels *k,
                       struct pq_error *e)
{
    w->kernels = k;
    w->nn = nn_kernels_for(k);
    w->panels = aligned_floats(NN_PANELS * NN_PANEL);
    w->strips = aligned_floats(NN_STRIPS * NN_BLOCK_K * NN_TILE_ROWS);
    w->rows = aligned_floats(NN_TILE_COLS * NN_BLOCK_K);
    return w->panels && w->strips && w->rows ? 0 : pq_fail_nomem(e);
}

int nn_pool_spare(struct nn_pool *p, size_t n, struct pq_error *e)
{
    for (size_t i = 0; i < p->n_threads; i++) {
        struct nn_worker *w = &p->workers[i];
        if (w->spare_floats >= n)
            continue;
        free(w->spare);
        w->spare = aligned_floats(n);
        w->spare_floats = w->spare ? n : 0;
        if (!w->spare)
            return pq_fail_nomem(e);
    }
    return 0;
}

size_t nn_pool_bytes(const struct nn_pool *p, size_t n)
{
    const size_t has = p->workers->spare_floats;
    const size_t each = NN_PANELS * NN_PANEL +
                        NN_STRIPS * NN_BLOCK_K * NN_TILE_ROWS +
                        NN_TILE_COLS * NN_BLOCK_K;

    return p->n_threads * (each + (n > has ? n : has)) * sizeof(float);
}

struct nn_pool *nn_pool_new(size_t n_threads, const struct pq_kernels *k,
                            struct pq_error *e)
{
    struct nn_pool *p = pq_zalloc(1, sizeof *p);

    if (!p || !(p->workers = pq_zalloc(n_threads, sizeof *p->workers)) ||
        !(p->threads = pq_zalloc(n_threads, sizeof *p->threads))) {
        pq_fail_nomem(e);
        if (p)
            free(p->workers);
        free(p);
        return NULL;
    }
    p->n_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->begin, NULL);
    pthread_cond_init(&p->end, NULL);
    int rc = 0;
    for (size_t i = 0; !rc && i < n_threads; i++)
        rc = worker_init(&p->workers[i], k, e);
    for (; !rc && p->n_started + 1 < n_threads; p->n_started += !rc) {
        rc = pthread_create(&p->threads[p->n_started], NULL, serve, p);
        if (rc)
            pq_fail_sys(e, rc, "cannot start a thread");
    }
    if (rc) {
        nn_pool_free(p);
        return NULL;
    }
    return p;
}

void nn_pool_free(struct nn_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    announce(p);
    for (size_t i = 0; i < p->n_started; i++)
        pthread_join(p->threads[i], NULL);
    for (size_t i = 0; i < p->n_threads; i++) {
        free(p->workers[i].panels);
        free(p->workers[i].strips);
        free(p->workers[i].rows);
        free(p->workers[i].spare);
    }
    pthread_cond_destroy(&p->begin);
    pthread_cond_destroy(&p->end);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->threads);
    free(p);
}

size_t nn_pool_threads(const struct nn_pool *p)
{
    return p->n_threads;
}
