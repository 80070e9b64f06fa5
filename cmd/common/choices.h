/*
 * Questions with choices: which one does the model find the likeliest?
 */
#ifndef CMD_CHOICES_H
#define CMD_CHOICES_H

#include "data.h"

struct cmd_choices {
    size_t questions;
    size_t right;      /* the answer has the largest log p */
    size_t right_norm; /* the same of log p for each byte of the choice */
};

/*
 * Counts, of examples whose -log p is known.  Of equals the first is taken.
 */
void cmd_choices_count(const struct cmd_data *d, const double *nll /* [d->n] */,
                       struct cmd_choices *c);

#endif
