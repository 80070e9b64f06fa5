/* What the writer and the reader of a delta's description share. */
#ifndef PQ_DELTA_TEXT_H
#define PQ_DELTA_TEXT_H

#include "pq_diff.h"

#define PQ_DELTA_VERSION 1

extern const char *const pq_delta_how_names[PQ_DELTA_N_HOW];

#endif
