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

/* A square matrix: how like each other n things are. */
struct cmd_square {
    const char *what;     /* stands before the numbers of the columns */
    const char **labels;  /* [n] of the rows */
    const double *values; /* [n][n] */
    size_t n;
    double least, most; /* the ends of the scale, least < most */
};

/* The same of such a matrix: a row and a column each. */
PQ_MUST_USE int cmd_heatmap_square(const struct cmd *c, const char *path,
                                   const char *title,
                                   const struct cmd_square *x,
                                   struct pq_error *e);

/* What they do with their SVG, which is whole or not there. */
PQ_MUST_USE int cmd_write_picture(const struct cmd *c, const char *path,
                                  const struct pq_buf *svg,
                                  struct pq_error *e);

#endif
