/*
 * Double quantization: the absmax values of a 4-bit tensor in 8 bits.
 *
 *   offset = mean(absmax)              double sum, rounded to float once
 *   code, nested_absmax = dynamic 8-bit map of (absmax - offset),
 *                         blocks of 256
 *   absmax' = f32(map[code] * nested_absmax) + offset
 *
 * Source: bitsandbytes functional.py, quantize_4bit(compress_statistics).
 * Its mean is a float sum whose last bit depends on the CPU; any offset
 * loads, so ours is the correctly rounded one.
 */
#include "quant_internal.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK (64 * PQ_NESTED_BLOCK) /* absmax values at a time */

struct nested {
    const struct pq_quant_step *p;
    struct pq_trail *trail;
    uint64_t blocks;
    float offset;
    float *absmax;        /* [CHUNK] */
    uint8_t *codes;       /* [CHUNK] */
    float *nested_absmax; /* [ceil(blocks / 256)] */
};

static size_t chunk_at(const struct nested *d, uint64_t at)
{
    return d->blocks - at < CHUNK ? (size_t)(d->blocks - at) : CHUNK;
}

static int find_offset(struct nested *d, struct pq_error *e)
{
    double sum = 0;

    for (uint64_t at = 0; at < d->blocks; at += CHUNK) {
        const size_t n = chunk_at(d, at);
        if (pq_trail_read(d->trail, 1, at * sizeof(float), d->absmax,
                          n * sizeof(float), e))
            return -1;
        for (size_t i = 0; i < n; i++)
            sum += (double)d->absmax[i];
    }
    d->offset = d->blocks ? (float)(sum / (double)d->blocks) : 0;
    return 0;
}

static void encode_chunk(const struct pq_quant_step *p, float *absmax, size_t n,
                         float offset, uint8_t *codes, float *nested_absmax)
{
    const struct pq_kernels *k = p->quant->kernels;

    for (size_t i = 0; i < n; i++)
        absmax[i] -= offset;
    if (p->spec.optimize)
        k->dyn8_encode_exact(absmax, n, PQ_NESTED_BLOCK, codes, nested_absmax);
    else
        k->dyn8_encode(absmax, n, PQ_NESTED_BLOCK, codes, nested_absmax);
}

static int write_codes(struct nested *d, struct pq_error *e)
{
    const size_t part = pq_part_number(d->p->out, PQ_ROLE_ABSMAX);

    for (uint64_t at = 0; at < d->blocks; at += CHUNK) {
        const size_t n = chunk_at(d, at);
        if (pq_trail_read(d->trail, 1, at * sizeof(float), d->absmax,
                          n * sizeof(float), e))
            return -1;
        encode_chunk(d->p, d->absmax, n, d->offset, d->codes,
                     d->nested_absmax + at / PQ_NESTED_BLOCK);
        if (pq_trail_write(d->trail, part, at, d->codes, n, e))
            return -1;
    }
    return 0;
}

static int write_state(struct nested *d, struct pq_error *e)
{
    const size_t part = pq_part_number(d->p->out, PQ_ROLE_QUANT_STATE);
    const size_t length = (size_t)d->p->out->parts[part].bytes;
    struct pq_buf text = {0};
    int rc = pq_state_write(&text, d->p->out, d->p->out->dtype,
                            (double)d->offset, length, e);

    if (!rc)
        rc = pq_trail_write(d->trail, part, 0, text.s, length, e);
    pq_buf_release(&text);
    return rc;
}

static int write_nested(struct nested *d, struct pq_error *e)
{
    const size_t part = pq_part_number(d->p->out, PQ_ROLE_NESTED_ABSMAX);
    const size_t bytes = (size_t)d->p->out->parts[part].bytes;

    return pq_trail_write(d->trail, part, 0, d->nested_absmax, bytes, e);
}

void pq_nested_undo(const uint8_t *codes, const float *map, const float *nested,
                    uint64_t first, uint64_t n, uint64_t block, double offset,
                    float *absmax)
{
    for (uint64_t i = 0; i < n; i++) {
        const float v =
            map[codes[i]] * nested[(first + i) / block - first / block];
        absmax[i] = v + (float)offset;
    }
}

int pq_nested_finish(const struct pq_step *s, void *state, struct pq_trail *t,
                     struct pq_error *e)
{
    const struct pq_quant_step *p = s->params;
    const uint64_t block = p->spec.block, n = p->in->n_elements;
    struct nested d = {.p = p, .trail = t};
    int rc = -1;

    (void)state;
    d.blocks = pq_blocks_of(n, block);
    d.absmax = pq_alloc(CHUNK, sizeof *d.absmax);
    d.codes = pq_alloc(CHUNK, 1);
    d.nested_absmax = pq_alloc((size_t)(d.blocks / PQ_NESTED_BLOCK) + 1,
                               sizeof *d.nested_absmax);
    if (!d.absmax || !d.codes || !d.nested_absmax)
        pq_fail_nomem(e);
    else if (!find_offset(&d, e) && !write_codes(&d, e) && !write_state(&d, e))
        rc = write_nested(&d, e);
    free(d.absmax);
    free(d.codes);
    free(d.nested_absmax);
    return rc;
}

void pq_nested_round_trip(const struct pq_quant_step *p, const float *absmax,
                          size_t n, float *out)
{
    uint8_t codes[PQ_NESTED_BLOCK];
    float part[PQ_NESTED_BLOCK], scale;
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)absmax[i];
    const float offset = n ? (float)(sum / (double)n) : 0;
    for (size_t at = 0; at < n; at += PQ_NESTED_BLOCK) {
        const size_t m = n - at < PQ_NESTED_BLOCK ? n - at : PQ_NESTED_BLOCK;
        memcpy(part, absmax + at, m * sizeof *part);
        encode_chunk(p, part, m, offset, codes, &scale);
        p->quant->kernels->dyn8_decode(codes, &scale, m, PQ_NESTED_BLOCK,
                                       out + at);
        for (size_t i = 0; i < m; i++)
            out[at + i] += offset;
    }
}
