/*
 * Models of nn.h in training, each with two texts: that of the case and
 * another of nine tokens.  For the tests of lib/nn's trainer.
 */
#ifndef TESTS_TRAINEE_H
#define TESTS_TRAINEE_H

#include "nn.h"
#include "pq_train.h"

struct trainee {
    const struct nn_case *c;
    int32_t more[9];
    struct pq_train_text texts[2];
    struct pq_train *t;
    uint64_t labels; /* of both texts */
};

/* Two threads, rank 4, alpha 8, weight decay 0.1, seed 1. */
struct pq_train_options trainee_options(unsigned what);
void trainee_open(struct trainee *s, const char *name,
                  const struct pq_train_options *o);
/* The mean loss of both texts; adds its gradient. */
double trainee_gradient(struct trainee *s);
void trainee_step(struct trainee *s, double lr);
/* A parameter by name, and how many numbers it has. */
struct pq_train_param trainee_named(struct trainee *s, const char *name);
size_t trainee_numbers(const struct pq_train_param *p);

#endif
