/*
 * The engine's insides, shared by engine.c (threads, tickets),
 * engine_slots.c (the tickets' memory), engine_live.c (steps at work),
 * engine_in.c (inputs) and engine_out.c (outputs and trailing parts).
 */
#ifndef PQ_ENGINE_INTERNAL_H
#define PQ_ENGINE_INTERNAL_H

#include "pq_engine.h"

#include <pthread.h>

/* What a step needs while its units are at work. */
struct pq_live {
    void *state;
    void **whole;           /* [n_in] bytes of PQ_WHOLE inputs, else NULL */
    struct pq_spool *trail; /* [n_out], used where spooled[i] */
    bool *spooled;          /* [n_out] */
    bool *written;          /* [parts of the output tensor] */
    uint64_t pass_end;      /* the ticket after the last one of a pass */
};

/* One ticket in flight, with its own buffers. */
struct pq_slot {
    bool busy, done;
    size_t step;
    unsigned pass;
    bool last; /* of its pass */
    struct pq_unit unit;
    void **in;          /* [max n_in] */
    uint64_t *in_bytes; /* [max n_in] */
    void **out;         /* [max n_out] */
    uint64_t *out_bytes;
    unsigned char *buffer; /* [slot_bytes] */
    bool failed;
    struct pq_error error;
};

/* A sequential source and how its parts will be used. */
struct pq_feed {
    struct pq_source *source;
    struct pq_hold *hold;
    bool own; /* else it is the source's, from folding */
};

struct pq_use {
    const struct pq_part *part;
    size_t last_step; /* after which nobody reads it */
    unsigned times;
};

/* A sink and where in it each part goes. */
struct pq_outlet {
    struct pq_sink *sink; /* NULL: a plan without a main output */
    size_t *first_place;  /* [tensors of the sink's catalogue] */
    size_t *place;        /* [places] part -> place in sink->order */
    bool finished;
};

struct pq_engine {
    struct pq_plan *plan;
    const struct pq_run *run;
    struct pq_spool_budget budget;
    struct pq_live **live; /* [n_steps], NULL when not at work */

    struct pq_feed *feeds; /* [n_feeds] */
    size_t n_feeds;
    struct pq_use *uses; /* [n_uses] parts of sequential sources, sorted */
    size_t n_uses;

    struct pq_outlet *outlets; /* [1 + plan->n_sides], the main one first */

    /* Drawing: under `drawing`. */
    pthread_mutex_t drawing;
    bool gathering; /* gather_first: still in the first round */
    size_t step;
    unsigned pass;
    uint64_t unit;
    size_t wave, wave_end; /* the steps whose passes are drawn in turns */
    bool drained;
    size_t dropped; /* steps whose inputs were forgotten */

    /* Slots and retiring: under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a slot is free, a pass is in, a failure */
    size_t waiting;         /* threads that wait for it */
    pthread_cond_t stopped; /* a worker is done */
    struct pq_slot *slots; /* [n_slots], ticket t in slot t % n_slots */
    size_t n_slots, slot_bytes;
    uint64_t next_ticket, turn;
    size_t closed; /* steps that are complete */
    bool retiring, failed;
    size_t running; /* workers */
    struct pq_error error;
    uint64_t bytes_done, bytes_total;
};

struct pq_trail {
    struct pq_engine *g;
    const struct pq_step *step;
    struct pq_live *live;
};

static inline uint64_t pq_step_units(const struct pq_step *s)
{
    return s->items ? (s->items - 1) / s->unit_items + 1 : 1;
}

static inline unsigned pq_step_passes(const struct pq_step *s)
{
    return s->n_gather + (s->emit ? 1 : 0);
}

/* engine_slots.c */
int pq_engine_slots(struct pq_engine *g, struct pq_error *e);
void pq_engine_slots_free(struct pq_engine *g);
/* Cuts the slot's memory into the buffers that its unit needs. */
void pq_slot_lay_out(struct pq_engine *g, struct pq_slot *s);

/* engine_live.c */
/* Makes ready what the units of a step share; called while drawing. */
int pq_live_open(struct pq_engine *g, size_t step, struct pq_error *e);
void pq_live_free(struct pq_engine *g, size_t step);

/* engine_in.c */
int pq_engine_feeds(struct pq_engine *g, struct pq_error *e);
void pq_engine_feeds_free(struct pq_engine *g);
uint64_t pq_input_bytes(const struct pq_input *in, uint64_t first,
                        uint64_t count);
/* Reads the inputs of a slot's unit from sequential (or other) sources. */
int pq_engine_read(struct pq_engine *g, struct pq_slot *s, bool sequential,
                   struct pq_error *e);
int pq_engine_read_whole(struct pq_engine *g, const struct pq_step *s,
                         struct pq_live *l, struct pq_error *e);
/* Forgets inputs of steps that are complete. */
void pq_engine_drop(struct pq_engine *g, size_t closed);

/* engine_out.c */
int pq_engine_places(struct pq_engine *g, struct pq_error *e);
void pq_engine_places_free(struct pq_engine *g);
/* All sinks: the side ones first, so that a main one in a pipe comes last. */
int pq_engine_begin(struct pq_engine *g, struct pq_error *e);
int pq_engine_finish(struct pq_engine *g, struct pq_error *e);
void pq_engine_abort(struct pq_engine *g, const struct pq_error *why);
int pq_engine_open_trail(struct pq_engine *g, const struct pq_step *s,
                         struct pq_live *l, struct pq_error *e);
uint64_t pq_output_bytes(const struct pq_engine *g, const struct pq_step *s,
                         size_t i, uint64_t first, uint64_t count);
/* Keeps a unit's trailing outputs; any thread. */
int pq_engine_spool(struct pq_engine *g, const struct pq_slot *s,
                    struct pq_live *l, struct pq_error *e);
/* Writes its other outputs, when it is the unit's turn. */
int pq_engine_write(struct pq_engine *g, const struct pq_slot *s,
                    const struct pq_live *l, struct pq_error *e);
/* The end of a step: finish(), trailing parts, constants. */
int pq_engine_close_outputs(struct pq_engine *g, const struct pq_step *s,
                            struct pq_live *l, struct pq_error *e);
/* Constants that belong at the end of the file. */
int pq_engine_write_deferred(struct pq_engine *g, struct pq_error *e);

#endif
