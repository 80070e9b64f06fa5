/*
 * Dense linear algebra through OpenBLAS, loaded on first use.
 *
 * Row major and column major: what is x [rows][cols] here is x^T to LAPACK,
 * so the QR of x is the LQ of what it sees, and u and vt change places:
 *
 *     x = q r          x^T = r^T q^T = L Q
 *     x = u s vt       x^T = vt^T s u^T
 *
 * Nothing is ever copied to turn it.
 */
#include "pq_linalg.h"
#include "pq_mem.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const char library[] = "libopenblas.so.0";

#define BLOCK 64 /* columns that LAPACK takes at a time, at most */

enum { ROW_MAJOR = 101, AS_IS = 111, TURNED = 112 }; /* of CBLAS */

typedef void lq_f32(const int *m, const int *n, float *a, const int *lda,
                    float *tau, float *work, const int *lwork, int *info);
typedef void lq_f64(const int *m, const int *n, double *a, const int *lda,
                    double *tau, double *work, const int *lwork, int *info);
typedef void from_lq_f32(const int *m, const int *n, const int *k, float *a,
                         const int *lda, const float *tau, float *work,
                         const int *lwork, int *info);
typedef void from_lq_f64(const int *m, const int *n, const int *k, double *a,
                         const int *lda, const double *tau, double *work,
                         const int *lwork, int *info);
typedef void svd_f64(const char *job, const int *m, const int *n, double *a,
                     const int *lda, double *s, double *u, const int *ldu,
                     double *vt, const int *ldvt, double *work,
                     const int *lwork, int *iwork, int *info);
typedef void cholesky_f32(const char *part, const int *n, float *a,
                          const int *lda, int *info);
typedef void invert_f32(const char *part, const char *diagonal, const int *n,
                        float *a, const int *lda, int *info);
typedef void gemm_f32(int order, int turn_a, int turn_b, int m, int n, int k,
                      float alpha, const float *a, int lda, const float *b,
                      int ldb, float beta, float *c, int ldc);
typedef void gemm_f64(int order, int turn_a, int turn_b, int m, int n, int k,
                      double alpha, const double *a, int lda, const double *b,
                      int ldb, double beta, double *c, int ldc);
typedef void set_threads(int n);

static struct {
    lq_f32 *sgelqf;
    lq_f64 *dgelqf;
    from_lq_f32 *sorglq;
    from_lq_f64 *dorglq;
    svd_f64 *dgesdd;
    cholesky_f32 *spotrf;
    invert_f32 *strtri;
    gemm_f32 *sgemm;
    gemm_f64 *dgemm;
} blas;

static struct {
    pthread_once_t once;
    char why[160]; /* not "": it could not be loaded */
} loaded = {.once = PTHREAD_ONCE_INIT};

static void load(void)
{
    set_threads *one_thread = NULL;
    const struct {
        const char *name;
        void *to;
    } table[] = {{"sgelqf_", &blas.sgelqf},    {"dgelqf_", &blas.dgelqf},
                 {"sorglq_", &blas.sorglq},    {"dorglq_", &blas.dorglq},
                 {"dgesdd_", &blas.dgesdd},    {"spotrf_", &blas.spotrf},
                 {"strtri_", &blas.strtri},    {"cblas_sgemm", &blas.sgemm},
                 {"cblas_dgemm", &blas.dgemm}, {"openblas_set_num_threads",
                                                &one_thread}};
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    const char *why = handle ? NULL : dlerror();

    for (size_t i = 0; !why && i < sizeof table / sizeof *table; i++) {
        void *symbol = dlsym(handle, table[i].name);
        why = symbol ? NULL : dlerror();
        /* POSIX lets an object pointer hold a function's; C has no cast */
        memcpy(table[i].to, &symbol, sizeof symbol);
    }
    if (why) {
        const size_t n = strlen(why);
        memcpy(loaded.why, why,
               n < sizeof loaded.why ? n : sizeof loaded.why - 1);
    } else {
        one_thread(1);
    }
}

int pq_linalg_ready(struct pq_error *e)
{
    pthread_once(&loaded.once, load);
    return loaded.why[0] ? pq_fail(e, PQ_EUNSUPPORTED,
                                   "cannot load OpenBLAS (Debian: "
                                   "libopenblas0): %s",
                                   loaded.why)
                         : 0;
}

/* Ready, and sizes that fit its integers? */
static int ready(size_t a, size_t b, size_t c, struct pq_error *e)
{
    const size_t most = INT_MAX / 8;

    if (a > most || b > most || c > most)
        return pq_fail(e, PQ_ELIMIT, "matrix is too large");
    return pq_linalg_ready(e);
}

static int failed(int info, struct pq_error *e)
{
    return info == 0 ? 0
                     : pq_fail(e, PQ_EARG,
                               "the singular values do not converge (%d)",
                               info);
}

int pq_qr_f32(float *x, size_t rows, size_t n, float *r, struct pq_error *e)
{
    int info = 0;

    if (ready(rows, n, 1, e) || ready(n * BLOCK, 1, 1, e))
        return -1;
    const int m = (int)n, width = (int)rows, lwork = m * BLOCK + BLOCK;
    if (rows == 0 || n == 0)
        return 0;
    float *work = pq_alloc((size_t)lwork + n, sizeof *work);
    if (!work)
        return pq_fail_nomem(e);
    blas.sgelqf(&m, &width, x, &m, work + lwork, work, &lwork, &info);
    for (size_t i = 0; r && i < n; i++)
        for (size_t j = 0; j < n; j++)
            r[i * n + j] = j < i ? 0 : x[i * n + j];
    if (info == 0)
        blas.sorglq(&m, &width, &m, x, &m, work + lwork, work, &lwork, &info);
    free(work);
    return failed(info, e);
}

int pq_qr_f64(double *x, size_t rows, size_t n, double *r, struct pq_error *e)
{
    int info = 0;

    if (ready(rows, n, 1, e) || ready(n * BLOCK, 1, 1, e))
        return -1;
    const int m = (int)n, width = (int)rows, lwork = m * BLOCK + BLOCK;
    if (rows == 0 || n == 0)
        return 0;
    double *work = pq_alloc((size_t)lwork + n, sizeof *work);
    if (!work)
        return pq_fail_nomem(e);
    blas.dgelqf(&m, &width, x, &m, work + lwork, work, &lwork, &info);
    for (size_t i = 0; r && i < n; i++)
        for (size_t j = 0; j < n; j++)
            r[i * n + j] = j < i ? 0 : x[i * n + j];
    if (info == 0)
        blas.dorglq(&m, &width, &m, x, &m, work + lwork, work, &lwork, &info);
    free(work);
    return failed(info, e);
}

int pq_svd_f64(double *x, size_t rows, size_t cols, double *u, double *s,
               double *vt, struct pq_error *e)
{
    int info = 0;
    double size = 0;

    if (ready(rows, cols, 1, e))
        return -1;
    const int m = (int)cols, n = (int)rows;
    const int k = m < n ? m : n, ask = -1;
    if (k == 0)
        return 0;
    int *iwork = pq_alloc(8 * (size_t)k, sizeof *iwork);
    if (!iwork)
        return pq_fail_nomem(e);
    blas.dgesdd("S", &m, &n, x, &m, s, vt, &m, u, &k, &size, &ask, iwork,
                &info);
    const int lwork = size < INT_MAX ? (int)size : INT_MAX;
    double *work = info == 0 ? pq_alloc((size_t)lwork, sizeof *work) : NULL;
    int rc = work ? 0 : pq_fail_nomem(e);
    if (!rc) {
        blas.dgesdd("S", &m, &n, x, &m, s, vt, &m, u, &k, work, &lwork, iwork,
                    &info);
        rc = failed(info, e);
    }
    free(work);
    free(iwork);
    return rc;
}

/*
 * h = r r^T with an upper r is, read from its end, a Cholesky factorisation
 * with a lower one; and u = r^-1.  The inverse of h itself is never made.
 *
 *     J h J = (J r J) (J r J)^T        J: the order of rows, or columns, turned
 *
 * J x J of a square matrix is its array from the last element to the first.
 */
static void turn_around(float *h, size_t count)
{
    for (size_t i = 0, j = count; i + 1 < j; i++) {
        const float x = h[i];
        h[i] = h[--j];
        h[j] = x;
    }
}

int pq_inverse_factor_f32(float *h, size_t n, struct pq_error *e)
{
    int info = 0;

    if (ready(n, n, 1, e))
        return -1;
    const int size = (int)n;
    if (n == 0)
        return 0;
    turn_around(h, n * n);
    blas.spotrf("U", &size, h, &size, &info);
    if (info == 0)
        blas.strtri("U", "N", &size, h, &size, &info);
    if (info != 0)
        return pq_fail(e, PQ_EVALUE, "is not positive definite");
    turn_around(h, n * n);
    for (size_t i = 1; i < n; i++)
        memset(h + i * n, 0, i * sizeof *h);
    return 0;
}

int pq_gemm_less_f32(const float *a, size_t stride_a, const float *b,
                     size_t stride_b, size_t rows, size_t k, size_t cols,
                     float *c, size_t stride_c, struct pq_error *e)
{
    if (ready(rows, k, cols, e) || ready(stride_a, stride_b, stride_c, e))
        return -1;
    if (rows && cols && k)
        blas.sgemm(ROW_MAJOR, AS_IS, AS_IS, (int)rows, (int)cols, (int)k, -1,
                   a, (int)stride_a, b, (int)stride_b, 1, c, (int)stride_c);
    return 0;
}

int pq_gemm_f32(const float *a, int turn_a, const float *b, int turn_b,
                size_t rows, size_t k, size_t cols, int add, float *c,
                struct pq_error *e)
{
    if (ready(rows, k, cols, e))
        return -1;
    if (rows && cols)
        blas.sgemm(ROW_MAJOR, turn_a ? TURNED : AS_IS, turn_b ? TURNED : AS_IS,
                   (int)rows, (int)cols, (int)k, 1, a,
                   (int)(turn_a ? rows : k ? k : 1), b,
                   (int)(turn_b ? k ? k : 1 : cols), add ? 1 : 0, c,
                   (int)cols);
    return 0;
}

int pq_gemm_f64(const double *a, int turn_a, const double *b, int turn_b,
                size_t rows, size_t k, size_t cols, int add, double *c,
                struct pq_error *e)
{
    if (ready(rows, k, cols, e))
        return -1;
    if (rows && cols)
        blas.dgemm(ROW_MAJOR, turn_a ? TURNED : AS_IS, turn_b ? TURNED : AS_IS,
                   (int)rows, (int)cols, (int)k, 1, a,
                   (int)(turn_a ? rows : k ? k : 1), b,
                   (int)(turn_b ? k ? k : 1 : cols), add ? 1 : 0, c,
                   (int)cols);
    return 0;
}
