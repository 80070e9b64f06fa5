/*
 * Training: adapters, sparsity, schedules, and what is refused.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/train_internal.h"
#include "quant/quant_internal.h"
#include "trainee.h"

/* ---- adapters ----------------------------------------------------------- */

/* Adapters on the last layer alone get the gradient they get among others. */
Test(train_methods, the_lowest_layer_ends_the_backward_pass)
{
    static const char *const last[] = {"1.self_attn.v_proj", "1.mlp.up_proj"};
    struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    struct trainee a, b;

    trainee_open(&a, "llama", &o);
    o.targets = last;
    o.n_targets = 2;
    trainee_open(&b, "llama", &o);
    cr_assert_eq(pq_train_params(b.t), 4);
    const double x = trainee_gradient(&a), y = trainee_gradient(&b);
    cr_assert_eq(x, y);
    for (size_t i = 0; i < 4; i++) {
        const struct pq_train_param q = pq_train_param(b.t, i);
        const struct pq_train_param p = trainee_named(&a, q.name);
        cr_assert(memcmp(p.g, q.g, trainee_numbers(&p) * sizeof *p.g) == 0,
                  "%s", q.name);
    }
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* Along its gradient the loss of a hybrid falls as fast as that says. */
static void check_slope(const char *name, const struct pq_train_options *o)
{
    struct pq_error e = PQ_ERROR_INIT;
    double squares = 0, f[2];
    struct trainee s;

    trainee_open(&s, name, o);
    for (int i = 0; i < 3; i++) { /* away from B = 0 */
        trainee_gradient(&s);
        trainee_step(&s, 1e-2);
    }
    trainee_gradient(&s);
    for (size_t i = 0; i < pq_train_params(s.t); i++) {
        const struct pq_train_param p = pq_train_param(s.t, i);
        for (size_t j = 0; j < trainee_numbers(&p); j++)
            squares += (double)p.g[j] * p.g[j];
    }
    const float h = (float)(1e-3 / sqrt(squares));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < pq_train_params(s.t); i++) {
            const struct pq_train_param p = pq_train_param(s.t, i);
            for (size_t j = 0; j < trainee_numbers(&p); j++)
                p.w[j] += (side ? -2 : 1) * h * p.g[j];
        }
        pq_train_changed(s.t);
        cr_assert_eq(pq_train_score(s.t, s.texts, 2, &f[side], &e), 0);
    }
    const double slope = (f[0] - f[1]) / (double)s.labels / (2 * h);
    cr_assert_float_eq(slope / squares, 1, 1e-2, "%s: %g for %g", name, slope,
                       squares);
    pq_train_free(s.t);
}

Test(train_methods, the_gradient_of_a_hybrid_is_the_slope_of_its_loss)
{
    struct pq_train_options o =
        trainee_options(PQ_TRAIN_LORA | PQ_TRAIN_PROMPT);

    o.prompt_rows = 4;
    check_slope("llama", &o);
    check_slope("gpt2", &o);
    check_slope("gemma2", &o);
    check_slope("phi3", &o);
}

/* Fewer rows before a text are those of a shorter prompt; none, no prompt. */
Test(train_methods, a_part_of_a_soft_prompt_can_be_used)
{
    struct pq_train_options o = trainee_options(PQ_TRAIN_PROMPT);
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee a, b;
    double x, y;

    o.prompt_rows = 4;
    trainee_open(&a, "llama", &o);
    for (size_t rows = 3; rows > 0; rows--) {
        o.prompt_rows = rows;
        trainee_open(&b, "llama", &o);
        memcpy(pq_train_param(b.t, 0).w, pq_train_param(a.t, 0).w,
               rows * pq_train_about(a.t).hidden * sizeof(float));
        pq_train_use_prompt(a.t, rows);
        cr_assert_eq(pq_train_score(a.t, a.texts, 2, &x, &e), 0);
        cr_assert_eq(pq_train_score(b.t, b.texts, 2, &y, &e), 0);
        cr_assert_eq(x, y, "%zu rows: %.17g, %.17g", rows, x, y);
        cr_assert_eq(pq_train_labels(a.t, a.texts, 2), b.labels);
        pq_train_free(b.t);
    }
    o = trainee_options(PQ_TRAIN_LORA); /* begins as nothing */
    trainee_open(&b, "llama", &o);
    pq_train_use_prompt(a.t, 0);
    cr_assert_eq(pq_train_score(a.t, a.texts, 2, &x, &e), 0);
    cr_assert_eq(pq_train_score(b.t, b.texts, 2, &y, &e), 0);
    cr_assert_eq(x, y, "no rows: %.17g, %.17g", x, y);
    cr_assert_eq(pq_train_labels(a.t, a.texts, 2), b.labels);
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* PiSSA takes out of the weights what it puts in the adapter. */
Test(train_methods, pissa_begins_with_the_model_as_it_is)
{
    struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    const char *const names[] = {"llama", "gpt2", "phi3"};

    for (size_t i = 0; i < 3; i++) {
        struct trainee a, b;
        double x, y, norm = 0;
        o.pissa = false;
        trainee_open(&a, names[i], &o);
        o.pissa = true;
        trainee_open(&b, names[i], &o);
        cr_assert_eq(pq_train_score(a.t, a.texts, 2, &x, &e), 0);
        cr_assert_eq(pq_train_score(b.t, b.texts, 2, &y, &e), 0);
        cr_assert_float_eq(x, y, 1e-4 * x, "%s: %g, %g", names[i], x, y);
        const struct pq_train_param p = pq_train_param(b.t, 1);
        for (size_t j = 0; j < trainee_numbers(&p); j++)
            norm += (double)p.w[j] * p.w[j];
        cr_assert_gt(norm, 1);
        pq_train_free(a.t);
        pq_train_free(b.t);
    }
}

/* Puts a matrix in 4 bits, or what these decode to. */
static void encode(struct nn_mat *m, bool decoded, void **owned)
{
    const struct pq_kernels *k = pq_kernels_best();
    const size_t n = m->rows * m->cols, block = 64;
    uint8_t *codes = malloc(n / 2);
    float *absmax = malloc(n / block * sizeof *absmax);
    float *w = malloc(n * sizeof *w);

    cr_assert_eq(n % block, 0);
    k->nf4_encode(m->data, n, block, codes, absmax);
    k->nf4_decode(codes, absmax, n, block, w);
    if (decoded) {
        m->data = w;
    } else {
        m->codec = (struct pq_codec){PQ_NF4, (uint32_t)block, 0};
        m->data = codes;
        m->scale = absmax;
        m->map = pq_quant_map(PQ_NF4);
    }
    owned[0] = codes;
    owned[1] = absmax;
    owned[2] = w;
}

/* On a base in 4 bits all is as on what that decodes to, to the last bit. */
Test(train_methods, a_base_in_four_bits_is_what_it_decodes_to)
{
    struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    float *out[2];
    size_t n = 0;

    o.dora = true;
    for (int decoded = 0; decoded < 2; decoded++) {
        void *owned[2 * 7 * 3];
        struct trainee s;
        size_t k = 0;
        trainee_open(&s, "llama", &o);
        for (size_t i = 0; i < 2; i++) {
            struct nn_layer *l = &s.t->m.layers[i];
            struct nn_linear *all[] = {&l->q,    &l->k,  &l->v,   &l->o,
                                       &l->gate, &l->up, &l->down};
            for (size_t j = 0; j < 7; j++, k += 3)
                encode(&all[j]->w, decoded, owned + k);
        }
        pq_train_changed(s.t);
        for (int i = 0; i < 3; i++) {
            trainee_gradient(&s);
            trainee_step(&s, 1e-2);
        }
        n = s.t->params.total;
        out[decoded] = malloc(n * sizeof(float));
        memcpy(out[decoded], s.t->params.w, n * sizeof(float));
        pq_train_free(s.t);
        while (k > 0)
            free(owned[--k]);
    }
    cr_assert(memcmp(out[0], out[1], n * sizeof(float)) == 0);
    free(out[0]);
    free(out[1]);
}

/* ---- sparsity ----------------------------------------------------------- */

static size_t zeros(const struct pq_train_param *p)
{
    size_t n = 0;

    for (size_t i = 0; i < trainee_numbers(p); i++)
        n += p->w[i] == 0;
    return n;
}

static void check_sparse(double regrow)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
    const struct pq_train_sparsity sparsity = {0.1, 0.75, 2, 3, 4, regrow};
    /* before steps 2, 5, 8, 11, 14 */
    const double share[] = {0.1, 0.75 - 0.65 * 27 / 64, 0.75 - 0.65 / 8,
                            0.75 - 0.65 / 64, 0.75};
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee s;

    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_sparsify(s.t, &sparsity, &e), 0);
    for (int i = 0; i < 17; i++) {
        trainee_gradient(&s);
        trainee_step(&s, 1e-2);
        const struct pq_train_param p =
            trainee_named(&s, "model.layers.1.mlp.up_proj.weight");
        size_t held = 0;
        for (size_t j = 0; j < trainee_numbers(&p); j++)
            held += !p.mask[j];
        const double want = i < 2 ? 0 : share[i < 14 ? (i - 2) / 3 : 4];
        cr_assert_eq(held, (size_t)(want * (double)trainee_numbers(&p)),
                     "step %d", i);
        cr_assert_eq(zeros(&p), held, "step %d", i);
    }
    const struct pq_train_param p =
        trainee_named(&s, "model.embed_tokens.weight");
    cr_assert_eq(p.mask, NULL);
    const double loss = trainee_gradient(&s);
    cr_assert_lt(loss, 5, "%g", loss);
    pq_train_free(s.t);
}

Test(train_methods, sparsity_follows_its_schedule)
{
    check_sparse(0);
    check_sparse(0.2);
}

Test(train_methods, what_is_made_sparse_and_rounded)
{
    struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee s;

    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_round(s.t, PQ_FP4, PQ_F32, &e), -1);
    cr_assert(strstr(e.msg, "int8 or nf4"), "%s", e.msg);
    e.code = PQ_OK;
    cr_assert_eq(pq_train_round(s.t, PQ_PLAIN, PQ_U8, &e), -1);
    e.code = PQ_OK;
    /* another type begins with what was there, not with what is rounded */
    const struct pq_train_param p =
        trainee_named(&s, "model.layers.1.mlp.up_proj.weight");
    const float first = p.w[0];
    cr_assert_eq(pq_train_round(s.t, PQ_NF4, PQ_F32, &e), 0, "%s", e.msg);
    cr_assert_neq(p.w[0], first);
    cr_assert_eq(pq_train_round(s.t, PQ_PLAIN, PQ_F32, &e), 0, "%s", e.msg);
    cr_assert_eq(p.w[0], first);
    cr_assert_eq(trainee_named(&s, "model.norm.weight").exact, NULL);
    pq_train_free(s.t);
    o = trainee_options(PQ_TRAIN_LORA);
    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_round(s.t, PQ_NF4, PQ_F32, &e), -1);
    cr_assert(strstr(e.msg, "only weights"), "%s", e.msg);
    pq_train_free(s.t);
}

/* ---- schedules ---------------------------------------------------------- */

Test(train_methods, schedules)
{
    const struct pq_schedule linear = {PQ_SCHEDULE_LINEAR, 4, 14, 0, 0};
    const struct pq_schedule cosine = {PQ_SCHEDULE_COSINE, 0, 10, 0, 0.1};
    const struct pq_schedule constant = {PQ_SCHEDULE_CONSTANT, 2, 10, 0, 0};
    const struct pq_schedule wsd = {PQ_SCHEDULE_WSD, 2, 20, 8, 0};

    cr_assert_eq(pq_schedule_at(&linear, 0), 0);
    cr_assert_eq(pq_schedule_at(&linear, 3), 0.75);
    cr_assert_eq(pq_schedule_at(&linear, 4), 1);
    cr_assert_float_eq(pq_schedule_at(&linear, 9), 0.5, 1e-12);
    cr_assert_eq(pq_schedule_at(&linear, 14), 0);
    cr_assert_eq(pq_schedule_at(&cosine, 0), 1);
    cr_assert_float_eq(pq_schedule_at(&cosine, 5), 0.55, 1e-12);
    cr_assert_float_eq(pq_schedule_at(&cosine, 10), 0.1, 1e-12);
    cr_assert_eq(pq_schedule_at(&constant, 1), 0.5);
    cr_assert_eq(pq_schedule_at(&constant, 9), 1);
    cr_assert_eq(pq_schedule_at(&wsd, 11), 1);
    cr_assert_float_eq(pq_schedule_at(&wsd, 16), 0.5, 1e-12);
    cr_assert_eq(pq_schedule_at(&wsd, 20), 0);
}

/* ---- what is refused ---------------------------------------------------- */

static void refuses(const struct pq_train_options *o, const char *message)
{
    const struct nn_case *c = nn_case_named("llama");
    struct pq_source *s = nn_case_source(c, NULL);
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_train *t;

    cr_assert_eq(pq_train_open(s, o, &t, &e), -1);
    cr_assert(strstr(e.msg, message), "%s", e.msg);
    pq_source_free(s);
}

Test(train_methods, options_that_make_no_sense)
{
    static const char *const targets[] = {"q_proj", "c_attn"};
    const int32_t ids[] = {40};
    struct pq_train_options o = trainee_options(0);

    refuses(&o, "either all weights");
    o.what = PQ_TRAIN_WEIGHTS | PQ_TRAIN_PROMPT;
    refuses(&o, "either all weights");
    o.what = PQ_TRAIN_PROMPT;
    refuses(&o, "no rows");
    o.prompt_rows = 1;
    o.prompt_ids = ids;
    refuses(&o, "token 40");
    o = trainee_options(PQ_TRAIN_LORA);
    o.targets = targets;
    o.n_targets = 2;
    refuses(&o, "c_attn");
    o.n_targets = 1;
    o.rank = 0;
    refuses(&o, "rank");
    o.rank = 1000;
    o.pissa = true;
    refuses(&o, "rank 1000");
}

Test(train_methods, texts_that_cannot_be)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    const int32_t bad[] = {1, 2, 32}, ids[70] = {0}, label[] = {1, -7, 2};
    const struct pq_train_text texts[] = {
        {bad, NULL, 3}, {ids, NULL, 0}, {ids, NULL, 70}, {ids, label, 3}};
    const char *const say[] = {"id 32", "no tokens", "64 positions",
                               "label -7"};
    struct trainee s;
    double nll;

    trainee_open(&s, "gpt2", &o);
    for (int i = 0; i < 4; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        cr_assert_eq(pq_train_gradient(s.t, &texts[i], 1, 1, &nll, &e), -1);
        cr_assert(strstr(e.msg, say[i]), "%s", e.msg);
    }
    pq_train_free(s.t);
}

Test(train_methods, a_gradient_that_is_not_finite_changes_nothing)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee s;
    double nll;

    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_gradient(s.t, s.texts, 2, INFINITY, &nll, &e), 0);
    const struct pq_train_param p = pq_train_param(s.t, 0);
    const float before = p.w[5];
    cr_assert_eq(pq_train_step(s.t, 1e-2, NULL, &e), -1);
    cr_assert(strstr(e.msg, "step 1"), "%s", e.msg);
    cr_assert_eq(p.w[5], before);
    cr_assert_eq(pq_train_steps(s.t), 0);
    pq_train_free(s.t);
}

/* What it says it takes grows with the batch and shrinks with recompute. */
Test(train_methods, memory_is_known_beforehand)
{
    struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
    uint64_t small, large, again;
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee s;

    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_bytes(s.t, 64, 32, &small, &e), 0);
    cr_assert_eq(pq_train_bytes(s.t, 6400, 32, &large, &e), 0);
    cr_assert_gt(large, small);
    pq_train_free(s.t);
    o.recompute = true;
    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_bytes(s.t, 6400, 32, &again, &e), 0);
    cr_assert_lt(again, large);
    cr_assert_eq(pq_train_bytes(s.t, SIZE_MAX / 2, 32, &large, &e), -1);
    pq_train_free(s.t);
}
