/*
 * config.json of a model whose layers were taken from here and there.
 */
#ifndef CMD_LAYERS_H
#define CMD_LAYERS_H

#include "cmd.h"

/* Which layer of which model a layer of the output was. */
struct cmd_layer {
    const struct pq_source *source;
    uint64_t number;
};

/*
 * Makes config.json of the output, which is that of one of the models, true
 * of these layers: their number, lists with an entry a layer, and
 * max_window_layers.  Without a config: 0.  Fails where a key that is a list
 * of layers is not understood.
 */
PQ_MUST_USE int cmd_config_set_layers(struct pq_catalog *out,
                                      const struct cmd_layer *layers /* [n] */,
                                      size_t n, struct pq_error *e);
/*
 * How many layers the config speaks of; false when there is no config or no
 * such number in it.  A config that is not JSON fails with *e set.
 */
bool cmd_config_layers(const struct pq_catalog *c, uint64_t *n,
                       struct pq_error *e);

#endif
