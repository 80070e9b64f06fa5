/*
 * Every operation backwards, against differences of the forward one.
 *
 * The loss is sum(y r) with fixed random r, summed in double.  Its derivative
 * along a random direction v, by central differences with steps h and 2h,
 * (4 D(h) - D(2h)) / 3, must be the gradient times v.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/backward.h"
#include "numbers.h"

#define STEP       0x1p-7
#define DIRECTIONS 6

static struct nn_pool *pool;

static void start(void)
{
    struct pq_error e = PQ_ERROR_INIT;

    pool = nn_pool_new(2, pq_kernels_best(), &e);
    cr_assert(pool);
    cr_assert_eq(nn_pool_spare(pool, 1 << 16, &e), 0);
}

static void stop(void)
{
    nn_pool_free(pool);
}

TestSuite(nn_back, .init = start, .fini = stop);

static float unit(void)
{
    return (float)(next() >> 40) * 0x1p-24f - 0.5f;
}

static float *randoms(size_t n, float scale)
{
    float *x = malloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = unit() * scale;
    return x;
}

static float *zeros(size_t n)
{
    return calloc(n, sizeof(float));
}

static double weighed(const float *y, const float *r, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)y[i] * r[i];
    return sum;
}

/* The loss of a case as it stands. */
typedef double loss(void *arg);

static double slope(loss *f, void *arg, float *x, const float *x0,
                    const float *v, size_t n, float h)
{
    double d = 0;

    for (int sign = 1; sign >= -1; sign -= 2) {
        for (size_t i = 0; i < n; i++)
            x[i] = x0[i] + (float)sign * h * v[i];
        d += sign * f(arg);
    }
    return d / (2 * (double)h);
}

/* g is the gradient of f by the n numbers at x. */
static void check(const char *what, loss *f, void *arg, float *x,
                  const float *g, size_t n)
{
    float *x0 = malloc(n * sizeof *x0);
    double norm = 0;

    memcpy(x0, x, n * sizeof *x0);
    for (size_t i = 0; i < n; i++)
        norm += (double)g[i] * g[i];
    cr_assert_gt(norm, 0, "%s: no gradient", what);
    for (int k = 0; k < DIRECTIONS; k++) {
        float *v = randoms(n, 2);
        const double want = (4 * slope(f, arg, x, x0, v, n, STEP) -
                             slope(f, arg, x, x0, v, n, 2 * STEP)) /
                            3;
        const double got = weighed(g, v, n);
        cr_assert(fabs(got - want) <= 1e-3 * sqrt(norm), "%s: %g for %g (%g)",
                  what, got, want, sqrt(norm));
        memcpy(x, x0, n * sizeof *x);
        free(v);
    }
    free(x0);
}

/* ---- norms -------------------------------------------------------------- */

struct norm {
    bool layer, plus_one;
    size_t rows, n;
    float *x, *w, *b, *y, *r;
};

static double norm_loss(void *arg)
{
    const struct norm *c = arg;

    if (c->layer)
        nn_layernorm(pool, c->y, c->x, c->w, c->b, c->rows, c->n, 1e-3f);
    else
        nn_rmsnorm(pool, c->y, c->x, c->w, c->rows, c->n, 1e-3f, c->plus_one);
    return weighed(c->y, c->r, c->rows * c->n);
}

static void norm_back(const struct norm *c, float *dx, float *dw, float *db,
                      bool add)
{
    float a[200], b[200];

    cr_assert_leq(c->rows, 200);
    if (c->layer)
        nn_layernorm_back(pool, dx, dw, db, c->r, c->x, c->w, c->rows, c->n,
                          1e-3f, add, a, b);
    else
        nn_rmsnorm_back(pool, dx, dw, c->r, c->x, c->w, c->rows, c->n, 1e-3f,
                        c->plus_one, add, a);
}

static void check_norm(bool layer, bool plus_one, size_t rows, size_t n)
{
    struct norm c = {
        .layer = layer, .plus_one = plus_one, .rows = rows, .n = n};
    float *dx = zeros(rows * n), *dw = zeros(n), *db = zeros(n);
    float *twice;

    c.x = randoms(rows * n, 2);
    c.w = randoms(n, 2);
    c.b = randoms(n, 2);
    c.y = zeros(rows * n);
    c.r = randoms(rows * n, 2);
    norm_back(&c, dx, dw, db, false);
    check("dx of a norm", norm_loss, &c, c.x, dx, rows * n);
    check("dw of a norm", norm_loss, &c, c.w, dw, n);
    if (layer)
        check("db of a norm", norm_loss, &c, c.b, db, n);
    twice = zeros(rows * n);
    norm_back(&c, twice, dw, db, true);
    norm_back(&c, twice, NULL, NULL, true);
    for (size_t i = 0; i < rows * n; i++)
        cr_assert_eq(twice[i], dx[i] + dx[i]);
    float *all[] = {dx, dw, db, twice, c.x, c.w, c.b, c.y, c.r};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

Test(nn_back, norms)
{
    check_norm(false, false, 150, 20);
    check_norm(false, true, 5, 300);
    check_norm(true, false, 150, 20);
    check_norm(true, false, 3, 600);
}

/* ---- linear ------------------------------------------------------------- */

struct line {
    struct nn_linear l;
    size_t rows;
    float *x, *w, *b, *y, *r;
};

static double line_loss(void *arg)
{
    const struct line *c = arg;

    nn_linear(pool, c->y, c->x, &c->l, c->rows);
    return weighed(c->y, c->r, c->rows * c->l.out);
}

/* Outputs [2, 2 + out) of a tensor with 5 more. */
static void check_line(bool turned, size_t rows, size_t in, size_t out)
{
    const size_t all = out + 5;
    struct line c = {.l = {.in = in, .out = out, .turned = turned},
                     .rows = rows};
    float *dx = zeros(rows * in), *dw = zeros(in * all), *db = zeros(out);

    c.x = randoms(rows * in, 2);
    c.w = randoms(in * all, 2);
    c.b = randoms(out, 2);
    c.y = zeros(rows * out);
    c.r = randoms(rows * out, 2);
    c.l.bias = c.b;
    c.l.w =
        turned ? nn_mat_f32(c.w, in, all, all) : nn_mat_f32(c.w, all, in, in);
    c.l.w = turned ? nn_mat_cols(&c.l.w, 2, out) : nn_mat_rows(&c.l.w, 2, out);
    nn_linear_back(pool, dx, c.r, &c.l, rows, false);
    nn_linear_back_weight(pool, dw, c.r, c.x, &c.l, rows);
    nn_column_sums(pool, db, c.r, rows, out);
    check("dx of a linear", line_loss, &c, c.x, dx, rows * in);
    check("dw of a linear", line_loss, &c, c.w, dw, in * all);
    check("db of a linear", line_loss, &c, c.b, db, out);
    float *list[] = {dx, dw, db, c.x, c.w, c.b, c.y, c.r};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}

Test(nn_back, linear)
{
    check_line(false, 7, 19, 11);
    check_line(true, 7, 19, 11);
    check_line(false, 300, 5, 40);
    check_line(true, 130, 33, 17);
}

/* ---- embedding ---------------------------------------------------------- */

struct embed {
    float *table, *places, *y, *r;
    int32_t ids[9];
    size_t positions[9];
};

#define H 70

static double embed_loss(void *arg)
{
    const struct embed *c = arg;
    const struct nn_mat table = nn_mat_f32(c->table, 6, H, H);
    const struct nn_mat places = nn_mat_f32(c->places, 5, H, H);

    nn_embed(pool, c->y, &table, 3, &places, c->ids, c->positions, 9);
    return weighed(c->y, c->r, 9 * H);
}

Test(nn_back, embedding)
{
    struct embed c = {randoms(6 * H, 2),
                      randoms(5 * H, 2),
                      zeros(9 * H),
                      randoms(9 * H, 2),
                      {1, 5, 1, 0, 2, 2, 1, 4, 0},
                      {0, 1, 2, 3, 4, 0, 1, 2, 3}};
    float *dt = zeros(6 * H), *dp = zeros(5 * H);
    const int32_t masked[9] = {1, 5, -1, 0, 2, 2, 1, 4, 0};

    nn_embed_back(pool, dt, c.r, c.ids, 9, H, 3, -1);
    nn_places_back(pool, dp, c.r, c.positions, 9, H);
    check("dtable", embed_loss, &c, c.table, dt, 6 * H);
    check("dplaces", embed_loss, &c, c.places, dp, 5 * H);
    memset(dt, 0, 6 * H * sizeof *dt);
    nn_embed_back(pool, dt, c.r, masked, 9, H, 1, 0);
    for (size_t i = 0; i < H; i++) {
        cr_assert_eq(dt[i], 0, "the padding row has a gradient");
        cr_assert_float_eq(dt[H + i], c.r[i] + c.r[6 * H + i], 1e-6);
    }
    float *list[] = {c.table, c.places, c.y, c.r, dt, dp};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}

/* ---- rope --------------------------------------------------------------- */

struct turn {
    float *x, *y, *r, cosine[5 * 3], sine[5 * 3];
};

static double turn_loss(void *arg)
{
    const struct turn *c = arg;

    memcpy(c->y, c->x, 5 * 2 * 8 * sizeof *c->y);
    nn_rope(pool, c->y, c->cosine, c->sine, 5, 2, 8, 3, false);
    return weighed(c->y, c->r, 5 * 2 * 8);
}

Test(nn_back, rope)
{
    const float inv[3] = {1, 0.3f, 0.1f};
    const size_t positions[5] = {0, 1, 2, 3, 7};
    struct turn c = {.x = randoms(80, 2), .y = zeros(80), .r = randoms(80, 2)};
    float *dx = malloc(80 * sizeof *dx);

    nn_rope_table(c.cosine, c.sine, positions, 5, inv, 3, 1.25f);
    memcpy(dx, c.r, 80 * sizeof *dx);
    nn_rope(pool, dx, c.cosine, c.sine, 5, 2, 8, 3, true);
    check("dx of rope", turn_loss, &c, c.x, dx, 80);
    free(c.x);
    free(c.y);
    free(c.r);
    free(dx);
}

/* ---- attention ---------------------------------------------------------- */

struct attend {
    struct nn_attention a;
    const struct nn_sequence *s;
    size_t n, rows;
    float *q, *k, *v, *o, *lse, *r;
};

static double attend_loss(void *arg)
{
    const struct attend *c = arg;

    nn_attention(pool, c->o, c->lse, c->q, c->k, c->v, &c->a, c->s, c->n);
    return weighed(c->o, c->r, c->rows * c->a.heads * c->a.d);
}

static void check_attention(const struct nn_attention *a,
                            const struct nn_sequence *s, size_t n, size_t rows)
{
    const size_t q = rows * a->heads * a->d, kv = rows * a->kv_heads * a->d;
    struct attend c = {.a = *a, .s = s, .n = n, .rows = rows};
    float *dq = zeros(q), *dk = zeros(kv), *dv = zeros(kv), *copy;

    c.q = randoms(q, 3);
    c.k = randoms(kv, 3);
    c.v = randoms(kv, 3);
    c.o = zeros(q);
    c.lse = zeros(rows * a->heads);
    c.r = randoms(q, 2);
    attend_loss(&c);
    copy = malloc(q * sizeof *copy);
    memcpy(copy, c.r, q * sizeof *copy);
    nn_attention_back(pool, copy, dk, dv, copy, c.q, c.k, c.v, c.o, c.lse, a, s,
                      n);
    nn_attention_back(pool, dq, dk, dv, c.r, c.q, c.k, c.v, c.o, c.lse, a, s,
                      n);
    cr_assert(memcmp(copy, dq, q * sizeof *dq) == 0, "in place");
    check("dq", attend_loss, &c, c.q, dq, q);
    check("dk", attend_loss, &c, c.k, dk, kv);
    check("dv", attend_loss, &c, c.v, dv, kv);
    float *list[] = {dq, dk, dv, copy, c.q, c.k, c.v, c.o, c.lse, c.r};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}

Test(nn_back, attention)
{
    const struct nn_attention plain = {2, 2, 6, 0.4f, 0, 0};
    const struct nn_attention grouped = {6, 2, 4, 0.5f, 0, 0};
    const struct nn_attention window = {4, 1, 4, 0.5f, 0, 5};
    const struct nn_attention capped = {2, 1, 8, 0.9f, 1.5f, 0};
    const struct nn_sequence one = {0, 70, 0, 0};
    const struct nn_sequence packed[] = {
        {0, 3, 0, 0}, {3, 1, 3, 0}, {4, 17, 4, 0}};

    check_attention(&plain, &one, 1, 70);
    check_attention(&grouped, packed, 3, 21);
    check_attention(&window, packed, 3, 21);
    check_attention(&window, &one, 1, 70);
    check_attention(&capped, packed, 3, 21);
}

/* A window that begins behind the first block of keys. */
Test(nn_back, attention_far_along)
{
    const struct nn_attention a = {1, 1, 4, 0.5f, 0, 9};
    const struct nn_sequence s = {0, 330, 0, 0};

    check_attention(&a, &s, 1, 330);
}

/* ---- activations -------------------------------------------------------- */

struct act {
    enum nn_act act;
    bool gated;
    float *g, *u, *y, *r;
};

#define ACTS 700

static double act_loss(void *arg)
{
    const struct act *c = arg;

    nn_activate(pool, c->y, c->g, c->gated ? c->u : NULL, ACTS, c->act);
    return weighed(c->y, c->r, ACTS);
}

static void check_act(enum nn_act act, bool gated)
{
    struct act c = {
        act,         gated,           randoms(ACTS, 8), randoms(ACTS, 2),
        zeros(ACTS), randoms(ACTS, 2)};
    float *dg = zeros(ACTS), *du = zeros(ACTS);

    nn_activate_back(pool, dg, gated ? du : NULL, c.r, c.g, gated ? c.u : NULL,
                     ACTS, act);
    check("dg", act_loss, &c, c.g, dg, ACTS);
    if (gated)
        check("du", act_loss, &c, c.u, du, ACTS);
    float *list[] = {dg, du, c.g, c.u, c.y, c.r};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}

Test(nn_back, activations)
{
    check_act(NN_SILU, true);
    check_act(NN_SILU, false);
    check_act(NN_GELU_TANH, true);
    check_act(NN_GELU_TANH, false);
}

/* ---- loss --------------------------------------------------------------- */

#define ROWS  11
#define VOCAB 5000 /* more than one run of logits */
#define IN    6

struct ce {
    struct nn_linear head;
    float cap, *x, *w, *z, *gathered;
    int32_t labels[ROWS];
};

static double ce_loss(void *arg)
{
    const struct ce *c = arg;
    double nll[ROWS], sum = 0;

    nn_head_loss(pool, nll, NULL, c->x, &c->head, c->cap, c->labels, ROWS, c->z,
                 c->gathered, 4);
    for (size_t i = 0; i < ROWS; i++)
        sum += nll[i];
    return sum / 8;
}

static void check_loss(float cap)
{
    struct ce c = {.cap = cap,
                   .x = randoms(ROWS * IN, 4),
                   .w = randoms(VOCAB * IN, 4),
                   .z = zeros(4 * VOCAB),
                   .gathered = zeros(4 * IN),
                   .labels = {3, NN_IGNORE, 4999, 4096, 7, NN_IGNORE, 7, 0, 12,
                              11, NN_IGNORE}};
    float *dx = randoms(ROWS * IN, 1), *dw = zeros(VOCAB * IN);
    float *x2 = zeros(4 * IN);
    const struct nn_loss_scratch s = {c.z, c.gathered, x2, 4};

    c.head = (struct nn_linear){
        .w = nn_mat_f32(c.w, VOCAB, IN, IN), .in = IN, .out = VOCAB};
    const double sum = nn_head_loss_back(pool, dx, dw, c.x, &c.head, cap,
                                         1.0f / 8, c.labels, ROWS, &s);
    cr_assert_float_eq(sum / 8, ce_loss(&c), 1e-12);
    check("dx of the loss", ce_loss, &c, c.x, dx, ROWS * IN);
    check("dhead", ce_loss, &c, c.w, dw, VOCAB * IN);
    for (size_t i = 0; i < IN; i++)
        cr_assert_eq(dx[IN + i], 0, "a row without a label");
    float *list[] = {dx, dw, x2, c.x, c.w, c.z, c.gathered};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}

/* The first of the largest is the likeliest; what is not labelled is not. */
Test(nn_back, right_labels)
{
    static const float z[4][3] = {{1, 2, 2}, {1, 2, 2}, {3, 1, 2}, {0, 9, 0}};
    static const int32_t labels[4] = {1, 2, 0, NN_IGNORE};
    static const bool want[4] = {true, false, true, false};
    bool right[4] = {false, true, false, true};
    double nll[4];

    nn_cross_entropy(pool, nll, NULL, right, z[0], labels, 4, 3);
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(right[i], want[i], "row %zu", i);
}

Test(nn_back, cross_entropy)
{
    check_loss(0);
    check_loss(3);
}

/* ---- threads ------------------------------------------------------------ */

/* Column sums and attention with one thread and with three. */
Test(nn_back, the_same_bits_at_any_number_of_threads)
{
    const struct nn_attention a = {6, 2, 4, 0.5f, 0, 0};
    const struct nn_sequence s[] = {{0, 90, 0, 0}, {90, 110, 90, 0}};
    const size_t n = 200 * 24, kv = 200 * 8;
    float *q = randoms(n, 3), *k = randoms(kv, 3), *v = randoms(kv, 3);
    float *o = zeros(n), *lse = zeros(200 * 6), *r = randoms(n, 2);
    float *out[2];

    for (int t = 0; t < 2; t++) {
        struct pq_error e = PQ_ERROR_INIT;
        struct nn_pool *p = nn_pool_new(t ? 3 : 1, pq_kernels_best(), &e);
        cr_assert(p && nn_pool_spare(p, 1 << 16, &e) == 0);
        out[t] = zeros(n + 2 * kv + 24);
        nn_attention(p, o, lse, q, k, v, &a, s, 2);
        nn_attention_back(p, out[t], out[t] + n, out[t] + n + kv, r, q, k, v, o,
                          lse, &a, s, 2);
        nn_column_products(p, out[t] + n + 2 * kv, r, q, NULL, NULL, 200, 24);
        nn_pool_free(p);
    }
    cr_assert(memcmp(out[0], out[1], (n + 2 * kv + 24) * sizeof **out) == 0);
    float *list[] = {q, k, v, o, lse, r, out[0], out[1]};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        free(list[i]);
}
