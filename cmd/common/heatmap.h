/*
 * A picture of one figure over the layers and matrices of a model.
 */
#ifndef CMD_HEATMAP_H
#define CMD_HEATMAP_H

#include "cmd.h"

struct cmd_heat {
    const char *tensor; /* its name says layer and matrix */
    double value;       /* >= 0; infinite is drawn as the most */
};

/*
 * Writes an SVG to `path` (NULL or "-": standard output): a column a layer, a
 * row a matrix; tensors outside of layers have a column of their own.  The
 * scale goes from 0 to `most`; if that is 0, to the largest value.
 */
PQ_MUST_USE int cmd_heatmap(const struct cmd *c, const char *path,
                            const char *title, const struct cmd_heat *cells,
                            size_t n, double most, struct pq_error *e);

#endif
