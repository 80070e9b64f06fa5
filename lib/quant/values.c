/*
 * Values: widening and narrowing of every floating type, what is out of
 * range, and how far a copy is from its original.
 */
#include "quant_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* double -> float rounds once; torch takes the same way down from float64. */
static void f64_to_f32(const void *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, (const char *)in + i * sizeof v, sizeof v);
        out[i] = (float)v;
    }
}

static void f32_to_f64(const float *in, size_t n, void *out)
{
    for (size_t i = 0; i < n; i++) {
        const double v = (double)in[i];
        memcpy((char *)out + i * sizeof v, &v, sizeof v);
    }
}

void pq_load_f32(const struct pq_kernels *k, enum pq_dtype dtype,
                 const void *in, size_t n, float *out)
{
    switch (dtype) {
    case PQ_F16:
        k->f16_to_f32(in, n, out);
        break;
    case PQ_BF16:
        k->bf16_to_f32(in, n, out);
        break;
    case PQ_F8_E4M3:
        k->e4m3_to_f32(in, n, out);
        break;
    case PQ_F8_E5M2:
        k->e5m2_to_f32(in, n, out);
        break;
    case PQ_F64:
        f64_to_f32(in, n, out);
        break;
    default: /* F32: pq_dtype_is_float() has no other */
        memcpy(out, in, n * sizeof *out);
    }
}

int pq_read_f32(const struct pq_kernels *k, struct pq_source *s,
                const struct pq_tensor *t, float *out, struct pq_error *e)
{
    const size_t bytes = (size_t)t->parts[0].bytes;
    void *raw = pq_alloc(bytes, 1);
    const int rc = raw ? pq_source_read(s, t->parts, 0, raw, bytes, e)
                       : pq_fail_nomem(e);

    if (!rc)
        pq_load_f32(k, t->dtype, raw, (size_t)t->n_elements, out);
    free(raw);
    return rc;
}

void pq_store_f32(const struct pq_kernels *k, enum pq_dtype dtype,
                  const float *in, size_t n, void *out)
{
    switch (dtype) {
    case PQ_F16:
        k->f32_to_f16(in, n, out);
        break;
    case PQ_BF16:
        k->f32_to_bf16(in, n, out);
        break;
    case PQ_F8_E4M3:
        k->f32_to_e4m3(in, n, out);
        break;
    case PQ_F8_E5M2:
        k->f32_to_e5m2(in, n, out);
        break;
    case PQ_F64:
        f32_to_f64(in, n, out);
        break;
    default:
        memcpy(out, in, n * sizeof *in);
    }
}

uint32_t pq_overflow_bits(enum pq_dtype t)
{
    switch (t) {
    case PQ_F16:
        return 0x477ff000; /* 65520: halfway to 2^16, ties to Inf */
    case PQ_BF16:
        return 0x7f7f8000;
    case PQ_F8_E4M3:
        return 0x43e80001; /* above 464: the tie goes down to 448 */
    case PQ_F8_E5M2:
        return 0x47700000; /* 61440 */
    default:
        return PQ_ABS_INF;
    }
}

int pq_check_values(const struct pq_quant_step *p, const float *x, uint64_t n,
                    uint64_t first, uint32_t limit, struct pq_quality *q,
                    struct pq_error *e)
{
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t m = pq_abs_bits(x[i]);
        if (m < limit)
            continue;
        if (!p->quant->allow_nonfinite && m > PQ_ABS_INF)
            return pq_fail(e, PQ_EVALUE, "element %llu is NaN",
                           (unsigned long long)(first + i));
        if (!p->quant->allow_nonfinite && m == PQ_ABS_INF)
            return pq_fail(e, PQ_EVALUE, "element %llu is infinite",
                           (unsigned long long)(first + i));
        if (!p->quant->allow_nonfinite)
            return pq_fail(e, PQ_EVALUE,
                           "element %llu (%.9g) is out of range of %s",
                           (unsigned long long)(first + i), (double)x[i],
                           p->spec.encoding == PQ_PLAIN
                               ? pq_dtype_name(p->spec.dtype)
                               : "F16");
        q->nans += m > PQ_ABS_INF;
        q->infs += m == PQ_ABS_INF;
        q->overflows += m < PQ_ABS_INF;
    }
    return 0;
}

void pq_measure(const struct pq_quant_step *p, const float *x, const float *y,
                size_t n, struct pq_quality *q)
{
    p->quant->kernels->error_stats(x, y, n, &q->signal, &q->noise,
                                   &q->max_error);
}

void pq_quality_add(struct pq_quality *a, const struct pq_quality *b)
{
    a->n += b->n;
    a->nans += b->nans;
    a->infs += b->infs;
    a->overflows += b->overflows;
    a->signal += b->signal;
    a->noise += b->noise;
    a->plain_noise += b->plain_noise;
    a->wanted += b->wanted;
    a->applied += b->applied;
    a->both += b->both;
    if (!(b->max_error <= a->max_error))
        a->max_error = b->max_error;
}

double pq_sqnr_db(double signal, double noise)
{
    return noise == 0 ? (double)INFINITY : 10 * log10(signal / noise);
}
