/*
 * The SVD of a product of two thin matrices, from their QR:
 *
 *     b = Q R    a^T = P S    b a = Q (R S^T) P^T
 *
 * and the SVD of the core R S^T [n][n] is that of the product but for Q and
 * P.  A side that is wide already (rows < n, or cols < n) has no QR; it is
 * its own R, or S^T.
 */
#include "pq_lowrank.h"

#include <stdlib.h>
#include <string.h>

/* What is worked with; all sizes are of doubles. */
struct product {
    size_t rows, n, cols;
    size_t p, q, k; /* the core is [p][q], its rank is k */
    double *turned; /* a^T [cols][n], then P */
    double *r, *s;  /* [n][n] each */
    double *core;   /* [p][q] */
    double *u, *vt; /* of the core: [p][k], [k][q] */
};

static void release(struct product *x)
{
    free(x->turned);
    free(x->r);
    free(x->s);
    free(x->core);
    free(x->u);
    free(x->vt);
}

static int prepare(struct product *x, size_t rows, size_t n, size_t cols,
                   struct pq_error *e)
{
    memset(x, 0, sizeof *x);
    x->rows = rows;
    x->n = n;
    x->cols = cols;
    x->p = n < rows ? n : rows;
    x->q = n < cols ? n : cols;
    x->k = x->p < x->q ? x->p : x->q;
    x->turned = pq_alloc(cols, n * sizeof *x->turned);
    x->r = pq_alloc(n, n * sizeof *x->r);
    x->s = pq_alloc(n, n * sizeof *x->s);
    x->core = pq_alloc(x->p, x->q * sizeof *x->core);
    x->u = pq_alloc(x->p, x->k * sizeof *x->u);
    x->vt = pq_alloc(x->k, x->q * sizeof *x->vt);
    return x->turned && x->r && x->s && x->core && x->u && x->vt
               ? 0
               : pq_fail_nomem(e);
}

/* The core, from left [p][n] and right, [n][q] or its transpose. */
static int make_core(struct product *x, double *b, const double *a,
                     struct pq_error *e)
{
    const bool thin_b = x->n <= x->rows, thin_a = x->n <= x->cols;

    for (size_t i = 0; thin_a && i < x->n; i++)
        for (size_t j = 0; j < x->cols; j++)
            x->turned[j * x->n + i] = a[i * x->cols + j];
    if ((thin_b && pq_qr_f64(b, x->rows, x->n, x->r, e)) ||
        (thin_a && pq_qr_f64(x->turned, x->cols, x->n, x->s, e)))
        return -1;
    return pq_gemm_f64(thin_b ? x->r : b, 0, thin_a ? x->s : a, thin_a, x->p,
                       x->n, x->q, 0, x->core, e);
}

int pq_product_svd(double *b, double *a, size_t rows, size_t n, size_t cols,
                   double *u, double *s, double *vt, size_t *rank,
                   struct pq_error *e)
{
    struct product x;
    int rc = prepare(&x, rows, n, cols, e);

    *rank = x.k;
    if (!rc)
        rc = make_core(&x, b, a, e);
    if (!rc)
        rc = pq_svd_f64(x.core, x.p, x.q, x.u, s, x.vt, e);
    if (!rc && n <= rows)
        rc = pq_gemm_f64(b, 0, x.u, 0, rows, n, x.k, 0, u, e);
    else if (!rc)
        memcpy(u, x.u, rows * x.k * sizeof *u);
    if (!rc && n <= cols)
        rc = pq_gemm_f64(x.vt, 0, x.turned, 1, x.k, n, cols, 0, vt, e);
    else if (!rc)
        memcpy(vt, x.vt, x.k * cols * sizeof *vt);
    release(&x);
    return rc;
}
