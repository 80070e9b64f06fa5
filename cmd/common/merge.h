/*
 * pq-merge: what its parts share.
 *
 * cmd/merge.c takes options and operands and sees which of the three jobs it
 * is; each job has its file here.
 */
#ifndef CMD_MERGE_H
#define CMD_MERGE_H

#include "cmd.h"
#include "pq_blend.h"
#include "pq_peft.h"
#include "report.h"

/* What becomes of different vocabularies. */
enum merge_vocab_policy {
    MERGE_VOCAB_UNSAID, /* all models must have the same */
    MERGE_VOCAB_BASE,   /* that of the base, or of the first model */
    MERGE_VOCAB_UNION,  /* and behind it what the other models have more */
    MERGE_VOCAB_PATH    /* that of a tokenizer elsewhere */
};

struct merge_options {
    bool type_given, normalize, allow_nonfinite, residual;
    const char *type;
    struct pq_spec spec;
    const struct pq_method *method; /* or NULL */
    bool fedavg;                    /* the method that only adapters have */
    const char *base;               /* path, or NULL */
    unsigned given;                 /* of the parameters: enum pq_blend_takes */
    struct pq_blend_params params;
    struct pq_rank_rule ranks; /* of a sum of adapters */
    const char *recipe; /* or NULL */
    enum merge_vocab_policy vocab;
};

/* An operand: a model, or an adapter. */
struct merge_input {
    const char *path; /* without its weight */
    struct pq_source *source;
    bool adapter;
    bool weighted; /* a weight was given */
    double weight; /* else 1 */
    struct pq_peft peft; /* of an adapter */
};

/* A job under way; all is released by cmd/merge.c. */
struct merge_job {
    struct cmd *c;
    const struct merge_options *o;
    struct merge_input *inputs; /* [n_inputs], in the order given */
    size_t n_inputs;
    size_t n_models; /* of them */
    const struct merge_input *base; /* one of the inputs, or NULL: --base */
    struct pq_catalog out;
    struct pq_plan plan;
    struct pq_source **sources; /* of the plan */
    struct pq_source *made; /* what was computed before it, or NULL */
    struct pq_source *into; /* takes the output, no file; or NULL */
    struct pq_arena arena;      /* for what lives as long as the operands */
    struct pq_quant quant;
    struct cmd_report report;
};

/*
 * "PATH:WEIGHT" -> in->path, in the arena, and in->weight, which is 1 where
 * there is none; a file of that very name wins.
 */
PQ_MUST_USE int merge_split_weight(struct pq_arena *arena, const char *operand,
                                   struct merge_input *in, struct pq_error *e);
/* Reads in->source as an adapter. */
PQ_MUST_USE int merge_read_adapter(struct merge_job *j, struct merge_input *in,
                                   struct pq_error *e);
/* Frees all but j->into. */
void merge_release(struct merge_job *j);
/*
 * Makes the plan's list of sources: all operands, j->made if there is one, and
 * `also` unless NULL.
 */
PQ_MUST_USE int merge_add_sources(struct merge_job *j, struct pq_source *also,
                                  struct pq_error *e);
/* Makes the sink, runs the plan.  `first` decides what the output is like. */
PQ_MUST_USE int merge_run_plan(struct merge_job *j,
                               const struct pq_catalog *first,
                               struct pq_error *e);
/* The closing line, or the JSON object; nothing after a dry run. */
PQ_MUST_USE int merge_end(struct merge_job *j, struct pq_error *e);

/* The jobs: one model and adapters; adapters alone; models alone. */
PQ_MUST_USE int merge_fold(struct merge_job *j, struct pq_error *e);
PQ_MUST_USE int merge_sum(struct merge_job *j, struct pq_error *e);
PQ_MUST_USE int merge_blend(struct merge_job *j, struct pq_error *e);

/* merge_method.c: the options that only some methods have a use for. */
enum merge_option_id {
    MERGE_OPT_METHOD = 100,
    MERGE_OPT_BASE,
    MERGE_OPT_T,
    MERGE_OPT_DENSITY,
    MERGE_OPT_LAMBDA,
    MERGE_OPT_EPSILON,
    MERGE_OPT_GAMMA,
    MERGE_OPT_SCALE,
    MERGE_OPT_RESCALE,
    MERGE_OPT_BY_ROW,
    MERGE_OPT_NORMALIZE,
    MERGE_OPT_NO_NORMALIZE
};
PQ_MUST_USE int merge_set_option(struct merge_options *o, int id,
                                 const char *value, struct pq_error *e);
/*
 * Is there any option or weight given that this method has no use for?
 * NULL: a job without a method, that takes --normalize at most.  Then says so
 * and returns non-zero.
 */
PQ_MUST_USE int merge_check_options(const struct merge_job *j,
                                    const struct pq_method *m);

/* The same for adapters alone, whatever the method. */
PQ_MUST_USE int merge_check_adapters(const struct merge_job *j);
/* Parameters as they were given, or as the method has them: of all, of one. */
void merge_set_blend(const struct merge_job *j, struct pq_blend *w);
void merge_set_input(const struct merge_job *j, const struct pq_method *m,
                     const struct merge_input *from, struct pq_blend_input *in);

/* Models as a recipe says; see merge_recipe.h. */
PQ_MUST_USE int merge_recipe(struct merge_job *j, struct pq_error *e);

/*
 * A tensor of the output that is a blend of the models' tensors, and what
 * becomes of a list of them (in the order of the output): declared in j->out,
 * which the caller has given its metadata and files, as the type of the first
 * input or as -t says, and steps added.  The targets are borrowed until the
 * plan has run.
 */
struct merge_target {
    const char *name;
    struct pq_blend blend;
    /* What it is stored as, if it is not as the first input: that, encoded. */
    const struct pq_tensor *like;
    struct pq_source *like_source; /* whose that is */
};

PQ_MUST_USE int merge_add_blends(struct merge_job *j,
                                 const struct merge_target *targets /* [n] */,
                                 size_t n, struct pq_error *e);

/* What a tensor is stored as. */
struct pq_spec merge_spec_of(const struct pq_tensor *t);
bool merge_same_spec(const struct pq_spec *a, const struct pq_spec *b);
/* Does -t speak of this tensor?  The rules are those of pq-quantize. */
bool merge_converts(const struct merge_options *o, const struct pq_tensor *t,
                    const char *name);
/* Makes dtype and quantization_config of the output true again. */
PQ_MUST_USE int merge_set_types(struct merge_job *j, struct pq_error *e);
/* A cast of floating numbers, not an encoding. */
bool merge_is_wide(const struct pq_spec *s);

#endif
