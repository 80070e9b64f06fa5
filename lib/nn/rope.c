/*
 * Rotary positions.  In each head [d], the pair (x[t], x[t + half]) turns by
 * the angle position * inv[t], t < half; what is behind 2 half stays:
 *
 *   y[t]        = x[t] c - x[t + half] s
 *   y[t + half] = x[t + half] c + x[t] s,   c, s = a cos, a sin
 *
 * The angle is the product in float, as in transformers; its sine and cosine
 * are made in double and rounded.  Turning back, for gradients: s = -s.
 */
#include "nn.h"

#include "elementary.h"

void nn_rope_table(float *cosine, float *sine, const size_t *positions,
                   size_t rows, const float *inv, size_t half, float a)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < half; t++) {
            const float angle = (float)positions[r] * inv[t];
            double s, c;
            nn_sincos(angle, &s, &c);
            cosine[r * half + t] = (float)c * a;
            sine[r * half + t] = (float)s * a;
        }
}

struct job {
    float *x;
    const float *cosine, *sine;
    size_t heads, d, half;
    bool back;
};

static void turn_head(const struct job *j, float *x, size_t row)
{
    const float *c = j->cosine + row * j->half, *s = j->sine + row * j->half;
    float *y = x + j->half;

    for (size_t t = 0; t < j->half; t++) {
        const float a = x[t], b = y[t], q = j->back ? -s[t] : s[t];
        x[t] = a * c[t] - b * q;
        y[t] = b * c[t] + a * q;
    }
}

static void turn_row(void *arg, struct nn_worker *w, size_t row)
{
    const struct job *j = arg;

    (void)w;
    for (size_t i = 0; i < j->heads; i++)
        turn_head(j, j->x + (row * j->heads + i) * j->d, row);
}

void nn_rope(struct nn_pool *pool, float *x, const float *cosine,
             const float *sine, size_t rows, size_t heads, size_t d,
             size_t half, bool back)
{
    struct job j = {x, cosine, sine, heads, d, half, back};

    nn_pool_run_rows(pool, turn_row, &j, rows);
}
