/*
 * Naming schemes: what the name of a tensor says about it.
 *
 * Pure string functions; they know Hugging Face names of the common
 * families and look at nothing but the strings they get.
 */
#ifndef PQ_NAMES_H
#define PQ_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ends in ".weight" (or is "weight"). */
bool pq_name_is_weight(const char *name);
/* An embedding table: of tokens, positions, types, relative distances. */
bool pq_name_is_embedding(const char *name);
/* The output head over the vocabulary: lm_head, embed_out, output. */
bool pq_name_is_head(const char *name);
/* A normalisation layer's weight, whatever its rank. */
bool pq_name_is_norm(const char *name);
/* The weight of a layer that is none of these (if it has two dimensions). */
bool pq_name_is_linear(const char *name);
/* GPT-2's Conv1D, stored [in, out]: c_attn, c_proj, c_fc, q_attn in h.N. */
bool pq_name_is_conv1d(const char *name);
/* Is Conv1D what this model_type of a config calls those layers? */
bool pq_model_has_conv1d(const char *model_type);
/*
 * The name behind the prefix that a model with a head puts before those of
 * its trunk, "transformer." or "model."; the name itself without one.
 */
const char *pq_name_bare(const char *name);
/*
 * The number of the layer, the first component that is one ("h.11.attn": 11),
 * or -1; *end is behind it: "attn".
 */
long pq_name_layer(const char *name, const char **end);
/* Length of what stands before that number, with the dot; 0 without one. */
size_t pq_name_trunk(const char *name);
/*
 * The same name with another number of the layer, into s (room for n); false
 * when it has none, or no room.
 */
bool pq_name_set_layer(const char *name, unsigned long layer, char *s,
                       size_t n);
/*
 * What old checkpoints store although the model computes it: masks, rotary
 * frequencies, position numbers.
 */
bool pq_name_is_buffer(const char *name);
/* Of no layer, and used before them: embeddings and what is done to them. */
bool pq_name_is_before_layers(const char *name);
/* Length of the module's name: of "a.b.weight" that of "a.b". */
size_t pq_name_module(const char *name);

/*
 * What a tensor is in the block of a transformer, of those that have heads
 * or the channels of the MLP for rows or columns.  *bias: it is the bias.
 * The projection into an MLP without a gate is PQ_BLOCK_UP.
 */
enum pq_block_role {
    PQ_BLOCK_QUERY, PQ_BLOCK_KEY, PQ_BLOCK_VALUE, PQ_BLOCK_OUT,
    PQ_BLOCK_GATE, PQ_BLOCK_UP, PQ_BLOCK_DOWN, PQ_BLOCK_OTHER
};
enum pq_block_role pq_name_block_role(const char *name, bool *bias);

/*
 * What GGUF calls the weight of a linear layer of a block, into s (room for
 * n): "blk.3.attn_q.weight"; false where it has no name, or there is no room.
 */
bool pq_name_gguf(const char *name, char *s, size_t n);

/* The table of input tokens: embed_tokens, wte, word_embeddings, ... */
bool pq_name_is_token_table(const char *name);
/*
 * Other names for the same tensor, since checkpoints of one model differ in
 * whether the trunk's name is there ("transformer.h.0", "h.0").  Writes the
 * i-th of them into s (room for n), "" if there is none by that rule; false
 * when there are no more rules.
 */
bool pq_name_variant(const char *name, unsigned i, char *s, size_t n);

/*
 * Experts: a parameter that holds one projection of all experts of a layer
 * ("mlp.experts.gate_up_proj"), and the tensors of a checkpoint that has each
 * expert apart.  Writes what the scheme-th naming scheme calls piece `piece`
 * (0, then 1 for what was put behind it) of the parameter for that expert
 * ("mlp.experts.7.up_proj.weight"), "" if it has none or it is too long;
 * false when there are no more schemes.
 */
bool pq_name_expert(const char *parameter, unsigned scheme, unsigned piece,
                    unsigned long long expert, char *s, size_t n);
/* Does this model_type store the experts of a layer as [in, out]? */
bool pq_model_has_turned_experts(const char *model_type);

#ifdef __cplusplus
}
#endif
#endif
