/*
 * Tensors, parts and catalogues.
 *
 * A *part* is what a file stores under one name: dtype, shape, bytes.  A
 * *tensor* is what a model has: a logical dtype and shape, an encoding, and
 * the parts that hold it.  A plain tensor has one part of its own dtype; an
 * NF4 tensor in safetensors has four or more (codes, absmax, quant_map,
 * quant_state), in .pq the same parts lie end to end in one body.
 *
 * A *catalogue* is everything a model has, known before any body is read:
 * the tensors, the string metadata, and the files that travel with it
 * (config.json, tokenizer.json, ...).  It owns all that it points to, in an
 * arena; what it holds never moves while it lives, but for the tensors array
 * itself, which may grow until the catalogue is handed to an engine.
 */
#ifndef PQ_TENSOR_H
#define PQ_TENSOR_H

#include "pq_dtype.h"
#include "pq_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the numbers of a tensor are stored. */
enum pq_encoding {
    PQ_PLAIN,      /* one part of the logical dtype */
    PQ_NF4,        /* bitsandbytes 4-bit NormalFloat, blockwise absmax */
    PQ_FP4,        /* bitsandbytes 4-bit float, blockwise absmax */
    PQ_INT8,       /* LLM.int8(): one scale a row */
    PQ_INT8_BLOCK, /* dynamic 8-bit map, blockwise absmax */
    PQ_N_ENCODINGS
};

/* What a part is for. */
enum pq_role {
    PQ_ROLE_DATA,             /* the elements, or the codes */
    PQ_ROLE_ABSMAX,           /* F32 [blocks], or U8 [blocks] when nested */
    PQ_ROLE_QUANT_STATE,      /* U8, JSON text */
    PQ_ROLE_QUANT_MAP,        /* F32 [16 or 256], the code table */
    PQ_ROLE_NESTED_ABSMAX,    /* F32 [ceil(blocks / 256)] */
    PQ_ROLE_NESTED_QUANT_MAP, /* F32 [256] */
    PQ_ROLE_SCB,              /* F32 [rows], LLM.int8 row absmax */
    PQ_ROLE_WEIGHT_FORMAT     /* U8 [], always 0 = row major */
};

struct pq_part {
    const char *name;
    enum pq_dtype dtype;
    enum pq_role role;
    int rank;
    const uint64_t *shape; /* [rank] */
    uint64_t bytes;
    uint64_t offset;      /* first byte, in the address space of its source */
    const void *constant; /* its bytes when known beforehand, else NULL */
    uint32_t file;        /* number of the shard it came from, from 0 */
};

/* The parameters of an encoding; zero where they do not apply. */
struct pq_codec {
    enum pq_encoding encoding;
    uint32_t block;        /* elements that share an absmax */
    uint32_t nested_block; /* absmax values that share a nested absmax, or 0 */
};

struct pq_tensor {
    const char *name;
    enum pq_dtype dtype; /* logical: of the decoded numbers */
    int rank;
    const uint64_t *shape; /* [rank] */
    uint64_t n_elements;
    struct pq_codec codec;
    struct pq_part *parts; /* [n_parts], codes or data first */
    size_t n_parts;
};

struct pq_pair {
    const char *key, *value;
};

/* A file that travels with the model, whole. */
struct pq_blob {
    const char *name; /* a base name, never a path */
    const void *data; /* [bytes] */
    uint64_t bytes;
};

/*
 * A record of a .pq stream that pq does not know and need not know (its type
 * begins in lower case); carried through unchanged.
 */
struct pq_extra {
    char type[4];
    const void *head; /* [head_bytes] */
    const void *body; /* [body_bytes] */
    uint64_t head_bytes, body_bytes;
};

/*
 * A table from names to numbers, for catalogues of 100,000 tensors.
 * The names are borrowed.
 */
struct pq_names {
    const char **keys; /* [cap], NULL = free */
    size_t *values;
    size_t n, cap;
};

struct pq_catalog {
    struct pq_arena arena;
    struct pq_tensor *tensors; /* [n_tensors], in the order of their data */
    size_t n_tensors, cap_tensors;
    struct pq_pair *metadata; /* [n_metadata], in file order */
    size_t n_metadata, cap_metadata;
    struct pq_names metadata_keys; /* private to pq_catalog_set() */
    struct pq_blob *blobs; /* [n_blobs] */
    size_t n_blobs, cap_blobs;
    const char **prov; /* [n_prov], one line of JSON a tool run, oldest first */
    size_t n_prov, cap_prov;
    struct pq_extra *extra; /* [n_extra], in file order */
    size_t n_extra, cap_extra;
    const char **files; /* [n_files] base names of the shards, or NULL */
    size_t n_files;
    bool directory; /* read from, or to be written as, a model directory */
    bool counts_parameters; /* the index of its shards has total_parameters */
};

void pq_catalog_init(struct pq_catalog *c);
void pq_catalog_release(struct pq_catalog *c);

/*
 * Appends a zeroed tensor with room for n_parts parts.  The name is copied.
 * Returns NULL when memory is short.
 */
struct pq_tensor *pq_catalog_add(struct pq_catalog *c, const char *name,
                                 size_t n_parts, struct pq_error *e);

/*
 * Appends a plain tensor of one part that begins at `offset`; or NULL, and
 * then there is none more.
 */
struct pq_tensor *pq_catalog_add_plain(struct pq_catalog *c, const char *name,
                                       enum pq_dtype dtype,
                                       const uint64_t *shape, int rank,
                                       uint64_t offset, struct pq_error *e);

/*
 * Room for n more tensors, which do not move as they are added: steps may
 * point at them.
 */
PQ_MUST_USE int pq_catalog_reserve(struct pq_catalog *c, size_t n,
                                   struct pq_error *e);

/* Copies a shape into the catalogue.  NULL when memory is short. */
PQ_MUST_USE const uint64_t *pq_catalog_shape(struct pq_catalog *c,
                                             const uint64_t *shape, int rank);

/* Copies in a metadata pair (replacing that key), a file, a line, a record. */
PQ_MUST_USE int pq_catalog_set(struct pq_catalog *c, const char *key,
                               const char *value, struct pq_error *e);
PQ_MUST_USE int pq_catalog_add_blob(struct pq_catalog *c, const char *name,
                                    const void *data, size_t bytes,
                                    struct pq_error *e);
PQ_MUST_USE int pq_catalog_add_prov(struct pq_catalog *c, const char *line,
                                    struct pq_error *e);
PQ_MUST_USE int pq_catalog_add_extra(struct pq_catalog *c,
                                     const struct pq_extra *x,
                                     struct pq_error *e);

/* The value of a metadata key, a file by its name, or NULL. */
const char *pq_catalog_get(const struct pq_catalog *c, const char *key);
struct pq_blob *pq_catalog_blob(const struct pq_catalog *c, const char *name);
/*
 * The tensor that an offset is in, of those of one part each in order: the
 * last one that begins there or before.
 */
size_t pq_catalog_tensor_at(const struct pq_catalog *c, uint64_t offset);

/* Copies everything but the tensors from `from` into the empty catalogue c. */
PQ_MUST_USE int pq_catalog_copy_meta(struct pq_catalog *c,
                                     const struct pq_catalog *from,
                                     struct pq_error *e);

/* Sum of the bytes of all parts.  Sizes were checked when parts were made. */
uint64_t pq_catalog_bytes(const struct pq_catalog *c);

/*
 * Elements of a shape and bytes of that many elements of a dtype, checked as
 * the reference safetensors reader does: every product must fit, also when a
 * later dimension is 0, and the bits must fill whole bytes.
 */
PQ_MUST_USE int pq_shape_elements(const uint64_t *shape, int rank, uint64_t *n,
                                  struct pq_error *e);
PQ_MUST_USE int pq_shape_bytes(const uint64_t *shape, int rank,
                               enum pq_dtype dtype, uint64_t *bytes,
                               struct pq_error *e);
/* "[4096, 11008]" into a buffer of n bytes, for messages. */
void pq_shape_text(const uint64_t *shape, int rank, char *s, size_t n);

/* "nf4", "int8", ... and back (-1 when there is none). */
const char *pq_encoding_name(enum pq_encoding e);
int pq_encoding_from_name(const char *name);

/*
 * 0 added, 1 was there already (then *old, if not NULL, is its number), -1 no
 * memory.
 */
PQ_MUST_USE int pq_names_add(struct pq_names *t, const char *key, size_t value,
                             size_t *old, struct pq_error *e);
/* The number, or SIZE_MAX. */
size_t pq_names_find(const struct pq_names *t, const char *key);
void pq_names_release(struct pq_names *t);

#ifdef __cplusplus
}
#endif
#endif
