/*
 * pq-train: what its files share.
 *
 *   train_end.c     the token that ends a text
 *   train_data.c    examples -> pieces of a length, their order, the batches
 *   train_open.c    the model and what of it is trained
 *   train_memory.c  how much memory that takes
 *   train_run.c     the steps, validation, when to stop
 *   train_log.c     what is said of a step; the curve of losses
 *   train_write.c   the adapter or the model that comes out
 *   train_state.c   what a run that goes on needs
 *   train_start.c   an adapter to begin with
 *
 * An update of the weights is made from a window of micro-batches: batch *
 * accumulate pieces.  Which pieces those are depends on the seed and the
 * number of pieces taken before alone, so that a run that goes on takes those
 * that it would have taken anyway.
 */
#ifndef CMD_TRAINING_H
#define CMD_TRAINING_H

#include "cmd.h"
#include "data.h"
#include "pq_peft.h"
#include "pq_quant.h"
#include "pq_train.h"

/* A text of one line, or a part of it that is not longer than asked for. */
struct train_piece {
    struct pq_train_text text;
    size_t line;
};

struct train_data {
    struct cmd_data file;
    bool ends; /* texts get the token that ends them */
    int32_t **labels;           /* [file.n], NULL: all that follow count */
    struct train_piece *pieces; /* [n], each with a token to train on */
    size_t n, cap;
    size_t longest;
    uint64_t tokens; /* of all pieces */
};

/*
 * Puts the tokenizer's EOS behind texts, unless it is there already or the
 * tokenizer has none; not behind ids.
 */
PQ_MUST_USE int train_end_texts(struct cmd_data *d, struct pq_error *e);
/*
 * Reads and cuts a file; `ends` is the caller's to set.  Without a `length`
 * an example longer than `positions` (0: there is no end) fails, else it
 * becomes several pieces that share a token: the last of one is the first of
 * the next, where it is not trained on.
 */
PQ_MUST_USE int train_data_read(struct train_data *d, const char *path,
                                const struct pq_catalog *model, size_t vocab,
                                size_t length, size_t positions,
                                struct pq_error *e);
void train_data_release(struct train_data *d);

/* Where in the order of pieces a run is. */
struct train_order {
    const struct train_data *d;
    uint64_t seed;
    bool shuffle;
    size_t batch;
    size_t room; /* tokens of a batch when they are packed, or 0 */
    size_t *next; /* [d->n] the epoch's order */
    uint64_t epoch; /* that `next` is of */
    uint64_t taken; /* pieces so far */
};

PQ_MUST_USE int train_order_init(struct train_order *o, struct pq_error *e);
/* The next batch: at most `batch` pieces; when packed, as many as fit. */
size_t train_take(struct train_order *o,
                  const struct train_piece **out /* [train_most()] */);
size_t train_most(const struct train_order *o);
/* As if `taken` pieces had been taken. */
void train_order_restart(struct train_order *o, uint64_t taken);
void train_order_release(struct train_order *o);

/* ---- train_log.c -------------------------------------------------------- */

struct train_point {
    uint64_t step;   /* from 1 */
    double loss, lr; /* the mean over tokens, before the update */
    uint64_t tokens; /* that it is the mean of */
    double norm;     /* of the gradient, before it was clipped */
    bool val;        /* of --val: lr and norm mean nothing */
};

struct train_log {
    const struct cmd *c;
    struct train_point *points; /* [n] */
    size_t n, cap;
};

PQ_MUST_USE int train_log_step(struct train_log *l,
                               const struct train_point *p,
                               struct pq_error *e);
PQ_MUST_USE int train_log_val(struct train_log *l, const struct train_point *p,
                              struct pq_error *e);
PQ_MUST_USE int train_log_plot(const struct train_log *l, const char *path,
                               struct pq_error *e);
void train_log_release(struct train_log *l);

/* ---- a run -------------------------------------------------------------- */

enum train_method {
    TRAIN_LORA, TRAIN_QLORA, TRAIN_FULL, TRAIN_SPARSE, TRAIN_PROMPT,
    TRAIN_HYBRID
};

/* Numbers that were trained, by the names that files give them. */
struct train_tensor {
    const char *name; /* "model.norm.weight", "M.lora_A.weight" */
    uint64_t shape[2];
    int rank;
    const float *data;
};

struct train_output {
    struct cmd *c;
    bool tries; /* nothing is written: is there a place for it? */
    enum train_method method;
    struct pq_source *model; /* what was trained, or is the base */
    const struct train_tensor *tensors; /* [n] of model or adapter */
    size_t n;
    const struct train_tensor *prompt; /* or NULL */
    struct pq_peft_trained adapter;
};

/* ---- train_write.c ------------------------------------------------------ */

/*
 * Writes what was trained where -o says: a model, an adapter, a soft prompt;
 * of the last two both in directories "lora" and "prompt" there.  With -n
 * prints what would be.
 */
PQ_MUST_USE int train_write(const struct train_output *o, struct pq_error *e);

/* ---- all of it ---------------------------------------------------------- */

enum {
    PROMPT_INIT_NOT_SAID, PROMPT_INIT_VOCAB, PROMPT_INIT_TEXT,
    PROMPT_INIT_RANDOM
};

struct train_options {
    const char *data, *val, *plot, *init_adapter;
    enum train_method method;
    uint64_t steps, epochs, batch, accumulate, length, rank;
    uint64_t warmup, decay, val_every, patience, prompt_tokens;
    uint64_t save_every, until; /* 0: not */
    double alpha, lr, weight_decay, clip, plus, least, neftune;
    enum pq_schedule_shape shape;
    const char *target_list; /* as given, or NULL */
    struct cmd_list targets;
    struct pq_arena words;   /* of targets; the tool's release() frees both */
    const char *prompt_text; /* or NULL */
    int prompt_init;
    bool rslora, dora, pissa, pack, in_order, show_mask, recompute, resume;
    bool no_eos;
    bool clip_given, shape_given;
    bool fresh; /* MODEL's weights are random ones */
    bool rounds;
    struct pq_spec rounding;
    struct pq_train_sparsity sparsity;
};

struct train {
    struct cmd *c;
    struct train_options *o; /* with defaults filled in */
    struct pq_source *model; /* to be read again */
    struct pq_source *inner; /* what that was made of, while both are there */
    uint64_t budget; /* of memory, where one was given */
    uint64_t kept;   /* the most that is kept of a pipe in memory */
    struct pq_train *core;
    struct pq_source *start_source; /* of --init-adapter */
    struct pq_peft from;            /* what that holds, if it is LoRA, */
    const struct pq_tensor *from_prompt; /* or a soft prompt */
    struct train_data data, val;
    struct train_order order;
    struct train_log log;
    struct pq_schedule schedule;
    uint64_t steps;
    const struct train_piece **taken; /* [accumulate][train_most()] */
    size_t *counts;                   /* [accumulate] */
    struct pq_train_text *texts;      /* [train_most()] */
    int32_t *prompt_ids;              /* [prompt_tokens] or NULL */
    float **before; /* [params] lora_B before a step, of --lora-plus */
    float **start;  /* [params] factors at the start, of --init pissa */
    float **best;   /* [params] with --val, the best so far */
    double best_loss;
    uint64_t best_step, waited; /* validations without a better one */
    struct pq_error unsaved;    /* why the last state could not be written */
};

/* train_open.c: reads the data, opens the model, says what is too much. */
PQ_MUST_USE int train_open(struct train *t, struct pq_error *e);
void train_close(struct train *t);
/* train_quantize.c: t->model becomes one with 4-bit weights. */
PQ_MUST_USE int train_quantize(struct train *t, struct pq_error *e);
/* All that the run will take, as a part of resident memory. */
PQ_MUST_USE int train_bytes(struct train *t, uint64_t *bytes,
                            struct pq_error *e);
/* The most tokens in a batch, soft prompts included, and in a text. */
void train_rows(struct train *t, size_t *rows, size_t *longest);
/* train_run.c: the steps; leaves the best weights in the model. */
PQ_MUST_USE int train_run(struct train *t, struct pq_error *e);
/* How many pieces of --val are run together from number i on. */
size_t train_val_batch(const struct train *t, size_t i);
/* Copies all parameters, or those that `wants` is true for. */
PQ_MUST_USE int train_snapshot(struct train *t, float ***all,
                               bool (*wants)(const char *name),
                               struct pq_error *e);
/* train_state.c: beside the output; what was saved there. */
PQ_MUST_USE int train_state_save(struct train *t, struct pq_error *e);
PQ_MUST_USE int train_state_load(struct train *t, struct pq_error *e);
/* Of an unfinished run's state, which this run is going to replace. */
void train_state_warn(const struct train *t);
/* train_start.c: first what kind of adapter it is, then its numbers. */
PQ_MUST_USE int train_start_open(struct train *t, struct pq_error *e);
PQ_MUST_USE int train_start_read(struct train *t, struct pq_error *e);
/*
 * train_output.c: writes what is in the model now; -n: says what would be.
 * train_try() fails where that would, before there is anything to lose.
 */
PQ_MUST_USE int train_try(struct train *t, struct pq_error *e);
PQ_MUST_USE int train_save(struct train *t, struct pq_error *e);
/* train_mask.c: prints what is trained on, a line a token. */
PQ_MUST_USE int train_show_mask(struct train *t, struct pq_error *e);

#endif
