/*
 * Training: gradients and losses against torch (testdata/nn/train.json,
 * tests/oracle/make_train.py), and what must not change a bit.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn.h"
#include "nn/train.h"
#include "pq_train.h"
#include "quant/quant_internal.h"
#include "rng.h"

#define STEPS 20

static const cJSON *key(const cJSON *j, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name);

    cr_assert(v, "no %s", name);
    return v;
}

static const cJSON *goldens(void)
{
    static const cJSON *j; /* lives until the process ends */
    FILE *f = j ? NULL : fopen("testdata/nn/train.json", "rb");

    if (f) {
        char *text = calloc(1, 1 << 20);
        cr_assert(text && fread(text, 1, (1 << 20) - 1, f) > 0);
        fclose(f);
        j = cJSON_Parse(text);
        free(text);
    }
    cr_assert(j, "testdata/nn/train.json");
    return j;
}

/* ---- a model and its two texts ------------------------------------------ */

struct setup {
    const struct nn_case *c;
    int32_t more[9];
    struct pq_train_text texts[2];
    struct pq_train *t;
    uint64_t labels;
};

static void set_texts(struct setup *s, const char *name)
{
    struct pq_rng r;
    char stream[64];
    float u[9];

    s->c = nn_case_named(name);
    snprintf(stream, sizeof stream, "more ids of %s", name);
    pq_rng_init(&r, 1, stream);
    pq_rng_uniform(&r, 0, u, 9);
    for (int i = 0; i < 9; i++)
        s->more[i] = (int32_t)(u[i] * 32);
    s->texts[0] = (struct pq_train_text){s->c->ids, NULL, s->c->n};
    s->texts[1] = (struct pq_train_text){s->more, NULL, 9};
}

static struct pq_train_options options(unsigned what)
{
    struct pq_train_options o = PQ_TRAIN_OPTIONS_INIT;

    o.kernels = pq_kernels_best();
    o.threads = 2;
    o.what = what;
    o.seed = 1;
    o.rank = 4;
    o.alpha = 8;
    o.weight_decay = 0.1;
    return o;
}

static void open_setup(struct setup *s, const char *name,
                       const struct pq_train_options *o)
{
    struct pq_error e = PQ_ERROR_INIT;

    set_texts(s, name);
    struct pq_source *source = nn_case_source(s->c, NULL);
    cr_assert_eq(pq_train_open(source, o, &s->t, &e), 0, "%s", e.msg);
    pq_source_free(source);
    s->labels = pq_train_labels(s->t, s->texts, 2);
}

/* The mean loss of both texts; adds its gradient. */
static double gradient(struct setup *s)
{
    struct pq_error e = PQ_ERROR_INIT;
    double nll;

    cr_assert_eq(pq_train_gradient(s->t, s->texts, 2, 1.0 / (double)s->labels,
                                   &nll, &e),
                 0, "%s", e.msg);
    return nll / (double)s->labels;
}

static void step(struct setup *s, double lr)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert_eq(pq_train_step(s->t, lr, NULL, &e), 0, "%s", e.msg);
}

static struct pq_train_param named(struct setup *s, const char *name)
{
    for (size_t i = 0; i < pq_train_params(s->t); i++) {
        struct pq_train_param p = pq_train_param(s->t, i);
        if (strcmp(p.name, name) == 0)
            return p;
    }
    cr_assert_fail("no parameter %s", name);
    return pq_train_param(s->t, 0);
}

static size_t numbers(const struct pq_train_param *p)
{
    return p->rows * (p->cols ? p->cols : 1);
}

/* ---- against torch ------------------------------------------------------ */

/* The product with u - 0.5 of a stream, or the norm. */
static double summary(const struct pq_train_param *p, int which)
{
    const size_t n = numbers(p);
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
    const struct pq_train_options o = options(PQ_TRAIN_WEIGHTS);
    const char *name = cJSON_GetStringValue(key(j, "name"));
    const cJSON *all = key(j, "parameters"), *v;
    double worst = 0, total = 0;
    struct setup s;

    open_setup(&s, name, &o);
    const double loss = gradient(&s), expected = key(j, "loss")->valuedouble;
    cr_assert_float_eq(loss, expected, 2e-5, "%s: %g", name, loss);
    cr_assert_eq(pq_train_params(s.t), cJSON_GetArraySize(all), "%s", name);
    cJSON_ArrayForEach(v, all) total +=
        pow(cJSON_GetArrayItem(v, 0)->valuedouble, 2);
    cJSON_ArrayForEach(v, all)
    {
        const struct pq_train_param p = named(&s, v->string);
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
    struct pq_train_options o = options(PQ_TRAIN_LORA);
    size_t n = 0;

    cJSON_ArrayForEach(v, ids) prompt[n++] = (int32_t)v->valuedouble;
    o.rslora = strcmp(name, "rslora") == 0;
    o.dora = strcmp(name, "dora") == 0;
    if (strcmp(name, "full") == 0)
        o.what = PQ_TRAIN_WEIGHTS;
    if (strcmp(name, "prompt") == 0) {
        o.what = PQ_TRAIN_PROMPT;
        o.prompt_rows = n;
        o.prompt_ids = prompt;
    }
    return o;
}

static void check_losses(const char *name, const cJSON *losses)
{
    int32_t prompt[8];
    const struct pq_train_options o = method(losses->string, prompt);
    const double lr =
        key(key(goldens(), "rates"), losses->string)->valuedouble;
    struct setup s;
    const cJSON *v;
    int i = 0;

    open_setup(&s, name, &o);
    cJSON_ArrayForEach(v, losses)
    {
        const double loss = gradient(&s);
        cr_assert_float_eq(loss, v->valuedouble, 1e-3, "%s %s: step %d: %g, %g",
                           name, losses->string, i, loss, v->valuedouble);
        step(&s, lr);
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
    cr_assert_geq(n, 15);
}

/* ---- the same bits ------------------------------------------------------ */

/* Loss and parameters after some steps, as one array. */
static float *run(const char *name, const struct pq_train_options *o,
                  size_t *n)
{
    struct setup s;
    float *out;

    open_setup(&s, name, o);
    const uint64_t all = pq_train_about(s.t).trained;
    out = malloc((all + 4) * sizeof *out);
    *n = 0;
    for (int i = 0; i < 4; i++) {
        out[(*n)++] = (float)gradient(&s);
        step(&s, 1e-2);
    }
    for (size_t i = 0; i < pq_train_params(s.t); i++) {
        const struct pq_train_param p = pq_train_param(s.t, i);
        memcpy(out + *n, p.w, numbers(&p) * sizeof *out);
        *n += numbers(&p);
    }
    pq_train_free(s.t);
    return out;
}

static void check_same(const char *name, const struct pq_train_options *o)
{
    struct pq_train_options other = *o;
    size_t n, m;
    float *x, *y;

    other.threads = 3;
    other.recompute = true;
    x = run(name, o, &n);
    y = run(name, &other, &m);
    cr_assert(n == m && memcmp(x, y, n * sizeof *x) == 0,
              "%s: threads and recomputation", name);
    free(y);
    other.threads = 1;
    other.kernels = pq_kernels_scalar();
    y = run(name, &other, &m);
    cr_assert(n == m && memcmp(x, y, n * sizeof *x) == 0, "%s: kernels", name);
    free(x);
    free(y);
}

Test(train, bits_do_not_depend_on_threads_kernels_recomputation)
{
    const char *const names[] = {"qwen3", "gemma2", "gpt2"};

    for (size_t i = 0; i < 3; i++) {
        struct pq_train_options o = options(PQ_TRAIN_WEIGHTS);
        check_same(names[i], &o);
        o.what = PQ_TRAIN_LORA | PQ_TRAIN_PROMPT;
        o.dora = true;
        o.prompt_rows = 3;
        check_same(names[i], &o);
    }
}

/* The loss is that of pq_nn_score(), to the last bit. */
Test(train, the_loss_is_that_of_evaluation)
{
    static const char *const names[] = {"llama", "gemma2", "gpt2-scales",
                                        "phi3-short"};

    for (size_t i = 0; i < 4; i++) {
        const struct pq_train_options o = options(PQ_TRAIN_LORA);
        struct pq_error e = PQ_ERROR_INIT;
        struct setup s;
        double nll[NN_MANY], want = 0, got;

        open_setup(&s, names[i], &o);
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
    const struct pq_train_options o = options(PQ_TRAIN_WEIGHTS);
    struct pq_error e = PQ_ERROR_INIT;
    struct setup a, b;
    double nll;

    open_setup(&a, "llama", &o);
    open_setup(&b, "llama", &o);
    gradient(&a);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pq_train_gradient(b.t, &b.texts[i], 1,
                                       1.0 / (double)b.labels, &nll, &e),
                     0, "%s", e.msg);
    for (size_t i = 0; i < pq_train_params(a.t); i++) {
        const struct pq_train_param p = pq_train_param(a.t, i);
        const struct pq_train_param q = pq_train_param(b.t, i);
        double off = 0, all = 0;
        for (size_t j = 0; j < numbers(&p); j++) {
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
    struct pq_train_options o = options(PQ_TRAIN_LORA | PQ_TRAIN_PROMPT);
    struct pq_error e = PQ_ERROR_INIT;
    struct setup a, b;
    double part[3], score;

    o.prompt_rows = 2;
    open_setup(&a, "llama", &o);
    o.neftune = 5;
    open_setup(&b, "llama", &o);
    const double plain = gradient(&a), noisy = gradient(&b);
    cr_assert_gt(fabs(plain - noisy), 1e-3);
    cr_assert_eq(pq_train_score(b.t, b.texts, 2, &score, &e), 0);
    cr_assert_float_eq(score / (double)b.labels, plain, 1e-9);
    pq_train_free(b.t);
    open_setup(&b, "llama", &o);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pq_train_gradient(b.t, &b.texts[i], 1, 1, &part[i], &e),
                     0);
    cr_assert_float_eq((part[0] + part[1]) / (double)b.labels, noisy, 1e-9);
    step(&b, 0);
    cr_assert_eq(pq_train_gradient(b.t, &b.texts[0], 1, 1, &part[2], &e), 0);
    cr_assert_neq(part[0], part[2], "the noise of another step");
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* Labels that are ignored add neither loss nor gradient. */
Test(train, only_labels_count)
{
    const struct pq_train_options o = options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    int32_t labels[NN_MANY];
    double whole, front, back;
    struct setup s;

    open_setup(&s, "llama", &o);
    cr_assert_eq(pq_train_score(s.t, s.texts, 1, &whole, &e), 0);
    s.texts[0].labels = labels;
    for (int half = 0; half < 2; half++) {
        for (size_t i = 0; i < s.c->n; i++)
            labels[i] = (i < 10) == half ? s.c->ids[i] : PQ_TRAIN_IGNORE;
        cr_assert_eq(pq_train_labels(s.t, s.texts, 1),
                     half ? 9 : s.c->n - 10);
        cr_assert_eq(pq_train_score(s.t, s.texts, 1, half ? &front : &back,
                                    &e),
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

/* ---- adapters ----------------------------------------------------------- */

/* Adapters on the last layer alone get the gradient they get among others. */
Test(train, the_lowest_layer_ends_the_backward_pass)
{
    static const char *const last[] = {"1.self_attn.v_proj", "1.mlp.up_proj"};
    struct pq_train_options o = options(PQ_TRAIN_LORA);
    struct setup a, b;

    open_setup(&a, "llama", &o);
    o.targets = last;
    o.n_targets = 2;
    open_setup(&b, "llama", &o);
    cr_assert_eq(pq_train_params(b.t), 4);
    const double x = gradient(&a), y = gradient(&b);
    cr_assert_eq(x, y);
    for (size_t i = 0; i < 4; i++) {
        const struct pq_train_param q = pq_train_param(b.t, i);
        const struct pq_train_param p = named(&a, q.name);
        cr_assert(memcmp(p.g, q.g, numbers(&p) * sizeof *p.g) == 0, "%s",
                  q.name);
    }
    pq_train_free(a.t);
    pq_train_free(b.t);
}

/* Along its gradient the loss of a hybrid falls as fast as that says. */
static void check_slope(const char *name, const struct pq_train_options *o)
{
    struct pq_error e = PQ_ERROR_INIT;
    double squares = 0, f[2];
    struct setup s;

    open_setup(&s, name, o);
    for (int i = 0; i < 3; i++) { /* away from B = 0 */
        gradient(&s);
        step(&s, 1e-2);
    }
    gradient(&s);
    for (size_t i = 0; i < pq_train_params(s.t); i++) {
        const struct pq_train_param p = pq_train_param(s.t, i);
        for (size_t j = 0; j < numbers(&p); j++)
            squares += (double)p.g[j] * p.g[j];
    }
    const float h = (float)(1e-3 / sqrt(squares));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < pq_train_params(s.t); i++) {
            const struct pq_train_param p = pq_train_param(s.t, i);
            for (size_t j = 0; j < numbers(&p); j++)
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

Test(train, the_gradient_of_a_hybrid_is_the_slope_of_its_loss)
{
    struct pq_train_options o = options(PQ_TRAIN_LORA | PQ_TRAIN_PROMPT);

    o.prompt_rows = 4;
    check_slope("llama", &o);
    check_slope("gpt2", &o);
    check_slope("gemma2", &o);
    check_slope("phi3", &o);
}

/* PiSSA takes out of the weights what it puts in the adapter. */
Test(train, pissa_begins_with_the_model_as_it_is)
{
    struct pq_train_options o = options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    const char *const names[] = {"llama", "gpt2", "phi3"};

    for (size_t i = 0; i < 3; i++) {
        struct setup a, b;
        double x, y, norm = 0;
        o.pissa = false;
        open_setup(&a, names[i], &o);
        o.pissa = true;
        open_setup(&b, names[i], &o);
        cr_assert_eq(pq_train_score(a.t, a.texts, 2, &x, &e), 0);
        cr_assert_eq(pq_train_score(b.t, b.texts, 2, &y, &e), 0);
        cr_assert_float_eq(x, y, 1e-4 * x, "%s: %g, %g", names[i], x, y);
        const struct pq_train_param p = pq_train_param(b.t, 1);
        for (size_t j = 0; j < numbers(&p); j++)
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
Test(train, a_base_in_four_bits_is_what_it_decodes_to)
{
    struct pq_train_options o = options(PQ_TRAIN_LORA);
    float *out[2];
    size_t n = 0;

    o.dora = true;
    for (int decoded = 0; decoded < 2; decoded++) {
        void *owned[2 * 7 * 3];
        struct setup s;
        size_t k = 0;
        open_setup(&s, "llama", &o);
        for (size_t i = 0; i < 2; i++) {
            struct nn_layer *l = &s.t->m.layers[i];
            struct nn_linear *all[] = {&l->q,    &l->k,  &l->v,   &l->o,
                                       &l->gate, &l->up, &l->down};
            for (size_t j = 0; j < 7; j++, k += 3)
                encode(&all[j]->w, decoded, owned + k);
        }
        pq_train_changed(s.t);
        for (int i = 0; i < 3; i++) {
            gradient(&s);
            step(&s, 1e-2);
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

    for (size_t i = 0; i < numbers(p); i++)
        n += p->w[i] == 0;
    return n;
}

static void check_sparse(double regrow)
{
    const struct pq_train_options o = options(PQ_TRAIN_WEIGHTS);
    const struct pq_train_sparsity sparsity = {0.1, 0.75, 2, 3, 4, regrow};
    /* before steps 2, 5, 8, 11, 14 */
    const double share[] = {0.1, 0.75 - 0.65 * 27 / 64, 0.75 - 0.65 / 8,
                            0.75 - 0.65 / 64, 0.75};
    struct pq_error e = PQ_ERROR_INIT;
    struct setup s;

    open_setup(&s, "llama", &o);
    cr_assert_eq(pq_train_sparsify(s.t, &sparsity, &e), 0);
    for (int i = 0; i < 17; i++) {
        gradient(&s);
        step(&s, 1e-2);
        const struct pq_train_param p =
            named(&s, "model.layers.1.mlp.up_proj.weight");
        size_t held = 0;
        for (size_t j = 0; j < numbers(&p); j++)
            held += !p.mask[j];
        const double want = i < 2 ? 0 : share[i < 14 ? (i - 2) / 3 : 4];
        cr_assert_eq(held, (size_t)(want * (double)numbers(&p)), "step %d", i);
        cr_assert_eq(zeros(&p), held, "step %d", i);
    }
    const struct pq_train_param p = named(&s, "model.embed_tokens.weight");
    cr_assert_eq(p.mask, NULL);
    const double loss = gradient(&s);
    cr_assert_lt(loss, 5, "%g", loss);
    pq_train_free(s.t);
}

Test(train, sparsity_follows_its_schedule)
{
    check_sparse(0);
    check_sparse(0.2);
}

/* ---- schedules ---------------------------------------------------------- */

Test(train, schedules)
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

Test(train, options_that_make_no_sense)
{
    static const char *const targets[] = {"q_proj", "c_attn"};
    const int32_t ids[] = {40};
    struct pq_train_options o = options(0);

    refuses(&o, "either all weights");
    o.what = PQ_TRAIN_WEIGHTS | PQ_TRAIN_PROMPT;
    refuses(&o, "either all weights");
    o.what = PQ_TRAIN_PROMPT;
    refuses(&o, "no rows");
    o.prompt_rows = 1;
    o.prompt_ids = ids;
    refuses(&o, "token 40");
    o = options(PQ_TRAIN_LORA);
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

Test(train, texts_that_cannot_be)
{
    const struct pq_train_options o = options(PQ_TRAIN_LORA);
    const int32_t bad[] = {1, 2, 32}, ids[70] = {0}, label[] = {1, -7, 2};
    const struct pq_train_text texts[] = {
        {bad, NULL, 3}, {ids, NULL, 0}, {ids, NULL, 70}, {ids, label, 3}};
    const char *const say[] = {"id 32", "no tokens", "64 positions",
                               "label -7"};
    struct setup s;
    double nll;

    open_setup(&s, "gpt2", &o);
    for (int i = 0; i < 4; i++) {
        struct pq_error e = PQ_ERROR_INIT;
        cr_assert_eq(pq_train_gradient(s.t, &texts[i], 1, 1, &nll, &e), -1);
        cr_assert(strstr(e.msg, say[i]), "%s", e.msg);
    }
    pq_train_free(s.t);
}

Test(train, a_gradient_that_is_not_finite_changes_nothing)
{
    const struct pq_train_options o = options(PQ_TRAIN_LORA);
    struct pq_error e = PQ_ERROR_INIT;
    struct setup s;
    double nll;

    open_setup(&s, "llama", &o);
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
Test(train, memory_is_known_beforehand)
{
    struct pq_train_options o = options(PQ_TRAIN_WEIGHTS);
    uint64_t small, large, again;
    struct pq_error e = PQ_ERROR_INIT;
    struct setup s;

    open_setup(&s, "llama", &o);
    cr_assert_eq(pq_train_bytes(s.t, 64, 32, &small, &e), 0);
    cr_assert_eq(pq_train_bytes(s.t, 6400, 32, &large, &e), 0);
    cr_assert_gt(large, small);
    pq_train_free(s.t);
    o.recompute = true;
    open_setup(&s, "llama", &o);
    cr_assert_eq(pq_train_bytes(s.t, 6400, 32, &again, &e), 0);
    cr_assert_lt(again, large);
    cr_assert_eq(pq_train_bytes(s.t, SIZE_MAX / 2, 32, &large, &e), -1);
    pq_train_free(s.t);
}
