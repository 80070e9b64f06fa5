/*
 * The .pq stream: what its files share.  Not a public header.
 *
 *     pqstream.c          the row in the registry
 *     pqstream_record.c   fixed structures to bytes and back
 *     pqstream_catalog.c  the catalogue to JSON
 *     pqstream_parse.c    and back
 *     pqstream_meta.c     META heads and metadata, from JSON
 *     pqstream_planes.c   the body of a packed record, opened
 *     pqstream_press.c    and made, one run at a time
 *     pqstream_pack.c     many runs at a time, for writing
 *     pqstream_reader.c   records from a pipe or a file, verified
 *     pqstream_open.c     everything before the first tensor
 *     pqstream_read.c     the source: tensors, index, end
 *     pqstream_write.c    the sink: tensors, index, end, abort
 *     pqstream_front.c    the sink: everything before the first tensor
 *
 * man/pq-stream.5 specifies the bytes.
 */
#ifndef PQ_FORMATS_PQSTREAM_H
#define PQ_FORMATS_PQSTREAM_H

#include "pq_format.h"

#include <xxhash.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_STREAM_BLOCK       64u        /* all structures and alignments */
#define PQ_STREAM_MAX_HEAD    65536u     /* bytes of a head */
#define PQ_STREAM_MAX_TEXT    100000000u /* body of CTLG META PROV optional */
#define PQ_STREAM_MAX_FRONT   400000000u /* of all bodies before the tensors */
#define PQ_STREAM_MAX_RECORDS 16384u     /* before the tensors */
#define PQ_STREAM_MAX_MESSAGE 4096u      /* body of ABRT */
#define PQ_STREAM_RUN         4194304u   /* raw bytes in a compressed record */
#define PQ_STREAM_CHUNK       262144u    /* bytes handled at a time */
#define PQ_STREAM_SECTIONS    9u         /* of a body: a map, 8 planes */

/* ---- pqstream_record.c ------------------------------------------------ */

enum pq_stream_flags {
    PQ_STREAM_MORE = 1u << 0,   /* the next record continues this tensor */
    PQ_STREAM_PACKED = 1u << 1, /* the body is planes, some compressed */
    PQ_STREAM_SPARSE = 1u << 2  /* of what is not zero; only with PACKED */
};

/* A record's prefix; `type` is NUL-terminated. */
struct pq_stream_prefix {
    char type[5];
    uint32_t flags;
    uint64_t head_bytes, body_bytes, seq, number, raw_bytes, head_sum;
};

struct pq_stream_end {
    uint64_t index_offset, total_bytes, records, sum;
};

/* Little-endian numbers. */
uint32_t pq_stream_get32(const unsigned char *p);
void pq_stream_put32(unsigned char *p, uint32_t v);
uint64_t pq_stream_get64(const unsigned char *p);
void pq_stream_put64(unsigned char *p, uint64_t v);

void pq_stream_put_header(unsigned char b[PQ_STREAM_BLOCK]);
PQ_MUST_USE int pq_stream_get_header(const unsigned char b[PQ_STREAM_BLOCK],
                                     struct pq_error *e);
void pq_stream_put_prefix(unsigned char b[PQ_STREAM_BLOCK],
                          const struct pq_stream_prefix *p);
PQ_MUST_USE int pq_stream_get_prefix(const unsigned char b[PQ_STREAM_BLOCK],
                                     struct pq_stream_prefix *p,
                                     struct pq_error *e);
void pq_stream_put_end(unsigned char b[PQ_STREAM_BLOCK],
                       const struct pq_stream_end *end);
bool pq_stream_is_end(const unsigned char b[PQ_STREAM_BLOCK]);
PQ_MUST_USE int pq_stream_get_end(const unsigned char b[PQ_STREAM_BLOCK],
                                  struct pq_stream_end *end,
                                  struct pq_error *e);
/* The record may be ignored by who does not know it. */
bool pq_stream_optional(const struct pq_stream_prefix *p);
/* Zero bytes between a head and the next multiple of 64. */
size_t pq_stream_head_pad(uint64_t head_bytes);
/* Zero bytes between a body and its checksum. */
size_t pq_stream_body_pad(uint64_t body_bytes);
/* Adds the bytes of a whole record to *sum; false when that does not fit. */
PQ_MUST_USE bool pq_stream_add_record(uint64_t *sum, uint64_t head_bytes,
                                      uint64_t body_bytes);

/*
 * What INDX and END say of the records so far: the checksum of all index
 * entries, and the checksum of all body checksums.  `entries` is collected
 * when `keep`, by a writer.
 */
struct pq_stream_tally {
    XXH3_state_t *index, *sums;
    uint64_t records;
    bool keep;
    struct pq_buf entries;
};

PQ_MUST_USE int pq_stream_tally_init(struct pq_stream_tally *t, bool keep,
                                     struct pq_error *e);
void pq_stream_tally_add(struct pq_stream_tally *t,
                         const struct pq_stream_prefix *p, uint64_t offset,
                         uint64_t body_sum);
void pq_stream_tally_release(struct pq_stream_tally *t);

/* ---- pqstream_catalog.c and pqstream_parse.c --------------------------- */

int pq_stream_role_from_name(const char *name);

/* The bodies of CTLG and of the META record of kind "metadata". */
PQ_MUST_USE int pq_stream_print_catalog(const struct pq_catalog *c,
                                        struct pq_buf *out, struct pq_error *e);
PQ_MUST_USE int pq_stream_print_metadata(const struct pq_catalog *c,
                                         struct pq_buf *out,
                                         struct pq_error *e);

/*
 * Reads a CTLG body into an empty catalogue.  Parts get their offsets: all
 * parts of all tensors, end to end.  *total is the sum of their bytes.
 */
PQ_MUST_USE int pq_stream_parse_catalog(const char *text, size_t n,
                                        struct pq_catalog *c, uint64_t *total,
                                        struct pq_error *e);
PQ_MUST_USE int pq_stream_parse_metadata(const char *text, size_t n,
                                         struct pq_catalog *c,
                                         struct pq_error *e);
/* A META head: its kind, and the name (both in c's arena; name or NULL). */
PQ_MUST_USE int pq_stream_parse_head(const char *text, size_t n,
                                     struct pq_catalog *c, const char **kind,
                                     const char **name, struct pq_error *e);
/* A file of this name may be put into a directory. */
bool pq_stream_base_name(const char *name);
/* The bytes of all parts of a tensor. */
uint64_t pq_stream_tensor_bytes(const struct pq_tensor *t);

/* ---- pqstream_planes.c ------------------------------------------------- */

/* Bytes of the elements that are split into planes: 1 (not split), 2, 4, 8. */
unsigned pq_stream_width(enum pq_dtype t);
/* Bits by which they are rotated left before: 0 or 1. */
unsigned pq_stream_up(enum pq_dtype t);

/* A packed record: its prefix agrees with the catalogue. */
struct pq_stream_packed {
    enum pq_dtype dtype;
    bool sparse;
    const unsigned char *body; /* [body_bytes] */
    size_t body_bytes;
    size_t raw_bytes; /* whole elements, at most PQ_STREAM_RUN bytes */
};

/* Opens packed records; allocates what one needs when it comes. */
struct pq_stream_unpacker;
struct pq_stream_unpacker *
pq_stream_unpacker_new(const struct pq_kernels *kernels, struct pq_error *e);
void pq_stream_unpacker_free(struct pq_stream_unpacker *u);
/* To raw [p->raw_bytes].  What the body claims is not believed. */
PQ_MUST_USE int pq_stream_unpack(struct pq_stream_unpacker *u,
                                 const struct pq_stream_packed *p,
                                 unsigned char *raw, struct pq_error *e);

/* ---- pqstream_press.c and pqstream_pack.c ------------------------------- */

/* A run of one part on its way to becoming a record. */
struct pq_stream_run {
    unsigned char *raw; /* the caller fills raw_bytes of it */
    size_t raw_bytes;
    enum pq_dtype dtype;
    uint64_t number;           /* of the tensor */
    bool more;                 /* not the last run of the tensor */
    const unsigned char *body; /* once taken: [body_bytes] */
    size_t body_bytes;
    uint64_t sum; /* of the body */
    bool packed;  /* else the body is the raw bytes as they are */
    bool sparse;  /* and begins with a map */
    bool failed;  /* out of memory */
    unsigned char *work; /* private */
    int state;           /* private */
};

/* Packs one run at a time; NULL: out of memory. */
struct pq_stream_press;
struct pq_stream_press *pq_stream_press_new(int level,
                                            const struct pq_kernels *kernels);
void pq_stream_press_free(struct pq_stream_press *z);
/* Sets body, body_bytes, packed, sparse and failed. */
void pq_stream_press(struct pq_stream_press *z, struct pq_stream_run *r);

/*
 * A ring of runs, packed by up to `threads` threads.  One thread calls these
 * functions.  `largest` is the largest part; runs are no larger than that.
 */
struct pq_stream_packer;
struct pq_stream_packer *pq_stream_packer_new(int level, unsigned threads,
                                              uint64_t largest,
                                              const struct pq_kernels *kernels,
                                              struct pq_error *e);
void pq_stream_packer_free(struct pq_stream_packer *p);
/* The run to fill, or NULL while all are in use: take one first. */
struct pq_stream_run *pq_stream_packer_room(struct pq_stream_packer *p);
/* Hands over the run that room() gave. */
void pq_stream_packer_submit(struct pq_stream_packer *p);
/* Waits for the oldest run handed over; NULL when there is none. */
struct pq_stream_run *pq_stream_packer_take(struct pq_stream_packer *p);
/* Gives back what take() gave. */
void pq_stream_packer_done(struct pq_stream_packer *p);

/* ---- pqstream_reader.c ------------------------------------------------- */

struct pq_stream_reader {
    struct pq_in in;
    struct pq_stream_tally tally;
    struct pq_stream_prefix rec; /* the record at hand */
    struct pq_stream_end end;    /* once at_end */
    bool at_end;
    uint64_t offset;   /* where the record (or END) starts */
    uint64_t left;     /* bytes of its body not read yet */
    uint64_t body_sum; /* once closed */
    XXH3_state_t *hash;
    struct pq_buf head;
};

/* Takes over *in. */
PQ_MUST_USE int pq_stream_reader_init(struct pq_stream_reader *r,
                                      struct pq_in *in, struct pq_error *e);
void pq_stream_reader_release(struct pq_stream_reader *r);
/*
 * Reads the next prefix and head, or END.  An ABRT record becomes the
 * failure that it reports.
 */
PQ_MUST_USE int pq_stream_next(struct pq_stream_reader *r, struct pq_error *e);
/* Reads n <= r->left bytes of the body as stored. */
PQ_MUST_USE int pq_stream_body(struct pq_stream_reader *r, void *buf, size_t n,
                               struct pq_error *e);
/* After the body: verifies padding and checksum. */
PQ_MUST_USE int pq_stream_close(struct pq_stream_reader *r, struct pq_error *e);
/* The whole body (at most `limit` bytes) into an emptied buffer; closes. */
PQ_MUST_USE int pq_stream_text(struct pq_stream_reader *r, uint64_t limit,
                               struct pq_buf *out, struct pq_error *e);
/* Reads and drops what is left of the body; closes. */
PQ_MUST_USE int pq_stream_drop(struct pq_stream_reader *r, struct pq_error *e);

/* ---- pqstream_open.c and pqstream_read.c -------------------------------- */

/* A record of a tensor that was met, so that it can be read again. */
struct pq_stream_seen {
    uint64_t raw_start, raw_bytes, body_offset, body_bytes;
    enum pq_dtype dtype;
    bool packed, sparse;
};

/* What the stream holds, in its order; the catalogue may be folded later. */
struct pq_stream_span {
    const char *name;
    enum pq_dtype dtype;
    uint64_t end;  /* address behind it */
    size_t tensor; /* that it is a part of */
};

struct pq_stream_source {
    struct pq_source base;
    struct pq_catalog catalog;
    struct pq_stream_span *spans; /* [n_spans], one a part */
    size_t n_spans;
    struct pq_stream_reader r;
    bool pending;   /* r holds a prefix that nobody has looked at */
    bool open;      /* r is in the body of a record of `tensor` */
    bool broken;    /* a read failed: the place in the stream is lost */
    uint64_t at;    /* address of the next byte to come by */
    uint64_t total; /* address behind the last */
    size_t span;    /* the first of the tensor that the stream is in */
    uint64_t bound; /* address behind that tensor */
    struct pq_stream_seen rec;   /* the record at hand */
    struct pq_stream_seen *seen; /* [n_seen] of a regular file, by address */
    size_t n_seen, cap_seen;
    struct pq_stream_unpacker *unpacker;
    size_t run_bytes; /* the most that a record of a part holds, unpacked */
    unsigned char *body, *raw; /* [run_bytes], of one record */
    bool cached;                /* raw holds that record: */
    uint64_t cached_start;
    unsigned char *chunk; /* [PQ_STREAM_CHUNK] for what is passed over */
};

extern const struct pq_source_ops pq_stream_source_ops;
/* Makes the spans; the stream is before the first tensor. */
PQ_MUST_USE int pq_stream_source_begin(struct pq_stream_source *s,
                                       struct pq_error *e);
PQ_MUST_USE int pq_stream_open(struct pq_in *in, struct pq_source **s,
                               struct pq_error *e);

/* ---- pqstream_front.c and pqstream_write.c ------------------------------- */

struct pq_stream_sink {
    struct pq_sink base;
    struct pq_write_options options;
    const char *path; /* or NULL */
    int dirfd;
    struct pq_buf ctlg, metadata; /* bodies */
    struct pq_out out;
    bool opened;            /* out is open */
    bool failed;            /* a write failed: nothing more can be said */
    bool ended;             /* END is written: nothing more is to be said */
    unsigned char *pending; /* [PQ_STREAM_CHUNK] small writes, together */
    size_t n_pending;
    uint64_t offset; /* of the next byte in the file, pending ones counted */
    uint64_t synced; /* bytes whose writing to disk was begun */
    struct pq_stream_tally tally;
    XXH3_state_t *hash;
    struct pq_stream_prefix rec; /* the record at hand, while `open` */
    uint64_t rec_offset;
    bool open;
    uint64_t left;  /* bytes of its body still to come */
    size_t tensor;  /* the next tensor to begin, or the one that is open */
    uint64_t at;    /* address of the next byte to come */
    uint64_t bound; /* address behind the tensor */
    struct pq_stream_packer *packer; /* with a level */
    struct pq_stream_run *run;       /* being filled, or NULL */
    size_t filled, run_bytes;
};

PQ_MUST_USE int pq_stream_create(struct pq_catalog *c, const char *path,
                                 int dirfd, const struct pq_write_options *w,
                                 struct pq_sink **k, struct pq_error *e);
/* Makes the texts, and adds the bytes of header and front to *bytes. */
PQ_MUST_USE int pq_stream_plan_front(struct pq_stream_sink *k, uint64_t *bytes,
                                     uint64_t *records, struct pq_error *e);
PQ_MUST_USE int pq_stream_write_front(struct pq_stream_sink *k,
                                      struct pq_error *e);
/* Appends to the output. */
PQ_MUST_USE int pq_stream_emit(struct pq_stream_sink *k, const void *buf,
                               size_t n, struct pq_error *e);
/* Writes what was gathered. */
PQ_MUST_USE int pq_stream_flush(struct pq_stream_sink *k, struct pq_error *e);
/* Begins a record (k->rec but for seq and sums is set), ends it. */
PQ_MUST_USE int pq_stream_begin_record(struct pq_stream_sink *k,
                                       const char *type, const void *head,
                                       size_t head_bytes, uint64_t body_bytes,
                                       struct pq_error *e);
PQ_MUST_USE int pq_stream_emit_body(struct pq_stream_sink *k, const void *buf,
                                    size_t n, struct pq_error *e);
PQ_MUST_USE int pq_stream_end_record(struct pq_stream_sink *k, bool spoil,
                                     struct pq_error *e);
/* A whole record. */
PQ_MUST_USE int pq_stream_put_record(struct pq_stream_sink *k, const char *type,
                                     const void *head, size_t head_bytes,
                                     const void *body, uint64_t body_bytes,
                                     struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
