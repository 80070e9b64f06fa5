/*
 * Decoding rows of a stored matrix.
 *
 *   plain        widened
 *   int8         w = f32(q * scb[row]) * f32(1/127)
 *   nf4 fp4      w = f32(map[code] * absmax[i / block]), i counts the
 *   int8_block       elements of the whole matrix: blocks cross rows
 *
 * A run that begins inside a block is decoded one by one up to the block's
 * end, the rest by the kernels, to the same bits.
 */
#include "mat.h"

#include "pq_quant.h"
#include "quant/quant_internal.h"

static void decode_one_by_one(const struct nn_mat *m, size_t first, size_t n,
                              float *out)
{
    const uint8_t *codes = m->data;
    const bool four = m->codec.encoding != PQ_INT8_BLOCK;

    for (size_t i = first; i < first + n; i++) {
        const unsigned byte = codes[four ? i / 2 : i];
        const unsigned code = !four ? byte : i % 2 ? byte & 15 : byte >> 4;
        out[i - first] = m->map[code] * m->scale[i / m->codec.block];
    }
}

static void decode_run(const struct nn_mat *m, const struct pq_kernels *k,
                       size_t first, size_t n, float *out)
{
    const struct pq_tensor t = {.codec = m->codec};
    const bool four = m->codec.encoding != PQ_INT8_BLOCK;
    const size_t block = m->codec.block;
    const size_t unit = block % 2 && four ? 2 * block : block;
    const size_t in = first % unit;
    const size_t head = in == 0 ? 0 : unit - in < n ? unit - in : n;

    decode_one_by_one(m, first, head, out);
    if (head == n)
        return;
    const size_t from = first + head;
    pq_decode_blocks(k, &t, (const uint8_t *)m->data + (four ? from / 2 : from),
                     m->scale + from / block, m->map, n - head, out + head);
}

void nn_mat_decode(const struct nn_mat *m, const struct pq_kernels *k,
                   size_t row, size_t col, size_t n, float *out)
{
    const size_t first = (m->row0 + row) * m->row + m->col0 + col;

    switch (m->codec.encoding) {
    case PQ_PLAIN:
        pq_load_f32(k, m->dtype,
                    (const char *)m->data +
                        first * (pq_dtype_bits(m->dtype) / 8),
                    n, out);
        return;
    case PQ_INT8:
        k->int8_rows_decode((const int8_t *)m->data + first,
                            m->scale + m->row0 + row, 1, n, out);
        return;
    default:
        decode_run(m, k, first, n, out);
    }
}

struct nn_mat nn_mat_rows(const struct nn_mat *m, size_t from, size_t n)
{
    struct nn_mat part = *m;

    part.row0 += from;
    part.rows = n;
    return part;
}

struct nn_mat nn_mat_cols(const struct nn_mat *m, size_t from, size_t n)
{
    struct nn_mat part = *m;

    part.col0 += from;
    part.cols = n;
    return part;
}
