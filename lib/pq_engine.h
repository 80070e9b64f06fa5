/*
 * The engine: runs a plan over tensors in bounded memory.
 *
 * A tool makes a *plan*: a list of *steps* in the order of the output, one
 * an output tensor (or part).  A step is worked through in *units* of
 * `unit_items` items; what an item is, the step decides: an element, a
 * quantization block, a row, a whole tensor.  An input or output that takes
 * `item_bits` an item is cut accordingly:
 *
 *     NF4, item = block of 64, unit = 1024 items
 *       in   W       f32     item_bits = 64 * 32   -> 256 KiB a unit
 *       out  codes   4 bit   item_bits = 64 * 4    ->  32 KiB
 *       out  absmax  f32     item_bits = 32        ->   4 KiB, trailing
 *
 * The last unit is shorter, and the last item may be partial (a tail block):
 * ranges are clipped to the bytes of the part.
 *
 * Passes.  A step may *gather* (n_gather passes over its inputs) before it
 * *emits*: every unit yields a partial result, and partials are combined
 * strictly in unit order, so that sums do not depend on threads.  The emit
 * pass may yield a partial as well (error figures).  A plan may ask that all
 * steps gather before the first one emits (plan->between), for a global
 * threshold.  A step without outputs only gathers (pq-info --stats).
 *
 * A pass begins when the one before it is complete.  So that threads need not
 * wait for that, steps that only gather, equally often and from random-access
 * sources, are worked through in waves of a few: pass 0 of each, then pass 1
 * of each.  Their order among each other stays that of the plan.
 *
 * Trailing parts.  Outputs marked `trail` (absmax behind the codes) are kept
 * in a spool until the codes are out.  Then finish() may turn them into
 * something else (double quantization); what it does not write is written by
 * the engine, in order: spooled parts, then constants.
 *
 * Side outputs.  A plan may have further sinks (a mask beside the model that
 * was pruned, the logits beside a figure).  An output of a step then names
 * its sink and the tensor there.  Parts of a side sink are filled by outputs
 * alone: no constants, nothing trails.  If the sink is ordered, its tensors
 * come in the order of the steps that fill them.  All sinks are sealed before
 * the first of them is finished.  Side sinks are begun, sealed and finished
 * before the main one, so that what has the name of the main output is never
 * without them; only if the main output cannot even be named, have they their
 * names without it.  A plan may have side sinks only.
 *
 * Execution.  Threads take tickets, (step, pass, unit) in plan order.  Each
 * ticket has a slot with its own buffers; there are a few more slots than
 * threads, and that is the memory bound.  Sequential inputs are read while
 * the ticket is drawn, so in order; others by the thread itself.  Tickets
 * retire in order: partials are combined, output is written, the end of a
 * pass is noticed.  One thread at a time retires; the others go on with the
 * next units meanwhile.  So it is for files, too: the system lets one thread
 * at a time write to a file anyway, and those that wait for it only spin.
 * What a positional sink saves is the spooling of trailing parts.
 *
 *     draw --> [read] --> compute --> [spool] --> retire --> [write]
 *      in order           in parallel             in order
 *
 * On paper: (a) double quantization from a pipe: emit with codes out and
 * absmax trailing; finish reads all absmax (mean, then 8 bits) and writes
 * absmax U8, quant_state, nested parts: one pass, no re-read.  (b) a global
 * threshold: gather = histogram of float bits, plan->between chooses k; a
 * file is read again, a pipe was held or spooled.  (c) a LoRA merge: item =
 * row; inputs W (cut by rows), B (cut by rows), A (`whole`: read once a
 * step, shared).  (d) a sharded directory: the source maps one address space
 * on many files, the sink does the same in reverse; the engine sees neither.
 *
 * Determinism: the units of a step never depend on threads or memory.
 */
#ifndef PQ_ENGINE_H
#define PQ_ENGINE_H

#include "pq_hold.h"
#include "pq_sink.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pq_access {
    PQ_RANGE,   /* the items of the unit, item_bits each */
    PQ_WHOLE,   /* the whole part, read once a step and shared by its units */
    PQ_COLUMNS  /* item = some columns of part [rows][cols]: [rows][columns] */
};

struct pq_input {
    struct pq_source *source;
    const struct pq_part *part;
    enum pq_access access;
    uint64_t item_bits;    /* of PQ_RANGE */
    uint64_t item_columns; /* of PQ_COLUMNS */
};

struct pq_output {
    size_t part; /* number in the output tensor */
    uint64_t item_bits;
    bool trail;
    size_t sink;   /* 0: the plan's; k: sides[k - 1] */
    size_t tensor; /* of a side sink: number in its catalogue */
};

/* One unit at work.  Arrays run parallel to the step's inputs and outputs. */
struct pq_unit {
    uint64_t first; /* number of the first item */
    uint64_t count; /* items, > 0 (0 only for a step of 0 items) */
    const void *const *in;
    const uint64_t *in_bytes;
    void *const *out;
    const uint64_t *out_bytes;
    void *scratch; /* step->scratch_bytes, 64-aligned, dirty */
    void *partial; /* step->partial_bytes, zeroed, or NULL */
};

struct pq_trail; /* what finish() reads and writes, below */

struct pq_step {
    const char *name; /* of the tensor, for messages and -v; borrowed */
    size_t tensor;    /* number in the output catalogue (unused: no outputs) */
    size_t first_part; /* the parts of it that this step writes ... */
    size_t n_parts;    /* ... how many; 0 = all of them */

    struct pq_input *in;
    size_t n_in;
    struct pq_output *out;
    size_t n_out;

    uint64_t items, unit_items;
    size_t scratch_bytes, partial_bytes, state_bytes;

    /* Before the first unit: what the state begins with.  May be NULL. */
    int (*begin)(const struct pq_step *s, void *state, struct pq_error *e);
    unsigned n_gather;
    /* u->partial is the result; state is read only here. */
    int (*gather)(const struct pq_step *s, unsigned pass,
                  const struct pq_unit *u, const void *state,
                  struct pq_error *e);
    int (*emit)(const struct pq_step *s, const struct pq_unit *u,
                const void *state, struct pq_error *e);
    /* In unit order; pass == n_gather for the partials of emit. */
    int (*combine)(const struct pq_step *s, unsigned pass, void *state,
                   const void *partial, struct pq_error *e);
    /* After the last unit of emit, before trailing parts are written. */
    int (*finish)(const struct pq_step *s, void *state, struct pq_trail *t,
                  struct pq_error *e);
    /* After the step is complete, in plan order: reports.  May be NULL. */
    int (*done)(const struct pq_step *s, void *state, struct pq_error *e);

    const void *params; /* the operation's own, borrowed */
    void *user;         /* the tool's own, borrowed */
};

/*
 * For finish(): bytes of a trailing output as the units left them, and
 * writing a part of the output tensor.  Parts must be written in the order
 * of the catalogue; parts left out are written by the engine.
 */
PQ_MUST_USE int pq_trail_read(struct pq_trail *t, size_t output,
                              uint64_t offset, void *buf, size_t n,
                              struct pq_error *e);
PQ_MUST_USE int pq_trail_write(struct pq_trail *t, size_t part,
                               uint64_t offset, const void *buf, size_t n,
                               struct pq_error *e);

struct pq_plan {
    struct pq_step *steps; /* [n_steps] */
    size_t n_steps, cap_steps;
    struct pq_arena arena; /* for the steps' inputs, outputs and params */
    struct pq_source **sources; /* [n_sources], all that steps read */
    size_t n_sources;
    struct pq_sink *sink; /* NULL: nothing is written, but to the sides */
    struct pq_sink **sides; /* [n_sides], borrowed */
    size_t n_sides;
    bool gather_first;
    int (*between)(struct pq_plan *p, struct pq_error *e); /* may be NULL */
};

/* Appends a zeroed step with room for so many inputs and outputs. */
struct pq_step *pq_plan_step(struct pq_plan *p, size_t n_in, size_t n_out,
                             struct pq_error *e);
void pq_plan_release(struct pq_plan *p);

/* Has it sinks? */
static inline bool pq_plan_writes(const struct pq_plan *p)
{
    return p->sink || p->n_sides > 0;
}

struct pq_run {
    unsigned threads;   /* >= 1 */
    uint64_t memory;    /* bytes of buffers and spools in memory */
    const char *tmpdir; /* for spools beyond that, or NULL */
    const volatile int *cancel;  /* non-zero: stop with PQ_ECANCEL; or NULL */
    /* Called now and then, one thread at a time.  May be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
};

/*
 * Runs the plan: begins the sinks, works through the steps, finishes the
 * sources (END seen and verified), then the sinks.  On failure those that
 * are not finished are aborted with the error, and nothing appears under
 * their names.
 * `state` of step i is zeroed memory that lives until its done() returned.
 */
PQ_MUST_USE int pq_engine_run(struct pq_plan *p, const struct pq_run *r,
                              struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
