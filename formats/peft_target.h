/*
 * Tensors of the base by their names, and edits of them; of formats/peft*.c.
 */
#ifndef PEFT_TARGET_H
#define PEFT_TARGET_H

#include "pq_peft.h"

#define PEFT_MAX_NAME 1024

/* The number of a tensor of the base by any of its names, or SIZE_MAX. */
size_t peft_find(const struct pq_peft_places *w, const char *name);
/* The same, which makes the head that has no tensor; see e for SIZE_MAX. */
size_t peft_find_or_untie(struct pq_peft_places *w, const char *name,
                          struct pq_error *e);
/*
 * Appends a tensor that the base lacks: t of `source`, or with NULL what
 * starts as tensor `like`.  Returns its number, or SIZE_MAX.
 */
size_t peft_add_target(struct pq_peft_places *w, const char *name, size_t like,
                       struct pq_source *source, const struct pq_tensor *t,
                       struct pq_error *e);
/* The tensor that target `target` starts as. */
const struct pq_tensor *peft_start(const struct pq_peft_places *w,
                                   size_t target);
/* Appends an edit that fits, or fails. */
PQ_MUST_USE int peft_add_edit(struct pq_peft_places *w, size_t target,
                              const struct pq_edit *d, struct pq_error *e);

#endif
