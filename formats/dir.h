/*
 * A model directory: what its reader and its writer share.  Not public.
 *
 *     dir.c        the source, and which names belong in a directory
 *     dir_index.c  the index of shards, read strictly
 *     dir_write.c  the sink
 */
#ifndef PQ_FORMATS_DIR_H
#define PQ_FORMATS_DIR_H

#include "pq_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_DIR_MODEL      "model.safetensors"
#define PQ_DIR_INDEX      "model.safetensors.index.json"
#define PQ_DIR_ADAPTER    "adapter_model.safetensors"
#define PQ_DIR_MAX_SHARDS 100000u
#define PQ_DIR_MAX_INDEX  100000000u  /* bytes */
#define PQ_DIR_MAX_BLOB   (64u << 20) /* bytes of one carried file */

/* Where the index says a tensor is. */
struct pq_dir_entry {
    const char *tensor;
    size_t file;
};

struct pq_dir_index {
    struct pq_arena arena;
    const char **files; /* [n_files] shards, sorted */
    size_t n_files, cap_files;
    struct pq_dir_entry *map; /* [n_map] */
    size_t n_map, cap_map;
    bool counts_parameters; /* it has metadata.total_parameters */
};

/* Zero-initialise *x; release it also after a failure. */
PQ_MUST_USE int pq_dir_index_parse(struct pq_dir_index *x, const char *text,
                                   size_t n, struct pq_error *e);
void pq_dir_index_release(struct pq_dir_index *x);

/*
 * A name that a file may give another file in its directory: a plain base
 * name, no path, hidden file or option.
 */
bool pq_dir_plain_name(const char *name);

#ifdef __cplusplus
}
#endif
#endif
