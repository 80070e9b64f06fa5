/*
 * pq-merge: the models of a blend as the blend sees them, that is plain and
 * with one vocabulary.
 *
 *     opened --(encoded tensors: pq_decoded_new)--> plain
 *            --(--vocab, tokenizer_source: pq_vocab_new)--> source
 *
 * Views have the tensors of the model under the same numbers.
 */
#ifndef CMD_MERGE_MODELS_H
#define CMD_MERGE_MODELS_H

#include "merge.h"
#include "pq_vocab.h"

struct merge_model {
    struct pq_source *opened; /* borrowed: of the job's inputs */
    struct pq_source *plain;  /* it, or a view of it */
    struct pq_source *source; /* that, or a view of it: what is read */
    struct pq_names index;    /* name -> number */
    long *layers;             /* [n_tensors] of which layer, or -1 */
    long n_layers;            /* one more than the largest of them */
    bool stacked;             /* it has several stacks of layers */
    bool tied;                /* its head is its table of tokens */
    bool *used;               /* [n_tensors] by some target */
};

/* What the vocabularies were made into; see merge_vocab.c. */
struct merge_vocab {
    enum merge_vocab_policy policy;
    const char *path;          /* of MERGE_VOCAB_PATH: its folder */
    struct tokens *tokens;     /* [n] of each model, and of the path */
    struct pq_row_map *maps;   /* [n] */
    struct pq_row_mean *means; /* [n_means] */
    size_t n_means, cap_means;
    struct pq_buf text;  /* tokenizer.json of the output, if it is new */
    size_t provider;     /* the model whose vocabulary it is; n: the path */
    uint64_t n_rows;     /* of the output's tables; 0: as they are */
};

struct merge_models {
    struct merge_job *j;
    struct merge_model *list; /* [n] */
    size_t n;
    size_t base; /* number of the base, or SIZE_MAX */
    struct pq_arena arena;
    struct merge_vocab vocab;
};

/*
 * Of the job's inputs, none of them an adapter.  Release the models also
 * after a failure, when the plan is gone.
 */
PQ_MUST_USE int merge_models_init(struct merge_models *m, struct merge_job *j,
                                  size_t base, struct pq_error *e);
void merge_models_release(struct merge_models *m);
/* Lists what is opened and all views as sources of the plan. */
PQ_MUST_USE int merge_models_sources(struct merge_models *m,
                                     struct pq_error *e);
/*
 * The tensor of that name in the view, or of one that means the same: with or
 * without the name of the trunk, the table of tokens for a head that is tied
 * to it.  NULL if there is none.  Marks it used.
 */
const struct pq_tensor *merge_model_tensor(struct merge_model *m,
                                           const char *name);
/* Rows of its table of tokens, or 0. */
uint64_t merge_model_rows(const struct merge_model *m);
/*
 * Where the tensor of that number is as it is stored: what was opened, or,
 * if it has another vocabulary now, the view.
 */
struct pq_source *merge_model_stored(const struct merge_model *m, size_t i);
/* The model whose config and files the output has. */
struct merge_model *merge_models_donor(struct merge_models *m);

/* ---- merge_vocab.c ----------------------------------------------------- */

/*
 * Gives all models one vocabulary as the policy says (m->vocab.policy and
 * .path, set before), or fails with the names where nothing is said and they
 * differ.
 */
PQ_MUST_USE int merge_vocab_apply(struct merge_models *m, struct pq_error *e);

/* ---- merge_tokenizer.c: the files of a tokenizer ----------------------- */

/* A small file of a folder; *there is false, and `to` empty, without one. */
PQ_MUST_USE int merge_tokenizer_file(const char *folder, const char *name,
                                     struct pq_buf *to, bool *there,
                                     struct pq_error *e);
/* Puts tokenizer files and vocab_size into the output's catalogue. */
PQ_MUST_USE int merge_vocab_finish(struct merge_models *m,
                                   struct pq_catalog *out,
                                   struct pq_error *e);

#endif
