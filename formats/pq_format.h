/*
 * The registry of file formats.
 *
 * One format, one pair of files, one row in formats.c.  No format knows
 * another.  The input format is found by content, the output format by the
 * suffix of the output or by name.
 */
#ifndef PQ_FORMAT_H
#define PQ_FORMAT_H

#include "pq_file.h"
#include "pq_kernels.h"
#include "pq_sink.h"
#include "pq_source.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pq_write_options {
    bool canonical;  /* order of the format's reference library */
    int level;       /* of compression, 0 = none; formats without refuse */
    bool sync;       /* fsync before the name appears */
    unsigned threads; /* for compression */
    uint64_t memory;  /* for its buffers; 0: no bound */
    const struct pq_kernels *kernels; /* NULL: the fastest */
    const volatile int *cancel;
    const char *program; /* who says so, when a pipe is told of a failure */
};

struct pq_format {
    const char *name;               /* "safetensors" */
    const char *const *suffixes;    /* NULL-terminated, with the dot */
    bool can_write;
    /* Looks at the first n bytes (up to PQ_PEEK): is it ours? */
    bool (*sniff)(const unsigned char *p, size_t n);
    /*
     * Reads the catalogue.  Takes over *in (closes it, also on failure).
     * Parts and tensors are one to one except where the format itself stores
     * tensors in parts (.pq).
     */
    int (*open)(struct pq_in *in, struct pq_source **s, struct pq_error *e);
    /*
     * Makes a sink for one file and fixes layout and size; opens nothing yet.
     * `path` NULL is standard output; `dirfd` >= 0: a new file in there.
     */
    int (*create)(struct pq_catalog *c, const char *path, int dirfd,
                  const struct pq_write_options *w, struct pq_sink **k,
                  struct pq_error *e);
};

extern const struct pq_format pq_format_safetensors, pq_format_pqstream;

/* The formats, NULL-terminated. */
const struct pq_format *const *pq_formats(void);
const struct pq_format *pq_format_named(const char *name);
/* By the suffix of a path, or NULL. */
const struct pq_format *pq_format_for_path(const char *path);
/*
 * Finds the format by content and opens it.  Takes over *in (closes it, also
 * on failure); failures name it.
 */
PQ_MUST_USE int pq_format_open(struct pq_in *in, struct pq_source **s,
                               struct pq_error *e);

/*
 * Opens a model whatever it is: a file, "-", or a directory (formats/dir.c).
 */
PQ_MUST_USE int pq_open_model(const char *path, const volatile int *cancel,
                              struct pq_source **s, struct pq_error *e);

/* formats/dir.c: a model directory, its files opened through the registry. */
PQ_MUST_USE int pq_dir_open(const char *path, const volatile int *cancel,
                            struct pq_source **s, struct pq_error *e);
/* The same without a tensor: only what stands beside the weights, if any. */
PQ_MUST_USE int pq_dir_open_bare(const char *path, const volatile int *cancel,
                                 struct pq_source **s, struct pq_error *e);
PQ_MUST_USE int pq_dir_create(struct pq_catalog *c, const char *path,
                              const struct pq_write_options *w,
                              struct pq_sink **k, struct pq_error *e);
/* A file that may stand in a model or adapter directory (by base name). */
bool pq_dir_knows(const char *name);
/* A file that is carried along as it is (config, tokenizer, licence). */
bool pq_dir_carries(const char *name);

#ifdef __cplusplus
}
#endif
#endif
