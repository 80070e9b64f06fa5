/*
 * Elementary functions in double, made of the basic operations alone, so
 * that they give the same bits with every C library.  For tables and for
 * one number a row; arrays go through the kernels.  Errors are below 4 units
 * in the last place of a double.
 */
#ifndef NN_ELEMENTARY_H
#define NN_ELEMENTARY_H

#ifdef __cplusplus
extern "C" {
#endif

double nn_exp(double x);           /* |x| <= 700 */
double nn_log(double x);           /* x > 0 and finite */
double nn_pow(double x, double y); /* x > 0, |y log x| <= 700 */
/* |x| < 2^20; larger ones lose digits. */
void nn_sincos(double x, double *sine, double *cosine);

#ifdef __cplusplus
}
#endif
#endif
