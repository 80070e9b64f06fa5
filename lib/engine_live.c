/*
 * Steps at work: what the units of a step share, from its first ticket to its
 * last.
 */
#include "engine_internal.h"

#include <stdlib.h>

void pq_live_free(struct pq_engine *g, size_t step)
{
    const struct pq_step *s = &g->plan->steps[step];
    struct pq_live *l = g->live[step];

    if (!l)
        return;
    for (size_t i = 0; i < s->n_in && l->whole; i++)
        free(l->whole[i]);
    for (size_t i = 0; i < s->n_out && l->trail && l->spooled; i++)
        if (l->spooled[i])
            pq_spool_release(&l->trail[i]);
    free(l->whole);
    free(l->trail);
    free(l->spooled);
    free(l->written);
    free(l->state);
    free(l);
    g->live[step] = NULL;
}

int pq_live_open(struct pq_engine *g, size_t step, struct pq_error *e)
{
    const struct pq_step *s = &g->plan->steps[step];
    const size_t n_parts =
        s->n_out || s->emit
            ? g->plan->sink
                  ? g->plan->sink->catalog->tensors[s->tensor].n_parts
                  : 0
            : 0;

    if (!g->live[step]) {
        struct pq_live *l = g->live[step] = pq_zalloc(1, sizeof *l);
        if (!l)
            return pq_fail_nomem(e);
        l->state = pq_zalloc(s->state_bytes, 1);
        l->whole = pq_zalloc(s->n_in, sizeof *l->whole);
        l->trail = pq_zalloc(s->n_out, sizeof *l->trail);
        l->spooled = pq_zalloc(s->n_out, sizeof *l->spooled);
        l->written = pq_zalloc(n_parts, sizeof *l->written);
        if (!l->state || !l->whole || !l->trail || !l->spooled || !l->written)
            return pq_fail_nomem(e);
        if (s->begin && s->begin(s, l->state, e))
            return -1;
    }
    if (g->pass == s->n_gather && pq_plan_writes(g->plan) &&
        pq_engine_open_trail(g, s, g->live[step], e))
        return -1;
    return pq_engine_read_whole(g, s, g->live[step], e);
}

