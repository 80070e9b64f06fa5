/*
 * What the matrices of a model get as inputs, as files for other tools:
 * pq-eval --norms-out, --hessian-out and --imatrix-out.
 *
 *     cmd_inputs_open()
 *     do { cmd_inputs_watch(); run all texts; cmd_inputs_take(); }
 *     while (cmd_inputs_more());
 *     cmd_inputs_write()
 *
 * Squares take one run over the texts.  Products are large: each run takes
 * those of as many matrices as --memory has room for, the results wait in
 * TMPDIR.  All runs are alike, so the bytes do not depend on how many there
 * are.
 */
#ifndef CMD_INPUTS_H
#define CMD_INPUTS_H

#include "cmd.h"
#include "pq_nn.h"

struct cmd_inputs {
    const char *norms, *hessian, *imatrix; /* files, or NULL */
    /* the rest is cmd_inputs_*()'s own */
    struct cmd *c;
    struct pq_nn *nn;
    struct pq_source *means[2]; /* of norms and hessian, as they come */
    struct pq_buf matrix;       /* the file --imatrix-out */
    size_t next;                /* the place that products are taken of next */
    size_t places;
    uint64_t room;              /* bytes for products of a run */
    uint64_t squares, products; /* bytes of all of them */
    unsigned runs;              /* that all products take */
    bool took;                  /* a run is done */
};

/* Is there anything to write? */
bool cmd_inputs_wanted(const struct cmd_inputs *x);
/* Bytes that the sums take, in all runs together; 0: none are wanted. */
uint64_t cmd_inputs_squares(const struct cmd_inputs *x);
uint64_t cmd_inputs_products(const struct cmd_inputs *x);
/* A usage error in the names of the files, or CMD_OK. */
int cmd_inputs_check(const struct cmd *c, const struct cmd_inputs *x);

/*
 * Finds out what it will take; the memory for that is no longer in
 * c->memory.  Fails where there is too little for one matrix, saying how much
 * that needs.  What is not wanted takes nothing.
 */
PQ_MUST_USE int cmd_inputs_open(struct cmd_inputs *x, struct cmd *c,
                                struct pq_nn *nn, struct pq_error *e);
/* Begins a run over the texts. */
PQ_MUST_USE int cmd_inputs_watch(struct cmd_inputs *x, struct pq_error *e);
/*
 * Ends it.  `dataset` is the name of the texts, `chunk` the tokens that the
 * old form of importance matrices counts in.
 */
PQ_MUST_USE int cmd_inputs_take(struct cmd_inputs *x, const char *dataset,
                                size_t chunk, struct pq_error *e);
bool cmd_inputs_more(const struct cmd_inputs *x);
PQ_MUST_USE int cmd_inputs_write(struct cmd_inputs *x, struct pq_error *e);
void cmd_inputs_release(struct cmd_inputs *x);

#endif
