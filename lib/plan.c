/*
 * Plans: lists of steps that grow in an arena.  What runs them is engine.c.
 */
#include "pq_engine.h"

#include <stdlib.h>
#include <string.h>

struct pq_step *pq_plan_step(struct pq_plan *p, size_t n_in, size_t n_out,
                             struct pq_error *e)
{
    struct pq_step *steps =
        pq_grow(p->steps, p->n_steps, &p->cap_steps, sizeof *steps);
    if (steps)
        p->steps = steps;
    struct pq_input *in = pq_arena_alloc(&p->arena, n_in, sizeof *in);
    struct pq_output *out = pq_arena_alloc(&p->arena, n_out, sizeof *out);
    if (!steps || !in || !out) {
        pq_fail_nomem(e);
        return NULL;
    }
    struct pq_step *s = &steps[p->n_steps++];
    memset(s, 0, sizeof *s);
    s->in = in;
    s->n_in = n_in;
    s->out = out;
    s->n_out = n_out;
    return s;
}

void pq_plan_release(struct pq_plan *p)
{
    free(p->steps);
    pq_arena_release(&p->arena);
    memset(p, 0, sizeof *p);
}
