/*
 * What a pq_train (pq_train.h) is made of.
 */
#ifndef NN_TRAIN_INTERNAL_H
#define NN_TRAIN_INTERNAL_H

#include "adamw.h"
#include "adapters.h"
#include "round.h"
#include "sparse.h"
#include "tape.h"

struct pq_train {
    struct pq_train_options o;
    struct nn_model m;
    struct nn_pool *pool;
    struct pq_arena arena;
    struct nn_slot *slots; /* [n_slots] */
    size_t n_slots;
    struct nn_params params;
    struct nn_adapters adapters;
    struct nn_adamw adamw;
    struct nn_sparse sparse;
    struct nn_round round;
    size_t lowest; /* layer with something to train */
    size_t prompt_rows; /* that stand before texts, the first of them all */

    /* for batches, as large as the largest so far */
    struct nn_tape tape;
    int32_t *ids, *labels; /* [tape.plan.rows] */
    size_t *positions;     /* [tape.plan.rows] */
    struct nn_sequence *s; /* [n_s] */
    size_t n_s;
    uint64_t rows_of_step; /* that this step has had: see noise */
    char noise_name[48];
};

struct nn_tape_plan nn_train_plan(const struct pq_train *t, size_t rows,
                                  size_t longest);

#endif
