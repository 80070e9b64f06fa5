/*
 * Taking layers, heads and channels out of a model: pq-prune's --drop-...
 *
 *     shrink.c           finds the layers and their tensors, makes the view
 *     shrink_layers.c    which layers go; config.json without them
 *     shrink_heads.c     which heads go
 *     shrink_channels.c  which channels of the MLPs go, by their norms
 *
 * What is left is a view of the model (lib/pq_shrink.h), with names and a
 * config.json that are true of it.
 */
#ifndef CMD_SHRINK_H
#define CMD_SHRINK_H

#include "job.h"
#include "pq_names.h"
#include "pq_shrink.h"

/* Options, for the table of the tool. */
enum shrink_option_id {
    SHRINK_OPT_LAYERS = 200,
    SHRINK_OPT_HEADS,
    SHRINK_OPT_CHANNELS
};

struct shrink_options {
    const char *layers; /* "20-23,27", or NULL */
    const char *heads;  /* "L:H,...", or NULL */
    bool has_channels;
    double channels; /* the part of them that goes: [0, 1) */
};

/* A number, a range of them, or "*". */
struct shrink_range {
    uint64_t first, last; /* all: 0, UINT64_MAX */
};

struct shrink_item {
    struct shrink_range layers, heads;
};

struct shrink_layer {
    bool there, gone;
    /* its tensors by role, bias or not, as numbers; SIZE_MAX: it has none */
    size_t tensors[PQ_BLOCK_OTHER][2];
    struct pq_spans query, key; /* rows that stay; n == 0: all */
    struct pq_spans channels;
    double *sums[PQ_BLOCK_OTHER]; /* while the norms are found */
};

/* A job under way; zeroed before. */
struct shrink {
    struct cmd *c;
    const struct shrink_options *o;
    struct pq_source *in;
    struct pq_source *view; /* what is left of it */
    struct pq_arena arena;
    struct shrink_layer *layers; /* [n_layers] */
    size_t n_layers, n_left;
    bool has_config, has_conv1d;
    uint64_t heads, key_heads, head_size; /* that are left; 0: not asked */
    uint64_t channels;                    /* that are left; 0: not asked */
    uint64_t n_channels;                  /* that there were */
};

PQ_MUST_USE int shrink_option(struct shrink_options *o,
                              enum shrink_option_id id, const char *value,
                              struct pq_error *e);
/* Is anything to be taken out? */
bool shrink_asked(const struct shrink_options *o);
/*
 * For cmd_job.view: makes a view of the job's input and puts it in its place.
 * With channels the input is read by a run of its own: cmd_job.keep.
 * What the view borrows is the job's until shrink_release(), after it.
 */
PQ_MUST_USE int shrink_job(struct shrink *s, struct cmd_job *j,
                           const struct shrink_options *o, struct pq_error *e);
void shrink_release(struct shrink *s);

/*
 * The next of the items "R" or, with heads, "R:R" at *text, where R is a
 * number, "2-5" or "*": 1, or 0 at the end, or -1.
 */
PQ_MUST_USE int shrink_next(const char **text, bool heads,
                            struct shrink_item *item, struct pq_error *e);
/* Is it a layer that is left? */
bool shrink_stays(const struct shrink *s, size_t layer);
/* Are these layers of the model? */
PQ_MUST_USE int shrink_check_layers(const struct shrink *s,
                                    const struct shrink_range *r,
                                    struct pq_error *e);
/* The tensor of that role, plain and of that many dimensions, or fails. */
const struct pq_tensor *shrink_tensor(const struct shrink *s, size_t layer,
                                      enum pq_block_role role,
                                      struct pq_error *e);
/* Spans of what is not `gone`, n things of `size` rows each. */
PQ_MUST_USE int shrink_spans(struct shrink *s, const bool *gone /* [n] */,
                             uint64_t n, uint64_t size, struct pq_spans *spans,
                             struct pq_error *e);

/* The steps of shrink_job(): what goes, then what config.json says. */
PQ_MUST_USE int shrink_choose_layers(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_set_layers(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_choose_heads(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_set_heads(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_check_channels(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_choose_channels(struct shrink *s, struct pq_error *e);
PQ_MUST_USE int shrink_set_channels(struct shrink *s, struct pq_error *e);

#endif
