/*
 * Training: gradients and losses against torch (testdata/nn/train.json,
 * tests/oracle/make_train.py), and what must not change a bit.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "rng.h"
#include "trainee.h"

#define STEPS 20

static const cJSON *goldens(void)
{
    static const cJSON *j; /* lives until the process ends */

    if (!j)
        j = read_json("testdata/nn/train.json");
    return j;
}

/* ---- against torch ------------------------------------------------------ */

/* The product with u - 0.5 of a stream, or the norm. */
static double summary(const struct pq_train_param *p, int which)
{
    const size_t n = trainee_numbers(p);
    float *u = malloc(n * sizeof *u);
    char stream[160];
    struct pq_rng r;
    double sum = 0;

    snprintf(stream, sizeof stream, "%d %s", which, p->name);
    pq_rng_init(&r, 1, stream);
    pq_rng_uniform(&r, 0, u, n);
    for (size_t i = 0; i < n; i++)
        sum += (double)p->g[i] * (which ? u[i] - 0.5 : (double)p->g[i]);
    free(u);
    return which ? sum : sqrt(sum);
}

static void check_gradients(const cJSON *j)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
    const char *name = cJSON_GetStringValue(key(j, "name"));
    const cJSON *all = key(j, "parameters"), *v;
    double worst = 0, total = 0;
    struct trainee s;

    trainee_open(&s, name, &o);
    const double loss = trainee_gradient(&s),
                 expected = key(j, "loss")->valuedouble;
    cr_assert_float_eq(loss, expected, 2e-5, "%s: %g", name, loss);
    cr_assert_eq(pq_train_params(s.t), cJSON_GetArraySize(all), "%s", name);
    cJSON_ArrayForEach(v, all) total +=
        pow(cJSON_GetArrayItem(v, 0)->valuedouble, 2);
    cJSON_ArrayForEach(v, all)
    {
        const struct pq_train_param p = trainee_named(&s, v->string);
        const double norm = cJSON_GetArrayItem(v, 0)->valuedouble;
        for (int i = 0; i < 3; i++) {
            const double want = cJSON_GetArrayItem(v, i)->valuedouble;
            /* some are 0 in exact arithmetic: biases of k without rope */
            const double scale = fmax(norm, 1e-4 * sqrt(total));
            const double off = fabs(summary(&p, i) - want) / scale;
            worst = off > worst || off != off ? off : worst;
            cr_assert(off <= (i ? 3e-5 : 1e-4), "%s: %s: %d: off by %g", name,
                      p.name, i, off);
        }
    }
    cr_log_info("%s: gradients are off by %.2g", name, worst);
    pq_train_free(s.t);
}

Test(train, gradients_are_those_of_torch)
{
    const cJSON *c;

    cJSON_ArrayForEach(c, key(goldens(), "cases")) check_gradients(c);
}

static struct pq_train_options method(const char *name, int32_t *prompt)
{
    const cJSON *ids = key(goldens(), "prompt"), *v;
    struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    size_t n = 0;

    cJSON_ArrayForEach(v, ids) prompt[n++] = (int32_t)v->valuedouble;
    o.rslora = strcmp(name, "rslora") == 0;
    o.dora = strcmp(name, "dora") == 0;
    o.neftune = strcmp(name, "neftune") == 0 ? 5 : 0;
    if (strcmp(name, "full") == 0 || strncmp(name, "sparse", 6) == 0)
        o.what = PQ_TRAIN_WEIGHTS;
    if (strcmp(name, "prompt") == 0) {
        o.what = PQ_TRAIN_PROMPT;
        o.prompt_rows = n;
        o.prompt_ids = prompt;
    }
    return o;
}

/* "sparse", "sparse-nf4", ... */
static void make_sparse(struct trainee *s, const char *name)
{
    const struct pq_train_sparsity sparsity = {0, 0.7, 2, 3, 4, 0};
    struct pq_error e = PQ_ERROR_INIT;

    if (strncmp(name, "sparse", 6) != 0)
        return;
    cr_assert_eq(pq_train_sparsify(s->t, &sparsity, &e), 0, "%s", e.msg);
    if (name[6] == '-')
        cr_assert_eq(pq_train_round(s->t,
                                    strcmp(name + 7, "nf4") ? PQ_INT8 : PQ_NF4,
                                    PQ_F32, &e),
                     0, "%s", e.msg);
}

static void check_losses(const char *name, const cJSON *losses)
{
    int32_t prompt[8];
    const struct pq_train_options o = method(losses->string, prompt);
    const double lr =
        key(key(goldens(), "rates"), losses->string)->valuedouble;
    struct trainee s;
    const cJSON *v;
    int i = 0;

    trainee_open(&s, name, &o);
    make_sparse(&s, losses->string);
    cJSON_ArrayForEach(v, losses)
    {
        const double loss = trainee_gradient(&s);
        cr_assert_float_eq(loss, v->valuedouble, 1e-3, "%s %s: step %d: %g, %g",
                           name, losses->string, i, loss, v->valuedouble);
        trainee_step(&s, lr);
        i++;
    }
    cr_assert_eq(i, STEPS);
    pq_train_free(s.t);
}

Test(train, twenty_steps_lose_what_torch_loses)
{
    const cJSON *c, *m;
    int n = 0;

    cJSON_ArrayForEach(c, key(goldens(), "cases"))
    {
        const cJSON *losses = cJSON_GetObjectItemCaseSensitive(c, "losses");
        cJSON_ArrayForEach(m, losses)
        {
            check_losses(cJSON_GetStringValue(key(c, "name")), m);
            n++;
        }
    }
    cr_assert_geq(n, 27);
}

/* ---- the same bits ------------------------------------------------------ */

/* Loss and parameters after some steps, as one array. */
static float *run(const char *name, const struct pq_train_options *o,
                  const char *sparse, size_t *n)
{
    struct trainee s;
    float *out;

    trainee_open(&s, name, o);
    make_sparse(&s, sparse);
    const uint64_t all = pq_train_about(s.t).trained;
    out = malloc((all + 4) * sizeof *out);
    *n = 0;
    for (int i = 0; i < 4; i++) {
        out[(*n)++] = (float)trainee_gradient(&s);
        trainee_step(&s, 1e-2);
    }
    for (size_t i = 0; i < pq_train_params(s.t); i++) {
        const struct pq_train_param p = pq_train_param(s.t, i);
        memcpy(out + *n, p.w, trainee_numbers(&p) * sizeof *out);
        *n += trainee_numbers(&p);
    }
    pq_train_free(s.t);
    return out;
}

static void check_same(const char *name, const struct pq_train_options *o,
                       const char *sparse)
{
    struct pq_train_options other = *o;
    size_t n, m;
    float *x, *y;

    other.threads = 3;
    other.recompute = true;
    x = run(name, o, sparse, &n);
    y = run(name, &other, sparse, &m);
    cr_assert(n == m && memcmp(x, y, n * sizeof *x) == 0,
              "%s: threads and recomputation", name);
    free(y);
    other.threads = 1;
    other.kernels = pq_kernels_scalar();
    y = run(name, &other, sparse, &m);
    cr_assert(n == m && memcmp(x, y, n * sizeof *x) == 0, "%s: kernels", name);
    free(x);
    free(y);
}

Test(train, bits_do_not_depend_on_threads_kernels_recomputation)
{
    const char *const names[] = {"qwen3", "gemma2", "gpt2"};

    for (size_t i = 0; i < 3; i++) {
        struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
        check_same(names[i], &o, "");
        check_same(names[i], &o, "sparse-nf4");
        check_same(names[i], &o, "sparse-int8");
        o.what = PQ_TRAIN_LORA | PQ_TRAIN_PROMPT;
        o.dora = true;
        o.prompt_rows = 3;
        check_same(names[i], &o, "");
    }
}

/* The loss is that of pq_nn_score(), to the last bit. */
Test(train, the_loss_is_that_of_evaluation)
{
    static const char *const names[] = {"llama", "gemma2", "gpt2-scales",
                                        "phi3-short"};

    for (size_t i = 0; i < 4; i++) {
        const struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
        struct pq_error e = PQ_ERROR_INIT;
        struct trainee s;
        double nll[NN_MANY], want = 0, got;

        trainee_open(&s, names[i], &o);
        struct pq_nn *nn = nn_case_open(s.c, pq_kernels_best(), 1, 0);
        const struct pq_nn_text text = {s.c->ids, s.c->n, 0, nll};
        cr_assert_eq(pq_nn_score(nn, &text, 1, NULL, NULL, &e), 0);
        for (size_t j = 1; j < s.c->n; j++)
            want += nll[j];
        cr_assert_eq(pq_train_score(s.t, s.texts, 1, &got, &e), 0);
        cr_assert_eq(got, want, "%s: %.17g, %.17g", names[i], got, want);
        cr_assert_eq(pq_train_gradient(s.t, s.texts, 1, 1, &got, &e), 0);
        cr_assert_eq(got, want, "%s: %.17g, %.17g", names[i], got, want);
        pq_nn_free(nn);
        pq_train_free(s.t);
    }
}

/* ---- batches ------------------------------------------------------------ */

Test(train, pieces_add_up_to_the_big_batch)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_WEIGHTS);
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee a, b;
    double nll;

    trainee_open(&a, "llama", &o);
    trainee_open(&b, "llama", &o);
    trainee_gradient(&a);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pq_train_gradient(b.t, &b.texts[i], 1,
                                       1.0 / (double)b.labels, &nll, &e),
                     0, "%s", e.msg);
    for (size_t i = 0; i < pq_train_params(a.t); i++) {
        const struct pq_train_param p = pq_train_param(a.t, i);
        const struct pq_train_param q = pq_train_param(b.t, i);
        double off = 0, all = 0;
        for (size_t j = 0; j < trainee_numbers(&p); j++) {
            off += pow((double)p.g[j] - q.g[j], 2);
            all += pow(p.g[j], 2);
        }
        cr_assert(sqrt(off) <= 1e-6 * sqrt(all), "%s: %g of %g", p.name,
                  sqrt(off), sqrt(all));
    }
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* Noise is in training alone, the same for a batch and its pieces. */
Test(train, neftune)
{
    struct pq_train_options o =
        trainee_options(PQ_TRAIN_LORA | PQ_TRAIN_PROMPT);
    struct pq_error e = PQ_ERROR_INIT;
    struct trainee a, b;
    double part[3], score;

    o.prompt_rows = 2;
    trainee_open(&a, "llama", &o);
    o.neftune = 5;
    trainee_open(&b, "llama", &o);
    const double plain = trainee_gradient(&a), noisy = trainee_gradient(&b);
    cr_assert_gt(fabs(plain - noisy), 1e-3);
    cr_assert_eq(pq_train_score(b.t, b.texts, 2, &score, &e), 0);
    cr_assert_float_eq(score / (double)b.labels, plain, 1e-9);
    pq_train_free(b.t);
    trainee_open(&b, "llama", &o);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pq_train_gradient(b.t, &b.texts[i], 1, 1, &part[i], &e),
                     0);
    cr_assert_float_eq((part[0] + part[1]) / (double)b.labels, noisy, 1e-9);
    trainee_step(&b, 0);
    cr_assert_eq(pq_train_gradient(b.t, &b.texts[0], 1, 1, &part[2], &e), 0);
    cr_assert_neq(part[0], part[2], "the noise of another step");
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* Labels that are ignored add neither loss nor gradient. */
Test(train, only_labels_count)
{
    const struct pq_train_options o = trainee_options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    int32_t labels[NN_MANY];
    double whole, front, back;
    struct trainee s;

    trainee_open(&s, "llama", &o);
    cr_assert_eq(pq_train_score(s.t, s.texts, 1, &whole, &e), 0);
    s.texts[0].labels = labels;
    for (int half = 0; half < 2; half++) {
        for (size_t i = 0; i < s.c->n; i++)
            labels[i] = (i < 10) == half ? s.c->ids[i] : PQ_TRAIN_IGNORE;
        cr_assert_eq(pq_train_labels(s.t, s.texts, 1), half ? 9 : s.c->n - 10);
        cr_assert_eq(pq_train_score(s.t, s.texts, 1, half ? &front : &back, &e),
                     0);
    }
    cr_assert_float_eq(front + back, whole, 1e-9);
    for (size_t i = 0; i < s.c->n; i++)
        labels[i] = PQ_TRAIN_IGNORE;
    cr_assert_eq(pq_train_gradient(s.t, s.texts, 1, 1, &whole, &e), 0);
    cr_assert_eq(whole, 0);
    for (size_t i = 0; i < pq_train_params(s.t); i++)
        cr_assert_eq(pq_train_param(s.t, i).g[0], 0);
    pq_train_free(s.t);
}
