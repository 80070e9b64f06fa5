/*
 * Choosing the next token: what is done to the logits that follow a text, and
 * the draw.
 *
 * The order is that of transformers: repetition, temperature, top-k, top-p,
 * min-p.  The same logits, options and number give the same token, on every
 * machine.
 */
#ifndef PQ_SAMPLE_H
#define PQ_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pq_sampling {
    double temperature; /* logits are divided by it; 0: the likeliest token */
    size_t top_k;       /* keep this many of the likeliest; 0: all */
    double top_p; /* keep the likeliest whose sum reaches it; 0 or 1: all */
    double min_p; /* keep those of at least this part of the best; 0: all */
    double repetition; /* > 1: less of what was there; 0 or 1: as it is */
};

/* Room to work in. */
struct pq_candidate {
    float logit;
    uint32_t id;
};

/*
 * Changes the logits as the options say; what is not to be drawn becomes
 * -INFINITY.  The best token always stays.  `seen` are the ids of the text so
 * far, below `vocab`; a token that is in it several times counts once.  Tokens
 * of the same logit as the k-th best stay with it; where top_p has to choose
 * among equals, the lower id stays.  Without a temperature only the
 * repetition counts.  Time grows as vocab log vocab.
 */
void pq_sample_filter(const struct pq_sampling *s, const int32_t *seen,
                      size_t n_seen, float *logits /* [vocab] */, size_t vocab,
                      struct pq_candidate *room /* [vocab] */);

/* The token of the largest logit, the lowest id of equals; NaN is never it. */
int32_t pq_sample_best(const float *logits /* [vocab] */, size_t vocab);

/*
 * The token at u in [0, 1) when all lie side by side, in the order of ids,
 * each as wide as it is likely.
 */
int32_t pq_sample_draw(const float *logits /* [vocab] */, size_t vocab,
                       double u);

#ifdef __cplusplus
}
#endif
#endif
