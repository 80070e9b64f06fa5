/*
 * libpq: model surgery and quantization.  The API in reading order.
 *
 *   errors and memory       pq_error.h pq_mem.h
 *   what a model is         pq_dtype.h pq_tensor.h
 *   where bytes come from   pq_file.h pq_source.h pq_hold.h pq_made.h
 *                           pq_spool.h
 *   where they go           pq_sink.h
 *   working through them    pq_engine.h
 *   quantization            pq_kernels.h pq_quant.h
 *   differences             pq_diff.h
 *   changing models         pq_surgery.h pq_blend.h pq_vocab.h
 *   pruning                 pq_prune.h pq_sparsegpt.h pq_shrink.h
 *   linear algebra          pq_linalg.h pq_lowrank.h pq_ranks.h
 *   text to token ids       pq_tokenizer.h pq_chat.h
 *   running models          pq_nn.h pq_sample.h
 *   JSON, hashes            pq_json.h pq_hash.h
 *
 * The file formats are one layer up: pq_format.h opens a model whatever it
 * is and makes sinks; pq_names.h knows what tensor names mean.
 *
 * The library never prints, never exits, reads no environment and installs
 * no signal handlers.
 */
#ifndef PQ_H
#define PQ_H

#include "pq_error.h"

#include "pq_mem.h"

#include "pq_dtype.h"
#include "pq_tensor.h"

#include "pq_file.h"
#include "pq_hold.h"
#include "pq_made.h"
#include "pq_sink.h"
#include "pq_source.h"
#include "pq_spool.h"

#include "pq_engine.h"

#include "pq_kernels.h"
#include "pq_quant.h"
#include "pq_surgery.h"
#include "pq_blend.h"
#include "pq_vocab.h"

#include "pq_prune.h"
#include "pq_shrink.h"
#include "pq_sparsegpt.h"

#include "pq_diff.h"

#include "pq_hash.h"
#include "pq_json.h"
#include "pq_linalg.h"
#include "pq_lowrank.h"
#include "pq_nn.h"
#include "pq_sample.h"
#include "pq_ranks.h"
#include "pq_train.h"
#include "pq_tokenizer.h"
#include "pq_chat.h"

#endif
