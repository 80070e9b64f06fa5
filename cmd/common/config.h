/*
 * config.json of a model: what tools ask it and how they edit it.
 *
 * Reading goes through cJSON after the strict check of pq_json.h; editing
 * changes the keys concerned and leaves all other text as it was.
 */
#ifndef CMD_CONFIG_H
#define CMD_CONFIG_H

#include "cmd.h"
#include "pq_peft.h"

struct cJSON;

/*
 * config.json, for cJSON_Delete(); NULL: there is none, or it is no object
 * and *e says so.
 */
struct cJSON *cmd_config_parse(const struct pq_catalog *c, struct pq_error *e);
/*
 * Copies the string under a top-level key of config.json into `value`
 * (room for n bytes); false when there is no config, no key, no string.
 * A config that is not JSON fails with *e set.
 */
bool cmd_config_string(const struct pq_catalog *c, const char *key,
                       char *value, size_t n, struct pq_error *e);
/* Does a top-level key say true? */
bool cmd_config_true(const struct pq_catalog *c, const char *key,
                     struct pq_error *e);
/* Is there a top-level key?  A config that is not JSON fails with *e set. */
bool cmd_config_has(const struct pq_catalog *c, const char *key,
                    struct pq_error *e);
/* The same for a number that is a whole one, 0 to 2^53. */
bool cmd_config_number(const struct pq_catalog *c, const char *key,
                       uint64_t *value, struct pq_error *e);
/* Sets a top-level key to JSON text (NULL removes it); without a config: 0. */
PQ_MUST_USE int cmd_config_set(struct pq_catalog *c, const char *key,
                               const char *json, struct pq_error *e);
/* The same with a whole number. */
PQ_MUST_USE int cmd_config_set_number(struct pq_catalog *c, const char *key,
                                      uint64_t value, struct pq_error *e);
/* Sets "dtype" and "torch_dtype" where they are there; adds "dtype" if not. */
PQ_MUST_USE int cmd_config_set_dtype(struct pq_catalog *c, enum pq_dtype t,
                                     struct pq_error *e);
/*
 * Sets quantization_config to what the tensors of the catalogue are, as
 * transformers reads it; removes it where none is encoded so.  *first is the
 * first encoded tensor, or NULL; *mixed: there are several encodings, of
 * which there is room for one.
 */
PQ_MUST_USE int cmd_config_set_bnb(struct pq_catalog *c,
                                   const struct pq_tensor **first,
                                   bool *mixed, struct pq_error *e);
/* Is the head tied to the embeddings?  1 it says so, 2 it may be, 0 no. */
int cmd_config_tied(const struct pq_catalog *c, struct pq_error *e);
/* Does its architecture write text, that is, has it a head for tokens? */
bool cmd_config_writes_text(const struct pq_catalog *c, struct pq_error *e);
/* Fails when the model is quantized in a way that is not bitsandbytes'. */
PQ_MUST_USE int cmd_config_refuse_foreign(const struct pq_source *s,
                                          struct pq_error *e);
/* Do its layers include GPT-2's Conv1D?  Without a config: all may. */
bool cmd_config_has_conv1d(const struct pq_catalog *c, struct pq_error *e);

/*
 * Begins the placing of adapters in a base: fills in what its config says
 * about it; pq_peft_place() may follow.
 */
PQ_MUST_USE int cmd_config_places(struct pq_peft_places *w,
                                  const struct pq_source *base,
                                  struct pq_error *e);
/* How well what PiSSA and OLoRA took out of a base was found. */
void cmd_tell_parts(const struct cmd *c, const struct pq_peft_places *w);
/* The warning about an adapter of which that cannot be exact. */
void cmd_tell_start(const struct cmd *c, const struct pq_peft *p);

#endif
