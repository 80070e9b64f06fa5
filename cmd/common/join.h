/*
 * Two models, joined by the names of their tensors.
 */
#ifndef CMD_JOIN_H
#define CMD_JOIN_H

#include "cmd.h"

/*
 * to_a[i] becomes the number in `a` [n_a] of what b[i] is, or SIZE_MAX: that
 * of the same name, or else one that differs by the prefix of the trunk only
 * (pq_name_bare).  None of `a` is given twice; names in a list are distinct.
 */
PQ_MUST_USE int cmd_join(const char *const *a, size_t n_a,
                         const char *const *b, size_t n_b,
                         size_t *to_a /* [n_b] */, struct pq_error *e);

#endif
