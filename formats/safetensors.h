/*
 * safetensors: what its reader and its writer share.  Not a public header.
 *
 *     safetensors.c         the source and the row in the registry
 *     safetensors_header.c  header to catalogue
 *     safetensors_write.c   catalogue to header, the sink
 */
#ifndef PQ_FORMATS_SAFETENSORS_H
#define PQ_FORMATS_SAFETENSORS_H

#include "pq_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PQ_ST_LENGTH     8u         /* bytes of the header's length */
#define PQ_ST_MAX_HEADER 100000000u /* bytes, as in the reference library */
#define PQ_ST_META       "__metadata__"
#define PQ_ST_PROV       "pq.prov" /* metadata key: provenance, a line a run */

/*
 * Reads the JSON text of a header (without its length) into the empty
 * catalogue; offsets count from the first byte behind the header.  On
 * success *data_bytes is the length of the data.  That no name comes twice is
 * checked apart, so that the text need not be in memory any more.
 */
PQ_MUST_USE int pq_st_parse(const char *text, size_t n, struct pq_catalog *c,
                            uint64_t *data_bytes, struct pq_error *e);

PQ_MUST_USE int pq_st_check_names(const struct pq_catalog *c,
                                  struct pq_error *e);

/* pq_format.create */
PQ_MUST_USE int pq_st_create(struct pq_catalog *c, const char *path, int dirfd,
                             const struct pq_write_options *w,
                             struct pq_sink **k, struct pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
