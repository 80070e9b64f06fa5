/*
 * pq-prompt: what its files share.
 *
 *   prompt_open.c    soft prompts, the model and its table of embeddings
 *   prompt_near.c    norms, cosines, rank; the nearest rows of the table
 *   prompt_loss.c    what the prompt, and each of its tokens, does to a loss
 *   prompt_report.c  what is said of all that
 *   prompt_write.c   the mean of several prompts; a model with their rows
 *
 * For a virtual token p and the row e of a token of the vocabulary
 *
 *     cos = p . e / (|p| |e|)     margin = the largest cos - the second
 *     effective rank = exp(-sum q ln q), q = s / sum s, s the singular values
 *
 * Source: Roy and Vetterli 2007 for the rank; Khashabi et al. 2022 (Prompt
 * Waywardness) for why the nearest tokens are told with their own loss.
 */
#ifndef CMD_PROMPT_H
#define CMD_PROMPT_H

#include "cmd.h"
#include "pq_tokenizer.h"

#define PROMPT_MAX_TOKENS 4096u

struct prompt_options {
    const char *model, *data, *plot;
    uint64_t top; /* nearest tokens that are told */
    bool average, export;
};

struct prompt_hit {
    uint64_t number; /* of the row, from 1; 0: there is none */
    double cosine;
};

/* Of labels: the mean of -log p, in nats, and of how many p is the largest. */
struct prompt_score {
    double loss;
    uint64_t right;
};

struct prompt_loss {
    uint64_t labels;
    struct prompt_score with, without;
    struct prompt_score nearest; /* the nearest tokens in its place */
    struct prompt_score *left;   /* [n] without token i */
};

struct prompt {
    struct cmd *c;
    const struct prompt_options *o;
    struct pq_source **dirs; /* [n_dirs] the soft prompts */
    size_t n_dirs;
    size_t n, hidden;
    float *x;        /* [n][hidden] of the first, or the mean of all */
    double *norms;   /* [n] */
    double *cosines; /* [n][n] among each other; 0 where one is zero */
    double rank;     /* effective */
    /* with a model */
    struct pq_source *model, *decoded; /* the same without encodings */
    const struct pq_tensor *table;     /* of `decoded` */
    struct pq_tokenizer *tokenizer;    /* or NULL */
    uint64_t rows;                     /* of the table that are tokens */
    double *row_norms;                 /* [rows], then sorted */
    double *shares;                    /* [n] of rows with a smaller norm */
    struct prompt_hit *hits;           /* [n][top], the nearest first */
    float *nearest;                    /* [n][hidden] rows of the first hits */
    struct prompt_loss loss;
};

/* ---- prompt_open.c ------------------------------------------------------ */

/* Reads the prompts that are the operands; their shapes must be the same. */
PQ_MUST_USE int prompt_open(struct prompt *p, struct pq_error *e);
/* Opens --model, which must have rows of the prompt's size. */
PQ_MUST_USE int prompt_open_model(struct prompt *p, struct pq_error *e);
void prompt_close(struct prompt *p);

/* ---- prompt_near.c ------------------------------------------------------ */

/* Norms, cosines and rank of the prompt itself. */
PQ_MUST_USE int prompt_measure(struct prompt *p, struct pq_error *e);
/* What is in the vocabulary beside it. */
PQ_MUST_USE int prompt_search(struct prompt *p, struct pq_error *e);

/* ---- prompt_loss.c ------------------------------------------------------ */

PQ_MUST_USE int prompt_losses(struct prompt *p, struct pq_error *e);

/* ---- prompt_report.c ---------------------------------------------------- */

PQ_MUST_USE int prompt_report(const struct prompt *p, struct pq_error *e);
/* --plot: the cosines among its tokens. */
PQ_MUST_USE int prompt_plot(const struct prompt *p, struct pq_error *e);

/* ---- prompt_write.c ----------------------------------------------------- */

PQ_MUST_USE int prompt_write_average(struct prompt *p, struct pq_error *e);
PQ_MUST_USE int prompt_write_model(struct prompt *p, struct pq_error *e);

#endif
