/*
 * PEFT adapters: what a directory with adapter_config.json holds.
 *
 * The reader stands above a source: it sorts the tensors by the modules they
 * belong to, gives each module its scale, and refuses by name what changes
 * the maths in ways that cannot be merged.  Placing joins that with the
 * catalogue of a base model and yields edits (pq_surgery.h).
 *
 * Names are those of the base model: "base_model.model.", "_orig_mod.",
 * "_fsdp_wrapped_module.", ".default" and ".base_layer" are taken off.
 *
 * Parameters.  A LoRA on a parameter that is no layer (target_parameters, the
 * experts of a mixture: [experts][out][in] or [experts][in][out]) is saved
 * under the name of its module; of several in one module each but the last
 * has a ".base_layer" more.  Which is which, shapes tell.  For expert e of E,
 * k < r and D_e = B_e A_e [out][in]:
 *
 *     A [E * r][in]     A_e[k][i] = A[e * r + k][i]
 *     B [out][r * E]    B_e[o][k] = B[o][k * E + e]
 *
 * Parts of the base.  PiSSA and OLoRA begin with a part of the base in the
 * adapter and go on with the rest, so that what they mean is
 *
 *     W' = (W - P) + s B A        P = the rank r truncation of W, or
 *                                 s Q Q^T W, Q that of QR of W, r columns
 *
 * Placing lists the parts; the caller finds them and fills in the edits.
 */
#ifndef PQ_PEFT_H
#define PQ_PEFT_H

#include "pq_ranks.h"
#include "pq_surgery.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A parameter that a module may be about. */
struct pq_peft_parameter {
    const char *name; /* "model.layers.0.mlp.experts.down_proj" */
    double rank, scale;
};

/* How the factors were before training, and what that did to the base. */
enum pq_peft_init {
    PQ_INIT_PLAIN, /* nothing */
    PQ_INIT_PISSA,
    PQ_INIT_PISSA_NITER, /* about as PiSSA, with random numbers */
    PQ_INIT_OLORA,
    PQ_INIT_LOST /* what cannot be found again without the training data */
};

/* A module with a low-rank product. */
struct pq_peft_module {
    const char *name; /* "model.layers.0.self_attn.q_proj" */
    const struct pq_tensor *a, *b, *magnitude, *bias; /* last two: or NULL */
    bool embedding;
    double rank, scale; /* scale: alpha / r, or alpha / sqrt(r) */
    const struct pq_peft_parameter *parameters; /* may be about one of them */
    size_t n_parameters;
};

/* A tensor that takes the place of one of the base, whole or some rows. */
struct pq_peft_value {
    const char *name; /* "model.norm.weight"; with rows, the module's */
    const struct pq_tensor *tensor;
    const uint64_t *rows; /* [tensor->shape[0]], or NULL: all of it */
    bool may_add; /* a head of the task, or named in modules_to_save */
};

/* What users of an adapter must know how to deal with. */
enum { PQ_PEFT_PARAMETERS = 1, PQ_PEFT_CHANGED_BASE = 2 };

struct pq_peft {
    unsigned accept; /* of these; what is not is refused by name */
    struct pq_arena arena;
    struct pq_source *source; /* borrowed */
    struct pq_peft_module *modules;
    size_t n_modules, cap_modules;
    struct pq_peft_value *values;
    size_t n_values, cap_values;
    bool fan_in_fan_out;
    bool rslora;
    bool keep_tied;  /* a tied head follows the table of embeddings */
    bool sides_swapped; /* experts by peft < 0.19: the other way round */
    enum pq_peft_init init;
    const char *init_name; /* as the config has it, or NULL */
};

/* By what it holds: LoRA tensors, or a config of an adapter and no other. */
bool pq_peft_is_adapter(const struct pq_catalog *c);

/*
 * Reads the adapter that `source` (random access) holds into *p, which the
 * caller zeroed but for `accept`, and releases, also on failure.  `source` is
 * borrowed.
 */
PQ_MUST_USE int pq_peft_read(struct pq_peft *p, struct pq_source *source,
                             struct pq_error *e);
void pq_peft_release(struct pq_peft *p);

/* An edit of tensor `target` of the base, or of one that is added to it. */
struct pq_peft_edit {
    size_t target;
    struct pq_edit edit;
    size_t part; /* the number of the part whose factors it needs, or ... */
};
#define PQ_PEFT_NO_PART SIZE_MAX

/*
 * A part of a tensor of the base: its rank r truncation, or with `leading`
 * Q Q^T W, Q a basis of the first r columns of W as it is stored.  Until it is
 * found a and b have shapes but no bytes.
 */
struct pq_peft_part {
    size_t target;
    uint64_t rank;
    bool leading;
    bool turned; /* the truncation is of W^T: a [rank][in], b [out][rank] */
    const struct pq_tensor *a, *b;
};

/* A tensor that the base lacks. */
struct pq_peft_added {
    const char *name;
    size_t like; /* starts as this tensor of the base, or SIZE_MAX */
    struct pq_source *source; /* else as this one of an adapter */
    const struct pq_tensor *tensor;
};

/* Where everything goes, of all adapters; set all before `head`. */
struct pq_peft_places {
    const struct pq_catalog *base; /* borrowed */
    bool has_conv1d;               /* the base may have GPT-2's layers */
    bool has_config;               /* its config.json says so */
    bool tied;                     /* its head is its embedding table */
    bool experts_in_out;           /* its experts are [in][out] */
    bool residual; /* the base is what is left after PiSSA and the like */
    /* pq_made, two tensors a module, for experts in the order of products */
    struct pq_source *made; /* borrowed; NULL: no adapter has any */
    size_t head, table;            /* their numbers, or SIZE_MAX */
    struct pq_names names;         /* of the base's and added tensors */
    struct pq_arena arena;
    struct pq_peft_edit *edits; /* in the order of the adapters */
    size_t n_edits, cap_edits;
    struct pq_peft_added *added; /* numbered from base->n_tensors on */
    size_t n_added, cap_added;
    struct pq_peft_part *parts;
    size_t n_parts, cap_parts;
    double left; /* of those found, the largest error that is left, about */
    const char *left_name; /* and the tensor it is of; borrowed */
    bool untied;  /* the head has become a tensor of its own */
    bool follows; /* the adapter at hand changes table and head together */
};

PQ_MUST_USE int pq_peft_places_init(struct pq_peft_places *w,
                                    struct pq_error *e);
/*
 * Finds the places of an adapter and appends its edits with that weight.
 * What finds no place fails with its name, as does what does not fit.
 * `turned` of an edit is that of the base as it is stored.
 */
PQ_MUST_USE int pq_peft_place(struct pq_peft_places *w,
                              const struct pq_peft *p, double weight,
                              struct pq_error *e);
/*
 * Appends to a plan of its own the steps that find the parts in `plain`, the
 * base with its tensors decoded, put their factors into `made`, two tensors a
 * part, and fill them in.
 */
PQ_MUST_USE int pq_peft_find_parts(struct pq_plan *plan,
                                   struct pq_peft_places *w,
                                   struct pq_source *plain,
                                   struct pq_source *made,
                                   const struct pq_kernels *kernels,
                                   struct pq_error *e);
/* Part i is b a, two tensors of `source`: all edits that need it have them. */
void pq_peft_fill(struct pq_peft_places *w, size_t i, struct pq_source *source,
                  const struct pq_tensor *a, const struct pq_tensor *b);
void pq_peft_places_release(struct pq_peft_places *w);

/* A module of an adapter that is made of factors. */
struct pq_peft_out {
    const char *name; /* as in struct pq_peft_module */
    bool embedding;
    const uint64_t *in; /* [n_in] of A behind the rank: in; kernel of a conv */
    int n_in;
    const struct pq_ranked *factor; /* rows are outputs, its rank is chosen */
    const struct pq_piece *bias;    /* [n_bias], whose sum lora_B.bias is */
    size_t n_bias;
    void *user; /* of the steps */
};

/*
 * Declares the tensors of an adapter in `out`, appends the steps that fill
 * them, and makes its config say what they are, each of scale 1.  The config
 * is the one that `out` has been given, with all that is not about this left
 * as it is, or a new one.  `made` holds the factors.  The modules are
 * borrowed.  The tensors of `out` do not move while at most `more` are added.
 */
PQ_MUST_USE int pq_peft_write(struct pq_plan *plan, struct pq_catalog *out,
                              const struct pq_peft_out *modules /* [n] */,
                              size_t n, size_t more, struct pq_source *made,
                              enum pq_dtype dtype, const struct pq_quant *q,
                              struct pq_error *e);
/* The same of one module, but for the config; `out` has room for its tensors. */
PQ_MUST_USE int pq_peft_write_module(struct pq_plan *plan,
                                     struct pq_catalog *out,
                                     const struct pq_peft_out *m,
                                     struct pq_source *made,
                                     enum pq_dtype dtype,
                                     const struct pq_quant *q,
                                     struct pq_error *e);

/* What several adapters do to one module: sum of w s B A. */
struct pq_peft_joint {
    const struct pq_peft_module *like; /* the first of them: names, shapes */
    size_t n;
    size_t *adapter;     /* [n] whose they are */
    double *scale;       /* [n] s */
    struct pq_piece *a;  /* [n] its scale is w s */
    struct pq_piece *b;  /* [n] its scale is 1 */
    struct pq_piece *bias; /* [n_bias] its scale is w s */
    size_t n_bias;
    uint64_t rank; /* the sum of theirs */
};

/* The modules of several adapters; zero-initialise. */
struct pq_peft_union {
    struct pq_arena arena;
    const struct pq_peft *const *adapters; /* [n_adapters], borrowed */
    const double *weights;                 /* [n_adapters], borrowed */
    size_t n_adapters;
    bool have_base; /* what needs it is welcome: the caller sees to it */
    struct pq_peft_joint *modules; /* [n] */
    size_t n, cap;
};

/*
 * Joins adapters by the names of their modules; set the members before
 * `modules` first.  DoRA, PiSSA and OLoRA fail by name, because they are no
 * sums without the base; experts always do.  Of more than one adapter, so do
 * saved modules, biases of the base and tokens; of one alone they are left to
 * the caller.
 */
PQ_MUST_USE int pq_peft_join(struct pq_peft_union *u, struct pq_error *e);
/*
 * Adds one product to a module, of an adapter alone: what its start took out
 * of the base.  There is room for one; scale[] and adapter[] do not know it.
 */
void pq_peft_join_part(struct pq_peft_joint *j, struct pq_source *source,
                       const struct pq_tensor *a, const struct pq_tensor *b,
                       double scale);
void pq_peft_union_release(struct pq_peft_union *u);

/*
 * The sum as one adapter, exactly:
 *
 *     A' = [c1 A1; c2 A2; ...]   B' = [B1, B2, ...]   c = weight * scale
 *
 * Declares its tensors in `out`, mends the config that it has been given, and
 * appends the steps that fill them.  Ranks may differ.  `more` as above.
 */
PQ_MUST_USE int pq_peft_sum(struct pq_plan *plan, struct pq_catalog *out,
                            const struct pq_peft_union *u, size_t more,
                            enum pq_dtype dtype, const struct pq_quant *q,
                            struct pq_error *e);
/*
 * The average of the factors, A' = sum w A and B' = sum w B, which is not
 * that of the products.  All adapters must have the same modules, ranks and
 * scales, and the config stays that of the first.
 */
PQ_MUST_USE int pq_peft_average(struct pq_plan *plan, struct pq_catalog *out,
                                const struct pq_peft_union *u,
                                enum pq_dtype dtype, const struct pq_quant *q,
                                struct pq_error *e);

/* What the config of an adapter says that was trained. */
struct pq_peft_trained {
    const char *base; /* where PEFT finds the model, or NULL */
    uint64_t rank;
    double alpha;
    bool rslora, dora;
    bool conv1d;                /* the modules are GPT-2's */
    const char *const *targets; /* [n_targets] as in target_modules */
    size_t n_targets;
};

/*
 * The rows of a soft prompt, [tokens][hidden] plain floats of any type; NULL
 * where the source is none.  Without an adapter_config.json the tensor's name
 * is enough.
 */
const struct pq_tensor *pq_peft_prompt(const struct pq_source *s,
                                       struct pq_error *e);

/* Gives `out` the adapter_config.json of a LoRA, as PEFT writes it. */
PQ_MUST_USE int pq_peft_trained_config(struct pq_catalog *out,
                                       const struct pq_peft_trained *t,
                                       struct pq_error *e);
/*
 * The same of a soft prompt, whose one tensor is "prompt_embeddings"
 * [tokens][dim].
 */
PQ_MUST_USE int pq_peft_prompt_config(struct pq_catalog *out, const char *base,
                                      uint64_t tokens, uint64_t dim,
                                      uint64_t layers, uint64_t heads,
                                      struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
