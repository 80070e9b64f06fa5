/*
 * Which choices are right; see choices.h.
 */
#include "choices.h"

void cmd_choices_count(const struct cmd_data *d, const double *nll,
                       struct cmd_choices *c)
{
    size_t n;

    *c = (struct cmd_choices){0};
    for (size_t i = 0; i < d->n; i += n) {
        const struct cmd_example *x = &d->items[i];
        size_t best = 0, best_norm = 0;
        n = x->n_choices ? x->n_choices : 1;
        for (size_t k = 1; k < n; k++) {
            if (nll[i + k] < nll[i + best])
                best = k;
            if (nll[i + k] / (double)x[k].bytes <
                nll[i + best_norm] / (double)x[best_norm].bytes)
                best_norm = k;
        }
        if (x->n_choices == 0)
            continue;
        c->questions++;
        c->right += best == x->answer;
        c->right_norm += best_norm == x->answer;
    }
}
