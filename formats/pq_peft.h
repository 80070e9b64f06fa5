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
 */
#ifndef PQ_PEFT_H
#define PQ_PEFT_H

#include "pq_surgery.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A module with a low-rank product. */
struct pq_peft_module {
    const char *name; /* "model.layers.0.self_attn.q_proj" */
    const struct pq_tensor *a, *b, *magnitude, *bias; /* last two: or NULL */
    bool embedding;
    double scale; /* alpha / r, or alpha / sqrt(r) */
};

/* A tensor that takes the place of one of the base, whole or some rows. */
struct pq_peft_value {
    const char *name; /* "model.norm.weight"; with rows, the module's */
    const struct pq_tensor *tensor;
    const uint64_t *rows; /* [tensor->shape[0]], or NULL: all of it */
    bool may_add; /* a head of the task, or named in modules_to_save */
};

struct pq_peft {
    struct pq_arena arena;
    struct pq_source *source; /* borrowed */
    struct pq_peft_module *modules;
    size_t n_modules, cap_modules;
    struct pq_peft_value *values;
    size_t n_values, cap_values;
    bool fan_in_fan_out;
    bool rslora;
};

/* By what it holds: LoRA tensors, or a config of an adapter and no other. */
bool pq_peft_is_adapter(const struct pq_catalog *c);

/*
 * Reads the adapter that `source` (random access) holds into *p, which the
 * caller zeroed and releases, also on failure.  `source` is borrowed.
 */
PQ_MUST_USE int pq_peft_read(struct pq_peft *p, struct pq_source *source,
                             struct pq_error *e);
void pq_peft_release(struct pq_peft *p);

/* An edit of tensor `target` of the base, or of one that is added to it. */
struct pq_peft_edit {
    size_t target;
    struct pq_edit edit;
};

/* A tensor that the base lacks. */
struct pq_peft_added {
    const char *name;
    size_t like; /* starts as this tensor of the base, or SIZE_MAX */
    struct pq_source *source; /* else as this one of an adapter */
    const struct pq_tensor *tensor;
};

/* Where everything goes, of all adapters; set the first four. */
struct pq_peft_places {
    const struct pq_catalog *base; /* borrowed */
    bool has_conv1d;               /* the base may have GPT-2's layers */
    bool has_config;               /* its config.json says so */
    bool tied;                     /* its head is its embedding table */
    size_t head, table;            /* their numbers, or SIZE_MAX */
    struct pq_names names;         /* of the base's and added tensors */
    struct pq_arena arena;
    struct pq_peft_edit *edits; /* in the order of the adapters */
    size_t n_edits, cap_edits;
    struct pq_peft_added *added; /* numbered from base->n_tensors on */
    size_t n_added, cap_added;
    bool untied; /* the head has become a tensor of its own */
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
void pq_peft_places_release(struct pq_peft_places *w);

/*
 * The weighted sum of adapters as one adapter, exactly:
 *
 *     A' = [c1 A1; c2 A2; ...]   B' = [B1, B2, ...]   c = weight * scale
 *
 * Declares its tensors in the empty catalogue `out`, with the config of the
 * first adapter mended, and appends the steps that fill them.  Ranks may
 * differ.  What is no product (DoRA, saved modules, biases, tokens) cannot
 * be summed without the base and is refused by name.
 */
PQ_MUST_USE int pq_peft_sum(struct pq_plan *plan, struct pq_catalog *out,
                            const struct pq_peft *const *adapters /* [n] */,
                            const double *weights /* [n] */, size_t n,
                            enum pq_dtype dtype, const struct pq_quant *q,
                            struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
