/*
 * pq-extract: what its parts share.
 *
 * cmd/extract.c takes the options; the work is done in this order:
 *
 *     extract_pairs.c   opens both models, joins their tensors, compares them
 *                       and decides what becomes of each that changed
 *     extract_ranks.c   finds the singular values of the differences, chooses
 *                       the ranks, measures what the factors leave
 *     extract_write.c   writes the adapter; extract_config.c its config
 *     extract_report.c  says what was lost
 */
#ifndef CMD_EXTRACT_H
#define CMD_EXTRACT_H

#include "cmd.h"
#include "pq_diff.h"
#include "pq_quant.h"
#include "pq_ranks.h"

struct extract_options {
    size_t rank;       /* of all matrices; 0: one of the next three */
    double energy;     /* of each difference, as a part of 1; 0: not given */
    double max_error;  /* of each, relative; 0: not given */
    uint64_t max_size; /* of the output in bytes; 0: not given */
    size_t max_rank;   /* unless `rank` is given */
    bool embeddings;   /* are factored too */
    bool resize, plain; /* the operand is an adapter (resize.h) */
    bool type_given;
    enum pq_dtype dtype; /* of the factors */
};

enum extract_kind {
    EXTRACT_SAME,     /* did not change, or was not selected: left out */
    EXTRACT_FACTORED, /* B A; with rank 0 left out */
    EXTRACT_BIAS,     /* of a matrix, as it is */
    EXTRACT_SAVED     /* as it is, with all of its module */
};

/* A tensor of the base and what became of it. */
struct extract_pair {
    const char *name; /* as the model that is loaded calls it */
    size_t module;    /* length of the part of it that names the module */
    const struct pq_tensor *a, *b; /* of plain_a, plain_b; b NULL: left out */
    enum extract_kind kind;
    bool embedding; /* the factors are those of an embedding */
    bool turned;    /* stored [in][out] */
    struct pq_figures f;

    /* of a matrix that is factored */
    uint64_t rows, cols; /* outputs, inputs */
    struct pq_ranked *factor; /* of extract.ranking; NULL: not searched */
    size_t limit;             /* the largest rank that is allowed */
    bool again;               /* more must be found, or measured again */
    struct pq_left left;
};

struct extract {
    struct cmd *c;
    const struct extract_options *o;
    struct pq_source *a, *b; /* base and tuned model, for several runs */
    struct pq_source *plain_a, *plain_b; /* the same, or decoded views */
    struct extract_pair *pairs; /* [n] in the order of the base */
    size_t n;
    struct pq_names matrices; /* modules with a 2-D weight -> their pair */
    struct pq_names saved;    /* modules that are saved as they are */
    struct pq_ranking ranking;
    struct pq_quant quant;
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_arena arena;
    bool wrote; /* total_bytes of plan.sink were written */
};

PQ_MUST_USE int extract_compare(struct extract *x, struct pq_error *e);
/* After a kind has changed: what else must be saved with it. */
PQ_MUST_USE int extract_settle(struct extract *x, struct pq_error *e);
/* Sets rows, cols and turned of a matrix. */
PQ_MUST_USE int extract_set_turned(struct extract *x, struct extract_pair *p,
                                   struct pq_error *e);
PQ_MUST_USE int extract_find_ranks(struct extract *x, struct pq_error *e);
PQ_MUST_USE int extract_write(struct extract *x, struct pq_error *e);
/* adapter_config.json, as a blob of x->out. */
PQ_MUST_USE int extract_set_config(struct extract *x, struct pq_error *e);
PQ_MUST_USE int extract_report(struct extract *x, struct pq_error *e);

/* Are there factors of this pair in the adapter? */
bool extract_has_factors(const struct extract_pair *p);
/* The 2-D weight in the module of a tensor, or NULL. */
const struct extract_pair *extract_matrix(const struct extract *x,
                                          const struct extract_pair *p);

#endif
